"""Compressible Euler and Navier-Stokes equations of an ideal gas in one and two dimensions."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.random import Generator
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.finite_volume import (
    AbstractFiniteVolumeSolver,
    check_substeps,
    coarsen,
    extend,
    hllc_euler,
    resample,
)

SAMPLES = 4  # points per cell and axis from which the averages of an initial condition are taken

Fields = Sequence[np.ndarray]
"""Density, velocity components, pressure."""


class CompressibleFlow(AbstractEquation):
    """Mass, momentum and energy of an ideal gas, with shear and bulk viscosity eta and zeta.

    rho_t + div(rho v) = 0,
    (rho v)_t + div(rho v v + p) = div(s),
    E_t + div((E + p) v) = div(s v),
    E = p / (gamma - 1) + rho |v|^2 / 2,
    s_ij = eta (v_i,j + v_j,i - 2/3 delta_ij div v) + zeta delta_ij div v; no heat conduction.

    In one dimension v = (u, 0, 0), so s = (4/3 eta + zeta) u_x.

    The solver is MUSCL-HLLC-SSP-RK3, viscous fluxes are central. Cell averages of density,
    momentum and energy are advanced; density, velocity and pressure are stored.

    Takamoto et al. (2023), arXiv:2304.14118 (CAPE), use it on a periodic unit square with gamma
    5/3, eta = zeta and random fields at a Mach number; Zhang et al. (2024), arXiv:2403.19507
    (SineNet), the same at a finer grid, averaged down (`refinement`); Herde et al. (2024),
    arXiv:2405.19101 (Poseidon), without viscosity at gamma 1.4 from four families of initial
    conditions. Our notes on those papers name the families; all numbers of the initial
    conditions below are our choice:

    - `sod`: one dimension, (1, 0, 1) left and (0.125, 0, 0.1) right of the middle (Sod, 1978).
    - `riemann`: one dimension, two states with density and pressure from U(0.1, 1), velocity from
      U(-0.5, 0.5), that meet between 0.3 and 0.7 of the length.
    - `quadrants`: four states in the quarters of the square, density and pressure from
      U(0.1, 1), velocity components from U(-0.5, 0.5).
    - `curved`: the same with borders bent by three random waves of up to 0.05 of the length.
    - `kelvin_helmholtz`: two shear layers, of thickness 0.03 of the length, each bent by four
      waves; velocity 0.5 in opposite directions, densities from U(1, 2), pressure 2.5.
    - `gaussians`: four vortices of velocity up to 0.3, and as many bumps of density and of
      pressure of height U(-0.2, 0.2), of radius 0.05 to 0.1 of the length, on density 1 and
      pressure 1.
    - `random`: each field a sum of four waves of up to three periods per axis and of amplitude
      U(0, 1) by wavenumber; velocity of root mean square 1, density 1 and pressure 1 / (gamma
      mach^2) with relative perturbations of root mean square 0.1.

    Parameters
    ----------
    points
        Stored cells along each axis.
    dims
        1 or 2.
    initial
        Family of initial conditions, see above.
    edges
        What happens at all ends of the box.
    length
        Length of the box along each axis.
    dt
        Time between frames.
    gamma
        Ratio of specific heats.
    eta
        Shear viscosity.
    zeta
        Bulk viscosity; None means equal to eta, trajectory by trajectory.
    mach
        Root mean square velocity over speed of sound; for `random` only.
    substeps
        Time steps per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        Cells of the reference solver per stored cell and axis.

    Raises
    ------
    UserError
        Impossible parameters.
    """

    centred = True

    def __init__(
        self,
        points: int = 128,
        dims: Literal[1, 2] = 2,
        initial: Literal[
            "sod", "riemann", "quadrants", "curved", "kelvin_helmholtz", "gaussians", "random"
        ] = "random",
        edges: Literal["periodic", "outflow", "reflecting"] = "periodic",
        length: Varying = 1.0,
        dt: Varying = 0.05,
        gamma: float = 1.4,
        eta: Varying = 0.0,
        zeta: Varying | None = None,
        mach: Varying = 1.0,
        substeps: int = 100,
        burn_in: int = 0,
        refinement: int = 1,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        if points < 4:
            raise UserError(f"points must be at least 4, is {points}")
        if gamma <= 1:
            raise UserError(f"gamma must be above 1, is {gamma:g}; 1.4 is air's")
        families = _TUBES if dims == 1 else _SQUARES
        if initial not in families:
            raise UserError(
                f"initial {initial!r} is not available in {dims} dimensions; take one of "
                f"{', '.join(families)}"
            )
        self.initial = families[initial]
        self.gamma = gamma
        self.tied = zeta is None
        self.boundary = (edges,) * dims
        velocities = [
            Quantity("u", "velocity along x", "1"),
            Quantity("v", "velocity along y", "1"),
        ]
        self.fields = (
            Quantity("rho", "density", "1"),
            *velocities[:dims],
            Quantity("p", "pressure", "1"),
        )
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "eta": Distribution.of("eta", eta, at_least=0.0),
            "zeta": Distribution.of("zeta", eta if zeta is None else zeta, at_least=0.0),
        }
        self.parameters = (
            Quantity("length", "domain length", "1"),
            Quantity("dt", "time between frames", "1"),
            Quantity("eta", "shear viscosity", "1"),
            Quantity("zeta", "bulk viscosity", "1"),
        )
        if initial == "random":
            self.distributions["mach"] = Distribution.of("mach", mach)
            self.parameters += (Quantity("mach", "Mach number of the initial state", "1"),)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on `points`.

        Raises
        ------
        UserError
            A time step too long for an initial state; the message says how many substeps to use.
        """
        parameters = self._draw(generators)
        if self.tied:
            parameters["zeta"] = parameters["eta"].copy()
        fine = SAMPLES * self.resolution
        x = (np.arange(fine) + 0.5) / fine
        axes = np.meshgrid(*[x] * self.dims, indexing="ij", sparse=True)
        states = np.empty((len(generators), len(self.fields), *self.grid(self.resolution)))
        for number, generator in enumerate(generators):
            pressure = 1 / (self.gamma * parameters["mach"][number] ** 2) if self._mach else 1.0
            fields = np.broadcast_arrays(*self.initial(generator, axes, pressure))
            states[number] = self._averages(torch.from_numpy(np.stack(fields)[None]))[0]
            self._check(states[number], {name: v[number] for name, v in parameters.items()})
        return parameters, states

    def _solver(self, at: Discretisation) -> "_Solver":
        """Build the finite volume solver of a batch of trajectories."""
        return _Solver(
            self.gamma,
            at.parameters["eta"],
            at.parameters["zeta"],
            spacing=at.parameters["length"] / at.points,
            boundary=self.boundary,
            **at.timing,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Move states to another grid; mass, momentum and energy are kept."""
        if points == state.shape[-1]:
            return state
        cells = _conserved(state.transpose(0, 1), self.gamma).transpose(0, 1)
        cells = resample(cells, self.grid(points), self.boundary, _positive)
        return _primitive(cells.transpose(0, 1), self.gamma).transpose(0, 1).contiguous()

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Means of mass, momentum and energy; walls change the momentum, open ends all."""
        if self.boundary[0] == "outflow":
            return {}
        channel = -1 - self.dims
        density, *velocity, pressure = np.moveaxis(state, channel, 0)
        square = sum(speed * speed for speed in velocity)
        space = tuple(range(-self.dims, 0))
        found = {
            "mass": density.mean(space),
            "energy": (pressure / (self.gamma - 1) + 0.5 * density * square).mean(space),
        }
        if self.boundary[0] == "periodic":
            for axis, speed in zip("xy", velocity, strict=False):
                found[f"momentum_{axis}"] = (density * speed).mean(space)
        return found

    @property
    def _mach(self) -> bool:
        return "mach" in self.distributions

    def _averages(self, state: Tensor) -> Tensor:
        """Average a finely sampled state over the cells of the reference solver."""
        cells = _conserved(state.transpose(0, 1), self.gamma).transpose(0, 1)
        for axis in range(self.dims):
            cells = coarsen(cells, SAMPLES, axis)
        return _primitive(cells.transpose(0, 1), self.gamma).transpose(0, 1)

    def _check(self, state: np.ndarray, parameters: Mapping[str, float]) -> None:
        density, *velocity, pressure = state
        sound = np.sqrt(self.gamma * pressure / density)
        waves = sum(np.abs(speed) + sound for speed in velocity).max()
        cells = self.resolution / parameters["length"]
        viscosity = (4 / 3 * parameters["eta"] + parameters["zeta"]) / density.min()
        check_substeps(
            self.substeps,
            parameters["dt"] * waves * cells,
            parameters["dt"] * 2 * self.dims * viscosity * cells**2,
        )


class _Solver(AbstractFiniteVolumeSolver):
    """MUSCL-HLLC for an ideal gas, with central viscous fluxes."""

    def __init__(
        self,
        gamma: float,
        eta: Float[Tensor, " batch"],
        zeta: Float[Tensor, " batch"],
        spacing: Float[Tensor, " batch"],
        boundary: Sequence[str],
        frame: Float[Tensor, " batch"],
        steps: int,
        dtype: torch.dtype,
    ):
        super().__init__(spacing, boundary, frame, steps, dtype)
        self.gamma = gamma
        self.viscous = bool((eta > 0).any() or (zeta > 0).any())
        self.eta = self._shaped(eta / spacing)
        self.zeta = self._shaped(zeta / spacing)

    def conserved(self, state: Tensor) -> Tensor:
        return _conserved(state, self.gamma)

    def primitive(self, cells: Tensor) -> Tensor:
        return _primitive(cells, self.gamma)

    def admissible(self, cells: Tensor) -> Tensor:
        return _positive(cells.transpose(0, 1))[:, 0]

    def sweep(self, state: Tensor, axis: int, keep: Tensor | None) -> Tensor:
        left, right = self.sides(state, axis, keep, odd=[1 + axis])
        flux = hllc_euler(left, right, self.gamma, axis)
        if self.viscous:
            flux = flux - self._viscous_flux(state[1:-1], axis)
        return flux.diff(dim=2 + axis)

    def _viscous_flux(self, velocity: Tensor, axis: int) -> Tensor:
        """Flux of momentum and energy through the faces across an axis.

        Gradients along the axis are differences across the face, those along the other are the
        mean of the central differences on both sides.
        """
        dim = 2 + axis
        points = velocity.shape[dim]
        around = extend(velocity, axis, 1, self.boundary[axis], odd=[axis])
        before, after = around.narrow(dim, 0, points + 1), around.narrow(dim, 1, points + 1)
        along, at_face = after - before, 0.5 * (before + after)
        divergence = along[axis]
        if len(velocity) == 1:
            normal = (4 / 3 * self.eta + self.zeta) * divergence
            stress = [normal]
        else:
            other = 1 - axis
            side = 2 + other
            wide = extend(at_face, other, 1, self.boundary[other], odd=[other])
            count = at_face.shape[side]
            across = 0.5 * (wide.narrow(side, 2, count) - wide.narrow(side, 0, count))
            divergence = divergence + across[other]
            normal = 2 * self.eta * along[axis] + (self.zeta - 2 / 3 * self.eta) * divergence
            shear = self.eta * (along[other] + across[axis])
            stress = [normal, shear] if axis == 0 else [shear, normal]
        work = at_face[0] * stress[0]
        for speed, part in zip(at_face[1:], stress[1:], strict=True):
            work = work + speed * part
        return torch.stack([torch.zeros_like(work), *stress, work])


def _conserved(
    state: Float[Tensor, "channel batch *space"], gamma: float
) -> Float[Tensor, "channel batch *space"]:
    """Return density, momentum, energy from density, velocity, pressure."""
    density, velocity, pressure = state[0], state[1:-1], state[-1]
    momentum = density * velocity
    energy = pressure / (gamma - 1) + 0.5 * _dot(momentum, velocity)
    return torch.cat([density[None], momentum, energy[None]])


def _primitive(
    cells: Float[Tensor, "channel batch *space"], gamma: float
) -> Float[Tensor, "channel batch *space"]:
    """Return density, velocity, pressure from density, momentum, energy."""
    density, momentum, energy = cells[0], cells[1:-1], cells[-1]
    velocity = momentum / density
    pressure = (gamma - 1) * (energy - 0.5 * _dot(momentum, velocity))
    return torch.cat([density[None], velocity, pressure[None]])


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Sum of products of components, in the same order for any batch."""
    total = left[0] * right[0]
    for a, b in zip(left[1:], right[1:], strict=True):
        total = total + a * b
    return total


def _positive(cells: Float[Tensor, "batch channel *space"]) -> Bool[Tensor, "batch 1 *space"]:
    """Whether density and internal energy are positive."""
    density, momentum, energy = cells[:, :1], cells[:, 1:-1].transpose(0, 1), cells[:, -1:]
    kinetic = 0.5 * _dot(momentum, momentum)[:, None]
    return (density > 0.0) & (density * energy > kinetic)


def _sod(generator: Generator, axes: Fields, pressure: float) -> Fields:
    left = axes[0] < 0.5
    return [np.where(left, 1.0, 0.125), 0 * axes[0], np.where(left, 1.0, 0.1)]


def _riemann(generator: Generator, axes: Fields, pressure: float) -> Fields:
    density, speed, pressures = _states(generator, 2, 1)
    left = axes[0] < generator.uniform(0.3, 0.7)
    return [np.where(left, *values) for values in (density, speed, pressures)]


def _states(generator: Generator, count: int, dims: int) -> np.ndarray:
    """Draw states with density and pressure from U(0.1, 1), velocity from U(-0.5, 0.5)."""
    low = np.array([0.1, *[-0.5] * dims, 0.1])[:, None]
    high = np.array([1.0, *[0.5] * dims, 1.0])[:, None]
    return generator.uniform(low, high, (dims + 2, count))


def _quadrants(generator: Generator, axes: Fields, pressure: float) -> Fields:
    states = _states(generator, 4, 2)
    x, y = axes
    which = 2 * (x % 1 < 0.5) + (y % 1 < 0.5)
    return list(states[:, which])


def _curved(generator: Generator, axes: Fields, pressure: float) -> Fields:
    x, y = axes
    waves = generator.integers(1, 4, (2, 3))
    phases = generator.uniform(0, 2 * np.pi, (2, 3))
    sizes = generator.uniform(0, 0.05, (2, 3)) / 3
    bend_x, bend_y = (
        sum(a * np.sin(2 * np.pi * k * along + b) for a, k, b in zip(*row, strict=True))
        for row, along in (
            ((sizes[0], waves[0], phases[0]), y),
            ((sizes[1], waves[1], phases[1]), x),
        )
    )
    return _quadrants(generator, [x + bend_x, y + bend_y], pressure)


def _kelvin_helmholtz(generator: Generator, axes: Fields, pressure: float) -> Fields:
    x, y = axes
    inner, outer = generator.uniform(1, 2, 2)
    waves = np.arange(1, 5)
    sizes, phases = generator.uniform(0, 0.01, (2, 4)), generator.uniform(0, 2 * np.pi, (2, 4))
    bent = [
        sum(a * np.sin(2 * np.pi * k * x + b) for a, k, b in zip(size, waves, phase, strict=True))
        for size, phase in zip(sizes, phases, strict=True)
    ]
    within = 0.5 * (np.tanh((y - 0.25 - bent[0]) / 0.03) - np.tanh((y - 0.75 - bent[1]) / 0.03))
    ones = np.ones_like(within)
    return [outer + (inner - outer) * within, within - 0.5, 0 * ones, 2.5 * ones]


def _bumps(generator: Generator, axes: Fields, count: int) -> Sequence[tuple[Fields, np.ndarray]]:
    """Draw smooth periodic bumps of height 1, each with its gradient; near Gaussians."""
    found = []
    for _ in range(count):
        width = generator.uniform(0.05, 0.1) * 2 * np.pi
        angles = [2 * np.pi * (x - generator.uniform()) for x in axes]
        bump = np.exp(sum(np.cos(angle) - 1 for angle in angles) / width**2)
        found.append(([-np.sin(angle) / width * bump for angle in angles], bump))
    return found


def _gaussians(generator: Generator, axes: Fields, pressure: float) -> Fields:
    """Velocity is the curl of bumps, scaled by their width so that speeds are as drawn."""
    spins = generator.uniform(-0.5, 0.5, 4)
    lumps, hills = generator.uniform(-0.2, 0.2, (2, 4))  # so that four in one place stay positive
    swirl = _bumps(generator, axes, 4)
    density = 1 + sum(
        a * bump for a, (_, bump) in zip(lumps, _bumps(generator, axes, 4), strict=True)
    )
    hill = 1 + sum(a * bump for a, (_, bump) in zip(hills, _bumps(generator, axes, 4), strict=True))
    u = sum(a * gradient[1] for a, (gradient, _) in zip(spins, swirl, strict=True))
    v = sum(-a * gradient[0] for a, (gradient, _) in zip(spins, swirl, strict=True))
    return [density, u, v, hill]


def _random(generator: Generator, axes: Fields, pressure: float) -> Fields:
    dims = len(axes)
    coarse = np.meshgrid(*[np.arange(16) / 16] * dims, indexing="ij", sparse=True)
    found, squares = [], []
    for _ in range(dims + 2):
        waves = generator.integers(-3, 4, (4, dims))
        waves[:, 0] = np.where((waves == 0).all(1), 1, waves[:, 0])
        sizes = generator.uniform(0, 1, 4) / np.linalg.norm(waves, axis=1)
        phases = generator.uniform(0, 2 * np.pi, 4)

        def evaluate(at: Fields, parts: tuple = (waves, sizes, phases)) -> np.ndarray:
            return sum(
                size * np.sin(2 * np.pi * sum(k * x for k, x in zip(wave, at, strict=True)) + phase)
                for wave, size, phase in zip(*parts, strict=True)
            )

        found.append(evaluate(axes))
        squares.append((evaluate(coarse) ** 2).mean())  # exact: 16 points resolve six periods
    density, *velocity, hill = found
    speed = np.sqrt(sum(squares[1:-1]))
    return [
        1 + 0.1 * density / np.sqrt(squares[0]),
        *(part / speed for part in velocity),
        pressure * (1 + 0.1 * hill / np.sqrt(squares[-1])),
    ]


_TUBES = {"sod": _sod, "riemann": _riemann, "random": _random}
_SQUARES = {
    "quadrants": _quadrants,
    "curved": _curved,
    "kelvin_helmholtz": _kelvin_helmholtz,
    "gaussians": _gaussians,
    "random": _random,
}
