"""Figures of experiments that map given fields to a steady state."""
