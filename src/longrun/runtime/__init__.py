"""What verbs share: command line, registry, devices, checkpoints, tracking."""
