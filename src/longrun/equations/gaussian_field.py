"""Smooth fields on a ring, drawn from mixtures of Gaussians whose density is known."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Law,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.given import Given


class GaussianField(AbstractEquation):
    """u(x) = sum_j c_j phi_j(x) with coefficients from equally likely Gaussians.

    phi_j are the cosines and the sines of 1 to `highest` periods, orthonormal on the grid, and

        p(c) = 1/n sum_k N(c; mu_k, (spread a)^2),   mu_k ~ N(0, (radius a)^2),
        a_j proportional to 1 / (1 + (j/6)^4), j the number of periods; E u^2 = 1 over all laws

    A steep spectrum, as snapshots of a dissipative equation have it. The means are fixed numbers:
    they are the law, of which there are many, so that what is said of a sampler is not said of one
    law alone. A trajectory is one field of the law that its parameter `law` names, its only frame.

    Parameters
    ----------
    points
        Grid points, more than twice `highest`.
    components
        Number n of Gaussians.
    radius
        Of the means, relative to the amplitudes.
    spread
        Standard deviation of each Gaussian, relative to the amplitudes.
    highest
        Most periods on the ring.
    laws
        Number of laws, each as likely for a trajectory; the first ones are the same, whatever it
        is.
    length
        Of the ring.

    Raises
    ------
    UserError
        No component or law, a radius or spread that is not positive, or too few points.
    """

    fields = (Quantity("u", "field", "1"),)
    parameters = (
        Quantity("length", "length of the ring", "1"),
        Quantity("law", "number of the law", "1"),
    )
    boundary = ("periodic",)
    steady = True

    def __init__(
        self,
        points: int = 64,
        components: int = 16,
        radius: float = 0.8,
        spread: float = 0.6,
        highest: int = 31,
        laws: int = 1,
        length: Varying = 1.0,
    ):
        super().__init__(points, substeps=1, burn_in=0)
        for name, number in (("components", components), ("laws", laws), ("highest", highest)):
            if number < 1:
                raise UserError(f"{name} must be at least 1, is {number}")
        if radius <= 0 or spread <= 0:
            raise UserError(f"radius and spread must be positive, are {radius} and {spread}")
        if points <= 2 * highest:
            raise UserError(
                f"{points} points are too few for {highest} periods: take at least "
                f"{2 * highest + 1}"
            )
        self.distributions = {
            "length": Distribution.of("length", length),
            "law": Distribution.of("law", {"choice": [*range(laws)]}, at_least=0),
        }
        periods = np.tile(np.arange(1, highest + 1), 2)
        size = 1 / (1 + (periods / 6) ** 4)
        variance = (radius**2 + spread**2) * np.square(size).sum()
        amplitude = size * np.sqrt(points / variance)
        angle = 2 * np.pi * periods * (np.arange(points) / points)[:, None]
        shift = np.repeat([0.0, np.pi / 2], highest)
        self.basis: Float[ndarray, "value number"] = np.sqrt(2 / points) * np.cos(angle - shift).T
        self.deviations: Float[ndarray, " value"] = spread * amplitude
        self.centres: Float[ndarray, "law component value"] = np.stack(
            [
                radius * amplitude * np.random.default_rng(n).normal(size=(components, 2 * highest))
                for n in range(laws)
            ]
        )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[ndarray, " batch"]], Float[ndarray, "batch 1 point"]]:
        """Draw a law, and one field of it, per generator."""
        parameters = self._draw(generators)
        fields = [
            self.basis.T
            @ (
                self.centres[int(law), generator.integers(self.centres.shape[1])]
                + self.deviations * generator.normal(size=len(self.deviations))
            )
            for law, generator in zip(parameters["law"], generators, strict=True)
        ]
        return parameters, np.array(fields).reshape(-1, 1, self.points)

    def law(self, parameters: Mapping[str, Float[ndarray, " batch"]]) -> Law:
        """Return the law of each trajectory."""
        chosen = np.rint(parameters["law"]).astype(int)
        return Law(self.centres[chosen], np.square(self.deviations)[None, None], self.basis)

    def _solver(self, at: Discretisation) -> Given:
        """Return the identity."""
        return Given(at.dtype)
