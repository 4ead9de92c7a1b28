"""Batches of windows for training and validation, from memory or streamed from disk."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Int, Shaped
from numpy import ndarray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from longrun.data.store import Store, StoreError
from longrun.data.windows import WindowBatches, Windows, parameter_table
from longrun.runtime.cli import UserError

Batch = dict[str, Tensor]


@dataclass
class Batches:
    """What a trainer iterates over: `count` batches in all; `iterate` yields the remaining ones."""

    count: int
    iterate: Callable[[], Iterator[Batch]]

    def __len__(self) -> int:
        """Return the number of batches, counting those before a resumed run's first."""
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the remaining batches."""
        return self.iterate()


class TrajectoryData(pl.LightningDataModule):
    """Windows of trajectories as batches of `window`, `parameters` and `elapsed`, physical units.

    `window` is `(batch, history + horizon, channel, *space)`, `parameters` is `(batch, parameter)`
    in the order of the store, `elapsed` is `(batch,)`: model steps from the first frame of the
    trajectory to that of the window. Batch b of the training is a pure function of `(seed, b)`,
    the same bits in memory and streamed, so a run resumes by counting: there is no state to save.
    Windows of several stores are drawn uniformly from all of them.

    Parameters
    ----------
    stores
        One store, or several with equal fields, parameters and grid.
    stride
        Frames per model step: the frames of a window are this far apart. A window starts at any
        frame.
    history, horizon
        Frames of a window that are given, and that are to be predicted.
    batch_size
        Windows per batch, over all devices.
    seed
        Seed of the order of windows.
    batches
        Number of batches of the whole training.
    in_memory
        Hold the training split on the training device and gather batches there; else stream it
        from disk.
    valid_windows
        Windows of `valid`, spread evenly over trajectories and time, always the same.
    workers
        Processes that stream; 0 reads in the training process.

    Raises
    ------
    StoreError
        Stores that don't match, or trajectories shorter than a window.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        stride: int,
        history: int,
        horizon: int,
        batch_size: int,
        seed: int,
        batches: int,
        in_memory: bool = True,
        valid_windows: int = 1024,
        workers: int = 2,
    ):
        super().__init__()
        self.stores = list(stores)
        self.train_windows = Windows(stores, "train", history + horizon, stride)
        self.valid_windows = Windows(stores, "valid", history + horizon, stride)
        self._valid_count = valid_windows
        self.batch_size = batch_size
        self.seed = seed
        self.batches = batches
        self.in_memory = in_memory
        self.workers = workers

    def train_dataloader(self) -> Batches:
        """Batches from the one that the trainer has reached to the last."""
        rank, world = self._place()
        source = WindowBatches(self.train_windows, self.seed, self.batch_size, rank, world)
        start = 0
        if self.trainer is not None:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches
        numbers = range(start, self.batches)
        if not self.in_memory:
            return Batches(
                self.batches, lambda: _stream(source, numbers, self.workers, self._device())
            )
        memory = _Memory(self.train_windows, self._device())
        return Batches(self.batches, lambda: (memory.gather(source.choose(b)) for b in numbers))

    def val_dataloader(self) -> Batches:
        """Batches of the fixed validation windows; each device has its share."""
        rank, world = self._place()
        chosen = self.valid_windows.spread(self._valid_count)[rank::world]
        device = self._device() if self.in_memory else torch.device("cpu")
        parts = (*self.valid_windows.read(chosen), self.valid_windows.elapsed(chosen))
        frames, parameters, elapsed = (torch.from_numpy(part).to(device) for part in parts)
        size = self.batch_size // world
        starts = range(0, len(chosen), size)
        return Batches(
            len(starts),
            lambda: (
                {
                    "window": frames[i : i + size],
                    "parameters": parameters[i : i + size],
                    "elapsed": elapsed[i : i + size],
                }
                for i in starts
            ),
        )

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _place(self) -> tuple[int, int]:
        if self.trainer is None:
            return 0, 1
        world = self.trainer.world_size
        if self.batch_size % world:
            raise UserError(f"batch_size {self.batch_size} can't be divided among {world} devices")
        return self.trainer.global_rank, world


class _Memory:
    """The frames of all trajectories in one tensor on one device."""

    def __init__(self, windows: Windows, device: torch.device):
        self._windows = windows
        frames, parameters = [], []
        for split in windows.splits:
            states = split.read(slice(None), slice(None))
            frames.append(torch.from_numpy(states.reshape(-1, *states.shape[2:])).to(device))
            parameters.append(torch.from_numpy(parameter_table(split)).float().to(device))
        # cat copies even a single tensor: no room for that where the data fill the device
        self._frames = torch.cat(frames) if len(frames) > 1 else frames[0]
        self._parameters = torch.cat(parameters)
        self._per_trajectory = np.array([split.frames for split in windows.splits])
        counts = np.array([split.trajectories for split in windows.splits])
        self._first_trajectory = np.cumsum(counts) - counts
        self._first_frame = np.cumsum(counts * self._per_trajectory) - counts * self._per_trajectory
        self._offsets = np.arange(windows.length) * windows.stride

    def gather(self, windows: Int[ndarray, " window"]) -> Batch:
        store, trajectory, start = self._windows.locate(windows)
        first = self._first_frame[store] + trajectory * self._per_trajectory[store] + start
        rows = (first[:, None] + self._offsets).ravel()
        frames = self._frames.index_select(0, self._on_device(rows))
        return {
            "window": frames.unflatten(0, (len(windows), len(self._offsets))),
            "parameters": self._parameters.index_select(
                0, self._on_device(self._first_trajectory[store] + trajectory)
            ),
            "elapsed": self._on_device(self._windows.elapsed(windows)),
        }

    def _on_device(self, values: Shaped[ndarray, " index"]) -> Tensor:
        return torch.from_numpy(values).to(self._frames.device)


def _stream(
    source: WindowBatches, numbers: range, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Read batches ahead in spawned processes, which open the stores themselves."""
    loader: DataLoader[Batch] = DataLoader(
        cast(Dataset[Batch], source),  # by number: all that a loader needs of a dataset
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it draws from the global one
    )
    try:
        yield from loader
    except StoreError as error:  # torch wraps what a worker raises in its traceback
        raise StoreError(str(error).splitlines()[-1].rpartition("StoreError: ")[2]) from None
