"""Fourier pseudo-spectral solver on periodic boxes, shared by all periodic equations.

States are advanced as half-spectra (of real fields), all axes at once, and leave Fourier space
only for products and for the requested frames.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.solvers.etdrk import ETDRK4, AbstractETDRK, Product


def forward(state: Float[Tensor, "*field"], dims: int) -> Complex[Tensor, "*mode"]:
    """Half-spectrum over the last `dims` axes; amplitudes don't depend on the resolution."""
    if _alone(state, dims):
        return forward(torch.cat([state, state]), dims)[:1]
    return torch.fft.rfftn(state, dim=tuple(range(-dims, 0)), norm="forward")


def inverse(spectrum: Complex[Tensor, "*mode"], grid: Sequence[int]) -> Float[Tensor, "*field"]:
    """Real field on `grid` from a half-spectrum over the last axes."""
    if _alone(spectrum, len(grid)):
        return inverse(torch.cat([spectrum, spectrum]), grid)[:1]
    axes = tuple(range(-len(grid), 0))
    return torch.fft.irfftn(spectrum, s=tuple(grid), dim=axes, norm="forward")


def _alone(field: Tensor, dims: int) -> bool:
    """Whether this is a single transform in several dimensions, which MKL rounds differently."""
    return dims > 1 and field.ndim > dims and field.shape[:-dims].numel() == 1


def each(transform: Callable[[Tensor], Tensor], *parts: Tensor) -> Sequence[Tensor]:
    """Transform fields of one channel one after the other: a few stay in cache where all don't.

    Fields of a single trajectory are transformed together, see `_alone`.
    """
    if len(parts[0]) > 1:
        return [transform(part) for part in parts]
    return transform(torch.cat(parts, dim=1)).split(1, dim=1)


def square(grid: Sequence[int]) -> Product:
    """Return the square of a real field on `grid`, as a function from spectrum to spectrum."""
    return lambda spectrum: forward(inverse(spectrum, grid).square_(), len(grid))


def indices(grid: Sequence[int]) -> list[Float[Tensor, "..."]]:
    """Integer wavenumbers of a half-spectrum, one tensor per axis, broadcastable, float64."""
    axes = [torch.fft.fftfreq(points, 1 / points, dtype=torch.float64) for points in grid[:-1]]
    axes.append(torch.fft.rfftfreq(grid[-1], 1 / grid[-1], dtype=torch.float64))
    return [
        axis.reshape([-1 if other == place else 1 for other in range(len(grid))])
        for place, axis in enumerate(axes)
    ]


def retained(grid: Sequence[int], fraction: float = 2 / 3) -> Bool[Tensor, "*mode"]:
    """Modes below a fraction of the highest in every axis.

    With 2/3, products of two of them are free of aliasing; with 1/2, products of three.
    """
    keep = torch.ones((), dtype=torch.bool)
    for points, index in zip(grid, indices(grid), strict=True):
        keep = keep & (index.abs() < fraction * points / 2 - 1e-9)
    return keep


def check_points(grid: int | Sequence[int]) -> None:
    """Refuse a grid that has no half-spectrum with room for products.

    Raises
    ------
    UserError
        An axis with an odd number of points, or with fewer than 8.
    """
    for points in (grid,) if isinstance(grid, int) else grid:
        if points < 8 or points % 2:
            even = max(8, points + points % 2)
            raise UserError(f"points must be even and at least 8, is {points}; take {even}")


