"""Stores to and from the HDF5 layouts of PDEBench (Takamoto et al., 2022, arXiv:2210.07182).

Four layouts, told apart by a file's content; coordinates are `x-coordinate`, ..., `t-coordinate`
(which may have one entry more than there are frames):

- `tensor`: one field, `tensor` (trajectory, time, x[, y[, z]]); advection, Burgers, 1D reaction.
- `darcy`: `nu` (trajectory, x, y) and `tensor` (trajectory, 1, x, y).
- `fields`: one array per field, `density`, `pressure`, `Vx`, ..., (trajectory, time, x[, y[, z]]).
- `groups`: a group per trajectory, `0000/data` (time, x[, y], field), `0000/grid/x`, `0000/grid/t`;
  diffusion-reaction, diffusion-sorption, shallow water.

Parameters are numbers among the attributes of a file (`beta`, `Nu`, `eta`, ...) or of a group.
Length and time step are those of the coordinates; an attribute `dt` that disagrees becomes `dt_`.
The files don't say what the boundary conditions are, nor how the trajectories are split.

Export: one file per split, `train.hdf5`, `valid.hdf5`, `test.hdf5`; parameters that all
trajectories share are attributes, others are arrays in the group `parameters`; a field's velocity
components are named as PDEBench does where density and pressure are there too. The attributes
`boundary_x`, ... and `fields` of a file hold what PDEBench lacks.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from numpy import ndarray

from longrun.data import schema
from longrun.data.store import Store
from longrun.exchange import formats as exchange
from longrun.exchange.formats import Foreign, Part
from longrun.runtime.cli import UserError, atomic

FORMAT = "PDEBench"
COORDINATES = tuple(f"{axis}-coordinate" for axis in (*schema.AXES, "t"))
CFD = {"u": "Vx", "v": "Vy", "w": "Vz"}
Layout = Literal["tensor", "darcy", "fields", "groups"]


def export_pdebench(store: Store, folder: Path) -> None:
    """Write a store in PDEBench's layout, one file per split, whole or not at all.

    A store that came from PDEBench gets the layout it had. Others: `tensor` for one field in one
    dimension, `fields` for several with density and pressure, `groups` for the rest and wherever
    trajectories differ in length or time step, since the others have one grid per file.

    Parameters
    ----------
    store
        Any store with at least one axis of space.
    folder
        Must not exist.

    Raises
    ------
    UserError
        No axis, or `folder` exists.
    """
    exchange.absent(folder)
    if not store.split(schema.SPLITS[0]).space:
        raise UserError(f"{store.path}: has no axis of space, which {FORMAT} needs")
    kind = _choose(store)
    with atomic(folder) as part:
        part.mkdir()
        for split in schema.SPLITS:
            with h5py.File(part / f"{split}.hdf5", "w") as file:
                _write(store, split, kind, file)


def _choose(store: Store) -> Layout:
    dims = len(store.split(schema.SPLITS[0]).space)
    for split in schema.SPLITS:
        grids = [exchange.times(store, split)]
        grids += [exchange.positions(store, split, axis) for axis in range(dims)]
        if not all(map(exchange.shared, grids)):
            return "groups"
    found: Layout | None = exchange.layout(store).get("kind")
    if found is not None:
        return found
    if len(store.fields) == 1 and dims == 1:
        return "tensor"
    return "fields" if {"density", "pressure"} <= set(store.fields) else "groups"


def _write(store: Store, split: str, kind: Layout, file: h5py.File) -> None:
    part = store.split(split)
    axes = schema.AXES[: len(part.space)]
    grids = {"t": exchange.times(store, split)}
    grids |= {name: exchange.positions(store, split, i) for i, name in enumerate(axes)}
    parameters = {name: v for name, v in part.parameters.items() if name not in exchange.GRID}
    for axis in axes:
        file.attrs[f"boundary_{axis}"] = store.attrs[schema.BOUNDARY][axis]
    names = _named(store.fields, kind)
    file.attrs["fields"] = names
    if kind == "groups":
        _write_groups(store, split, file, grids, parameters)
        return
    for name, values in parameters.items():
        if (values == values[0]).all():
            file.attrs[name] = values[0]
        else:
            file.create_dataset(f"parameters/{name}", data=values)
    for name, values in grids.items():
        if name != "t" or kind != "darcy":
            file.create_dataset(f"{name}-coordinate", data=values[0])
    shape = (part.trajectories, part.frames, *part.space)
    arrays = {}
    for field, name in zip(store.fields, names, strict=True):
        still = kind == "darcy" and field == store.fields[0]
        key = {"tensor": "tensor", "darcy": "nu" if still else "tensor", "fields": name}[kind]
        dtype = part.array(field)["dtype"]
        arrays[field] = file.create_dataset(key, (shape[0], *shape[1 + still :]), dtype)
    for block, states in exchange.blocks(store, split):
        for field, array in arrays.items():
            array[block] = states[field].reshape(-1, *array.shape[1:])


def _write_groups(
    store: Store,
    split: str,
    file: h5py.File,
    grids: Mapping[str, ndarray],
    parameters: Mapping[str, ndarray],
) -> None:
    names = _group_names(store.split(split).trajectories)
    for block, states in exchange.blocks(store, split):
        for row, number in enumerate(range(block.start, block.stop)):
            group = file.create_group(names[number])
            group["data"] = np.stack([states[field][row] for field in store.fields], -1)
            for name, values in grids.items():
                group[f"grid/{name}"] = values[number]
            for name, values in parameters.items():
                group.attrs[name] = values[number]


def _group_names(count: int) -> list[str]:
    """Name the groups of trajectories so that they sort as text, the order in which others read."""
    digits = max(4, len(str(count - 1)))
    return [f"{number:0{digits}d}" for number in range(count)]


def _named(fields: Sequence[str], kind: Layout) -> list[str]:
    cfd = kind == "fields" and {"density", "pressure"} <= set(fields)
    return [CFD.get(name, name) if cfd else name for name in fields]


def read_pdebench(path: Path, fields: Sequence[str] | None = None) -> Foreign:
    """Read a file in a layout of PDEBench: shapes and parameters now, frames block by block.

    Parameters
    ----------
    path
        The file.
    fields
        Names, where the layout has none: `u`, or `u`, `v`, ... by default.

    Raises
    ------
    UserError
        A file that is absent, damaged or laid out otherwise; a number of names that doesn't fit.
    """
    with exchange.opened(path, FORMAT) as file:
        kind = _recognise(file, path)
        arrays = _arrays(file, kind)
        count, frames, space = _sizes(file, kind, arrays, path)
        names = _field_names(file, kind, arrays, fields, path)
        grid, centred, origin = _grid(file, kind, count, frames, space, path)
        scalars = _scalars(file, kind, count, path)
        named = exchange.scalar_names(grid, scalars, names)
        values = grid | {named[original]: column for original, column in scalars.items()}
        edges = tuple(
            exchange.text(file.attrs.get(f"boundary_{axis}", "unknown"))
            for axis in schema.AXES[: len(space)]
        )
        dtype = exchange.stored_dtype(arrays, str(path))
        keys = [array.name for array in arrays]

    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        with exchange.opened(path, FORMAT) as file:
            return _frames(file, kind, keys, rows, frames, channels, space)

    return Foreign(
        {name: exchange.described_as(name) for name in names},
        {name: exchange.described_as(name) for name in values},
        edges,
        space,
        centred,
        dtype,
        {"": Part(count, frames, values, read)},
        {"kind": kind, "origin": origin},
    )


def _recognise(file: h5py.File, path: Path) -> Layout:
    if "tensor" in file:
        return "darcy" if "nu" in file else "tensor"
    if _numbered(file):
        return "groups"
    if _stacked(file):
        return "fields"
    held = ", ".join(sorted(file)[:5]) or "nothing"
    raise UserError(f"{path}: is in no known layout of {FORMAT}; it holds {held}")


def _numbered(file: h5py.File) -> list[str]:
    return sorted((name for name in file if re.fullmatch(r"\d+", name)), key=lambda n: (int(n), n))


def _stacked(file: h5py.File) -> list[str]:
    """Names of the arrays that are fields, in PDEBench's order where they are its own."""
    known = ["density", "pressure", "Vx", "Vy", "Vz"]
    listed = exchange.texts(file.attrs.get("fields", known))
    found = [
        name
        for name, array in file.items()
        if isinstance(array, h5py.Dataset) and array.ndim >= 3 and name not in COORDINATES
    ]
    return sorted(found, key=lambda n: (listed.index(n) if n in listed else len(listed), n))


