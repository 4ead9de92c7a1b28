"""Methods that make a classical solver fast."""
