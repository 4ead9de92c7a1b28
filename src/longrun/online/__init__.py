"""Training on trajectories that solvers simulate meanwhile."""
