"""Iterative solvers with a relaxation parameter omega, which count their iterations.

    SOR      M = D / omega + L,   x <- x + M^-1 (b - A x)
    SSOR-CG  P = (D + omega L) D^-1 (D + omega L)^T / (omega (2 - omega))  preconditions CG

D is the diagonal of A, L what lies strictly below it. Unknowns are swept in their own order, so
SOR at omega = 1 is the method of Gauss and Seidel. Iterations are performed, not estimated:

- A triangular system is solved by substitution, with SuperLU on the natural order; the factor of a
  triangular matrix is that matrix, without fill.
- SOR of few unknowns multiplies the residual by the dense matrix I - A M^-1 instead, which is the
  same recurrence, r <- (I - A M^-1) r, in one call of BLAS per iteration: 5 us for 100 unknowns,
  where a sparse substitution and product take 20 us. The solution follows from the sum of all
  residuals. Tests compare the counts of both with a plain dense program.
"""

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sparse
from jaxtyping import Float
from numpy import ndarray
from scipy.linalg import solve_triangular
from scipy.sparse.linalg import splu

Solver = Literal["sor", "ssor_cg"]
Vector: TypeAlias = Float[ndarray, " unknown"]

DENSE = 256  # unknowns up to which SOR forms its iteration matrix


class LinearSystem(NamedTuple):
    """One system of a sequence.

    Attributes
    ----------
    matrix
        Symmetric positive definite.
    right
        Right-hand side.
    guess
        Where an iteration starts.
    context
        What is known of the system in advance: a scalar that its matrix depends on.
    """

    matrix: sparse.csr_array
    right: Vector
    guess: Vector
    context: float


class Solution(NamedTuple):
    """What an iterative solver found.

    Attributes
    ----------
    iterations
        How many it took; the cap where it did not converge.
    solution
        The last iterate.
    converged
        Whether the residual fell below the tolerance.
    """

    iterations: int
    solution: Vector
    converged: bool


def solve(
    system: LinearSystem, solver: Solver, omega: float, tolerance: float, cap: int
) -> Solution:
    """Solve a system by the solver of this name; see `sor` and `ssor_cg`."""
    run = sor if solver == "sor" else ssor_cg
    return run(system, omega, tolerance, cap)


def sor(system: LinearSystem, omega: float, tolerance: float, cap: int) -> Solution:
    """Solve by successive over-relaxation, until |r| < tolerance |r_0|.

    Parameters
    ----------
    system
        What to solve.
    omega
        Relaxation parameter, between 0 and 2.
    tolerance
        Of the residual's norm, relative to that of the guess.
    cap
        Most iterations.

    Raises
    ------
    ValueError
        Another omega.
    """
    _check(omega, low_included=False)
    matrix, right, guess, _ = system
    residual = right - matrix @ guess
    limit = (tolerance * float(np.linalg.norm(residual))) ** 2
    if not limit:
        return Solution(0, guess, True)
    if matrix.shape[0] <= DENSE:
        return _sor_dense(matrix, guess, residual, omega, limit, cap)
    splitting = (sparse.diags_array(matrix.diagonal() / omega) + sparse.tril(matrix, -1)).tocsc()
    sweep, solution = _factor(splitting), guess
    for count in range(1, cap + 1):
        solution = solution + sweep.solve(residual)
        residual = right - matrix @ solution
        if residual @ residual < limit:
            return Solution(count, solution, True)
    return Solution(cap, solution, False)


def _sor_dense(
    matrix: sparse.csr_array, guess: Vector, residual: Vector, omega: float, limit: float, cap: int
) -> Solution:
    dense = matrix.toarray()
    splitting = np.tril(dense, -1)
    np.fill_diagonal(splitting, dense.diagonal() / omega)
    inverse = solve_triangular(splitting, np.eye(len(dense)), lower=True, check_finite=False)
    iteration = -(matrix @ inverse)
    iteration.flat[:: len(dense) + 1] += 1
    total, converged, count = np.zeros_like(residual), False, 0
    while not converged and count < cap:
        total += residual
        residual = iteration @ residual
        count += 1
        converged = bool(residual @ residual < limit)
    return Solution(count, guess + inverse @ total, converged)


def ssor_cg(system: LinearSystem, omega: float, tolerance: float, cap: int) -> Solution:
    """Solve by conjugate gradients with the SSOR preconditioner, until |r| <= tolerance |b|.

    Parameters
    ----------
    system
        What to solve.
    omega
        Relaxation parameter, between 0 and 2; 0 means no preconditioner.
    tolerance
        Of the residual's norm, relative to that of the right-hand side.
    cap
        Most iterations.

    Raises
    ------
    ValueError
        Another omega.
    """
    _check(omega, low_included=True)
    matrix, right, solution, _ = system
    residual = right - matrix @ solution
    limit = (tolerance * float(np.linalg.norm(right))) ** 2
    if residual @ residual <= limit:
        return Solution(0, solution, True)
    precondition = Preconditioner(matrix, omega)
    direction = step = precondition(residual)
    size = residual @ step
    for count in range(1, cap + 1):
        image = matrix @ direction
        length = size / (direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        if residual @ residual <= limit:
            return Solution(count, solution, True)
        step = precondition(residual)
        size, before = residual @ step, size
        direction = step + size / before * direction
    return Solution(cap, solution, False)


class Preconditioner:
    """P^-1 of symmetric successive over-relaxation; the identity at omega = 0."""

    def __init__(self, matrix: sparse.csr_array, omega: float):
        self.omega = omega
        self.diagonal = matrix.diagonal()
        if omega:
            lower = sparse.diags_array(self.diagonal) + omega * sparse.tril(matrix, -1)
            self._sweep = _factor(lower.tocsc())

    def __call__(self, residual: Vector) -> Vector:
        """Sweep forward, then backward."""
        if not self.omega:
            return residual
        forward = self._sweep.solve(residual)
        factor = self.omega * (2 - self.omega)
        return self._sweep.solve(factor * self.diagonal * forward, "T")


def relative_residual(system: LinearSystem, solver: Solver, solution: Vector) -> float:
    """Norm of the residual relative to the reference that the solver of this name uses."""
    matrix, right, guess, _ = system
    scale = right - matrix @ guess if solver == "sor" else right
    size = np.linalg.norm(scale)
    return float(np.linalg.norm(right - matrix @ solution) / size) if size else 0.0


def jacobi_radius(matrix: sparse.csr_array) -> float:
    """Spectral radius of I - D^-1 A, exact to rounding.

    Equal to that of the symmetric D^-1/2 (D - A) D^-1/2; dense, so for few unknowns.
    """
    dense = matrix.toarray()
    root = np.sqrt(dense.diagonal())
    similar = np.eye(len(dense)) - dense / np.outer(root, root)
    return float(np.abs(np.linalg.eigvalsh(similar)).max())


def young_omega(radius: float) -> float:
    """Return the omega that minimises the spectral radius of SOR (Young, 1950).

    Parameters
    ----------
    radius
        Spectral radius beta of Jacobi's iteration, below 1; the matrix is consistently ordered.
    """
    return 1 + (radius / (1 + np.sqrt(1 - radius**2))) ** 2


def _check(omega: float, low_included: bool) -> None:
    if omega < 0 or omega >= 2 or (omega == 0 and not low_included):
        raise ValueError(f"omega must lie between 0 and 2, is {omega:g}")


def _factor(triangle: sparse.csc_array):  # type: ignore[no-untyped-def]
    """Factorise a lower triangle, in its own order and without pivoting."""
    return splu(triangle, permc_spec="NATURAL", diag_pivot_thresh=0.0)
