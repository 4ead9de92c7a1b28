"""Fisher-KPP equation in one or two dimensions."""

import math
from collections.abc import Sequence
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
from longrun.solvers.waves import random_field


class FisherKpp(AbstractEquation):
    """u_t = diffusivity Laplacian(u) + reaction u (1 - u) on a periodic box.

    A population spreads at speed 2 sqrt(reaction diffusivity) and grows to 1.

    Initial conditions are ours: 1 / (1 + exp(4 - 2 w)) of random functions w of mean square 1,
    rare islands on ground that is nowhere empty. Empty ground would be unstable to rounding errors,
    which grow like exp(reaction t) and never return where they are negative.

    Parameters
    ----------
    points
        Grid points along every axis, even.
    dims
        Number of axes.
    length
        Length of the box along every axis.
    dt
        Time between frames.
    diffusivity
        Positive.
    reaction
        Positive.
    highest
        w has waves of up to this many periods.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for fronts or waves, or steps too long.
    """

    fields = (Quantity("u", "density", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity", "diffusivity", "1"),
        Quantity("reaction", "growth rate", "1"),
    )

    def __init__(
        self,
        points: int = 128,
        dims: Literal[1, 2] = 1,
        length: Varying = 64.0,
        dt: Varying = 0.1,
        diffusivity: Varying = {"log_uniform": (0.5, 2.0)},  # noqa: B006  (never changed)
        reaction: Varying = {"uniform": (0.5, 1.0)},  # noqa: B006
        highest: int = 4,
        substeps: int = 2,
        burn_in: int = 0,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.boundary = ("periodic",) * dims
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "diffusivity": Distribution.of("diffusivity", diffusivity),
            "reaction": Distribution.of("reaction", reaction),
        }
        self.highest = highest
        self.integrator = etdrk(integrator)
        if highest < 1:
            raise UserError(f"highest must be at least 1, is {highest}")
        self._check()

    def _check(self) -> None:
        d = self.distributions
        # the front's waves fall as exp(-pi k sqrt(6 D / r)), those of the start over a few times
        # `highest`: 1e-2 at 2/3 of the grid's highest
        steepness = math.sqrt(d["reaction"].high / (6 * d["diffusivity"].low))
        needed = 2 * math.ceil(max(d["length"].high * steepness, 10 * self.highest) / 2)
        if self.points < needed:
            raise UserError(
                f"{self.points} points are too few for the fronts and waves of {self.highest} "
                f"periods: take at least {needed}"
            )
        steps = math.ceil(2 * d["reaction"].high * d["dt"].high / 2)  # u^2 is explicit
        if self.substeps < steps:
            raise UserError(
                f"{self.substeps} substeps are unstable for reaction {d['reaction'].high:g}: "
                f"take at least {steps}"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on `points`."""
        parameters, grid = self._draw(generators), self.grid(self.resolution)
        fields = [random_field(generator, grid, self.highest) for generator in generators]
        state = 1 / (1 + np.exp(4 - 2 * np.array(fields)))
        return parameters, state.reshape(-1, 1, *grid)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        length, _, diffusivity, reaction = at.columns.values()
        squares = sum(index.to(at.device) ** 2 for index in indices(grid))
        linear = reaction - diffusivity * (2 * torch.pi / length) ** 2 * squares

        return SpectralSolver(
            linear=linear,
            symbol=-reaction * torch.ones_like(linear),
            product=square(grid),
            grid=grid,
            integrator=self.integrator,
            **at.timing,
        )
