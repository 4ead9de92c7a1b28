"""Make a dataset: simulate an equation and write the trajectories, their error and their origin."""

import argparse
import contextlib
import hashlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from longrun import cli, config, registry
from longrun.cli import UserError
from longrun.data import schema
from longrun.data.store import NotAStoreError, StoreError, StoreWriter, create_store, open_store
from longrun.equations._base import AbstractEquation, Quantity
from longrun.metrics.crossing import crossing_time
from longrun.metrics.pointwise import correlation, nrmse
from longrun.solvers._base import AbstractSolver
from longrun.solvers.spectral import resample

log = logging.getLogger(__name__)

BLOCK = 20  # frames per call of a solver: a constant, since the bits depend on where calls begin
DIVERGED = 1e6  # times the largest initial value, or 1
HANDFUL = 8  # trajectories on which a store's error and predictability are measured
PERTURBATION = 1e-6  # relative
CORRELATED = 0.8
LONGEST = 4  # times the longest trajectory: how long predictability is followed

Shard = tuple[str, range, dict[str, ndarray], ndarray]
Report = Callable[[int, int], None]


def build(equation: Mapping[str, Any]) -> AbstractEquation:
    """Build the equation that a dataset's `equation` section describes."""
    options = {key: value for key, value in equation.items() if key != "name"}
    built: AbstractEquation = registry.find("equations", equation["name"])(**options)
    return built


def simulate(
    equation: AbstractEquation,
    seed: int,
    split: str,
    trajectories: Sequence[int],
    frames: int,
    dtype: str = "float64",
) -> tuple[
    dict[str, Float[ndarray, " trajectory"]], Float[ndarray, "trajectory time channel *space"]
]:
    """Simulate trajectories of a split, without their burn-in.

    Trajectory i depends on `(seed, split, i)` alone: the same bits in any company.

    Parameters
    ----------
    equation
        What to simulate.
    seed
        Seed of the dataset.
    split
        `train`, `valid` or `test`.
    trajectories
        Numbers of the trajectories.
    frames
        Frames to keep after the burn-in.
    dtype
        Of the result; the solver works in float64.

    Returns
    -------
    parameters
        Parameters of each trajectory.
    states
        Frames, the first one `equation.burn_in` frames after the initial condition.

    Raises
    ------
    UserError
        A trajectory diverged; it is named, with its time.
    """
    where = schema.SPLITS.index(split)
    generators = [
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(where, i)))
        for i in trajectories
    ]
    parameters, initial = equation.sample(generators)
    solver = equation.solver(_tensors(parameters))
    states = np.empty((len(trajectories), frames, *initial.shape[1:]), dtype)

    def diverged(row: int, frame: int) -> UserError:
        return UserError(
            f"{type(equation).__name__}, seed {seed}: trajectory {trajectories[row]} of {split} "
            f"diverged at time {frame * parameters[schema.DT][row]:g} (frame {frame}, "
            f"{equation.burn_in} are burn-in); its shard was not stored; more substeps may help"
        )

    blocks = _blocks(solver, torch.from_numpy(initial), equation.burn_in + frames, diverged)
    for start, block in blocks:
        kept = block[:, max(0, equation.burn_in - start) :]
        at = max(0, start - equation.burn_in)
        states[:, at : at + kept.shape[1]] = kept.numpy()
    return parameters, states


def measure(
    equation: AbstractEquation, seed: int, frames: int, dtype: str
) -> tuple[Float[ndarray, " lead"], Float[ndarray, " lead"], dict[str, float]]:
    """Measure on a handful of test trajectories how good the stored solution is.

    Parameters
    ----------
    equation
        What is simulated.
    seed
        Seed of the dataset.
    frames
        Length of the longest stored trajectory.
    dtype
        Of the stored frames: rounding to it is part of the error.

    Returns
    -------
    lead_time
        Seconds after the first stored frame (mean over trajectories).
    error
        Relative RMSE of the stored solution, at its grid points, against a run from the same state
        at half the step and twice the resolution; mean over trajectories.
    attributes
        `reference_error` after one frame; `predictability`, the time for which two runs that differ
        by 1e-6 stay correlated above 0.8, mean over trajectories, and the part of them that was
        still correlated when it was no longer followed, `predictability_censored`.
    """
    parameters, states = simulate(equation, seed, "test", range(HANDFUL), frames)
    state, tensors = torch.from_numpy(states[:, 0]), _tensors(parameters)
    finer = equation.solver(tensors, points=2 * equation.points, substeps=2 * equation.substeps)
    error = np.zeros(frames)

    def diverged(row: int, frame: int) -> UserError:
        return UserError(
            f"{type(equation).__name__}, seed {seed}: trajectory {row % HANDFUL} of test diverged "
            f"at frame {frame} of the run that measures its error; more substeps may help"
        )

    stored_points = (slice(None),) * 3 + (slice(None, None, 2),) * equation.dims
    for start, block in _blocks(finer, resample(state, 2 * equation.points), frames, diverged):
        here = slice(start, start + block.shape[1])
        stored = states[:, here].astype(dtype)
        error[here] = nrmse(stored, block.numpy()[stored_points], equation.dims).mean(0)
    seconds, censored = _predictability(equation, tensors, state, LONGEST * frames, diverged)
    attributes = {
        schema.REFERENCE_ERROR: float(error[1]),
        schema.PREDICTABILITY: float(seconds.mean()),
        schema.CENSORED: float(censored.mean()),
    }
    return np.arange(1, frames) * parameters[schema.DT].mean(), error[1:], attributes


