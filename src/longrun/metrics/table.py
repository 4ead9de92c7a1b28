"""The tidy table of scores: one row per value, the only thing that judging and figures read."""

from typing import Any

import numpy as np
import pandas as pd

ABSENT: dict[str, Any] = {
    "dataset": "",
    "trajectory": -1,  # over all trajectories
    "member": -1,  # of the ensemble, or there is none
    "stage": -1,
    "step": -1,
    "lead_time": np.nan,  # s
    "wavenumber": np.nan,  # rad per unit of length
    "metric": "",
    "value": np.nan,
    "censored": False,  # the value is a lower bound
}
"""Columns in order, and what each holds in a row that it says nothing about."""


class ScoreTable:
    """Collects scores in blocks; the rows of a block are the cells of the arrays it broadcasts."""

    def __init__(self, dataset: str):
        self._dataset = dataset
        self._blocks: list[dict[str, np.ndarray]] = []

    def add(self, metric: str, value: Any, **columns: Any) -> None:
        """Add one row per cell of `value`.

        Parameters
        ----------
        metric
            Name of the score.
        value
            Finite numbers, an array of any shape or what numpy makes one of.
        columns
            Other columns of the table, by name; each broadcasts against `value`.

        Raises
        ------
        ValueError
            If a value is not finite: a mean over such a table would say nothing.
        """
        value = np.asarray(value, dtype=np.float64)
        if not np.isfinite(value).all():
            raise ValueError(f"{metric} has a value that is not finite")
        cells = {
            name: np.broadcast_to(
                np.asarray(columns.pop(name, default), dtype=np.asarray(default).dtype), value.shape
            ).ravel()
            for name, default in ABSENT.items()
            if name not in ("dataset", "metric", "value")
        }
        if columns:
            raise TypeError(f"no column {', '.join(columns)}")
        names = np.full(value.size, metric, dtype=object)
        self._blocks.append({"metric": names, "value": value.ravel()} | cells)

    def frame(self) -> pd.DataFrame:
        """All rows, with the columns of `ABSENT` in that order; names are categories."""
        frame = pd.DataFrame(
            {
                name: np.concatenate([block[name] for block in self._blocks])
                for name in ABSENT
                if name != "dataset"
            }
        )
        frame["metric"] = frame["metric"].astype("category")
        frame["dataset"] = pd.Categorical([self._dataset] * len(frame))
        return frame[list(ABSENT)]