def _arrays(file: h5py.File, kind: Layout) -> list[h5py.Dataset]:
    if kind == "groups":
        return [file[name]["data"] for name in _numbered(file)]
    names = {"tensor": ["tensor"], "darcy": ["nu", "tensor"], "fields": _stacked(file)}[kind]
    return [file[name] for name in names]


def _sizes(
    file: h5py.File, kind: Layout, arrays: Sequence[h5py.Dataset], path: Path
) -> tuple[int, int, tuple[int, ...]]:
    """Trajectories, frames and points, which all arrays must agree on."""
    last = arrays[-1]
    if kind == "groups":
        count, frames, space = len(arrays), last.shape[0], last.shape[1:-1]
        same = all(array.shape == last.shape for array in arrays)
    else:
        count, frames, space = last.shape[0], last.shape[1], last.shape[2:]
        still = (count, *space)
        same = all(a.shape == (still if a.name == "/nu" else last.shape) for a in arrays)
    if not same:
        raise UserError(f"{path}: arrays differ in shape")
    if not 1 <= len(space) <= len(schema.AXES):
        raise UserError(f"{path}: {last.name} has the shape {last.shape}, without axes of space")
    return count, frames, space


def _field_names(
    file: h5py.File,
    kind: Layout,
    arrays: Sequence[h5py.Dataset],
    given: Sequence[str] | None,
    path: Path,
) -> list[str]:
    if kind == "fields":
        found = [array.name.lstrip("/") for array in arrays]
    else:
        channels = {"groups": arrays[0].shape[-1], "darcy": 2, "tensor": 1}[kind]
        if given is None and "fields" in file.attrs:
            given = exchange.texts(file.attrs["fields"])
        default = ["u", "v", "w"] if channels <= 3 else [f"u{i}" for i in range(channels)]
        found = list(given or (["nu", "u"] if kind == "darcy" else default[:channels]))
        if len(found) != channels:
            raise UserError(f"{path}: has {channels} fields, {len(found)} names are given")
    names: list[str] = []
    for name in found:
        names.append(exchange.as_name(name, (*exchange.GRID, *names)))
    return names


