"""Numerical methods shared by the equations."""
