"""Shared by equations that are sequences of linear systems on a square with a cold edge."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.fft import dstn
from torch import Tensor

from longrun.equations._base import AbstractEquation
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.relaxation import LinearSystem


class AbstractSystems(AbstractEquation):
    """An equation whose frames are the solutions of linear systems, one system per frame.

    Grid points are nodes at i / points along each axis, i = 0..points - 1; those of index 0 lie on
    the edge, where the solution is zero, so that (points - 1)^2 are unknown, as on the edge at 1.
    Doubling `points` halves every spacing and keeps every node.

    States of the solver have one channel before the stored ones: the frame's number, uniform in
    space and possibly fractional, for random or explicit functions of time.
    """

    boundary = ("dirichlet", "dirichlet")

    @abstractmethod
    def systems(self, parameters: Mapping[str, float]) -> Iterator[LinearSystem]:
        """Yield the systems of a trajectory endlessly; the solution of the n-th is frame n.

        Parameters
        ----------
        parameters
            Of the trajectory, by name, as a store holds them.
        """

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return a state without the number of its frame."""
        return state[:, 1:]

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Interpolate by sines, which is exact for those that both grids resolve.

        A channel that is not zero on the edge is constant, and remains so.
        """
        if points == state.shape[-1]:
            return state
        found = state.new_empty((*state.shape[:2], points, points))
        for channel in np.ndindex(state.shape[:2]):
            field = state[channel]
            if field[0, 0] != 0:
                found[channel] = field[0, 0]
            else:
                inner = field[1:, 1:].detach().cpu().double().numpy()
                found[channel] = torch.from_numpy(with_edge(sine_resample(inner, points)))
        return found


class SystemsSolver(AbstractSolver):
    """Advances states frame by frame; no gradients pass through.

    Trajectories are computed one by one, so that their bits don't depend on the batch.
    """

    differentiable = False

    def __init__(self, points: int, rows: int, dtype: torch.dtype, device: torch.device | str):
        self.points, self.rows, self.dtype, self.device = points, rows, dtype, device

    @abstractmethod
    def advance(
        self, state: Float[ndarray, "channel x y"], row: int
    ) -> Float[ndarray, "channel x y"]:
        """Return the next frame of one trajectory of the batch, its number first."""

    def step(self, state: Float[Tensor, "batch channel x y"]) -> Float[Tensor, "batch channel x y"]:
        """Advance by one call's frames.

        Raises
        ------
        UserError
            States on another grid, or another number of them.
        """
        if state.shape[-2:] != (self.points, self.points) or len(state) != self.rows:
            raise UserError(
                f"states are {len(state)} on {tuple(state.shape[-2:])} points, the solver has "
                f"{self.rows} on {self.points} along each axis"
            )
        states = state.detach().cpu().double().numpy()
        following = np.array([self.advance(fields, row) for row, fields in enumerate(states)])
        return torch.from_numpy(following).to(self.device, self.dtype)


def laplacian(points: int) -> sparse.csr_array:
    """Assemble minus the five-point Laplacian of unit spacing on the inner nodes.

    Parameters
    ----------
    points
        Intervals along each axis; there are one fewer inner nodes. The last axis is the fastest.
    """
    inner = points - 1
    second = sparse.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(inner, inner))
    one = sparse.eye_array(inner)
    return sparse.csr_array(sparse.kron(second, one) + sparse.kron(one, second))


def eigenvalues(points: int) -> Float[ndarray, "inner inner"]:
    """Eigenvalues of `laplacian`, one per product of sines."""
    along = 4 * np.sin(np.pi * np.arange(1, points) / (2 * points)) ** 2
    return along[:, None] + along


def sine_amplitudes(inner: Float[ndarray, "x y"]) -> Float[ndarray, "i j"]:
    """Amplitudes of the sines that add up to these values on the inner nodes."""
    return dstn(inner, type=1) / (len(inner) + 1) ** 2


def sine_values(amplitudes: Float[ndarray, "i j"]) -> Float[ndarray, "x y"]:
    """Values on the inner nodes of a sum of sines."""
    return dstn(amplitudes, type=1) / 4


def sine_resample(inner: Float[ndarray, "x y"], points: int) -> Float[ndarray, "other other"]:
    """Values on the inner nodes of another grid of the sum of sines that both grids resolve."""
    amplitudes = np.zeros((points - 1, points - 1))
    shared = min(len(inner), points - 1)
    amplitudes[:shared, :shared] = sine_amplitudes(inner)[:shared, :shared]
    return sine_values(amplitudes)


def with_edge(inner: Float[ndarray, "x y"]) -> Float[ndarray, "points points"]:
    """Add the nodes of index 0, on which values are zero."""
    return np.pad(inner, ((1, 0), (1, 0)))
