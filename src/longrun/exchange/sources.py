"""A dataset of one's own: the files that its `source` names, as trajectories of three splits.

    files --format--> fields, grid --choose, reduce, cut--> trajectories --divide--> splits

Nothing but shapes, coordinates and parameters is read until a shard is written, and then no more
than `formats.BLOCK` bytes at a time, or one frame.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy import ndarray

from longrun.config import KeyProblem, source_files
from longrun.data import schema
from longrun.data.store import Split, open_array, open_store
from longrun.exchange import formats as exchange
from longrun.exchange.arrays import read_numpy, read_xarray
from longrun.exchange.formats import Foreign, Part, Read
from longrun.exchange.pdebench import read_pdebench
from longrun.exchange.well import read_well
from longrun.runtime.registry import allowed, shown


def open_source(spec: Mapping[str, Any]) -> Foreign:
    """Look at the files of a dataset.

    Parameters
    ----------
    spec
        Composed dataset: `source`; `splits` and `seed` where they are given.

    Returns
    -------
    Foreign
        With the parts `train`, `valid` and `test`.

    Raises
    ------
    KeyProblem
        Files that are missing, or not as a key says.
    UserError
        Files that are damaged or not alike.
    """
    return _divided(undivided(spec), spec.get("splits", {}), spec.get("seed"))


def undivided(spec: Mapping[str, Any]) -> Foreign:
    """Do as `open_source`, but leave one part under the name "" where nothing divides the files."""
    source = spec["source"]
    read = {
        split: [_taken(file, source) for file in found]
        for split, found in source_files(spec).items()
    }
    if source["format"] == "store":  # the one that is divided already
        return read[""][0]
    return exchange.combined(read, Path(source["path"]))


def look(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return sizes of a dataset's splits, and of its grid; see `longrun.config.Look`."""
    foreign = open_source(spec)
    if not spec["source"]["path"].endswith(".npz"):  # which may have to be unpacked first
        for name in schema.SPLITS:
            _check_first_frame(foreign, name, spec["source"]["path"])
    splits = {
        name: {"trajectories": part.trajectories, "frames": part.frames}
        for name, part in foreign.parts.items()
    }
    return {"splits": splits, "space": list(foreign.space)}


def _check_first_frame(foreign: Foreign, split: str, path: str) -> None:
    """Look for missing values where they mostly are: over land, say, in every frame."""
    states = foreign.parts[split].read(range(1), range(1), range(len(foreign.fields)))
    for channel, name in enumerate(foreign.fields):
        where = f"{path}: {split}"
        exchange.check_finite(states[:, :, channel], range(1), f"field {name}", where)


