"""What a method must know of its data before it is built: shapes, scales, the mean spectrum."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longrun.data import schema
from longrun.data.store import Store, StoreError
from longrun.data.windows import check_mixture, parameter_table
from longrun.metrics.spectrum import energy_spectrum

CONSTANT = 1e-7  # of its size: a field that varies by less varies by rounding only
BLOCK = 2**26  # bytes of trajectories in memory at a time, as float64; transforms take as much


def describe(stores: Sequence[Store], stride: int) -> dict[str, Any]:
    """Describe the training split of one store or of a mixture.

    Parameters
    ----------
    stores
        Stores with equal fields, parameters and grid.
    stride
        Frames per model step.

    Returns
    -------
    dict
        Plain JSON: `fields`, `dims` and `conditions` (counts; conditions are the parameters that
        vary), `points`, `boundary` (of each axis), `static` (channels that don't move), `equation`
        (the section of the first store), `equation_name`, `field_names`, `parameter_names`, `dt`
        (mean seconds per model step),
        `steady` (one frame, no time), `statistics` (`mean`, `std`, `increment_std` per field, the
        increment over one model step, or `std` for a steady map; both are safe divisors: the `std`
        of a constant field is its size, or 1, and the `increment_std` of a field that is the same
        in every frame is its `std`; `condition_low`, `condition_high` per parameter) and `spectrum`
        (energy per bin of `energy_spectrum` on the mean box, summed over fields, mean over frames
        and trajectories).

    Raises
    ------
    StoreError
        Stores that can't be mixed, or trajectories no longer than one model step.
    """
    check_mixture(stores, "train")
    splits = [store.split("train") for store in stores]
    steady = all(split.frames == 1 for split in splits)
    for store, split in zip(stores, splits, strict=True):
        if split.frames <= stride and not steady:
            raise StoreError(
                f"{store.path}: {split.frames} frames hold no increment over {stride} frames"
            )
    dims = len(splits[0].space)
    parameters = np.concatenate([parameter_table(split) for split in splits])
    names = list(stores[0].parameters)
    box = sides(dict(zip(names, parameters.T, strict=True)), dims)
    moments, increments, spectrum = _Moments(), _Moments(), _Moments()
    for states in _blocks(stores):
        moments.add(_by_channel(states))
        increments.add(_by_channel(states if steady else states[:, stride:] - states[:, :-stride]))
        energy = energy_spectrum(states, dims, box, periodic(stores[0].boundary)).sum(2)
        spectrum.add(energy.reshape(-1, energy.shape[-1]))
    dt = parameters[:, names.index(schema.DT)].mean() if schema.DT in names else 1.0
    size = np.abs(moments.mean)
    varies = moments.std > CONSTANT * size
    std = np.where(varies, moments.std, np.where(size > 0, size, 1.0))
    return {
        "fields": len(stores[0].fields),
        "dims": dims,
        "conditions": int((parameters.max(0) > parameters.min(0)).sum()),
        "points": list(splits[0].space),
        "boundary": list(stores[0].boundary),
        "static": [i for i, name in enumerate(stores[0].fields) if name in stores[0].static],
        "equation": stores[0].equation,
        "equation_name": stores[0].equation["name"],
        "field_names": list(stores[0].fields),
        "parameter_names": names,
        "dt": float(dt) * stride,
        "steady": steady,
        "statistics": {
            "mean": moments.mean.tolist(),
            "std": std.tolist(),
            "increment_std": np.where(increments.std > 0, increments.std, std).tolist(),
            "condition_low": parameters.min(0).tolist(),
            "condition_high": parameters.max(0).tolist(),
        },
        "spectrum": spectrum.mean.tolist(),
    }


def periodic(boundary: Sequence[str]) -> tuple[bool, ...]:
    """Whether each axis is known to be periodic."""
    return tuple(kind == schema.PERIODIC for kind in boundary)


def sides(parameters: Mapping[str, Float[ndarray, " trajectory"]], dims: int) -> tuple[float, ...]:
    """Mean extent of the trajectories' boxes along each axis; 2 pi where they have no length.

    Parameters
    ----------
    parameters
        Of every trajectory, by name.
    dims
        Number of axes.
    """
    default = parameters.get(schema.LENGTH, np.array([2 * np.pi]))
    lengths = (parameters.get(f"{schema.LENGTH}_{axis}", default) for axis in schema.AXES[:dims])
    return tuple(float(length.mean()) for length in lengths)


def _blocks(stores: Sequence[Store]) -> Iterator[Float[ndarray, "trajectory time channel *space"]]:
    for store in stores:
        split = store.split("train")
        size = 8 * split.frames * len(split.fields) * math.prod(split.space)
        count = max(1, BLOCK // size)
        for start in range(0, split.trajectories, count):
            yield split.read(slice(start, start + count), slice(None)).astype(np.float64)


class _Moments:
    """Mean and standard deviation of each column over rows that come in blocks."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def add(self, values: Float[ndarray, "row column"]) -> None:
        self._count += len(values)
        self._sum = self._sum + values.sum(0)
        self._squares = self._squares + (values**2).sum(0)

    @property
    def mean(self) -> Float[ndarray, " column"]:
        return self._sum / self._count

    @property
    def std(self) -> Float[ndarray, " column"]:
        return np.sqrt(np.maximum(self._squares / self._count - self.mean**2, 0.0))


def _by_channel(
    states: Float[ndarray, "trajectory time channel *space"],
) -> Float[ndarray, "row channel"]:
    return np.moveaxis(states, 2, -1).reshape(-1, states.shape[2])
