"""What the evaluations of several tasks share: checks, seeded noise, cost, fields for figures."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import xarray as xr

from longrun.data import schema
from longrun.metrics.table import ScoreTable
from longrun.runtime.cli import UserError

Part = TypeVar("Part")

TIMED_SECONDS, TIMED_CALLS = 1.0, 20  # a timed segment ends at the first of these


@dataclass(frozen=True)
class Evaluation:
    """What scoring a method leaves behind.

    Attributes
    ----------
    scores
        One row per score; columns as in `longrun.metrics.table`.
    predictions
        Truth and prediction of a few trajectories, NaN where a prediction has diverged.
    """

    scores: pd.DataFrame
    predictions: xr.Dataset


def check_size(store: Any, split: Any, trajectories: int, frames: int = 1) -> None:
    """Refuse a split that holds less than is to be evaluated.

    Raises
    ------
    UserError
        Too few trajectories, or too few frames.
    """
    if frames > split.frames:
        raise UserError(
            f"{store.path}: the evaluation needs {frames} frames, the store has {split.frames}"
        )
    if trajectories > split.trajectories:
        raise UserError(
            f"{store.path}: has {split.trajectories} trajectories, {trajectories} are to be "
            "evaluated"
        )


def seeded(device: torch.device, *key: int) -> torch.Generator:
    """Return a generator on a device that depends on the key alone, as of a seed and a purpose."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def is_first() -> bool:
    """Whether this process is the first of those that share an evaluation, or the only one."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def share_out(score: Callable[[int, np.ndarray], Part], groups: Iterable[np.ndarray]) -> list[Part]:
    """Score groups of trajectories, each in one of the processes that share the evaluation.

    Parameters
    ----------
    score
        Scores the group of a number. Noise may depend on the number, nothing on earlier groups.
    groups
        Of trajectories.

    Returns
    -------
    list
        What every group has, in their order, in every process: sums over it don't depend on how
        many processes there are.
    """
    numbered = list(enumerate(groups))
    if not torch.distributed.is_initialized():
        return [score(*group) for group in numbered]
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    first, end = (len(numbered) * n // world for n in (rank, rank + 1))
    mine = [score(*group) for group in numbered[first:end]]
    shares: list[Any] = [None] * world
    torch.distributed.all_gather_object(shares, mine)
    return [part for share in shares for part in share]


def seconds_per_call(call: Callable[[], object]) -> float:
    """Wall seconds of a call on a warm device: median over a segment of about a second.

    Parameters
    ----------
    call
        What to time. It is called once before, to plan FFTs, pick kernels and fill caches.
    """
    times: list[float] = []
    call()
    while len(times) < TIMED_CALLS and sum(times) < TIMED_SECONDS:
        _synchronise()
        begin = time.perf_counter()
        call()
        _synchronise()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def _synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def score_size(module: Any, table: ScoreTable) -> None:
    """Score the trained parameters and the peak of memory, on the GPU where the method is there.

    A complex weight is two parameters.
    """
    if module.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(module.device) / 2**20
    else:  # of the process, libraries included; Linux counts in KiB, macOS in bytes
        unit = 1 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    numbers = (p.numel() * (2 if p.is_complex() else 1) for p in module.parameters())
    table.add("parameters", sum(numbers))
    table.add("peak_memory_mb", peak)


def field_coordinates(
    names: Sequence[str],
    trajectories: int,
    lead_times: np.ndarray | Sequence[float],
    space: Sequence[int] = (),
    length: float = 1.0,
) -> dict[str, Any]:
    """Return the coordinates of kept fields (trajectory, lead time, field, *space).

    Parameters
    ----------
    names
        Of the fields.
    trajectories
        How many are kept.
    lead_times
        Of the kept frames, s.
    space
        Points along each axis.
    length
        Of the domain along every axis: a mean, since each trajectory may have its own.
    """
    coordinates: dict[str, Any] = {
        schema.TRAJECTORY: np.arange(trajectories),
        schema.LEAD_TIME: (schema.LEAD_TIME, lead_times, {"units": "s"}),
        schema.FIELD: list(names),
    }
    for axis, points in zip(schema.AXES, space, strict=False):
        coordinates[axis] = (axis, length * np.arange(points) / points)
    return coordinates
