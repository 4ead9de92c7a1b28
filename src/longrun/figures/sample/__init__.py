"""Figures of experiments that draw samples of a distribution."""
