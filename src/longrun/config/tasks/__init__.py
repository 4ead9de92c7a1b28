"""What the composition knows of a task: options of its evaluation, and metrics."""
