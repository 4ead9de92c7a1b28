"""Kuramoto-Sivashinsky equation in one dimension."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

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


class KuramotoSivashinsky(AbstractEquation):
    """u_t + steepening (u^2/2)_x + growth u_xx + viscosity u_xxxx = 0 on a periodic interval.

    Long waves grow, short waves decay, and the nonlinear term carries energy from one to the other:
    chaos with about `length / 9` interacting cells where all coefficients are 1.

    Initial conditions:

    - "sines": sums of ten sine waves as in the public generator of Brandstetter et al. (2022),
      arXiv:2202.07643, which Lippe et al. (2023), arXiv:2308.05732, use: amplitudes from
      U(-0.5, 0.5), one or two periods, any phase;
    - "sine", "cosine": sin s and cos s (1 + sin s) with s from 0 to 2 pi over the interval, the
      benchmarks of Wang et al. (2022), arXiv:2203.07404: length 2, coefficients 5, 0.5 and 0.005
      for the first; length 2 pi, coefficients 100/16, 100/16^2 and 100/16^4 for the second.

    Parameters
    ----------
    points
        Grid points, even.
    length
        Length of the interval.
    dt
        Time between frames.
    viscosity
        Coefficient of the fourth derivative.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.
    steepening
        Coefficient of u u_x, the same for all trajectories.
    growth
        Coefficient of the second derivative, positive, the same for all trajectories.
    initial
        Initial condition, see above.

    Raises
    ------
    UserError
        Impossible parameters, or a grid too coarse for the smallest viscosity.
    """

    fields = (Quantity("u", "velocity", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("viscosity", "viscosity", "1"),
    )
    boundary = ("periodic",)

    def __init__(
        self,
        points: int = 256,
        length: Varying = {"uniform": (57.6, 70.4)},  # noqa: B006  (never changed)
        dt: Varying = {"uniform": (0.18, 0.22)},  # noqa: B006
        viscosity: Varying = 1.0,
        substeps: int = 2,  # of 0.1: one frame has a relative error of about 2.5e-6
        burn_in: int = 360,  # the public generator keeps the last 140 of 500 frames
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
        steepening: float = 1.0,
        growth: float = 1.0,
        initial: Literal["sines", "sine", "cosine"] = "sines",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
        }
        self.integrator = etdrk(integrator)
        self.steepening, self.growth, self.initial = steepening, growth, initial
        if growth <= 0:
            raise UserError(f"growth must be positive, is {growth:g}; take 1")
        longest, thinnest = self.distributions["length"].high, self.distributions["viscosity"].low
        # waves beyond sqrt(growth / viscosity) decay; without room for them energy stays
        needed = 2 * math.ceil(1.5 * 1.5 * longest / (2 * math.pi * math.sqrt(thinnest / growth)))
        if points < needed:
            raise UserError(
                f"{points} points are too few for length {longest:g} at viscosity {thinnest:g}: "
                f"at least {needed} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on `points`."""
        x = np.arange(self.resolution) / self.resolution
        parameters, states = self._draw(generators), []
        for generator in generators:
            if self.initial != "sines":
                s = 2 * np.pi * x
                states.append(np.sin(s) if self.initial == "sine" else np.cos(s) * (1 + np.sin(s)))
                continue
            amplitude = generator.uniform(-0.5, 0.5, (10, 1))
            periods = generator.integers(1, 3, (10, 1))
            phase = generator.uniform(0, 2 * np.pi, (10, 1))
            states.append((amplitude * np.sin(2 * np.pi * periods * x + phase)).sum(0))
        return parameters, np.array(states).reshape(-1, 1, self.resolution)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        points = at.points
        check_points(points)
        length, _, viscosity = at.columns.values()
        (index,) = indices((points,))
        wavenumber = 2 * torch.pi / length * index.to(at.device)

        return SpectralSolver(
            linear=self.growth * wavenumber**2 - viscosity * wavenumber**4,
            symbol=-0.5j * self.steepening * wavenumber,
            product=square((points,)),
            grid=points,
            integrator=self.integrator,
            **at.timing,
        )

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of u, which the flux form conserves."""
        return {"mean": state.mean(axis=(-2, -1))}
