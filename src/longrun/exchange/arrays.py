"""Arrays with named axes as sources: what xarray opens, and NumPy's `.npy` and `.npz`.

`dims` says which axis of the files is which. Fields that lack time, or an axis of space, are
repeated along it, as masks and other things that don't move; axes of length one that have no name
are dropped. Coordinates give the time step and the lengths, where `dt` and `length` don't; those
that fall, such as latitudes from the north, are turned round. A file without an axis of
trajectories is one trajectory.

Nothing is read before it is needed. A large array in a compressed `.npz` is then unpacked into a
temporary file: it can't be read in parts.
"""

import contextlib
import functools
import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from xarray.core import indexing

from longrun.config import KeyProblem
from longrun.data import schema
from longrun.exchange import formats as exchange
from longrun.exchange.formats import Foreign, Part
from longrun.runtime.cli import UserError
from longrun.runtime.registry import allowed, shown

SMALL = 2**20  # bytes of a compressed array that is read at once
LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip's member: lengths of its name and of the rest


def read_xarray(path: Path, source: Mapping[str, Any]) -> Foreign:
    """Look at a file or folder that xarray opens.

    Parameters
    ----------
    path
        netCDF, zarr, or what else xarray has an engine for.
    source
        The section of the dataset; `dims` are names by axis.

    Raises
    ------
    UserError
        It can't be opened, or holds something else than the section says.
    """
    with _unreadable(path):
        options: dict[str, Any] = {"decode_timedelta": False}
        if path.is_dir():
            options |= {"engine": "zarr", "consolidated": False}  # such metadata goes stale
        data = xr.open_dataset(path, **options)
    return _foreign(data, source["dims"], source, path)


def read_numpy(path: Path, source: Mapping[str, Any]) -> Foreign:
    """Look at a `.npy` or `.npz`; arguments as of `read_xarray`, `dims` are the axes in order."""
    dims = source["dims"]
    with _unreadable(path):
        arrays = mapped(path)
    stored = {name: array for name, array in arrays.items() if array.ndim == len(dims)}
    if not stored:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        problem = f"{path}: no array has {len(dims)} axes; there are {shapes}"
        raise KeyProblem(("source", "dims"), problem)
    variables = {name: xr.DataArray(xr.Variable(dims, array)) for name, array in stored.items()}
    if schema.FIELD in dims:
        variables = _by_field(variables, source.get("fields"), path)
    data = xr.Dataset()
    try:
        for name, variable in variables.items():
            data[f"_{name}" if name in dims else name] = variable
    except ValueError as error:
        raise KeyProblem(("source", "dims"), f"{path}: arrays differ: {shown(error)}") from None
    for name, array in arrays.items():
        axis = {"t": schema.TIME}.get(name, name)
        if array.shape == (data.sizes.get(axis),):
            data = data.assign_coords({axis: np.asarray(array)})
        elif array.shape in ((), (data.sizes.get(schema.TRAJECTORY),)):
            data[name] = ([schema.TRAJECTORY][: array.ndim], np.asarray(array))
        elif array.shape == tuple(data.sizes[axis] for axis in dims if axis in schema.AXES):
            data[name] = ([axis for axis in dims if axis in schema.AXES], array)
    return _foreign(data, {axis: axis for axis in dims if axis != schema.FIELD}, source, path)


def _by_field(
    arrays: Mapping[str, xr.DataArray], names: Sequence[str] | None, path: Path
) -> dict[str, xr.DataArray]:
    """Take the one array with an axis of fields apart."""
    if len(arrays) > 1:
        problem = f"{path}: one array may have an axis field, there are {', '.join(arrays)}"
        raise KeyProblem(("source", "dims"), problem)
    (array,) = arrays.values()
    count = array.sizes[schema.FIELD]
    if names is None or isinstance(names, Mapping):
        names = ["u", "v", "w"][:count] if count <= 3 else [f"u{i}" for i in range(count)]
    if len(names) != count:
        problem = f"{path}: has {count} fields, {len(names)} names are given"
        raise KeyProblem(("source", "fields"), problem)
    return {name: array.isel(field=number) for number, name in enumerate(names)}


# NumPy's files -----------------------------------------------------------------------------------


class _Packed(xr.backends.BackendArray):
    """A member of a compressed `.npz`, unpacked into a temporary file when it is first read."""

    def __init__(self, path: Path, entry: str, shape: tuple[int, ...], dtype: np.dtype):
        self.path, self.entry, self.shape, self.dtype = path, entry, shape, dtype

    def __getitem__(self, key: Any) -> Any:
        """Read what xarray asks for."""
        basic = indexing.IndexingSupport.BASIC
        return indexing.explicit_indexing_adapter(
            key, self.shape, basic, self._unpacked.__getitem__
        )

    @functools.cached_property
    def _unpacked(self) -> ndarray:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (goes with the array)
        with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as packed:
            shutil.copyfileobj(packed, file, 2**20)
        file.seek(0)
        return _map(file)


