"""A random sequence of linear systems: a Laplacian with a random shift, random right-hand sides."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray

from longrun.equations._base import Discretisation, Distribution, Quantity, Varying
from longrun.equations._systems import (
    AbstractSystems,
    SystemsSolver,
    eigenvalues,
    laplacian,
    sine_amplitudes,
    sine_resample,
    sine_values,
    with_edge,
)
from longrun.runtime.cli import UserError
from longrun.solvers.relaxation import LinearSystem

SEQUENCES = 2**24  # how many sequences; float32 holds every number


class _Solver(SystemsSolver):
    """The next systems of each sequence, solved by sine transforms."""

    def __init__(
        self,
        equation: "ShiftedLaplacian",
        points: int,
        sequences: ndarray,
        stride: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        super().__init__(points, len(sequences), dtype, device)
        self.equation, self.sequences, self.stride = equation, sequences, stride

    def advance(
        self, state: Float[ndarray, "channel x y"], row: int
    ) -> Float[ndarray, "channel x y"]:
        number = round(float(state[0, 0, 0])) + self.stride
        return self.equation.frame(self.sequences[row], number, self.points)


class ShiftedLaplacian(AbstractSystems):
    """(A + shift_n I) solution_n = source_n with the five-point Laplacian A: one system per frame.

    The systems are independent of each other; time is only their place in the sequence. A has unit
    spacing on the inner nodes of the stored grid. Shifts are `lowest + spread Beta(alpha, beta)`,
    sources have standard normal values at the nodes, redrawn until their norm is at most the root
    of their number (Khodak et al., 2024, arXiv:2310.02246).

    Between the nodes a source is the sum of sines through its values: a finer grid solves the
    boundary value problem that the matrices discretise, whose solution differs by a few per cent.

    Parameters
    ----------
    points
        Intervals along each axis, see `AbstractSystems`.
    alpha, beta
        Parameters of the Beta distribution: 2 and 6 for the paper's low variance, 0.5 and 1.5 for
        the high one.
    lowest, spread
        Smallest shift, and the largest minus the smallest.
    length
        Length of a side; has no effect on the systems.
    dt
        Time between systems.
    sequence
        Number that identifies the sequence of a trajectory.

    Raises
    ------
    UserError
        Impossible parameters, or shifts that make a matrix singular.
    """

    fields = (
        Quantity("shift", "shift of the diagonal", "1"),
        Quantity("source", "right-hand side", "1"),
        Quantity("solution", "solution", "1"),
    )
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between systems", "1"),
        Quantity("sequence", "number of the sequence", "1"),
    )

    def __init__(
        self,
        points: int = 11,
        alpha: float = 2.0,
        beta: float = 6.0,
        lowest: float = -0.15,
        spread: float = 0.6,
        length: Varying = 1.0,
        dt: Varying = 1.0,
        sequence: Varying = {"uniform": (0, SEQUENCES)},  # noqa: B006  (never changed)
    ):
        super().__init__(points, 1, 0)
        if points < 3:
            raise UserError(f"points must be at least 3, is {points}")
        if alpha <= 0 or beta <= 0 or spread < 0:
            raise UserError(
                f"alpha and beta must be positive and spread not negative, are {alpha:g}, {beta:g} "
                f"and {spread:g}"
            )
        smallest = eigenvalues(points).min()
        if lowest <= -smallest:
            raise UserError(
                f"lowest must be above {-smallest:.4g}, minus the smallest eigenvalue, "
                f"is {lowest:g}"
            )
        self.alpha, self.beta, self.lowest, self.spread = alpha, beta, lowest, spread
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "sequence": Distribution.of("sequence", sequence, at_least=0),
        }

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw the numbers of the sequences; the states are their systems of number 0."""
        parameters = self._draw(generators)
        parameters["sequence"] = np.floor(parameters["sequence"])
        states = [self.frame(number, 0, self.points) for number in parameters["sequence"]]
        return parameters, np.array(states)

    def _solver(self, at: Discretisation) -> _Solver:
        """Build the exact solver of a batch of sequences, whatever the substeps."""
        sequences = at.parameters["sequence"].cpu().numpy()
        return _Solver(self, at.points, sequences, at.stride, at.dtype, at.device)

    def draw(self, sequence: float, number: int) -> tuple[float, Float[ndarray, "x y"]]:
        """Draw shift and source of one system; they depend on its two numbers alone."""
        generator = np.random.default_rng([int(sequence), number])
        shift = self.lowest + self.spread * float(generator.beta(self.alpha, self.beta))
        inner = self.points - 1
        while True:
            source = generator.standard_normal((inner, inner))
            if np.linalg.norm(source) <= inner:
                return shift, source

    def frame(
        self, sequence: float, number: int, points: int
    ) -> Float[ndarray, "channel points points"]:
        """Return number, shift, source and solution of a system on a grid."""
        shift, source = self.draw(sequence, number)
        if points != self.points:
            source = sine_resample(source, points)
        matrix = eigenvalues(points) * (points / self.points) ** 2 + shift
        solution = sine_values(sine_amplitudes(source) / matrix)
        state = np.empty((4, points, points))
        state[0], state[1] = number, shift
        state[2], state[3] = with_edge(source), with_edge(solution)
        return state

    def systems(self, parameters: Mapping[str, float]) -> Iterator[LinearSystem]:
        """Yield the systems of a trajectory from number 1 on; an iteration starts at zero."""
        matrix, number = laplacian(self.points), 0
        one = sparse.eye_array(matrix.shape[0])
        while True:
            number += 1
            shift, source = self.draw(parameters["sequence"], number)
            shifted = sparse.csr_array(matrix + shift * one)
            yield LinearSystem(shifted, source.ravel(), np.zeros(source.size), shift)