class SpectralSolver(AbstractSolver):
    """Exponential integrator for u_t = linear u + symbol product(u), coefficients constant in time.

    Modes beyond 2/3 of the highest are cut off, so quadratic products are free of aliasing.

    Where the state in physical space isn't simply the inverse transform of what is advanced (a
    velocity that is advanced as vorticity, say), a subclass overrides `enter` and `leave`.

    Parameters
    ----------
    linear
        Symbol of L over the half-spectrum, float64 where L is real in Fourier space (even
        derivatives), else complex128; shape (batch, channel or 1, *mode).
    symbol
        Diagonal factor of the nonlinear term, a derivative for instance, broadcastable to `linear`.
    product
        The rest of it, from half-spectrum to a new half-spectrum; need not dealias.
    grid
        Grid points of each axis; one number for all axes.
    frame
        Time between frames, one per trajectory.
    steps
        Steps of the integrator per frame.
    integrator
        Class of the integrator.
    dtype
        Precision of the states; coefficients are computed in float64.
    fraction
        Retained fraction of the highest wavenumber: 2/3 for products of two, 1/2 of three.

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
        grid: int | Sequence[int],
        frame: Float[Tensor, " batch"],
        steps: int,
        integrator: type[AbstractETDRK] = ETDRK4,
        dtype: torch.dtype = torch.float64,
        fraction: float = 2 / 3,
    ):
        self.dims = linear.ndim - 2
        self.grid = (grid,) * self.dims if isinstance(grid, int) else tuple(grid)
        check_points(self.grid)
        if steps < 1:
            raise UserError(f"steps per frame must be at least 1, is {steps}")
        self.steps = steps
        self.product = product
        keep = retained(self.grid, fraction).to(linear.device)
        time_step = (frame.double() / steps).reshape(-1, *[1] * (linear.ndim - 1))
        # Trajectories with equal parameters share one set of coefficients, which stays in cache.
        linear, symbol, time_step = (_shared(part) for part in (linear, symbol, time_step))
        self.keep = keep.to(dtype)
        self.integrator = integrator(linear, symbol * keep, time_step, dtype.to_complex())

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        return self.leave(self._advance(self.enter(state)))

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Advance by several frames without leaving Fourier space."""
        spectrum = self.enter(state)
        states = []
        for _ in range(frames):
            spectrum = self._advance(spectrum)
            states.append(self.leave(spectrum))
        return torch.stack(states, dim=1)

    def enter(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Complex[Tensor, "batch mode_channel *mode"]:
        """Return the spectrum that is advanced, from a state."""
        return forward(state, self.dims) * self.keep

    def leave(
        self, spectrum: Complex[Tensor, "batch mode_channel *mode"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the state, from the spectrum that is advanced."""
        return inverse(spectrum, self.grid)

    def _advance(self, spectrum: Tensor) -> Tensor:
        for _ in range(self.steps):
            spectrum = self.integrator.step(spectrum, self.product)
        return spectrum


def _shared(coefficient: Tensor) -> Tensor:
    """Keep one row of a batch of equal rows."""
    return coefficient[:1] if bool((coefficient == coefficient[:1]).all()) else coefficient


def resample(
    state: Float[Tensor, "batch channel *space"], grid: int | Sequence[int]
) -> Float[Tensor, "batch channel *other"]:
    """Band-limited interpolation to another periodic grid of the same box.

    Exact for fields whose waves both grids resolve. Waves that the new grid can't hold are cut
    off, and so is the highest wave of an even grid, of which it sees only the cosine.

    Parameters
    ----------
    state
        Values on a grid.
    grid
        Points along each axis of the new grid; one number for all axes.

    Returns
    -------
    Tensor
        Values on the new grid; `state` itself where the grids are equal.
    """
    dims = state.ndim - 2
    grid = (grid,) * dims if isinstance(grid, int) else tuple(grid)
    old = tuple(state.shape[2:])
    if old == grid:
        return state
    kept = [(min(pair) + 1) // 2 for pair in zip(old, grid, strict=True)]  # of 0, 1, 2, ...
    spectrum = forward(state, dims)[..., : kept[-1]]
    for axis, count, points in zip(range(2, 1 + dims), kept[:-1], grid[:-1], strict=True):
        low = spectrum.narrow(axis, 0, count)
        high = spectrum.narrow(axis, spectrum.shape[axis] - count + 1, count - 1)
        gap = list(spectrum.shape)
        gap[axis] = points - 2 * count + 1
        spectrum = torch.cat([low, spectrum.new_zeros(gap), high], dim=axis)
    return inverse(spectrum, grid)
