"""Labelled arrays in the layout of a store's split: made of plain ones, and taken apart again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from numpy import ndarray

from longrun.data import schema
from longrun.runtime.cli import UserError
from longrun.runtime.registry import allowed

MEMBER = "member"
Attributes = Mapping[str, Mapping[str, str]]
"""`units` and `long_name` by name."""


def dataset(
    states: Float[ndarray, "trajectory ..."],
    fields: Sequence[str],
    parameters: Mapping[str, Float[ndarray, " trajectory"]],
    coordinates: Mapping[str, Any],
    described: Attributes,
    attrs: Mapping[str, Any],
    lead: Sequence[str] = (schema.TIME,),
) -> xr.Dataset:
    """Name the axes of arrays.

    Parameters
    ----------
    states
        Trajectory, `lead`, channel and space; what a channel holds is named by `fields`.
    parameters
        Of each trajectory.
    coordinates
        Of other dimensions, by name.
    described
        Of fields and parameters, where it is known.
    attrs
        Of the whole.
    lead
        Dimensions between trajectory and channel.
    """
    channel = 1 + len(lead)
    dims = (schema.TRAJECTORY, *lead, *schema.AXES[: states.ndim - channel - 1])
    content = {
        name: (dims, states.take(place, channel), dict(described.get(name, {})))
        for place, name in enumerate(fields)
    }
    labels: dict[str, Any] = {schema.TRAJECTORY: np.arange(len(states))}
    for name, values in parameters.items():
        labels[name] = (schema.TRAJECTORY, values, dict(described.get(name, {})))
    return xr.Dataset(content, coords=labels | dict(coordinates), attrs=dict(attrs))


def positions(space: Sequence[int], centred: bool) -> dict[str, Any]:
    """Coordinates of a grid in units of the domain's length, as a store has them."""
    return {
        axis: (
            axis,
            (np.arange(points) + (0.5 if centred else 0.0)) / points,
            {"units": "1", "long_name": f"{axis} divided by length"},
        )
        for axis, points in zip(schema.AXES, space, strict=False)
    }


def frame_numbers(times: ndarray | Sequence[float]) -> tuple[str, Any, dict[str, str]]:
    """Coordinate of time in frames, as a store has it."""
    about = {"units": "1", "long_name": "time since the first frame, divided by dt"}
    return schema.TIME, np.asarray(times, np.float64), about


@dataclass(frozen=True)
class Arrays:
    """Plain arrays of a labelled dataset, and its labels.

    Attributes
    ----------
    values
        Float32, fields as channels.
    times
        Labels of the frames; None where there are none.
    coordinates
        Of trajectories and space.
    described
        `units` and `long_name` of every variable that says them.
    """

    values: Float[ndarray, "trajectory time channel *space"]
    times: Float[ndarray, " time"] | None
    coordinates: dict[str, Any]
    described: dict[str, dict[str, str]]


def arrays(what: str, given: Any, fields: Sequence[str], dims: int) -> Arrays:
    """Read fields from a dataset, or take an array as it is.

    Parameters
    ----------
    what
        Name of the argument, for messages.
    given
        A dataset with `fields` over `[trajectory,] [time,] x[, y[, z]]`, or an array of shape
        (trajectory, time, channel, *space) with channels in the order of `fields`.
    dims
        Axes of space.

    Raises
    ------
    UserError
        A field that is missing, an axis that doesn't belong, or another number of them.
    """
    if isinstance(given, xr.DataTree):
        given = given.to_dataset()
    if not isinstance(given, xr.Dataset):
        values = np.asarray(given, np.float32)
        if values.ndim != 3 + dims or values.shape[2] != len(fields):
            raise UserError(
                f"{what}: an array must be (trajectory, time, {len(fields)} fields, "
                f"{dims} axes of space), is {values.shape}"
            )
        return Arrays(values, None, {}, {})
    space = schema.AXES[:dims]
    order = (schema.TRAJECTORY, schema.TIME, *space)
    parts = []
    for name in fields:
        if name not in given.data_vars:
            raise UserError(f"{what}: lacks the field {name}; {allowed(given.data_vars, name)}")
        field = given[name]
        unknown = [str(dim) for dim in field.dims if dim not in order]
        if unknown or set(space) - set(field.dims):
            raise UserError(
                f"{what}: {name} must be over [trajectory,] [time,] {', '.join(space)}, is over "
                f"{', '.join(map(str, field.dims))}; rename its dimensions"
            )
        missing = [dim for dim in order[:2] if dim not in field.dims]
        parts.append(field.expand_dims(missing).transpose(*order).to_numpy().astype(np.float32))
    kept = (schema.TRAJECTORY, *space)
    return Arrays(
        np.stack(parts, axis=2),
        given[schema.TIME].to_numpy().astype(np.float64) if schema.TIME in given.indexes else None,
        {n: (n, np.atleast_1d(given[n]), given[n].attrs) for n in kept if n in given.coords},
        {str(name): _described(given[name]) for name in given.variables if _described(given[name])},
    )


def _described(variable: xr.DataArray) -> dict[str, str]:
    return {key: variable.attrs[key] for key in ("units", "long_name") if key in variable.attrs}


def parameter(given: Any, name: str) -> Any:
    """Value of a parameter that a dataset carries, as coordinate or as variable; else None."""
    if isinstance(given, xr.DataTree):
        given = given.to_dataset()
    if isinstance(given, xr.Dataset) and name in given.variables:
        return given[name].to_numpy()
    return None
