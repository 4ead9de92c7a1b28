"""The tidy table of scores: one row per value, the only thing that judging and figures read."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longrun.runtime.cli import UserError, atomic

ABSENT: dict[str, Any] = {
    "dataset": "",
    "trajectory": -1,  # over all trajectories
    "member": -1,  # of the ensemble, or there is none
    "stage": -1,  # of the refinements of a step
    "nfe": -1,  # evaluations of the network for a sample
    "measured": -1,  # %, of the steps
    "step": -1,
    "lead_time": np.nan,  # s
    "wavenumber": np.nan,  # rad per unit of length
    "metric": "",
    "value": np.nan,
    "censored": False,  # the value is a lower bound
}
"""Columns in order, and the value of each in a row that doesn't set it."""

SERIES = ("stage", "nfe", "measured")
"""Columns that tell several answers of a run apart; the last is the one that counts."""

_KINDS: dict[str, type] = {
    **dict.fromkeys(("trajectory", "member", *SERIES, "step"), np.int32),
    **dict.fromkeys(("lead_time", "wavenumber"), np.float64),
    "censored": np.bool_,
}


# Parquet has checksums for pages of values, but none for its metadata. Ours covers the whole file,
# and stands between pages and footer, where readers of Parquet don't look.
_MARK = b"longrun sha256:"


class ScoreTable:
    """Collects scores in blocks; the rows of a block are the cells of the arrays it broadcasts."""

    def __init__(self, dataset: str):
        self._dataset = dataset
        self._blocks: list[dict[str, np.ndarray]] = []
        self._metrics: dict[str, int] = {}  # codes

    def add(self, metric: str, value: Any, **columns: Any) -> None:
        """Add one row per cell of `value`.

        Parameters
        ----------
        metric
            Name of the score.
        value
            Finite numbers, as an array of any shape or anything that numpy can convert.
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
        block = {"value": value.ravel()}
        for name, kind in _KINDS.items():
            given: np.ndarray = np.asarray(columns.pop(name, ABSENT[name]), dtype=kind)
            block[name] = np.broadcast_to(given, value.shape).ravel()
        if columns:
            raise TypeError(f"no column {', '.join(columns)}")
        code = self._metrics.setdefault(metric, len(self._metrics))
        block["metric"] = np.full(value.size, code, dtype=np.int16)
        self._blocks.append(block)

    def extend(self, other: "ScoreTable") -> None:
        """Add all rows of another table."""
        codes = [self._metrics.setdefault(name, len(self._metrics)) for name in other._metrics]
        known = np.array(codes, dtype=np.int16)
        for block in other._blocks:
            self._blocks.append(block | {"metric": known[block["metric"]]})

    def frame(self) -> pd.DataFrame:
        """All rows, with the columns of `ABSENT` in that order; names are categories."""
        cells = {
            name: np.concatenate([block[name] for block in self._blocks])
            for name in ("metric", "value", *_KINDS)
        }
        dataset = np.zeros(len(cells["value"]), dtype=np.int16)
        names = {
            "dataset": pd.Categorical.from_codes(dataset, categories=pd.Index([self._dataset])),
            "metric": pd.Categorical.from_codes(
                cells.pop("metric"), categories=pd.Index([*self._metrics])
            ),
        }
        return pd.DataFrame(names | cells)[list(ABSENT)]


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Write a table of scores whole or not at all, with a checksum."""
    data = scores.to_parquet(index=False, compression="zstd", write_page_checksum=True)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")  # its length, four letters
    with atomic(path) as part:
        part.write_bytes(data[:footer] + _MARK + hashlib.sha256(data).digest() + data[footer:])


def _is_sound(data: bytes) -> bool:
    """Whether the checksum of a table is right, where it has one: other programs write none."""
    before, mark, after = data.rpartition(_MARK)
    size = hashlib.sha256().digest_size
    return not mark or hashlib.sha256(before + after[size:]).digest() == after[:size]


def read_scores(
    path: Path, metrics: Iterable[str] | None = None, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read the scores of some metrics.

    Parameters
    ----------
    path
        A `scores.parquet`.
    metrics
        Their names, None for all; names that the table lacks are ignored.
    columns
        Names; None for all.

    Raises
    ------
    UserError
        No such file, one that is not a table of scores, lacks a column, or is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no scores; longrun.evaluate makes them") from error
    try:
        if not _is_sound(data):
            raise ValueError("another checksum")
        return pd.read_parquet(
            io.BytesIO(data),
            columns=list(ABSENT if columns is None else columns),
            filters=None if metrics is None else [("metric", "in", sorted(metrics))],
            page_checksum_verification=True,
        )
    except Exception as error:  # pyarrow raises many kinds for what it can't read
        problem = "is damaged, or of an older version"
        raise UserError(f"{path}: {problem}; run longrun.evaluate again") from error
