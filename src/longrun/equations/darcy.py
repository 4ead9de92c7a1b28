"""Darcy flow through a random porous medium, a steady map."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.cells import blocks
from longrun.solvers.elliptic import AbstractEllipticSolver, System, diffusion_matrix


class _DarcySolver(AbstractEllipticSolver):
    def __init__(self, points: int, length: ndarray, source: ndarray):
        super().__init__(points)
        self.length = length
        self.source = source

    def system(self, fields: Float[ndarray, "channel x y"], row: int) -> System:
        matrix = diffusion_matrix(fields[0], self.length[row] / self.points)
        return matrix, np.full(matrix.shape[0], self.source[row])


class Darcy(AbstractEquation):
    """-div(coefficient grad pressure) = source on a square, pressure 0 on its boundary.

    The coefficient is constant within each cell of the solver's grid. Solved by finite volumes,
    five points with harmonic means, sparse factors or multigrid; no gradients pass through.

    Media on the unit square, which `length` stretches; all are drawn as functions, whatever the
    grid:

    - "two_phase": `high` where a Gaussian field is positive, `low` elsewhere (Li et al., 2021,
      arXiv:2010.08895). Its covariance is (-lap + inverse_length^2)^(-smoothness) with Neumann
      conditions and no mean: exponent 2 and inverse length 3 there, 2 and 5 in the rough set of
      MgNO (He et al., 2024, arXiv:2310.19809).
    - "log_normal": the exponential of a periodic Gaussian field, a sum over k of
      sqrt(2) tau^(s - 1) (4 pi^2 |k|^2 + tau^2)^(-s / 2) Re(z_k exp(2 pi i k x)) with complex
      normal z_k, k not 0, and s and tau as above: 2.5 and 7 in SKR (Wang et al., 2024,
      arXiv:2401.09516).
    - "multiscale": product over k = 1 to `scales` of (1 + cos(pi a_k (x + y)) / 2)
      (1 + sin(pi a_k (y - 3 x)) / 2) with a_k from U(2^(k-1), 1.5 2^(k-1)): trigonometric and
      multiscale as the third set of MgNO, in a form that we chose.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    source
        Inflow per unit area.
    coefficient
        Kind of medium.
    low, high
        Values of the two phases.
    smoothness, inverse_length
        Of the Gaussian field.
    modes
        Waves of the Gaussian field along each axis.
    scales
        Of the multiscale medium; the finest stripes are about 2^-scales wide.
    refinement
        The solver's grid has this many times the stored cells along each axis. Stored are the
        coefficient in the middle cell, as the papers subsample, and the average pressure; so it
        must be odd.

    Raises
    ------
    UserError
        Impossible parameters.
    """

    fields = (
        Quantity("coefficient", "permeability", "1"),
        Quantity("pressure", "pressure", "1"),
    )
    parameters = (
        Quantity("length", "length of a side", "1"),
        Quantity("source", "source", "1"),
    )
    boundary = ("dirichlet", "dirichlet")
    centred = True
    steady = True

    def __init__(
        self,
        points: int = 85,
        length: Varying = 1.0,
        source: Varying = 1.0,
        coefficient: Literal["two_phase", "log_normal", "multiscale"] = "two_phase",
        low: float = 3.0,
        high: float = 12.0,
        smoothness: float = 2.0,
        inverse_length: float = 3.0,
        modes: int = 128,  # waves beyond hold less than 1e-4 of the variance at the defaults
        scales: int = 6,
        refinement: int = 1,
    ):
        super().__init__(points, 1, 1, refinement)
        self.distributions = {
            "length": Distribution.of("length", length),
            "source": Distribution.of("source", source),
        }
        if points < 4:
            raise UserError(f"points must be at least 4, is {points}")
        if refinement % 2 == 0:
            raise UserError(
                f"refinement must be odd, for cells to have a middle, is {refinement}; "
                f"take {refinement + 1}"
            )
        if low <= 0 or high < low:
            raise UserError(f"low must be positive and high no less, are {low:g} and {high:g}")
        if smoothness <= 1:
            raise UserError(
                f"smoothness must be above 1, else the field has no variance, is {smoothness:g}"
            )
        if inverse_length <= 0:
            raise UserError(f"inverse_length must be positive, is {inverse_length:g}")
        if modes < 2:
            raise UserError(f"modes must be at least 2, is {modes}")
        self.coefficient = coefficient
        self.low, self.high = low, high
        self.smoothness, self.inverse_length = smoothness, inverse_length
        if scales < 1:
            raise UserError(f"scales must be at least 1, is {scales}")
        self.modes = modes
        self.scales = scales

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw media; the pressure is zero."""
        parameters = self._draw(generators)
        medium = {
            "two_phase": self._two_phase,
            "log_normal": self._log_normal,
            "multiscale": self._multiscale,
        }[self.coefficient]
        states = np.zeros((len(generators), 2, self.resolution, self.resolution))
        x = (np.arange(self.resolution) + 0.5) / self.resolution
        for state, generator in zip(states, generators, strict=True):
            state[0] = medium(x, generator)
        return parameters, states

    def _two_phase(self, x: ndarray, generator: np.random.Generator) -> ndarray:
        wavenumber = np.pi * np.arange(self.modes)
        square = wavenumber[:, None] ** 2 + wavenumber**2 + self.inverse_length**2
        amplitude = generator.normal(size=square.shape) * square ** (-self.smoothness / 2)
        amplitude[0, 0] = 0
        cosines = np.cos(x[:, None] * wavenumber) * np.where(wavenumber > 0, np.sqrt(2), 1)
        return np.where(cosines @ amplitude @ cosines.T > 0, self.high, self.low)

    def _log_normal(self, x: ndarray, generator: np.random.Generator) -> ndarray:
        index = np.arange(-(self.modes // 2), self.modes // 2 + 1)
        tau, s = self.inverse_length, self.smoothness
        square = 4 * np.pi**2 * (index[:, None] ** 2 + index**2) + tau**2
        real, imaginary = generator.normal(size=(2, *square.shape))
        amplitude = (real + 1j * imaginary) * np.sqrt(2) * tau ** (s - 1) * square ** (-s / 2)
        amplitude[self.modes // 2, self.modes // 2] = 0
        waves = np.exp(2j * np.pi * x[:, None] * index)
        return np.exp((waves @ amplitude @ waves.T).real)

    def _multiscale(self, x: ndarray, generator: np.random.Generator) -> ndarray:
        total, skew = x[:, None] + x, x - 3 * x[:, None]
        product = np.ones_like(total)
        for k in range(self.scales):
            a = 2**k * generator.uniform(1, 1.5)
            product *= 1 + np.cos(np.pi * a * total) / 2
            product *= 1 + np.sin(np.pi * a * skew) / 2
        return product

    def _solver(self, at: Discretisation) -> _DarcySolver:
        """Build the solver of a batch of media; it always works in float64 on the CPU."""
        length, source = (at.parameters[name].cpu().numpy() for name in ("length", "source"))
        return _DarcySolver(at.points, length, source)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Repeat cells; or take the coefficient of middle cells and the average pressure."""
        return torch.cat(
            [blocks(state[:, :1], points, middle=True), blocks(state[:, 1:], points)], dim=1
        )
