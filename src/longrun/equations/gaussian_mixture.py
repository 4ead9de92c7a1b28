"""A mixture of Gaussians, from which points are drawn: on a circle, or of a steep spectrum."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Law,
    Quantity,
)
from longrun.runtime.cli import UserError
from longrun.solvers.given import Given


class GaussianMixture(AbstractEquation):
    """Points from equally likely Gaussians.

    p(z) = 1/n sum_k N(z; c_k, diag(s^2))

    Laws:

    - "circle": points (x, y), c_k = radius (cos 2 pi k/n, sin 2 pi k/n), s = spread;
    - "spectrum": the coefficients of a smooth field, with amplitudes a_j = 1 / (1 + (j/6)^4) for
      j = 1, 2, ..., values/2, twice: c_k = radius a e_k with fixed normal numbers e_k, s = spread
      a, all divided by one number that makes the mean variance 1.

    A test case of generative models with a known answer: density, score and flow of every smoothing
    of p have closed forms in `centres` and `deviations`. A trajectory is one point, its only frame.

    Parameters
    ----------
    components
        Number n of Gaussians.
    radius
        Of the circle; or of the means, relative to the amplitudes.
    spread
        Standard deviation of each Gaussian along each axis; or relative to the amplitudes.
    law
        See above.
    values
        Numbers of a point, even: two on the circle.

    Raises
    ------
    UserError
        No component, a radius or spread that is not positive, or a wrong number of values.
    """

    parameters = (
        Quantity("radius", "radius of the circle of centres", "1"),
        Quantity("spread", "standard deviation of a component", "1"),
    )
    boundary = ()
    steady = True

    def __init__(
        self,
        components: int = 8,
        radius: float = 1.0,
        spread: float = 0.05,
        law: Literal["circle", "spectrum"] = "circle",
        values: int = 2,
    ):
        super().__init__(points=1, substeps=1, burn_in=0)
        if components < 1:
            raise UserError(f"components must be at least 1, is {components}")
        if values < 2 or values % 2 or (law == "circle" and values > 2):
            raise UserError(f"values must be even, and 2 on the circle, is {values}")
        self.components = components
        self.distributions = {
            "radius": Distribution.of("radius", radius),
            "spread": Distribution.of("spread", spread),
        }
        self.centres: Float[np.ndarray, "component field"]
        self.deviations: Float[np.ndarray, " field"]
        if law == "circle":
            names = [("x", "first coordinate"), ("y", "second coordinate")]
            angle = 2 * np.pi * np.arange(components) / components
            self.centres = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            self.deviations = np.full(2, float(spread))
        else:
            names = [(f"c{j:02d}", f"coefficient {j}") for j in range(values)]
            amplitude = 1 / (1 + (np.tile(np.arange(1, values // 2 + 1), 2) / 6) ** 4)
            normal = np.random.default_rng(0).normal(size=(components, values))
            centres, deviations = radius * amplitude * normal, spread * amplitude
            size = np.sqrt((np.square(deviations) + centres.var(axis=0)).mean())
            self.centres, self.deviations = centres / size, deviations / size
        self.fields = tuple(Quantity(name, meaning, "1") for name, meaning in names)

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch field"]]:
        """Draw one point per generator."""
        parameters, values = self._draw(generators), len(self.fields)
        points = [
            self.centres[generator.integers(self.components)]
            + self.deviations * generator.normal(size=values)
            for generator in generators
        ]
        return parameters, np.array(points).reshape(-1, values)

    def law(self, parameters: Mapping[str, Float[np.ndarray, " batch"]]) -> Law:
        """Return the one law."""
        return Law(self.centres[None], np.square(self.deviations)[None, None])

    def _solver(self, at: Discretisation) -> Given:
        """Return the identity."""
        return Given(at.dtype)

    def resample(
        self, state: Float[Tensor, "batch field"], points: int
    ) -> Float[Tensor, "batch field"]:
        """Return the state: a point has no grid."""
        return state
