"""Trained methods that take and give labelled arrays, one class for each task; see `longrun.api`.

A frame in has the variables, units and grid that the method was trained on. `time` counts frames of
the training data, which are `dt` apart; a step of the method spans `stride` of them.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun import labelled
from longrun.data import schema
from longrun.labelled import MEMBER, Arrays
from longrun.runtime import checkpoint, devices, registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import seeded
from longrun.tasks._rollout import rollout

Parameters = Mapping[str, Any] | None

NEAR = 0.1  # of the range of training: further outside is warned of


def load(path: Path, device: str | None = None) -> "Trained":
    """Load a method; see `longrun.load`."""
    try:
        where = devices.device_of("auto") if device is None else torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device}: {str(error).splitlines()[0]}") from error
    module = checkpoint.load(path, where)
    name = type(module).__module__.rpartition(".")[2]
    return KINDS.get(registry.task(name), Trained)(name, module)


class Trained:
    """A trained method.

    Methods of the task `accelerate` learn while they solve: they have no call here, and their
    `module` is used as `longrun.tasks.accelerate` says.

    Attributes
    ----------
    name
        Of the method, a file in `longrun.methods`.
    module
        The Lightning module, in evaluation mode.
    description
        Of its training data, see `longrun.data.describe`.
    """

    def __init__(self, name: str, module: Any):
        self.name, self.module = name, module
        self.description: dict[str, Any] = module.description

    def __repr__(self) -> str:
        """Say what it is, on what and where."""
        about = self.description
        grid = " x ".join(map(str, about["points"])) or "no axis of space"
        return (
            f"<{self.name}, a method to {registry.task(self.name)}: {', '.join(self.fields)} on "
            f"{grid}; parameters {', '.join(self.parameters)}; on {self.device}>"
        )

    @property
    def device(self) -> torch.device:
        """Where the method runs."""
        return torch.device(self.module.device)

    @property
    def fields(self) -> list[str]:
        """Names of the fields, in the order of channels."""
        return list(self.description["field_names"])

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters of a trajectory."""
        return list(self.description["parameter_names"])

    @property
    def stride(self) -> int:
        """Frames of the training data per step of the method."""
        return int(self.description["stride"])

    @property
    def attrs(self) -> dict[str, Any]:
        """What a dataset says of its origin, and what scores need of the training data."""
        statistics = self.description["statistics"]
        return {
            "method": self.name,
            "equation": json.dumps(self.description["equation"]),
            "boundary": list(self.description.get("boundary", ())),
            "stride": self.stride,
            "fields": self.fields,
            "mean": list(statistics["mean"]),
            "std": list(statistics["std"]),
            "spectrum": list(self.description.get("spectrum", ())),
        }

    def _read(self, what: str, given: Any, fields: list[str] | None = None) -> Arrays:
        """Return the arrays of an argument, on a grid that the method can take."""
        dims = self.description["dims"]
        found = labelled.arrays(what, given, self.fields if fields is None else fields, dims)
        takes = {k for k, a in registry.arguments("methods", self.name).items() if not a.required}
        options = {k: v for k, v in self.module.arguments.items() if k in takes}
        multiple = registry.grid_multiple(self.name, options)
        if any(side % multiple for side in found.values.shape[3:]):
            raise UserError(
                f"{what}: {self.name} needs a grid whose sides are multiples of {multiple}, is on "
                f"{list(found.values.shape[3:])}"
            )
        return found

    def _parameters(
        self, given: Any, parameters: Parameters, count: int
    ) -> dict[str, Float[ndarray, " trajectory"]]:
        """Return every parameter of every trajectory.

        What is not in `parameters` is a coordinate of the data, or was the same in all of training.
        """
        asked = dict(parameters or {})
        for name in asked:
            if name not in self.parameters:
                known = registry.allowed(self.parameters, name)
                raise UserError(f"parameters: {self.name} knows no {name}; {known}")
        statistics = self.description["statistics"]
        found = {}
        for place, name in enumerate(self.parameters):
            low, high = (statistics[f"condition_{end}"][place] for end in ("low", "high"))
            value = asked.get(name, labelled.parameter(given, name))
            if value is None and low == high:
                value = low
            if value is None:
                raise UserError(
                    f"parameters: {name} is missing; in training it was {low:g} to {high:g}"
                )
            values = np.asarray(value, np.float64)
            if values.ndim > 1 or values.size not in (1, count):
                raise UserError(
                    f"parameters: {name} must be a number, or one for each of {count} "
                    f"trajectories, has the shape {values.shape}"
                )
            found[name] = np.broadcast_to(values.reshape(-1), (count,))
            slack = NEAR * (high - low) + 1e-5 * max(abs(low), abs(high))
            if values.min() < low - slack or values.max() > high + slack:
                warnings.warn(
                    f"{name} reaches from {values.min():g} to {values.max():g}, in training it was "
                    f"{low:g} to {high:g}",
                    stacklevel=4,
                )
        return found

    def _tensor(self, values: ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device)

    def _table(self, parameters: Mapping[str, ndarray]) -> Tensor:
        """Return parameters as methods take them: (trajectory, parameter)."""
        return self._tensor(np.stack(list(parameters.values()), axis=1))

    def _described(self, given: Arrays | None = None) -> dict[str, dict[str, str]]:
        """Units and names of fields and parameters: of what was given, else of the equation."""
        section = self.description["equation"]
        if section["name"] not in registry.names("equations"):
            return dict(given.described) if given else {}
        equation = registry.build("equations", section)
        quantities = (*equation.fields, *equation.parameters)
        known = {q.name: {"units": q.units, "long_name": q.long_name} for q in quantities}
        return known | (given.described if given else {})

    def _units(self, given: Arrays | None, name: str) -> dict[str, str]:
        return {k: v for k, v in self._described(given).get(name, {}).items() if k == "units"}

    def _grid(self, given: Arrays | None, space: tuple[int, ...]) -> dict[str, Any]:
        """Coordinates of space: those that were given, else those of a store."""
        section = self.description["equation"]
        known = section["name"] in registry.names("equations")
        centred = known and registry.build("equations", section).centred
        return labelled.positions(space, centred) | (given.coordinates if given else {})

    def _check_steps(self, what: str, given: Arrays) -> None:
        """Refuse labelled frames that are not one step apart."""
        if given.times is not None and len(given.times) > 1:
            steps = np.diff(given.times)
            if not np.allclose(steps, self.stride, rtol=1e-6):
                raise UserError(
                    f"{what}: frames must be {self.stride} apart in time, as in training, are "
                    f"{steps.min():g} to {steps.max():g} apart"
                )