def _grid(
    file: h5py.File,
    kind: Layout,
    count: int,
    frames: int,
    space: tuple[int, ...],
    path: Path,
) -> tuple[dict[str, ndarray], bool, list[float]]:
    """Lengths and time steps, of all trajectories or of each."""
    if kind == "groups":
        grids = [group["grid"] for group in (file[name] for name in _numbered(file))]

        def coordinate(name: str) -> ndarray:
            return np.stack([np.ravel(grid[name][()]) for grid in grids])
    else:

        def coordinate(name: str) -> ndarray:
            return np.ravel(file[f"{name}-coordinate"][()])[None]

    def regular(name: str, points: int, more: int = 0) -> tuple[ndarray, ndarray, int]:
        found = coordinate(name)
        if not points <= found.shape[-1] <= points + more:
            raise UserError(f"{path}: {name} has {found.shape[-1]} values for {points} points")
        first, step = exchange.spacing(found[..., :points], f"{path}: {name}")
        return np.broadcast_to(first, (count,)), np.broadcast_to(step, (count,)), points

    axes = [regular(name, n) for name, n in zip(schema.AXES, space, strict=False)]
    if kind == "darcy" or (frames == 1 and "t-coordinate" not in file and kind != "groups"):
        time = (np.zeros(count), np.ones(count), frames)
    else:
        time = regular("t", frames, more=1)
    return exchange.grid_parameters(axes, time, str(path))


def _scalars(file: h5py.File, kind: Layout, count: int, path: Path) -> dict[str, ndarray]:
    """Numbers among the attributes, and arrays with one per trajectory, by name in the file."""

    def numbers(attrs: h5py.AttributeManager) -> dict[str, float]:
        found = {name: exchange.number(value) for name, value in attrs.items()}
        return {name: value for name, value in found.items() if value is not None}

    values = {name: np.full(count, value) for name, value in numbers(file.attrs).items()}
    if kind == "groups":
        each = [numbers(file[name].attrs) for name in _numbered(file)]
        shared = [name for name in each[0] if all(name in found for found in each)]
        values |= {name: np.array([found[name] for found in each]) for name in shared}
    elif "parameters" in file:
        for name, array in file["parameters"].items():
            where = f"{path}: parameters/{name}"
            values[name] = exchange.per_trajectory(array[()], count, where)
    return values


def _frames(
    file: h5py.File,
    kind: Layout,
    keys: Sequence[str],
    rows: range,
    frames: range,
    channels: Sequence[int],
    space: tuple[int, ...],
) -> ndarray:
    times = exchange.as_slice(frames)
    if kind == "groups":
        states = np.stack([file[keys[row]][times] for row in rows])
        return np.moveaxis(states[..., list(channels)], -1, 2)
    chosen = [file[keys[channel]] for channel in channels]
    index = exchange.as_slice(rows)
    shape = (len(rows), len(frames), *space)
    blocks = [array[index] if array.name == "/nu" else array[index, times] for array in chosen]
    return np.stack([block.reshape(shape) for block in blocks], axis=2)