def mapped(path: Path) -> dict[str, Any]:
    """Map the arrays of a file into memory, by name; that of a `.npy` is `u`."""
    if path.suffix.lower() != ".npz":
        return {"u": np.load(path, mmap_mode="r", allow_pickle=False)}
    with zipfile.ZipFile(path) as archive:
        return {
            entry.filename.removesuffix(".npy"): _member(archive, entry, path)
            for entry in archive.infolist()
        }


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Any:
    if entry.compress_type == zipfile.ZIP_STORED:
        file = path.open("rb")
        file.seek(entry.header_offset)
        header = file.read(LOCAL_HEADER.size)
        file.seek(sum(LOCAL_HEADER.unpack(header)), 1)
        return _map(file)
    with archive.open(entry) as packed:
        if entry.file_size < SMALL:
            return np.lib.format.read_array(packed, allow_pickle=False)
        shape, _, dtype = _header(packed)
    return indexing.LazilyIndexedArray(_Packed(path, entry.filename, shape, dtype))


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    old = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects, no numbers")
    return shape, fortran, dtype


def _map(file: Any) -> ndarray:
    """Map an array into memory; the file is at the beginning of its header."""
    shape, fortran, dtype = _header(file)
    if not math.prod(shape):
        return np.empty(shape, dtype)
    order: Literal["F", "C"] = "F" if fortran else "C"
    return np.memmap(file, dtype, "r", file.tell(), shape, order)


@contextlib.contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """Say in one line why a file can't be opened; libraries raise many kinds."""
    if not path.exists():
        raise UserError(f"{path}: no such file")
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"{path}: can't be opened: {reason}") from None


# Axes, fields and parameters ---------------------------------------------------------------------


def _foreign(
    data: xr.Dataset, dims: Mapping[str, str], source: Mapping[str, Any], path: Path
) -> Foreign:
    for axis, name in dims.items():
        if name not in data.sizes:
            problem = f"{path}: has no dimension {shown(name)}; {allowed(data.sizes, name)}"
            raise KeyProblem(("source", "dims", axis), problem)
    axes = [axis for axis in schema.AXES if axis in dims]
    data = _rising(data, [dims[axis] for axis in axes])
    where = str(path)
    variables = _fields(data, dims, axes, source.get("fields"), path)
    count = data.sizes[dims[schema.TRAJECTORY]] if schema.TRAJECTORY in dims else 1
    frames = data.sizes[dims[schema.TIME]] if schema.TIME in dims else 1
    space = tuple(data.sizes[dims[axis]] for axis in axes)
    each = [_regular(data, axis, dims[axis], source, path, count) for axis in axes]
    time = (np.zeros(count), np.ones(count), 1)
    if schema.TIME in dims:
        time = _regular(data, schema.TIME, dims[schema.TIME], source, path, count)
    grid, centred, origin = exchange.grid_parameters(each, time, where)
    names: list[str] = []
    for name in variables:
        names.append(exchange.as_name(name, (*exchange.GRID, *names)))
    scalars = _parameters(data, dims, source.get("parameters"), set(variables), count, path)
    renamed = exchange.scalar_names(grid, {n: v for n, (v, _) in scalars.items()}, names)
    described = {name: exchange.described_as(name) for name in grid}
    described |= {renamed[n]: exchange.described_as(n, about) for n, (_, about) in scalars.items()}
    values = grid | {renamed[name]: column for name, (column, _) in scalars.items()}
    arrays = list(variables.values())
    order = [dims[axis] for axis in (schema.TRAJECTORY, schema.TIME, *axes) if axis in dims]

    def read(rows: range, times: range, channels: Sequence[int]) -> ndarray:
        blocks = []
        for channel in channels:
            block = _block(arrays[channel], dims, rows, times, order)
            whole = [axis in dims for axis in (schema.TRAJECTORY, schema.TIME)]
            for place, there in enumerate(whole):
                block = block if there else np.expand_dims(block, place)
            blocks.append(np.broadcast_to(block, (len(rows), len(times), *space)))
        return np.stack(blocks, axis=2)

    about = [exchange.described_as(str(array.name), array.attrs) for array in arrays]
    return Foreign(
        dict(zip(names, about, strict=True)),
        described,
        ("unknown",) * len(axes),
        space,
        centred,
        exchange.stored_dtype(arrays, where),
        {"": Part(count, frames, values, read)},
        {"origin": origin},
        tuple(
            name
            for name, array in zip(names, arrays, strict=True)
            if schema.TIME in dims and dims[schema.TIME] not in array.dims
        ),
    )


