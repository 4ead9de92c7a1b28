"""Two-dimensional turbulence on a staggered grid: Kolmogorov flow, forced or decaying."""

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.mac import PeriodicMACSolver, coarsen, refine_periodic

log = logging.getLogger(__name__)

COURANT = 0.5  # of the steps, at the largest initial speed
CELL_REYNOLDS = 100.0  # beyond it the scheme's own dissipation takes over from viscosity


class NavierStokesMAC(AbstractEquation):
    """u_t + div(u u) = -grad p + viscosity lap u + amplitude sin(2 pi waves y / length) e - drag u.

    On a periodic square, with div u = 0, e along x and density 1. The coefficients, the scheme and
    the initial states are those of Sun, Yang and Yoo (2023), arXiv:2302.08105 (temporal stencil
    modelling), after Kochkov et al. (2021), arXiv:2102.01010. Without amplitude and drag the flow
    decays.

    Stored fields are averages over the faces of square cells: u over the right face of each cell,
    at ((i + 1) dx, (j + 1/2) dy), v over its upper face, at ((i + 1/2) dx, (j + 1) dy). Results of
    a finer reference solver are averaged over the faces of the coarse cells, so they have no
    divergence either. The force is averaged over faces too.

    Initial states: white noise filtered by a log-normal density of the wavenumber around
    `peak`, without divergence, scaled to a largest speed. They are drawn as Fourier coefficients
    of the stream function, up to 8 times `peak`, so they are the same on every grid (the original
    filters noise on the grid, then projects and rescales three times).

    Parameters
    ----------
    points
        Stored cells along each axis, even.
    length
        Side of the box.
    dt
        Time between frames.
    viscosity
        Kinematic.
    amplitude
        Of the force; 0 for decaying flow.
    drag
        Rate at which drag damps the velocity.
    waves
        Periods of the force in the box.
    peak
        Wavenumber of the largest initial energy, in waves per box.
    speed
        Largest initial speed; steps are refused that carry it further than half a cell.
    refinement
        Cells of the reference solver per stored cell, along each axis.
    substeps
        Steps of the reference solver per frame.
    burn_in
        Frames to discard before the first frame that is kept.

    Raises
    ------
    UserError
        Impossible parameters, or a step too long for the grid.
    """

    fields = (
        Quantity("u", "velocity along x, on right faces", "1"),
        Quantity("v", "velocity along y, on upper faces", "1"),
    )
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("viscosity", "kinematic viscosity", "1"),
        Quantity("amplitude", "amplitude of the force", "1"),
        Quantity("drag", "linear drag", "1"),
    )
    velocity = ("u", "v")
    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 64,
        length: Varying = 6.283185307179586,
        dt: Varying = 0.007012483601762931,  # 0.5 dx / 7 on 64 cells
        viscosity: Varying = 1e-3,
        amplitude: Varying = 1.0,
        drag: Varying = 0.1,
        waves: int = 4,
        peak: float = 4.0,
        speed: float = 7.0,
        refinement: int = 32,
        substeps: int = 32,
        burn_in: int = 5832,  # 40.9 time units
    ):
        super().__init__(points, substeps, burn_in, refinement)
        _check(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "viscosity": Distribution.of("viscosity", viscosity, at_least=0.0),
            "amplitude": Distribution.of("amplitude", amplitude, at_least=0.0),
            "drag": Distribution.of("drag", drag, at_least=0.0),
        }
        for name, value in {"peak": peak, "speed": speed}.items():
            Distribution.of(name, value)
        self.waves, self.peak, self.speed = waves, peak, speed
        shortest = self.distributions["length"].low / self.resolution
        needed = speed * self.distributions["dt"].high / (COURANT * shortest)
        if substeps < 0.999 * needed:
            raise UserError(
                f"{substeps} substeps carry the largest speed {speed:g} further than "
                f"{COURANT:g} cells: take at least {math.ceil(0.999 * needed)}"
            )
        self._warn_if_coarse()

    def _warn_if_coarse(self) -> None:
        longest, thinnest = self.distributions["length"].high, self.distributions["viscosity"].low
        needed = self.speed * longest / (CELL_REYNOLDS * max(thinnest, 1e-300))
        if self.resolution < needed:
            log.warning(
                "%d cells leave viscosity %g to the scheme's own dissipation: %s would resolve it",
                self.resolution,
                thinnest,
                f"{2 * math.ceil(needed / 2)}" if thinnest else "no grid",
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial states; the draw doesn't depend on `points`."""
        parameters = self._draw(generators)
        states = [self._initial(generator) for generator in generators]
        return parameters, np.array(states).reshape(-1, 2, self.resolution, self.resolution)

    def _initial(self, generator: np.random.Generator) -> Float[np.ndarray, "2 x y"]:
        """Differences of a stream function between corners, which are exact averages over faces."""
        highest = math.ceil(8 * self.peak)
        index = np.arange(-highest, highest + 1)
        wavenumber = np.hypot(*np.meshgrid(index, index))
        shape = wavenumber.shape
        noise = generator.normal(size=shape) + 1j * generator.normal(size=shape)
        wavenumber[highest, highest] = np.inf
        variance = 0.25
        distance = np.log(self.peak) + variance - np.log(wavenumber)
        density = np.exp(-(distance**2) / (2 * variance)) / wavenumber
        coefficients = density * noise / wavenumber

        def corners(points: int) -> Float[np.ndarray, "x_corners y_corners"]:
            waves = np.exp(2j * np.pi / points * np.outer(np.arange(points + 1), index))
            return np.asarray((waves @ coefficients @ waves.T).real)

        def velocity(points: int) -> Float[np.ndarray, "2 x y"]:
            stream = corners(points) * points
            return np.stack([np.diff(stream[1:], axis=1), -np.diff(stream[:, 1:], axis=0)])

        fine = velocity(4 * highest)  # fine enough to find the largest speed
        return velocity(self.resolution) * (self.speed / np.hypot(*fine).max())

    def _solver(self, at: Discretisation) -> PeriodicMACSolver:
        """Build the MAC-grid solver of a batch of trajectories."""
        points = at.points
        _check(points)
        values = at.parameters
        spacing = values["length"] / points
        return PeriodicMACSolver(
            grid=(points, points),
            spacing=(spacing, spacing),
            **at.timing,
            viscosity=values["viscosity"],
            force=self._force(values["amplitude"], points),
            drag=values["drag"],
        )

    def _force(self, amplitude: Tensor, points: int) -> Float[Tensor, "batch 2 1 y"]:
        """Averages of amplitude sin(2 pi waves y / length) over the right faces."""
        half = torch.pi * self.waves / points
        middle = torch.arange(points, dtype=torch.float64, device=amplitude.device) + 0.5
        profile = torch.sin(2 * half * middle) * (math.sin(half) / half if half else 1.0)
        along_x = amplitude[:, None, None, None] * profile
        return torch.cat([along_x, torch.zeros_like(along_x)], dim=1)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Average down over coarse faces, or interpolate up; neither adds divergence.

        Raises
        ------
        UserError
            Neither grid divides the other.
        """
        old = state.shape[-1]
        if old % points == 0:
            return coarsen(state, old // points)
        if points % old == 0:
            return refine_periodic(state, points // old)
        raise UserError(f"points must divide {old} or be a multiple of it, is {points}")

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean velocity, which the fluxes conserve; it starts at zero, where drag keeps it."""
        mean = state.mean(axis=(-2, -1))
        return {"mean_u": mean[..., 0], "mean_v": mean[..., 1]}

    def derived(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Vorticity on the upper right corners of cells, where both differences are centred."""
        u, v = state[..., 0, :, :], state[..., 1, :, :]
        spacing = (parameters["length"] / state.shape[-1])[..., None, None]
        along_x = np.roll(v, -1, axis=-2) - v
        along_y = np.roll(u, -1, axis=-1) - u
        return {"vorticity": (along_x - along_y) / spacing}


def _check(points: int) -> None:
    if points < 8 or points % 2:
        even = max(8, points + points % 2)
        raise UserError(f"points must be even and at least 8, is {points}; take {even}")
