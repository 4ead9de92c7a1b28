"""The task `solve`: find the solution of one problem from its equation alone, without data of it.

A method sees the problem: the residual in strong form (`AbstractEquation.residual`), the box and
the time interval, the parameters, and what is given at the beginning and on the walls. All of it
comes from the first trajectory of the training data, of which it reads the frame 0 and nothing
else; of a steady equation, whose one frame holds the solution, it reads no frame at all.

    loss = residual_weight mean_i(L_i) + given,    L_i = mean over space of residual(t_i, x)^2
    given = initial_weight mse(u(0, .), frame 0) + boundary_weight mse(u on the walls)

A method gives the field as a function of time and space, and may weigh the slices L_i. It is scored
after its last update, never after its best.

The evaluation, for every method alike:

- The network is evaluated on the time and space of the store, frames 0, `stride`, 2 `stride`, ...
  The truth is a trajectory of the test split; one of another problem is refused.
- `relative_l2` is | prediction - truth | / | truth | over all these frames, frame 0 included, and
  over all fields sought; `relative_l2_over_time` is the same for each frame, and
  `relative_l2_final` for the last. Relative errors have a ceiling of 100, and are censored there.
- `max_error` is the largest absolute error, at most 100 times the largest absolute truth.
- `residual_rms` is the root mean square of the residual at the same points.
"""

import itertools
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from longrun.data import schema
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import Evaluation, field_coordinates, score_size
from longrun.tasks._learner import AbstractLearner, Batch

FAR = 1e12  # stands for what is not finite: no score is NaN

Derivatives = dict[str, Float[Tensor, "*point field"]]


