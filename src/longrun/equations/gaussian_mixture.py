"""A mixture of Gaussians on a circle, from which points of the plane are drawn."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import AbstractEquation, Discretisation, Distribution, Quantity
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver


class _Given(AbstractSolver):
    """Nothing to solve: the state that was drawn is the datum."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def step(self, state: Float[Tensor, "batch field"]) -> Float[Tensor, "batch field"]:
        return state.to(self.dtype, copy=True)


class GaussianMixture(AbstractEquation):
    """Points (x, y) from equal, round Gaussians with their centres on a circle.

    p(z) = 1/n sum_k N(z; c_k, spread^2 I), c_k = radius (cos 2 pi k/n, sin 2 pi k/n)

    A test case of generative models with a known answer: density, score and flow of every smoothing
    of p have closed forms in `centres` and `spread`. A trajectory is one point, its only frame.

    Parameters
    ----------
    components
        Number n of Gaussians.
    radius
        Of the circle.
    spread
        Standard deviation of each Gaussian along each axis.

    Raises
    ------
    UserError
        No component, or a radius or spread that is not positive.
    """

    fields = (Quantity("x", "first coordinate", "1"), Quantity("y", "second coordinate", "1"))
    parameters = (
        Quantity("radius", "radius of the circle of centres", "1"),
        Quantity("spread", "standard deviation of a component", "1"),
    )
    boundary = ()
    steady = True

    def __init__(self, components: int = 8, radius: float = 1.0, spread: float = 0.05):
        super().__init__(points=1, substeps=1, burn_in=0)
        if components < 1:
            raise UserError(f"components must be at least 1, is {components}")
        self.components = components
        self.distributions = {
            "radius": Distribution.of("radius", radius),
            "spread": Distribution.of("spread", spread),
        }
        self.radius, self.spread = radius, spread

    @property
    def centres(self) -> Float[np.ndarray, "component field"]:
        """Means of the Gaussians."""
        angle = 2 * np.pi * np.arange(self.components) / self.components
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch field"]]:
        """Draw one point per generator."""
        parameters, centres = self._draw(generators), self.centres
        points = [
            centres[generator.integers(self.components)] + self.spread * generator.normal(size=2)
            for generator in generators
        ]
        return parameters, np.array(points).reshape(-1, 2)

    def _solver(self, at: Discretisation) -> _Given:
        """Return the identity."""
        return _Given(at.dtype)

    def resample(
        self, state: Float[Tensor, "batch field"], points: int
    ) -> Float[Tensor, "batch field"]:
        """Return the state: a point has no grid."""
        return state
