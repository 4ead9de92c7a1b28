"""Viscous Burgers equation of a velocity in two dimensions."""

import logging
import math
from collections.abc import Sequence
from typing import Literal

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
from longrun.solvers.etdrk import etdrk
from longrun.solvers.spectral import SpectralSolver, check_points, forward, indices, inverse
from longrun.solvers.waves import random_field

log = logging.getLogger(__name__)


class Burgers2d(AbstractEquation):
    """u_t + u u_x + v u_y = viscosity Laplacian(u), likewise v, on a periodic square.

    The velocity carries itself without pressure: it steepens to fronts, which merge and decay.
    It isn't in flux form, so even its mean changes, unless curl v = 0. The nonlinear
    term is computed as grad(|v|^2 / 2) + curl v x v: six transforms rather than eight.

    Initial conditions are random functions for each component, ours: mean 0, root mean square
    drawn from `amplitude`.

    Parameters
    ----------
    points
        Grid points along both axes, even.
    length
        Length of the square.
    dt
        Time between frames.
    viscosity
        Positive.
    amplitude
        Root mean square of each initial component, positive.
    highest
        The initial condition has waves of up to this many periods.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for the initial condition or the smallest
        viscosity, or steps too long.
    """

    fields = (Quantity("u", "velocity along x", "1"), Quantity("v", "velocity along y", "1"))
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("viscosity", "viscosity", "1"),
        Quantity("amplitude", "initial velocity, root mean square", "1"),
    )
    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 64,
        length: Varying = 1.0,
        dt: Varying = 0.05,
        viscosity: Varying = 0.01,
        amplitude: Varying = 0.5,
        highest: int = 3,
        substeps: int = 10,
        burn_in: int = 0,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
            "amplitude": Distribution.of("amplitude", amplitude),
        }
        self.integrator = etdrk(integrator)
        if highest < 1:
            raise UserError(f"highest must be at least 1, is {highest}")
        if points <= 3 * highest:
            raise UserError(
                f"{points} points are too few for waves of {highest} periods: "
                f"take at least {2 * (3 * highest // 2 + 1)}"
            )
        self.highest = highest
        self._check()

    def _check(self) -> None:
        """As for Burgers in one dimension, with fronts of a jump of four amplitudes."""
        thinnest, strongest = (
            self.distributions["viscosity"].low,
            self.distributions["amplitude"].high,
        )
        longest = self.distributions["length"].high
        wanted = 2 * math.ceil(2 * strongest * longest / thinnest / 2)
        said = f"{self.points} points for viscosity {thinnest:g}: {wanted} resolve strong fronts"
        if 4 * self.points < wanted:
            raise UserError(f"too few: {said}, take at least {2 * math.ceil(wanted / 8)}")
        if self.points < wanted:
            log.warning("fronts may ring with %s", said)
        shortest = 2 * math.pi / self.distributions["length"].low * self.points / 3
        speed = 2 * 3 * strongest  # both axes, three standard deviations
        needed = math.ceil(speed * shortest * self.distributions["dt"].high / 2.8)
        if self.substeps < needed:
            raise UserError(
                f"{self.substeps} substeps are unstable for {self.points} points and speed "
                f"{speed:g}: take at least {needed}"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and random velocities; the draw doesn't depend on `points`."""
        parameters, grid = self._draw(generators), self.grid(self.resolution)
        fields = [[random_field(g, grid, self.highest) for _ in range(2)] for g in generators]
        state = np.array(fields).reshape(-1, 2, *grid)
        return parameters, parameters["amplitude"][:, None, None, None] * state

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        length, _, viscosity, _ = at.columns.values()
        unit = 2 * torch.pi / length
        kx, ky = (unit * index.to(at.device) for index in indices(grid))
        x, y = kx.to(at.dtype), ky.to(at.dtype)

        def turn(spectrum: Tensor) -> Tensor:
            """Multiply by the imaginary unit."""
            return torch.complex(-spectrum.imag, spectrum.real)

        def carry(spectrum: Tensor) -> Tensor:
            """Return grad(|v|^2 / 2) + curl v x v."""
            curl = turn(x * spectrum[:, 1:] - y * spectrum[:, :1])
            u, v, rotation = inverse(torch.cat([spectrum, curl], 1), grid).unbind(1)
            products = torch.stack([(u * u + v * v) / 2, -rotation * v, rotation * u], 1)
            energy, across, along = forward(products, 2).split(1, 1)
            energy = turn(energy)
            return torch.cat([x * energy + across, y * energy + along], 1)

        linear = -viscosity * (kx**2 + ky**2)
        return SpectralSolver(
            linear=linear,
            symbol=-torch.ones_like(linear),
            product=carry,
            grid=grid,
            integrator=self.integrator,
            **at.timing,
        )
