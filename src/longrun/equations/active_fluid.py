"""Kinetic theory of a suspension of active rods in a periodic plane."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.equations import _active_rods
from longrun.equations._base import AbstractEquation, Discretisation, Quantity, Varying, as_columns
from longrun.runtime.cli import UserError
from longrun.solvers.spectral import SpectralSolver, check_points, forward, inverse, resample
from longrun.solvers.stokes import ActiveStokes

STABLE = 2.8  # of ETDRK4 on the imaginary axis


class ActiveFluid(AbstractEquation):
    """psi_t + div(u psi) + (theta' psi)_theta = d_T lap psi + d_R psi_theta,theta.

    psi(x, y, theta) is the density of rods, which turn at the rate theta' = p_perp . (grad u +
    2 zeta D) p, p = (cos theta, sin theta). The flow is that of Stokes, -lap u + grad P = div
    Sigma, with Sigma = alpha (D - c I / 2) + beta S:E - 2 zeta beta (D.D - S:D), where c, D and S
    are the zeroth, second and fourth moments of psi over p and E is the rate of strain: Maddu,
    Weady & Shelley (2024), J. Comput. Phys. 504, 112869, arXiv:2308.06675. Rods don't swim, so a
    psi that is the same for p and -p, as in the paper's initial conditions, stays so.

    What is stored suffices for closures: c, D_11, D_12, S_1111, S_1112 and the velocity. The rest
    follows: D_22 = c - D_11, S_1122 = D_11 - S_1111, S_1222 = D_12 - S_1112 and
    S_2222 = D_22 - S_1122.

    The solver's state holds psi by its moments m_2n = integral psi exp(2 i n theta), n = 0 ...
    `harmonics`: real parts of all, then imaginary parts except that of m_0, then the velocity,
    which is output only: a step ignores its input value. That is a Fourier-Galerkin method in
    theta, in which products need no transform: the paper's N points over a whole turn, cut at 2/3,
    hold the N / 6 harmonics of even order. In time we use ETDRK4, not the paper's SBDF2, since a
    frame must follow from one state, and four stages of fourth order allow far longer steps. The
    strain in the stress is that of the same instant, by iteration, where the paper's lags a step.

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
    harmonics
        Highest n of the moments m_2n.
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
        Impossible parameters; too few points, harmonics or substeps.
    """

    fields = (
        Quantity("concentration", "concentration", "1"),
        Quantity("D11", "second moment, 11", "1"),
        Quantity("D12", "second moment, 12", "1"),
        Quantity("S1111", "fourth moment, 1111", "1"),
        Quantity("S1112", "fourth moment, 1112", "1"),
        Quantity("u", "velocity along x", "1"),
        Quantity("v", "velocity along y", "1"),
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
        harmonics: int = 10,
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
        self.harmonics = harmonics
        self.modes = modes
        self.amplitude = amplitude
        _active_rods.check(self.distributions, self.resolution, modes, amplitude)
        highest = {name: drawn.high for name, drawn in self.distributions.items()}
        # without flow psi tends to exp(b cos 2 theta), b = zeta / (2 d_R), whose moments fall as
        # exp(-n^2 / 2b): 1e-2 is required, which leaves room for narrowing by the flow
        narrowest = highest["zeta"] / (2 * self.distributions["rotational_diffusion"].low)
        needed = max(2, math.ceil(math.sqrt(2 * narrowest * math.log(100))))
        if harmonics < needed:
            raise UserError(
                f"harmonics must be at least {needed} to resolve the orientation at zeta "
                f"{highest['zeta']:g}, is {harmonics}"
            )
        # rods turn at most at the rate of alignment and strain, the latter estimated
        activity = max(map(abs, self.distributions["alpha"].values))
        turning = highest["zeta"] + (activity + highest["zeta"] * highest["beta"] / 2) / 4
        least = math.ceil(2 * harmonics * turning * highest["dt"] / STABLE)
        if substeps < least:
            raise UserError(f"substeps must be at least {least} for a stable step, is {substeps}")

    def _harmonics(self, points: int) -> int:
        """Return the harmonics that go with a grid: finer ones refine the orientation, too."""
        return self.harmonics * max(1, points // self.resolution)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel x y"]]:
        """Draw parameters and perturbed isotropic states as the paper's generator does."""
        parameters, points = self._draw(generators), self.resolution
        moments = [
            _active_rods.perturbed(g, points, self.harmonics, self.modes, self.amplitude)
            for g in generators
        ]
        spectra = np.array(moments).reshape(-1, self.harmonics + 1, points, points)
        state = torch.from_numpy(np.concatenate([spectra.real, spectra.imag[:, 1:]], axis=1))
        tensors = {name: torch.from_numpy(values) for name, values in parameters.items()}
        stokes = self._stokes(as_columns(tensors, 2), points, torch.float64)
        velocity = stokes.flow(stokes.vorticity(*_leading(state, 0)))[0]
        return parameters, torch.cat([state, velocity], dim=1).numpy()

    def _stokes(
        self,
        columns: Mapping[str, Float[Tensor, "batch 1 1 1"]],
        points: int,
        dtype: torch.dtype,
    ) -> ActiveStokes:
        wavenumbers = _active_rods.wavenumbers(columns["length"], points)
        largest = self.distributions["beta"].high
        return _active_rods.stokes(columns, wavenumbers, points, largest, dtype)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        points = at.points
        check_points(points)
        columns = at.columns
        return _KineticSolver(
            columns,
            self._stokes(columns, points, at.dtype),
            _active_rods.wavenumbers(columns["length"], points),
            self._harmonics(points),
            grid=points,
            **at.timing,
        )

    def resample(
        self, state: Float[Tensor, "batch channel x y"], points: int
    ) -> Float[Tensor, "batch other new_x new_y"]:
        """Move states to another grid, and to the harmonics that go with it."""
        old, new = (state.shape[1] - 3) // 2, self._harmonics(points)
        real, imaginary, velocity = state.split([old + 1, old, 2], dim=1)
        missing = state.new_zeros(len(state), max(0, new - old), *state.shape[2:])
        parts = [real[:, : new + 1], missing, imaginary[:, :new], missing, velocity]
        return resample(torch.cat(parts, dim=1), self.grid(points))

    def observe(
        self, state: Float[Tensor, "batch channel x y"]
    ) -> Float[Tensor, "batch field new_x new_y"]:
        """Return concentration, moments and velocity."""
        c, (p2, q2), (p4, q4) = _leading(state)
        fields = [
            c,
            (c + p2) / 2,
            q2 / 2,
            (3 * c + 4 * p2 + p4) / 8,
            (2 * q2 + q4) / 8,
            state[:, -2:],
        ]
        return resample(torch.cat(fields, dim=1), self.grid())

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean concentration."""
        return {"concentration": state[..., 0, :, :].mean(axis=(-2, -1))}


class _KineticSolver(SpectralSolver):
    """Advances moments m_0, m_2, m_4, ... and returns the velocity with each state."""

    def __init__(
        self,
        columns: Mapping[str, Float[Tensor, "batch 1 1 1"]],
        stokes: ActiveStokes,
        wavenumbers: tuple[Tensor, Tensor],
        harmonics: int,
        **options: Any,
    ):
        kx, ky = wavenumbers
        order = torch.arange(harmonics + 1, device=kx.device)
        order = torch.cat([order, order[1:]]).double().reshape(-1, 1, 1)
        linear = (
            -columns["translational_diffusion"] * (kx**2 + ky**2)
            - 4 * columns["rotational_diffusion"] * order**2
        )
        super().__init__(
            linear=linear, symbol=torch.ones_like(linear[:1]), product=self._tendency, **options
        )
        dtype = self.keep.dtype
        self.stokes = stokes
        self.zeta = columns["zeta"].to(dtype)
        self.order = order[1 : harmonics + 1].to(dtype)
        self.outflow = [(-1j * k).to(dtype.to_complex()) for k in wavenumbers]

    def enter(self, state: Float[Tensor, "batch channel x y"]) -> Complex[Tensor, "..."]:
        """Return the spectra of the moments."""
        return super().enter(state[:, :-2])

    def leave(self, spectrum: Complex[Tensor, "..."]) -> Float[Tensor, "batch channel x y"]:
        """Return the moments and the velocity."""
        moments = super().leave(spectrum)
        velocity, _, _ = self.stokes.flow(self.stokes.vorticity(*_leading(moments, 0)))
        return torch.cat([moments, velocity], dim=1)

    def _tendency(self, spectrum: Tensor) -> Tensor:
        """Return transport and rotation.

        With g = e + zeta m_2 rods turn at the rate vorticity / 2 + Im(g exp(-2 i theta)), hence
        m_2n' = i n vorticity m_2n + n (g m_2n-2 - conj(g) m_2n+2).
        """
        moments = inverse(spectrum, self.grid)
        c, (p2, q2), m4 = _leading(moments, 0)
        velocity, vorticity, (e1, e2) = self.stokes.flow(self.stokes.vorticity(c, (p2, q2), m4))
        g1, g2 = e1 + self.zeta * p2, e2 + self.zeta * q2
        count = len(self.order)
        p, q = moments[:, : count + 1], moments[:, count + 1 :]
        zero = torch.zeros_like(c)
        p_below, p_above = p[:, :-1], torch.cat([p[:, 2:], zero], dim=1)
        q_below, q_above = (
            torch.cat([zero, q[:, :-1]], dim=1),
            torch.cat([q[:, 1:], zero], dim=1),
        )
        p_rate = g1 * (p_below - p_above) - g2 * (q_below + q_above) - vorticity * q
        q_rate = g1 * (q_below - q_above) + g2 * (p_below + p_above) + vorticity * p[:, 1:]
        rate = forward(torch.cat([zero, self.order * p_rate, self.order * q_rate], dim=1), 2)
        for speed, outflow in zip(velocity.split(1, dim=1), self.outflow, strict=True):
            rate += forward(speed * moments, 2).mul_(outflow)
        return rate


def _leading(
    state: Float[Tensor, "batch channel x y"], trailing: int = 2
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return m_0, m_2 and m_4 of a state that ends with `trailing` other channels."""
    first = (state.shape[1] - trailing + 1) // 2  # imaginary part of m_2
    return (
        state[:, :1],
        (state[:, 1:2], state[:, first : first + 1]),
        (state[:, 2:3], state[:, first + 1 : first + 2]),
    )
