"""Two-dimensional incompressible flow by its vorticity: velocity, advection, velocities as states.

Signs: vorticity = v_x - u_y = -(psi_xx + psi_yy), (u, v) = (psi_y, -psi_x). The mean velocity is
zero: in a periodic box it only sets the frame of reference, and vorticity doesn't see it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.solvers.etdrk import Product
from longrun.solvers.spectral import SpectralSolver, each, forward, inverse


def to_velocity(
    kx: Float[Tensor, "batch 1 mode_x 1"], ky: Float[Tensor, "batch 1 1 mode_y"]
) -> Complex[Tensor, "batch 2 mode_x mode_y"]:
    """Return the symbols that turn a spectrum of vorticity into those of u and v."""
    squared = kx**2 + ky**2
    inverse_laplacian = torch.where(squared > 0, 1 / squared, 0.0)
    return torch.cat([1j * ky * inverse_laplacian, -1j * kx * inverse_laplacian], dim=1)


def to_flux(
    kx: Float[Tensor, "batch 1 mode_x 1"], ky: Float[Tensor, "batch 1 1 mode_y"]
) -> Float[Tensor, "batch 2 mode_x mode_y"]:
    """Return the symbols by which u v and v^2 - u^2 add up to the tendency of vorticity."""
    return torch.cat([kx**2 - ky**2, kx * ky], dim=1)


def advection(
    kx: Float[Tensor, "batch 1 mode_x 1"],
    ky: Float[Tensor, "batch 1 1 mode_y"],
    grid: Sequence[int],
    dtype: torch.dtype = torch.float64,
) -> Product:
    """Return -(u, v) . grad vorticity as a function of the spectrum of vorticity.

    Four real transforms in the form of Basdevant (1983), J. Comput. Phys. 50, 209: the tendency is
    (dyy - dxx)(u v) + dxy (u^2 - v^2). Free of aliasing, it conserves energy and enstrophy.

    Parameters
    ----------
    kx, ky
        Wavenumbers. Their unit cancels, so a square box of any length may count in whole waves,
        which lets all trajectories share the coefficients.
    grid
        Points along each axis.
    dtype
        Precision of the fields.

    Returns
    -------
    Product
        From a half-spectrum (batch, 1, *mode) to a new one.
    """
    complex_dtype = dtype.to_complex()  # a real symbol would be converted in every product
    to_u, to_v = to_velocity(kx, ky).to(complex_dtype).split(1, dim=1)
    from_product, from_squares = to_flux(kx, ky).to(complex_dtype).split(1, dim=1)

    def product(spectrum: Tensor) -> Tensor:
        u, v = each(lambda part: inverse(part, grid), to_u * spectrum, to_v * spectrum)
        found, squares = each(lambda part: forward(part, 2), u * v, (v - u).mul_(v + u))
        return (from_product * found).addcmul_(from_squares, squares)

    return product


class VelocitySolver(SpectralSolver):
    """Advances vorticity for states that hold the velocity.

    The last two channels of a state are u and v; the channels before them (carried scalars) are
    advanced as they are. Spectra hold the scalars, then the vorticity. A mean velocity is dropped.

    Parameters
    ----------
    wavenumbers
        Physical wavenumbers along x and y, shape (batch or 1, 1, *mode) with ones.
    **options
        Those of `SpectralSolver`.
    """

    def __init__(self, wavenumbers: tuple[Tensor, Tensor], **options: Any):
        super().__init__(**options)
        dtype = self.keep.dtype.to_complex()
        kx, ky = wavenumbers
        self.curl = (-1j * ky).to(dtype), (1j * kx).to(dtype)
        self.velocity = to_velocity(kx, ky).to(dtype)

    def enter(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Complex[Tensor, "batch mode_channel *mode"]:
        """Return the spectra of the scalars and of the vorticity."""
        spectrum = super().enter(state)
        u, v = spectrum[:, -2:-1], spectrum[:, -1:]
        return torch.cat([spectrum[:, :-2], self.curl[0] * u + self.curl[1] * v], dim=1)

    def leave(
        self, spectrum: Complex[Tensor, "batch mode_channel *mode"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scalars and the velocity."""
        return super().leave(torch.cat([spectrum[:, :-1], self.velocity * spectrum[:, -1:]], dim=1))
