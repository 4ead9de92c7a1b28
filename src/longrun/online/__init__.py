"""Training on trajectories that solvers simulate during the training."""
