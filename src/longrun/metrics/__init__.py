"""Pure functions on arrays, and the statistics of a verdict."""
