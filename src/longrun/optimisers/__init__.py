"""Optimisers, one per file, named in YAML with options of their own."""
