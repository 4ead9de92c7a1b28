"""The store: its schema, writer, reader and Lightning data module."""
