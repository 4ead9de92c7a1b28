"""Figures of experiments that solve one problem from its equation."""
