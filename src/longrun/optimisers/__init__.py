"""Optimisers, one per file, named in YAML with their options."""
