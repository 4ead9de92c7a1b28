"""Metrics of every task."""

from longrun.config.tasks._metric import Metric, metric

METRICS: dict[str, Metric] = {
    "parameters": metric("parameters", "Number of trained parameters.", table="short"),
    "peak_memory_mb": metric("memory (MB)", "Peak memory of the rollout.", table="long"),
    "train_seconds": metric("training (s)", "Wall seconds of training, per seed.", table="short"),
}
