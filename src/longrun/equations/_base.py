"""What every equation gives: fields, parameters, initial conditions and a reference solver."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.cli import UserError
from longrun.solvers._base import AbstractSolver

Varying = float | Mapping[str, Sequence[float]]
"""A number, or `{"uniform": [low, high]}`: drawn anew for each trajectory."""


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


class AbstractEquation(ABC):
    """A time-dependent equation on a box.

    Parameters
    ----------
    points
        Grid points per axis.
    substeps
        Solver steps per frame of the dataset.
    burn_in
        Frames to discard between the initial condition and the first frame that is kept.
    """

    fields: ClassVar[tuple[Quantity, ...]]
    parameters: ClassVar[tuple[Quantity, ...]]
    boundary: ClassVar[tuple[str, ...]]

    def __init__(self, points: int, substeps: int, burn_in: int):
        if substeps < 1:
            raise UserError(f"substeps must be at least 1, is {substeps}")
        if burn_in < 0:
            raise UserError(f"burn_in must not be negative, is {burn_in}")
        self.points = points
        self.substeps = substeps
        self.burn_in = burn_in

    @property
    def dims(self) -> int:
        """Number of spatial axes."""
        return len(self.boundary)

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
            Initial conditions before the burn-in, float64.
        """

    @abstractmethod
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
            Grid points per axis, the equation's own by default.
        substeps
            Solver steps per frame of the dataset, the equation's own by default; below 1, a step
            of the solver spans several frames.
        stride
            Frames of the dataset per step of the returned solver, which takes
            `round(stride * substeps)` steps of its own, at least one.
        dtype
            Precision of the states; coefficients are always computed in float64.
        device
            Where the states are.

        Returns
        -------
        AbstractSolver
            Advances states by `stride` frames.
        """

    @abstractmethod
    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Quantities that the exact solution conserves.

        Parameters
        ----------
        state
            Shape (..., channel, *space), physical units.
        parameters
            Values by name, one per leading index of `state`.

        Returns
        -------
        dict
            One value per leading index of `state`, by name.
        """


def bounds(name: str, value: Varying) -> tuple[float, float]:
    """Lowest and highest value of a positive parameter.

    Parameters
    ----------
    name
        Name of the parameter, for the message.
    value
        A number, or `{"uniform": [low, high]}`.

    Returns
    -------
    tuple of float
        Equal when the parameter is a number.

    Raises
    ------
    UserError
        Not positive, not finite, not ordered, or another distribution.
    """
    if isinstance(value, Mapping):
        if set(value) != {"uniform"} or len(value["uniform"]) != 2:
            raise UserError(f"{name} must be a number or {{uniform: [low, high]}}, is {value}")
        low, high = map(float, value["uniform"])
    else:
        low = high = float(value)
    if not 0 < low <= high < float("inf"):
        raise UserError(f"{name} must be positive and finite, low before high, is {value}")
    return low, high


def draw(generator: np.random.Generator, interval: tuple[float, float]) -> float:
    """Draw one value; a fixed parameter draws nothing from the generator."""
    low, high = interval
    return low if low == high else generator.uniform(low, high)
