"""Heat equation on a square with cold edges, a varying diffusivity and a moving source."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray

from longrun.equations._base import Discretisation, Distribution, Quantity, Varying
from longrun.equations._systems import (
    AbstractSystems,
    SystemsSolver,
    eigenvalues,
    laplacian,
    sine_amplitudes,
    sine_values,
    with_edge,
)
from longrun.runtime.cli import UserError
from longrun.solvers.relaxation import LinearSystem


class _Solver(SystemsSolver):
    """Crank-Nicolson steps, solved by sine transforms."""

    def __init__(
        self,
        points: int,
        parameters: Mapping[str, ndarray],
        steps: int,
        frames: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__(points, len(parameters["dt"]), dtype, device)
        self.parameters, self.steps, self.frames = parameters, steps, frames
        self.eigenvalues = eigenvalues(points) * points**2

    def advance(
        self, state: Float[ndarray, "channel x y"], row: int
    ) -> Float[ndarray, "channel x y"]:
        dt, length, phase = (float(self.parameters[n][row]) for n in ("dt", "length", "phase"))
        frame, inner, part = float(state[0, 0, 0]), state[1, 1:, 1:], self.frames / self.steps
        for number in range(self.steps):
            middle = dt * (frame + part * (number + 0.5))
            half = 0.5 * diffusivity(middle) * part * dt * self.eigenvalues / length**2
            heat = part * dt * source(self.points, middle, phase)
            change = sine_amplitudes(heat) - 2 * half * sine_amplitudes(inner)
            inner = inner + sine_values(change / (1 + half))
        following = np.empty_like(state)
        following[0], following[1] = frame + self.frames, with_edge(inner)
        return following


class HeatedSquare(AbstractSystems):
    """u_t = diffusivity(t) Laplacian(u) + source(x, t) on a square, u = 0 on its edges.

    The heat equation of Khodak et al. (2024, arXiv:2310.02246), who learn to solve the systems of
    its Crank-Nicolson steps:

        diffusivity(t) = max(0.1 sin(2 pi t), -10 sin(2 pi t))
        source = 32 bump(x; (0.5 + cos(angle) / 4, 0.5 + sin(angle) / 4), 0.125)
        angle = 2 pi (8 t + phase),   u(0) = bump(x; (0.5, 0.5), 0.25)
        bump(x; c, r) = exp(1 - 1 / (1 - |x - c|^2 / r^2)) where that is positive, else 0

    with x in units of the side. The paper's phase is 0; other phases make other trajectories.
    Five-point differences; both coefficients are taken at the middle of a step, and each step is
    solved exactly, by sine transforms.

    Parameters
    ----------
    points
        Intervals along each axis, see `AbstractSystems`.
    length
        Length of a side.
    dt
        Time between frames, which is one step.
    phase
        Where the source starts on its circle, in turns.

    Raises
    ------
    UserError
        Impossible parameters.
    """

    fields = (Quantity("temperature", "temperature", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("phase", "phase of the source, in turns", "1"),
    )

    def __init__(
        self,
        points: int = 50,
        length: Varying = 1.0,
        dt: Varying = 1e-3,
        phase: Varying = {"uniform": (0.0, 1.0)},  # noqa: B006  (never changed)
    ):
        super().__init__(points, 1, 0)
        if points < 8:
            raise UserError(f"points must be at least 8 to see the source, is {points}")
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "phase": Distribution.of("phase", phase, at_least=0),
        }

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters; every trajectory begins with the same bump."""
        parameters = self._draw(generators)
        state = np.zeros((2, self.points, self.points))
        state[1] = with_edge(_initial(self.points))
        return parameters, np.repeat(state[None], len(generators), axis=0)

    def _solver(self, at: Discretisation) -> _Solver:
        """Build the solver of a batch of trajectories."""
        values = {name: value.cpu().numpy() for name, value in at.parameters.items()}
        return _Solver(at.points, values, at.steps, at.stride, at.dtype, at.device)

    def systems(self, parameters: Mapping[str, float]) -> Iterator[LinearSystem]:
        """Yield the systems of a trajectory's steps; an iteration starts at the last frame.

        The last frame is the exact solution of the last system, so that every solver gets the same
        sequence of systems.
        """
        dt, length, phase = (float(parameters[name]) for name in ("dt", "length", "phase"))
        matrix = laplacian(self.points) * (self.points / length) ** 2
        symbol = eigenvalues(self.points) * (self.points / length) ** 2
        one = sparse.eye_array(matrix.shape[0])
        number, inner = 0, _initial(self.points)
        while True:
            middle = dt * (number + 0.5)
            factor = 0.5 * dt * diffusivity(middle)
            heat = dt * source(self.points, middle, phase)
            right = inner.ravel() - factor * (matrix @ inner.ravel()) + heat.ravel()
            step = sparse.csr_array(one + factor * matrix)
            yield LinearSystem(step, right, inner.ravel(), diffusivity(middle))
            amplitudes = sine_amplitudes(right.reshape(inner.shape))
            inner = sine_values(amplitudes / (1 + factor * symbol))
            number += 1


def diffusivity(time: float) -> float:
    """Diffusivity at a time."""
    sine = np.sin(2 * np.pi * time)
    return float(max(0.1 * sine, -10 * sine))


def source(points: int, time: float, phase: float) -> Float[ndarray, "inner inner"]:
    """Heat per time at the inner nodes: a bump that moves on a circle."""
    angle = 2 * np.pi * (8 * time + phase)
    return 32 * _bump(points, 0.5 + np.cos(angle) / 4, 0.5 + np.sin(angle) / 4, 0.125)


def _initial(points: int) -> Float[ndarray, "inner inner"]:
    return _bump(points, 0.5, 0.5, 0.25)


def _bump(points: int, x: float, y: float, radius: float) -> Float[ndarray, "inner inner"]:
    nodes = np.arange(1, points) / points
    distance = ((nodes[:, None] - x) ** 2 + (nodes - y) ** 2) / radius**2
    inside = distance < 1
    return np.exp(1 - 1 / np.where(inside, 1 - distance, np.inf)) * inside
