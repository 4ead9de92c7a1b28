"""What the converters share: a dataset in another format, and how it becomes a store.

A store that comes from files says so in its attribute `source`. Where nothing else is said, no
equation of this package describes it (`equation: {name: imported}`), so it has no invariants and no
coarse solver. Its error was not measured: `reference_error` and `predictability` are null.
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Shaped
from numpy import ndarray

from longrun.data import schema
from longrun.data.store import Store, open_array
from longrun.runtime.cli import UserError, memory
from longrun.runtime.registry import shown

IMPORTED = "imported"
FIRST_TIME = "first_time"  # parameter: time of a trajectory's first frame, where it isn't 0
# parameters that the coordinates give
GRID = (
    schema.DT,
    FIRST_TIME,
    schema.LENGTH,
    *(f"{schema.LENGTH}_{axis}" for axis in schema.AXES[1:]),
)
BLOCK = 2**28  # bytes of trajectories in memory at a time
UNEVEN = 1e-2  # largest departure from equal spacing, in spacings: files hold rounded coordinates

Read = Callable[[range, range, Sequence[int]], Shaped[ndarray, "trajectory time channel *space"]]


@dataclass(frozen=True)
class Part:
    """Some trajectories of a dataset in another format.

    Attributes
    ----------
    trajectories, frames
        How many.
    parameters
        Values of each trajectory by name.
    read
        Returns these trajectories, one after the other, these of their frames, and these fields.
    """

    trajectories: int
    frames: int
    parameters: dict[str, Float[ndarray, " trajectory"]]
    read: Read


@dataclass(frozen=True)
class Foreign:
    """A dataset in another format.

    Attributes
    ----------
    fields, parameters
        `units` and `long_name` by name, in order.
    boundary, space
        Boundary condition and number of points of each axis.
    centred
        Whether the first point is half a cell from the edge.
    dtype
        Of the fields.
    parts
        By split, or one under the name "" that is still to be divided.
    layout
        What exporting back needs: plain JSON.
    static
        Fields that are the same in every frame.
    """

    fields: dict[str, dict[str, str]]
    parameters: dict[str, dict[str, str]]
    boundary: tuple[str, ...]
    space: tuple[int, ...]
    centred: bool
    dtype: str
    parts: dict[str, Part]
    layout: dict[str, Any]
    static: tuple[str, ...] = ()

    def read(
        self, split: str, first: int, stop: int
    ) -> Shaped[ndarray, "trajectory time channel *space"]:
        """Read whole trajectories of a part, the first number up to, not including, the second."""
        part = self.parts[split]
        return part.read(range(first, stop), range(part.frames), range(len(self.fields)))

    @property
    def frame_bytes(self) -> int:
        """Size of a frame of all fields."""
        return np.dtype(self.dtype).itemsize * len(self.fields) * math.prod(self.space)


def combined(read: Mapping[str, Sequence[Foreign]], path: Path) -> Foreign:
    """Put the files of each split one after the other.

    Parameters
    ----------
    read
        Files by split, each with one part under the name "".
    path
        Of the source, for messages.

    Raises
    ------
    UserError
        Files that aren't alike.
    """
    first, *others = every = [foreign for found in read.values() for foreign in found]
    for other in others:
        for what in ("fields", "boundary", "space", "centred", "layout", "static"):
            if getattr(first, what) != getattr(other, what):
                raise UserError(f"{path}: {what} differ from file to file")
    described = {name: about for f in every for name, about in f.parameters.items()}
    parts = {}
    for split, found in read.items():
        pieces = [_completed(f.parts[""], list(described), path) for f in found]
        parts[split] = _joined(pieces, path)
    dtype = str(np.result_type(*(foreign.dtype for foreign in every)))
    return replace(first, parameters=described, dtype=dtype, parts=parts)


def _completed(part: Part, names: Sequence[str], path: Path) -> Part:
    """Add the parameters that other files have: here, equal lengths and first times of 0."""
    values = dict(part.parameters)
    for name in names:
        if name in values:
            continue
        if name == FIRST_TIME:
            values[name] = np.zeros(part.trajectories)
        elif name.startswith(f"{schema.LENGTH}_"):
            values[name] = values[schema.LENGTH]
        else:
            raise UserError(f"{path}: not every file has the parameter {name}")
    return replace(part, parameters={name: values[name] for name in names})


def _joined(parts: Sequence[Part], path: Path) -> Part:
    """Put parts one after the other.

    Raises
    ------
    UserError
        Trajectories of different lengths.
    """
    if len(parts) == 1:
        return parts[0]
    frames = {part.frames for part in parts}
    if len(frames) > 1:
        raise UserError(
            f"{path}: files of one split have trajectories of {min(frames)} to {max(frames)} "
            "frames; cut makes them alike"
        )
    ends = np.cumsum([part.trajectories for part in parts])

    def read(rows: range, frames: range, channels: Sequence[int]) -> ndarray:
        pieces = []
        for part, end in zip(parts, ends.tolist(), strict=True):
            begin = end - part.trajectories
            here = range(max(rows.start, begin) - begin, min(rows.stop, end) - begin)
            if here:
                pieces.append(part.read(here, frames, channels))
        return np.concatenate(pieces)

    names = parts[0].parameters
    values = {name: np.concatenate([part.parameters[name] for part in parts]) for name in names}
    return Part(int(ends[-1]), parts[0].frames, values, read)


def as_slice(numbers: range) -> slice:
    """Return the slice that takes these numbers, which don't decrease."""
    return slice(numbers.start, numbers.stop, numbers.step)


