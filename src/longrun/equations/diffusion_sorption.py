"""Diffusion of a solute that the medium holds back, between an inlet and an outlet."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
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
from longrun.solvers.cells import blocks
from longrun.solvers.tridiagonal import solve

FLOOR = 1e-6  # added to u in the power, whose slope is infinite at 0
NEWTON = 4  # iterations reach rounding even right after the jump at t = 0
GAMMA = 2 - math.sqrt(2)  # TR-BDF2: end of the first stage, in steps


class _SorptionSolver(AbstractSolver):
    """Finite volumes; TR-BDF2 on what is stored, so that mass is balanced exactly.

    Both stages have the same matrix except for the slope of the storage: the trapezoidal rule up to
    `GAMMA` steps, then the second backward difference. L-stable, of second order. Source: Hosea &
    Shampine (1996), Appl. Numer. Math. 20, 21.
    """

    def __init__(
        self,
        conductance: Tensor,
        outlet: Tensor,
        time_step: Tensor,
        steps: int,
        sorption: float,
        exponent: float,
    ):
        self.conductance = conductance
        self.outlet = outlet
        self.time_step = time_step
        self.steps = steps
        self.sorption = sorption
        self.exponent = exponent

    def step(self, state: Float[Tensor, "batch 1 x"]) -> Float[Tensor, "batch 1 x"]:
        u, weight = state, GAMMA / 2 * self.time_step
        for _ in range(self.steps):
            old = self.storage(u)
            middle = self._implicit(u, old + weight * self.inflow(u), weight)
            share = 1 / (GAMMA * (2 - GAMMA))
            known = share * self.storage(middle) + (1 - share) * old
            u = self._implicit(middle, known, weight)  # (1 - gamma) / (2 - gamma) is gamma / 2
        return u

    def storage(self, u: Tensor) -> Tensor:
        """Return the content of a unit volume, dissolved and sorbed."""
        real = u.clamp_min(0)
        below = self.exponent * FLOOR ** (self.exponent - 1) * (u - real)  # a straight line
        return u + self.sorption * ((real + FLOOR) ** self.exponent + below)

    def retardation(self, u: Tensor) -> Tensor:
        """Return the slope of the storage, R(u)."""
        power = (u.clamp_min(0) + FLOOR) ** (self.exponent - 1)
        return 1 + self.sorption * self.exponent * power

    def inflow(self, u: Tensor) -> Tensor:
        """Return the inflow of each cell, per unit volume."""
        inlet = 2 * self.conductance * (1 - u[..., :1])
        inner = -self.conductance * u.diff(dim=-1)
        return -torch.cat([inlet, inner, self.outlet * u[..., -1:]], dim=-1).diff(dim=-1)

    def _implicit(self, guess: Tensor, known: Tensor, weight: Tensor) -> Tensor:
        """Solve storage(u) - weight inflow(u) = known by Newton's method."""
        first = torch.zeros_like(guess[..., :1])
        inner = (weight * self.conductance).expand_as(guess)[..., 1:]  # of every inner face
        lower = torch.cat([first, -inner], dim=-1)
        upper = torch.cat([-inner, first], dim=-1)
        walls = torch.cat(
            [
                first + 2 * weight * self.conductance,
                torch.zeros_like(guess[..., 2:]),
                first + weight * self.outlet,
            ],
            dim=-1,
        )
        drained = walls - lower - upper
        u = guess
        for _ in range(NEWTON):
            residual = self.storage(u) - weight * self.inflow(u) - known
            u = u - solve(lower, self.retardation(u) + drained, upper, residual)
        return u


