"""Methods that solve one problem from its equation."""
