"""Stokes flow driven by the stress of an active suspension of rods, in a periodic plane.

The rods' orientations enter by their moments m_n = integral of psi exp(i n theta): the
concentration c = m_0, the order m_2, and m_4. Symmetric tensors without trace are pairs of fields,
the (xx, xy) components, written as one complex number a = a_xx + i a_xy where that is shorter. So
D - c I / 2 is m_2 / 2, and S:E is (conj(e) m_4 + c e) / 4 for a rate of strain e.

Source: Maddu, Weady & Shelley (2024), J. Comput. Phys. 504, 112869, arXiv:2308.06675; the complex
form of its tensors is derived here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.solvers.spectral import forward, inverse, retained

Field = Float[Tensor, "batch 1 x y"]
Spectrum = Complex[Tensor, "batch 1 mode_x mode_y"]
Column = Float[Tensor, "batch 1 1 1"]


class ActiveStokes:
    """Flow with -lap u + grad p = div Sigma, div u = 0, zero mean.

    Sigma = alpha (D - c I / 2) + beta S:E - 2 zeta beta (D.D - S:D), in which E is the rate of
    strain of u itself. Only the vorticity is unknown, and it solves (1 + K) vorticity = given with
    K symmetric, positive, and near beta / 8; each iteration leaves at most
    (beta / 8) / (1 + beta / 8) of the error where the concentration is near one.

    Parameters
    ----------
    kx, ky
        Wavenumbers.
    grid
        Points along each axis.
    alpha, beta, zeta
        Strengths of the active stress, of the rods' resistance to strain, and of their alignment.
    iterations
        Updates of the strain in the stress; a constant, since all bits depend on it.
    dtype
        Precision of the fields.
    """

    def __init__(
        self,
        kx: Float[Tensor, "batch 1 mode_x 1"],
        ky: Float[Tensor, "batch 1 1 mode_y"],
        grid: Sequence[int],
        alpha: Column,
        beta: Column,
        zeta: Column,
        iterations: int,
        dtype: torch.dtype = torch.float64,
    ):
        squared = kx**2 + ky**2
        over = torch.where(squared > 0, 1 / squared, 0.0) * retained(grid).to(squared.device)
        # the stress's torque, which drives the vorticity: sin and cos of twice the wave's angle
        sine, cosine = 2 * kx * ky * over, (kx**2 - ky**2) * over
        self.torque = sine.to(dtype), -cosine.to(dtype)
        self.strain = torch.cat([-0.5 * sine, 0.5 * cosine], dim=1).to(dtype)
        complex_dtype = dtype.to_complex()
        self.velocity = torch.cat([1j * ky * over, -1j * kx * over], dim=1).to(complex_dtype)
        self.grid = tuple(grid)
        self.alpha, self.beta, self.zeta = (v.to(dtype) for v in (alpha, beta, zeta))
        self.relax = 1 / (1 + self.beta / 8)
        self.iterations = iterations

    def vorticity(self, c: Field, m2: Sequence[Field], m4: Sequence[Field]) -> Spectrum:
        """Solve for the vorticity, of a suspension given by its moments."""
        (p2, q2), (p4, q4) = m2, m4
        # alpha m_2 / 2 - zeta beta (c m_2 - conj(m_2) m_4) / 4
        active, quarter = self.alpha / 2, self.zeta * self.beta / 4
        given = self._torque(
            active * p2 - quarter * (c * p2 - p2 * p4 - q2 * q4),
            active * q2 - quarter * (c * q2 - p2 * q4 + q2 * p4),
        )
        vorticity = self.relax * given
        for _ in range(self.iterations):
            e1, e2 = inverse(self._strain(vorticity), self.grid).split(1, dim=1)
            s1, s2 = strained(c, (p4, q4), (e1, e2))
            residual = given + self._torque(self.beta * s1, self.beta * s2) - vorticity
            vorticity = vorticity + self.relax * residual
        return vorticity

    def flow(
        self, vorticity: Spectrum
    ) -> tuple[Float[Tensor, "batch 2 x y"], Field, tuple[Field, Field]]:
        """Return velocity, vorticity and rate of strain on the grid."""
        spectra = [self.velocity * vorticity, vorticity, self._strain(vorticity)]
        fields = inverse(torch.cat(spectra, dim=1), self.grid)
        return fields[:, :2], fields[:, 2:3], (fields[:, 3:4], fields[:, 4:])

    def _strain(self, vorticity: Spectrum) -> Complex[Tensor, "batch 2 mode_x mode_y"]:
        return self.strain * vorticity

    def _torque(self, xx: Field, xy: Field) -> Spectrum:
        """Return the vorticity that a stress drives."""
        spectrum = forward(torch.cat([xx, xy], dim=1), 2)
        return self.torque[0] * spectrum[:, :1] + self.torque[1] * spectrum[:, 1:]


def strained(c: Field, m4: tuple[Field, Field], strain: tuple[Field, Field]) -> tuple[Field, Field]:
    """Return the part of S:E without trace, (conj(e) m_4 + c e) / 4."""
    (p4, q4), (e1, e2) = m4, strain
    return 0.25 * (e1 * p4 + e2 * q4 + c * e1), 0.25 * (e1 * q4 - e2 * p4 + c * e2)
