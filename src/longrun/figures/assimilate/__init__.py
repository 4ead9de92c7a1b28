"""Figures of experiments that estimate states from measurements."""
