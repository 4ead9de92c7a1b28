"""Explicit Runge-Kutta methods with a fixed step, for systems of ODEs that are not stiff."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from scipy.integrate import DOP853, RK45
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver

Tendency = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Tableau:
    """Coefficients of an explicit Runge-Kutta method of an autonomous system.

    Attributes
    ----------
    order
        Order of convergence.
    stages
        Weights of the earlier tendencies in the state at which each next one is evaluated.
    weights
        Weights of the tendencies in the next state.
    """

    order: int
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


def _of_scipy(method: type[RK45] | type[DOP853], order: int) -> Tableau:
    """Take the coefficients of an adaptive method of scipy, without its error estimate."""
    count = method.n_stages
    rows = tuple(tuple(map(float, method.A[i, :i])) for i in range(1, count))
    return Tableau(order, rows, tuple(map(float, method.B)))


TABLEAUX = {
    "rk4": Tableau(4, ((0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    "dopri5": _of_scipy(RK45, 5),  # Dormand and Prince (1980)
    "dop853": _of_scipy(DOP853, 8),  # Hairer, Norsett and Wanner (1993), section II.5
}


def tableau(name: str) -> Tableau:
    """Find a method by its name.

    Raises
    ------
    UserError
        No such method.
    """
    if name not in TABLEAUX:
        raise UserError(f"integrator must be one of {', '.join(TABLEAUX)}, is {name}")
    return TABLEAUX[name]


class RungeKuttaSolver(AbstractSolver):
    """Advances `state' = tendency(state)`.

    Parameters
    ----------
    tendency
        Time derivative of a state; must not change its argument.
    frame
        Time that one call of `step` spans, for each trajectory; broadcasts against states.
    steps
        Steps of the method per call of `step`.
    method
        See `tableau`.
    dtype
        Precision of the states.
    """

    def __init__(
        self,
        tendency: Tendency,
        frame: Float[Tensor, "..."],
        steps: int,
        method: Tableau,
        dtype: torch.dtype = torch.float64,
    ):
        self.tendency = tendency
        self.steps = steps
        size = frame.double() / steps
        self._stages = [self._scaled(size, row, dtype) for row in method.stages]
        self._weights = self._scaled(size, method.weights, dtype)

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame in `steps` steps."""
        for _ in range(self.steps):
            slopes = [self.tendency(state)]
            for row in self._stages:
                slopes.append(self.tendency(self._moved(state, slopes, row)))
            state = self._moved(state, slopes, self._weights)
        return state

    @staticmethod
    def _scaled(
        size: Tensor, weights: tuple[float, ...], dtype: torch.dtype
    ) -> list[tuple[int, Tensor]]:
        """Step times weight of each tendency that has one."""
        return [(j, (size * weight).to(dtype)) for j, weight in enumerate(weights) if weight]

    @staticmethod
    def _moved(state: Tensor, slopes: list[Tensor], row: list[tuple[int, Tensor]]) -> Tensor:
        # element by element, so that the bits of a trajectory don't depend on the others
        (first, weight), *others = row
        change = weight * slopes[first]
        for j, weight in others:
            change = change + weight * slopes[j]
        return state + change
