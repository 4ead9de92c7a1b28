"""Pages of papers and results: what they say, and the templates that say it."""
