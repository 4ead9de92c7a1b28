"""Figures of experiments that make a classical solver fast."""
