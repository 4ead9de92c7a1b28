"""Moment equations of a suspension of active rods, with the Bingham closure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.equations import _active_rods
from longrun.equations._base import AbstractEquation, Discretisation, Quantity, Varying
from longrun.solvers.bingham import bingham
from longrun.solvers.spectral import SpectralSolver, check_points, forward, inverse
from longrun.solvers.stokes import ActiveStokes, strained


class ActiveFluidMoments(AbstractEquation):
    """D_t + u . grad D - grad u . D - D . grad u^T + 2 S:E = 4 zeta (D.D - S:D) + diffusion.

    Diffusion is d_T lap D - 4 d_R (D - c I / 2), and c_t + u . grad c = d_T lap c. These are the
    equations of the second moment in the kinetic theory of `ActiveFluid`, with the same flow; the
    fourth moment, S, is that of the Bingham distribution whose second moment is D. Maddu, Weady &
    Shelley (2024), J. Comput. Phys. 504, 112869, arXiv:2308.06675, use this closure as the baseline
    of learned ones.

    Initial conditions are the moments of those of `ActiveFluid`: equal generators, equal states.

    Parameters
    ----------
    points
        Stored grid points along each axis, even.
    length
        Extent of the box along each axis.
    dt
        Time between frames.
    alpha, beta, zeta
        Active stress, resistance of the rods to strain, alignment of the rods.
    translational_diffusion, rotational_diffusion
        d_T and d_R.
    modes
        Highest number of waves along an axis in the initial perturbation.
    amplitude
        Of the initial perturbation.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        Points of the solver's grid per stored one, along each axis.

    Raises
    ------
    UserError
        Impossible parameters, or too few points.
    """

    fields = (
        Quantity("concentration", "concentration", "1"),
        Quantity("D11", "second moment, 11", "1"),
        Quantity("D12", "second moment, 12", "1"),
    )
    parameters = _active_rods.PARAMETERS
    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 32,
        length: Varying = 10.0,
        dt: Varying = 0.25,
        alpha: Varying = -1.0,
        beta: Varying = 0.8,
        zeta: Varying = 0.5,
        translational_diffusion: Varying = 0.05,
        rotational_diffusion: Varying = 0.05,
        modes: int = 8,
        amplitude: float = 0.1,
        substeps: int = 5,
        burn_in: int = 0,
        refinement: int = 1,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(points)
        self.distributions = _active_rods.distributions(
            {
                "length": length,
                "dt": dt,
                "alpha": alpha,
                "beta": beta,
                "zeta": zeta,
                "translational_diffusion": translational_diffusion,
                "rotational_diffusion": rotational_diffusion,
            }
        )
        self.modes = modes
        self.amplitude = amplitude
        _active_rods.check(self.distributions, self.resolution, modes, amplitude)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel x y"]]:
        """Draw parameters and perturbed isotropic states as the paper's generator does."""
        parameters, points = self._draw(generators), self.resolution
        states = []
        for generator in generators:
            m0, m2 = _active_rods.perturbed(generator, points, 1, self.modes, self.amplitude)
            states.append([m0.real, (m0.real + m2.real) / 2, m2.imag / 2])
        return parameters, np.array(states).reshape(-1, 3, points, points)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        points = at.points
        check_points(points)
        columns = at.columns
        wavenumbers = _active_rods.wavenumbers(columns["length"], points)
        largest = self.distributions["beta"].high
        return _MomentSolver(
            columns,
            _active_rods.stokes(columns, wavenumbers, points, largest, at.dtype),
            wavenumbers,
            grid=points,
            **at.timing,
        )

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean concentration."""
        return {"concentration": state[..., 0, :, :].mean(axis=(-2, -1))}


class _MomentSolver(SpectralSolver):
    """Advances c and the two parts of m_2 = 2 (D_11 - c / 2) + 2 i D_12."""

    def __init__(
        self,
        columns: Mapping[str, Float[Tensor, "batch 1 1 1"]],
        stokes: ActiveStokes,
        wavenumbers: tuple[Tensor, Tensor],
        **options: Any,
    ):
        kx, ky = wavenumbers
        order = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64, device=kx.device)
        linear = -columns["translational_diffusion"] * (kx**2 + ky**2) - 4 * columns[
            "rotational_diffusion"
        ] * order.reshape(-1, 1, 1)
        super().__init__(
            linear=linear, symbol=torch.ones_like(linear[:1]), product=self._tendency, **options
        )
        self.stokes = stokes
        self.zeta = columns["zeta"].to(self.keep.dtype)
        self.outflow = [(-1j * k).to(self.keep.dtype.to_complex()) for k in wavenumbers]

    def enter(self, state: Float[Tensor, "batch 3 x y"]) -> Complex[Tensor, "..."]:
        """Return the spectra of c and m_2."""
        c, d11, d12 = state.split(1, dim=1)
        return super().enter(torch.cat([c, 2 * d11 - c, 2 * d12], dim=1))

    def leave(self, spectrum: Complex[Tensor, "..."]) -> Float[Tensor, "batch 3 x y"]:
        """Return c, D_11 and D_12."""
        c, p, q = super().leave(spectrum).split(1, dim=1)
        return torch.cat([c, (c + p) / 2, q / 2], dim=1)

    def _tendency(self, spectrum: Tensor) -> Tensor:
        """Return transport and rotation, m_2' = i vorticity m_2 + g c - conj(g) m_4.

        Here g = e + zeta m_2, and a tensor's (conj(g) m_4 + c g) / 4 gives the last two terms.
        """
        moments = inverse(spectrum, self.grid)
        c, p, q = moments.split(1, dim=1)
        m4 = bingham(c, p, q)
        velocity, vorticity, (e1, e2) = self.stokes.flow(self.stokes.vorticity(c, (p, q), m4))
        g1, g2 = e1 + self.zeta * p, e2 + self.zeta * q
        s1, s2 = strained(c, m4, (g1, g2))
        p_rate = 2 * c * g1 - 4 * s1 - vorticity * q
        q_rate = 2 * c * g2 - 4 * s2 + vorticity * p
        rate = forward(torch.cat([torch.zeros_like(c), p_rate, q_rate], dim=1), 2)
        for speed, outflow in zip(velocity.split(1, dim=1), self.outflow, strict=True):
            rate += forward(speed * moments, 2).mul_(outflow)
        return rate
