"""Make a dataset: simulate an equation, or read files of one's own, into a store.

A store says where its trajectories come from and, where they are simulated, how good they are.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from longrun.runtime import cli, early

    cli.run(early.check)

import argparse
import contextlib
import hashlib
import json
import logging
import math
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from longrun import config
from longrun.data import schema
from longrun.data.store import NotAStoreError, StoreError, StoreWriter, create_store, open_store
from longrun.equations._base import AbstractEquation, Quantity
from longrun.exchange import formats as exchange
from longrun.exchange import sources
from longrun.metrics.crossing import crossing_time
from longrun.metrics.pointwise import unit
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.memory import keep_freed_memory

log = logging.getLogger(__name__)

BLOCK = 20  # frames per call of a solver: a constant, since the bits depend on where calls begin
DIVERGED = 1e6  # times the largest initial value, or 1
PERTURBATION = 1e-6  # relative
CORRELATED = 0.8
LONGEST = 4  # times the longest trajectory: how long predictability is followed

Shard = tuple[str, range, dict[str, ndarray], ndarray]
Report = Callable[[int, int], None]
Measured = tuple[Float[ndarray, " lead"], Float[ndarray, " lead"], dict[str, float | None]]


def build(equation: Mapping[str, Any]) -> AbstractEquation:
    """Build the equation that a dataset's `equation` section describes.

    Raises
    ------
    UserError
        An option that the constructor refuses.
    """
    try:
        built: AbstractEquation = registry.build("equations", equation)
    # numpy and torch raise the last two for a grid that is too large for the machine
    except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise UserError(f"equation {equation['name']}: {str(error)[:300]}") from error
    return built


def check_room(making: "Making", spec: Mapping[str, Any], folder: Path) -> None:
    """Refuse a dataset too large for the disk, or with a shard too large for the memory.

    Parameters
    ----------
    making
        Gives fields, grid and layout.
    spec
        Composed dataset.
    folder
        Where the store goes; it need not exist yet.

    Raises
    ------
    UserError
        It says how much is needed and how much there is.
    """
    values = len(making.fields) * math.prod(making.space)  # of a frame
    splits = making.splits.values()
    frames = sum(split["trajectories"] * split["frames"] for split in splits)
    together = making.layout["trajectories_per_shard"]
    shard = max(min(split["trajectories"], together) * split["frames"] for split in splits)
    itemsize = np.dtype(making.layout["dtype"]).itemsize
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    name = spec["equation"]["name"] if "equation" in spec else spec["source"]["path"]
    for what, needed, room in (
        ("the store", frames * values * itemsize, shutil.disk_usage(there).free),
        ("one of its shards in memory", shard * values * itemsize, cli.memory()),
    ):
        if needed > room:
            raise UserError(
                f"{name}: {what} needs {needed / 1e9:.3g} GB, there are "
                f"{room / 1e9:.3g} GB: ask for fewer trajectories, frames or points"
            )


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: on some processors transforms round differently in several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
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

    Trajectory i depends on `(seed, split, i)` alone: the same bits whatever is simulated with it.

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
    parameters, solver, initial = _begin(equation, seed, split, trajectories)
    stored = (len(equation.fields), *equation.grid())
    states = np.empty((len(trajectories), frames, *stored), dtype)

    def diverged(row: int, frame: int) -> UserError:
        when = frame * parameters.get(schema.DT, np.zeros(len(trajectories)))[row]
        return UserError(
            f"{type(equation).__name__}, seed {seed}: trajectory {trajectories[row]} of {split} "
            f"diverged at time {when:g} (frame {frame}, "
            f"{equation.burn_in} are burn-in); its shard was not stored; more substeps may help"
        )

    for start, block in _blocks(solver, initial, equation.burn_in + frames, diverged):
        if start + block.shape[1] > equation.burn_in:
            kept = _observed(equation, block[:, max(0, equation.burn_in - start) :])
            at = max(0, start - equation.burn_in)
            states[:, at : at + kept.shape[1]] = kept
    return parameters, states


def _begin(
    equation: AbstractEquation, seed: int, split: str, trajectories: Sequence[int]
) -> tuple[dict[str, ndarray], AbstractSolver, Tensor]:
    """Return parameters, solver and initial states of trajectories, before the burn-in."""
    where = schema.SPLITS.index(split)
    parameters, initial = equation.sample(
        [
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(where, i)))
            for i in trajectories
        ]
    )
    return parameters, equation.solver(_tensors(parameters)), torch.from_numpy(initial)


def _observed(
    equation: AbstractEquation, block: Float[Tensor, "trajectory time channel *space"]
) -> Float[ndarray, "trajectory time field *stored"]:
    """Return what is stored of a block of solver states."""
    return equation.observe(block.flatten(0, 1)).unflatten(0, block.shape[:2]).numpy()


@_one_thread()
def measure(
    equation: AbstractEquation, seed: int, frames: int, dtype: str, trajectories: int = 8
) -> Measured:
    """Measure the error of the stored solution on a few test trajectories.

    Parameters
    ----------
    equation
        What is simulated.
    seed
        Seed of the dataset.
    frames
        Frames to follow.
    dtype
        Of the stored frames: rounding to it is part of the error.
    trajectories
        How many.

    Returns
    -------
    lead_time
        Seconds after the first stored frame (mean over trajectories).
    error
        Relative RMSE of the stored solution, at its grid points, against a run from the same state
        at half the step and twice the resolution; mean over fields and trajectories. Each field is
        measured by its root mean square over the frames that are followed.
    attributes
        `reference_error` after one frame; `predictability`, the time for which two runs that differ
        by 1e-6 stay correlated above 0.8, mean over trajectories; `predictability_censored`, the
        share of them that were still correlated at the end. A steady map has no time: both are
        None.
    """
    frames = max(2, frames)
    parameters, solver, state = _begin(equation, seed, "test", range(trajectories))
    tensors = _tensors(parameters)

    def diverged(row: int, frame: int) -> UserError:
        return UserError(
            f"{type(equation).__name__}, seed {seed}: trajectory {row % trajectories} of test "
            f"diverged at frame {frame} of the run that measures its error; more substeps may help"
        )

    for _, block in _blocks(solver, state, equation.burn_in + 1, diverged):
        state = block[:, -1]
    finer = equation.solver(tensors, points=2 * equation.resolution, substeps=2 * equation.substeps)
    fine_state = equation.resample(state, 2 * equation.resolution)
    space = tuple(range(3, 3 + equation.dims))
    error, size, level = np.zeros((3, trajectories, frames, len(equation.fields)))
    runs = (_blocks(solver, state, frames, diverged), _blocks(finer, fine_state, frames, diverged))
    for (start, block), (_, fine) in zip(*runs, strict=True):
        here = slice(start, start + block.shape[1])
        coarse = equation.resample(fine.flatten(0, 1), equation.resolution)
        truth = _observed(equation, coarse.unflatten(0, fine.shape[:2]))
        stored = _observed(equation, block).astype(dtype)
        error[:, here] = np.square(stored - truth).mean(space)
        size[:, here] = np.square(truth).mean(space)
        level[:, here] = truth.mean(space)
    scale = size.mean(1, keepdims=True)
    present = scale > 1e-20 * scale.max(-1, keepdims=True)  # a field at rest has no relative error
    relative = np.sqrt(error / np.where(present, scale, np.inf))
    curve = (relative.sum(-1) / present.sum(-1)).mean(0)[1:]
    attributes: dict[str, float | None] = {schema.REFERENCE_ERROR: float(curve[0])}
    if equation.steady:
        attributes |= {schema.PREDICTABILITY: None, schema.CENSORED: None}
        return np.zeros(1), curve[:1], attributes
    variance = size.mean(1) - np.square(level.mean(1))
    seconds, censored = _predictability(
        equation, tensors, state, variance, LONGEST * frames, diverged
    )
    attributes[schema.PREDICTABILITY] = float(seconds.mean())
    attributes[schema.CENSORED] = float(censored.mean())
    return np.arange(1, frames) * parameters[schema.DT].mean(), curve, attributes


def _predictability(
    equation: AbstractEquation,
    parameters: Mapping[str, Float[Tensor, " trajectory"]],
    state: Float[Tensor, "trajectory channel *space"],
    variance: Float[ndarray, "trajectory field"],
    frames: int,
    diverged: Callable[[int, int], UserError],
) -> tuple[Float[ndarray, " trajectory"], Bool[ndarray, " trajectory"]]:
    """Time until each trajectory and its perturbed twin decorrelate, and whether it is censored.

    The perturbation has the shape of another trajectory: unlike white noise it has no part that
    is damped at once, and it respects conservation laws and the boundary.
    """
    shape = (len(state), state.shape[1], -1)

    def rms(field: Tensor) -> Tensor:
        norms = field.reshape(shape).square().mean(-1).sqrt()
        return norms.reshape(*shape[:2], *[1] * (state.ndim - 2))

    other = state.roll(1, 0)
    twin = state + PERTURBATION * rms(state) * other / rms(other).clamp_min(1e-300)
    solver = equation.solver({name: torch.cat([v, v]) for name, v in parameters.items()})
    scores: list[ndarray] = []
    for _, block in _blocks(solver, torch.cat([state, twin]), frames, diverged):
        observed = _observed(equation, block)
        left, right = observed.reshape(2, -1, *observed.shape[1:])
        scores.append(_alike(left, right, equation.dims, variance))
        if (np.concatenate(scores, 1) < CORRELATED).any(1).all():
            break
    score = np.concatenate(scores, 1)[:, 1:]
    times = np.arange(1, score.shape[1] + 1) * parameters[schema.DT].numpy()[:, None]
    return crossing_time(score, times, CORRELATED)


def _alike(
    left: Float[ndarray, "trajectory time channel *space"],
    right: Float[ndarray, "trajectory time channel *space"],
    dims: int,
    variance: Float[ndarray, "trajectory channel"],
) -> Float[ndarray, "trajectory time"]:
    """Correlation of two runs, mean over those fields that vary in space.

    Without space it is 1 - |difference|^2 / (2 variance), as in the mean over runs of equal
    variance; the variance is that over the frames of the run that measures the error.
    """
    if not dims:
        distance = np.square(left - right) / (2 * variance[:, None].clip(min=1e-300))
        return np.asarray(1 - distance.mean(-1))
    space = tuple(range(3, 3 + dims))
    left, right = unit(left, dims), unit(right, dims)
    varies = left.any(space) | right.any(space)
    product = (left * right).sum(space)
    return np.where(varies.any(-1), product.sum(-1) / varies.sum(-1).clip(min=1), 1.0)


def _blocks(
    solver: AbstractSolver,
    state: Float[Tensor, "trajectory channel *space"],
    frames: int,
    diverged: Callable[[int, int], UserError],
) -> Iterator[tuple[int, Float[Tensor, "trajectory time channel *space"]]]:
    """Yield the initial state, then the following frames in blocks, each with its first frame.

    Raises what `diverged` returns for a row and frame that is not finite or beyond all bounds.
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
    parts: Sequence[Path] = (),
) -> None:
    """Write a store, or finish one that an earlier call with the same arguments began.

    The store grows in a hidden folder beside `output` and is moved there when it is complete.

    Parameters
    ----------
    spec
        Composed dataset: `equation`, `seed`, `splits`, `store`, `measure`, or `source` and what
        goes with it; `jobs` is ignored.
    output
        Folder of the store. A store of another configuration is replaced.
    provenance
        Origin of the code and machine, see `longrun.runtime.cli.provenance`.
    workers
        Processes that simulate; this one writes.
    report
        Called with the number of trajectories written and their total.
    parts
        What `generate_part` and `measure_part` made of it already; the rest is made here.

    Raises
    ------
    UserError
        `output` is not a store, a part is of another dataset, a trajectory diverged, or a worker
        died.
    """
    with cli.locked(output):
        _generate(spec, output, provenance, workers, report, parts)


