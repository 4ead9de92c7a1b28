"""Stores to and from the HDF5 layout of The Well (Ohana et al., 2024, arXiv:2412.00568).

A dataset is a folder with `data/{train,valid,test}/*.hdf5`. A file has the groups `dimensions`
(`time` and one array per axis), `boundary_conditions` (a mask per axis, with its type), `scalars`
(the parameters) and `t0_fields`, `t1_fields`, `t2_fields`: scalar, vector and tensor fields,
`(trajectory, time, *space, *component)`.

Export: one file per split. Every field of a store is a scalar field under its own name, velocity
components too, because a store doesn't say which of its fields form a vector; what was imported
as a vector or tensor becomes one again. Parameters are scalars that vary by sample, the grid and
the times vary by sample where `length` or `dt` do. The Well knows the boundary conditions wall,
open and periodic; a store's own words for them are kept in the attribute `longrun_boundary`.

Import: components of vectors are named as The Well names them, `velocity_x`; fields that are
constant in time, or in space along some axis, are repeated; scalars that vary in time are left
out, with a message.
"""

import itertools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Shaped
from numpy import ndarray

from longrun.data import schema
from longrun.data.store import Store
from longrun.exchange import formats as exchange
from longrun.exchange.formats import Foreign, Part
from longrun.runtime.cli import UserError, atomic

log = logging.getLogger(__name__)

FORMAT = "The Well"
KINDS = {"periodic": "PERIODIC", "open": "OPEN", "outflow": "OPEN", "no flux": "WALL"}
OWN = "longrun_boundary"


def export_well(store: Store, folder: Path) -> None:
    """Write a store as a dataset of The Well, whole or not at all.

    Parameters
    ----------
    store
        Any store with at least one axis of space.
    folder
        Must not exist. `the_well` reads it by `WellDataset(path=folder, well_split_name="train")`.

    Raises
    ------
    UserError
        No axis, or `folder` exists.
    """
    exchange.absent(folder)
    if not store.split(schema.SPLITS[0]).space:
        raise UserError(f"{store.path}: has no axis of space, which {FORMAT} needs")
    with atomic(folder) as part:
        for split in schema.SPLITS:
            target = part / "data" / split
            target.mkdir(parents=True)
            with h5py.File(target / f"{store.path.stem}.hdf5", "w") as file:
                _write(store, split, file)


def _write(store: Store, split: str, file: h5py.File) -> None:
    part = store.split(split)
    axes = schema.AXES[: len(part.space)]
    parameters = part.parameters
    file.attrs["dataset_name"] = store.path.stem
    file.attrs["grid_type"] = "cartesian"
    file.attrs["n_spatial_dims"] = len(axes)
    file.attrs["n_trajectories"] = part.trajectories
    file.attrs["longrun"] = json.dumps(
        {name: store.attrs.get(name) for name in (schema.EQUATION, schema.PROVENANCE)}
    )
    constant = [name for name, values in parameters.items() if (values == values[0]).all()]
    file.attrs["simulation_parameters"] = constant
    for name in constant:
        file.attrs[name] = parameters[name][0]

    dimensions = file.create_group("dimensions")
    dimensions.attrs["spatial_dims"] = list(axes)
    grids = {schema.TIME: exchange.times(store, split)}
    grids |= {name: exchange.positions(store, split, axis) for axis, name in enumerate(axes)}
    for name, values in grids.items():
        same = exchange.shared(values)
        array = dimensions.create_dataset(name, data=values[0] if same else values)
        array.attrs["sample_varying"] = not same
        array.attrs["time_varying"] = False

    conditions = file.create_group("boundary_conditions")
    for axis, points in zip(axes, part.space, strict=True):
        _write_boundary(conditions, axis, points, store.attrs[schema.BOUNDARY][axis])

    scalars = file.create_group("scalars")
    scalars.attrs["field_names"] = list(parameters)
    for name, values in parameters.items():
        array = scalars.create_dataset(name, data=values)
        array.attrs.update(part.array(name)["attrs"])
        array.attrs["sample_varying"] = True
        array.attrs["time_varying"] = False
    _write_fields(store, split, file)


def _write_boundary(group: h5py.Group, axis: str, points: int, name: str) -> None:
    kind = KINDS.get(name, "WALL")
    condition = group.create_group(f"{axis}_{kind.lower()}")
    condition.attrs["bc_type"] = kind
    condition.attrs["associated_dims"] = [axis]
    condition.attrs["associated_fields"] = []
    condition.attrs["sample_varying"] = False
    condition.attrs["time_varying"] = False
    condition.attrs[OWN] = name
    mask = np.zeros(points, bool)
    mask[[0, -1]] = True
    condition.create_dataset("mask", data=mask)


