"""What every equation provides: fields, parameters, initial conditions and a reference solver."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.spectral import resample

Varying = float | Mapping[str, Sequence[float]]
"""A number, or what to draw for each trajectory: `{"uniform": [low, high]}`,
`{"log_uniform": [low, high]}` or `{"choice": [value, ...]}`."""


@dataclass(frozen=True)
class Quantity:
    """A field or a parameter, as it is described in a store.

    Attributes
    ----------
    name
        Short name, the key in a store.
    long_name
        What a figure writes at its axis.
    units
        Units, "1" where the equation is dimensionless.
    """

    name: str
    long_name: str
    units: str


@dataclass(frozen=True)
class Distribution:
    """Where the values of a parameter come from; one value draws nothing from a generator."""

    kind: str
    values: tuple[float, ...]

    @classmethod
    def of(
        cls, name: str, value: Varying, above: float = 0.0, at_least: float | None = None
    ) -> "Distribution":
        """Read a parameter of a configuration.

        Parameters
        ----------
        name
            Name of the parameter, for the message.
        value
            A number or a distribution, see `Varying`.
        above
            Bound that every value must exceed: 0 for what must be positive.
        at_least
            Bound that a value may reach, instead of `above`.

        Raises
        ------
        UserError
            An unknown distribution, or values that are not finite, not ordered or out of bounds.
        """
        kind, given = (
            ("choice", [value])
            if not isinstance(value, Mapping)
            else (next(iter(value.items())) if len(value) == 1 else ("", []))
        )
        pair = kind in ("uniform", "log_uniform")
        if (not pair and kind != "choice") or not given or (pair and len(given) != 2):
            raise UserError(
                f"{name} must be a number, {{uniform: [low, high]}}, {{log_uniform: [low, high]}} "
                f"or {{choice: [value, ...]}}, is {value}"
            )
        values = tuple(float(v) for v in given)  # type: ignore[arg-type]
        if not all(map(np.isfinite, values)) or (pair and values[0] > values[1]):
            raise UserError(f"{name} must be finite, low before high, is {value}")
        smallest = min(values)
        if at_least is not None and smallest < at_least:
            raise UserError(f"{name} must be at least {at_least:g}, is {value}")
        if at_least is None and smallest <= above:
            wanted = "positive" if above == 0 else f"above {above:g}"
            raise UserError(f"{name} must be {wanted}, is {value}")
        if kind == "log_uniform" and smallest <= 0:
            raise UserError(f"{name} must be positive to be drawn log_uniform, is {value}")
        return cls(kind, values)

    @property
    def low(self) -> float:
        """Smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """Largest value."""
        return max(self.values)

    def draw(self, generator: np.random.Generator) -> float:
        """Draw one value."""
        if self.low == self.high:
            return self.low
        if self.kind == "choice":
            return self.values[generator.integers(len(self.values))]
        if self.kind == "log_uniform":
            return float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
        return generator.uniform(self.low, self.high)


def as_columns(
    parameters: Mapping[str, Float[Tensor, " batch"]], dims: int
) -> dict[str, Float[Tensor, "batch 1 *ones"]]:
    """Return each parameter so that it broadcasts against states with this many axes."""
    return {name: value.reshape((-1, 1) + (1,) * dims) for name, value in parameters.items()}


class Law(NamedTuple):
    """Equally likely Gaussians: the distribution of frames, in physical units.

    Attributes
    ----------
    means, variances
        Of the components, along each value; first axes of length 1 are the same for all.
    basis
        Orthonormal rows: a frame, flattened, is the sum of its values times these. None where the
        values are the numbers of the frame.
    """

    means: Float[np.ndarray, "#batch #component value"]
    variances: Float[np.ndarray, "#batch #component value"]
    basis: Float[np.ndarray, "value number"] | None = None


@dataclass(frozen=True)
class Discretisation:
    """What an equation builds a solver from, see `AbstractEquation.solver`.

    Attributes
    ----------
    parameters
        Values by name, one per trajectory; float64, on the device.
    points, grid
        Grid points along the first axis, and along each.
    stride, steps
        Frames of the dataset, and internal steps, per step of the solver.
    dtype, device
        Of the states.
    """

    parameters: dict[str, Float[Tensor, " batch"]]
    points: int
    grid: tuple[int, ...]
    stride: int
    steps: int
    dtype: torch.dtype
    device: torch.device

    @property
    def columns(self) -> dict[str, Float[Tensor, "batch 1 *ones"]]:
        """Each parameter so that it broadcasts against states."""
        return as_columns(self.parameters, len(self.grid))

    @property
    def frame(self) -> Float[Tensor, " batch"]:
        """Time of one step of the solver."""
        return self.stride * self.parameters["dt"]

    @property
    def timing(self) -> dict[str, Any]:
        """What most solvers need: time and number of their steps, and the precision."""
        return {"frame": self.frame, "steps": self.steps, "dtype": self.dtype}