def _predictability(
    equation: AbstractEquation,
    parameters: Mapping[str, Float[Tensor, " trajectory"]],
    state: Float[Tensor, "trajectory channel *space"],
    frames: int,
    diverged: Callable[[int, int], UserError],
) -> tuple[Float[ndarray, " trajectory"], Bool[ndarray, " trajectory"]]:
    """Time until each trajectory and its perturbed twin decorrelate, and whether it is censored.

    The perturbation has the shape of another trajectory: unlike white noise it has no part that
    is damped at once, and it keeps to what the solution conserves and to its boundary.
    """
    space = tuple(range(2, state.ndim))

    def rms(field: Tensor) -> Tensor:
        return field.square().mean(space, keepdim=True).sqrt()

    other = state.roll(1, 0)
    twin = state + PERTURBATION * rms(state) * other / rms(other).clamp_min(1e-300)
    solver = equation.solver({name: torch.cat([v, v]) for name, v in parameters.items()})
    scores: list[ndarray] = []
    for _, block in _blocks(solver, torch.cat([state, twin]), frames, diverged):
        left, right = block.numpy().reshape(2, -1, *block.shape[1:])
        scores.append(correlation(left, right, equation.dims))
        if (np.concatenate(scores, 1) < CORRELATED).any(1).all():
            break
    score = np.concatenate(scores, 1)[:, 1:]
    times = np.arange(1, score.shape[1] + 1) * parameters[schema.DT].numpy()[:, None]
    return crossing_time(score, times, CORRELATED)


def _blocks(
    solver: AbstractSolver,
    state: Float[Tensor, "trajectory channel *space"],
    frames: int,
    diverged: Callable[[int, int], UserError],
) -> Iterator[tuple[int, Float[Tensor, "trajectory time channel *space"]]]:
    """Yield the initial state, then the following frames in blocks, each with its first frame.

    Raises what `diverged` makes of the row and frame that is not finite or beyond all bounds.
    """
    limit = DIVERGED * state.abs().flatten(1).amax(1, keepdim=True).clamp_min(1.0)
    block, start = state[:, None], 0
    while True:
        sound = block.abs().flatten(2).amax(2) <= limit  # NaN is not <= anything
        if not sound.all():
            row = int((~sound).any(1).int().argmax())
            raise diverged(row, start + int((~sound[row]).int().argmax()))
        yield start, block
        start += block.shape[1]
        if start >= frames:
            return
        block = solver.rollout(block[:, -1], min(BLOCK, frames - start))


