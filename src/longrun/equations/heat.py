"""Heat equation in one, two or three dimensions, solved exactly."""

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
from longrun.solvers.linear import LinearSolver
from longrun.solvers.spectral import check_points, indices
from longrun.solvers.waves import random_field


class Heat(AbstractEquation):
    """u_t = diffusivity Laplacian(u) on a periodic box.

    Each wave decays by its exact factor, so the result doesn't depend on the step. Initial
    conditions are random functions of mean 0 and mean square 1 (ours; the papers' heat equations
    have walls, this one has none).

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
    highest
        The initial condition has waves of up to this many periods.
    substeps
        Has no effect on the result.
    burn_in
        Frames to discard before the first frame that is kept.

    Raises
    ------
    UserError
        Impossible parameters, or a grid too coarse for the initial condition.
    """

    fields = (Quantity("temperature", "temperature", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity", "diffusivity", "1"),
    )

    def __init__(
        self,
        points: int = 32,
        dims: Literal[1, 2, 3] = 2,
        length: Varying = 1.0,
        dt: Varying = 0.02,
        diffusivity: Varying = {"log_uniform": (2e-3, 2e-2)},  # noqa: B006  (never changed)
        highest: int = 6,
        substeps: int = 1,
        burn_in: int = 0,
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.boundary = ("periodic",) * dims
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "diffusivity": Distribution.of("diffusivity", diffusivity),
        }
        if highest < 1:
            raise UserError(f"highest must be at least 1, is {highest}")
        if points <= 2 * highest:
            raise UserError(
                f"{points} points are too few for waves of {highest} periods: "
                f"take at least {2 * highest + 2}"
            )
        self.highest = highest

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and random functions; the draw doesn't depend on `points`."""
        parameters, grid = self._draw(generators), self.grid(self.resolution)
        fields = [random_field(generator, grid, self.highest) for generator in generators]
        return parameters, np.array(fields).reshape(-1, 1, *grid)

    def _solver(self, at: Discretisation) -> LinearSolver:
        """Build the exact solver of a batch of trajectories, whatever the substeps."""
        grid = at.grid
        length, _, diffusivity = at.columns.values()
        squares = sum(index.to(at.device) ** 2 for index in indices(grid))
        symbol = -diffusivity * (2 * torch.pi / length) ** 2 * squares
        return LinearSolver(symbol, grid, at.frame, at.dtype)

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean temperature."""
        return {"mean": state.mean(axis=tuple(range(-1 - self.dims, 0)))}
