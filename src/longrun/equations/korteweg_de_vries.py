"""Korteweg-de Vries equation in one dimension."""

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


class KortewegDeVries(AbstractEquation):
    """u_t + steepening u u_x + dispersion u_xxx = 0 on a periodic interval.

    Waves steepen until dispersion breaks them into solitons, which pass through each other:
    not chaotic, but phase errors add up. `steepening` is 1 or 6 in most texts; u scales with
    its inverse. A soliton is

        u = 3 c / steepening sech^2(sqrt(c / dispersion) (x - c t) / 2).

    Initial conditions:

    - "sines": sums of ten sine waves of 1 to 3 periods, amplitudes from U(-0.5, 0.5), any phase;
      amplitudes as Singh et al. (2024), arXiv:2402.15656, describe them, periods ours;
    - "two_bumps": a / 2 sech^2(sqrt(a) (x - x0) / 2) with a = 0.75 at 0.33 of the interval and
      a = 0.4 at 0.65 of it, two solitons at steepening 6 (Metalic's kind at others).

    Parameters
    ----------
    points
        Grid points, even.
    length
        Length of the interval.
    dt
        Time between frames.
    steepening
        Coefficient of u u_x, of either sign.
    dispersion
        Coefficient of u_xxx, positive.
    initial
        Initial condition, see above.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for the solitons, or steps too long.
    """

    fields = (Quantity("u", "wave height", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("steepening", "coefficient of the nonlinear term", "1"),
        Quantity("dispersion", "dispersion", "1"),
    )
    boundary = ("periodic",)

    def __init__(
        self,
        points: int = 256,
        length: Varying = 128.0,
        dt: Varying = 0.5,
        steepening: Varying = 1.0,
        dispersion: Varying = 1.0,
        initial: Literal["sines", "two_bumps"] = "sines",
        substeps: int = 20,
        burn_in: int = 0,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "steepening": Distribution.of("steepening", steepening, above=-math.inf),
            "dispersion": Distribution.of("dispersion", dispersion),
        }
        self.initial = initial
        self.integrator = etdrk(integrator)
        self._check()

    def _check(self) -> None:
        """Refuse grids and steps too coarse for solitons of twice the usual largest wave."""
        steep = self.distributions["steepening"]
        height = 3.0 if self.initial == "sines" else 0.5
        speed = max(abs(steep.low), abs(steep.high)) * height  # of the steepest u u_x
        longest, dispersion = self.distributions["length"].high, self.distributions["dispersion"]
        # sech^2(q x) has waves that fall as exp(-pi k / (2 q)): e^-3.3 at 2/3 of the highest
        steepness = math.sqrt(speed / (12 * dispersion.low))
        needed = max(8, 2 * math.ceil(longest * steepness / 2))
        if self.points < needed:
            raise UserError(
                f"{self.points} points are too few for solitons on length {longest:g}: "
                f"take at least {needed}"
            )
        shortest = 2 * math.pi / self.distributions["length"].low * self.points / 3
        steps = math.ceil(speed * shortest * self.distributions["dt"].high / 2.8)
        if self.substeps < steps:
            raise UserError(
                f"{self.substeps} substeps are unstable for {self.points} points: "
                f"take at least {steps}"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on `points`."""
        x = np.arange(self.resolution) / self.resolution
        parameters, states = self._draw(generators), []
        for generator, length in zip(generators, parameters["length"], strict=True):
            if self.initial == "two_bumps":
                bumps = [_bump(x, length, a, at) for a, at in ((0.75, 0.33), (0.4, 0.65))]
                states.append(bumps[0] + bumps[1])
                continue
            amplitude = generator.uniform(-0.5, 0.5, (10, 1))
            periods = generator.integers(1, 4, (10, 1))
            phase = generator.uniform(0, 2 * np.pi, (10, 1))
            states.append((amplitude * np.sin(2 * np.pi * periods * x + phase)).sum(0))
        return parameters, np.array(states).reshape(-1, 1, self.resolution)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        points = at.points
        check_points(points)
        length, _, steepening, dispersion = at.columns.values()
        (index,) = indices((points,))
        wavenumber = 2 * torch.pi / length * index.to(at.device)

        return SpectralSolver(
            linear=1j * dispersion * wavenumber**3,
            symbol=-0.5j * steepening * wavenumber,
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
        """Mean of u; mean square and energy are conserved to the error of the steps only."""
        return {"mean": state.mean(axis=(-2, -1))}


def _bump(
    x: Float[np.ndarray, " space"], length: float, a: float, at: float
) -> Float[np.ndarray, " space"]:
    """Return a periodic bump: it and its two neighbours, as the others are negligible."""
    distance = length * (x - at + np.array([[-1.0], [0.0], [1.0]]))
    bump: Float[np.ndarray, " space"] = (0.5 * a / np.cosh(0.5 * np.sqrt(a) * distance) ** 2).sum(0)
    return bump
