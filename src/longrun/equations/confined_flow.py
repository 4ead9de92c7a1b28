"""Incompressible flow between walls: lid-driven cavity, start-up of a channel, cylinder wake."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

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
    Walls,
)
from longrun.runtime.cli import UserError
from longrun.solvers.confined import ConfinedMACSolver, refine_confined
from longrun.solvers.mac import coarsen

log = logging.getLogger(__name__)

COURANT = 0.5  # of the steps, at the largest speed
FASTEST = {"cavity": 1.0, "channel": 1.5, "cylinder": 2.0}  # largest speed over the given one
CELL_REYNOLDS = 50.0  # about two cells in a boundary layer at 10 000
CELLS_PER_RADIUS = 3.0
POROSITY = 0.02  # of a body: time in which it stops fluid, times speed / radius
RIM = 1 / 16  # width of a body's edge, in radii
HIGHEST = 4  # waves of the perturbation along each axis


class ConfinedFlow(AbstractEquation):
    """u_t + div(u u) = -grad p / density + viscosity / density lap u, div u = 0, between walls.

    Three of the four flows of CFDBench (Luo, Chen and Zhang, 2023, arXiv:2310.05963), in one phase:

    - "cavity": fluid at rest in a closed box, whose upper wall slides at `speed` from the start.
    - "channel": fluid enters on the left at `speed`, sticks to the walls below and above, and
      leaves on the right; it all moves at that speed at the start, and boundary layers grow into a
      parabola. In CFDBench's "tube" water enters a tube full of air, two phases by the
      volume-of-fluid method; this is its one-phase variant.
    - "cylinder": the channel with a circular cylinder in it, which sheds vortices. The cylinder is
      a medium that resists the flow (volume penalisation), the same on every grid.

    The original tube, and the dam (water over a barrier), need two phases and are left out.

    Stored fields are averages over the faces of cells: u over the right face of each cell, at
    ((i + 1) dx, (j + 1/2) dy), v over its upper face, at ((i + 1/2) dx, (j + 1) dy). With the
    speed they are all that a solver needs: u on the left edge is zero or the inlet's, v below is
    zero; values on walls are stored as zeros. The parameters say where the cylinder is.

    Parameters
    ----------
    flow
        "cavity", "channel" or "cylinder".
    points
        Stored cells along each axis, times `aspect`.
    aspect
        Cells along each axis, as multiples of `points`.
    length, length_y
        Size of the box.
    dt
        Time between frames.
    speed
        Of the lid or at the inlet.
    density
        Of the fluid.
    viscosity
        Dynamic.
    radius, centre_x, centre_y
        Of the cylinder; unused without one.
    perturbation
        Largest speed, relative to `speed`, of smooth random vortices at the start. Without them the
        wake of a cylinder stays symmetric for a long time.
    refinement
        Cells of the reference solver per stored cell, along each axis.
    substeps
        Steps of the reference solver per frame.
    burn_in
        Frames to discard before the first frame that is kept.

    Raises
    ------
    UserError
        Impossible parameters, a step too long for the grid, or a cylinder that the grid can't hold.
    """

    fields = (
        Quantity("u", "velocity along x, on right faces", "m/s"),
        Quantity("v", "velocity along y, on upper faces", "m/s"),
    )
    centred = True
    rim: tuple[tuple[int, int], ...]
    time_unit = "s"

    def __init__(
        self,
        flow: Literal["cavity", "channel", "cylinder"] = "cavity",
        points: int = 64,
        aspect: Sequence[int] = (1, 1),
        length: Varying = 1.0,
        length_y: Varying = 1.0,
        dt: Varying = 0.1,
        speed: Varying = 1.0,
        density: Varying = 1.0,
        viscosity: Varying = 0.01,
        radius: Varying = 0.1,
        centre_x: Varying = 0.5,
        centre_y: Varying = 0.5,
        perturbation: float = 0.0,
        refinement: int = 1,
        substeps: int = 16,
        burn_in: int = 1,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        if len(aspect) != 2 or min(aspect) < 1:
            raise UserError(f"aspect must be two positive numbers, is {list(aspect)}")
        Distribution.of("perturbation", perturbation, at_least=0.0)
        self.flow, self.aspect, self.perturbation = flow, tuple(aspect), perturbation
        _check(self.grid())
        given = {
            "length": (length, "length of the box", "m"),
            "length_y": (length_y, "height of the box", "m"),
            "dt": (dt, "time between frames", "s"),
            "speed": (speed, "speed of the lid" if flow == "cavity" else "inlet speed", "m/s"),
            "density": (density, "density", "kg/m^3"),
            "viscosity": (viscosity, "dynamic viscosity", "Pa s"),
            "radius": (radius, "radius of the cylinder", "m"),
            "centre_x": (centre_x, "centre of the cylinder along x", "m"),
            "centre_y": (centre_y, "centre of the cylinder along y", "m"),
        }
        names = list(given)[: 9 if flow == "cylinder" else 6]
        self.parameters = tuple(Quantity(name, *given[name][1:]) for name in names)
        self.distributions = {name: Distribution.of(name, given[name][0]) for name in names}
        sides = "no-slip walls" if flow == "cavity" else "velocity inlet, outlet"
        ends = "no-slip wall, sliding lid" if flow == "cavity" else "no-slip walls"
        self.boundary = (sides, ends)
        self.rim = ((1, 1 if flow == "cavity" else 0), (1, 1))  # nothing holds at an outlet
        self._check_steps()
        if flow == "cylinder":
            self._check_cylinder()

    def _cells(self) -> list[float]:
        """Smallest size of the reference solver's cells along each axis."""
        lengths = (self.distributions[name].low for name in ("length", "length_y"))
        return [low / cells for low, cells in zip(lengths, self.grid(self.resolution), strict=True)]

    def _check_steps(self) -> None:
        of, size = self.distributions, min(self._cells())
        fastest = FASTEST[self.flow] * of["speed"].high
        needed = fastest * of["dt"].high / (COURANT * size)
        if self.substeps < 0.999 * needed:
            raise UserError(
                f"{self.substeps} substeps carry the largest speed, {fastest:g}, further than "
                f"{COURANT:g} cells: take at least {math.ceil(0.999 * needed)}"
            )
        longest = max(
            of[name].high / cells
            for name, cells in zip(("length", "length_y"), self.grid(self.resolution), strict=True)
        )
        reynolds = of["speed"].high * of["density"].high * longest / of["viscosity"].low
        if reynolds > CELL_REYNOLDS:
            wanted = math.ceil(self.resolution * reynolds / CELL_REYNOLDS)
            log.warning(
                "%d points leave boundary layers at viscosity %g unresolved: %d would resolve them",
                self.resolution,
                of["viscosity"].low,
                wanted + wanted % 2,
            )

    def _check_cylinder(self) -> None:
        of = self.distributions
        for name, side in (("centre_x", "length"), ("centre_y", "length_y")):
            room = of[side].low - of["radius"].high
            if of[name].low <= of["radius"].high or of[name].high >= room:
                raise UserError(
                    f"{name} must be between {of['radius'].high:g} and {room:g} for the cylinder "
                    f"to be inside, is {of[name].low:g} to {of[name].high:g}"
                )
        largest = max(
            of[side].high / cells
            for side, cells in zip(("length", "length_y"), self.grid(self.resolution), strict=True)
        )
        if of["radius"].low < CELLS_PER_RADIUS * largest:
            needed = CELLS_PER_RADIUS * largest * self.resolution / of["radius"].low
            needed = 2 * math.ceil(needed / 2)
            raise UserError(
                f"{self.resolution} points are too few for a cylinder of radius "
                f"{of['radius'].low:g}: at least {needed} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and vortices; the draw doesn't depend on `points`."""
        parameters = self._draw(generators)
        grid = self.grid(self.resolution)
        states = np.zeros((len(generators), 2, *grid))
        for i, (state, generator) in enumerate(zip(states, generators, strict=True)):
            row = {name: value[i] for name, value in parameters.items()}
            if self.flow != "cavity":
                state[0] = row["speed"]
            coefficients = generator.normal(size=(HIGHEST, HIGHEST))
            box = row["length"], row["length_y"]
            largest = np.hypot(*_vortices(coefficients, (64, 64), box)).max()
            vortices = _vortices(coefficients, grid, box)
            state += self.perturbation * row["speed"] / largest * vortices
        return parameters, states

    def _solver(self, at: Discretisation) -> ConfinedMACSolver:
        """Build the MAC-grid solver of a batch of trajectories."""
        nx, ny = grid = at.grid
        _check(grid)
        values = at.parameters
        closed = self.flow == "cavity"
        return ConfinedMACSolver(
            grid=(nx, ny),
            spacing=(values["length"] / nx, values["length_y"] / ny),
            **at.timing,
            viscosity=values["viscosity"] / values["density"],
            lid=values["speed"] if closed else torch.zeros_like(values["speed"]),
            inlet=None if closed else values["speed"],
            resistance=_resistance(values, (nx, ny)) if self.flow == "cylinder" else None,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Average down over coarse faces, or interpolate up; neither adds divergence.

        Raises
        ------
        UserError
            Neither grid divides the other.
        """
        old, new = state.shape[-2], self.grid(points)[0]
        if old % new == 0:
            return coarsen(state, old // new)
        if new % old == 0:
            return refine_confined(state, new // old)
        raise UserError(
            f"points must divide {old // self.grid(1)[0]} or be a multiple of it, is {points}"
        )

    def prescribed(self, parameters: Mapping[str, Float[Tensor, " batch"]]) -> Walls:
        """Return the velocity of walls, lid and inlet, and zero in the cylinder.

        Faces on an edge of the box are in the rim before the first cell and in the last stored one;
        where a component has no face there, the rim holds its value on the edge.
        """
        nx, ny = self.grid()
        (left, right), (below, above) = self.rim
        speed = parameters["speed"]
        shape = (len(speed), 2, left + nx + right, below + ny + above)
        values, free = speed.new_zeros(shape), torch.zeros(shape, dtype=torch.bool)
        free = free.to(speed.device)
        inner = free[..., left : left + nx, below : below + ny]
        inner[:] = True
        inner[:, 1, :, -1] = False
        if self.flow == "cavity":
            inner[:, 0, -1] = False
            values[:, 0, :, -1] = speed[:, None]
        else:
            values[:, 0, 0, below : below + ny] = speed[:, None]
        if self.flow == "cylinder":
            inner &= _depth(parameters, (nx, ny)) < 0
        return Walls(values, free)

    def outflows(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Differences of the velocity between opposite faces of each cell; exact."""
        u, v = state[..., 0, :, :], state[..., 1, :, :]
        entering = 0.0 if self.flow == "cavity" else parameters["speed"][..., None, None]
        left = np.broadcast_to(entering, u[..., :1, :].shape)
        along_x = np.diff(np.concatenate([left, u], -2), axis=-2)
        along_y = np.diff(v, axis=-1, prepend=0.0)
        spacing = [
            (parameters[name] / cells)[..., None, None]
            for name, cells in zip(("length", "length_y"), u.shape[-2:], strict=True)
        ]
        return {"x": along_x / spacing[0], "y": along_y / spacing[1]}

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean velocity along x: what enters leaves through every cross-section."""
        return {"flow_rate": state[..., 0, :, :].mean(axis=(-2, -1))}


def _check(grid: tuple[int, ...]) -> None:
    if min(grid) < 8:
        raise UserError(
            f"each axis needs at least 8 cells, the grid has {' x '.join(map(str, grid))}"
        )


def _vortices(
    coefficients: Float[np.ndarray, "waves_x waves_y"],
    grid: tuple[int, ...],
    box: tuple[float, float],
) -> Float[np.ndarray, "2 x y"]:
    """Velocity whose stream function is a sum of products of sines, averaged over faces."""
    waves = [
        np.sin(np.pi * np.outer(np.arange(cells + 1) / cells, np.arange(1, HIGHEST + 1)))
        for cells in grid
    ]
    index = np.arange(1, HIGHEST + 1)
    stream = waves[0] @ (coefficients / np.add.outer(index**2, index**2)) @ waves[1].T
    stream[:, [0, -1]] = 0
    stream[[0, -1]] = 0
    dx, dy = (length / cells for length, cells in zip(box, grid, strict=True))
    return np.stack([np.diff(stream[1:], axis=1) / dy, -np.diff(stream[:, 1:], axis=0) / dx])


def _resistance(
    values: Mapping[str, Float[Tensor, " batch"]], grid: tuple[int, int]
) -> Float[Tensor, "batch 2 x y"]:
    """Rate at which the cylinder stops fluid on each face, with a rim that grids share."""
    speed, radius = (values[name][:, None, None, None] for name in ("speed", "radius"))
    inside = torch.sigmoid(_depth(values, grid) / (RIM * radius / 2))
    return inside * speed / (POROSITY * radius)


def _depth(
    values: Mapping[str, Float[Tensor, " batch"]], grid: tuple[int, int]
) -> Float[Tensor, "batch 2 x y"]:
    """How far each face is below the cylinder's surface; negative outside."""
    column = {name: value.reshape(-1, 1, 1) for name, value in values.items()}
    depths = []
    for offset_x, offset_y in ((1.0, 0.5), (0.5, 1.0)):
        x, y = (
            (torch.arange(cells, dtype=value.dtype, device=value.device) + offset) / cells * value
            for cells, offset, value in (
                (grid[0], offset_x, values["length"][:, None]),
                (grid[1], offset_y, values["length_y"][:, None]),
            )
        )
        distance = torch.hypot(
            x[:, :, None] - column["centre_x"], y[:, None, :] - column["centre_y"]
        )
        depths.append(column["radius"] - distance)
    return torch.stack(depths, 1)
