"""Diffusion and reaction of FitzHugh-Nagumo type, between impermeable walls."""

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
from longrun.solvers.cosine import CosineSolver, resample
from longrun.solvers.etdrk import etdrk


class DiffusionReaction(AbstractEquation):
    """Activator u and inhibitor v in a box with impermeable walls.

    u_t = diffusivity_u lap u + u - u^3 - threshold - v

    v_t = diffusivity_v lap v + u - v

    An inhibitor that spreads faster than the activator lets patterns grow (Turing). Equations,
    coefficients, box, times and grid are those of PDEBench's two-dimensional dataset (Takamoto et
    al., 2022, arXiv:2210.07182) from memory, not checked. There the initial condition is normal
    noise in every cell; here it is noise of unit variance that is white up to `modes` cosines along
    each axis, the same function on every grid.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    dt
        Time between frames.
    diffusivity_u, diffusivity_v
        Diffusivities of activator and inhibitor.
    threshold
        Constant sink of the activator.
    axes
        Number of axes of the box.
    modes
        Cosines of the initial noise along each axis, the constant included.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "etdrk4", "etdrk4b" where the linear part is stiff, "etdrk2" where tolerances are loose.

    Raises
    ------
    UserError
        Impossible parameters, or a grid too coarse for the fronts or for the noise.
    """

    fields = (
        Quantity("activator", "concentration of the activator", "1"),
        Quantity("inhibitor", "concentration of the inhibitor", "1"),
    )
    parameters = (
        Quantity("length", "length of a side", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity_u", "diffusivity of the activator", "1"),
        Quantity("diffusivity_v", "diffusivity of the inhibitor", "1"),
        Quantity("threshold", "sink of the activator", "1"),
    )
    centred = True

    def __init__(
        self,
        points: int = 128,
        length: Varying = 2.0,
        dt: Varying = 0.05,
        diffusivity_u: Varying = 1e-3,
        diffusivity_v: Varying = 5e-3,
        threshold: Varying = 5e-3,
        axes: Literal[1, 2] = 2,
        modes: int = 32,
        substeps: int = 2,  # with one, the first frame of noise has a relative error of 4e-3
        burn_in: int = 0,
        integrator: Literal["etdrk2", "etdrk4", "etdrk4b"] = "etdrk4",
    ):
        super().__init__(points, substeps, burn_in)
        self.distributions = {
            "length": Distribution.of("length", length),
            "dt": Distribution.of("dt", dt),
            "diffusivity_u": Distribution.of("diffusivity_u", diffusivity_u),
            "diffusivity_v": Distribution.of("diffusivity_v", diffusivity_v),
            "threshold": Distribution.of("threshold", threshold, above=-math.inf),
        }
        if modes < 2:
            raise UserError(f"modes must be at least 2, is {modes}")
        thinnest = min(self.distributions[f"diffusivity_{name}"].low for name in "uv")
        # fronts of u - u^3 are tanh(x / sqrt(8 diffusivity)) wide; two cells for that length
        front = math.ceil(2 * self.distributions["length"].high / math.sqrt(8 * thinnest))
        if points < front:
            raise UserError(
                f"{points} points are too few for diffusivity {thinnest:g}: "
                f"at least {front} are needed"
            )
        if points < modes:
            raise UserError(
                f"{points} points can't hold {modes} modes of noise: "
                f"at least {modes} are needed, or modes of at most {points}"
            )
        self.boundary = ("no flux",) * axes
        self.modes = modes
        self.integrator = etdrk(integrator)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and noise; the draw doesn't depend on `points`."""
        parameters = self._draw(generators)
        x = (np.arange(self.resolution) + 0.5) / self.resolution
        index = np.arange(self.modes)
        cosines = np.cos(np.pi * x[:, None] * index) * np.where(index > 0, np.sqrt(2), 1)
        cosines /= np.sqrt(self.modes)
        states = []
        for generator in generators:
            amplitude = generator.normal(size=(2,) + (self.modes,) * self.dims)
            field = amplitude @ cosines.T
            states.append(cosines @ field if self.dims == 2 else field)
        return parameters, np.array(states).reshape(-1, 2, *self.grid(self.resolution))

    def _solver(self, at: Discretisation) -> CosineSolver:
        """Build the cosine spectral solver of a batch of trajectories."""
        columns = at.columns
        threshold = columns["threshold"].to(at.dtype)

        def reaction(state: Tensor) -> Tensor:
            u, v = state.split(1, dim=1)
            return torch.cat([u - u * u * u - threshold - v, u - v], dim=1)

        return CosineSolver(
            diffusivity=torch.cat([columns["diffusivity_u"], columns["diffusivity_v"]], dim=1),
            length=columns["length"],
            reaction=reaction,
            grid=at.grid,
            integrator=self.integrator,
            **at.timing,
        )

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Interpolate by cosines, whose slope vanishes at the walls."""
        return resample(state, self.grid(points))
