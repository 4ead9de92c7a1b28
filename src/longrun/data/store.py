"""Stores of trajectories: zarr v3, sharded and checksummed. The schema is in docs/stores.md.

Writing goes through zarr. Fields are read by the sharding layout of the zarr v3 specification
directly, because zarr's Python spends about a millisecond on each window of a batch, a hundred
times what the bytes need; a test holds both readers to the same values.
"""

import contextlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numcodecs.blosc
import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float, Int, Shaped, UInt8
from numpy import ndarray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from longrun.config import fingerprint
from longrun.data import schema
from longrun.runtime.cli import UserError, atomic, memory, writing
from longrun.runtime.registry import allowed, shown

FORMAT = 1
CODECS = {"bytes", "crc32c", "sharding_indexed", "blosc"}
ROOM = 2**26  # bytes: a shape of no more is trusted
PLAIN, PACKED = 4, 4096  # how much larger an array may be than its files, as it is and compressed
LEVEL = 1  # of the compression: 5 saves a fiftieth more
NEEDED: dict[str, Any] = {  # attributes and their types
    schema.EQUATION: dict,
    schema.BOUNDARY: dict,
    schema.REFERENCE_ERROR: float | int | None,
    schema.PREDICTABILITY: float | int | None,
}
WHOLE: Any = {"write_empty_chunks": True}  # the fill value too: a missing file is a loss
ARRAYS = "arrays"  # attribute of predictions: names of all arrays
MISSING = 2**64 - 1  # offset of a chunk that a shard doesn't hold (zarr v3 sharding codec)


class StoreError(UserError):
    """A store that is absent, incomplete, damaged or not the one requested."""


class NotAStoreError(StoreError):
    """A path that holds something else."""


def open_store(path: str | Path, equation: str | None = None) -> "Store":
    """Open a finished store.

    Parameters
    ----------
    path
        Folder of the store.
    equation
        Name of the equation that the store must hold; None accepts any.

    Returns
    -------
    Store
        Attributes are read at once, arrays opened on first use.

    Raises
    ------
    StoreError
        Absent, not a store, of another schema, incomplete, or of another equation.
    """
    path = Path(path)
    if not path.exists():
        raise StoreError(f"{path}: no such store; longrun.generate makes it")
    attrs = _attributes(path, _open_group(path, "r"))
    complete = attrs.get(schema.COMPLETE)
    if not complete:
        raise StoreError(f"{path}: is incomplete; run longrun.generate again to finish it")
    lacks = [name for name, kind in NEEDED.items() if not isinstance(attrs.get(name, ...), kind)]
    if lacks:
        raise StoreError(f"{path}: lacks {', '.join(lacks)}; generate it anew")
    if complete is not True and complete != checksum(attrs):  # older stores have none
        raise StoreError(f"{path}: is damaged: its attributes were altered; generate it anew")
    found = attrs[schema.EQUATION].get("name")
    if equation is not None and found != equation:
        raise StoreError(f"{path}: holds trajectories of {found}, not of {equation}")
    lost = next(_lost(path, attrs), None)
    if lost is not None:
        raise StoreError(f"{lost}: is missing; generate the store anew")
    return Store(path, attrs)