class Forecaster(Trained):
    """A trained forecaster."""

    def forecast(
        self,
        history: Any,
        parameters: Parameters = None,
        steps: int = 1,
        *,
        members: int = 1,
        seed: int = 0,
        batch_size: int = 64,
    ) -> xr.Dataset:
        """Forecast the frames after the last one that is given.

        Parameters
        ----------
        history
            The last true frames: a dataset in the layout of a store's split, of which those are
            taken that the method was trained to see; or an array (trajectory, frame, channel,
            *space) whose last frames are one step of the method apart.
        parameters
            Of the trajectories, by name: a number, or one for each. Those that the dataset carries
            as coordinates, and those that were the same in all of training, may be left out.
        steps
            Steps of the method, each of `stride` frames.
        members
            Forecasts of each trajectory, by a method that has noise.
        seed
            Of that noise.
        batch_size
            Forecasts in one call of the network.

        Returns
        -------
        xarray.Dataset
            Fields over `trajectory, [member,] time, x, ...`, NaN from where one diverges;
            `lead_time` is the time since the last given frame.

        Raises
        ------
        UserError
            Fields, frames or parameters that are missing, or members of a method without noise.
        """
        if steps < 1 or members < 1:
            raise UserError(f"steps and members must be at least 1, are {steps} and {members}")
        if members > 1 and not self.module.stochastic:
            raise UserError(f"{self.name} has no noise: its members would all be the same")
        given = self._read("history", history)
        frames, last = self._last(given)
        count = len(frames)
        known = self._parameters(history, parameters, count)
        made = np.empty((count * members, steps, *frames.shape[2:]), np.float32)
        with torch.no_grad():
            ahead = rollout(
                self.module,
                self._tensor(frames).repeat_interleave(members, 0),
                self._table(known).repeat_interleave(members, 0),
                steps,
                generator=seeded(self.device, seed, 0, 0),
                batch_size=batch_size,
            )
            for place, frame in enumerate(ahead):
                made[:, place] = frame.cpu().numpy()
        number = np.arange(1, steps + 1)
        lead = np.outer(known.get(schema.DT, np.ones(count)) * self.stride, number)
        about = {"long_name": "time since the last given frame"}
        about |= {
            k: v for k, v in self._described(given).get(schema.DT, {}).items() if k == "units"
        }
        coordinates = self._grid(given, frames.shape[3:]) | {
            schema.TIME: labelled.frame_numbers(last + self.stride * number),
            schema.LEAD_TIME: ((schema.TRAJECTORY, schema.TIME), lead, about),
        }
        if members > 1:
            made = made.reshape(count, members, *made.shape[1:])
            coordinates[MEMBER] = np.arange(members)
        dims = (MEMBER, schema.TIME) if members > 1 else (schema.TIME,)
        return labelled.dataset(
            made, self.fields, known, coordinates, self._described(given), self.attrs, dims
        )

    def _last(self, given: Arrays) -> tuple[Float[ndarray, "trajectory frame ..."], float]:
        """Return the frames that the method sees, and the label of the last one."""
        wanted, there = self.module.history, given.values.shape[1]
        if given.times is None:
            if there < wanted:
                raise UserError(f"history: needs {wanted} frames, a step apart, has {there}")
            return given.values[:, there - wanted :], 0.0
        last = float(given.times[-1])
        labels = last - self.stride * np.arange(wanted)[::-1]
        places = np.abs(given.times[:, None] - labels).argmin(0)
        if not np.allclose(given.times[places], labels, rtol=0, atol=1e-6 * self.stride):
            wants = ", ".join(f"{label:g}" for label in labels)
            raise UserError(
                f"history: {self.name} needs the frames at times {wants}; there are "
                f"{given.times[0]:g} to {last:g}"
            )
        return given.values[:, places], last


