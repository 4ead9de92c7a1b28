"""Shallow water equations in two dimensions."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import erf
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
    hllc_shallow,
    resample,
)

SAMPLES = 4  # points per cell and axis from which the averages of an initial condition are taken
DRY = 1e-12  # depth at a face whose bottom stands above the water
WIDTH = 0.1  # of the bump, over the length of the box


class ShallowWater(AbstractEquation):
    """Depth and momentum of a layer of water over a bottom b, optionally rotating.

    h_t + div(h v) = 0,
    (h v)_t + div(h v v + gravity h^2 / 2) = -gravity h grad(b) + coriolis h (v_y, -v_x).

    The solver is MUSCL-HLLC-SSP-RK3 with the hydrostatic reconstruction of Audusse et al. (2004):
    water at rest over any bottom stays at rest. Averages of depth and momentum are advanced;
    depth and velocity are stored. Depths are positive: beds don't fall dry.

    The radial dam break in a square of open ends is the case of PDEBench (Takamoto et al., 2022,
    arXiv:2210.07182), whose numbers are from memory, not checked: depth 2 in a
    circle of radius U(0.3, 0.7) in the middle of a square of length 5, depth 1 outside. The rest
    is our own choice:

    - `dam`: as above, the radius being U(0.06, 0.14) of the length.
    - `waves`: depth 1 with a perturbation of root mean square 0.1, velocity of root mean square 0.1
      times the speed of gravity waves; each a sum of four waves of up to three periods per axis.
    - `rest`: a level surface at depth 1 (less the bottom) without motion; tests bottoms.

    The bottom `bump` is a Gaussian of width 0.1 of the length in the middle of the box.

    Parameters
    ----------
    points
        Stored cells along each axis.
    initial
        Family of initial conditions, see above.
    topography
        The bottom.
    bump_height
        Height of the bump, below the smallest depth of the water.
    edges
        What happens at all ends of the box.
    length
        Length of the box along each axis.
    dt
        Time between frames.
    gravity
        Acceleration of gravity.
    coriolis
        Coriolis parameter, of either sign.
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

    fields = (
        Quantity("h", "depth", "1"),
        Quantity("u", "velocity along x", "1"),
        Quantity("v", "velocity along y", "1"),
    )
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("gravity", "acceleration of gravity", "1"),
        Quantity("coriolis", "Coriolis parameter", "1"),
    )
    centred = True

    def __init__(
        self,
        points: int = 128,
        initial: Literal["dam", "waves", "rest"] = "waves",
        topography: Literal["none", "bump"] = "none",
        bump_height: float = 0.3,
        edges: Literal["periodic", "outflow", "reflecting"] = "periodic",
        length: Varying = 5.0,
        dt: Varying = 0.01,
        gravity: Varying = 1.0,
        coriolis: Varying = 0.0,
        substeps: int = 2,
        burn_in: int = 0,
        refinement: int = 1,
    ):
        super().__init__(points, substeps, burn_in, refinement)
        if points < 4:
            raise UserError(f"points must be at least 4, is {points}")
        if not 0 <= bump_height <= 0.5:
            raise UserError(f"bump_height must be from 0 to 0.5, is {bump_height:g}; take 0.3")
        self.initial = initial
        self.bump_height = bump_height if topography == "bump" else 0.0
        self.boundary = (edges, edges)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "gravity": Distribution.of("gravity", gravity),
            "coriolis": Distribution.of("coriolis", coriolis, above=-math.inf),
        }

    def bottom(self, points: int) -> Float[np.ndarray, "x y"]:
        """Return the exact averages of the bottom over the cells of a grid."""
        edges = (np.arange(points + 1) / points - 0.5) / WIDTH
        mean = np.diff(erf(edges / math.sqrt(2))) * math.sqrt(math.pi / 2) * WIDTH * points
        return self.bump_height * mean[:, None] * mean

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
        fine = SAMPLES * self.resolution
        middle = (np.arange(fine) + 0.5) / fine
        x, y = np.meshgrid(middle, middle, indexing="ij", sparse=True)
        states = np.empty((len(generators), 3, *self.grid(self.resolution)))
        for number, generator in enumerate(generators):
            of_this = {name: values[number] for name, values in parameters.items()}
            surface, u, v = self._start(generator, x, y, math.sqrt(of_this["gravity"]))
            depth = surface - self.bottom(fine)
            cells = torch.from_numpy(np.stack([depth, depth * u, depth * v])[None])
            cells = coarsen(coarsen(cells, SAMPLES, 0), SAMPLES, 1)
            states[number] = _primitive(cells.transpose(0, 1)).transpose(0, 1)[0]
            self._check(states[number], of_this)
        return parameters, states

    def _solver(self, at: Discretisation) -> "_Solver":
        """Build the finite volume solver of a batch of trajectories."""
        length, _, gravity, coriolis = at.parameters.values()
        return _Solver(
            gravity,
            coriolis,
            torch.from_numpy(self.bottom(at.points)).to(at.device, at.dtype)
            if self.bump_height
            else None,
            spacing=length / at.points,
            boundary=self.boundary,
            **at.timing,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Move states to another grid; mass and momentum are kept, and so is a level surface."""
        here = state.shape[-1]
        if points == here:
            return state
        below, above = (torch.from_numpy(self.bottom(n)).to(state) for n in (here, points))
        cells = torch.cat([state[:, :1] + below, state[:, :1] * state[:, 1:]], 1)
        cells = resample(cells, self.grid(points), self.boundary)
        depth = cells[:, :1] - above
        return torch.cat([depth, cells[:, 1:] / depth], 1)

    def invariants(
        self,
        state: Float[np.ndarray, "..."],
        parameters: Mapping[str, Float[np.ndarray, "..."]],
    ) -> dict[str, Float[np.ndarray, "..."]]:
        """Mean depth, and mean momentum where neither walls, bottom nor rotation change it."""
        if self.boundary[0] == "outflow":
            return {}
        depth, u, v = np.moveaxis(state, -3, 0)
        found = {"mass": depth.mean((-2, -1))}
        rotation = self.distributions["coriolis"]
        flat = not self.bump_height and rotation.low == rotation.high == 0
        if self.boundary[0] == "periodic" and flat:
            found |= {
                "momentum_x": (depth * u).mean((-2, -1)),
                "momentum_y": (depth * v).mean((-2, -1)),
            }
        return found

    def _start(
        self, generator: np.random.Generator, x: np.ndarray, y: np.ndarray, wave_speed: float
    ) -> list[np.ndarray]:
        """Draw surface and velocity at points; coordinates in lengths of the box."""
        rest = np.zeros(np.broadcast_shapes(x.shape, y.shape))
        if self.initial == "rest":
            return [1 + rest, rest, rest]
        if self.initial == "dam":
            radius = generator.uniform(0.06, 0.14)
            return [1.0 + ((x - 0.5) ** 2 + (y - 0.5) ** 2 < radius**2), rest, rest]
        surface, u, v = (_waves(generator, x, y) for _ in range(3))
        speed = 0.1 * wave_speed / math.sqrt(2)
        return [1 + 0.1 * surface, speed * u, speed * v]

    def _check(self, state: np.ndarray, parameters: Mapping[str, float]) -> None:
        depth, u, v = state
        waves = (np.abs(u) + np.abs(v) + 2 * np.sqrt(parameters["gravity"] * depth)).max()
        cells = self.resolution / parameters["length"]
        check_substeps(self.substeps, parameters["dt"] * waves * cells)


class _Solver(AbstractFiniteVolumeSolver):
    """MUSCL-HLLC for rotating shallow water over a bottom."""

    def __init__(
        self,
        gravity: Float[Tensor, " batch"],
        coriolis: Float[Tensor, " batch"],
        bottom: Float[Tensor, "x y"] | None,
        spacing: Float[Tensor, " batch"],
        boundary: Sequence[str],
        frame: Float[Tensor, " batch"],
        steps: int,
        dtype: torch.dtype,
    ):
        super().__init__(spacing, boundary, frame, steps, dtype)
        self.gravity, self.coriolis = self._shaped(gravity), self._shaped(coriolis)
        self.rotating = bool((coriolis != 0).any())
        self.bottom = bottom

    def conserved(self, state: Tensor) -> Tensor:
        return torch.cat([state[:1], state[:1] * state[1:]])

    def primitive(self, cells: Tensor) -> Tensor:
        return _primitive(cells)

    def admissible(self, cells: Tensor) -> Tensor:
        return cells[0] > 0

    def sweep(self, state: Tensor, axis: int, keep: Tensor | None) -> Tensor:
        dim = 2 + axis
        if self.bottom is None:
            left, right = self.sides(state, axis, keep, odd=[1 + axis])
            return hllc_shallow(left, right, self.gravity, axis).diff(dim=dim)
        surface = state[:1] + self.bottom
        left, right = self.sides(torch.cat([state, surface]), axis, keep, odd=[1 + axis])
        highest = torch.maximum(left[3] - left[0], right[3] - right[0])
        at_face = [
            torch.cat([(side[3] - highest).clamp_min(DRY)[None], side[1:3]])
            for side in (left, right)
        ]
        flux = hllc_shallow(at_face[0], at_face[1], self.gravity, axis)
        # seen from each cell, the pressure at a face is that of the cell's own depth there
        push = [
            0.5 * self.gravity * (side[0].square() - cut[0].square())
            for side, cut in zip((left, right), at_face, strict=True)
        ]
        points = state.shape[dim]
        change = flux.diff(dim=dim)
        low, high = right.narrow(dim, 0, points), left.narrow(dim, 1, points)
        slope = (high[3] - high[0]) - (low[3] - low[0])
        extra = (
            push[0].narrow(dim - 1, 1, points)
            - push[1].narrow(dim - 1, 0, points)
            + 0.5 * self.gravity * (low[0] + high[0]) * slope
        )
        parts = list(change.unbind(0))
        parts[1 + axis] = parts[1 + axis] + extra
        return torch.stack(parts)

    def source(self, state: Tensor) -> Tensor | None:
        if not self.rotating:
            return None
        depth, u, v = state.unbind(0)
        force = self.coriolis * depth
        return torch.stack([torch.zeros_like(depth), force * v, -force * u])


def _primitive(
    cells: Float[Tensor, "channel batch *space"],
) -> Float[Tensor, "channel batch *space"]:
    """Return depth and velocity from depth and momentum."""
    return torch.cat([cells[:1], cells[1:] / cells[:1]])


def _waves(generator: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw a sum of four waves of root mean square 1 at most."""
    waves = generator.integers(-3, 4, (4, 2))
    waves[:, 0] = np.where((waves == 0).all(1), 1, waves[:, 0])
    phases = generator.uniform(0, 2 * np.pi, 4)
    sizes = generator.uniform(0, 1, 4)
    sizes /= np.sqrt((sizes**2).sum() / 2)
    angles = [
        2 * np.pi * (k * x + m * y) + phase for (k, m), phase in zip(waves, phases, strict=True)
    ]
    return np.sum([size * np.sin(angle) for size, angle in zip(sizes, angles, strict=True)], axis=0)
