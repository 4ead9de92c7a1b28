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
    "last_doubling": metric(
        "gain of last doubling",
        "Share of the error on valid that the last doubling of the updates took away, for seed 0: "
        "above 0.05 a method is under-trained.",
        table="short",
    ),
    "train_seconds": metric("training (s)", "Wall seconds of training, per seed.", table="short"),
}
