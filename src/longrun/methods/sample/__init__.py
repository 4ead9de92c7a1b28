"""Methods that draw samples of a distribution."""
