"""Acoustic waves in a medium of variable speed, in two dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.cells import Parity, blocks, interpolate

# Largest eigenvalue of minus the second derivative below, times spacing^2, along each axis.
STIFFEST = 16 / 3
# Largest stable frequency times time step: on the imaginary axis for Runge-Kutta.
STABLE = {"verlet": 2.0, "rk4": 2 * math.sqrt(2)}


class _WaveSolver(AbstractSolver):
    """Fourth-order differences in space; velocity Verlet or classical Runge-Kutta in time."""

    def __init__(
        self,
        spacing: Tensor,
        time_step: Tensor,
        steps: int,
        boundary: str,
        integrator: str,
    ):
        self.spacing = spacing
        self.time_step = time_step
        self.steps = steps
        self.boundary = boundary
        self.advance = self._verlet if integrator == "verlet" else self._runge_kutta

    def step(self, state: Float[Tensor, "batch channel x y"]) -> Float[Tensor, "batch channel x y"]:
        u, v, speed = state.split(1, dim=1)
        for _ in range(self.steps):
            u, v = self.advance(u, v, speed)
        return torch.cat([u, v, speed], dim=1)

    def _verlet(self, u: Tensor, v: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
        """Advance u and v = u_t by half a kick, a drift and half a kick."""
        kick = self.time_step / 2
        v = v + kick * self._acceleration(u, v, speed)
        u = u + self.time_step * v
        return u, v + kick * self._acceleration(u, v, speed)

    def _runge_kutta(self, u: Tensor, v: Tensor, speed: Tensor) -> tuple[Tensor, Tensor]:
        dt = self.time_step
        a1 = self._acceleration(u, v, speed)
        v2 = v + dt / 2 * a1
        a2 = self._acceleration(u + dt / 2 * v, v2, speed)
        v3 = v + dt / 2 * a2
        a3 = self._acceleration(u + dt / 2 * v2, v3, speed)
        v4 = v + dt * a3
        a4 = self._acceleration(u + dt * v3, v4, speed)
        return u + dt / 6 * (v + 2 * (v2 + v3) + v4), v + dt / 6 * (a1 + 2 * (a2 + a3) + a4)

    def _acceleration(self, u: Tensor, v: Tensor, speed: Tensor) -> Tensor:
        total = self._second_difference(u, v, speed, 2) + self._second_difference(u, v, speed, 3)
        return speed.square() * total / self.spacing**2

    def _second_difference(self, u: Tensor, v: Tensor, speed: Tensor, axis: int) -> Tensor:
        """Second difference along an axis, with two values beyond each wall."""
        count = u.shape[axis]
        first, last = u.narrow(axis, 0, 2), u.narrow(axis, count - 2, 2)
        if self.boundary == "periodic":
            before, after = last, first
        else:
            before, after = first.flip(axis), last.flip(axis)
            if self.boundary == "absorbing":
                # u_t + speed u_n = 0 at the wall, so u falls by this much per cell beyond it
                fall = self.spacing * v / speed
                low = 1.5 * fall.narrow(axis, 0, 1) - 0.5 * fall.narrow(axis, 1, 1)
                high = 1.5 * fall.narrow(axis, -1, 1) - 0.5 * fall.narrow(axis, -2, 1)
                before = before - torch.cat([3 * low, low], dim=axis)
                after = after - torch.cat([high, 3 * high], dim=axis)
        wide = torch.cat([before, u, after], dim=axis)
        far = wide.narrow(axis, 0, count) + wide.narrow(axis, 4, count)
        near = wide.narrow(axis, 1, count) + wide.narrow(axis, 3, count)
        return 4 / 3 * near - far / 12 - 5 / 2 * u


class Wave(AbstractEquation):
    """u_tt = speed^2 lap u on a square; the medium is a field that does not change.

    Fourth-order central differences at cell centres. With "rk4", of fourth order in time, the
    energy, the sum of (velocity^2 / speed^2 + |grad u|^2) / 2, decays slightly: by 1 part in
    (144 / (frequency * step)^6) per step for a wave of that frequency. With "verlet", of second
    order, it oscillates by 1 part in (8 / (frequency * step)^2) about a constant, forever.

    Media, initial pulses and speeds are our choice; the cases are those of the tasks Wave-Layer and
    Wave-Gauss of Poseidon (Herde et al., 2024, arXiv:2405.19101):

    - "layers": 3 to 6 layers across y with speeds from U(`slowest`, `fastest`), interfaces
      waving along x by up to a quarter of the mean thickness, smoothed over `transition`;
    - "gaussians": from `slowest` up to `fastest`: 2 to 6 bumps of standard deviation U(0.08, 0.2),
      combined as 1 - prod(1 - bump), which stays within bounds;
    - "uniform": `fastest` everywhere.

    The pulse is a sum of 1 to 4 Gaussians of amplitudes U(0.5, 1) and standard deviations
    U(0.06, 0.12), centred in the inner half of the square, all lengths in lengths of a side, at
    rest at first. Where the box is periodic, so are media and pulses.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    dt
        Time between frames.
    medium
        Kind of medium.
    slowest, fastest
        Bounds of the speed.
    transition
        Width of the interfaces of layers, in lengths of a side; 0 for jumps, where the scheme is of
        first order.
    walls
        "periodic"; "reflecting", where the normal derivative of u vanishes; or "absorbing", where
        waves of normal incidence leave (Engquist & Majda, 1977, Math. Comput. 31, 629, first
        order) and others partly: (1 - cos(angle)) / (1 + cos(angle)) of the amplitude stays.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "rk4" or "verlet"; absorbing walls need the first.
    refinement
        The solver's grid has this many times the stored cells along each axis.

    Raises
    ------
    UserError
        Impossible parameters, too few substeps for stability, or too few cells per pulse.
    """

    fields = (
        Quantity("u", "displacement", "1"),
        Quantity("velocity", "rate of change of the displacement", "1"),
        Quantity("speed", "speed of waves", "1"),
    )
    parameters = (
        Quantity("length", "length of a side", "1"),
        Quantity("dt", "time between frames", "1"),
    )
    centred = True

    def __init__(
        self,
        points: int = 128,
        length: Varying = 1.0,
        dt: Varying = 0.05,
        medium: Literal["layers", "gaussians", "uniform"] = "layers",
        slowest: float = 0.5,
        fastest: float = 1.5,
        transition: float = 0.05,
        walls: Literal["periodic", "reflecting", "absorbing"] = "absorbing",
        substeps: int = 20,
        burn_in: int = 0,
        integrator: Literal["rk4", "verlet"] = "rk4",
        refinement: int = 1,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
        }
        if not 0 < slowest <= fastest:
            raise UserError(
                f"slowest must be positive and fastest no less, are {slowest:g} and {fastest:g}"
            )
        if transition < 0:
            raise UserError(f"transition must not be negative, is {transition:g}")
        if walls == "absorbing" and integrator != "rk4":
            raise UserError("absorbing walls damp, which verlet can't; take integrator rk4")
        if points < 16:  # one cell per standard deviation of the narrowest pulse
            raise UserError(f"points must be at least 16 to hold the pulses, is {points}")
        self.medium = medium
        self.slowest, self.fastest = slowest, fastest
        self.transition = transition
        self.walls = walls
        self.boundary = (walls, walls)
        self.integrator = integrator
        spacing = self.distributions["length"].low / self.resolution
        highest = fastest * math.sqrt(2 * STIFFEST) / spacing
        needed = math.ceil(self.distributions["dt"].high * highest / STABLE[integrator])
        if substeps < needed:
            raise UserError(
                f"{substeps} substeps are unstable at speed {fastest:g} and {self.resolution} "
                f"points: at least {needed} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw media and pulses at rest."""
        parameters = self._draw(generators)
        x = (np.arange(self.resolution) + 0.5) / self.resolution
        states = np.zeros((len(generators), 3, self.resolution, self.resolution))
        for state, generator in zip(states, generators, strict=True):
            state[2] = self._speed(x, generator)
            for _ in range(generator.integers(1, 5)):
                amplitude, width = generator.uniform(0.5, 1), generator.uniform(0.06, 0.12)
                state[0] += amplitude * self._bump(x, generator.uniform(0.25, 0.75, 2), width)
        return parameters, states

    def _bump(self, x: ndarray, centre: ndarray, width: float) -> Float[ndarray, "x y"]:
        images = np.arange(-2, 3) if self.walls == "periodic" else np.zeros(1)
        distance = x - centre[:, None, None] - images[:, None]
        along_x, along_y = np.exp(-((distance / width) ** 2) / 2).sum(1)
        return along_x[:, None] * along_y

    def _speed(self, x: ndarray, generator: np.random.Generator) -> Float[ndarray, "x y"]:
        if self.medium == "uniform":
            return np.full((len(x), len(x)), self.fastest)
        if self.medium == "gaussians":
            rest = np.ones((len(x), len(x)))
            for _ in range(generator.integers(2, 7)):
                height, width = generator.uniform(0.3, 1), generator.uniform(0.08, 0.2)
                bump = self._bump(x, generator.uniform(0, 1, 2), width)
                rest *= 1 - height * np.minimum(bump, 1)
            return self.fastest - (self.fastest - self.slowest) * rest
        count = generator.integers(3, 7)
        speeds = generator.uniform(self.slowest, self.fastest, count)
        speed = np.full((len(x), len(x)), speeds[0])
        # a periodic box ends as it begins: one more interface, at its edge
        last = count if self.walls == "periodic" else count - 1
        for number in range(1, last + 1):
            swing = generator.uniform(-0.25, 0.25) / count
            phase = generator.uniform(0, 2 * np.pi)
            place = number / count + swing * np.sin(2 * np.pi * x + phase)
            above = self._above(x - place[:, None])
            if number == count:
                above = above + self._above(x - place[:, None] + 1) - 1
            speed += (speeds[number % count] - speeds[number - 1]) * above
        return speed

    def _above(self, height: ndarray) -> ndarray:
        """Return 1 above an interface and 0 below it."""
        if self.transition == 0:
            return (height > 0).astype(np.float64)
        return (1 + np.tanh(2 * height / self.transition)) / 2

    def _solver(self, at: Discretisation) -> _WaveSolver:
        """Build the finite-difference solver of a batch of trajectories."""
        length, dt = at.columns.values()
        steps = at.steps
        return _WaveSolver(
            spacing=(length / at.points).to(at.dtype),
            time_step=(at.stride * dt / steps).to(at.dtype),
            steps=steps,
            boundary=self.walls,
            integrator=self.integrator,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Interpolate by cubics; a medium that jumps is repeated or taken at the nearest cell."""
        parity: Parity = "periodic" if self.walls == "periodic" else "even"
        if self.medium == "layers" and self.transition == 0:
            waves, speed = state[:, :2], state[:, 2:]
            return torch.cat(
                [interpolate(waves, points, parity), blocks(speed, points, middle=True)], dim=1
            )
        return interpolate(state, points, parity)

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Momentum, unless waves leave: the mean of velocity / speed^2."""
        if self.walls == "absorbing":
            return {}
        velocity, speed = state[..., 1, :, :], state[..., 2, :, :]
        return {"momentum": (velocity / speed**2).mean(axis=(-2, -1))}
