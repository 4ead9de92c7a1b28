"""Incompressible Navier-Stokes equations in a periodic square."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.equations._initial_vorticity import FLOWS, on_grid, random_force, velocity
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import Product, etdrk
from longrun.solvers.spectral import SpectralSolver, check_points, indices
from longrun.solvers.vorticity import VelocitySolver, advection

log = logging.getLogger(__name__)

VORTICITY = (Quantity("vorticity", "vorticity", "1"),)
VELOCITY = (Quantity("u", "velocity along x", "1"), Quantity("v", "velocity along y", "1"))
FORCE = (Quantity("force", "curl of the force", "1"),)


class NavierStokes2D(AbstractEquation):
    """w_t + u . grad w + beta v = viscosity laplacian w - drag w + curl f in a periodic square.

    w = v_x - u_y is the vorticity of the velocity (u, v) = (psi_y, -psi_x), which has no
    divergence and no mean. Either w or (u, v) is stored; each determines the other. The solver
    drops the mean velocity of a state that has one.

    With k = 2 pi wavenumber / length, the forcing is one of

    - "kolmogorov": f = amplitude (sin(k y), 0), that is curl f = -amplitude k cos(k y);
    - "cells": f = amplitude (-sin(k y), sin(k x)), curl f = amplitude k (cos(k x) + cos(k y)), the
      forcing of two-dimensional turbulence on a beta plane;
    - "fno": curl f = amplitude (sin(k (x + y)) + cos(k (x + y))), that of Li et al. (2021),
      arXiv:2010.08895, at wavenumber 1, amplitude 0.1, length 1;
    - "random": curl f = amplitude times a Gaussian random field that each trajectory draws anew. It
      is a field of the state, beside the vorticity, that doesn't change.

    Initial conditions are described in `longrun.equations._initial_vorticity`: a Gaussian random
    field (FNO), McWilliams' decaying turbulence, filtered velocity (jax-cfd), and sines, Gaussian
    vortices and piecewise constant vorticity in the manner of Poseidon; or the fluid is at rest.

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
    drag
        Rate of linear friction.
    beta
        Gradient of the Coriolis parameter along y.
    forcing
        What drives the flow, see above.
    wavenumber
        Waves of the forcing in the box.
    amplitude
        Amplitude of the forcing; a parameter only where there is one.
    initial
        Initial condition, see above.
    fields
        What is stored.
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
        Impossible parameters; and from `sample`, a time step too long for the speed of an initial
        condition, or a grid too coarse for its vorticity at its viscosity.
    """

    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 64,
        length: Varying = 2 * math.pi,
        dt: Varying = 0.1,
        viscosity: Varying = 1e-2,
        drag: Varying = 0.0,
        beta: Varying = 0.0,
        forcing: Literal["none", "kolmogorov", "cells", "fno", "random"] = "none",
        wavenumber: int = 4,
        amplitude: Varying = 1.0,
        initial: Literal[
            "random_field",
            "mcwilliams",
            "filtered_velocity",
            "sines",
            "vortices",
            "piecewise_constant",
            "rest",
        ] = "mcwilliams",
        fields: Literal["vorticity", "velocity"] = "vorticity",
        substeps: int = 4,
        burn_in: int = 0,
        refinement: int = 1,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b", "lawson5"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(points)
        self.fields = VORTICITY if fields == "vorticity" else VELOCITY
        self.velocity = ("u", "v") if fields == "velocity" else ()
        if forcing == "random":
            if fields != "vorticity":
                raise UserError(f"forcing random needs fields: vorticity, is {fields}")
            self.fields = FORCE + VORTICITY
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
            "drag": Distribution.of("drag", drag, at_least=0),
            "beta": Distribution.of("beta", beta, at_least=0),
        }
        self.parameters = (
            Quantity("length", "domain length", "1"),
            Quantity("dt", "time between frames", "1"),
            Quantity("viscosity", "kinematic viscosity", "1"),
            Quantity("drag", "rate of linear drag", "1"),
            Quantity("beta", "gradient of the Coriolis parameter", "1"),
        )
        self.forcing = forcing
        self.wavenumber = wavenumber
        if forcing != "none":
            self.distributions["amplitude"] = Distribution.of("amplitude", amplitude, at_least=0)
            self.parameters += (Quantity("amplitude", "amplitude of the forcing", "1"),)
            most = (self.resolution - 1) // 3
            if forcing != "random" and not 1 <= wavenumber <= most:
                raise UserError(
                    f"wavenumber of the forcing must be from 1 to {most}, the highest that "
                    f"{self.resolution} points resolve, is {wavenumber}"
                )
        self.initial = initial
        self.integrator = etdrk(integrator)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and flows; the draw doesn't depend on `points`.

        Raises
        ------
        UserError
            Too few substeps for the speed, or too few points for vorticity and viscosity.
        """
        parameters = self._draw(generators)
        points, flows, vorticities, forces = self.resolution, [], [], []
        for row, (generator, length) in enumerate(
            zip(generators, parameters["length"], strict=True)
        ):
            modes = FLOWS[self.initial](generator)
            if self.forcing == "random":
                force = on_grid(random_force(generator), points)
                forces.append([parameters["amplitude"][row] * force])
            flows.append([on_grid(component, points) for component in velocity(modes)])
            vorticities.append([2 * np.pi / length * on_grid(modes, points)])
        flow = np.array(flows).reshape(-1, 2, points, points)
        vorticity = np.array(vorticities).reshape(-1, 1, points, points)
        if len(flow):
            self._check(flow, vorticity, parameters)
        if self.forcing == "random":
            force = np.array(forces).reshape(-1, 1, points, points)
            return parameters, np.concatenate([force, vorticity], axis=1)
        return parameters, flow if self.fields == VELOCITY else vorticity

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        columns = at.columns
        x, y = (index.to(at.device)[None, None] for index in indices(grid))
        wave = 2 * torch.pi / columns["length"]
        squared = wave**2 * (x**2 + y**2)
        linear = -columns["viscosity"] * squared - columns["drag"]
        if bool((columns["beta"] > 0).any()):  # a real symbol costs less
            linear = linear + 1j * columns["beta"] * wave * x / squared.clamp(min=wave.min() ** 2)
        product = advection(x, y, grid, at.dtype)
        if self.forcing == "random":
            product, linear = _driven(product), torch.cat([torch.zeros_like(linear), linear], dim=1)
        elif self.forcing != "none":
            product = _plus(product, self._curl(columns, x, y).to(at.dtype.to_complex()))
        options: dict[str, Any] = {
            "linear": linear,
            "symbol": torch.ones_like(squared),
            "product": product,
            "grid": grid,
            **at.timing,
            "integrator": self.integrator,
        }
        if self.fields != VELOCITY:
            return SpectralSolver(**options)
        return VelocitySolver((wave * x, wave * y), **options)

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of each field, which is zero."""
        means = state.mean(axis=(-2, -1))
        return {f"mean {field.name}": means[..., i] for i, field in enumerate(self.fields)}

    def _curl(
        self, columns: Mapping[str, Tensor], x: Tensor, y: Tensor
    ) -> Complex[Tensor, "batch 1 *mode"]:
        """Return the spectrum of the curl of the forcing."""
        n, amplitude = self.wavenumber, columns["amplitude"].to(torch.complex128)
        along_x, along_y = (x.abs() == n) & (y == 0), (x == 0) & (y == n)
        k = 2 * torch.pi * n / columns["length"]
        if self.forcing == "kolmogorov":
            return -amplitude * k / 2 * along_y
        if self.forcing == "cells":
            return amplitude * k / 2 * (along_x | along_y)
        return amplitude * (0.5 - 0.5j) * ((x == n) & (y == n))

    def _check(
        self,
        flow: Float[np.ndarray, "batch 2 x y"],
        vorticity: Float[np.ndarray, "batch 1 x y"],
        parameters: Mapping[str, Float[np.ndarray, " batch"]],
    ) -> None:
        """Refuse steps and grids that can't work; warn of coarse ones."""
        highest = 2 * np.pi / parameters["length"] * ((self.resolution - 1) // 3)
        # advection turns the highest wave by `angle` per step: the method is stable up to 2.8
        speed = np.abs(flow).sum(1).max((1, 2))
        angle = (speed * highest * parameters["dt"]).max() / self.substeps
        if angle > 2.5:
            raise UserError(
                f"{self.substeps} substeps are too few for a speed of {speed.max():.3g} on "
                f"{self.resolution} points: at least {math.ceil(self.substeps * angle / 2.5)} "
                f"are needed"
            )
        # enstrophy is dissipated near the wavenumber sqrt(vorticity / viscosity); if that is the
        # grid's highest, vorticity is off by some 2 % after a frame, if half of it, by 0.1 %
        rms = np.sqrt(np.mean(vorticity**2, axis=(1, 2, 3)))
        ratio = np.sqrt(rms / parameters["viscosity"]) / highest
        worst = ratio.argmax()
        if ratio[worst] > 1:
            needed = 2 * math.ceil(self.resolution * ratio[worst] / 2)
            message = (
                f"{self.resolution} points are {{}} for viscosity "
                f"{parameters['viscosity'][worst]:g} at an rms vorticity of {rms[worst]:.3g}: "
                f"{needed} resolve it"
            )
            if ratio[worst] > 2:
                raise UserError(message.format("too few"))
            log.warning(message.format("few"))


def _driven(product: Product) -> Product:
    """Take the first channel for a force on the second; it doesn't change itself."""

    def change(spectrum: Tensor) -> Tensor:
        force, vorticity = spectrum.split(1, dim=1)
        return torch.cat([torch.zeros_like(force), product(vorticity).add_(force)], dim=1)

    return change


def _plus(product: Product, constant: Tensor) -> Product:
    """Add a constant spectrum to what a function returns."""

    def sum_(spectrum: Tensor) -> Tensor:
        return product(spectrum).add_(constant)

    return sum_
