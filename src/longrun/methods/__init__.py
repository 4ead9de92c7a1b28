"""One paper per file; the folder is the registry."""
