"""Scores of labelled arrays, by the protocols of the tasks; see `longrun.score`."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from numpy import ndarray

from longrun.data import schema
from longrun.labelled import MEMBER
from longrun.metrics import pointwise, spectrum, steady
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._scoring import Block, Cases, Pooled, blocks, score_rollouts
from longrun.tasks.map import capped

UNEVEN = 1e-3  # largest departure from equal steps, in steps


@dataclass(frozen=True)
class _Held:
    """Frames in memory in place of a store's split; frame 0 is the one before the forecast."""

    frames: Float[ndarray, "trajectory time channel *space"]
    parameters: dict[str, Float[ndarray, " trajectory"]]

    @property
    def space(self) -> tuple[int, ...]:
        return self.frames.shape[3:]

    def read(self, chosen: ndarray, frames: slice) -> Float[ndarray, "trajectory time ..."]:
        return self.frames[chosen, frames]


def rollouts(forecast: xr.Dataset, truth: xr.Dataset, names: Sequence[str]) -> pd.DataFrame:
    """Score forecasts by the protocol of `longrun.tasks._rollout`."""
    made, true = _aligned(forecast, truth, names)
    names = _moving(true, names)
    dims = len(_space(made))
    if not dims:
        raise UserError("score: has no axis of space, over which these scores are taken")
    times = _times(made)
    step, parameters = _step(made, truth, times), _parameters(made, true)
    before = _before(truth, names, made, times[0] - step)
    found = _values(true, names)
    held = np.concatenate([found[:, :1] if before is None else before, found], axis=1)
    seconds = parameters.get(schema.DT, np.ones(len(held))) * step
    values = _values(made, names)
    members = values.reshape(-1, *values.shape[-2 - dims :])
    cases = _cases(made, true, names, _Held(held, parameters | {schema.DT: seconds}), len(members))
    table = ScoreTable(str(truth.attrs.get("dataset", "")))
    chosen = np.arange(cases.trajectories)
    rows, spectra, _ = score_rollouts(cases, chosen, held[:, 0], _in_blocks(members, cases))
    table.extend(rows)
    pooled = Pooled(cases)
    pooled.merge(spectra)
    pooled.report(table)
    return table.frame()


def _in_blocks(members: ndarray, cases: Cases) -> Iterator[Block]:
    for steps in blocks(cases, cases.trajectories):
        yield steps, members[:, steps - 1]


def _cases(
    made: xr.Dataset, true: xr.Dataset, names: Sequence[str], held: _Held, rows: int
) -> Cases:
    """Return what is compared, in units of the training data where the forecast says them."""
    dims, frames = len(held.space), held.frames[:, 1:]
    known, energy = list(made.attrs.get(schema.FIELDS, ())), None
    if set(names) <= set(known):
        chosen = [known.index(name) for name in names]
        mean, std = (np.asarray(made.attrs[key], np.float64)[chosen] for key in ("mean", "std"))
        energy = np.asarray(made.attrs["spectrum"], np.float64)
    else:
        axes = (0, 1, *range(3, 3 + dims))
        mean, std = frames.mean(axes, np.float64), frames.std(axes, np.float64)
        std = np.where(std > 0, std, np.where(mean != 0, np.abs(mean), 1.0))
    cases = Cases(
        store=SimpleNamespace(path=Path("truth"), boundary=_boundary(made, true, dims)),
        split=held,
        trajectories=len(frames),
        members=rows // len(frames),
        start=0,
        stride=1,
        steps=frames.shape[1],
        history=1,
        keep=0,
        batch_size=rows,
        scored=np.arange(len(names)),
        mean=mean,
        std=std,
        bands={},
        equation=_equation(made, true, names),
    )
    if energy is None:
        energy = cases.energy(frames).sum(2).mean((0, 1))
    masks = spectrum.bands(energy.tolist(), len(cases.wavenumbers))
    return replace(cases, bands={name: mask for name, mask in masks.items() if mask.any()})


def _moving(true: xr.Dataset, names: Sequence[str]) -> list[str]:
    """Return the fields that are not the same in every frame, such as masks; else all."""
    first = true.isel({schema.TIME: 0}, drop=True)
    return [name for name in names if bool((true[name] != first[name]).any())] or [*names]


def _boundary(made: xr.Dataset, true: xr.Dataset, dims: int) -> tuple[str, ...]:
    """Return the boundary condition of each axis, where it is said."""
    given = (one.attrs.get(schema.BOUNDARY) for one in (made, true))
    return tuple(next((each for each in given if each), ["unknown"] * dims))


def _equation(made: xr.Dataset, true: xr.Dataset, names: Sequence[str]) -> Any:
    """Return the equation where it is known, for what it conserves and derives."""
    text = made.attrs.get(schema.EQUATION) or true.attrs.get(schema.EQUATION)
    section = json.loads(text) if text else {"name": ""}
    if section["name"] not in registry.names("equations"):
        return None
    equation = registry.build("equations", section)
    whole = [quantity.name for quantity in equation.fields] == list(names)
    return equation if whole else None


def steady_states(forecast: xr.Dataset, truth: xr.Dataset, names: Sequence[str]) -> pd.DataFrame:
    """Score fields without time by the protocol of `longrun.tasks.map`."""
    if schema.TIME in truth.dims:
        truth = truth.squeeze(schema.TIME, drop=True)
    made, true = _aligned(forecast, truth, names)
    dims = len(_space(made))
    table = ScoreTable(str(truth.attrs.get("dataset", "")))
    prediction, expected = (_values(one, names).astype(np.float64) for one in (made, true))
    rows = {"trajectory": np.arange(len(prediction))}
    for name, score in (
        ("relative_l2", pointwise.nrmse),
        ("relative_h1", steady.relative_h1),
        ("max_error", steady.max_error),
        ("wall_error", steady.wall_error),
    ):
        with np.errstate(invalid="ignore"):  # of what is not finite
            error = capped(score(prediction, expected, dims))
        table.add(name, error, censored=error >= pointwise.UNBOUNDED, **rows)
    return table.frame()


