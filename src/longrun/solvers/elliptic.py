"""Sparse linear systems of steady equations on squares: assembly, and direct or multigrid solves.

Unknowns are values at the centres of square cells, walls lie on faces. Matrices and right-hand
sides are public, for methods that learn to solve sequences of such systems.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal, TypeAlias

import numpy as np
import pyamg
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse.linalg import splu
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver

Wall = Literal["dirichlet", "neumann"]
System: TypeAlias = tuple[sparse.csr_array, Float[ndarray, " unknown"]]

# Two-phase Darcy on one core: 0.09 s against 0.11 s at 128^2, 0.61 s against 0.38 s at 256^2.
DIRECT = 20_000  # unknowns up to which factorising beats setting up a multigrid hierarchy
TOLERANCE = 1e-11  # of conjugate gradients, relative to the right-hand side


def diffusion_matrix(
    coefficient: Float[ndarray, "x y"], spacing: float, wall: Wall = "dirichlet"
) -> sparse.csr_array:
    """Assemble -div(coefficient grad) by finite volumes: five points, harmonic means at faces.

    Second order for smooth coefficients and exact for fluxes across layers that follow the grid.
    Symmetric; an M-matrix, so the discrete solution obeys the maximum principle. At Neumann walls
    alone it is singular, with the constants as its kernel.

    Parameters
    ----------
    coefficient
        Positive values in cells.
    spacing
        Width of a cell.
    wall
        "dirichlet" for zero on the walls, "neumann" for no flux through them.

    Returns
    -------
    csr_array
        One row and column per cell, the last axis fastest.
    """
    number = np.arange(coefficient.size).reshape(coefficient.shape)
    diagonal = np.zeros(coefficient.shape)
    rows, columns, values = [], [], []
    for axis in (0, 1):
        a, i = np.moveaxis(coefficient, axis, 0), np.moveaxis(number, axis, 0)
        d = np.moveaxis(diagonal, axis, 0)  # a view
        face = 2 * a[:-1] * a[1:] / (a[:-1] + a[1:]) / spacing**2
        d[:-1] += face
        d[1:] += face
        if wall == "dirichlet":  # half a cell away
            d[0] += 2 * a[0] / spacing**2
            d[-1] += 2 * a[-1] / spacing**2
        rows += [i[:-1].ravel(), i[1:].ravel()]
        columns += [i[1:].ravel(), i[:-1].ravel()]
        values += [-face.ravel()] * 2
    entries = np.concatenate([*values, diagonal.ravel()])
    places = (
        np.concatenate([*rows, number.ravel()]),
        np.concatenate([*columns, number.ravel()]),
    )
    return sparse.csr_array((entries, places), shape=(coefficient.size,) * 2)


def second_derivative(points: int, spacing: float) -> sparse.csr_array:
    """Assemble the second derivative along a line between walls where the solution is zero.

    Fourth-order differences; values beyond a wall are the mirrored ones with opposite sign, which
    keeps fourth order where the second derivative vanishes at the wall, and second order elsewhere.

    Parameters
    ----------
    points
        Number of cells, at least 4.
    spacing
        Width of a cell.
    """
    bands = [-1 / 12, 4 / 3, -5 / 2, 4 / 3, -1 / 12]
    matrix = sparse.diags_array(bands, offsets=range(-2, 3), shape=(points, points)).tolil()
    # mirrored cells: -1 is 0 and -2 is 1 with opposite sign
    for first, second in ((0, 1), (points - 1, points - 2)):
        matrix[first, first] -= 4 / 3
        matrix[first, second] += 1 / 12
        matrix[second, first] += 1 / 12
    return sparse.csr_array(matrix / spacing**2)


def solve(
    matrix: sparse.csr_array, right: Float[ndarray, " unknown"], definite: bool = True
) -> Float[ndarray, " unknown"]:
    """Solve a linear system, by factorisation or by preconditioned conjugate gradients.

    Parameters
    ----------
    matrix
        Sparse and symmetric.
    right
        Right-hand side.
    definite
        Whether `matrix` is a positive definite M-matrix: then systems of more than `DIRECT`
        unknowns are solved by conjugate gradients with a classical multigrid cycle.

    Raises
    ------
    UserError
        Conjugate gradients did not converge.
    """
    if not definite:
        return splu(matrix.tocsc()).solve(right)
    if matrix.shape[0] <= DIRECT:
        symmetric = {"SymmetricMode": True}
        return splu(
            matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=symmetric
        ).solve(right)
    hierarchy = pyamg.ruge_stuben_solver(matrix, max_coarse=300)
    found = hierarchy.solve(right, tol=TOLERANCE, maxiter=200, accel="cg")
    residual = np.linalg.norm(right - matrix @ found)
    if residual > 100 * TOLERANCE * np.linalg.norm(right):
        raise UserError(
            f"conjugate gradients stopped at a relative residual of "
            f"{residual / np.linalg.norm(right):.1e} after 200 iterations"
        )
    return found


class AbstractEllipticSolver(AbstractSolver):
    """Solve one sparse system per trajectory; the last channel of a state is the solution.

    It works in numpy and scipy, so no gradient passes through it.

    Parameters
    ----------
    points
        Cells along each axis.
    """

    differentiable = False
    definite = True
    """Whether the matrices are positive definite M-matrices, see `solve`."""

    def __init__(self, points: int):
        self.points = points

    @abstractmethod
    def system(self, fields: Float[ndarray, "channel x y"], row: int) -> System:
        """Assemble the matrix and the right-hand side of one trajectory.

        Parameters
        ----------
        fields
            State of the trajectory; its last channel is ignored.
        row
            Place of the trajectory in the batch whose parameters the solver holds.
        """

    def systems(self, state: Float[Tensor, "batch channel x y"]) -> Iterator[System]:
        """Yield the matrix and the right-hand side of each trajectory.

        Raises
        ------
        UserError
            States on another grid.
        """
        if state.shape[-2:] != (self.points, self.points):
            raise UserError(
                f"states have {tuple(state.shape[-2:])} cells, the solver has {self.points} "
                "along each axis"
            )
        for row, fields in enumerate(state.detach().cpu().double().numpy()):
            yield self.system(fields, row)

    def step(self, state: Float[Tensor, "batch channel x y"]) -> Float[Tensor, "batch channel x y"]:
        """Return the state with its last channel solved for."""
        solutions = [
            self.accept(solve(matrix, right, self.definite)).reshape(self.points, self.points)
            for matrix, right in self.systems(state)
        ]
        solution = torch.from_numpy(np.array(solutions)).to(state)
        return torch.cat([state[:, :-1], solution[:, None]], dim=1)

    def accept(self, solution: Float[ndarray, " unknown"]) -> Float[ndarray, " unknown"]:
        """Return what is stored of a solution of the linear system."""
        return solution
