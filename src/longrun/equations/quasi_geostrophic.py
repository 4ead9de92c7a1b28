"""Two-layer quasi-geostrophic turbulence driven by a jet."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
    as_columns,
)
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import Product, etdrk
from longrun.solvers.spectral import (
    SpectralSolver,
    check_points,
    forward,
    indices,
    inverse,
    resample,
)


class QuasiGeostrophic(AbstractEquation):
    """Potential vorticities q1 (upper layer) and q2 (lower layer) on a beta plane.

    q1 = laplacian psi1 - (psi1 - psi2), q2 = laplacian psi2 + (psi1 - psi2), lengths in units of
    the deformation scale; the planetary part beta y is kept apart. With J(a, b) = a_x b_y - a_y
    b_x, that is (u, v) = (-psi_y, psi_x), with +- for the upper and the lower layer,

    q_t + advection J(psi, q) + beta psi_x = +- relaxation (psi1 - psi2 - psi_R)
        - [lower layer] friction laplacian psi - s(y) (q - zonal mean q)
        - hyperviscosity (dx^8 + dy^8) q.

    psi_R belongs to the jet shear (sech^2(y / jet_width) - sech^2(edge / jet_width)), y from the
    middle of the channel and `edge` the distance from its nearer side, where s(y) = sponge
    sech^2(edge / jet_width) damps all but the zonal mean, so that the box is periodic in y too.

    Source: Mojgani et al. (2024), arXiv:2309.13211, and its public code, with these deviations.
    Steps are exponential Runge-Kutta, not filtered leapfrog: of fourth order, restarted exactly
    from one state, without the filter's damping. Products are dealiased by 2/3, not by padding.
    Initial states are the jet in the upper layer with noise, not noise alone, which saves the time
    that relaxation takes to build the jet: the stream function of the noise has a standard
    deviation of 0.1 on 16 x 32 points.

    Parameters
    ----------
    points
        Grid points along x, even; along y there are twice as many.
    length, length_y
        Extent along x (zonal) and y.
    dt
        Time between frames.
    beta
        Gradient of the Coriolis parameter.
    relaxation
        Rate of relaxation of the shear towards the jet.
    friction
        Rate of friction in the lower layer.
    hyperviscosity
        Coefficient of the eighth derivatives.
    shear
        Strength of the jet.
    jet_width
        Width of the jet and of the sponge.
    sponge
        Rate of the sponge's damping at the sides.
    advection
        Factor of the Jacobian; 1 unless the model is to be wrong.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk2" where tolerances are loose, "lawson5" where they are tight.

    Raises
    ------
    UserError
        Impossible parameters, a grid that doesn't resolve the deformation scale, or time steps too
        long for three times the jet's speed, which its eddies reach.
    """

    fields = (
        Quantity("q1", "potential vorticity of the upper layer", "1"),
        Quantity("q2", "potential vorticity of the lower layer", "1"),
    )
    parameters = (
        Quantity("length", "domain length along x", "1"),
        Quantity("length_y", "domain length along y", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("beta", "gradient of the Coriolis parameter", "1"),
        Quantity("relaxation", "rate of relaxation to the jet", "1"),
        Quantity("friction", "rate of friction in the lower layer", "1"),
        Quantity("hyperviscosity", "coefficient of the eighth derivatives", "1"),
        Quantity("shear", "strength of the jet", "1"),
        Quantity("jet_width", "width of the jet", "1"),
        Quantity("sponge", "rate of the sponge", "1"),
        Quantity("advection", "factor of the Jacobian", "1"),
    )
    boundary = ("periodic", "periodic")
    aspect = (1, 2)

    def __init__(
        self,
        points: int = 96,
        length: Varying = 46.0,
        length_y: Varying = 68.0,
        dt: Varying = 1.0,
        beta: Varying = 0.196,
        relaxation: Varying = 0.01,
        friction: Varying = 0.07,
        hyperviscosity: Varying = 1e-6,
        shear: Varying = 1.0,
        jet_width: Varying = 3.5,
        sponge: Varying = 1.0,
        advection: Varying = 1.0,
        substeps: int = 8,
        burn_in: int = 150,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b", "lawson5"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "length_y": Distribution.of("length_y", length_y),
            "dt": Distribution.of("dt", dt),
            "beta": Distribution.of("beta", beta, at_least=0),
            "relaxation": Distribution.of("relaxation", relaxation, at_least=0),
            "friction": Distribution.of("friction", friction, at_least=0),
            "hyperviscosity": Distribution.of("hyperviscosity", hyperviscosity, at_least=0),
            "shear": Distribution.of("shear", shear, at_least=0),
            "jet_width": Distribution.of("jet_width", jet_width),
            "sponge": Distribution.of("sponge", sponge, at_least=0),
            "advection": Distribution.of("advection", advection, at_least=0),
        }
        self.integrator = etdrk(integrator)
        longest = max(self.distributions["length"].high, self.distributions["length_y"].high / 2)
        needed = 2 * math.ceil(1.5 * math.sqrt(2) * longest / (2 * math.pi)) + 2
        if points < needed:  # waves up to 1 / deformation scale, sqrt(2), must be retained
            raise UserError(
                f"{points} points don't resolve the deformation scale, 1, in a box of "
                f"{longest:g}: at least {needed} are needed"
            )
        shortest = min(self.distributions["length"].low, self.distributions["length_y"].low / 2)
        # advection turns the highest wave by `angle` per step: the method is stable up to 2.8
        speed = 3 * self.distributions["shear"].high * self.distributions["advection"].high
        highest = 2 * math.pi / shortest * ((points - 1) // 3)
        angle = speed * highest * self.distributions["dt"].high / substeps
        if angle > 2.5:
            raise UserError(
                f"{substeps} substeps are too few for a speed of {speed:g}, three times the jet, "
                f"on {points} points: at least {math.ceil(substeps * angle / 2.5)} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and noise on the jet; the draw doesn't depend on `points`."""
        parameters, states = self._draw(generators), []
        grid = self.grid(self.resolution)
        for i, generator in enumerate(generators):
            own = {name: torch.tensor(value[i : i + 1]) for name, value in parameters.items()}
            columns = as_columns(own, 2)
            rough = torch.from_numpy(0.1 * generator.standard_normal((1, 2, 16, 32)))
            psi = forward(resample(rough, grid), 2)
            psi[:, :1] += _jet(columns, grid)
            k, l = _wavenumbers(columns, grid)  # noqa: E741  (the field's name)
            layers = -(k**2 + l**2) * psi
            stretching = psi[:, :1] - psi[:, 1:]
            layers += torch.cat([-stretching, stretching], dim=1)
            states.append(inverse(layers, grid)[0].numpy())
        return parameters, np.array(states).reshape(-1, 2, *grid)

    def _solver(self, at: Discretisation) -> "_TwoLayerSolver":
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        columns = at.columns
        k, l = _wavenumbers(columns, grid)  # noqa: E741
        squared = k**2 + l**2
        inversion = _inversion(squared)
        # terms that act on one vertical mode are integrated exactly: waves, most of the damping
        damping = torch.cat(
            [
                columns["friction"] / 2 * (squared > 0),
                -(columns["friction"] / 2 * squared + 2 * columns["relaxation"]) * inversion[:, 1:],
            ],
            dim=1,
        )
        linear = -columns["hyperviscosity"] * (k**8 + l**8) - damping
        return _TwoLayerSolver(
            linear=linear - 1j * columns["beta"] * k * inversion,
            symbol=torch.ones(1, 1, 1, 1, dtype=torch.float64, device=at.device),
            product=_coupling(columns, grid, at.dtype),
            grid=grid,
            integrator=self.integrator,
            **at.timing,
        )

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean of q1 + q2: forcing and damping are derivatives, or opposite in the two layers."""
        return {"mean": state.sum(-3).mean(axis=(-2, -1))}


class _TwoLayerSolver(SpectralSolver):
    """Advances the vertical modes, half the sum and half the difference of the layers."""

    def enter(self, state: Float[Tensor, "batch 2 *space"]) -> Complex[Tensor, "batch 2 *mode"]:
        """Return the spectra of the barotropic and the baroclinic mode."""
        return _mix(super().enter(state)).div_(2)

    def leave(self, spectrum: Complex[Tensor, "batch 2 *mode"]) -> Float[Tensor, "batch 2 *space"]:
        """Return the layers."""
        return super().leave(_mix(spectrum))


def _mix(pair: Complex[Tensor, "batch 2 *mode"]) -> Complex[Tensor, "batch 2 *mode"]:
    """Sum and difference: from layers to twice the vertical modes, from these to the layers."""
    first, second = pair.unbind(1)
    return torch.stack([first + second, first - second], dim=1)


def _wavenumbers(columns: Mapping[str, Tensor], grid: Sequence[int]) -> list[Tensor]:
    """Wavenumbers along x and y; one row where all trajectories have the same box."""
    wavenumbers = []
    for index, name in zip(indices(grid), ("length", "length_y"), strict=True):
        length = columns[name]
        length = length[:1] if bool((length == length[:1]).all()) else length
        wavenumbers.append(2 * torch.pi / length * index.to(length.device))
    return wavenumbers


def _inversion(squared: Tensor) -> Float[Tensor, "batch 2 *mode"]:
    """Return the factors from the vorticities of the vertical modes to their stream functions."""
    barotropic = torch.where(squared > 0, -1 / squared, 0.0)
    return torch.cat([barotropic, -1 / (squared + 2)], dim=1)


def _profile(columns: Mapping[str, Tensor], points: int) -> tuple[Tensor, Tensor]:
    """Jet and sponge of unit strength, functions of y of shape (batch, 1, 1, points)."""
    length, width = columns["length_y"], columns["jet_width"]
    y = torch.arange(points, dtype=torch.float64, device=length.device) / points * length
    sponge = torch.cosh(torch.minimum(y, length - y) / width) ** -2
    return torch.cosh((y - length / 2) / width) ** -2 - sponge, sponge


def _jet(columns: Mapping[str, Tensor], grid: Sequence[int]) -> Complex[Tensor, "batch 1 *mode"]:
    """Spectrum of psi_R: minus the integral of the jet along y, without its mean."""
    jet, _ = _profile(columns, grid[1])
    spectrum = forward((columns["shear"] * jet).expand(-1, 1, *grid), 2)
    l = _wavenumbers(columns, grid)[1]  # noqa: E741
    return torch.where(l > 0, 1j / l, 0.0) * spectrum


def _coupling(columns: Mapping[str, Tensor], grid: Sequence[int], dtype: torch.dtype) -> Product:
    """Return the terms that couple waves or vertical modes, from the spectra of the modes."""
    spectral = dtype.to_complex()
    k, l = _wavenumbers(columns, grid)  # noqa: E741
    squared = k**2 + l**2
    inversion = _inversion(squared)
    friction = columns["friction"] / 2 * (squared > 0)
    forcing = (-columns["relaxation"] * _jet(columns, grid)).to(spectral)
    to_barotropic = (-friction * squared * inversion[:, 1:]).to(dtype)
    to_baroclinic = friction.to(dtype)
    inversion = inversion.to(dtype)
    gradient = 1j * torch.stack(torch.broadcast_tensors(k, l), dim=1)  # (batch, 2, 1, *mode)
    to_flow = torch.stack([-gradient[:, 1], gradient[:, 0]], dim=1).to(spectral)
    divergence = (-columns["advection"].unsqueeze(1) * gradient).to(spectral)
    eddies = -(k != 0).to(dtype)
    sponge = (columns["sponge"] * _profile(columns, grid[1])[1]).to(dtype)

    def product(spectrum: Tensor) -> Tensor:
        psi = _mix(inversion * spectrum)
        # (batch, 3, layer, ...): u, v and q
        flow = torch.cat([to_flow * psi.unsqueeze(1), _mix(spectrum).unsqueeze(1)], dim=1)
        u, v, q = inverse(flow, grid).unbind(1)
        fluxes = forward(torch.stack([u * q, v * q, sponge * q], dim=1), 2)
        layers = (divergence * fluxes[:, :2]).sum(1).addcmul_(eddies, fluxes[:, 2])
        tendency = _mix(layers).div_(2)
        tendency[:, :1].addcmul_(to_barotropic, spectrum[:, 1:])
        tendency[:, 1:].addcmul_(to_baroclinic, spectrum[:, :1]).add_(forcing)
        return tendency

    return product
