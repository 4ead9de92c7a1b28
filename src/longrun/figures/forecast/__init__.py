"""Figures of experiments that forecast trajectories."""
