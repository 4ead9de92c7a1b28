"""Methods that estimate states from measurements."""