class Solver(Trained):
    """A trained solution of one problem."""

    def solve(
        self, times: Any = None, points: int | None = None, batch_size: int = 16384
    ) -> xr.Dataset:
        """Return the solution on a grid.

        Parameters
        ----------
        times
            In physical units; by default those of the frames of the data. None for a steady
            equation.
        points
            Along the first axis of space, the others in proportion; by default those of the data.
        batch_size
            Points in one call of the network.

        Returns
        -------
        xarray.Dataset
            Fields over `[time,] x, ...`, coordinates in physical units.
        """
        module = self.module
        if module.steady and times is not None:
            raise UserError(f"{self.name}: a steady equation has no times")
        grid = [n * (points or module.points[0]) // module.points[0] for n in module.points]
        shift = 0.5 if module.equation.centred else 0.0
        with torch.no_grad():
            extent = module.extent.cpu().double().numpy()
            place = module.lattice(grid, shift) * module.extent[-module.dims or None :]
            lead: dict[str, Any] = {}
            if not module.steady:
                lead[schema.TIME] = self._times(times)
                moments = torch.as_tensor(lead[schema.TIME]).to(place)
                repeated = moments.repeat_interleave(len(place))[:, None]
                place = torch.cat([repeated, place.repeat(len(moments), 1)], -1)
            values = torch.cat([module(part) for part in place.split(batch_size)])
        shape = (1, *(len(labels) for labels in lead.values()), *grid, len(module.names))
        states = np.moveaxis(values.cpu().numpy().reshape(shape), -1, 1 + len(lead))
        known = {name: value.cpu().numpy()[None] for name, value in module.parameter_values.items()}
        units, clock = (self._units(None, name) for name in (schema.LENGTH, schema.DT))
        coordinates = {
            axis: (axis, (np.arange(n) + shift) / n * extent[len(lead) + number], units)
            for number, (axis, n) in enumerate(zip(schema.AXES, grid, strict=False))
        }
        coordinates |= {name: (name, labels, clock) for name, labels in lead.items()}
        attrs = {key: self.attrs[key] for key in ("method", "equation", "boundary")}
        found = labelled.dataset(
            states, module.names, known, coordinates, self._described(), attrs, tuple(lead)
        )
        return found.isel({schema.TRAJECTORY: 0}).drop_vars(schema.TRAJECTORY)

    def _times(self, times: Any) -> Float[ndarray, " time"]:
        duration = float(self.module.duration)
        if times is not None:
            return np.atleast_1d(np.asarray(times, np.float64))
        frames = round(duration / float(self.module.parameter_values[schema.DT])) + 1
        return np.linspace(0.0, duration, frames)


class Map(Trained):
    """A trained map of steady fields."""

    def map(self, given: Any, parameters: Parameters = None, batch_size: int = 64) -> xr.Dataset:
        """Find the sought fields from the given ones.

        Parameters
        ----------
        given
            A dataset with the given fields over `[trajectory,] x, ...`, or an array (trajectory, 1,
            channel, *space).
        parameters
            As of a forecast.
        batch_size
            States in one call of the network.

        Returns
        -------
        xarray.Dataset
            The sought fields over `trajectory, x, ...`.
        """
        first = self.module.given
        found = self._read("given", given, self.fields[:first])
        if found.values.shape[1] != 1:
            raise UserError(f"given: a steady field has one frame, not {found.values.shape[1]}")
        known = self._parameters(given, parameters, len(found.values))
        frames, table = self._tensor(found.values[:, 0]), self._table(known)
        pieces = zip(frames.split(batch_size), table.split(batch_size), strict=True)
        with torch.no_grad():
            made = torch.cat([self.module.predict(*piece) for piece in pieces]).cpu().numpy()
        grid = self._grid(found, made.shape[2:])
        return labelled.dataset(
            made, self.fields[first:], known, grid, self._described(found), self.attrs, ()
        )


class Assimilator(Trained):
    """A trained assimilator."""

    def assimilate(
        self, measurements: Any, parameters: Parameters = None, *, seed: int = 0
    ) -> xr.Dataset:
        """Follow trajectories by their measurements.

        Parameters
        ----------
        measurements
            Every frame, one step of the method apart, NaN where nothing was measured: a dataset, or
            an array (trajectory, time, channel, *space).
        parameters
            As of a forecast.
        seed
            Of a method's own noise.

        Returns
        -------
        xarray.Dataset
            The estimate of every frame after its correction, NaN from where it diverges.
        """
        given = self._read("measurements", measurements)
        known = self._parameters(measurements, parameters, len(given.values))
        self._check_steps("measurements", given)
        mask = torch.from_numpy(np.isfinite(given.values)).to(self.device)
        values = self._tensor(np.nan_to_num(given.values, nan=0.0, posinf=0.0, neginf=0.0))
        generator = torch.Generator(self.device).manual_seed(seed)
        with torch.no_grad():
            follow = self.module.follow(values, mask, self._table(known), generator)
            made = np.stack([frame.cpu().numpy() for frame in follow], axis=1)
        number = np.arange(made.shape[1])
        times = self.stride * number if given.times is None else given.times
        coordinates = self._grid(given, made.shape[3:])
        coordinates[schema.TIME] = labelled.frame_numbers(times)
        return labelled.dataset(
            made, self.fields, known, coordinates, self._described(given), self.attrs
        )


class Sampler(Trained):
    """A trained sampler."""

    def sample(
        self,
        observation: Any = None,
        parameters: Parameters = None,
        members: int = 1,
        *,
        nfe: int | None = None,
        seed: int = 0,
        batch_size: int = 1024,
    ) -> xr.Dataset:
        """Draw frames.

        Parameters
        ----------
        observation
            For a method that draws the next frame: what was seen of this one, NaN elsewhere. Points
            that were never seen in training are not looked at.
        parameters
            As of a forecast.
        members
            Frames to draw, for each observation where there is one.
        nfe
            Calls of the network; by default as many as an exact answer needs.
        seed
            Of the noise.
        batch_size
            Frames in one call.

        Returns
        -------
        xarray.Dataset
            Fields over `[trajectory,] member, x, ...`.
        """
        module = self.module
        if module.conditional != (observation is not None):
            needs = "needs" if module.conditional else "was trained without"
            raise UserError(f"{self.name} {needs} an observation")
        given = None if observation is None else self._read("observation", observation)
        if given is None:
            frames = np.zeros((1, len(self.fields), *self.description["points"]), np.float32)
        else:
            if given.values.shape[1] != 1:
                raise UserError(f"observation: needs one frame, has {given.values.shape[1]}")
            frames = given.values[:, 0]
        known = self._parameters(observation, parameters, len(frames))
        seen = self._seen(frames).repeat_interleave(members, 0)
        table = self._table(known).repeat_interleave(members, 0)
        generator = seeded(self.device, seed)
        with torch.no_grad():
            pieces = zip(seen.split(batch_size), table.split(batch_size), strict=True)
            drawn = [module.draw(*piece, generator, nfe) for piece in pieces]
        made = torch.cat(drawn).cpu().numpy().reshape(len(frames), members, *frames.shape[1:])
        coordinates = self._grid(given, frames.shape[2:]) | {MEMBER: np.arange(members)}
        found = labelled.dataset(
            made, self.fields, known, coordinates, self._described(given), self.attrs, (MEMBER,)
        )
        return found if given else found.isel({schema.TRAJECTORY: 0}).drop_vars(schema.TRAJECTORY)

    def _seen(self, frames: Float[ndarray, "trajectory channel *space"]) -> Tensor:
        """Return observations as the method takes them: its field's mean where nothing is seen."""
        module, values = self.module, self._tensor(frames)
        if not module.conditional:
            return values[:, :0]
        grid = torch.zeros(values.shape[2:], dtype=torch.bool, device=self.device)
        grid[(slice(None, None, module.observe_every),) * module.dims] = True
        known = grid & torch.isfinite(values)
        return torch.where(known, values, module.per_channel(module.field_mean))


KINDS: dict[str, type[Trained]] = {
    "forecast": Forecaster,
    "solve": Solver,
    "map": Map,
    "assimilate": Assimilator,
    "sample": Sampler,
}
