"""Viscous Burgers equation in one dimension."""

import logging
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
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import etdrk
from longrun.solvers.spectral import SpectralSolver, check_points, indices, square
from longrun.solvers.waves import two_sines

log = logging.getLogger(__name__)

WAVES = 16  # of the Gaussian random initial condition


class Burgers(AbstractEquation):
    """u_t + (u^2/2)_x = viscosity u_xx on a periodic interval.

    Where u falls with x it steepens to a front, which viscosity keeps 2 viscosity / jump wide;
    fronts merge and decay. PDEBench and CAPE write nu / pi for the viscosity and give nu: with
    `over_pi` the parameter `viscosity` is that nu.

    Initial conditions, to which `background` is added:

    - "sines": two random sines, some of them with their absolute value taken or confined to a
      window, as in PDEBench and CAPE (Takamoto et al., 2023, arXiv:2304.14118);
    - "sine": one period of the sine; with a background it is that of Mojgani et al. (2022),
      arXiv:2205.02902;
    - "gaussian": random functions of mean 0 with covariance 625 (25 - d^2/dx^2)^-2 on the unit
      interval, like that of Li et al. (2021), arXiv:2010.08895; waves of up to 16 periods.

    A front of jump 2 is resolved to 1e-3 of its height by length / viscosity points: the
    transform of tanh(x / (2 viscosity)) falls as exp(-pi viscosity k) and waves are cut off at
    2/3 of the highest. Fewer points ring; fewer than a quarter are refused.

    Parameters
    ----------
    points
        Stored grid points; times `refinement`, an even number.
    length
        Length of the interval.
    dt
        Time between frames.
    viscosity
        Positive.
    background
        Mean velocity that is added to the initial condition, of either sign.
    over_pi
        Whether the coefficient of u_xx is viscosity / pi, as in PDEBench.
    initial
        Initial condition, see above.
    absolute, windowed
        With "sines": the probability that the absolute value is taken, and that there is a window.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        The solver's grid has this many times the stored points.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for the smallest viscosity, or steps too long.
    """

    fields = (Quantity("u", "velocity", "1"),)
    boundary = ("periodic",)

    def __init__(
        self,
        points: int = 256,
        length: Varying = 1.0,
        dt: Varying = 0.05,
        viscosity: Varying = 0.01,
        background: Varying = 0.0,
        over_pi: bool = False,
        initial: Literal["sines", "sine", "gaussian"] = "sines",
        absolute: float = 0.1,
        windowed: float = 0.1,
        substeps: int = 40,
        burn_in: int = 0,
        refinement: int = 1,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(self.resolution)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
            "background": Distribution.of("background", background, above=-math.inf),
        }
        self.parameters = (
            Quantity("length", "domain length", "1"),
            Quantity("dt", "time between frames", "1"),
            Quantity("viscosity", "viscosity times pi" if over_pi else "viscosity", "1"),
            Quantity("background", "mean initial velocity", "1"),
        )
        self.unit = 1 / math.pi if over_pi else 1.0
        self.initial, self.absolute, self.windowed = initial, absolute, windowed
        self.integrator = etdrk(integrator)
        for name, part in (("absolute", absolute), ("windowed", windowed)):
            if not 0 <= part <= 1:
                raise UserError(f"{name} must be between 0 and 1, is {part:g}")
        least = {"sines": 32, "sine": 8, "gaussian": 2 * WAVES + 2}[initial]
        if points < least:
            raise UserError(f"{points} points are too few for {initial}: take at least {least}")
        self._check_resolution()
        self._check_step()

    def _check_resolution(self) -> None:
        thinnest = self.unit * self.distributions["viscosity"].low
        wanted = 2 * math.ceil(self.distributions["length"].high / thinnest / 2)
        said = (
            f"{self.resolution} points (points x refinement) for viscosity {thinnest:g}: "
            f"{wanted} resolve a front of jump 2"
        )
        if 4 * self.resolution < wanted:
            raise UserError(f"too few: {said}, take at least {2 * math.ceil(wanted / 8)}")
        if self.resolution < wanted:
            log.warning("fronts may ring with %s", said)

    def _check_step(self) -> None:
        """Refuse unstable steps: explicit fourth order is stable up to speed k step = 2.8."""
        length, dt = self.distributions["length"].low, self.distributions["dt"].high
        wind = self.distributions["background"]
        # most initial conditions stay below 1, none of the sines exceeds 2
        speed = 1 + max(abs(wind.low), abs(wind.high))
        shortest = 2 * math.pi / length * self.resolution / 3
        needed = math.ceil(speed * shortest * dt / 2.8)
        if self.substeps < needed:
            raise UserError(
                f"{self.substeps} substeps are unstable for {self.resolution} points and speed "
                f"{speed:g}: take at least {needed}"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on the grid."""
        parameters, points = self._draw(generators), self.resolution
        if self.initial == "sines":
            rows = [two_sines(g, points, self.absolute, self.windowed) for g in generators]
        elif self.initial == "sine":
            rows = [np.sin(2 * np.pi * np.arange(points) / points) for _ in generators]
        else:
            rows = [self._gaussian(generator) for generator in generators]
        state = np.array(rows).reshape(-1, 1, points)
        return parameters, state + parameters["background"][:, None, None]

    def _gaussian(self, generator: np.random.Generator) -> Float[np.ndarray, " space"]:
        wavenumber = 2 * np.pi * np.arange(1, WAVES + 1)
        normal = generator.standard_normal((WAVES, 2)) @ np.array([1, 1j])
        spectrum = np.zeros(self.resolution // 2 + 1, complex)
        spectrum[1 : WAVES + 1] = 25 / (25 + wavenumber**2) * normal / np.sqrt(2)
        field: Float[np.ndarray, " space"] = np.fft.irfft(
            spectrum, n=self.resolution, norm="forward"
        )
        return field

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        points = at.points
        check_points(points)
        length, _, viscosity, _ = at.columns.values()
        (index,) = indices((points,))
        wavenumber = 2 * torch.pi / length * index.to(at.device)

        return SpectralSolver(
            linear=-self.unit * viscosity * wavenumber**2,
            symbol=-0.5j * wavenumber,
            product=square((points,)),
            grid=points,
            integrator=self.integrator,
            **at.timing,
        )

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return every `refinement`-th value: interpolation would ring at fronts."""
        return state[..., :: self.refinement]

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of u, which the flux form conserves; on the solver's grid only."""
        return {} if self.refinement > 1 else {"mean": state.mean(axis=(-2, -1))}
