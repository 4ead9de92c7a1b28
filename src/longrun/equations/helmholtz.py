"""Helmholtz equation in an inhomogeneous medium, a steady map."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.sparse.linalg import eigsh
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.cells import interpolate
from longrun.solvers.elliptic import AbstractEllipticSolver, System, second_derivative

PER_WAVELENGTH = 10  # cells: eigenvalues are off by (2 pi / 10)^4 / 90 = 0.17 %
TRIES = 100  # draws of a medium and a wavenumber before giving up


def _operator(medium: Float[ndarray, "x y"], wavenumber: float, length: float) -> sparse.csr_array:
    points = medium.shape[0]
    line, eye = second_derivative(points, length / points), sparse.eye_array(points)
    return (
        sparse.kron(line, eye)
        + sparse.kron(eye, line)
        + sparse.diags_array(wavenumber**2 * medium.ravel())
    ).tocsr()


class _HelmholtzSolver(AbstractEllipticSolver):
    definite = False

    def __init__(self, points: int, wavenumber: ndarray, length: ndarray):
        super().__init__(points)
        self.wavenumber = wavenumber
        self.length = length

    def system(self, fields: Float[ndarray, "channel x y"], row: int) -> System:
        matrix = _operator(fields[0], self.wavenumber[row], self.length[row])
        return matrix, fields[1].ravel()


class Helmholtz(AbstractEquation):
    """lap solution + wavenumber^2 medium solution = source on a square, solution 0 on its boundary.

    The medium is the squared index of refraction. Solved by fourth-order finite differences with a
    sparse direct factorisation, as the system is indefinite; no gradients pass through. Sources
    are small at the boundary, where the scheme would otherwise be of second order.

    The form of the operator is that of PIG (Kang et al., 2025, arXiv:2412.05994), with a medium
    that varies as in SKR (Wang et al., 2024, arXiv:2401.09516) and MgNO (He et al., 2024,
    arXiv:2310.19809). What is drawn is our choice: the medium is 1 plus `contrast` times up to 5
    Gaussians, at most one in sum, anywhere and of standard deviations from U(0.1, 0.2) lengths;
    the source is a sum of up to 5 Gaussians, centred in the inner 0.4 of the square, of standard
    deviations from U(0.05, 0.08) and amplitudes from U(-1, 1).

    Without absorption there are resonances: near one the solution is arbitrarily large and depends
    on the last digits of the medium. Media and wavenumbers closer to one than `detuning` are drawn
    again.

    With `given: sines` the medium is 1 and the source is the one whose solution is
    sin(a1 pi r) sin(a2 pi s), r and s from -1 to 1 along the axes: with length 2 and wavenumber 1
    the benchmark of PIG, which has a strong form. `detuning` has no effect then.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    wavenumber
        In vacuum, in radians per unit length.
    contrast
        Height of the medium's bumps; 0 for a homogeneous medium.
    given
        Media and sources: "gaussians", which are drawn, or "sines".
    modes
        With "sines": a1 and a2, half-waves over half of a side along each axis.
    detuning
        Smallest distance of the operator's eigenvalues from zero, in units of their mean spacing
        4 pi / length^2; 0 to accept resonances.
    refinement
        The solver's grid has this many times the stored cells along each axis.

    Raises
    ------
    UserError
        Impossible parameters, or too few cells per wavelength.
    """

    fields = (
        Quantity("medium", "squared refractive index", "1"),
        Quantity("source", "source", "1"),
        Quantity("solution", "wave amplitude", "1"),
    )
    parameters = (
        Quantity("length", "length of a side", "1"),
        Quantity("wavenumber", "vacuum wavenumber", "1"),
        Quantity("contrast", "contrast of the medium", "1"),
    )
    boundary = ("dirichlet", "dirichlet")
    centred = True
    steady = True
    sought = ("solution",)

    def __init__(
        self,
        points: int = 128,
        length: Varying = 1.0,
        wavenumber: Varying = {"uniform": (5.0, 20.0)},  # noqa: B006  (never changed)
        contrast: Varying = 1.0,
        detuning: float = 0.1,
        refinement: int = 1,
        given: Literal["gaussians", "sines"] = "gaussians",
        modes: Sequence[int] = (1, 4),
    ):
        super().__init__(points, 1, 1, refinement)
        self.distributions = {
            "length": Distribution.of("length", length),
            "wavenumber": Distribution.of("wavenumber", wavenumber),
            "contrast": Distribution.of("contrast", contrast, at_least=0.0),
        }
        if not 0 <= detuning <= 0.25:
            raise UserError(
                f"detuning must be from 0 to 0.25, beyond which little is left, is {detuning:g}"
            )
        self.detuning = detuning
        longest, fastest, densest = (d.high for d in self.distributions.values())
        wavelengths = longest * fastest * math.sqrt(1 + densest) / (2 * math.pi)
        self.needed = max(20, math.ceil(PER_WAVELENGTH * wavelengths))
        if points < self.needed:
            raise UserError(
                f"{points} points are too few for wavenumber {fastest:g} at contrast {densest:g}: "
                f"at least {self.needed} are needed, {PER_WAVELENGTH} per wavelength"
            )
        self.given, self.modes = given, tuple(modes)
        if given == "sines":
            self.derivatives = ("xx", "yy")
            self._check_sines(densest)

    def _check_sines(self, contrast: float) -> None:
        if contrast:
            raise UserError(f"sines need a medium of contrast 0, it is {contrast:g}")
        if len(self.modes) != 2 or min(self.modes) < 1:
            raise UserError(f"modes must be two numbers of at least 1, are {list(self.modes)}")
        if self.points < PER_WAVELENGTH * max(self.modes):
            raise UserError(
                f"{self.points} points are too few for modes {list(self.modes)}: at least "
                f"{PER_WAVELENGTH * max(self.modes)} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw media and sources; the solution is zero."""
        if self.given == "sines":
            return self._sample_sines(generators)
        states = np.zeros((len(generators), 3, self.resolution, self.resolution))
        rows = []
        for state, generator in zip(states, generators, strict=True):
            row, bumps = self._tuned(generator)
            rows.append(row)
            state[0] = 1 + row["contrast"] * _medium(bumps, self.resolution)
            for _ in range(generator.integers(1, 5, endpoint=True)):
                amplitude, width = generator.uniform(-1, 1), generator.uniform(0.05, 0.08)
                centre = generator.uniform(0.3, 0.7, 2)
                state[1] += amplitude * _gaussian(centre, width, self.resolution)
        parameters = {name: np.array([row[name] for row in rows]) for name in self.distributions}
        return parameters, states

    def _sample_sines(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        parameters = self._draw(generators)
        states = np.zeros((len(generators), 3, self.resolution, self.resolution))
        cells = (torch.arange(self.resolution, dtype=torch.float64) + 0.5) / self.resolution
        for row, state in enumerate(states):
            values = {name: torch.tensor(column[row]) for name, column in parameters.items()}
            x, y = torch.meshgrid(*[cells * values["length"]] * 2, indexing="ij")
            state[0] = 1.0
            state[1] = self._source({"x": x, "y": y}, values).numpy()
        return parameters, states

    def _source(
        self,
        at: Mapping[str, Float[Tensor, "*point"]],
        parameters: Mapping[str, Float[Tensor, ""]],
    ) -> Float[Tensor, "*point"]:
        """Return the source of the product of sines."""
        length, wavenumber = parameters["length"], parameters["wavenumber"]
        rates = [2 * math.pi * mode / length for mode in self.modes]
        waves = [
            torch.sin(rate * (at[axis] - length / 2))
            for rate, axis in zip(rates, "xy", strict=True)
        ]
        return (wavenumber**2 - rates[0] ** 2 - rates[1] ** 2) * waves[0] * waves[1]

    def _tuned(self, generator: np.random.Generator) -> tuple[dict[str, float], ndarray]:
        """Draw parameters and the bumps of a medium, away from resonance."""
        for _ in range(TRIES):
            row = {name: d.draw(generator) for name, d in self.distributions.items()}
            bumps = generator.uniform((0, 0, 0.1), (1, 1, 0.2), (generator.integers(1, 6), 3))
            if self.detuning == 0:
                return row, bumps
            # on a separate grid, so that the draw doesn't depend on the solver's
            medium = 1 + row["contrast"] * _medium(bumps, self.needed)
            operator = _operator(medium, row["wavenumber"], row["length"]).tocsc()
            start = np.ones(operator.shape[0])
            (nearest,) = eigsh(operator, 1, sigma=0, v0=start, return_eigenvectors=False, tol=1e-3)
            if abs(nearest) >= self.detuning * 4 * np.pi / row["length"] ** 2:
                return row, bumps
        raise UserError(
            f"{TRIES} media in a row were closer to resonance than detuning {self.detuning:g}; "
            f"take {self.detuning / 2:g} or less"
        )

    def _solver(self, at: Discretisation) -> _HelmholtzSolver:
        """Build the solver of a batch of media; it always works in float64 on the CPU."""
        wavenumber, length = (
            at.parameters[name].cpu().numpy() for name in ("wavenumber", "length")
        )
        return _HelmholtzSolver(at.points, wavenumber, length)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Interpolate by cubics; the solution changes sign beyond the walls."""
        return torch.cat(
            [interpolate(state[:, :2], points, "even"), interpolate(state[:, 2:], points, "odd")],
            dim=1,
        )

    def residual(
        self,
        u: Mapping[str, Float[Tensor, "*point field"]],
        at: Mapping[str, Float[Tensor, "*point"]],
        parameters: Mapping[str, Float[Tensor, ""]],
    ) -> Float[Tensor, "*point field"]:
        """Return lap solution + wavenumber^2 solution - source, for `given: sines` only.

        Raises
        ------
        UserError
            Media and sources that are drawn, which are known on a grid only.
        """
        if self.given != "sines":
            raise UserError("Helmholtz has a residual in strong form for given: sines only")
        squared = parameters["wavenumber"] ** 2
        return u["xx"] + u["yy"] + squared * u[""] - self._source(at, parameters)[..., None]


def _gaussian(centre: ndarray, width: float, points: int) -> Float[ndarray, "x y"]:
    x = (np.arange(points) + 0.5) / points
    along_x, along_y = np.exp(-((x - centre[:, None]) ** 2) / (2 * width**2))
    return along_x[:, None] * along_y


def _medium(bumps: Float[ndarray, "bump 3"], points: int) -> Float[ndarray, "x y"]:
    """Average of Gaussians, so at most one."""
    return np.mean([_gaussian(bump[:2], bump[2], points) for bump in bumps], axis=0)
