"""Smoke that rises in a periodic square: a scalar carried by an incompressible flow."""

import math
from collections.abc import Mapping, Sequence
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
from longrun.equations._initial_vorticity import FLOWS, RADIUS, noise, on_grid, velocity
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import Product, etdrk
from longrun.solvers.spectral import check_points, forward, indices, inverse
from longrun.solvers.vorticity import VelocitySolver, to_flux, to_velocity


class Smoke(AbstractEquation):
    """s_t + u . grad s = diffusivity laplacian s, with a velocity that buoyancy drives.

    u_t + u . grad u = -grad p + viscosity laplacian u + (0, buoyancy (s - mean s)), div u = 0;
    with buoyancy 0, s is a passive scalar.

    This is the periodic variant of the "INS" data of SineNet (Zhang et al., 2024,
    arXiv:2403.19507), whose box is closed: there the velocity is zero at the walls, which no smoke
    crosses. Deviations: no walls, so smoke that leaves at the top enters at the bottom; only the
    departure from the mean lifts, since there is no floor whose pressure would carry the mean; and
    smoke diffuses, where the original's semi-Lagrangian interpolation does so numerically.

    Initial smoke is a random field of waves up to about four in the box, stretched to the interval
    from 0 to 1; initial velocities are zero or one of `longrun.equations._initial_vorticity`.

    Parameters
    ----------
    points
        Stored grid points along each axis, even.
    length
        Length of the square.
    dt
        Time between frames.
    viscosity
        Kinematic viscosity.
    diffusivity
        Diffusivity of smoke.
    buoyancy
        Upward acceleration (along y) per density of smoke.
    initial
        Initial velocity; "rest" needs buoyancy.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        The solver's grid has this many times the stored points.
    integrator
        "etdrk4", "etdrk2" where tolerances are loose, "lawson5" where they are tight.

    Raises
    ------
    UserError
        Impossible parameters; and from `sample`, a time step too long for the speed.
    """

    fields = (
        Quantity("smoke", "density of smoke", "1"),
        Quantity("u", "velocity along x", "1"),
        Quantity("v", "velocity along y", "1"),
    )
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("viscosity", "kinematic viscosity", "1"),
        Quantity("diffusivity", "diffusivity of smoke", "1"),
        Quantity("buoyancy", "acceleration by smoke", "1"),
    )
    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 128,
        length: Varying = 32.0,
        dt: Varying = 6.0,
        viscosity: Varying = 0.01,
        diffusivity: Varying = 0.01,
        buoyancy: Varying = 0.5,
        initial: Literal[
            "rest",
            "random_field",
            "mcwilliams",
            "filtered_velocity",
            "sines",
            "vortices",
            "piecewise_constant",
        ] = "rest",
        substeps: int = 80,
        burn_in: int = 3,
        refinement: int = 1,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b", "lawson5"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
            "diffusivity": Distribution.of("diffusivity", diffusivity),
            "buoyancy": Distribution.of("buoyancy", buoyancy, at_least=0),
        }
        if initial == "rest" and self.distributions["buoyancy"].low == 0:
            raise UserError("at buoyancy 0 nothing moves from rest: take initial sines, say")
        self.initial = initial
        self.integrator = etdrk(integrator)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters, smoke and velocity; the draw doesn't depend on `points`.

        Raises
        ------
        UserError
            Too few substeps for the speed.
        """
        parameters, points = self._draw(generators), self.resolution
        states = np.zeros((len(generators), 3, points, points))
        for state, generator in zip(states, generators, strict=True):
            modes = noise(generator) * np.exp(-0.5 * (RADIUS / 2) ** 2)
            lowest, highest = np.quantile(on_grid(modes, 128), (0, 1))  # on a fixed grid
            state[0] = (on_grid(modes, points) - lowest) / (highest - lowest)
            if self.initial != "rest":
                flow = velocity(FLOWS[self.initial](generator))
                state[1:] = [on_grid(component, points) for component in flow]
        # smoke of density 1, rising over half of the box, reaches about this speed
        free_fall = np.sqrt(parameters["buoyancy"] * parameters["length"])
        speed = np.abs(states[:, 1:]).sum(1).max((1, 2)) + free_fall
        wavenumber = 2 * np.pi / parameters["length"] * ((points - 1) // 3)
        angle = np.max(speed * wavenumber * parameters["dt"], initial=0) / self.substeps
        if angle > 2.5:  # per step, of the highest wave: the method is stable up to 2.8
            raise UserError(
                f"{self.substeps} substeps are too few for a speed of {speed.max():.3g} on "
                f"{points} points: at least {math.ceil(self.substeps * angle / 2.5)} are needed"
            )
        return parameters, states

    def _solver(self, at: Discretisation) -> VelocitySolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        columns = at.columns
        x, y = (index.to(at.device)[None, None] for index in indices(grid))
        wave = 2 * torch.pi / columns["length"]
        diffusion = torch.cat([columns["diffusivity"], columns["viscosity"]], dim=1)
        return VelocitySolver(
            (wave * x, wave * y),
            linear=-diffusion * wave**2 * (x**2 + y**2),
            symbol=torch.ones(1, 1, 1, 1, dtype=torch.float64, device=at.device),
            product=_transport(x, y, 1j * columns["buoyancy"] * wave * x, grid, at.dtype),
            grid=grid,
            integrator=self.integrator,
            **at.timing,
        )

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of each field; the velocity's is zero."""
        means = state.mean(axis=(-2, -1))
        return {f"mean {field.name}": means[..., i] for i, field in enumerate(self.fields)}


def _transport(
    x: Tensor, y: Tensor, lift: Tensor, grid: Sequence[int], dtype: torch.dtype
) -> Product:
    """Return advection of smoke and vorticity, and buoyancy, from the spectra of both.

    `x` and `y` count whole waves: the units of advection cancel, see `advection`.
    """
    spectral = dtype.to_complex()
    to_flow, flux = to_velocity(x, y).to(spectral), to_flux(x, y).to(dtype)
    minus_gradient = (-1j * x).to(spectral), (-1j * y).to(spectral)
    lift = lift.to(spectral)

    def product(spectrum: Tensor) -> Tensor:
        smoke, vorticity = spectrum.split(1, dim=1)
        s, u, v = inverse(torch.cat([smoke, to_flow * vorticity], dim=1), grid).unbind(1)
        fields = torch.stack([u * s, v * s, u * v, (v - u).mul_(v + u)], dim=1)
        along_x, along_y, shear, stretch = forward(fields, 2).split(1, dim=1)
        return torch.cat(
            [
                (minus_gradient[0] * along_x).addcmul_(minus_gradient[1], along_y),
                (lift * smoke).add_(shear * flux[:, :1]).add_(stretch * flux[:, 1:]),
            ],
            dim=1,
        )

    return product
