"""Poisson's equation with a source of random Gaussians, a steady map."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.special import erf
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.cells import blocks
from longrun.solvers.elliptic import AbstractEllipticSolver, System, Wall, diffusion_matrix


class _PoissonSolver(AbstractEllipticSolver):
    def __init__(self, points: int, length: ndarray, wall: Wall):
        super().__init__(points)
        self.length = length
        self.wall = wall

    def system(self, fields: Float[ndarray, "channel x y"], row: int) -> System:
        spacing = self.length[row] / self.points
        matrix = diffusion_matrix(np.ones(fields.shape[1:]), spacing, self.wall)
        right = fields[0].ravel()
        if self.wall == "neumann":
            # Nothing can leave, so the sum of the source must vanish. Then the sum of all rows says
            # that the term added here is zero: it only pins one cell.
            right = right - right.mean()
            matrix[0, 0] += matrix[0, 0]
        return matrix, right

    def accept(self, solution: Float[ndarray, " unknown"]) -> Float[ndarray, " unknown"]:
        return solution - solution.mean() if self.wall == "neumann" else solution


class Poisson(AbstractEquation):
    """-lap solution = source on a square, with zero values or zero flux at its walls.

    Fields are averages over cells. Solved by five-point finite volumes, of second order, with
    sparse factors or multigrid; no gradients pass through.

    The source is a sum of Gaussians, as in the Poisson-Gauss task of Poseidon (Herde et al., 2024,
    arXiv:2405.19101); their number, from 1 to `bumps`, centres, uniform over the square, standard
    deviations from U(`narrowest`, `widest`) and amplitudes from U(-1, 1) are our choice. With
    Neumann walls its mean is subtracted, or there would be no solution, and the solution is the one
    of mean zero.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    wall
        "dirichlet" for a solution that is zero on the walls, "neumann" for no flux through them.
    bumps
        Largest number of Gaussians.
    narrowest, widest
        Bounds of the standard deviations, in lengths of a side.
    refinement
        The solver's grid has this many times the stored cells along each axis.

    Raises
    ------
    UserError
        Impossible parameters, or cells wider than the narrowest Gaussian.
    """

    fields = (
        Quantity("source", "source", "1"),
        Quantity("solution", "solution", "1"),
    )
    parameters = (Quantity("length", "length of a side", "1"),)
    centred = True
    steady = True

    def __init__(
        self,
        points: int = 128,
        length: Varying = 1.0,
        wall: Literal["dirichlet", "neumann"] = "dirichlet",
        bumps: int = 20,
        narrowest: float = 0.05,
        widest: float = 0.1,
        refinement: int = 1,
    ):
        super().__init__(points, 1, 1, refinement)
        self.distributions = {"length": Distribution.of("length", length)}
        if bumps < 1:
            raise UserError(f"bumps must be at least 1, is {bumps}")
        if not 0 < narrowest <= widest:
            raise UserError(
                f"narrowest must be positive and widest no less, are {narrowest:g} and {widest:g}"
            )
        needed = int(np.ceil(1 / narrowest))
        if points < max(4, needed):
            raise UserError(
                f"{points} points are too few for Gaussians of width {narrowest:g}: "
                f"at least {max(4, needed)} are needed"
            )
        self.wall: Wall = wall
        self.boundary = (wall, wall)
        self.bumps = bumps
        self.narrowest, self.widest = narrowest, widest

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw sources; the solution is zero."""
        parameters = self._draw(generators)
        states = np.zeros((len(generators), 2, self.resolution, self.resolution))
        edges = np.arange(self.resolution + 1) / self.resolution
        for state, generator in zip(states, generators, strict=True):
            for _ in range(generator.integers(1, self.bumps, endpoint=True)):
                amplitude = generator.uniform(-1, 1)
                width = generator.uniform(self.narrowest, self.widest)
                integral = (
                    np.sqrt(np.pi / 2)
                    * width
                    * erf((edges - generator.uniform(0, 1, (2, 1))) / (np.sqrt(2) * width))
                )
                along_x, along_y = np.diff(integral, axis=1) * self.resolution
                state[0] += amplitude * along_x[:, None] * along_y
            if self.wall == "neumann":
                state[0] -= state[0].mean()
        return parameters, states

    def _solver(self, at: Discretisation) -> _PoissonSolver:
        """Build the solver of a batch of sources; it always works in float64 on the CPU."""
        length = at.parameters["length"].cpu().numpy()
        return _PoissonSolver(at.points, length, self.wall)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Repeat cells or average over blocks of them."""
        return blocks(state, points)
