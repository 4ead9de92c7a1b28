"""Gray-Scott reaction-diffusion equations in two dimensions."""

import logging
import math
from collections.abc import Sequence
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

log = logging.getLogger(__name__)


class GrayScott(AbstractEquation):
    """Two substances on a periodic square, v feeding on u.

        u_t = diffusivity_u Laplacian(u) - u v^2 + feed (1 - u)
        v_t = diffusivity_v Laplacian(v) + u v^2 - (feed + kill) v

    `feed` and `kill` decide between spots, stripes and labyrinths that divide, wander or rest
    (Pearson, 1993, Science 261, 189).

    Initial conditions are ours: u = 1 and v = 0 except in `seeds` Gaussian spots anywhere, where u
    falls to 1/2 and v rises to 1/2, of standard deviation 2 sqrt(diffusivity_u / feed): with v at
    1/4, or larger spots, many die.

    Parameters
    ----------
    points
        Grid points along both axes, even.
    length
        Length of the square.
    dt
        Time between frames.
    feed, kill
        Rates, positive.
    diffusivity_u, diffusivity_v
        Positive.
    seeds
        Number of spots.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, a grid too coarse for the patterns, or steps too long.
    """

    fields = (Quantity("u", "concentration of food", "1"), Quantity("v", "concentration", "1"))
    parameters = (
        Quantity("length", "domain length", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("feed", "feed rate", "1"),
        Quantity("kill", "kill rate", "1"),
        Quantity("diffusivity_u", "diffusivity of u", "1"),
        Quantity("diffusivity_v", "diffusivity of v", "1"),
    )
    boundary = ("periodic", "periodic")

    def __init__(
        self,
        points: int = 128,
        length: Varying = 1.0,
        dt: Varying = 10.0,
        feed: Varying = {"uniform": (0.025, 0.04)},  # noqa: B006  (never changed)
        kill: Varying = {"uniform": (0.057, 0.062)},  # noqa: B006
        diffusivity_u: Varying = 2e-5,
        diffusivity_v: Varying = 1e-5,
        seeds: int = 8,
        substeps: int = 4,
        burn_in: int = 0,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        check_points(points)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "feed": Distribution.of("feed", feed),
            "kill": Distribution.of("kill", kill),
            "diffusivity_u": Distribution.of("diffusivity_u", diffusivity_u),
            "diffusivity_v": Distribution.of("diffusivity_v", diffusivity_v),
        }
        self.seeds = seeds
        self.integrator = etdrk(integrator)
        if seeds < 1:
            raise UserError(f"seeds must be at least 1, is {seeds}")
        self._check()

    def _check(self) -> None:
        d = self.distributions
        # v grows at a rate of about 1/16 where it spreads, so its edges are about tanh(x / w) with
        # w = 2 sqrt(16 diffusivity_v): their waves fall as exp(-pi k w / 2), to 1e-3 at half of
        # the highest (measured: 2e-2 at half as many points)
        width = 8 * math.sqrt(d["diffusivity_v"].low)
        wanted = 2 * math.ceil(1.42 * d["length"].high / width)
        said = f"{self.points} points: {wanted} resolve the patterns"
        if 3 * self.points < wanted:
            raise UserError(f"too few: {said}, take at least {2 * math.ceil(wanted / 6)}")
        if self.points < wanted:
            log.warning("patterns may ring with %s", said)
        needed = math.ceil(d["dt"].high / 5.0)  # u v^2 changes at rates below 1/2
        if self.substeps < needed:
            raise UserError(f"{self.substeps} substeps are unstable: take at least {needed}")

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and spots; the draw doesn't depend on `points`."""
        parameters, points = self._draw(generators), self.resolution
        x, states = np.arange(points) / points, []
        width = 2 * np.sqrt(parameters["diffusivity_u"] / parameters["feed"])
        for generator, spread in zip(generators, width / parameters["length"], strict=True):
            spots = np.zeros((points, points))
            for centre in generator.uniform(0, 1, (self.seeds, 2)):
                # periodic, and near its top a Gaussian of standard deviation `spread`
                bumps = [
                    (np.cos(2 * np.pi * (x - c)) - 1) / (2 * np.pi * spread) ** 2 for c in centre
                ]
                spots += np.exp(bumps[0][:, None] + bumps[1])
            spots = 1 - np.exp(-spots)
            states.append([1 - spots / 2, spots / 2])
        return parameters, np.array(states).reshape(-1, 2, points, points)

    def _solver(self, at: Discretisation) -> SpectralSolver:
        """Build the spectral solver of a batch of trajectories."""
        grid = at.grid
        check_points(grid)
        columns = at.columns
        length, _, feed, kill, diffusivity_u, diffusivity_v = columns.values()
        squares = (2 * torch.pi / length) ** 2 * sum(i.to(at.device) ** 2 for i in indices(grid))
        linear = torch.cat([-diffusivity_u * squares, -diffusivity_v * squares], 1)
        # Feed and kill nearly balance the reaction, so they are advanced together: split, the same
        # error would need nearly twice as many steps.
        losses = torch.cat([-feed, -feed - kill], 1).to(at.dtype.to_complex())
        inflow = feed[:, 0, 0].to(at.dtype)  # a constant: wave 0 only

        def react(spectrum: Tensor) -> Tensor:
            u, v = inverse(spectrum, grid).unbind(1)
            consumed = forward(u * v * v, 2)
            both = torch.stack([-consumed, consumed], 1).addcmul_(losses, spectrum)
            both[:, 0, 0, :1] += inflow
            return both

        return SpectralSolver(
            linear=linear,
            symbol=torch.ones_like(linear),
            product=react,
            grid=grid,
            integrator=self.integrator,
            **at.timing,
            fraction=1 / 2,
        )
