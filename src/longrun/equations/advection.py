"""Linear advection in one dimension, solved exactly."""

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
from longrun.solvers.linear import LinearSolver
from longrun.solvers.spectral import check_points, indices
from longrun.solvers.waves import two_sines


class Advection(AbstractEquation):
    """u_t + speed u_x = diffusivity u_xx on a periodic interval; without diffusion by default.

    The initial condition moves along unchanged. The solver turns the phase of each wave exactly, so
    its result doesn't depend on the step.

    Initial conditions:

    - "sines": two random sines, some of them with their absolute value taken or confined to a
      window, as in PDEBench and CAPE (Takamoto et al., 2023, arXiv:2304.14118);
    - "sine": one period of the sine, as in the PINN literature (Mojgani et al., 2022,
      arXiv:2205.02902; Wang et al., 2022, arXiv:2203.07404);
    - "pulse": a Gaussian of standard deviation length / 40 at length / 8, which on a length of 4
      is that of Chen et al. (2023), implicit neural spatial representations.

    Absolute values and windows aren't smooth: simulate them on a finer grid, of which every
    `refinement`-th point is stored, as CAPE does.

    Parameters
    ----------
    points
        Stored grid points; times `refinement`, an even number.
    length
        Length of the interval.
    dt
        Time between frames.
    speed
        Of either sign.
    diffusivity
        At least 0.
    initial
        Initial condition, see above.
    absolute, windowed
        With "sines": the probability that the absolute value is taken, and that there is a window.
    substeps
        Has no effect on the result.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        The solver's grid has this many times the stored points.

    Raises
    ------
    UserError
        Impossible parameters, or a grid too coarse for the initial condition.
    """

    fields = (Quantity("u", "scalar", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("speed", "advection speed", "1"),
        Quantity("diffusivity", "diffusivity", "1"),
    )
    boundary = ("periodic",)

    def __init__(
        self,
        points: int = 128,
        length: Varying = 1.0,
        dt: Varying = 0.05,
        speed: Varying = {"choice": (0.2, 0.4, 0.7, 2.0, 4.0)},  # noqa: B006  (never changed)
        diffusivity: Varying = 0.0,
        initial: Literal["sines", "sine", "pulse"] = "sines",
        absolute: float = 0.1,
        windowed: float = 0.1,
        substeps: int = 1,
        burn_in: int = 0,
        refinement: int = 8,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(self.resolution)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "speed": Distribution.of("speed", speed, above=-math.inf),
            "diffusivity": Distribution.of("diffusivity", diffusivity, at_least=0.0),
        }
        self.initial, self.absolute, self.windowed = initial, absolute, windowed
        for name, part in (("absolute", absolute), ("windowed", windowed)):
            if not 0 <= part <= 1:
                raise UserError(f"{name} must be between 0 and 1, is {part:g}")
        # four points per period of the shortest sine, two per standard deviation of the pulse
        needed = {"sines": 32, "sine": 8, "pulse": 80}[initial]
        if points < needed:
            raise UserError(f"{points} points are too few for {initial}: take at least {needed}")

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions, without the highest wave, which cannot shift."""
        parameters, points = self._draw(generators), self.resolution
        x = np.arange(points) / points
        if self.initial == "sines":
            rows = [two_sines(g, points, self.absolute, self.windowed) for g in generators]
        elif self.initial == "sine":
            rows = [np.sin(2 * np.pi * x) for _ in generators]
        else:
            images = np.exp(-0.5 * (40 * (x - 1 / 8 - np.arange(-1, 3)[:, None])) ** 2)
            rows = [images.sum(0) for _ in generators]
        spectrum = np.fft.rfft(np.array(rows).reshape(-1, 1, points))
        spectrum[..., -1] = 0
        return parameters, np.fft.irfft(spectrum, n=points)

    def _solver(self, at: Discretisation) -> LinearSolver:
        """Build the exact solver of a batch of trajectories, whatever the substeps."""
        points = at.points
        length, _, speed, diffusivity = at.columns.values()
        (index,) = indices((points,))
        wavenumber = 2 * torch.pi / length * index.to(at.device)
        symbol = torch.complex(-diffusivity * wavenumber**2, -speed * wavenumber)
        return LinearSolver(symbol, (points,), at.frame, at.dtype)

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return every `refinement`-th value: interpolation would ring at jumps."""
        return state[..., :: self.refinement]

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of u and, without diffusion, its mean square; on the solver's grid only."""
        if self.refinement > 1:
            return {}
        kept = {"mean": state.mean(axis=(-2, -1))}
        if self.distributions["diffusivity"].high == 0:
            kept["mean_square"] = (state**2).mean(axis=(-2, -1))
        return kept
