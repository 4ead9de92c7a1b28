"""Windows of trajectories: how they are numbered, ordered for training, and read.

No torch here: what a batch holds is decided by arithmetic on its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from longrun.data.store import Split, Store, StoreError


def check_mixture(stores: Sequence[Store], split: str) -> None:
    """Refuse stores that can't be drawn from together.

    Raises
    ------
    StoreError
        Fields, parameters or a grid that differ from the first store's.
    """
    first, *others = stores
    for other in others:
        for what, mine, theirs in (
            ("fields", first.fields, other.fields),
            ("parameters", first.parameters, other.parameters),
            ("grid", first.split(split).space, other.split(split).space),
        ):
            if mine != theirs:
                raise StoreError(
                    f"{other.path}: {what} {theirs} differ from {mine} of {first.path}; "
                    "a mixture needs equal ones"
                )


@dataclass
class Windows:
    """All windows of one split of several stores, numbered by store, trajectory and first frame.

    A window is `length` frames, `stride` apart; it may start at any frame.

    Raises
    ------
    StoreError
        Stores that don't match, or trajectories shorter than a window.
    """

    stores: Sequence[Store]
    split: str
    length: int
    stride: int
    _ends: ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Count the windows of each store."""
        check_mixture(self.stores, self.split)
        span = (self.length - 1) * self.stride + 1
        for store, split in zip(self.stores, self.splits, strict=True):
            if split.frames < span:
                raise StoreError(
                    f"{store.path}: trajectories of {self.split} have {split.frames} frames; "
                    f"{self.length} frames {self.stride} apart need {span}"
                )
        self._starts = [split.frames - span + 1 for split in self.splits]
        counts = [s.trajectories * n for s, n in zip(self.splits, self._starts, strict=True)]
        self._ends = np.cumsum(counts)

    @cached_property
    def splits(self) -> list[Split]:
        """The split of each store."""
        return [store.split(self.split) for store in self.stores]

    def __len__(self) -> int:
        """Return the number of windows."""
        return int(self._ends[-1])

    def locate(
        self, windows: Int[ndarray, " window"]
    ) -> tuple[Int[ndarray, " window"], Int[ndarray, " window"], Int[ndarray, " window"]]:
        """Store, trajectory within it, and first frame of each window."""
        store = np.searchsorted(self._ends, windows, side="right")
        inside = windows - np.concatenate([[0], self._ends])[store]
        trajectory, start = np.divmod(inside, np.asarray(self._starts)[store])
        return store, trajectory, start

    def elapsed(self, windows: Int[ndarray, " window"]) -> Float[ndarray, " window"]:
        """Model steps from the first frame of a trajectory to that of each window, float32."""
        return (self.locate(windows)[2] / self.stride).astype(np.float32)

    def read(
        self, windows: Int[ndarray, " window"]
    ) -> tuple[Float[ndarray, "window time channel *space"], Float[ndarray, "window parameter"]]:
        """Read windows from disk: frames and parameters, float32, physical units."""
        store, trajectory, start = self.locate(windows)
        frames = np.empty(
            (len(windows), self.length, len(self.stores[0].fields), *self.splits[0].space),
            np.float32,
        )
        parameters = np.empty((len(windows), len(self.stores[0].parameters)), np.float32)
        for number, split in enumerate(self.splits):
            here = store == number
            frames[here] = split.windows(trajectory[here], start[here], self.length, self.stride)
            parameters[here] = parameter_table(split)[trajectory[here]]
        return frames, parameters

    def spread(self, count: int) -> Int[ndarray, " window"]:
        """At most `count` windows, evenly spaced over trajectories and time; always the same."""
        return np.linspace(0, len(self) - 1, min(count, len(self))).round().astype(np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it was made from: a worker process opens the stores itself."""
        return Windows, (list(self.stores), self.split, self.length, self.stride)


@dataclass
class WindowBatches:
    """Training batches by number, read from disk: what the worker processes of a loader hold.

    Rank `rank` of `world` has its share of every batch.
    """

    windows: Windows
    seed: int
    size: int
    rank: int = 0
    world: int = 1

    def choose(self, number: int) -> Int[ndarray, " window"]:
        """Return the windows of a batch; a pure function of the seed and the number.

        Every epoch is a permutation of all windows, seeded by `(seed, epoch)`. Batches cut the
        sequence of epochs into equal parts, so one batch may hold the end of an epoch and the
        beginning of the next.
        """
        count = len(self.windows)
        positions = np.arange(number * self.size + self.rank, (number + 1) * self.size, self.world)
        epochs, inside = np.divmod(positions, count)
        windows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            windows[here] = _permutation(self.seed, epoch, count)[inside[here]]
        return windows

    def __getitem__(self, number: int) -> dict[str, Float[ndarray, "..."]]:
        """Read a batch: `window`, `parameters` and `elapsed`."""
        windows = self.choose(number)
        frames, parameters = self.windows.read(windows)
        elapsed = self.windows.elapsed(windows)
        return {"window": frames, "parameters": parameters, "elapsed": elapsed}


def parameter_table(split: Split) -> Float[ndarray, "trajectory parameter"]:
    """Parameters of every trajectory as one table, float64, in the store's order."""
    return np.stack([split.parameters[name] for name in split.parameter_names], 1)


@lru_cache(maxsize=2)  # the end of one epoch and the beginning of the next
def _permutation(seed: int, epoch: int, count: int) -> Int[ndarray, " window"]:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,))).permutation(
        count
    )


def time_mean(
    windows: Windows, most: int = 2048
) -> tuple[Float[ndarray, "channel *space"], Float[ndarray, " channel"]]:
    """Return the mean frame, and the standard deviation of each field around it.

    Parameters
    ----------
    windows
        Of their first frames.
    most
        At most so many, evenly spaced over trajectories and time.
    """
    chosen = windows.spread(most)
    total, square = np.zeros(()), np.zeros(())
    for part in np.array_split(chosen, -(-len(chosen) // 64)):
        frames = windows.read(part)[0][:, 0].astype(np.float64)
        total, square = total + frames.sum(0), square + np.square(frames).sum(0)
    mean = total / len(chosen)
    variance = square / len(chosen) - np.square(mean)
    std = np.sqrt(np.maximum(variance, 0).mean(axis=tuple(range(1, variance.ndim))))
    return mean.astype(np.float32), std.astype(np.float32)