class AbstractFieldSolver(AbstractLearner):
    """A field over time and space that is trained on the equation it shall solve.

    Points are physical coordinates (time first, where there is time), all from 0 to `extent`.

    Parameters
    ----------
    points : list of int
        Grid points of the data along each axis; from the data.
    equation : dict
        The `equation` section of the dataset; from the data.
    collocation : list of int
        Times, and positions at each of them, where the residual is asked for in one update; of a
        steady equation positions alone.
    sampling : {"random", "grid"}
        Draw times and positions anew for every update, uniformly and independently, times sorted;
        or use a fixed tensor grid, times from the beginning to the end.
    wall_points : int
        Random points on each wall, of axes that are not periodic, in one update.
    residual_weight, initial_weight, boundary_weight : float
        Weights of the terms of the loss.

    Attributes
    ----------
    boundaries
        Boundary conditions that a method can meet; "dirichlet" is zero on the walls.
    given_boundary : tuple of str
        Boundary condition of each axis.
    variables : tuple of str
        Names of the coordinates of a point.
    names : tuple of str
        Names of the fields that are sought.

    Raises
    ------
    ValueError
        An equation without strong form, a boundary that the method can't meet, or impossible
        numbers of points.
    """

    shares_batches = False
    boundaries: tuple[str, ...] = ("periodic", "dirichlet")
    conditions: Tensor
    duration: Tensor
    initial: Tensor

    def __init__(
        self,
        points: list[int],
        equation: dict[str, Any],
        collocation: list[int] = [32, 64],  # noqa: B006 (read, never written)
        sampling: Literal["random", "grid"] = "random",
        wall_points: int = 128,
        residual_weight: float = 1.0,
        initial_weight: float = 1.0,
        boundary_weight: float = 1.0,
        **options: Any,
    ):
        super().__init__(**options)
        self.equation = registry.build("equations", equation)
        self.names = self.equation.sought or tuple(q.name for q in self.equation.fields)
        self.steady, self.dims = bool(self.equation.steady), len(points)
        self.variables = ("t", *schema.AXES)[int(self.steady) : 1 + self.dims]
        self.points, self.given_boundary = list(points), tuple(self.equation.boundary)
        self.collocation, self.sampling = list(collocation), sampling
        self.wall_points = wall_points
        self.residual_weight, self.initial_weight = residual_weight, initial_weight
        self.boundary_weight = boundary_weight
        self._check(equation["name"])
        self.register_buffer("conditions", torch.zeros(len(self.equation.parameters)))
        self.register_buffer("duration", torch.ones(()))
        frame = () if self.steady else (len(self.names), *points)
        self.register_buffer("initial", torch.zeros(frame))

    def _check(self, name: str) -> None:
        if not self.equation.derivatives:
            raise ValueError(f"{name} gives no residual in strong form, which the task solve needs")
        for boundary in self.given_boundary:
            if boundary not in self.boundaries:
                met = " and ".join(self.boundaries)
                raise ValueError(f"{name} has a {boundary} boundary; this method meets {met}")
        wanted = 2 - int(self.steady)
        if len(self.collocation) != wanted or min(self.collocation) < 1:
            raise ValueError(f"collocation must be {wanted} positive numbers for {name}")
        if self.sampling == "grid" and self.dims:
            side = round(self.collocation[-1] ** (1 / self.dims))
            if side**self.dims != self.collocation[-1]:
                raise ValueError(
                    f"a grid over {self.dims} axes needs as many positions along each: "
                    f"{self.collocation[-1]} is no power"
                )

    # What a method gives -------------------------------------------------------------------------

    @abstractmethod
    def forward(self, points: Float[Tensor, "point variable"]) -> Float[Tensor, "point field"]:
        """Return the field at points."""

    def differentiate(
        self, points: Float[Tensor, "point variable"], names: Sequence[str]
    ) -> Derivatives:
        """Return the field ("") and its derivatives at points, by name.

        By forward-mode differentiation, one pass within the other for each order; a method may
        know a faster way.
        """

        def along(function: Any, letter: str) -> Any:
            axis = torch.zeros_like(points)
            axis[:, self.variables.index(letter)] = 1.0
            return lambda at: torch.func.jvp(function, (at,), (axis,))[1]

        found = {"": self.forward(points)}
        for name in names:
            function: Any = self.forward
            for letter in name:
                function = along(function, letter)
            found[name] = function(points)
        return found

    def weigh(self, slices: Float[Tensor, " time"], given: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the residual's part of the loss, from that at each time and the given's part."""
        return slices.mean()

    def exhibits(self) -> dict[str, xr.DataArray]:
        """Return what a figure of this method alone shows, stored beside its predictions."""
        return {}

    # The problem ---------------------------------------------------------------------------------

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the parameters."""
        self.conditions.copy_(torch.tensor(statistics["condition_low"]))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Read the problem from the first training trajectory: parameters, duration, frame 0."""
        super().prepare(data, sources)  # before the problem, which is this one's own
        split = data.stores[0].split("train")
        values = [split.parameters[name][0] for name in split.parameter_names]
        self.conditions.copy_(torch.tensor(values))
        if self.steady:
            return
        self.duration.fill_(split.parameters[schema.DT][0] * (split.frames - 1))
        frame = split.read(slice(0, 1), slice(0, 1))[0, 0]
        self.initial.copy_(torch.from_numpy(frame[self._channels(split.fields)]))

    def _channels(self, fields: Sequence[str]) -> list[int]:
        return [list(fields).index(name) for name in self.names]

    @property
    def parameter_values(self) -> dict[str, Float[Tensor, ""]]:
        """The problem's parameters by name."""
        names = [quantity.name for quantity in self.equation.parameters]
        return dict(zip(names, self.conditions, strict=True))

    @property
    def extent(self) -> Float[Tensor, " variable"]:
        """Length of the box along each coordinate, the duration first."""
        values = self.parameter_values
        lengths = [
            values.get(f"{schema.LENGTH}_{axis}", values.get(schema.LENGTH))
            for axis in schema.AXES[: self.dims]
        ]
        return torch.stack([*([] if self.steady else [self.duration]), *lengths])  # type: ignore[list-item]

    def positions(self) -> Float[Tensor, "position axis"]:
        """Return the grid of the data, the last axis fastest; one position without axes."""
        shift = 0.5 if self.equation.centred else 0.0
        return self.lattice(self.points, shift) * self.extent[-self.dims or None :]

    def lattice(self, sides: Sequence[int], shift: float) -> Float[Tensor, "position axis"]:
        """Return a tensor grid of the unit box."""
        if not self.dims:
            return self.conditions.new_zeros(1, 0)
        axes = [
            (torch.arange(n, device=self.device, dtype=self.conditions.dtype) + shift) / n
            for n in sides
        ]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)

    # Training ------------------------------------------------------------------------------------

    def collocate(self, generator: torch.Generator) -> Float[Tensor, "time position variable"]:
        """Draw points for the residual: times in order, the same positions at each."""
        extent = self.extent
        count = self.collocation[-1] if self.dims else 1
        if self.sampling == "grid":
            side = round(count ** (1 / max(self.dims, 1)))
            centred = "periodic" not in self.given_boundary
            positions = self.lattice([side] * self.dims, 0.5 * centred)
        else:
            positions = torch.rand(
                count, self.dims, generator=generator, device=self.device, dtype=extent.dtype
            )
        if self.steady:
            return (positions * extent)[None]
        number = self.collocation[0]
        if self.sampling == "grid":
            times = torch.linspace(0, 1, number, device=self.device, dtype=extent.dtype)
        else:
            times = torch.rand(number, generator=generator, device=self.device, dtype=extent.dtype)
            times = times.sort().values
        unit = torch.cat(
            [
                times[:, None, None].expand(-1, count, 1),
                positions.expand(number, -1, -1),
            ],
            -1,
        )
        return unit * extent

    def walls(self, generator: torch.Generator) -> Float[Tensor, "point variable"]:
        """Draw points on both walls of every axis that is not periodic."""
        extent, first = self.extent, int(not self.steady)
        walled = [i for i, kind in enumerate(self.given_boundary) if kind != "periodic"]
        sides = list(itertools.product(walled, (0.0, 1.0)))
        points = torch.rand(
            len(sides),
            self.wall_points,
            len(extent),
            generator=generator,
            device=self.device,
            dtype=extent.dtype,
        )
        for side, (axis, place) in zip(points, sides, strict=True):
            side[:, first + axis] = place
        return points.flatten(0, 1) * extent

    def residual(
        self, points: Float[Tensor, "*point variable"]
    ) -> Float[Tensor, "*point equation"]:
        """Return the equation's residual of the field at points."""
        flat = points.reshape(-1, points.shape[-1])
        u = self.differentiate(flat, self.equation.derivatives)
        at = dict(zip(self.variables, flat.unbind(-1), strict=True))
        left: Tensor = self.equation.residual(u, at, self.parameter_values)
        return left.unflatten(0, points.shape[:-1])

    def given_loss(self, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the weighted errors of the initial and the boundary values."""
        loss = self.extent.new_zeros(())
        if not self.steady:
            positions = self.positions()
            start = torch.cat([positions.new_zeros(len(positions), 1), positions], -1)
            frame = self.initial.reshape(len(self.names), -1).T
            error = (self.forward(start) - frame).square().mean()
            self.log_training("initial", error)
            loss = loss + self.initial_weight * error
        if any(kind != "periodic" for kind in self.given_boundary):
            error = self.forward(self.walls(generator)).square().mean()
            self.log_training("boundary", error)
            loss = loss + self.boundary_weight * error
        return loss

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss at freshly drawn points; of the batch nothing is used."""
        slices = self.residual(self.collocate(generator)).square().sum(-1).mean(-1)
        given = self.given_loss(generator)
        self.log_training("residual", slices.mean())
        return self.residual_weight * self.weigh(slices, given) + given

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the root mean square of the residual; the truth stays unseen."""
        return {"residual_rms": self.residual(self.collocate(generator)).square().mean().sqrt()}

    # Evaluation ----------------------------------------------------------------------------------

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Compare with the trajectories of a split; see this module."""
        split = store.split(options.get("split", "test"))
        table = ScoreTable(store.path.stem)
        frames = np.arange(0, split.frames, options.get("stride", 1))
        with torch.no_grad():
            prediction, residual = self._on_grid(split, frames, options.get("batch_size", 16384))
        truth = split.read(slice(0, options.get("trajectories", 1)), slice(None))
        truth = truth[:, frames][:, :, self._channels(split.fields)].astype(np.float64)
        for row in range(len(truth)):
            self._check_problem(store, split, row)
            self._score(table, row, prediction, truth[row], frames)
            table.add("residual_rms", residual, trajectory=row)
        score_size(self, table)
        kept = truth[: options.get("keep", 1)]
        return Evaluation(table.frame(), self._predictions(prediction, kept, frames))

    def _check_problem(self, store: Any, split: Any, row: int) -> None:
        """Refuse to be compared with the solution of another problem.

        Raises
        ------
        UserError
            Other parameters or another initial state than those trained for.
        """
        for name, value in self.parameter_values.items():
            found = float(split.parameters[name][row])
            if not np.isclose(found, float(value), rtol=1e-5, atol=0):
                raise UserError(
                    f"{store.path}: {split.path.name} holds the solution for {name} {found:g}; "
                    f"the method solved for {float(value):g}"
                )
        if not self.steady:
            frame = split.read(slice(row, row + 1), slice(0, 1))[0, 0, self._channels(split.fields)]
            if not np.allclose(frame, self.initial.cpu().numpy(), rtol=1e-4, atol=1e-5):
                raise UserError(
                    f"{store.path}: trajectory {row} of {split.path.name} begins with another "
                    "state than the method solved for"
                )

    def _on_grid(
        self, split: Any, frames: np.ndarray, size: int
    ) -> tuple[Float[np.ndarray, "frame field *space"], float]:
        """Field and root mean square of the residual on the grid of the data."""
        points = self.positions()
        if not self.steady:
            times = self.duration * torch.from_numpy(frames).to(points) / max(split.frames - 1, 1)
            points = torch.cat(
                [
                    times.repeat_interleave(len(points))[:, None],
                    points.repeat(len(frames), 1),
                ],
                -1,
            )
        fields = torch.cat([self.forward(part) for part in points.split(size)])
        squares = [self.residual(part).double().square().sum() for part in points.split(size)]
        mean = float(torch.stack(squares).sum()) / fields.numel()
        values = fields.double().cpu().numpy().reshape(len(frames), *self.points, -1)
        values = np.clip(np.nan_to_num(values, nan=FAR), -FAR, FAR)
        rms = min(math.sqrt(mean), FAR) if math.isfinite(mean) else FAR
        return np.moveaxis(values, -1, 1), rms

    def _score(
        self,
        table: ScoreTable,
        row: int,
        prediction: Float[np.ndarray, "frame field *space"],
        truth: Float[np.ndarray, "frame field *space"],
        frames: np.ndarray,
    ) -> None:
        def add(name: str, error: Any, size: Any, **columns: Any) -> None:
            relative = np.sqrt(error / np.maximum(size, 1e-300))
            value = np.minimum(relative, UNBOUNDED)
            table.add(name, value, censored=relative >= UNBOUNDED, trajectory=row, **columns)

        space = tuple(range(1, truth.ndim))
        error, size = np.square(prediction - truth).sum(space), np.square(truth).sum(space)
        add("relative_l2", error.sum(), size.sum())
        if not self.steady:
            seconds = self._seconds(frames)
            add("relative_l2_over_time", error, size, step=frames, lead_time=seconds)
            add("relative_l2_final", error[-1], size[-1])
        ceiling = UNBOUNDED * float(np.abs(truth).max())
        largest = float(np.abs(prediction - truth).max())
        table.add(
            "max_error", min(largest, ceiling), censored=largest >= ceiling > 0, trajectory=row
        )

    def _seconds(self, frames: np.ndarray) -> np.ndarray:
        return frames * float(self.parameter_values[schema.DT])

    def _predictions(
        self,
        prediction: Float[np.ndarray, "frame field *space"],
        truth: Float[np.ndarray, "trajectory frame field *space"],
        frames: np.ndarray,
    ) -> xr.Dataset:
        """Truth and prediction, without frame 0 where there is time, as of a rollout."""
        if not self.steady:
            prediction, truth, frames = prediction[1:], truth[:, 1:], frames[1:]
        axes = schema.AXES[: self.dims]
        dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *axes)
        both = {"truth": truth, "prediction": np.broadcast_to(prediction, truth.shape)}
        fields = {name: (dims, values.astype(np.float32)) for name, values in both.items()}
        seconds = np.zeros(1) if self.steady else self._seconds(frames)
        coordinates = field_coordinates(list(self.names), len(truth), seconds)
        grid = self.positions().cpu().double().numpy().reshape(*self.points, -1)
        for place, axis in enumerate(axes):
            line = tuple(slice(None) if i == place else 0 for i in range(self.dims))
            coordinates[axis] = (axis, grid[line][:, place])
        return xr.Dataset(fields, coords=coordinates).assign(self.exhibits())