@dataclass(frozen=True)
class Walls:
    """What holds at the boundary of a domain and in bodies, on the stored grid and a rim around it.

    Attributes
    ----------
    values
        Of the fields where they are prescribed, physical units; 0 elsewhere.
    free
        Where they are not prescribed.
    """

    values: Float[Tensor, "batch channel *framed"]
    free: Bool[Tensor, "batch channel *framed"]


class AbstractEquation(ABC):
    """A time-dependent equation on a box, a system of ODEs, or a steady map.

    The state of a steady map holds the given and the sought fields: one frame of its solver solves
    for the latter, whatever they were. It has `steady = True` and no `dt`.

    Parameters
    ----------
    points
        Stored grid points along the first axis, see `grid`.
    substeps
        Solver steps per frame of the dataset.
    burn_in
        Frames to discard between the initial condition and the first frame that is kept.
    refinement
        The reference solver's grid has this many times the stored points along every axis.

    Attributes
    ----------
    fields
        What is stored, in the order of the channels.
    parameters
        Parameters of a trajectory, in the order of conditions. `length` is the extent of the box
        along every axis, or along the first where `length_y`, `length_z` give the others; `dt` is
        the time between frames.
    boundary
        Boundary condition of each axis: "periodic", or what a reader should know. None for ODEs.
    aspect
        Grid points along each axis as multiples of `points`; None means `points` along each.
    velocity
        Names of the fields that are a velocity, in the order of its components; none by default.
        Forecasts of one are scored by their kinetic energy too.
    centred
        Whether values belong to cells, not to nodes: the first is half a cell from the edge.
    rim
        Cells of what is `prescribed` before the first and after the last stored one of each axis;
        None where nothing is.
    steady
        Whether the equation has no time.
    time_unit
        What the equation's time is counted in.
    derivatives
        What `residual` needs besides the fields: a letter per order, such as "t" or "xx". None
        where an equation has no `residual`.
    sought
        Names of the fields that `residual` is about; None for all.
    distributions
        Where each parameter of a trajectory comes from, in the order of `parameters`.
    """

    fields: tuple[Quantity, ...]
    parameters: tuple[Quantity, ...]
    boundary: tuple[str, ...]
    aspect: tuple[int, ...] | None = None
    velocity: tuple[str, ...] = ()
    centred: bool = False
    rim: tuple[tuple[int, int], ...] | None = None
    steady: bool = False
    time_unit: str = "time units"
    derivatives: tuple[str, ...] = ()
    sought: tuple[str, ...] | None = None
    distributions: dict[str, Distribution]

    def __init__(self, points: int, substeps: int, burn_in: int, refinement: int = 1):
        if substeps < 1:
            raise UserError(f"substeps must be at least 1, is {substeps}")
        if burn_in < 0:
            raise UserError(f"burn_in must not be negative, is {burn_in}")
        if refinement < 1:
            raise UserError(f"refinement must be at least 1, is {refinement}")
        self.points = points
        self.substeps = substeps
        self.burn_in = burn_in
        self.refinement = refinement

    @property
    def dims(self) -> int:
        """Number of spatial axes of what is stored."""
        return len(self.boundary)

    @property
    def resolution(self) -> int:
        """Grid points of the reference solver along the first axis."""
        return self.points * self.refinement

    def grid(self, points: int | None = None) -> tuple[int, ...]:
        """Points along each axis, given those along the first (default: the stored ones)."""
        points = self.points if points is None else points
        return tuple(points * times for times in self.aspect or (1,) * self.dims)

    @abstractmethod
    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions.

        Parameters
        ----------
        generators
            One generator per trajectory; a trajectory depends on its own generator alone.

        Returns
        -------
        parameters
            Values by name, in the order of `parameters`, float64.
        state
            Initial conditions before the burn-in, float64, on the reference solver's grid.
        """

    def solver(
        self,
        parameters: Mapping[str, Float[Tensor, " batch"]],
        *,
        points: int | None = None,
        substeps: float | None = None,
        stride: int = 1,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> AbstractSolver:
        """Build the solver of a batch of trajectories.

        Parameters
        ----------
        parameters
            Values by name, one per trajectory.
        points
            Grid points along the first axis, `resolution` by default.
        substeps
            Solver steps per frame of the dataset, the equation's own by default; below 1, a step
            of the solver spans several frames.
        stride
            Frames of the dataset per step of the returned solver, which takes
            `round(stride * substeps)` internal steps, at least one.
        dtype
            Precision of the states; coefficients are always computed in float64.
        device
            Where the states are.

        Returns
        -------
        AbstractSolver
            Advances states by `stride` frames.
        """
        substeps = self.substeps if substeps is None else substeps
        points = self.resolution if points is None else points
        return self._solver(
            Discretisation(
                {q.name: parameters[q.name].to(device, torch.float64) for q in self.parameters},
                points,
                self.grid(points),
                stride,
                max(1, round(stride * substeps)),
                dtype,
                torch.device(device),
            )
        )

    @abstractmethod
    def _solver(self, at: Discretisation) -> AbstractSolver:
        """Build the solver that `solver` returns."""

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Move states to the grid with this many points along the first axis.

        Band-limited interpolation, right for smooth periodic fields; equations on cell averages or
        between walls override it, and so do ODEs, which have no grid.
        """
        return resample(state, self.grid(points))

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return what is stored of a state of the reference solver."""
        return state if self.refinement == 1 else self.resample(state, self.points)

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Quantities that the exact solution conserves; none by default.

        Parameters
        ----------
        state
            Stored fields, shape (..., channel, *space), physical units.
        parameters
            Values by name, one per leading index of `state`.

        Returns
        -------
        dict
            One value per leading index of `state`, by name.
        """
        return {}

    def derived(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Fields that follow from the stored ones and are scored too; none by default.

        Parameters
        ----------
        state
            Stored fields, shape (..., channel, *space), physical units.
        parameters
            Values by name, one per leading index of `state`.

        Returns
        -------
        dict
            Fields of shape (..., *space), by name.
        """
        return {}

    def prescribed(self, parameters: Mapping[str, Float[Tensor, " batch"]]) -> Walls:
        """Return what walls, inlets and bodies prescribe; where there are any, `rim` says so.

        Parameters
        ----------
        parameters
            Values by name, one per trajectory.

        Raises
        ------
        UserError
            The equation prescribes nothing.
        """
        raise UserError(f"{type(self).__name__} prescribes no values at a boundary")

    def outflows(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Return what leaves each cell along each axis, per volume, where the sum must be zero.

        Parameters
        ----------
        state
            Stored fields, shape (..., channel, *space), physical units.
        parameters
            Values by name, one per leading index of `state`.

        Returns
        -------
        dict
            Shape (..., *space), by axis; empty where nothing has to balance.
        """
        return {}

    def law(self, parameters: Mapping[str, Float[np.ndarray, " batch"]]) -> Law | None:
        """Return the distribution of frames, where it is known.

        Parameters
        ----------
        parameters
            Values by name, one per trajectory.
        """
        return None

    def residual(
        self,
        u: Mapping[str, Float[Tensor, "*point field"]],
        at: Mapping[str, Float[Tensor, "*point"]],
        parameters: Mapping[str, Float[Tensor, ""]],
    ) -> Float[Tensor, "*point field"]:
        """Return the residual of the strong form at points; optional, zero for an exact solution.

        Parameters
        ----------
        u
            The fields in `sought` ("") and their `derivatives`, by name.
        at
            Coordinates "t", "x", ..., physical; all begin at 0.
        parameters
            Values by name.

        Raises
        ------
        UserError
            The equation has none.
        """
        raise UserError(f"{type(self).__name__} gives no residual in strong form")

    def _draw(
        self, generators: Sequence[np.random.Generator]
    ) -> dict[str, Float[np.ndarray, " batch"]]:
        """Draw the parameters of each trajectory from `distributions`."""
        rows = [
            [d.draw(generator) for d in self.distributions.values()] for generator in generators
        ]
        values = np.array(rows, dtype=np.float64).reshape(-1, len(self.distributions)).T
        return dict(zip(self.distributions, values, strict=True))
