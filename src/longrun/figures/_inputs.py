"""What a figure is drawn from: tables and arrays, no files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr


@dataclass(frozen=True)
class Inputs:
    """Everything one experiment leaves behind, at one preset.

    Attributes
    ----------
    spec
        The composed experiment: ``methods``, ``evaluate``, ``claims``, ...
    preset
        Name of the preset, for the footer.
    experiment
        Name of the experiment, for the footer.
    scores
        The runs' ``scores.parquet``, stacked, with the columns ``method`` and ``seed``; only the
        metrics that the figure lists in ``SCORES``.
    claims
        ``claims.json``: verdicts with intervals, and the summary of each method.
    curves
        The runs' ``curves.csv``, only the metrics that the figure lists in ``CURVES``: columns
        method, seed, step, metric, value.
    predictions
        Truth and prediction of a few trajectories per method, from seed 0.
    unit
        Of the data's time: ``s``, or where the equation has none ``time units``.
    """

    spec: dict[str, Any]
    preset: str
    experiment: str
    scores: pd.DataFrame
    claims: dict[str, Any]
    curves: pd.DataFrame
    predictions: Mapping[str, xr.Dataset]
    unit: str = "time units"

    @property
    def per_unit(self) -> str:
        """The unit of time after "per"."""
        return self.unit.replace("units", "unit")

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of the experiment file."""
        return list(self.spec["methods"])

    @property
    def dataset(self) -> str:
        """The first data set that the experiment is scored on: the one that figures show."""
        name: str = self.spec["test"][0]
        return name

    def rows(self, metric: str) -> pd.DataFrame:
        """Scores of one metric on the data set that figures show."""
        scores = self.scores
        return scores[(scores["metric"] == metric) & (scores["dataset"] == self.dataset)]

    def number(self, metric: str) -> float | None:
        """Mean of a metric over all its rows, None when there are none that are finite."""
        value = self.rows(metric)["value"].mean()
        return float(value) if value == value else None

    def summary(self, metric: str) -> dict[str, dict[str, Any]]:
        """Mean, interval and censored fraction of a metric per method, as ``judge`` found them."""
        rows = self.claims.get("methods", [])
        wanted = [row for row in rows if row["metric"] == metric and row["method"] in self.methods]
        return {row["method"]: row for row in wanted}