def _write_fields(store: Store, split: str, file: h5py.File) -> None:
    part = store.split(split)
    memory = exchange.layout(store)
    tensors = {
        name: (order, tuple(members))
        for name, (order, members) in memory.get("tensors", {}).items()
    }
    member = {field for _, members in tensors.values() for field in members}
    tensors |= {name: (0, (name,)) for name in store.fields if name not in member}
    groups = [file.create_group(f"t{order}_fields") for order in range(3)]
    for order, group in enumerate(groups):
        group.attrs["field_names"] = [
            name for name, (found, _) in tensors.items() if found == order
        ]
    dims = len(part.space)
    arrays = {}
    for name, (order, members) in tensors.items():
        varies = name not in memory.get("constant", ())
        described = part.array(members[0])
        array = groups[order].create_dataset(
            name,
            shape=(
                part.trajectories,
                *((part.frames,) if varies else ()),
                *part.space,
                *(dims,) * order,
            ),
            dtype=described["dtype"],
        )
        for key in ("units", "long_name"):
            array.attrs[key] = described["attrs"][key]
        array.attrs["dim_varying"] = [True] * dims
        array.attrs["sample_varying"] = True
        array.attrs["time_varying"] = varies
        arrays[name] = array
    for block, states in exchange.blocks(store, split):
        for name, (order, members) in tensors.items():
            array = arrays[name]
            values = np.stack([states[field] for field in members], -1)
            if not array.attrs["time_varying"]:
                values = values[:, 0]
            array[block] = (
                values.reshape(len(values), *array.shape[1:]) if order else values[..., 0]
            )


def read_well(path: Path) -> Foreign:
    """Read a file of The Well: shapes and parameters now, frames block by block.

    Raises
    ------
    UserError
        A file that is damaged or laid out otherwise; a grid that isn't cartesian and even.
    """
    with exchange.opened(path, FORMAT) as file:
        grid = exchange.text(file.attrs["grid_type"])
        if grid != "cartesian":
            raise UserError(f"{path}: the grid is {grid}; only cartesian ones can be stored")
        count = int(np.asarray(file.attrs["n_trajectories"]).item())
        dimensions = file["dimensions"]
        axes = exchange.texts(dimensions.attrs["spatial_dims"])
        if not 1 <= len(axes) <= len(schema.AXES):
            raise UserError(f"{path}: has {len(axes)} axes; 1 to {len(schema.AXES)} can be stored")
        space = tuple(int(dimensions[name].shape[-1]) for name in axes)
        frames = int(dimensions["time"].shape[-1])
        evenly = [
            (*_each(exchange.spacing(dimensions[n][()], f"{path}: {n}"), count), p)
            for n, p in zip(axes, space, strict=True)
        ]
        time = exchange.spacing(dimensions["time"][()], f"{path}: time")
        values, centred, origin = exchange.grid_parameters(
            evenly, (*_each(time, count), frames), str(path)
        )
        described: dict[str, dict[str, str]] = {
            name: {"units": "unknown", "long_name": name.replace("_", " ")} for name in values
        }
        fields, tensors, constant, sources = _field_names(file, axes)
        _add_scalars(file["scalars"], count, values, described, fields, path)
        boundary = tuple(_boundary(file["boundary_conditions"], axis, path) for axis in axes)
        for (group, name, _), field in zip(sources, fields, strict=True):
            _check_shape(file[group][name], field, count, frames, space, path)
        still = [
            field
            for (group, name, _), field in zip(sources, fields, strict=True)
            if not _flag(file[group][name].attrs["time_varying"])
        ]
        dtype = exchange.stored_dtype((file[g][n] for g, n, _ in sources), str(path))
    layout: dict[str, Any] = {"tensors": tensors, "constant": constant, "origin": origin}

    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        with exchange.opened(path, FORMAT) as file:
            chosen = [sources[channel] for channel in channels]
            return np.stack(
                [
                    _frames(file[group][name], component, rows, frames, space)
                    for group, name, component in chosen
                ],
                axis=2,
            )

    part = Part(count, frames, values, read)
    parts, static = {"": part}, tuple(still)
    return Foreign(fields, described, boundary, space, centred, dtype, parts, layout, static)


def _each(pair: tuple[ndarray, ndarray], count: int) -> tuple[ndarray, ndarray]:
    """Give every trajectory its value."""
    first, step = (np.broadcast_to(value, (count,)).astype(np.float64) for value in pair)
    return first, step


