"""Longrun from Python: data, trained methods and scores as labelled arrays, without the workflow.

Datasets have the layout of a store's split (docs/stores.md): fields over `trajectory, time, x[, y[,
z]]`, `time` in frames, `x` as a share of the domain's length, and the parameters of each trajectory
as coordinates. So what `simulate` makes and what `open_store` opens is what the methods of `load`
take and `score` compares.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import xarray as xr

from longrun.data import schema
from longrun.data import store as stores
from longrun.runtime import registry
from longrun.runtime.cli import UserError

if TYPE_CHECKING:
    from longrun.trained import Trained

Split = Literal["train", "valid", "test"]


def open_store(path: str | os.PathLike[str]) -> xr.DataTree:
    """Open a finished store, lazily.

    Parameters
    ----------
    path
        Folder of the store.

    Returns
    -------
    xarray.DataTree
        `train`, `valid` and `test`; the root has the attributes of the store and, where it was
        measured, `reference_error` with its `lead_time`.

    Raises
    ------
    UserError
        Absent, incomplete, damaged, or no store.

    Examples
    --------
    >>> test = longrun.open_store("data/cpu/burgers.zarr")["test"].to_dataset()  # doctest: +SKIP
    >>> test.u.sel(trajectory=0).plot(x="time")  # doctest: +SKIP
    """
    return stores.open_tree(Path(path))


def simulate(
    equation: str,
    *,
    trajectories: int = 1,
    frames: int = 100,
    seed: int = 0,
    split: Split = "test",
    **options: Any,
) -> xr.Dataset:
    """Solve an equation from random initial conditions, with the solver that makes its datasets.

    Parameters
    ----------
    equation
        Name of a file in `longrun.equations`.
    trajectories
        How many; trajectory i depends on seed, split and i alone.
    frames
        Frames of each that are kept, after the equation's `burn_in`; 1 of a steady map.
    seed, split
        What the random numbers depend on: those of a dataset give its trajectories.
    options
        Of the equation's class, such as `points`; a parameter is a number, or drawn for each
        trajectory: `viscosity={"uniform": [0.5, 1.0]}`.

    Returns
    -------
    xarray.Dataset
        Float32 fields in the layout of a store's split, with units.

    Raises
    ------
    UserError
        An unknown equation or option, or a trajectory that diverged.

    Examples
    --------
    >>> longrun.simulate("kuramoto_sivashinsky", points=256, frames=200)  # doctest: +SKIP
    """
    from longrun import generate, labelled

    if trajectories < 1 or frames < 1:
        raise UserError(
            f"simulate: trajectories and frames must be at least 1, are {trajectories} and {frames}"
        )
    section = {"name": equation, **_checked(equation, options)}
    solved = generate.build(section)
    length = 1 if solved.steady else frames
    parameters, states = generate.simulate(
        solved, seed, split, range(trajectories), length, "float32"
    )
    quantities = (*solved.fields, *solved.parameters)
    return labelled.dataset(
        states,
        [quantity.name for quantity in solved.fields],
        parameters,
        labelled.positions(solved.grid(), solved.centred)
        | {schema.TIME: labelled.frame_numbers(range(length))},
        {q.name: {"units": q.units, "long_name": q.long_name} for q in quantities},
        {"equation": json.dumps(section), "boundary": list(solved.boundary), "seed": seed},
    )


def _checked(equation: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with lists for tuples, as YAML has them.

    Raises
    ------
    UserError
        An option that the equation lacks, of another type, or a missing one.
    """
    takes = registry.arguments("equations", equation)
    for name, argument in takes.items():
        if argument.required and name not in options:
            raise UserError(f"simulate: {equation} needs {name}")
    found = {}
    for name, value in options.items():
        if name not in takes:
            raise UserError(f"simulate: {equation} has no {name}; {registry.allowed(takes, name)}")
        found[name] = list(value) if isinstance(value, tuple) else value
        refusal = None if isinstance(value, Mapping) else takes[name].refusal(found[name])
        if refusal:
            raise UserError(f"simulate: {name} {refusal}")
    return found


def load(checkpoint: str | os.PathLike[str], device: str | None = None) -> "Trained":
    """Load a trained method.

    Parameters
    ----------
    checkpoint
        A `model.ckpt` that `longrun.train` wrote.
    device
        Where it shall run, as torch names it: "cpu", "cuda", "cuda:1". By default a GPU where there
        is one.

    Returns
    -------
    longrun.trained.Trained
        With the call of its task: `forecast`, `solve`, `map`, `assimilate` or `sample`; the
        Lightning module is its `module`.

    Raises
    ------
    UserError
        No such file, one that is damaged or no checkpoint, or a device that isn't there.

    Examples
    --------
    >>> unet = longrun.load("results/cpu/pde_refiner/unet/seed0/model.ckpt")  # doctest: +SKIP
    >>> unet.forecast(test.isel(time=slice(0, 5)), steps=100)  # doctest: +SKIP
    """
    from longrun import trained

    return trained.load(Path(checkpoint), device)


def score(
    forecast: xr.Dataset, truth: xr.Dataset, fields: Sequence[str] | None = None
) -> pd.DataFrame:
    """Score a forecast against the truth: the table that `longrun.evaluate` writes.

    The metrics are those of rollouts, see `longrun.tasks._rollout`; without an axis `time`, those
    of a steady map. Scores of single steps, and of time and memory, need a method and are not here.

    Parameters
    ----------
    forecast
        Of `forecast`, or in the same layout from elsewhere: fields over `[trajectory, [member,]]
        [time,] x[, y[, z]]`, at equal steps of time. Where it diverges it is NaN. Where it is from
        elsewhere, standard deviations and bands of wavenumbers are those of the truth, not those of
        the training data.
    truth
        The same fields at the same labels of `trajectory` and `time`, and possibly more; its
        parameters, such as `length` and `dt`, give units. What an equation conserves is compared
        with the truth one step before the forecast, or with its first frame.
    fields
        Which ones are scored; by default all that both have. One that never moves, such as a mask,
        is not.

    Returns
    -------
    pandas.DataFrame
        One row per trajectory, member, step and metric, see `longrun.metrics.table`.

    Raises
    ------
    UserError
        Nothing in common, other grids, or steps of unequal length.
    """
    names = [
        str(name)
        for name in (forecast.data_vars if fields is None else fields)
        if fields is not None or name in truth.data_vars
    ]
    if not names:
        raise UserError("score: forecast and truth have no field in common")
    from longrun import comparison

    compare = comparison.rollouts if schema.TIME in forecast.dims else comparison.steady_states
    return compare(forecast, truth, names)