# Labels ------------------------------------------------------------------------------------------


def _space(one: xr.Dataset) -> tuple[str, ...]:
    return tuple(axis for axis in schema.AXES if axis in one.dims)


def _aligned(
    forecast: xr.Dataset, truth: xr.Dataset, names: Sequence[str]
) -> tuple[xr.Dataset, xr.Dataset]:
    """Return a forecast and the truth at the same trajectories and times, on the same grid."""
    made, true = (
        one if schema.TRAJECTORY in one.dims else one.expand_dims(schema.TRAJECTORY)
        for one in (forecast, truth)
    )
    for name in names:
        for what, one in (("forecast", made), ("truth", true)):
            if name not in one.data_vars:
                known = registry.allowed(one.data_vars, name)
                raise UserError(f"score: the {what} lacks the field {name}; {known}")
    for dim in (schema.TRAJECTORY, schema.TIME):
        if dim in made.dims:
            true = _selected(made, true, dim)
    for axis in {*_space(made), *_space(true)}:
        sizes = made.sizes.get(axis), true.sizes.get(axis)
        if sizes[0] != sizes[1]:
            raise UserError(f"score: {sizes[0]} points along {axis} forecast, {sizes[1]} true")
    return made, true


def _selected(made: xr.Dataset, true: xr.Dataset, dim: str) -> xr.Dataset:
    """Return the truth at the labels of the forecast along a dimension."""
    if dim not in true.dims:
        raise UserError(f"score: the truth has no {dim}")
    if dim in made.indexes and dim in true.indexes:
        wanted, there = made[dim].to_numpy(), true[dim].to_numpy()
        places = np.abs(there[:, None] - wanted).argmin(0)
        near = np.isclose(there[places], wanted, rtol=1e-9, atol=1e-6)
        if not near.all():
            raise UserError(
                f"score: the truth has no {dim} {wanted[~near][0]:g}; it has {there.min():g} to "
                f"{there.max():g}"
            )
        return true.isel({dim: places})
    if made.sizes[dim] != true.sizes[dim]:
        raise UserError(
            f"score: {made.sizes[dim]} along {dim} forecast, {true.sizes[dim]} true, and no labels "
            "to tell which"
        )
    return true


def _values(one: xr.Dataset, names: Sequence[str]) -> Float[ndarray, "trajectory ..."]:
    """Return fields as one array, a member after the trajectory where there are members."""
    lead = [dim for dim in (schema.TRAJECTORY, MEMBER, schema.TIME) if dim in one.dims]
    order = (*lead, *_space(one))
    parts = []
    for name in names:
        unknown = set(one[name].dims) - set(order)
        if unknown:
            raise UserError(f"score: {name} has the dimension {unknown.pop()}, which none knows")
        parts.append(one[name].transpose(*order).to_numpy())
    return np.stack(parts, axis=len(lead)).astype(np.float32)


def _times(made: xr.Dataset) -> Float[ndarray, " time"]:
    """Labels of the frames of a forecast, at equal steps."""
    if schema.TIME not in made.indexes:
        return np.arange(1.0, made.sizes[schema.TIME] + 1)
    times = made[schema.TIME].to_numpy().astype(np.float64)
    steps = np.diff(times)
    if len(steps) and np.ptp(steps) > UNEVEN * abs(steps[0]):
        raise UserError(f"score: steps of time are {steps.min():g} to {steps.max():g}: unequal")
    return times


def _step(made: xr.Dataset, truth: xr.Dataset, times: ndarray) -> float:
    """Return the length of a step, as labels count."""
    step = made.attrs.get("stride")
    if step is None and len(times) > 1:
        step = times[1] - times[0]
    if step is None and schema.TIME in truth.indexes and truth.sizes[schema.TIME] > 1:
        step = np.diff(truth[schema.TIME].to_numpy()[:2])[0]
    step = float(step or 1.0)
    if len(times) > 1 and abs(times[1] - times[0] - step) > UNEVEN * step:
        raise UserError(f"score: frames of the forecast are not its step {step:g} apart")
    return step


def _before(
    truth: xr.Dataset, names: Sequence[str], made: xr.Dataset, time: float
) -> Float[ndarray, "trajectory 1 channel *space"] | None:
    """Return the true frame before a forecast, where there is one."""
    if schema.TIME not in truth.indexes or schema.TIME not in made.indexes:
        return None
    near = np.flatnonzero(np.isclose(truth[schema.TIME].to_numpy(), time, rtol=1e-9, atol=1e-6))
    if not len(near):
        return None
    whole = truth if schema.TRAJECTORY in truth.dims else truth.expand_dims(schema.TRAJECTORY)
    return _values(_selected(made, whole.isel({schema.TIME: near[:1]}), schema.TRAJECTORY), names)


def _parameters(made: xr.Dataset, true: xr.Dataset) -> dict[str, Float[ndarray, " trajectory"]]:
    """Return the numbers that each trajectory has, those of the truth where both say them."""
    count, found = made.sizes[schema.TRAJECTORY], {}
    for one in (made, true):
        for name in one.coords:
            value = one[name]
            if name not in one.dims and value.dims in ((), (schema.TRAJECTORY,)):
                numbers = value.to_numpy()
                if numbers.dtype.kind in "fiu":
                    found[str(name)] = np.broadcast_to(numbers.astype(np.float64), (count,))
    return found