class DiffusionSorption(AbstractEquation):
    """R(u) u_t = diffusivity u_xx, retarded by sorption, on an interval.

    R(u) = 1 + (1 - porosity) / porosity * density * coefficient * exponent * u^(exponent - 1)

    u = 1 at the inlet x = 0; at the outlet u = -diffusivity u_x, so what diffuses there is carried
    away at unit velocity. PDEBench (Takamoto et al., 2022, arXiv:2210.07182) and PI-HC-MoE
    (Chalapathi et al., 2024, arXiv:2402.13412), whose coefficients, interval and times these are,
    write u = +diffusivity u_x; taken literally, inflow then grows with u, like
    exp(t / (diffusivity R)), and there is no solution to compute.

    Initially u is a constant from U(`lowest`, `highest`). The scheme advances the storage, the
    integral of R, by conservative finite volumes and TR-BDF2 with Newton's method: batched torch,
    differentiable, second order in space and time where the solution is smooth (not at t = 0).

    Parameters
    ----------
    points
        Cells.
    length
        Length of the interval.
    dt
        Time between frames.
    diffusivity
        Effective diffusivity.
    porosity, density, coefficient, exponent
        Of the medium and its Freundlich isotherm.
    lowest, highest
        Bounds of the initial concentration.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.

    Raises
    ------
    UserError
        Impossible parameters, or cells wider than the front after a frame.
    """

    fields = (Quantity("u", "concentration", "1"),)
    parameters = (
        Quantity("length", "length of the interval", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity", "effective diffusivity", "1"),
    )
    boundary = ("u = 1; u = -diffusivity u_x",)
    centred = True

    def __init__(
        self,
        points: int = 1024,
        length: Varying = 1.0,
        dt: Varying = 5.0,
        diffusivity: Varying = 5e-4,
        porosity: float = 0.29,
        density: float = 2880.0,
        coefficient: float = 3.5e-4,
        exponent: float = 0.874,
        lowest: float = 0.0,
        highest: float = 0.2,
        substeps: int = 4,
        burn_in: int = 0,
    ):
        super().__init__(points, substeps, burn_in)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "diffusivity": Distribution.of("diffusivity", diffusivity),
        }
        if not 0 < porosity < 1:
            raise UserError(f"porosity must be between 0 and 1, is {porosity:g}")
        if density < 0 or coefficient < 0:
            raise UserError(
                f"density and coefficient must not be negative, are {density:g} and {coefficient:g}"
            )
        if not 0 < exponent <= 1:
            raise UserError(f"exponent must be above 0 and at most 1, is {exponent:g}")
        if not 0 <= lowest <= highest <= 1:
            raise UserError(
                f"0 <= lowest <= highest <= 1 must hold, are {lowest:g} and {highest:g}"
            )
        self.sorption = (1 - porosity) / porosity * density * coefficient
        self.exponent = exponent
        self.lowest, self.highest = lowest, highest
        # depth of the front, at the concentration of the inlet, when the first frame is kept
        time = self.distributions["dt"].low * max(1, burn_in)
        spread = self.distributions["diffusivity"].low / (1 + self.sorption * exponent)
        needed = max(4, math.ceil(self.distributions["length"].high / math.sqrt(time * spread)))
        if points < needed:
            raise UserError(
                f"{points} points are too few for the front that enters: "
                f"at least {needed} are needed, or a longer burn_in"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and constant concentrations."""
        parameters = self._draw(generators)
        values = [generator.uniform(self.lowest, self.highest) for generator in generators]
        state = np.array(values).reshape(-1, 1, 1)
        return parameters, np.tile(state, (1, 1, self.resolution))

    def _solver(self, at: Discretisation) -> _SorptionSolver:
        """Build the finite-volume solver of a batch of trajectories."""
        length, dt, diffusivity = at.columns.values()
        spacing = length / at.points
        steps = at.steps
        # the wall is half a cell away: wall = -2 diffusivity (wall - u) / spacing flows out there
        leaves = 1 / (1 + spacing / (2 * diffusivity))
        return _SorptionSolver(
            conductance=(diffusivity / spacing**2).to(at.dtype),
            outlet=(leaves / spacing).to(at.dtype),
            time_step=(at.stride * dt / steps).to(at.dtype),
            steps=steps,
            sorption=self.sorption,
            exponent=self.exponent,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Average over blocks of cells, or split cells by limited slopes that keep the average."""
        old = state.shape[-1]
        if points <= old:
            return blocks(state, points)
        # the smaller of the slopes on both sides; the inlet's value is half a cell away
        rise = state.diff(dim=-1)
        left = torch.cat([2 * (state[..., :1] - 1), rise], dim=-1)
        right = torch.cat([rise, rise[..., -1:]], dim=-1)
        slope = torch.where(left.abs() < right.abs(), left, right) * (left * right > 0)
        times = points // old
        place = (torch.arange(times, dtype=torch.float64) + 0.5) / times - 0.5
        split = blocks(slope, points).unflatten(-1, (old, times)) * place.to(state)
        return blocks(state, points) + split.flatten(-2)