def _add_scalars(
    group: h5py.Group,
    count: int,
    values: dict[str, ndarray],
    described: dict[str, dict[str, str]],
    fields: Iterable[str],
    path: Path,
) -> None:
    """Add the scalars that are constant in time to the parameters of the coordinates."""
    scalars = {}
    for original in exchange.texts(group.attrs["field_names"]):
        if _flag(group[original].attrs["time_varying"]):
            log.warning("%s: scalar %s varies in time and is left out", path, original)
            continue
        where = f"{path}: scalar {original}"
        scalars[original] = exchange.per_trajectory(group[original][()], count, where)
    for original, name in exchange.scalar_names(values, scalars, fields).items():
        values[name] = scalars[original]
        described[name] = exchange.described_as(original, group[original].attrs)


def _flag(value: Any) -> bool:
    return bool(np.asarray(value).item())


def _boundary(group: h5py.Group, axis: str, path: Path) -> str:
    """Name the condition at the two ends of an axis; open by default."""
    ends = ["open", "open"]
    for condition in group.values():
        dims = exchange.texts(condition.attrs["associated_dims"])
        if axis not in dims:
            continue
        kind = exchange.text(condition.attrs["bc_type"]).lower()
        name = exchange.text(condition.attrs.get(OWN, kind))
        mask = np.asarray(condition["mask"][()], bool)
        # axes of trajectories or frames come first
        masks = mask.reshape(-1, *mask.shape[mask.ndim - len(dims) :])
        if (masks != masks[0]).any():
            raise UserError(
                f"{path}: the mask of {condition.name} differs between trajectories or frames; a "
                "store has one boundary condition for all"
            )
        mask = np.moveaxis(masks[0], dims.index(axis), 0)
        for end in (0, -1):
            # as the_well reads it: a wall must cover the whole face
            covered = mask[end].all() if name == "wall" else mask[end].any()
            if covered:
                ends[end] = name
        if name == "periodic" and "periodic" not in ends:
            ends = ["periodic", "periodic"]  # some files mark no point for it
    return ends[0] if ends[0] == ends[1] else f"{ends[0]}; {ends[1]}"


def _field_names(
    file: h5py.File, axes: Sequence[str]
) -> tuple[
    dict[str, dict[str, str]],
    dict[str, Any],
    list[str],
    list[tuple[str, str, tuple[int, ...]]],
]:
    """Names of the fields in a store, and where to find each."""
    fields: dict[str, dict[str, str]] = {}
    tensors: dict[str, Any] = {}
    constant: list[str] = []
    sources: list[tuple[str, str, tuple[int, ...]]] = []
    for order in range(3):
        group = file[f"t{order}_fields"]
        for original in exchange.texts(group.attrs["field_names"]):
            array = group[original]
            members = []
            for component in itertools.product(range(len(axes)), repeat=order):
                suffix = "".join(axes[i] for i in component)
                full = f"{original}_{suffix}" if suffix else original
                name = exchange.as_name(full, (*exchange.GRID, *fields))
                fields[name] = exchange.described_as(full, array.attrs)
                members.append(name)
                sources.append((group.name, original, component))
            name = original if order else members[0]
            if order:
                tensors[name] = [order, members]
            if not _flag(array.attrs["time_varying"]):
                constant.append(name)
    return fields, tensors, constant, sources


def _check_shape(
    array: h5py.Dataset, field: str, count: int, frames: int, space: tuple[int, ...], path: Path
) -> None:
    attrs = array.attrs
    expected: tuple[int, ...] = (count,) if _flag(attrs["sample_varying"]) else ()
    expected += (frames,) if _flag(attrs["time_varying"]) else ()
    varying = np.ravel(attrs["dim_varying"])
    expected += tuple(n for n, v in zip(space, varying, strict=True) if v)
    if array.shape[: len(expected)] != expected:
        raise UserError(f"{path}: {field} has the shape {array.shape}, not {expected}")


def _frames(
    array: h5py.Dataset,
    component: tuple[int, ...],
    rows: range,
    frames: range,
    space: tuple[int, ...],
) -> Shaped[ndarray, "trajectory time *space"]:
    """Read one component, repeated along the axes that it lacks."""
    attrs = array.attrs
    varies, moves = _flag(attrs["sample_varying"]), _flag(attrs["time_varying"])
    index = [exchange.as_slice(rows)] if varies else []
    index += [exchange.as_slice(frames)] if moves else []
    values = np.asarray(array[(*index, ..., *component)])
    values = values if varies else values[None]
    values = values if moves else values[:, None]
    for axis, there in enumerate(np.ravel(attrs["dim_varying"])):
        if not there:
            values = np.expand_dims(values, 2 + axis)
    return np.broadcast_to(values, (len(rows), len(frames), *space))
