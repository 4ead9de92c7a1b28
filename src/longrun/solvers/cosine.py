"""Cosine spectral solver for reaction and diffusion in boxes with impermeable walls."""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.etdrk import ETDRK4, AbstractETDRK


def forward(field: Float[Tensor, "*field"], dims: int) -> Float[Tensor, "*mode"]:
    """Amplitudes of the cosines along the last `dims` axes, from values at cell centres.

    The amplitudes are those of cos(k pi x), so they don't depend on the resolution.
    """
    for axis in range(-dims, 0):
        field = _forward(field.movedim(axis, -1)).movedim(-1, axis)
    return field


def inverse(amplitude: Float[Tensor, "*mode"], dims: int) -> Float[Tensor, "*field"]:
    """Values at cell centres from amplitudes of cosines along the last `dims` axes."""
    for axis in range(-dims, 0):
        amplitude = _inverse(amplitude.movedim(axis, -1)).movedim(-1, axis)
    return amplitude


def _twiddle(points: int, like: Tensor) -> Tensor:
    angle = -math.pi / (2 * points) * torch.arange(points // 2 + 1, dtype=torch.float64)
    return torch.polar(torch.ones_like(angle), angle).to(like.device, like.dtype.to_complex())


# The cosine transform of n points by a Fourier transform of as many: Makhoul (1980), IEEE Trans.
# Acoust. Speech Signal Process. 28, 27. Even points come first, odd ones last and backwards.


def _forward(field: Tensor) -> Tensor:
    points = field.shape[-1]
    ordered = torch.cat([field[..., ::2], field[..., 1::2].flip(-1)], dim=-1)
    spectrum = torch.fft.rfft(ordered, norm="forward") * _twiddle(points, field)
    upper = spectrum.imag[..., 1 : (points + 1) // 2].flip(-1)
    amplitude = 2 * torch.cat([spectrum.real, -upper], dim=-1)
    return torch.cat([amplitude[..., :1] / 2, amplitude[..., 1:]], dim=-1)


def _inverse(amplitude: Tensor) -> Tensor:
    points = amplitude.shape[-1]
    half = points // 2 + 1
    lower = torch.cat([2 * amplitude[..., :1], amplitude[..., 1:half]], dim=-1) / 2
    upper = amplitude[..., points - half + 1 :].flip(-1) / 2
    upper = torch.cat([torch.zeros_like(amplitude[..., :1]), upper], dim=-1)
    spectrum = torch.complex(lower, -upper) * _twiddle(points, amplitude).conj()
    ordered = torch.fft.irfft(spectrum, n=points, norm="forward")
    middle = (points + 1) // 2
    odd = ordered[..., middle:].flip(-1)
    pairs = torch.stack([ordered[..., : points // 2], odd], dim=-1).flatten(-2)
    return torch.cat([pairs, ordered[..., points // 2 : middle]], dim=-1)


def resample(
    state: Float[Tensor, "batch channel *space"], grid: Sequence[int]
) -> Float[Tensor, "batch channel *other"]:
    """Interpolate by cosines at the cell centres of another grid of the same box.

    Exact for sums of cosines that both grids resolve; the others are cut off.
    """
    dims = state.ndim - 2
    if tuple(state.shape[2:]) == tuple(grid):
        return state
    amplitude = forward(state, dims)
    for axis, points in zip(range(2, state.ndim), grid, strict=True):
        old = amplitude.shape[axis]
        amplitude = amplitude.narrow(axis, 0, min(old, points))
        if points > old:
            gap = list(amplitude.shape)
            gap[axis] = points - old
            amplitude = torch.cat([amplitude, amplitude.new_zeros(gap)], dim=axis)
    return inverse(amplitude, dims)


class CosineSolver(AbstractSolver):
    """Exponential integrator for u_t = diffusivity lap u + reaction(u), no flux through walls.

    Diffusion is exact in the basis of cosines. The reaction is taken at the cell centres, without
    dealiasing: it has no derivative that would amplify aliased waves.

    Parameters
    ----------
    diffusivity
        Of each channel, shape (batch, channel, *ones), float64.
    length
        Extent of the box along every axis, shape (batch, 1, *ones), float64.
    reaction
        From fields to new fields, pointwise.
    grid
        Cells along each axis.
    frame
        Time between frames, one per trajectory.
    steps
        Steps of the integrator per frame.
    integrator
        Class of the integrator.
    dtype
        Precision of the states; coefficients are computed in float64.

    Raises
    ------
    UserError
        Fewer than 4 cells along an axis.
    """

    def __init__(
        self,
        diffusivity: Float[Tensor, "batch channel *ones"],
        length: Float[Tensor, "batch 1 *ones"],
        reaction: Callable[[Tensor], Tensor],
        grid: Sequence[int],
        frame: Float[Tensor, " batch"],
        steps: int,
        integrator: type[AbstractETDRK] = ETDRK4,
        dtype: torch.dtype = torch.float64,
    ):
        self.dims = len(grid)
        if min(grid) < 4:
            raise UserError(f"points must be at least 4, is {min(grid)}")
        self.steps = steps
        self.reaction = reaction
        square = torch.zeros((), dtype=torch.float64)
        for axis, points in enumerate(grid):
            index = torch.arange(points, dtype=torch.float64).square()
            square = square + index.reshape([-1 if i == axis else 1 for i in range(self.dims)])
        linear = -diffusivity * (math.pi / length) ** 2 * square.to(length.device)
        time_step = (frame.double() / steps).reshape(-1, *[1] * (linear.ndim - 1))
        self.integrator = integrator(linear, torch.ones_like(linear), time_step, dtype)

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        amplitude = forward(state, self.dims)
        for _ in range(self.steps):
            amplitude = self.integrator.step(amplitude, self._product)
        return inverse(amplitude, self.dims)

    def _product(self, amplitude: Tensor) -> Tensor:
        return forward(self.reaction(inverse(amplitude, self.dims)), self.dims)