def origin(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a dataset is read from: format, path, and name, size and hash of each file."""
    path = Path(spec["source"]["path"])
    files = [
        inner
        for found in source_files(spec).values()
        for file in found
        for inner in (sorted(file.rglob("*")) if file.is_dir() else [file])
        if inner.is_file() and not inner.name.startswith(".")
    ]
    described = []
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        name = str(file.relative_to(path)) if path in file.parents else file.name
        described.append({"name": name, "size": file.stat().st_size, "sha256": digest})
    return {"format": spec["source"]["format"], "path": str(path), "files": described}


def read_shard(
    foreign: Foreign, split: str, numbers: range, path: str
) -> tuple[dict[str, ndarray], ndarray]:
    """Read parameters and frames of some trajectories.

    Raises
    ------
    UserError
        A number is not finite; it says where.
    """
    where, part = f"{path}: {split}", foreign.parts[split]
    states = foreign.read(split, numbers.start, numbers.stop)
    chosen = slice(numbers.start, numbers.stop)
    values = {name: part.parameters[name][chosen] for name in foreign.parameters}
    for i, name in enumerate(foreign.fields):
        exchange.check_finite(states[:, :, i], numbers, f"field {name}", where)
    for name, column in values.items():
        exchange.check_finite(column, numbers, f"parameter {name}", where)
    return values, states


def obeying(foreign: Foreign, section: Mapping[str, Any], equation: Any) -> Foreign:
    """Order what files hold as their equation has it, and add the parameters that they lack.

    Parameters
    ----------
    foreign
        What the files hold.
    section
        The `equation` section; a parameter that is a number there may be missing in the files.
    equation
        What it builds.

    Raises
    ------
    KeyProblem
        Other fields, grid or parameters than those of the equation.
    """

    def fail(what: str, theirs: object, ours: object) -> NoReturn:
        problem = f"{section['name']} has {what} {shown(theirs)}, the files have {shown(ours)}"
        raise KeyProblem(("equation",), problem)

    fields, parameters = (
        {q.name: {"units": q.units, "long_name": q.long_name} for q in quantities}
        for quantities in (equation.fields, equation.parameters)
    )
    if sorted(fields) != sorted(foreign.fields):
        fail("the fields", [*fields], [*foreign.fields])
    if tuple(equation.grid()) != foreign.space:
        fail("the grid", equation.grid(), foreign.space)
    constants = {}
    for name in parameters:
        if name not in foreign.parameters:
            if not isinstance(section.get(name), int | float):
                fail("the parameters", [*parameters], [*foreign.parameters])
            constants[name] = float(section[name])
    found = _with_parameters(_with_fields(foreign, {name: name for name in fields}), constants)
    edges = tuple(equation.boundary)
    return replace(found, fields=fields, parameters=parameters, boundary=edges)


def _taken(file: Path, source: Mapping[str, Any]) -> Foreign:
    """Look at one file, and take of it what the section asks for."""
    foreign = _reduced(_chosen(_read(file, source), source), source)
    return _cut(foreign, source["cut"]) if "cut" in source else foreign


def _read(file: Path, source: Mapping[str, Any]) -> Foreign:
    match source["format"]:
        case "store":
            return _of_store(file)
        case "pdebench":
            names = source.get("fields")
            return read_pdebench(file, names if isinstance(names, Sequence) else None)
        case "the_well":
            return read_well(file)
        case "xarray":
            return read_xarray(file, source)
        case _:
            return read_numpy(file, source)


def _of_store(path: Path) -> Foreign:
    """See a store as any other source."""
    store = open_store(path)
    dtype, parts = "float32", {}
    for name in schema.SPLITS:
        split = store.split(name)
        dtype = str(np.result_type(dtype, *(split.array(field)["dtype"] for field in store.fields)))
        parts[name] = Part(
            split.trajectories, split.frames, split.parameters, _of_split(split, dtype)
        )
    train = store.split("train")
    centred = bool(train.space) and bool(
        np.asarray(open_array(train.path / schema.AXES[0])[:])[0] > 0
    )

    def described(names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {n: exchange.described_as(n, train.array(n)["attrs"]) for n in names}

    return Foreign(
        described(store.fields),
        described(store.parameters),
        store.boundary,
        train.space,
        centred,
        dtype,
        parts,
        exchange.layout(store),
        store.static,
    )


def _of_split(split: Split, dtype: str) -> Read:
    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        states = split.read(exchange.as_slice(rows), exchange.as_slice(frames), dtype)
        return states[:, :, list(channels)]

    return read


# What is taken of it -----------------------------------------------------------------------------


def _chosen(foreign: Foreign, source: Mapping[str, Any]) -> Foreign:
    """Take the fields and parameters that are asked for, under the names that are asked for."""
    wanted, known = source.get("fields"), list(foreign.fields)
    if wanted is not None:
        # formats whose files have other names than a store can have know them as those of a store
        theirs = [exchange.as_name(n, exchange.GRID) for n in _values(wanted)]
        for name in theirs:
            if name not in known:
                problem = f"unknown field {shown(name)}; {allowed(known, name)}"
                raise KeyProblem(("source", "fields"), problem)
        ours = list(wanted) if isinstance(wanted, Mapping) else theirs
        for name in ours:
            if exchange.as_name(name, (*exchange.GRID, *foreign.parameters)) != name:
                raise KeyProblem(("source", "fields", name), "the name is taken; choose another")
        if ours != known or theirs != known:
            foreign = _with_fields(foreign, dict(zip(ours, theirs, strict=True)))
    foreign = _with_parameters(foreign, source.get("parameters"))
    given = source.get("boundary")
    if given is not None:
        axes = schema.AXES[: len(foreign.space)]
        kinds = given if isinstance(given, Mapping) else dict.fromkeys(axes, given)
        for axis in kinds:
            if axis not in axes:
                problem = f"there is no such axis; {allowed(axes, axis)}"
                raise KeyProblem(("source", "boundary", axis), problem)
        edges = zip(axes, foreign.boundary, strict=True)
        foreign = replace(foreign, boundary=tuple(kinds.get(axis, old) for axis, old in edges))
    return foreign


def _values(wanted: Any) -> list[str]:
    return list(wanted.values() if isinstance(wanted, Mapping) else wanted)


def _with_fields(foreign: Foreign, names: Mapping[str, str]) -> Foreign:
    channels = [list(foreign.fields).index(theirs) for theirs in names.values()]

    def chosen(part: Part) -> Part:
        def read(rows: range, frames: range, wanted: Sequence[int]) -> ndarray:
            return part.read(rows, frames, [channels[channel] for channel in wanted])

        return replace(part, read=read)

    return replace(
        foreign,
        fields={ours: foreign.fields[theirs] for ours, theirs in names.items()},
        parts={split: chosen(part) for split, part in foreign.parts.items()},
        static=tuple(ours for ours, theirs in names.items() if theirs in foreign.static),
        layout={"origin": foreign.layout["origin"]} if "origin" in foreign.layout else {},
    )


def _with_parameters(foreign: Foreign, wanted: Any) -> Foreign:
    """Keep the parameters of a list, and those of the grid; or add numbers and new names."""
    if wanted is None:
        return foreign
    known = list(foreign.parameters)
    if isinstance(wanted, Mapping):
        numbers = {name: value for name, value in wanted.items() if not isinstance(value, str)}
        renamed = {exchange.as_name(v): n for n, v in wanted.items() if isinstance(v, str)}
        kept = [name for name in known if name not in numbers]
    else:
        numbers, renamed = {}, {}
        plain = [exchange.as_name(name) for name in wanted]
        kept = [name for name in known if name in plain or name in exchange.GRID]
    for name in (*renamed, *(() if isinstance(wanted, Mapping) else plain)):
        if name not in known:
            problem = f"unknown parameter {shown(name)}; {allowed(known, name)}"
            raise KeyProblem(("source", "parameters"), problem)
    for name in (*numbers, *renamed.values()):
        if name in foreign.fields:
            raise KeyProblem(("source", "parameters", name), "a field has that name")
        if not name.isidentifier() or name in (*schema.AXES, schema.TIME):
            raise KeyProblem(("source", "parameters", name), "is not a valid name")
    names = {name: renamed.get(name, name) for name in kept}

    def valued(part: Part) -> Part:
        values = {ours: part.parameters[theirs] for theirs, ours in names.items()}
        values |= {name: np.full(part.trajectories, float(v)) for name, v in numbers.items()}
        return replace(part, parameters=values)

    described = {ours: foreign.parameters[theirs] for theirs, ours in names.items()}
    described |= {n: foreign.parameters.get(n, exchange.described_as(n)) for n in numbers}
    parts = {split: valued(part) for split, part in foreign.parts.items()}
    return replace(foreign, parameters=described, parts=parts)


# Fewer points, fewer frames ----------------------------------------------------------------------


def _reduced(foreign: Foreign, source: Mapping[str, Any]) -> Foreign:
    """Take every n-th frame or point, or means over neighbouring points."""
    stride, coarsen = source.get("stride", {}), source.get("coarsen", {})
    if not stride and not coarsen:
        return foreign
    axes = schema.AXES[: len(foreign.space)]
    for key, given in (("stride", stride), ("coarsen", coarsen)):
        for axis in given:
            if axis not in (*axes, schema.TIME):
                problem = f"there is no such axis; {allowed(axes, axis)}"
                raise KeyProblem(("source", key, axis), problem)
    for axis, points, kind in zip(axes, foreign.space, foreign.boundary, strict=True):
        for key, given in (("stride", stride), ("coarsen", coarsen)):
            whole = key == "coarsen" or kind == "periodic"
            if whole and points % given.get(axis, 1):
                problem = f"must divide the {points} points, is {given[axis]}"
                raise KeyProblem(("source", key, axis), problem)
    every = [stride.get(axis, 1) for axis in axes]
    means = [coarsen.get(axis, 1) for axis in axes]
    taken = zip(foreign.space, every, means, strict=True)
    space = tuple(-(-points // n) // m for points, n, m in taken)
    if math.prod(space) < 1:
        raise KeyProblem(("source", "coarsen"), f"leaves no points of {foreign.space}")
    steps = stride.get(schema.TIME, 1)
    parts = {
        split: _fewer(part, foreign, steps, every, means) for split, part in foreign.parts.items()
    }
    layout = dict(foreign.layout)
    centred = foreign.centred and max(every) == 1
    if layout.get("origin"):
        first = next(iter(foreign.parts.values()))
        layout["origin"] = _origins(foreign, first, every, means)
    return replace(foreign, space=space, parts=parts, centred=centred, layout=layout)


def _origins(
    foreign: Foreign, part: Part, every: Sequence[int], means: Sequence[int]
) -> list[float]:
    """Return the position of the first point of each axis, or of the edge before it."""
    found = []
    lengths = part.parameters
    for axis, points, n, m, old in zip(
        schema.AXES, foreign.space, every, means, foreign.layout["origin"], strict=False
    ):
        length = lengths.get(f"{schema.LENGTH}_{axis}", lengths[schema.LENGTH])
        cell = float(length[0]) / points
        if foreign.centred:
            found.append(old if max(every) == 1 else old + cell / 2 + (m - 1) * n * cell / 2)
        else:
            found.append(old + (m - 1) * n * cell / 2)
    return found


def _fewer(
    part: Part, foreign: Foreign, steps: int, every: Sequence[int], means: Sequence[int]
) -> Part:
    whole = range(0, part.frames, steps)
    values = dict(part.parameters)
    if steps > 1 and schema.DT in values:
        values[schema.DT] = values[schema.DT] * steps
    for axis, points, n in zip(schema.AXES, foreign.space, every, strict=False):
        name = schema.LENGTH if axis == schema.AXES[0] else f"{schema.LENGTH}_{axis}"
        if points % n:  # between walls the last point stays: spacing times points grows
            old = values.get(name, values[schema.LENGTH])
            values[name] = old / points * n * -(-points // n)
    size = foreign.frame_bytes

    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        chosen = whole[frames.start : frames.stop : frames.step]
        some = max(1, exchange.BLOCK // size)  # frames at a time, of several rows if they fit
        many = max(1, some // len(chosen))
        blocks = [
            [
                _thinned(
                    part.read(rows[i : i + many], chosen[j : j + some], channels), every, means
                )
                for j in range(0, len(chosen), some)
            ]
            for i in range(0, len(rows), many)
        ]
        return np.concatenate([np.concatenate(pieces, axis=1) for pieces in blocks])

    return replace(part, frames=len(whole), parameters=values, read=read)


def _thinned(states: ndarray, every: Sequence[int], means: Sequence[int]) -> ndarray:
    index: Any = (..., *(slice(None, None, n) for n in every))
    states = states[index]
    for axis, size in enumerate(means, start=3):
        if size > 1:
            shape = (*states.shape[:axis], -1, size, *states.shape[axis + 1 :])
            states = states.reshape(shape).mean(axis + 1)
    return states


def _cut(foreign: Foreign, frames: int) -> Foreign:
    """Cut trajectories into pieces; what is left over at their ends is left out."""
    parts = {}
    for split, part in foreign.parts.items():
        if part.frames < frames:
            problem = f"must be at most {part.frames}, the frames of a trajectory, is {frames}"
            raise KeyProblem(("source", "cut"), problem)
        parts[split] = _pieces(part, frames)
    return replace(
        foreign,
        parts=parts,
        parameters={n: v for n, v in foreign.parameters.items() if n != exchange.FIRST_TIME},
    )


def _pieces(part: Part, frames: int) -> Part:
    count = part.frames // frames

    def read(rows: range, times: range, channels: Sequence[int]) -> ndarray:
        blocks = []
        for number in range(rows.start // count, (rows.stop - 1) // count + 1):
            first = max(rows.start - number * count, 0) * frames
            last = min(rows.stop - number * count, count) * frames
            block = part.read(range(number, number + 1), range(first, last), channels)[0]
            pieces = block.reshape(-1, frames, *block.shape[1:])
            blocks.append(pieces[:, times.start : times.stop : times.step])
        return np.concatenate(blocks)

    values = {
        name: np.repeat(column, count)
        for name, column in part.parameters.items()
        if name != exchange.FIRST_TIME
    }
    return Part(count * part.trajectories, frames, values, read)


# Splits ------------------------------------------------------------------------------------------


def _divided(foreign: Foreign, splits: Mapping[str, Any], seed: int | None) -> Foreign:
    """Divide trajectories into the splits, and take as much of each as is asked for."""
    if "" in foreign.parts:
        numbers = _numbers(foreign.parts[""].trajectories, foreign, splits, seed)
        parts = {name: _some(foreign.parts[""], chosen) for name, chosen in numbers.items()}
    else:
        if seed is not None:
            raise KeyProblem(("seed",), "has no effect: the files are divided into splits already")
        parts = dict(foreign.parts)
        for name, part in parts.items():
            wanted = splits.get(name, {}).get("trajectories")
            if wanted is not None:
                count = _count(name, wanted, part.trajectories)
                parts[name] = _some(part, np.arange(count))
    for name, part in parts.items():
        frames = splits.get(name, {}).get("frames", part.frames)
        if frames > part.frames:
            problem = f"must be at most {part.frames}, those of the files, is {frames}"
            raise KeyProblem(("splits", name, "frames"), problem)
        parts[name] = replace(part, frames=frames)
    return replace(foreign, parts=parts)


def _count(split: str, wanted: float, total: int) -> int:
    count = max(1, int(wanted * total + 1e-9)) if isinstance(wanted, float) else wanted
    if not 1 <= count <= total:
        problem = f"must be between 1 and {total}, the trajectories of the files, is {wanted}"
        raise KeyProblem(("splits", split, "trajectories"), problem)
    return count


def _numbers(
    total: int, foreign: Foreign, splits: Mapping[str, Any], seed: int | None
) -> dict[str, ndarray]:
    """Return which trajectories are in each split, in the order of the files."""
    if total < len(schema.SPLITS):
        frames = foreign.parts[""].frames
        problem = f"{total} trajector{'y' if total == 1 else 'ies'} can't be divided into three "
        cut = "splits; source.cut: n cuts them into pieces of n frames"
        raise KeyProblem(("source", "path"), f"{problem}{cut}, they have {frames}")
    counts = []
    for split in schema.SPLITS:
        if splits.get(split, {}).get("trajectories") is None:
            problem = f"is missing; the files don't say how to divide {total} trajectories"
            raise KeyProblem(("splits", split, "trajectories"), problem)
        counts.append(_count(split, splits[split]["trajectories"], total))
    if sum(counts) > total:
        problem = f"{sum(counts)} trajectories are wanted, there are {total}"
        raise KeyProblem(("splits", schema.SPLITS[-1], "trajectories"), problem)
    order = np.arange(total) if seed is None else np.random.default_rng(seed).permutation(total)
    ends = np.cumsum([0, *counts])
    pairs = zip(schema.SPLITS, ends, ends[1:], strict=False)
    return {name: np.sort(order[begin:end]) for name, begin, end in pairs}


def _some(part: Part, numbers: ndarray) -> Part:
    """Return these trajectories of a part."""

    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        wanted = numbers[rows.start : rows.stop]
        runs = np.split(wanted, np.flatnonzero(np.diff(wanted) != 1) + 1)
        blocks = [part.read(range(int(run[0]), int(run[-1]) + 1), frames, channels) for run in runs]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    values = {name: column[numbers] for name, column in part.parameters.items()}
    return Part(len(numbers), part.frames, values, read)
