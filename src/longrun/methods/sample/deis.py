"""DEIS: steps that interpolate the noise (Zhang and Chen, ICLR 2023, arXiv:2204.13902).

The linear part of the equation is solved exactly, which in y = x / a is no work at all, and the
noise is a polynomial through its last r + 1 values, in a variable u:

    y_{i+1} = y_i + sum_j C_ij eps(y_{i-j}, rho_{i-j}),   C_ij = int L_j(u(rho)) drho over the step
    L_j(u) = prod_{k != j} (u - u_{i-k}) / (u_{i-j} - u_{i-k}),   r = 0, 1, ... in the first steps

- `variable: time`: the paper's tAB-r, u the time of the variance-preserving path;
- `variable: level`: its rhoAB-r, u = rho;
- degree 0 is DDIM (Song et al., 2021), whatever the variable.

Every step is one call. The integrals are exact to rounding (Gauss-Legendre with 64 points in u; the
public code sums 10,000 rectangles). The degree grows by one a step from 0, for want of earlier
noises: an error of second order that is made where noise is large, and shrinks with it.

The paper's rhoRK is in `rho_runge_kutta`; its iPNDM, which takes any grid for an even one, is not
here.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.nn.unet import grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._denoising import (
    RATE_FIRST,
    RATE_LAST,
    AbstractDenoising,
    Noise,
    level_of,
    time_of,
)

NODES = 64  # of a quadrature


class DEIS(AbstractDenoising):
    """An exponential integrator of several steps.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractDenoising`, also for the options.
    degree : int
        Of the polynomial, r.
    variable : {"time", "level"}
        In which it is one.

    Raises
    ------
    ValueError
        A negative degree.
    """

    order = 4
    usual_grid = "quadratic"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        degree: int = 3,
        variable: Literal["time", "level"] = "time",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if degree < 0:
            raise ValueError(f"degree must not be negative, is {degree}")
        self.degree, self.variable = degree, variable
        self.order = degree + 1

    def carry(
        self,
        state: Float[Tensor, "batch channel *space"],
        rho: Float[ndarray, " level"],
        noise: Noise,
    ) -> Float[Tensor, "batch channel *space"]:
        """Take a step from each level to the next."""
        earlier: list[Tensor] = []
        for i in range(len(rho) - 1):
            earlier = [noise(state, float(rho[i])), *earlier[: self.degree]]
            weights = coefficients(rho[: i + 2][-len(earlier) - 1 :], self.variable)
            for weight, found in zip(weights, earlier, strict=True):
                state = state + float(weight) * found
        return state


def coefficients(
    rho: Float[ndarray, " level"], variable: Literal["time", "level"]
) -> Float[ndarray, " earlier"]:
    """Return C_ij of one step, newest noise first.

    Parameters
    ----------
    rho
        The levels of earlier noises, falling, and that at which the step ends.
    variable
        In which the noise is a polynomial.
    """
    u = time_of(rho) if variable == "time" else rho
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    half = (u[-1] - u[-2]) / 2
    at = u[-2] + half * (nodes + 1)
    slope = growth(at) if variable == "time" else np.ones(NODES)
    known = u[-2::-1]
    basis = [
        np.prod([(at - other) / (own - other) for other in np.delete(known, j)], axis=0)
        for j, own in enumerate(known)
    ]
    return np.array([(half * weights * slope * values).sum() for values in basis])


def growth(time: Float[ndarray, " time"]) -> Float[ndarray, " time"]:
    """Return drho/dt of the variance-preserving path: half its rate over a s."""
    rate = RATE_FIRST + (RATE_LAST - RATE_FIRST) * time
    rho = level_of(time)
    return rate * (1 + np.square(rho)) / (2 * rho)