def _tensors(parameters: Mapping[str, ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in parameters.items()}


def generate(
    spec: Mapping[str, Any],
    output: Path,
    provenance: Mapping[str, Any],
    workers: int = 1,
    report: Report = lambda done, total: None,
) -> None:
    """Write a store, or finish one that an earlier call with the same arguments began.

    The store grows in a hidden folder beside `output` and is moved there when it is complete.

    Parameters
    ----------
    spec
        Composed dataset: `equation`, `seed`, `splits`, `store`.
    output
        Folder of the store. A store of another configuration that is there is replaced.
    provenance
        Origin of the code and machine, see `longrun.cli.provenance`.
    workers
        Processes that simulate; this one writes.
    report
        Called with the number of trajectories written and their total.

    Raises
    ------
    UserError
        `output` is something else than a store, a trajectory diverged, or a worker died.
    """
    origin = {
        schema.CONFIG: dict(spec),
        schema.PROVENANCE: {**provenance, "code": _code(spec["equation"]["name"])},
    }
    if output.exists() and _finished(output, origin):
        log.info("%s is complete already", output)
        return
    equation = build(spec["equation"])
    partial = output.with_name(f".{output.name}.partial")
    writer = _resume(partial, origin)
    if writer is None:
        _create(partial, equation, spec, origin)
        writer = StoreWriter(partial)
    total = sum(split["trajectories"] for split in spec["splits"].values())
    missing = list(writer.missing())
    done = total - sum(len(trajectories) for _, trajectories in missing)
    if done:
        log.info("resuming after %d of %d trajectories", done, total)
    report(done, total)
    with contextlib.closing(_shards(spec, missing, workers)) as shards:
        for split, trajectories, parameters, states in shards:
            writer.write(split, trajectories, parameters, states)
            done += len(trajectories)
            report(done, total)
    frames = max(split["frames"] for split in spec["splits"].values())
    writer.finish(*measure(equation, spec["seed"], frames, spec["store"]["dtype"]))
    _move(partial, output)


def _code(equation: str) -> str:
    """Hash of the sources that decide the bits of a trajectory."""
    files = [
        registry.path("equations", equation),
        registry.ROOT / "equations" / "_base.py",
        registry.ROOT / "generate.py",
        *sorted((registry.ROOT / "solvers").glob("*.py")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def _same(attrs: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    """Whether a store was made from this configuration by this code, on whatever machine."""
    stored, wanted = attrs.get(schema.PROVENANCE, {}), origin[schema.PROVENANCE]
    return attrs.get(schema.CONFIG) == origin[schema.CONFIG] and all(
        stored.get(key) == wanted[key] for key in ("code", "versions")
    )


def _finished(output: Path, origin: Mapping[str, Any]) -> bool:
    """Whether the store at `output` is the one wanted; refuse to replace what is no store."""
    try:
        return _same(open_store(output).attrs, origin)
    except NotAStoreError as error:
        raise UserError(f"{error}; move it away to generate a store there") from None
    except StoreError:
        return False


def _resume(partial: Path, origin: Mapping[str, Any]) -> StoreWriter | None:
    """Return a writer for what an earlier call left, if it was making the same."""
    if not partial.exists():
        return None
    with contextlib.suppress(NotAStoreError):  # killed before it was one
        writer = StoreWriter(partial)
        if _same(writer.attrs, origin):
            return writer
    log.info("%s was begun with another configuration or code: starting afresh", partial)
    shutil.rmtree(partial)
    return None


def _create(
    path: Path, equation: AbstractEquation, spec: Mapping[str, Any], attrs: Mapping[str, Any]
) -> None:
    def described(quantities: Sequence[Quantity]) -> dict[str, dict[str, str]]:
        return {q.name: {"units": q.units, "long_name": q.long_name} for q in quantities}

    path.parent.mkdir(parents=True, exist_ok=True)
    create_store(
        path,
        fields=described(equation.fields),
        parameters=described(equation.parameters),
        boundary=equation.boundary,
        space=(equation.points,) * equation.dims,
        splits=spec["splits"],
        layout=spec["store"],
        attrs={schema.EQUATION: spec["equation"], "seed": spec["seed"], **attrs},
    )


def _move(partial: Path, output: Path) -> None:
    if output.exists():
        shutil.rmtree(output)
    os.replace(partial, output)


def _simulate_shard(
    spec: Mapping[str, Any], split: str, trajectories: range
) -> tuple[dict[str, ndarray], ndarray]:
    return simulate(
        build(spec["equation"]),
        spec["seed"],
        split,
        trajectories,
        spec["splits"][split]["frames"],
        spec["store"]["dtype"],
    )


def _shards(
    spec: Mapping[str, Any], missing: Sequence[tuple[str, range]], workers: int
) -> Generator[Shard]:
    """Simulate shards here or in spawned processes; yield them in order."""
    if workers <= 1:
        for split, trajectories in missing:
            yield split, trajectories, *_simulate_shard(spec, split, trajectories)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin_worker) as pool:
        ahead: deque[tuple[str, range, Future[Any]]] = deque()
        queue = iter(missing)
        try:
            while True:
                while len(ahead) <= workers and (shard := next(queue, None)):  # bounds the memory
                    ahead.append((*shard, pool.submit(_simulate_shard, spec, *shard)))
                if not ahead:
                    return
                split, trajectories, future = ahead.popleft()
                yield split, trajectories, *future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process died, perhaps for lack of memory; the same call resumes"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Use one thread, and end when the main process is killed: the pool itself would wait."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def main() -> None:
    """Read the command line and write the store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True, help="name of a file in configs/datasets")
    parser.add_argument("--preset", required=True, help="smoke, cpu, gpu or paper")
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--output", type=Path, required=True, help="folder of the store")
    parser.add_argument("--workers", type=int, default=1, help="processes that simulate")
    arguments = parser.parse_args()
    if arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, is {arguments.workers}")
    spec = config.compose_dataset(arguments.configs, arguments.dataset, arguments.preset)
    began, first = time.perf_counter(), None
    terminal = sys.stderr.isatty()
    with tqdm(desc=arguments.dataset, unit=" trajectories", disable=not terminal) as bar:

        def report(done: int, total: int) -> None:
            nonlocal first
            if first is None:
                first = bar.initial = bar.n = done  # what is resumed doesn't count as speed
                bar.total = total
            if terminal:
                bar.update(done - bar.n)
            elif done > first:
                rate = (done - first) / (time.perf_counter() - began)
                log.info("%d of %d trajectories, %.1f trajectories/s", done, total, rate)

        generate(spec, arguments.output, cli.provenance(), arguments.workers, report)
    store = open_store(arguments.output)
    log.info(
        "%s: relative error after one frame %.1e, predictable for %s%.4g",
        store.path,
        store.attrs[schema.REFERENCE_ERROR],
        "at least " if store.attrs[schema.CENSORED] else "",
        store.predictability,
    )


if __name__ == "__main__":
    cli.run(main)
