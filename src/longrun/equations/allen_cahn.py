"""Allen-Cahn equation in one or two dimensions."""

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
)
from longrun.runtime.cli import UserError
from longrun.solvers.etdrk import etdrk
from longrun.solvers.spectral import SpectralSolver, check_points, forward, indices, inverse
from longrun.solvers.waves import random_field

log = logging.getLogger(__name__)


class AllenCahn(AbstractEquation):
    """u_t = diffusivity Laplacian(u) + reaction (u - u^3) on a periodic box.

    u goes to 1 or -1, with interfaces tanh(x sqrt(reaction / (2 diffusivity))) in between,
    which in two dimensions move by their curvature. The energy, the mean of
    diffusivity |grad u|^2 / 2 + reaction (u^2 - 1)^2 / 4, never grows.

    Initial conditions:

    - "cosine": s^2 cos(pi s), s from -1 to 1 along x: with diffusivity 1e-4, reaction 5 and length
      2 the benchmark of Wang et al. (2022), arXiv:2203.07404;
    - "waves": random functions of mean 0 and root mean square `amplitude`; ours.

    Parameters
    ----------
    points
        Stored grid points along every axis, even.
    dims
        Number of axes.
    length
        Length of the box along every axis.
    dt
        Time between frames.
    diffusivity
        Positive.
    reaction
        Positive.
    initial
        Initial condition, see above.
    amplitude, highest
        With "waves": root mean square, and highest number of periods.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    refinement
        The solver's grid has this many times the stored points.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for interfaces or waves, or steps too long.
    """

    fields = (Quantity("u", "phase", "1"),)
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity", "diffusivity", "1"),
        Quantity("reaction", "reaction rate", "1"),
    )

    def __init__(
        self,
        points: int = 512,
        dims: Literal[1, 2] = 1,
        length: Varying = 2.0,
        dt: Varying = 0.05,
        diffusivity: Varying = 1e-4,
        reaction: Varying = 5.0,
        initial: Literal["cosine", "waves"] = "waves",
        amplitude: float = 0.5,
        highest: int = 6,
        substeps: int = 10,
        burn_in: int = 0,
        refinement: int = 1,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in, refinement)
        check_points(self.resolution)
        self.boundary = ("periodic",) * dims
        self.derivatives = ("t", "xx", "yy")[: 1 + dims]
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "diffusivity": Distribution.of("diffusivity", diffusivity),
            "reaction": Distribution.of("reaction", reaction),
        }
        self.initial, self.amplitude, self.highest = initial, amplitude, highest
        self.integrator = etdrk(integrator)
        if amplitude <= 0:
            raise UserError(f"amplitude must be positive, is {amplitude:g}")
        if highest < 1:
            raise UserError(f"highest must be at least 1, is {highest}")
        if points <= 4 * highest and initial == "waves":
            raise UserError(
                f"{points} points are too few for waves of {highest} periods: "
                f"take at least {4 * highest + 2}"
            )
        self._check()

    def _check(self) -> None:
        d = self.distributions
        steepness = math.sqrt(d["reaction"].high / (2 * d["diffusivity"].low))
        # waves of tanh(q x) fall as exp(-pi k / (2 q)): 1e-3 at half of the highest
        wanted = 2 * math.ceil(1.4 * d["length"].high * steepness)
        said = f"{self.resolution} points (points x refinement): {wanted} resolve the interfaces"
        if 3 * self.resolution < wanted:
            raise UserError(f"too few: {said}, take at least {2 * math.ceil(wanted / 6)}")
        if self.resolution < wanted:
            log.warning("interfaces may ring with %s", said)
        # u^3 falls back to 1 at rate 3 reaction, explicitly
        needed = math.ceil(3 * d["reaction"].high * d["dt"].high / 2)
        if self.substeps < needed:
            raise UserError(
                f"{self.substeps} substeps are unstable for reaction {d['reaction'].high:g}: "
                f"take at least {needed}"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and initial conditions; the draw doesn't depend on the grid."""
        parameters, grid = self._draw(generators), self.grid(self.resolution)
        if self.initial == "waves":
            rows = [self.amplitude * random_field(g, grid, self.highest) for g in generators]
        else:
            s = 2 * np.arange(grid[0]) / grid[0] - 1
            profile = (s**2 * np.cos(np.pi * s)).reshape(-1, *[1] * (self.dims - 1))
            rows = [np.broadcast_to(profile, grid) for _ in generators]
        return parameters, np.array(rows).reshape(-1, 1, *grid)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        length, _, diffusivity, reaction = at.columns.values()
        squares = sum(index.to(at.device) ** 2 for index in indices(grid))
        linear = reaction - diffusivity * (2 * torch.pi / length) ** 2 * squares

        def cube(spectrum: Tensor) -> Tensor:
            u = inverse(spectrum, grid)
            return forward(u * u * u, self.dims)

        return SpectralSolver(
            linear=linear,
            symbol=-reaction * torch.ones_like(linear),
            product=cube,
            grid=grid,
            integrator=self.integrator,
            **at.timing,
            fraction=1 / 2,
        )

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return every `refinement`-th value along every axis."""
        skip = slice(None, None, self.refinement)
        return state[..., skip] if self.dims == 1 else state[..., skip, skip]

    def residual(
        self,
        u: Mapping[str, Float[Tensor, "*point field"]],
        at: Mapping[str, Float[Tensor, "*point"]],
        parameters: Mapping[str, Float[Tensor, ""]],
    ) -> Float[Tensor, "*point field"]:
        """Return u_t - diffusivity Laplacian(u) - reaction (u - u^3)."""
        laplacian = u["xx"] + u["yy"] if self.dims == 2 else u["xx"]
        reacted = parameters["reaction"] * (u[""] - u[""] ** 3)
        return u["t"] - parameters["diffusivity"] * laplacian - reacted