def _generate(
    spec: Mapping[str, Any],
    output: Path,
    provenance: Mapping[str, Any],
    workers: int,
    report: Report,
    parts: Sequence[Path],
) -> None:
    spec, origin = _origin(spec, provenance)
    if output.exists() and _finished(output, origin):
        log.info("%s is complete already", output)
        return
    making = _making(spec)
    check_room(making, spec, output)
    partial = output.with_name(f".{output.name}.partial")
    writer = _writer(partial, making, origin)
    measured = None
    for part in parts:
        if part.suffix == ".json":
            measured = _read_measured(part, origin)
        else:
            if not _same(StoreWriter(part).attrs, origin):
                raise UserError(f"{part}: is part of another dataset or made by other code")
            writer.adopt(part)
    _fill(writer, making, list(writer.missing()), workers, report)
    writer.finish(*(measured or making.measure()))
    _move(partial, output)


def generate_part(
    spec: Mapping[str, Any],
    output: Path,
    provenance: Mapping[str, Any],
    part: int,
    workers: int = 1,
    report: Report = lambda done, total: None,
) -> None:
    """Write one of `spec["jobs"]` parts of a store: every `jobs`-th shard, whole.

    Parts are made in any order, anywhere; `generate` joins them. Arguments as there; `part` counts
    from 0.

    Raises
    ------
    UserError
        No such part, a trajectory diverged, or a worker died.
    """
    jobs = spec["jobs"]
    if not 0 <= part < jobs:
        raise UserError(f"part {part} of {jobs} doesn't exist; they are 0 to {jobs - 1}")
    spec, origin = _origin(spec, provenance)
    with cli.locked(output):
        if output.exists() and _same(StoreWriter(output).attrs, origin):
            log.info("%s is complete already", output)
            return
        partial = output.with_name(f".{output.name}.partial")
        making = _making(spec)
        writer = _writer(partial, making, origin)
        ours = set(list(writer.shards())[part::jobs])
        missing = [shard for shard in writer.missing() if shard in ours]
        _fill(writer, making, missing, workers, report)
        _move(partial, output)


