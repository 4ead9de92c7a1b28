"""Incompressible Navier-Stokes equations in a three-dimensional periodic box."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import etdrk
from longrun.solvers.incompressible_3d import IncompressibleSolver
from longrun.solvers.spectral import check_points, indices

log = logging.getLogger(__name__)

STABLE = 2.8  # of ETDRK4 on the imaginary axis: speed times wavenumber times step
ASPECTS = {"isotropic": (1, 1, 1), "mixing_layer": (1, 2, 2)}


class NavierStokes3D(AbstractEquation):
    """u_t + (u . grad) u + grad p = viscosity lap u - div tau + f, div u = 0, in three dimensions.

    Zhao et al. (2025), J. Comput. Phys. 537, 114125, arXiv:2411.04502 ("LESnets"), predict two
    flows on coarse grids:

    - "isotropic": decaying turbulence in a cube. It starts from random phases with the energy
      spectrum k^4 exp(-2 k^2 / peak^2), scaled to `speed`, as Rogallo (1981), NASA TM 81315, draws
      them; the energy of each wave is exactly that of the spectrum.
    - "mixing_layer": two opposite layers of shear in a box that is half as long along x. The
      paper's box is 4 pi by 8 pi by 8 pi, with the short axis first in its arrays, as here. The
      short axis is the spanwise one; y crosses the layers and w along z carries the shear, w =
      speed / 2 [tanh(y / 2 d) - tanh((y + L_y / 2) / 2 d) - tanh((y - L_y / 2) / 2 d)] of thickness
      d, the layers at 0 and L_y / 2. Random waves as above of root mean square `noise` times
      `speed` are added. The paper's code doesn't show which long axis is streamwise: our choice.

    With the forcing "constant_power" isotropic turbulence is kept going: f is the velocity of the
    waves up to `driven` per `length`, times what lets it do the work `power` at every instant. So
    energy changes by `power` less the dissipation, and the two are equal in the mean. The flow
    depends on its start for some turnover times, which `burn_in` should leave out.

    Without a closure this is direct simulation. With `refinement` it runs on a finer grid, and a
    sharp spectral filter of it is stored. With a closure it is large-eddy simulation by the
    Smagorinsky model, tau = -2 C Delta^2 |S| S, whose Delta is `filter_width` spacings of the
    stored grid, whatever the solver's grid; or by the dynamic one, whose C comes from the resolved
    velocity, averaged over the box, at least zero. Its test filter keeps half of the waves that
    products leave on the stored grid.

    Parameters
    ----------
    points
        Stored grid points along x, even.
    flow
        "isotropic" or "mixing_layer", which has twice as many points along y and z as along x.
    closure
        "none", "smagorinsky" or "dynamic_smagorinsky".
    length
        Extent along x; y and z have the same, or twice as much for the mixing layer.
    dt
        Time between frames.
    viscosity
        Kinematic viscosity.
    smagorinsky_constant
        C of the closure "smagorinsky".
    filter_width
        Width of the filter in spacings of the stored grid.
    speed
        Initial root mean square of each component; of the mixing layer, the difference across it.
    peak
        Wavenumber, in waves per `length`, at which the random part has most energy.
    thickness
        Momentum thickness of a layer.
    noise
        Root mean square of each random component over `speed`, for the mixing layer.
    forcing
        "none" or, for isotropic turbulence, "constant_power".
    power
        Work of the forcing per unit of mass and time; a parameter only where there is one.
    driven
        Longest wavevector that is forced, in waves per `length`.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        Points of the solver's grid per stored one, along each axis.
    integrator
        "etdrk4", "etdrk2" where tolerances are loose, "lawson5" where they are tight.

    Raises
    ------
    UserError
        Impossible parameters; and from `sample`, a step too long for the initial speed.
    """

    fields = (
        Quantity("u", "velocity along x", "1"),
        Quantity("v", "velocity along y", "1"),
        Quantity("w", "velocity along z", "1"),
    )
    velocity = ("u", "v", "w")
    boundary = ("periodic", "periodic", "periodic")

    def __init__(
        self,
        points: int = 32,
        flow: Literal["isotropic", "mixing_layer"] = "isotropic",
        closure: Literal["none", "smagorinsky", "dynamic_smagorinsky"] = "none",
        length: Varying = 2 * math.pi,
        dt: Varying = 0.02,
        viscosity: Varying = 1 / 64,
        smagorinsky_constant: Varying = 0.01,
        filter_width: float = 1.0,
        speed: float = 1.0,
        peak: float = 3.0,
        thickness: float = 0.3,
        noise: float = 0.02,
        forcing: Literal["none", "constant_power"] = "none",
        power: Varying = 0.3,
        driven: float = 2.0,
        substeps: int = 2,
        burn_in: int = 0,
        refinement: int = 1,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b", "lawson5"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(points)
        self.integrator = etdrk(integrator)
        self.aspect = ASPECTS[flow]
        self.flow = flow
        self.closure = closure
        self.filter_width = filter_width
        self.speed = speed
        self.peak = peak
        self.thickness = thickness
        self.noise = noise
        for name in ("filter_width", "speed", "peak", "thickness"):
            if getattr(self, name) <= 0:
                raise UserError(f"{name} must be positive, is {getattr(self, name)}")
        if noise < 0:
            raise UserError(f"noise must not be negative, is {noise}; 0 keeps the layer laminar")
        extent = Distribution.of("length", length)
        self.distributions = {"length": extent}
        if flow == "mixing_layer":
            doubled = Distribution(extent.kind, tuple(2 * value for value in extent.values))
            self.distributions |= {"length_y": doubled, "length_z": doubled}
        self.distributions |= {
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity),
        }
        self.forcing = forcing
        self.driven = driven
        if forcing != "none":
            self._check_forcing()
            self.distributions["power"] = Distribution.of("power", power)
        if closure == "smagorinsky":
            self.distributions["smagorinsky_constant"] = Distribution.of(
                "smagorinsky_constant", smagorinsky_constant, at_least=0
            )
        names = {
            "length": "extent along x",
            "length_y": "extent along y",
            "length_z": "extent along z",
            "dt": "time between frames",
            "viscosity": "kinematic viscosity",
            "power": "work of the forcing per unit of mass and time",
            "smagorinsky_constant": "Smagorinsky constant, squared",
        }
        self.parameters = tuple(Quantity(name, names[name], "1") for name in self.distributions)
        if closure == "none":
            self._warn_if_coarse()

    def _check_forcing(self) -> None:
        """Refuse a forcing that isn't isotropic, or that the solver's grid can't hold."""
        if self.flow != "isotropic":
            raise UserError(f"forcing needs flow isotropic, is {self.flow}")
        most = (self.resolution - 1) // 3
        if not 1 <= self.driven <= most:
            raise UserError(
                f"driven must be from 1 to {most}, the highest wave that {self.resolution} points "
                f"resolve, is {self.driven:g}"
            )

    def _warn_if_coarse(self) -> None:
        """Warn where direct simulation lacks the waves that dissipate."""
        length, viscosity = self.distributions["length"].high, self.distributions["viscosity"].low
        if self.flow == "isotropic":
            # retained waves should reach Kolmogorov's, (dissipation / viscosity^3)^(1/4);
            # dissipation peaks at 0.3 speed^3 peak as measured; or it falls from its first value,
            # to half of it when small eddies appear
            wavenumber = 2 * math.pi * self.peak / length
            at_first = 3.75 * viscosity * (self.speed * wavenumber) ** 2
            dissipation = max(at_first / 2, 0.3 * self.speed**3 * wavenumber)
            if "power" in self.distributions:  # in the mean; the start is left to the burn-in
                dissipation = self.distributions["power"].high
            finest = (dissipation / viscosity**3) ** 0.25
        else:
            finest = 2 / self.thickness  # where the spectrum of the profile has fallen to 1e-2
        needed = 2 * math.ceil(3 * finest * length / (4 * math.pi))
        if self.resolution < needed:
            log.warning(
                "%d points along x don't resolve the smallest eddies at viscosity %g: take about "
                "%d, a higher viscosity, or a closure",
                self.resolution,
                viscosity,
                needed,
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and velocities; the draw doesn't depend on the grid.

        Raises
        ------
        UserError
            A step too long for the speed of what was drawn.
        """
        parameters, grid = self._draw(generators), self.grid(self.resolution)
        states = np.empty((len(generators), 3, *grid))
        for axis in ("length_y", "length_z"):
            if axis in parameters:  # not drawn: they follow the extent along x
                parameters[axis] = 2 * parameters["length"]
        for row, generator in enumerate(generators):
            turbulence = self._turbulence(generator, grid)
            states[row] = turbulence if self.flow == "isotropic" else self.noise * turbulence
            if self.flow == "mixing_layer":
                states[row, 2] += self._layers(2 * parameters["length"][row], grid[1])[:, None]
        fastest = np.abs(states).sum(1).max((1, 2, 3), initial=0)
        courant = 2 / 3 * math.pi * self.resolution * fastest / parameters["length"]
        needed = (courant * parameters["dt"] / STABLE).max(initial=0)
        if self.substeps < needed:
            raise UserError(
                f"substeps must be at least {math.ceil(1.2 * needed)} for a stable step at these "
                f"speeds, is {self.substeps}"
            )
        return parameters, states

    def _turbulence(
        self, generator: np.random.Generator, grid: Sequence[int]
    ) -> Float[np.ndarray, "component x y z"]:
        """Draw random waves without divergence, of the spectrum in the class's docstring."""
        assert self.aspect is not None
        # in waves per `length`; beyond 3 peaks the spectrum has fallen to 1e-5
        reach = [math.ceil(3 * self.peak * times) for times in self.aspect]
        index = np.meshgrid(
            *[np.arange(-n, n + 1) for n in reach[:2]], np.arange(reach[2] + 1), indexing="ij"
        )
        wave = np.stack([n / times for n, times in zip(index, self.aspect, strict=True)])
        squared = (wave**2).sum(0)
        # a pair of opposite waves is one real wave: take one of each
        half = (index[2] > 0) | (index[1] > 0) | ((index[1] == 0) & (index[0] > 0))
        drawn = half & (squared <= (3 * self.peak) ** 2)
        squared = np.where(drawn, squared, 1.0)
        # a shell of radius k has about k^2 waves, so this is the root of spectrum / k^2
        amplitude = drawn * np.sqrt(squared) * np.exp(-squared / self.peak**2)
        angle = generator.uniform(0, 2 * np.pi, (3, *amplitude.shape))
        # two unit vectors across the wave
        level = np.hypot(wave[0], wave[1])
        flat = np.where(level > 0, level, 1.0)
        first = np.stack(
            [
                np.where(level > 0, wave[1] / flat, 1.0),
                np.where(level > 0, -wave[0] / flat, 0.0),
                np.zeros_like(level),
            ]
        )
        second = np.cross(wave / np.sqrt(squared), first, axis=0)
        waves = amplitude * (
            np.exp(1j * angle[0]) * np.cos(angle[2]) * first
            + np.exp(1j * angle[1]) * np.sin(angle[2]) * second
        )
        # the real part of a wave of amplitude a has the mean square |a|^2 / 2
        waves *= self.speed * math.sqrt(3 / (0.5 * (np.abs(waves) ** 2).sum()))
        return _evaluate(waves, index, grid)

    def _layers(self, width: float, points: int) -> Float[np.ndarray, " y"]:
        """Return the mean profile of the mixing layer."""
        y = width * (np.arange(points) / points - 0.5)
        parts = [np.tanh((y - at * width) / (2 * self.thickness)) for at in (0.0, -0.5, 0.5)]
        return np.roll(0.5 * self.speed * (parts[0] - parts[1] - parts[2]), points // 2)

    def _solver(self, at: Discretisation) -> IncompressibleSolver:
        """Build the spectral solver of a batch of trajectories."""
        check_points(at.points)
        column = at.columns
        length = column["length"]
        spacing = length / self.points
        width = self.filter_width * spacing
        dynamic = self.closure == "dynamic_smagorinsky"
        return IncompressibleSolver(
            [column.get(name, length) for name in ("length", "length_y", "length_z")],
            column["viscosity"],
            at.grid,
            smagorinsky=(
                column["smagorinsky_constant"] * width**2 if self.closure == "smagorinsky" else None
            ),
            # products leave waves up to 2/3 of the highest, pi / spacing; half of that is 1/3
            test_filter=torch.pi / (3 * width) if dynamic else None,
            power=column.get("power"),
            driven=self.driven,
            **at.timing,
            integrator=self.integrator,
        )

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Momentum, the mean of each component."""
        mean = state.mean(axis=(-3, -2, -1))
        return {f"momentum_{axis}": mean[..., i] for i, axis in enumerate("xyz")}

    def derived(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Magnitude of the vorticity, from derivatives of the waves of the velocity."""
        grid = state.shape[-3:]
        length = parameters["length"][..., None, None, None, None]
        # y and z of the mixing layer are as many times longer as they have more points
        waves = [k.numpy() * grid[0] / n for k, n in zip(indices(grid), grid, strict=True)]
        u, v, w = np.moveaxis(np.fft.rfftn(state, axes=(-3, -2, -1)) * 2j * np.pi / length, -4, 0)
        x, y, z = waves
        curl = np.stack([y * w - z * v, z * u - x * w, x * v - y * u])
        vorticity = np.fft.irfftn(curl, s=grid, axes=(-3, -2, -1))
        return {"vorticity": np.sqrt(np.square(vorticity).sum(0))}


def _evaluate(
    waves: Complex[np.ndarray, "component *wave"],
    index: Sequence[np.ndarray],
    grid: Sequence[int],
) -> Float[np.ndarray, "component x y z"]:
    """Evaluate the real part of a sum of waves on a grid, without those it can't hold."""
    spectrum = np.zeros((3, *grid[:2], grid[2] // 2 + 1), complex)
    fits = np.logical_and.reduce(
        [2 * np.abs(n) < points for n, points in zip(index, grid, strict=True)]
    )
    x, y, z = (n[fits] for n in index)
    # a half-spectrum counts waves with z > 0 twice; the transform takes the real part of the rest
    spectrum[:, x, y, z] = np.where(z > 0, 0.5, 1.0) * waves[:, fits]
    field: np.ndarray = np.fft.irfftn(spectrum, s=tuple(grid), axes=(1, 2, 3), norm="forward")
    return field
