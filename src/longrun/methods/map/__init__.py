"""Methods that map given fields to a steady state."""
