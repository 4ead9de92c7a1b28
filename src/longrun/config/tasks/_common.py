"""Metrics of every task."""

from longrun.config.tasks._metric import Metric, metric

METRICS: dict[str, Metric] = {
    "parameters": metric(
        "parameters", "Number of trained parameters; a complex one is two.", table="short"
    ),
    "peak_memory_mb": metric("memory (MB)", "Peak memory of the rollout.", table="long"),
    "diverged": metric(
        "diverged",
        "1 for a run whose training diverged: its last weights with a finite loss are scored.",
    ),
    "train_seconds": metric("training (s)", "Wall seconds of training, per seed.", table="short"),
}