def measure_part(spec: Mapping[str, Any], output: Path, provenance: Mapping[str, Any]) -> None:
    """Write the measured error and predictability of a dataset, as JSON, for `generate` to join."""
    spec, origin = _origin(spec, provenance)
    lead_time, error, attributes = _making(spec).measure()
    content = {"lead_time": lead_time.tolist(), "error": error.tolist(), "attributes": attributes}
    with cli.atomic(output) as path:
        path.write_text(json.dumps({**origin, **content}), "utf-8")


def _measure(equation: AbstractEquation, spec: Mapping[str, Any]) -> Measured:
    options = spec["measure"]
    frames = options["frames"] or max(split["frames"] for split in spec["splits"].values())
    return measure(equation, spec["seed"], frames, spec["store"]["dtype"], options["trajectories"])


def _read_measured(path: Path, origin: Mapping[str, Any]) -> Measured:
    content = cli.read_json(path, "generate")
    if not _same(content, origin):
        raise UserError(f"{path}: was measured on another dataset or by other code")
    return np.array(content["lead_time"]), np.array(content["error"]), content["attributes"]


def _origin(
    spec: Mapping[str, Any], provenance: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the spec without what doesn't change the data, and the attributes that identify it."""
    spec = {key: value for key, value in spec.items() if key != "jobs"}
    code = {**provenance, "code": _code(spec)}
    origin = {schema.CONFIG: spec, schema.PROVENANCE: code}
    return spec, origin | ({schema.SOURCE: sources.origin(spec)} if "source" in spec else {})


@dataclass(frozen=True)
class Making:
    """A store that is to be made, wherever its trajectories come from.

    Attributes
    ----------
    fields, parameters
        `units` and `long_name` by name, in order.
    boundary, space
        Boundary condition and number of points of each axis.
    centred
        Whether the first point is half a cell from the edge.
    splits, layout
        See `longrun.data.store.create_store`.
    attrs
        `equation` and `seed`; of a source also what exporting it needs.
    shards
        Yields the shards that are asked for, made by so many processes, in order.
    measure
        Returns how good the numbers are.
    """

    fields: dict[str, dict[str, str]]
    parameters: dict[str, dict[str, str]]
    boundary: tuple[str, ...]
    space: tuple[int, ...]
    centred: bool
    splits: Mapping[str, Any]
    layout: Mapping[str, Any]
    attrs: dict[str, Any]
    shards: Callable[[Sequence[tuple[str, range]], int], Generator[Shard]]
    measure: Callable[[], Measured]


def _making(spec: Mapping[str, Any]) -> Making:
    return _of_files(spec) if "source" in spec else _of_equation(spec)


def _of_equation(spec: Mapping[str, Any]) -> Making:
    equation = build(spec["equation"])
    return Making(
        _described(equation.fields),
        _described(equation.parameters),
        equation.boundary,
        equation.grid(),
        equation.centred,
        spec["splits"],
        spec["store"],
        {schema.EQUATION: spec["equation"], "seed": spec["seed"]},
        lambda missing, workers: _shards(spec, missing, workers),
        lambda: _measure(equation, spec),
    )


def _described(quantities: Sequence[Quantity]) -> dict[str, dict[str, str]]:
    return {q.name: {"units": q.units, "long_name": q.long_name} for q in quantities}


def _of_files(spec: Mapping[str, Any]) -> Making:
    foreign, path = sources.open_source(spec), spec["source"]["path"]
    about: dict[str, Any] = {"name": exchange.IMPORTED}
    if "equation" in spec:
        about = dict(spec["equation"])
        if "points" in registry.arguments("equations", about["name"]) and foreign.space:
            about.setdefault("points", min(foreign.space))
        foreign = sources.obeying(foreign, about, build(about))
    splits = {
        name: {"trajectories": part.trajectories, "frames": part.frames}
        for name, part in foreign.parts.items()
    }
    layout = dict(spec["store"])
    layout["dtype"] = layout["dtype"] or foreign.dtype
    longest = max(part.frames for part in foreign.parts.values())
    fit = exchange.BLOCK // (foreign.frame_bytes * longest)
    layout["trajectories_per_shard"] = max(1, min(layout["trajectories_per_shard"], fit))

    def shards(missing: Sequence[tuple[str, range]], _: int) -> Generator[Shard]:
        for split, numbers in missing:
            yield split, numbers, *sources.read_shard(foreign, split, numbers, path)

    measured = (schema.REFERENCE_ERROR, schema.PREDICTABILITY, schema.CENSORED)
    unknown: dict[str, float | None] = dict.fromkeys(measured)
    return Making(
        foreign.fields,
        foreign.parameters,
        foreign.boundary,
        foreign.space,
        foreign.centred,
        splits,
        layout,
        {
            schema.EQUATION: about,
            "seed": spec.get("seed"),
            schema.LAYOUT: foreign.layout,
            schema.STATIC: list(foreign.static),
        },
        shards,
        lambda: (np.empty(0), np.empty(0), unknown),
    )


def _writer(partial: Path, making: Making, origin: Mapping[str, Any]) -> StoreWriter:
    """Return a writer for a new store, with the shards that an earlier call left.

    Nothing else of it is trusted: coordinates and the metadata of arrays have no checksum.
    """
    cli.discard_parts(partial)
    fresh = cli.beside(partial)
    _create(fresh, making, origin)
    if _resumes(partial, origin):
        StoreWriter(fresh).adopt(partial)
    with cli.writing(partial):
        cli.replace(fresh, partial)
    return StoreWriter(partial)


def _fill(
    writer: StoreWriter,
    making: Making,
    missing: Sequence[tuple[str, range]],
    workers: int,
    report: Report,
) -> None:
    """Make and write these shards."""
    total = sum(split["trajectories"] for split in making.splits.values())
    done = total - sum(len(trajectories) for _, trajectories in missing)
    if done:
        log.info("%d of %d trajectories are there already or made elsewhere", done, total)
    report(done, total)
    with contextlib.closing(making.shards(missing, workers)) as shards:
        for split, trajectories, parameters, states in shards:
            writer.write(split, trajectories, parameters, states)
            done += len(trajectories)
            report(done, total)


def _code(spec: Mapping[str, Any]) -> str:
    """Hash of the sources that decide the bits of a trajectory."""
    files = {registry.ROOT / "generate.py"}
    if "source" in spec:
        files |= {*(registry.ROOT / "exchange").glob("*.py")}
    else:
        about = spec["equation"]
        for name in (about["name"], *([about["of"]["name"]] if "of" in about else [])):
            files |= {*registry.sources("equations", name)}
    return hashlib.sha256(b"".join(f.read_bytes() for f in sorted(files))).hexdigest()[:12]


def _same(attrs: Mapping[str, Any], origin: Mapping[str, Any]) -> bool:
    """Whether a store was made from this configuration and files by this code, on any machine."""
    stored, wanted = attrs.get(schema.PROVENANCE, {}), origin[schema.PROVENANCE]
    made = {key: origin.get(key) for key in (schema.CONFIG, schema.SOURCE)}
    return all(attrs.get(key) == value for key, value in made.items()) and all(
        stored.get(key) == wanted.get(key) for key in ("code", "versions")
    )


def _finished(output: Path, origin: Mapping[str, Any]) -> bool:
    """Whether the store at `output` is the one wanted; refuse to replace what is no store."""
    try:
        return _same(open_store(output).attrs, origin)
    except NotAStoreError as error:
        raise UserError(f"{error}; move it away to generate a store there") from None
    except StoreError:
        return False


def _resumes(partial: Path, origin: Mapping[str, Any]) -> bool:
    """Whether an earlier call left a part of the same store."""
    if not partial.exists():
        return False
    with contextlib.suppress(StoreError):  # killed before it was a store, or damaged
        if _same(StoreWriter(partial).attrs, origin):
            return True
    log.info("%s was begun with another configuration or code: starting afresh", partial)
    return False


def _create(path: Path, making: Making, attrs: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    create_store(
        path,
        fields=making.fields,
        parameters=making.parameters,
        boundary=making.boundary,
        space=making.space,
        centred=making.centred,
        splits=making.splits,
        layout=making.layout,
        attrs={**making.attrs, **attrs},
    )


def _move(partial: Path, output: Path) -> None:
    with cli.writing(output):
        cli.discard_parts(output)
        cli.replace(partial, output)


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
    """End when the main process is killed: the pool itself would wait."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


EXAMPLES = """
python -m longrun.generate --dataset lorenz_96 --preset cpu --output data/cpu/lorenz_96.zarr
python -m longrun.generate --dataset burgers --preset gpu --workers 8 --output data/gpu/burgers.zarr
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("generate", __doc__, EXAMPLES, "dataset", "preset", "configs")
    made.add_argument("--output", type=Path, required=True, help="folder of the store")
    made.add_argument("--workers", type=int, default=1, help="processes that simulate")
    only = made.add_mutually_exclusive_group()
    only.add_argument("--part", type=int, help="make only this part, of the dataset's `jobs`")
    only.add_argument("--measure", action="store_true", help="only measure the error, as JSON")
    only.add_argument("--parts", type=Path, nargs="+", default=[], help="parts made already")
    return made


def main() -> None:
    """Read the command line and write the store, or a part of it."""
    arguments = parser().parse_args()
    if arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, is {arguments.workers}")
    name, preset = arguments.dataset, arguments.preset
    spec = config.compose_dataset(arguments.configs, name, preset)
    config.dataset_sizes(arguments.configs, name, preset, sources.look)  # to name what is wrong
    output, provenance, workers = arguments.output, cli.provenance(), arguments.workers
    keep_freed_memory()
    if arguments.measure:
        measure_part(spec, output, provenance)
        return
    with _progress(arguments.dataset) as report:
        if arguments.part is not None:
            generate_part(spec, output, provenance, arguments.part, workers, report)
            return
        generate(spec, output, provenance, workers, report, arguments.parts)
    store = open_store(output)
    error = store.attrs[schema.REFERENCE_ERROR]
    if error is None:
        log.info("%s: written; nobody has measured the error of its trajectories", store.path)
    elif store.attrs[schema.PREDICTABILITY] is None:
        log.info("%s: relative error %.1e", store.path, error)
    else:
        log.info(
            "%s: relative error after one frame %.1e, predictable for %s%.4g",
            store.path,
            error,
            "at least " if store.attrs[schema.CENSORED] else "",
            store.predictability,
        )


@contextlib.contextmanager
def _progress(name: str) -> Iterator[Report]:
    """Show a bar on a terminal, and write lines elsewhere."""
    began, first = time.perf_counter(), None
    terminal = sys.stderr.isatty()
    with tqdm(desc=name, unit=" trajectories", disable=not terminal) as bar:

        def report(done: int, total: int) -> None:
            nonlocal first
            if first is None:
                first = bar.initial = bar.n = done  # what was there doesn't count as speed
                bar.total = total
            if terminal:
                bar.update(done - bar.n)
            elif done > first:
                rate = (done - first) / (time.perf_counter() - began)
                log.info("%d of %d trajectories, %.1f trajectories/s", done, total, rate)

        yield report


if __name__ == "__main__":
    cli.run(main)
