"""Templates of pages, in Markdown and HTML, with their style and script."""
