"""Methods that forecast trajectories."""