def described_as(name: str, attrs: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Describe a field or parameter as far as a file does."""
    found = attrs or {}
    return {
        "units": text(found.get("units", "unknown")),
        "long_name": text(found.get("long_name", name)),
    }


def text(value: Any) -> str:
    """Return a text attribute, which some writers store as bytes or in an array of one entry."""
    (one,) = texts(value)
    return one


def texts(value: Any) -> list[str]:
    """Return a list of texts, which some writers store as bytes, or as bare text if it is one."""
    return [
        entry.decode().rstrip("\0 ") if isinstance(entry, bytes) else str(entry)
        for entry in np.ravel(value)
    ]


def number(value: Any) -> float | None:
    """Return a number, which MATLAB stores as an array of 1 x 1; None for anything else."""
    array = np.asarray(value)
    return float(array.item()) if array.size == 1 and array.dtype.kind in "fiu" else None


def per_trajectory(values: Any, count: int, what: str) -> Float[ndarray, " trajectory"]:
    """Return one number per trajectory; a single number is repeated.

    Raises
    ------
    UserError
        Another count of numbers, or values that aren't real.
    """
    array = np.asarray(values)
    if array.size not in (1, count) or array.dtype.kind not in "fiub":
        raise UserError(
            f"{what} must be one real number, or one for each of {count} trajectories; it is "
            f"{array.dtype} of the shape {array.shape}"
        )
    return np.broadcast_to(array.ravel(), (count,)).astype(np.float64)


def stored_dtype(arrays: Iterable[Any], where: str) -> str:
    """Return the precision in which a store holds fields of a file.

    Raises
    ------
    UserError
        They are complex or longer than double precision.
    """
    dtype = np.result_type(np.float32, *(array.dtype for array in arrays))
    if dtype not in (np.float32, np.float64):
        raise UserError(f"{where}: fields are {dtype}; a store holds float32 and float64")
    return str(dtype)


def as_name(name: str, taken: Iterable[str] = ()) -> str:
    """Make a name that an array of a store can have, close to the given one."""
    plain = re.sub(r"\W", "_", name)
    plain = plain if plain.isidentifier() else f"_{plain}"
    reserved = {*schema.AXES, schema.TIME, *taken}
    while plain in reserved:
        plain += "_"
    return plain


def scalar_names(
    grid: Mapping[str, Float[ndarray, " trajectory"]],
    scalars: Mapping[str, Float[ndarray, " trajectory"]],
    fields: Iterable[str],
) -> dict[str, str]:
    """Name the scalars of a file beside its fields and the parameters of its coordinates.

    The coordinates win: a scalar with one of their names keeps it only if the values agree (it may
    have more digits); otherwise it gets another name.

    Parameters
    ----------
    grid
        Parameters that the coordinates give.
    scalars
        Values by their name in the file.
    fields
        Names of the fields.

    Returns
    -------
    dict
        Names in the store, by those of the file.
    """
    said = {name: grid[schema.LENGTH] for name in GRID if name.startswith(schema.LENGTH)}
    said |= {FIRST_TIME: np.zeros(1)} | dict(grid)
    step = np.max(grid.get(schema.DT, 0.0))
    taken, names = {*fields, *grid}, {}
    for original, values in scalars.items():
        name = as_name(original)
        near = 1e-6 * step if name == FIRST_TIME else 0.0
        if name not in said or not np.allclose(said[name], values, rtol=1e-5, atol=near):
            name = as_name(original, {*taken, *said})
        names[original] = name
        taken.add(name)
    return names


def spacing(
    values: Float[ndarray, "*trajectory point"], what: str
) -> tuple[Float[ndarray, " trajectory"], Float[ndarray, " trajectory"]]:
    """First value and step of evenly spaced coordinates, of all trajectories or of each.

    Raises
    ------
    UserError
        They don't increase, or aren't evenly spaced.
    """
    exact = np.atleast_2d(np.asarray(values, np.float64))
    first, count = exact[..., 0], exact.shape[-1]
    if count == 1:
        return first, np.ones_like(first)
    step = (exact[..., -1] - first) / (count - 1)
    even = first[..., None] + step[..., None] * np.arange(count)
    if not np.isfinite(exact).all() or (step <= 0).any():
        raise UserError(f"{what} doesn't increase")
    if (np.abs(exact - even) > UNEVEN * step[..., None]).any():
        raise UserError(f"{what} isn't evenly spaced; a store holds only even grids")
    if values.dtype.itemsize < 8:
        first, step = _tidy(first), _tidy(step, count, count - 1)
    return first, step


def _tidy(values: Float[ndarray, "..."], *counts: int) -> Float[ndarray, "..."]:
    """Undo the rounding to single precision of numbers that have few digits, or whose multiples do.

    0.1 in single precision is 0.10000000149, which would be another length of the box.
    """

    def one(value: float) -> float:
        for count in (1, *counts):
            short = float(f"{value * count:.6g}")
            if abs(short - value * count) <= 2e-7 * abs(short):  # two units in the last place
                return short / count
        return value

    return np.vectorize(one, otypes=[np.float64])(values)


def grid_parameters(
    axes: Sequence[tuple[Float[ndarray, " trajectory"], Float[ndarray, " trajectory"], int]],
    time: tuple[Float[ndarray, " trajectory"], Float[ndarray, " trajectory"], int],
    where: str,
) -> tuple[dict[str, Float[ndarray, " trajectory"]], bool, list[float]]:
    """Turn first value, step and number of points of each axis and of time into parameters.

    Returns
    -------
    parameters
        `length`, where they differ `length_y`, `length_z`; `dt`; `first_time` where it isn't 0.
    centred
        Whether every axis starts half a cell from 0.
    origin
        Offset to add to the positions along each axis.

    Raises
    ------
    UserError
        Grids of trajectories that start at different positions.
    """
    values, origin = {}, []
    lengths = [step * points for _, step, points in axes]
    centred = bool(axes) and all(np.allclose(f, 0.5 * s, rtol=1e-3) for f, s, _ in axes)
    for axis, (first, step, _), length in zip(schema.AXES, axes, lengths, strict=False):
        if not np.allclose(first, first[0], rtol=0, atol=1e-6 * np.abs(length).max()):
            raise UserError(f"{where}: grids of trajectories start at different {axis}")
        edge = 0.0 if centred or abs(first[0]) < 1e-6 * step[0] else float(first[0])
        origin.append(edge)
        if axis == schema.AXES[0]:
            values[schema.LENGTH] = length
        elif not np.allclose(length, lengths[0], rtol=1e-6):
            values[f"{schema.LENGTH}_{axis}"] = length
    first, step, frames = time
    if frames > 1:
        values[schema.DT] = step
    if np.abs(first).max() > 1e-6 * step.max():
        values[FIRST_TIME] = first
    return values, centred, origin


def check_finite(
    values: Shaped[ndarray, "trajectory ..."], numbers: range, what: str, where: str
) -> None:
    """Refuse numbers that are not finite, or would not be in the precision of methods.

    Raises
    ------
    UserError
        It names the first trajectory that has one.
    """
    sound = (np.abs(values) <= np.finfo(np.float32).max).reshape(len(values), -1).all(1)
    if not sound.all():
        bad = int((~sound).argmax())
        problem = "too large for float32" if np.isfinite(values[bad]).all() else "not finite"
        raise UserError(f"{where}, trajectory {numbers[bad]}: {what} holds values {problem}")


def absent(path: Path) -> None:
    """Refuse to overwrite.

    Raises
    ------
    UserError
        The path exists.
    """
    if path.exists():
        raise UserError(f"{path}: exists already; move it away or choose another output")


def layout(store: Store) -> dict[str, Any]:
    """Return what an imported store remembers of its former format; {} for others."""
    older = store.equation.get(schema.LAYOUT, {})  # where earlier versions kept it
    return dict(store.attrs.get(schema.LAYOUT, older))


def positions(store: Store, split: str, axis: int) -> Float[ndarray, "trajectory point"]:
    """Coordinates of the points along an axis, for each trajectory of a split."""
    part = store.split(split)
    name = schema.AXES[axis]
    # read, since only the coordinate says whether points are centres of cells
    relative = np.asarray(open_array(part.path / name)[:])
    length = part.parameters.get(f"{schema.LENGTH}_{name}", part.parameters[schema.LENGTH])
    origin = layout(store).get("origin", [0.0] * len(part.space))
    return origin[axis] + length[:, None] * relative


def times(store: Store, split: str) -> Float[ndarray, "trajectory frame"]:
    """Time of every frame of each trajectory of a split."""
    part = store.split(split)
    zero = np.zeros(part.trajectories)
    step = part.parameters.get(schema.DT, zero)
    return part.parameters.get(FIRST_TIME, zero)[:, None] + step[:, None] * np.arange(part.frames)


def shared(values: Float[ndarray, "trajectory point"]) -> bool:
    """Whether all trajectories have the same coordinates."""
    return bool((values == values[:1]).all())


def blocks(store: Store, split: str) -> Iterator[tuple[slice, dict[str, ndarray]]]:
    """Yield blocks of trajectories of a split: their slice, and each field in its own precision.

    Raises
    ------
    StoreError
        The store is damaged.
    """
    part = store.split(split)
    described = part.array(store.fields[0])
    for start in range(0, part.trajectories, described["shards"][0]):
        block = slice(start, min(start + described["shards"][0], part.trajectories))
        states = part.read(block, slice(None), described["dtype"])
        yield block, {name: states[:, :, i] for i, name in enumerate(store.fields)}


@contextlib.contextmanager
def opened(path: Path, format_name: str) -> Iterator[h5py.File]:
    """Open an HDF5 file, and report in one line what is wrong with it.

    Raises
    ------
    UserError
        Absent, not an HDF5 file, cut short, or not laid out as the format requires.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            _check_file(file, path)
            yield file
    except KeyError as error:
        what = " ".join(str(error.args[0]).split())
        raise UserError(f"{path}: is not in the layout of {format_name}: {what}") from None
    except (
        TypeError,
        AttributeError,
        ValueError,
        IndexError,
    ) as error:  # a group for an array, ...
        raise UserError(f"{path}: is not in the layout of {format_name}: {shown(error)}") from None
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: can't be read as HDF5, or is cut short: {reason}") from None


def _check_file(file: h5py.File, path: Path) -> None:
    """Refuse a file that makes a reader open other files, or allocate too much memory.

    Only the machine's memory limits shapes: unwritten data take no room in a file, and compressed
    data little.
    """
    room = memory()

    # a returned value ends the search: h5py can't pass on an exception
    def follow(name: str, link: Any) -> str | None:
        return f"{name} leads to another file" if isinstance(link, h5py.ExternalLink) else None

    def look(name: str, item: Any) -> str | None:
        if not isinstance(item, h5py.Dataset):
            return None
        if item.external or item.is_virtual:
            return f"{name} lies in another file"
        rows = max(1, item.shape[0]) if item.ndim > 2 else 1  # trajectories are read in blocks
        if item.dtype.itemsize * math.prod(item.shape) // rows > room:
            return f"{name} has the shape {item.shape}, too large for memory"
        return None

    problem = file.visititems_links(follow) or file.visititems(look)
    if problem:
        raise UserError(f"{path}: {problem}")