def _block(
    array: xr.DataArray, dims: Mapping[str, str], rows: range, times: range, order: Sequence[str]
) -> ndarray:
    """Read a block of a field; axes that it lacks have length one."""
    chosen = {schema.TRAJECTORY: rows, schema.TIME: times}
    index = {dims[a]: exchange.as_slice(part) for a, part in chosen.items() if a in dims}
    index = {name: part for name, part in index.items() if name in array.dims}
    with _unreadable(Path(array.encoding.get("source", "."))):
        block = array.isel(index).transpose(*(name for name in order if name in array.dims)).values
    for place, name in enumerate(order):
        if name not in array.dims:
            block = np.expand_dims(block, place)
    return block


def _rising(data: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    """Turn axes round whose coordinate falls."""
    for name in names:
        if name in data.coords and data[name].ndim == 1 and data.sizes[name] > 1:
            first, last = data[name].values[[0, -1]]
            if first > last:
                data = data.isel({name: slice(None, None, -1)})
    return data


def _fields(
    data: xr.Dataset,
    dims: Mapping[str, str],
    axes: Sequence[str],
    wanted: Any,
    path: Path,
) -> dict[str, xr.DataArray]:
    """Return the fields by their names in the file: all over space, or those that are asked for."""
    space = {dims[axis] for axis in axes}
    over = {str(n): v for n, v in data.data_vars.items() if space <= {*v.dims}}
    if wanted is None:
        names = list(over)
    else:
        names = list(wanted.values() if isinstance(wanted, Mapping) else wanted)
    if not names:
        problem = f"{path}: no variable is over {', '.join(sorted(space))}"
        raise KeyProblem(("source", "dims"), problem)
    found = {}
    for name in names:
        if name not in data.data_vars:
            problem = f"{path}: has no variable {shown(name)}; {allowed(data.data_vars, name)}"
            raise KeyProblem(("source", "fields"), problem)
        array = data[name].drop_vars([c for c in data[name].coords if c not in data[name].dims])
        rest = [d for d in array.dims if d not in dims.values()]
        long = [str(d) for d in rest if array.sizes[d] > 1]
        if long:
            problem = f"{path}: {name} has the dimension {long[0]} too, and it is no axis"
            raise KeyProblem(("source", "dims"), problem)
        found[name] = array.isel(dict.fromkeys(rest, 0))
    return found


def _regular(
    data: xr.Dataset, axis: str, name: str, source: Mapping[str, Any], path: Path, count: int
) -> tuple[Float[ndarray, " trajectory"], Float[ndarray, " trajectory"], int]:
    """Return first value, step and number of points of an axis."""
    points = data.sizes[name]
    key = "dt" if axis == schema.TIME else "length"
    given = source.get(key)
    if isinstance(given, Mapping):
        given = given.get(axis)
    if given is not None:
        step = float(given) if axis == schema.TIME else float(given) / points
        return np.zeros(count), np.full(count, step), points
    if name not in data.coords or data[name].ndim != 1:
        if points == 1 and axis == schema.TIME:
            return np.zeros(count), np.ones(count), 1
        problem = f"is missing: {path} has no coordinate along {name}"
        raise KeyProblem(("source", key), problem)
    values = _numbers(data[name].values, path, name)
    try:
        first, spacing = exchange.spacing(values, f"{path}: {name}")
    except UserError as error:
        raise KeyProblem(("source", key), f"is missing; without it {error}") from None
    return np.repeat(first, count), np.repeat(spacing, count), points


def _numbers(values: ndarray, path: Path, name: str) -> ndarray:
    """Return a coordinate as numbers: dates as seconds after the first."""
    if values.dtype.kind in "mM":
        return (values - values[0]) / np.timedelta64(1, "s")
    if values.dtype.kind not in "fiu":
        raise UserError(f"{path}: {name} is {values.dtype}, no numbers and no dates")
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _parameters(
    data: xr.Dataset,
    dims: Mapping[str, str],
    wanted: Any,
    fields: set[str],
    count: int,
    path: Path,
) -> dict[str, tuple[Float[ndarray, " trajectory"], Mapping[str, Any]]]:
    """Return values and attributes of the parameters, by name in the file.

    All variables with one number for each trajectory, and those variables and attributes of the
    file that are asked for.
    """
    trajectory = dims.get(schema.TRAJECTORY)
    names = [
        str(name)
        for name, variable in data.variables.items()
        if variable.dims == (trajectory,) and variable.dtype.kind in "fiu" and name != trajectory
    ]
    if isinstance(wanted, Mapping):
        names += [name for name in wanted.values() if isinstance(name, str)]
    elif wanted is not None:
        names = list(wanted)
    found: dict[str, tuple[ndarray, Mapping[str, Any]]] = {}
    for name in dict.fromkeys(names):
        if name in fields:
            continue
        if name in data.variables:
            values, about = data[name].values, data[name].attrs
        elif name in data.attrs:
            values, about = data.attrs[name], {}
        else:
            known = [*data.variables, *data.attrs]
            problem = f"{path}: has no variable or attribute {shown(name)}; {allowed(known, name)}"
            raise KeyProblem(("source", "parameters"), problem)
        found[name] = (exchange.per_trajectory(values, count, f"{path}: {name}"), about)
    return found
