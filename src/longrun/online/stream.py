"""Batches of windows of trajectories that are simulated while the training runs.

The store provides the small parts: statistics, validation and tests. Other methods train on its
training split from disk; here its first trajectories only serve the statistics, and the stream
holds the same trajectories from number 0 on, and all that would follow. Only the order of arrival
of the stream is saved. PyZMQ carries it, `longrun.online.pool` says why.
"""

import collections
import contextlib
import csv
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from pytorch_lightning.utilities.exceptions import SIGTERMException

from longrun.data import schema
from longrun.data.module import Batch, Batches, TrajectoryData
from longrun.data.store import Store, StoreError
from longrun.online.pool import Job, SolverPool, Trajectory
from longrun.online.reservoir import Policy, Reservoir
from longrun.runtime import registry
from longrun.runtime.cli import atomic

COLUMNS = ("simulation", "solver", "batch", "seconds")


@dataclass(frozen=True)
class Online:
    """The section `trainer.online` of an experiment.

    Attributes
    ----------
    policy, capacity, threshold
        Of the buffer, in windows, see `longrun.online.reservoir.Reservoir`.
    solvers
        Processes to start on this machine.
    together
        Trajectories that a solver simulates as one batch.
    listen
        Address where solvers connect; by default only this machine's can. Seed n adds
        n to the port, since several seeds may run on one machine.
    patience
        Seconds after which a silent solver counts as dead.
    deterministic
        Admit windows by number, one batch of them per batch drawn, and wait for them: then a batch
        is a pure function of the seed and its number.
    """

    policy: Policy
    capacity: int
    threshold: int
    solvers: int = 1
    together: int = 1
    listen: str = "tcp://127.0.0.1:*"
    patience: float = 60.0
    deterministic: bool = False


@dataclass
class Window:
    """A window of a simulation, from its frame `start` on; without content during a replay."""

    simulation: int
    start: int
    frames: Float[ndarray, "time channel *space"] | Float[ndarray, "0"] = field(
        default_factory=lambda: np.empty(0)
    )
    parameters: Float[ndarray, " parameter"] = field(default_factory=lambda: np.empty(0))


class OnlineData(TrajectoryData):
    """Windows of streamed trajectories, as `TrajectoryData` gives them from a store.

    A resumed run continues with the simulations after the last one that arrived and an empty
    buffer, so its bits differ. With `deterministic` it continues with the same bits: replaying the
    past without content finds what the buffer held, which is then simulated again.

    Production ends when the buffer holds enough for the rest of the training; then it is drained.

    Parameters
    ----------
    stores
        The one store of the dataset, for statistics and validation.
    online
        How to stream.
    folder
        Of the run; gets `arrivals.csv`, the order of arrival, and the solvers' output.
    options
        Of `TrajectoryData`.

    Raises
    ------
    StoreError
        A store that was not made by an equation of this package.
    """

    def __init__(self, stores: Sequence[Store], *, online: Online, folder: Path, **options: Any):
        super().__init__(stores, **options)
        self.online, self.folder = online, folder
        self.job = _job(stores)

    def train_dataloader(self) -> Batches:
        """Batches from the one that the trainer has reached to the last."""
        first = 0
        if self.trainer is not None:
            first = self.trainer.global_step * self.trainer.accumulate_grad_batches
        return Batches(self.batches, lambda: self._batches(first))

    def _batches(self, first: int) -> Iterator[Batch]:
        stream, device = _Stream(self), self._device()
        for number, windows in enumerate(stream.batches(first), first):
            self._log(number, stream)
            frames = np.stack([window.frames for window in windows])
            parameters = np.stack([window.parameters for window in windows])
            elapsed = np.array([window.start / self.train_windows.stride for window in windows])
            yield {
                "window": torch.from_numpy(frames).to(device, torch.float32),
                "parameters": torch.from_numpy(parameters).to(device, torch.float32),
                "elapsed": torch.from_numpy(elapsed).to(device, torch.float32),
            }

    def stops(self) -> bool:
        """Whether the scheduler stops the run; the trainer checks only between batches."""
        return self.trainer is not None and self.trainer.received_sigterm

    def _log(self, number: int, stream: "_Stream") -> None:
        if self.trainer is None:
            return
        every: int = self.trainer.log_every_n_steps * self.trainer.accumulate_grad_batches  # type: ignore[attr-defined]
        if number % every == 0:
            for logger in self.trainer.loggers:
                logger.log_metrics(stream.state(), step=self.trainer.global_step)


def source(section: Mapping[str, Any], folder: Path) -> Callable[..., OnlineData]:
    """Return what makes the data module of a run from the section `trainer.online`."""
    return functools.partial(OnlineData, online=Online(**section), folder=folder)


