"""Runge-Kutta steps in the noise level: Heun of Karras et al. (2022, arXiv:2206.00364), and rhoRK.

In y = x / a and rho = s / a the way from noise to data is dy/drho = eps(y, rho), and any method for
ordinary differential equations takes its steps from one level to the next. `heun` is the sampler of
Karras et al. (2022), who place its steps equally in rho^(1/7); here its last step has two stages as
the others have, since draws end at a positive level.

A step takes as many calls as the method has stages, and a draw as many steps as its calls allow.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.nn.unet import grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._denoising import AbstractDenoising, Noise

SCHEMES: dict[str, tuple[list[list[float]], list[float]]] = {  # rows of the matrix, weights
    "heun": ([[], [1]], [1 / 2, 1 / 2]),
    "kutta": ([[], [1 / 2], [-1, 2]], [1 / 6, 2 / 3, 1 / 6]),
    "classical": ([[], [1 / 2], [0, 1 / 2], [0, 0, 1]], [1 / 6, 1 / 3, 1 / 3, 1 / 6]),
}


class RhoRungeKutta(AbstractDenoising):
    """Explicit Runge-Kutta steps from level to level.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractDenoising`, also for the options.
    scheme : {"heun", "kutta", "classical"}
        Of order two, three or four, with as many stages.
    """

    order = 2
    usual_grid = "karras"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        scheme: Literal["heun", "kutta", "classical"] = "heun",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        self.scheme = scheme
        self.order = self.stages = len(SCHEMES[scheme][1])

    def carry(
        self,
        state: Float[Tensor, "batch channel *space"],
        rho: Float[ndarray, " level"],
        noise: Noise,
    ) -> Float[Tensor, "batch channel *space"]:
        """Take a step from each level to the next."""
        matrix, weights = SCHEMES[self.scheme]
        for before, step in zip(rho[:-1].tolist(), np.diff(rho).tolist(), strict=True):
            slopes: list[Tensor] = []
            for row in matrix:
                at = state + step * sum(
                    (factor * slope for factor, slope in zip(row, slopes, strict=True)),
                    state.new_zeros(()),
                )
                slopes.append(noise(at, before + step * sum(row)))
            for weight, slope in zip(weights, slopes, strict=True):
                state = state + step * weight * slope
        return state
