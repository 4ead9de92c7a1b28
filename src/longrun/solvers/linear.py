"""Exact solver of linear equations with constant coefficients on periodic boxes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from longrun.solvers._base import AbstractSolver
from longrun.solvers.spectral import check_points, forward, inverse


class LinearSolver(AbstractSolver):
    """Solution of u_t = symbol u by one factor per wave: no step, no error except rounding.

    Frame n of a rollout comes from the initial state by the n-th power of the factor, so rounding
    doesn't add up. All waves of the grid are kept except the highest, of which an even grid sees
    only the cosine.

    Parameters
    ----------
    symbol
        Symbol over the half-spectrum, float64 where it is real, else complex128; shape
        (batch, channel or 1, *mode).
    grid
        Grid points of each axis.
    frame
        Time between frames, one per trajectory.
    dtype
        Precision of the states; factors are computed in float64.

    Raises
    ------
    UserError
        Impossible number of points.
    """

    def __init__(
        self,
        symbol: Inexact[Tensor, "batch channel *mode"],
        grid: Sequence[int],
        frame: Float[Tensor, " batch"],
        dtype: torch.dtype = torch.float64,
    ):
        check_points(grid)
        self.grid = tuple(grid)
        self.exponent = symbol * frame.double().reshape(-1, *[1] * (symbol.ndim - 1))
        self.dtype = dtype
        highest = [symbol.new_ones(points, dtype=torch.bool) for points in symbol.shape[2:]]
        for axis, points in zip(highest, self.grid, strict=True):
            axis[points // 2] = False
        keep = torch.ones((), dtype=torch.bool, device=symbol.device)
        for place, axis in enumerate(highest):
            keep = keep & axis.reshape([-1 if i == place else 1 for i in range(len(highest))])
        self.keep = keep

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        return self._after(forward(state, len(self.grid)), 1)

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Advance by several frames, each from the initial state."""
        spectrum = forward(state, len(self.grid))
        return torch.stack([self._after(spectrum, n) for n in range(1, frames + 1)], dim=1)

    def _after(self, spectrum: Tensor, frames: int) -> Tensor:
        factor = (frames * self.exponent).exp() * self.keep
        dtype = self.dtype.to_complex() if factor.is_complex() else self.dtype
        return inverse(spectrum * factor.to(dtype), self.grid)