def _lost(path: Path, attrs: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files that a finished store must have and lacks.

    Zarr reads an absent chunk as the fill value, so nothing but this tells zeros from a loss.
    """
    arrays = [
        path / split / name
        for split in schema.SPLITS
        if (path / split).is_dir()
        for name in (
            *attrs[schema.FIELDS],
            *attrs[schema.PARAMETERS],
            schema.TIME,
            *attrs[schema.BOUNDARY],
        )
    ]
    if attrs[schema.REFERENCE_ERROR] is not None:
        arrays += [path / schema.LEAD_TIME, path / schema.REFERENCE_ERROR]
    for array in arrays:
        # stores of earlier versions have no file for the time of a single frame, which is 0
        implied = array.name in (schema.TIME, schema.LEAD_TIME)
        yield from _lost_files(array, implied)


def _lost_files(array: Path, implied: bool = False) -> Iterator[Path]:
    """Yield the files of one array that aren't there; damage is found when they are read."""
    try:
        described = json.loads((array / "zarr.json").read_text("utf-8"))
        if implied and described["shape"] == [1] and described["fill_value"] == 0:
            return
        chunks = described["chunk_grid"]["configuration"]["chunk_shape"]
        grid = [-(-size // each) for size, each in zip(described["shape"], chunks, strict=True)]
        for number in range(math.prod(grid)):
            index = []
            for count in reversed(grid):
                number, place = divmod(number, count)
                index.append(str(place))
            file = array.joinpath("c", *reversed(index))
            if not file.is_file():
                yield file
    except OSError:
        yield array / "zarr.json"
    except (ValueError, KeyError, TypeError, ArithmeticError):
        return


def checksum(attrs: Mapping[str, Any]) -> str:
    """Hash of all attributes of a store except the one that holds it."""
    return fingerprint({name: value for name, value in attrs.items() if name != schema.COMPLETE})


@dataclass(frozen=True)
class View:
    """What is seen of a store: by default all of it.

    Attributes
    ----------
    fields
        Fields by name, in the order of the channels. A number is the value everywhere in a store
        that lacks the field, and is not scored; None means that the store must have it.
    parameters
        Names of the parameters, in order.
    trajectories
        The training split is cut to this many.
    """

    fields: Mapping[str, float | None] | None = None
    parameters: Sequence[str] | None = None
    trajectories: int | None = None


@dataclass
class Store:
    """A finished store; pickles as its path, so that a worker process opens its own."""

    path: Path
    attrs: dict[str, Any]
    seen: View = View()
    _splits: dict[str, "Split"] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path and the view."""
        return _reopen, (self.path, self.seen)

    def view(self, view: View) -> "Store":
        """Return the same store under another view.

        Raises
        ------
        StoreError
            A field without a constant, or a parameter, that the store lacks.
        """
        for what, names, has in (
            ("field", [n for n, v in (view.fields or {}).items() if v is None], schema.FIELDS),
            ("parameter", list(view.parameters or ()), schema.PARAMETERS),
        ):
            for name in names:
                if name not in self.attrs[has]:
                    raise StoreError(
                        f"{self.path}: has no {what} {name}; {allowed(self.attrs[has], name)}"
                    )
        return Store(self.path, self.attrs, view)

    @property
    def whole(self) -> bool:
        """Whether fields and parameters are seen as they are stored."""
        return self.seen.fields is None and self.seen.parameters is None

    @property
    def boundary(self) -> tuple[str, ...]:
        """Boundary condition of each axis."""
        return tuple(self.attrs[schema.BOUNDARY].values())

    @property
    def static(self) -> tuple[str, ...]:
        """Fields that are the same in every frame: no forecast is scored on them."""
        return tuple(self.attrs.get(schema.STATIC, ()))

    @property
    def equation(self) -> dict[str, Any]:
        """The composed `equation` section that the store was made from."""
        return self.attrs[schema.EQUATION]

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of the channels."""
        return tuple(self.attrs[schema.FIELDS] if self.seen.fields is None else self.seen.fields)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the per-trajectory parameters, in the order of conditions."""
        stored = self.attrs[schema.PARAMETERS]
        return tuple(stored if self.seen.parameters is None else self.seen.parameters)

    @property
    def predictability(self) -> float:
        """Seconds for which two runs that differ by 1e-6 relative stay correlated above 0.8.

        Infinite where there is no time, or where it was not measured.
        """
        limit = self.attrs[schema.PREDICTABILITY]
        return math.inf if limit is None else float(limit)

    def reference_error(self) -> tuple[Float[ndarray, " lead"], Float[ndarray, " lead"]]:
        """Lead times (s) and relative RMSE of the stored solution against a finer one.

        Empty where it was not measured: in a store converted from another format.
        """
        if self.attrs[schema.REFERENCE_ERROR] is None:
            return np.empty(0), np.empty(0)
        with _damage_named(self.path):
            lead, error = (
                np.asarray(open_array(self.path / name)[:])
                for name in (schema.LEAD_TIME, schema.REFERENCE_ERROR)
            )
            return lead, error

    def split(self, name: str) -> "Split":
        """Return one of the splits that the store holds: `train`, `valid` or `test`.

        Raises
        ------
        StoreError
            The store has no such split.
        """
        if not (self.path / name).is_dir():
            raise StoreError(f"{self.path}: has no split {name}")
        stored = self.attrs[schema.FIELDS]
        constants = {
            field: float(value)
            for field, value in (self.seen.fields or {}).items()
            if field not in stored and value is not None
        }
        limit = self.seen.trajectories if name == "train" else None
        return self._splits.setdefault(
            name, Split(self.path / name, self.fields, self.parameters, constants, limit)
        )


def _reopen(path: Path, view: View) -> Store:
    return open_store(path).view(view)


@dataclass
class Split:
    """One split of a store: trajectories of equal length on one grid."""

    path: Path
    fields: tuple[str, ...]
    parameter_names: tuple[str, ...]
    constants: Mapping[str, float] = field(default_factory=dict)  # of fields that are not stored
    limit: int | None = None  # of trajectories

    @cached_property
    def _arrays(self) -> dict[str, "_Shards"]:
        return {
            name: _Shards(self.path / name) for name in self.fields if name not in self.constants
        }

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return next(iter(self._arrays.values())).shape

    @property
    def trajectories(self) -> int:
        """Number of trajectories."""
        stored = self._shape[0]
        return stored if self.limit is None else min(stored, self.limit)

    @property
    def frames(self) -> int:
        """Frames per trajectory."""
        return self._shape[1]

    @property
    def space(self) -> tuple[int, ...]:
        """Points along each axis."""
        return self._shape[2:]

    @cached_property
    def parameters(self) -> dict[str, Float[ndarray, " trajectory"]]:
        """Each parameter of every trajectory, float64, in physical units."""
        with _damage_named(self.path):
            return {
                name: np.asarray(open_array(self.path / name)[: self.trajectories], np.float64)
                for name in self.parameter_names
            }

    def array(self, name: str) -> dict[str, Any]:
        """Layout, dtype and `attrs` (`units`, `long_name`) of a field, parameter or coordinate."""
        array = open_array(self.path / name)
        return {
            "shape": array.shape,
            "chunks": array.chunks,
            "shards": array.shards,
            "dtype": str(array.dtype),
            "attrs": dict(array.attrs),
        }

    def read(
        self,
        trajectories: slice | Int[ndarray, " trajectory"],
        frames: slice,
        dtype: str = "float32",
    ) -> Float[ndarray, "trajectory time channel *space"]:
        """Read the same frames of some trajectories.

        Parameters
        ----------
        trajectories
            Which trajectories: a slice or an array of indices.
        frames
            Which frames; a step gives every n-th.
        dtype
            Of the result.

        Returns
        -------
        ndarray
            Fields in the order of `fields`.

        Raises
        ------
        StoreError
            A checksum doesn't match.
        """
        first, stop, step = frames.indices(self.frames)
        chosen = np.arange(self.trajectories)[trajectories]
        return self.windows(
            chosen, np.full(len(chosen), first), len(range(first, stop, step)), step, dtype
        )

    def windows(
        self,
        trajectories: Int[ndarray, " window"],
        starts: Int[ndarray, " window"],
        length: int,
        stride: int,
        dtype: str = "float32",
    ) -> Float[ndarray, "window time channel *space"]:
        """Read `length` frames, `stride` apart, of each trajectory from its own first frame.

        Returns
        -------
        ndarray
            Of the given type, fields in the order of `fields`.

        Raises
        ------
        StoreError
            A checksum doesn't match.
        """
        last = starts.max(initial=0) + (length - 1) * stride
        if starts.min(initial=0) < 0 or last >= self.frames:
            raise IndexError(f"frames up to {last} of {self.frames}")
        out = np.empty((len(trajectories), length, len(self.fields), *self.space), dtype)
        for channel, name in enumerate(self.fields):
            if name in self.constants:
                out[:, :, channel] = self.constants[name]
            else:
                self._arrays[name].windows(out[:, :, channel], trajectories, starts, stride)
        return out


class _Shards:
    """Reader of one sharded array `(trajectory, time, *space)`; chunks hold one trajectory."""

    def __init__(self, path: Path, array: zarr.Array | None = None):
        self.path = path
        array = open_array(path) if array is None else array
        if array.shards is None or array.chunks[0] != 1 or array.chunks[2:] != array.shape[2:]:
            raise StoreError(f"{path}: is not laid out as a field of a store")
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype).newbyteorder("<")
        self.per_shard = array.shards[0]
        self.chunk = array.chunks[1:]  # (time, *space)
        self.slots = array.shards[1] // array.chunks[1]  # chunks along time
        self.packed = any(isinstance(codec, BloscCodec) for codec in array.compressors)
        self._open: dict[int, tuple[ndarray, ndarray]] = {}

    def windows(
        self,
        out: Float[ndarray, "window time *space"],
        trajectories: Int[ndarray, " window"],
        starts: Int[ndarray, " window"],
        stride: int,
    ) -> None:
        length, per_chunk = out.shape[1], self.chunk[0]
        for row, trajectory, start in zip(out, trajectories.tolist(), starts.tolist(), strict=True):
            filled = 0
            while filled < length:
                slot, inside = divmod(start + filled * stride, per_chunk)
                here = self._read_chunk(trajectory, slot)[inside::stride][: length - filled]
                row[filled : filled + len(here)] = here
                filled += len(here)

    def _read_chunk(self, trajectory: int, slot: int) -> Shaped[ndarray, "time *space"]:
        number, inside = divmod(trajectory, self.per_shard)
        if number not in self._open:
            self._open[number] = self._open_shard(number)
        data, index = self._open[number]
        offset, size = index[inside, slot].tolist()
        if offset == MISSING:
            raise StoreError(f"{self.path}: trajectory {trajectory} is missing")
        chunk = self._checked(data[offset : offset + size])
        whole = math.prod(self.chunk) * self.dtype.itemsize
        if self.packed:
            chunk = self._unpacked(chunk, whole)
        if chunk.size != whole:
            raise StoreError(f"{self.path}: is damaged: a chunk has {chunk.size} bytes")
        return np.frombuffer(chunk, self.dtype).reshape(self.chunk)

    def _unpacked(
        self, packed: UInt8[ndarray, " stored"], whole: int
    ) -> UInt8[ndarray, " content"]:
        chunk = np.empty(whole, np.uint8)  # the bytes themselves may say more
        try:
            numcodecs.blosc.decompress(np.ascontiguousarray(packed), chunk)
        except (ValueError, RuntimeError) as error:
            raise StoreError(f"{self.path}: is damaged: {error}") from None
        return chunk

    def check(self, trajectories: range) -> None:
        """Compare the checksums of all chunks of some trajectories."""
        for trajectory in trajectories:
            for slot in range(self.slots):
                self._read_chunk(trajectory, slot)

    def _open_shard(self, number: int) -> tuple[ndarray, ndarray]:
        file = self.path / "c" / str(number) / "/".join("0" for _ in self.shape[1:])
        try:
            data = np.asarray(np.memmap(file, np.uint8, "r"))  # slices of a plain array are cheaper
        except (FileNotFoundError, ValueError):  # absent or empty
            raise StoreError(f"{file}: is missing; generate the store anew") from None
        tail = self.per_shard * self.slots * 16 + 4  # offset and size of each chunk, checksum
        index = self._checked(data[-tail:])
        if index.size != tail - 4:
            raise StoreError(f"{file}: is damaged: it is cut short; generate the store anew")
        return data, np.frombuffer(index, "<u8").reshape(self.per_shard, self.slots, 2)

    def _checked(self, data: UInt8[ndarray, " stored"]) -> UInt8[ndarray, " content"]:
        body, checksum = data[:-4], data[-4:]
        if google_crc32c.value(body) != int.from_bytes(checksum.tobytes(), "little"):
            raise StoreError(f"{self.path}: is damaged: a checksum doesn't match; generate it anew")
        return body


def create_store(
    path: Path,
    *,
    fields: Mapping[str, Mapping[str, str]],
    parameters: Mapping[str, Mapping[str, str]],
    boundary: tuple[str, ...],
    space: tuple[int, ...],
    centred: bool = False,
    splits: Mapping[str, Mapping[str, int]],
    layout: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> None:
    """Create a store without trajectories; `StoreWriter` fills it.

    Parameters
    ----------
    path
        Where; must not exist.
    fields, parameters
        Attributes (`units`, `long_name`) of each field and of each per-trajectory parameter.
    boundary
        Boundary condition of each axis.
    space
        Points along each axis.
    centred
        Whether values belong to cells: then the first is half a cell from the edge.
    splits
        `trajectories` and `frames` of each split.
    layout
        `frames_per_chunk`, `trajectories_per_shard`, `dtype`; and `compression`, "zstd" or absent.
    attrs
        Further attributes of the store; `equation` is needed.
    """
    with writing(path):
        _create(path, fields, parameters, boundary, space, centred, splits, layout, attrs)


def _create(
    path: Path,
    fields: Mapping[str, Mapping[str, str]],
    parameters: Mapping[str, Mapping[str, str]],
    boundary: tuple[str, ...],
    space: tuple[int, ...],
    centred: bool,
    splits: Mapping[str, Mapping[str, int]],
    layout: Mapping[str, Any],
    attrs: Mapping[str, Any],
) -> None:
    axes = schema.AXES[: len(space)]
    packing = [BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle")]
    packing = packing if layout.get("compression") == "zstd" else []
    root = zarr.create_group(path, zarr_format=3)
    for name, size in splits.items():
        group = root.create_group(name)
        count, frames = size["trajectories"], size["frames"]
        shard = min(layout["trajectories_per_shard"], count)
        chunk = min(layout["frames_per_chunk"], frames)
        for field_name, described in fields.items():
            group.create_array(
                field_name,
                shape=(count, frames, *space),
                dtype=layout["dtype"],
                chunks=(1, chunk, *space),
                shards=(shard, -(-frames // chunk) * chunk, *space),
                compressors=[*packing, Crc32cCodec()],  # the last, so that any damage shows
                filters=[],
                fill_value=np.nan,
                dimension_names=(schema.TRAJECTORY, schema.TIME, *axes),
                attributes={**described, "coordinates": " ".join(parameters)},
            )
        for parameter, described in parameters.items():
            group.create_array(
                parameter,
                shape=(count,),
                dtype="float64",
                chunks=(shard,),
                compressors=[Crc32cCodec()],
                filters=[],
                fill_value=np.nan,
                config=WHOLE,
                dimension_names=(schema.TRAJECTORY,),
                attributes=dict(described),
            )
        # lengths and time steps differ between trajectories, so coordinates count in those
        _write_whole(
            group,
            schema.TIME,
            np.arange(frames, dtype=np.float64),
            {
                "units": "1",
                "long_name": "model time since the first stored frame, divided by dt",
                "axis": "T",
            },
        )
        for axis, points in zip(axes, space, strict=True):
            _write_whole(
                group,
                axis,
                (np.arange(points) + (0.5 if centred else 0.0)) / points,
                {
                    "units": "1",
                    "long_name": f"{axis} divided by length",
                    "axis": axis.upper(),
                },
            )
    root.attrs.update(
        {
            "Conventions": "CF-1.11",
            schema.FIELDS: list(fields),
            schema.PARAMETERS: list(parameters),
            schema.BOUNDARY: dict(zip(axes, boundary, strict=True)),
            **attrs,
            schema.VERSION: FORMAT,  # the last: from here on the store may be resumed
        }
    )


class StoreWriter:
    """Fills a store shard by shard, in any order; one shard must have one writer.

    A shard counts as written when the files of all fields are there and their checksums are right.
    zarr moves each file into place whole, so a killed writer loses only the shard in flight; shards
    spoilt by a power cut are written again.
    """

    def __init__(self, path: Path):
        self.path = path
        for leftover in path.rglob("*.partial"):  # what zarr was writing when it was killed
            leftover.unlink()
        self._group = _open_group(path, "r+")
        self.attrs = _attributes(path, self._group)
        self._fields: list[str] = self.attrs[schema.FIELDS]
        self._sound: set[tuple[str, range]] = set()  # shards already checked

    def shards(self) -> Iterator[tuple[str, range]]:
        """Yield split and trajectories of each shard, in order."""
        for split in schema.SPLITS:
            if split in self._group:
                array = self._array(f"{split}/{self._fields[0]}")
                assert array.shards is not None
                count, size = array.shape[0], array.shards[0]
                for start in range(0, count, size):
                    yield split, range(start, min(start + size, count))

    def missing(self) -> Iterator[tuple[str, range]]:
        """Yield split and trajectories of each shard that is still to be written, in order."""
        for split, trajectories in self.shards():
            if (split, trajectories) not in self._sound and not self._is_sound(split, trajectories):
                yield split, trajectories
            else:
                self._sound.add((split, trajectories))

    def _is_sound(self, split: str, trajectories: range) -> bool:
        if not all((self.path / file).exists() for file in self._files(split, trajectories)):
            return False
        try:
            for name in self.attrs[schema.PARAMETERS]:
                _ = self._array(f"{split}/{name}")[trajectories.start : trajectories.stop]
            for name in self._fields:
                array = self._array(f"{split}/{name}")
                _Shards(self.path / split / name, array).check(trajectories)
        except (StoreError, ValueError):
            return False
        return True

    def adopt(self, part: Path) -> None:
        """Take over the shards that another store of the same layout holds, as hard links."""
        for split, trajectories in list(self.missing()):
            files = self._files(split, trajectories)
            if all((part / file).exists() for file in files):
                for file in files:
                    _link(part / file, self.path / file)

    def _files(self, split: str, trajectories: range) -> list[str]:
        """Files of one shard: its parameters, then every field."""
        files = []
        for name in (*self.attrs[schema.PARAMETERS], *self._fields):
            array = self._array(f"{split}/{name}")
            number = trajectories.start // (array.shards or array.chunks)[0]
            files.append("/".join([split, name, "c", str(number), *("0" for _ in array.shape[1:])]))
        return files

    def write(
        self,
        split: str,
        trajectories: range,
        parameters: Mapping[str, Float[ndarray, " trajectory"]],
        states: Float[ndarray, "trajectory time channel *space"],
    ) -> None:
        """Write one shard: its parameters, then every field."""
        block = slice(trajectories.start, trajectories.stop)
        with writing(self.path):
            for file in self._files(split, trajectories):
                (self.path / file).unlink(missing_ok=True)  # zarr would read a spoilt one first
            for name, values in parameters.items():
                self._array(f"{split}/{name}")[block] = values
            for channel, name in enumerate(self._fields):
                self._array(f"{split}/{name}")[block] = states[:, :, channel]

    def finish(
        self,
        lead_time: Float[ndarray, " lead"],
        reference_error: Float[ndarray, " lead"],
        attrs: Mapping[str, float | None],
    ) -> None:
        """Add the measured error and the last attributes, then mark the store complete.

        Where the error is not known, the arrays are empty and the attributes None.
        """
        with writing(self.path):
            if len(lead_time):
                lead = {"units": "s", "long_name": "lead time"}
                error = "relative RMSE against half the step and twice the resolution"
                described = {"units": "1", "long_name": error}
                _write_whole(self._group, schema.LEAD_TIME, lead_time, lead)
                _write_whole(
                    self._group,
                    schema.REFERENCE_ERROR,
                    reference_error,
                    described,
                    dimension=schema.LEAD_TIME,
                )
            self._group.attrs.update(attrs)
            self._group.attrs[schema.COMPLETE] = checksum(self._group.attrs.asdict())

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        with atomic(target) as path:
            shutil.copyfile(source, path)


def _open_group(path: Path, mode: Literal["r", "r+"]) -> zarr.Group:
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3)
    except (FileNotFoundError, NotADirectoryError):
        group = None
    except OSError:
        raise
    except Exception:  # zarr raises many kinds for what it can't read
        group = None
    if group is None or schema.VERSION not in group.attrs:
        raise NotAStoreError(f"{path}: is not a Longrun store")
    return group


def _attributes(path: Path, group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a store; its arrays must have plain names, not paths."""
    attrs: dict[str, Any] = dict(group.attrs)
    if attrs[schema.VERSION] != FORMAT:
        raise StoreError(
            f"{path}: has schema {attrs[schema.VERSION]}, not {FORMAT}; generate it anew"
        )
    for key in (schema.FIELDS, schema.PARAMETERS):
        names = attrs.get(key)
        if not isinstance(names, list) or not all(map(_is_name, names)):
            raise StoreError(f"{path}: {key} must be a list of names, is {shown(names)}")
    return attrs


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier()


def open_array(path: Path) -> zarr.Array:
    """Open an array of a store to read it.

    Its metadata is trusted only if it agrees with the bytes on disk: reading an array allocates
    what its shape says.

    Raises
    ------
    StoreError
        Absent, or not an array as `create_store` makes them; a shape that the bytes on disk can't
        fill; files outside the array.
    """
    try:
        described = json.loads((path / "zarr.json").read_text("utf-8"))
        codecs = _codecs(described["codecs"])
        array = zarr.open_array(path, mode="r")
    except FileNotFoundError:
        raise StoreError(f"{path}: is missing; generate the store anew") from None
    except OSError:
        raise
    except Exception as error:  # zarr raises many kinds for what it can't read
        raise StoreError(f"{path}: is damaged: {shown(error)}; generate it anew") from None
    packed = "blosc" in codecs
    if codecs - CODECS or (packed and array.shards is None) or array.dtype.kind != "f":
        raise StoreError(
            f"{path}: is not an array of a store: {array.dtype}, {', '.join(sorted(codecs))}"
        )
    root = (path.parents[1] if path.parent.name in schema.SPLITS else path.parent).resolve()
    if not path.resolve().is_relative_to(root):
        raise StoreError(f"{path}: leads out of the store")
    found = 0
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            entry = Path(folder, name)
            if entry.is_symlink() and not entry.resolve().is_relative_to(root):
                raise StoreError(f"{entry}: leads out of the store")
            found += entry.lstat().st_size if name in files else 0
    needed = math.prod(array.shape) * array.dtype.itemsize
    if needed > max(
        ROOM, (PACKED if packed else PLAIN) * found
    ):  # a lost shard is named when it is read
        raise StoreError(
            f"{path}: has the shape {shown(array.shape)}, {needed} bytes, and {found} bytes are "
            "there; generate it anew"
        )
    return array


def _codecs(codecs: list[dict[str, Any]]) -> set[str]:
    """Names of codecs, including those inside a shard."""
    inner = [
        codec["configuration"][part]
        for codec in codecs
        if codec["name"] == "sharding_indexed"
        for part in ("codecs", "index_codecs")
    ]
    return {str(codec["name"]) for codec in codecs}.union(*map(_codecs, inner))


def _write_whole(
    group: zarr.Group,
    name: str,
    values: Float[ndarray, " n"],
    attrs: Mapping[str, str],
    dimension: str | None = None,
) -> None:
    group.create_array(
        name,
        data=values,
        chunks=values.shape,
        compressors=[Crc32cCodec()],
        filters=[],
        fill_value=np.nan,
        config=WHOLE,
        dimension_names=(dimension or name,),
        attributes=dict(attrs),
        overwrite=True,
    )


def write_predictions(path: str | Path, dataset: xr.Dataset) -> None:
    """Write a dataset of predictions whole or not at all; an existing one is replaced."""
    text = {name: c.astype(object) for name, c in dataset.coords.items() if c.dtype.kind == "U"}
    dataset = dataset.drop_encoding().assign_coords(text)  # zarr v3 has no fixed-length text
    dataset = dataset.assign_attrs({ARRAYS: sorted(map(str, dataset.variables))})
    checked = {"compressors": [ZstdCodec(), Crc32cCodec()]}
    with atomic(path) as part:
        dataset.to_zarr(
            part,
            mode="w",
            zarr_format=3,
            consolidated=False,
            write_empty_chunks=True,
            encoding={name: checked for name in dataset.variables},
        )


def read_predictions(path: str | Path) -> xr.Dataset:
    """Read a dataset of predictions into memory.

    Raises
    ------
    StoreError
        Absent, not a zarr store, or one that lost a file.
    """
    try:
        with (
            warnings.catch_warnings(
                # Snakemake's mark of the age of a folder that it made
                action="ignore",
                category=zarr.errors.ZarrUserWarning,
            ),
            xr.open_dataset(
                path, engine="zarr", consolidated=False, decode_times=False, decode_timedelta=False
            ) as dataset,
        ):
            if dataset.nbytes > memory():
                raise StoreError(f"{path}: its shapes need {dataset.nbytes} bytes of memory")
            for name in dataset.attrs.pop(ARRAYS, ()):  # predictions of earlier versions: none
                lost = next(_lost_files(Path(path) / name), None)
                if lost is not None:
                    raise StoreError(f"{lost}: is missing; run longrun.evaluate again")
            return dataset.load()
    except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise StoreError(f"{path}: no predictions there ({shown(error)})") from None


def open_tree(path: Path) -> xr.DataTree:
    """Open a finished store as labelled arrays that are read when they are used.

    Raises
    ------
    StoreError
        As `open_store`.
    """
    store = open_store(path)
    lead_time, error = store.reference_error()
    root = xr.Dataset(attrs=store.attrs)
    if len(error):
        # not along `lead_time`: a dimension's own coordinate would be that of every split too
        root = root.assign_coords({schema.LEAD_TIME: ("lead", lead_time)})
        root[schema.REFERENCE_ERROR] = "lead", error, {"units": "1"}
    about = {
        schema.EQUATION: json.dumps(store.equation),
        schema.BOUNDARY: list(store.boundary),
        "dataset": path.stem,
    }
    content = {"/": root}
    for name in schema.SPLITS:
        if (path / name).is_dir():
            with _damage_named(path):
                split = xr.open_dataset(
                    path,
                    group=name,
                    engine="zarr",
                    consolidated=False,
                    decode_times=False,
                    decode_timedelta=False,
                )
            labels = {schema.TRAJECTORY: np.arange(split.sizes[schema.TRAJECTORY])}
            content[name] = split.assign_coords(labels).assign_attrs(about)
    return xr.DataTree.from_dict(content)


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the file when zarr finds a wrong checksum."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise StoreError(f"{path}: is damaged: {error}; generate it anew") from None
