"""Fourier pseudo-spectral solver on periodic boxes, shared by all periodic equations.

States are advanced as half-spectra (of real fields), all axes at once, and leave Fourier space
only for products and for the frames that are asked for.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from longrun.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.etdrk import ETDRK4, AbstractETDRK


def forward(state: Float[Tensor, "*field"], dims: int) -> Complex[Tensor, "*mode"]:
    """Half-spectrum over the last `dims` axes; amplitudes don't depend on the resolution."""
    return torch.fft.rfftn(state, dim=tuple(range(-dims, 0)), norm="forward")


def inverse(spectrum: Complex[Tensor, "*mode"], points: int, dims: int) -> Float[Tensor, "*field"]:
    """Real field on `points` per axis from a half-spectrum over the last `dims` axes."""
    return torch.fft.irfftn(
        spectrum, s=(points,) * dims, dim=tuple(range(-dims, 0)), norm="forward"
    )


def indices(points: int, dims: int) -> list[Float[Tensor, "..."]]:
    """Integer wavenumbers of a half-spectrum, one tensor per axis, broadcastable, float64."""
    axes = [torch.fft.fftfreq(points, 1 / points, dtype=torch.float64)] * (dims - 1)
    axes.append(torch.fft.rfftfreq(points, 1 / points, dtype=torch.float64))
    return [
        axis.reshape([-1 if other == place else 1 for other in range(dims)])
        for place, axis in enumerate(axes)
    ]


def retained(points: int, dims: int) -> Bool[Tensor, "*mode"]:
    """Modes below 2/3 of the highest in every axis, whose products are free of aliasing."""
    keep = torch.ones((), dtype=torch.bool)
    for index in indices(points, dims):
        keep = keep & (index.abs() * 3 < points)
    return keep


def check_points(points: int) -> None:
    """Refuse a grid that has no half-spectrum with room for products.

    Raises
    ------
    UserError
        Odd, or fewer than 8.
    """
    if points < 8 or points % 2:
        raise UserError(f"points must be even and at least 8, is {points}")


class SpectralSolver(AbstractSolver):
    """Exponential integrator for u_t = linear u + symbol product(u), coefficients constant in time.

    Modes beyond 2/3 of the highest are cut off, so quadratic products are free of aliasing.

    Parameters
    ----------
    linear
        Symbol of L over the half-spectrum, float64 where L is real in Fourier space (even
        derivatives), else complex128; shape (batch, channel or 1, *mode).
    symbol
        Diagonal factor of the nonlinear term, a derivative for instance, broadcastable to `linear`.
    product
        The rest of it, from half-spectrum to a fresh half-spectrum; it need not dealias.
    points
        Grid points per axis.
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
        Impossible number of points or steps.
    """

    def __init__(
        self,
        linear: Tensor,
        symbol: Tensor,
        product: Callable[[Tensor], Tensor],
        points: int,
        frame: Float[Tensor, " batch"],
        steps: int,
        integrator: type[AbstractETDRK] = ETDRK4,
        dtype: torch.dtype = torch.float64,
    ):
        check_points(points)
        if steps < 1:
            raise UserError(f"steps per frame must be at least 1, is {steps}")
        self.points = points
        self.dims = linear.ndim - 2
        self.steps = steps
        self.product = product
        keep = retained(points, self.dims).to(linear.device)
        time_step = (frame.double() / steps).reshape(-1, *[1] * (linear.ndim - 1))
        # Trajectories with equal parameters share one set of coefficients, which stays in cache.
        linear, symbol, time_step = (_shared(part) for part in (linear, symbol, time_step))
        self.keep = keep.to(dtype)
        self.integrator = integrator(linear, symbol * keep, time_step, dtype.to_complex())

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        return inverse(self._advance(self._enter(state)), self.points, self.dims)

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Advance by several frames without leaving Fourier space."""
        spectrum = self._enter(state)
        states = []
        for _ in range(frames):
            spectrum = self._advance(spectrum)
            states.append(inverse(spectrum, self.points, self.dims))
        return torch.stack(states, dim=1)

    def _enter(self, state: Tensor) -> Tensor:
        return forward(state, self.dims) * self.keep

    def _advance(self, spectrum: Tensor) -> Tensor:
        for _ in range(self.steps):
            spectrum = self.integrator.step(spectrum, self.product)
        return spectrum


def _shared(coefficient: Tensor) -> Tensor:
    """Keep one row of a batch of equal rows."""
    return coefficient[:1] if bool((coefficient == coefficient[:1]).all()) else coefficient


def resample(
    state: Float[Tensor, "batch channel *space"], points: int
) -> Float[Tensor, "batch channel *other"]:
    """Band-limited interpolation to another periodic grid of the same box.

    Exact for fields whose waves both grids resolve. Waves that the new grid can't hold are cut
    off, and so is the highest wave of an even grid, of which it knows the cosine alone.

    Parameters
    ----------
    state
        Values on a grid with as many points along every axis.
    points
        Points per axis of the new grid.

    Returns
    -------
    Tensor
        Values on the new grid; `state` itself where the grids are equal.
    """
    dims = state.ndim - 2
    if state.shape[-1] == points:
        return state
    kept = (min(state.shape[-1], points) + 1) // 2  # of the wavenumbers 0, 1, 2, ...
    spectrum = forward(state, dims)[..., :kept]
    for axis in range(2, state.ndim - 1):
        low = spectrum.narrow(axis, 0, kept)
        high = spectrum.narrow(axis, spectrum.shape[axis] - kept + 1, kept - 1)
        gap = list(spectrum.shape)
        gap[axis] = points - 2 * kept + 1
        spectrum = torch.cat([low, spectrum.new_zeros(gap), high], dim=axis)
    return inverse(spectrum, points, dims)