@contextlib.contextmanager
def _fewer_threads(solvers: int) -> Iterator[None]:
    """Leave a core of the job to each solver."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads - solvers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Stream:
    """A buffer, the windows that wait at its gate, and the solvers behind it."""

    def __init__(self, data: OnlineData):
        self.online, self.job, self.path = data.online, data.job, data.folder / "arrivals.csv"
        self.count, self.total = data.batch_size, data.batches
        self.stride = data.train_windows.stride
        self.span = (data.train_windows.length - 1) * self.stride + 1
        key = np.random.SeedSequence(data.seed, spawn_key=(0, 0))  # not an epoch's, see `windows`
        self.buffer: Reservoir[Window] = Reservoir(
            self.online.policy,
            self.online.capacity,
            self.online.threshold,
            np.random.default_rng(key),
        )
        self.gate: collections.deque[Window] = collections.deque()
        # windows without content after a replay, by simulation
        self.lost: dict[int, list[Window]] = collections.defaultdict(list)
        self.simulations = self.entered = 0
        self.waited = 0.0
        self.seed, self.stops = data.seed, data.stops

    def batches(self, first: int) -> Iterator[list[Window]]:
        """Yield the windows of each batch from number `first` on."""
        following, rows = self._resume(first)
        for window in [*self.buffer.items, *self.gate]:
            self.lost[window.simulation].append(window)
        with atomic(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        self.began, self.number = time.monotonic(), first
        with (
            _fewer_threads(self.online.solvers),
            self.path.open("a", encoding="utf-8", newline="", buffering=1) as file,
            SolverPool(
                self.job,
                itertools.chain(sorted(self.lost), itertools.count(following)),
                solvers=self.online.solvers,
                together=self.online.together,
                listen=_own(self.online.listen, self.seed),
                patience=self.online.patience,
                ordered=self.online.deterministic,
                logs=self.path.parent,
            ) as pool,
        ):
            more = functools.partial(self._arrive, pool, csv.writer(file))
            while self.lost:
                more(True)
            for number in range(first, self.total):
                self.number = number
                if not self._admit(number, more) or number == self.total - 1:
                    pool.finish()
                yield self.buffer.draw(self.count)

    def _resume(self, first: int) -> tuple[int, list[list[str]]]:
        """Return the number of the next new simulation, and the arrivals before it."""
        rows = _read(self.path)
        if self.online.deterministic:
            following = self._replay(first)
            rows = [row for row in rows if int(row[0]) < following]
        else:
            following = 1 + max((int(row[0]) for row in rows), default=-1)
        self.simulations = len(rows)
        return following, rows

    def _arrive(self, pool: SolverPool, arrivals: Any, block: bool) -> bool:
        """Bring the next trajectory to the gate; False if there is none and it need not wait."""
        while (trajectory := pool.take()) is None:
            if not block:
                return False
            began = time.monotonic()
            pool.wait()
            self.waited += time.monotonic() - began
            if self.stops():
                raise SIGTERMException
        windows = self._cut(trajectory)
        if trajectory.simulation in self.lost:
            for window in self.lost.pop(trajectory.simulation):
                window.frames = windows[window.start].frames
                window.parameters = trajectory.parameters
            return True
        seconds = f"{time.monotonic() - self.began:.3f}"
        arrivals.writerow([trajectory.simulation, trajectory.solver, self.number, seconds])
        self.simulations += 1
        self.gate += windows
        return True

    def _cut(self, trajectory: Trajectory) -> list[Window]:
        """Return the windows of a trajectory, as copies: a view would keep all of it in memory."""
        return [
            Window(
                trajectory.simulation,
                start,
                trajectory.states[start : start + self.span : self.stride].copy(),
                trajectory.parameters,
            )
            for start in self._starts
        ]

    def state(self) -> dict[str, float]:
        """Return what the curves show: counts since the start, rates since the last start."""
        elapsed = max(time.monotonic() - self.began, 1e-9)
        return {
            "online/simulations": self.simulations,
            "online/buffer": len(self.buffer),
            "online/unseen": self.buffer.unseen,
            "online/reuse": self.buffer.drawn / max(self.buffer.used, 1),
            "online/windows_per_second": self.entered / elapsed,
            "online/waiting": self.waited / elapsed,
        }

    @property
    def _starts(self) -> range:
        return range(self.job.frames - self.span + 1)

    def _replay(self, batches: int) -> int:
        """Replay batches without content; return the first simulation that is not yet used."""
        numbers = itertools.count()

        def more(block: bool) -> bool:
            number = next(numbers)
            self.gate += [Window(number, start) for start in self._starts]
            return True

        for number in range(batches):
            self._admit(number, more)
            self.buffer.draw(self.count)
        return next(numbers)

    def _admit(self, number: int, more: Callable[[bool], bool]) -> bool:
        """Admit windows to the buffer before a batch; False if no more are needed.

        As many as have arrived and fit; or, if deterministic, as many as the batch takes, if they
        fit. It waits for windows that a batch lacks.
        """
        if len(self.buffer) >= (self.total - number) * self.count:
            self.buffer.drain()
            return False
        entered = 0
        while True:
            ready = self.buffer.ready(self.count)
            if self.online.deterministic and ready and entered >= self.count:
                break
            if not self.gate and not more(self.online.deterministic or not ready):
                break
            if not self.buffer.put(self.gate[0]):
                break
            self.gate.popleft()
            entered += 1
        self.entered += entered
        return True


def _own(listen: str, seed: int) -> str:
    """Return the address at which a seed's training listens."""
    host, _, port = listen.rpartition(":")
    return listen if port == "*" else f"{host}:{int(port) + seed}"


def _read(path: Path) -> list[list[str]]:
    """Rows of the order of arrival so far, without a row cut short by a kill."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    return list(csv.reader(lines[1:]))


def _job(stores: Sequence[Store]) -> Job:
    """Return what the solvers of a dataset simulate."""
    (store,) = stores
    spec, split = store.attrs.get(schema.CONFIG), store.split("train")
    if (
        not spec
        or schema.SOURCE in spec
        or store.equation.get("name") not in registry.names("equations")
    ):
        raise StoreError(f"{store.path}: holds no equation of this package to continue with")
    return Job(
        equation=store.equation,
        seed=spec["seed"],
        frames=split.frames,
        fields=len(store.fields),
        space=split.space,
        parameters=len(store.parameters),
        dtype=spec["store"]["dtype"],
    )
