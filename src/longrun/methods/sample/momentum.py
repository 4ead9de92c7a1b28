"""Steps with momentum, for guided draws in few calls (Wizadwongsa et al., 2024, arXiv:2307.11118).

In y = x / a the way from noise to data is dy/drho = eps. Adams-Bashforth steps (PLMS) are accurate
and soon unstable where guidance makes eps change fast. Momentum averages their direction; what it
loses in order a correction of the average brings back. With e_n = eps(y_n), h_n the step in rho:

    hb        d_n = AB_k(e_n, e_{n-1}, ...),  v_n = (1 - b) v_{n-1} + b d_n,   y += h_n v_n
    nesterov  the same d_n and v_n,                                 y += h_n ((1 - b) v_n + b d_n)
    ghvb      v_n = (1 - b) v_{n-1} + b e_n,  y += h_n mix_k(v_n, v_{n-1}, ...)

    mix_2 = [(2 + b) v_n - (2 - b) v_{n-1}] / 2b
    mix_3 = [(18 + 5b) v_n - (24 - 8b) v_{n-1} + (6 - b) v_{n-2}] / 12b
    mix_4 = [(46 + 9b) v_n - (78 - 19b) v_{n-1} + (42 - 5b) v_{n-2} - (10 - b) v_{n-3}] / 24b

With b = 1 all are Adams-Bashforth, whose weights mix_k then has. The paper writes k and b as one
number, k - 1 + b. v begins with e_0 and k grows by one a step, for want of earlier noises.

The weights are those of equal steps in rho, as in the paper, though steps are equal in time; so the
order on a fine grid is 2 at most, and 1 with the momentum of `hb`.
"""

from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.nn.unet import grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._denoising import AbstractDenoising, Noise


class Momentum(AbstractDenoising):
    """Adams-Bashforth steps whose direction is averaged.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractDenoising`, also for the options.
    depth : {1, 2, 3, 4}
        k, the noises that a step looks at.
    damping : float
        b, between 0 and 1; 1 is no momentum.
    form : {"hb", "nesterov", "ghvb"}
        See this module.

    Raises
    ------
    ValueError
        A damping out of range.
    """

    order = 2

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        depth: Literal[1, 2, 3, 4] = 2,
        damping: float = 0.8,
        form: Literal["hb", "nesterov", "ghvb"] = "ghvb",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if not 0 < damping <= 1:
            raise ValueError(f"damping must be above 0 and at most 1, is {damping}")
        self.depth, self.damping, self.form = depth, damping, form
        self.order = 1 if form != "ghvb" and damping < 1 else min(depth, 2)

    def carry(
        self,
        state: Float[Tensor, "batch channel *space"],
        rho: Float[ndarray, " level"],
        noise: Noise,
    ) -> Float[Tensor, "batch channel *space"]:
        """Take a step from each level to the next."""
        keep = self.damping
        average: Tensor | None = None
        earlier: list[Tensor] = []  # noises, or their averages, newest first
        for level, step in zip(rho[:-1].tolist(), np.diff(rho).tolist(), strict=True):
            found = noise(state, level)
            before = found if average is None else average
            if self.form == "ghvb":
                average = (1 - keep) * before + keep * found
                earlier = [average, *earlier[: self.depth - 1]]
                direction = _sum(mixed(len(earlier), keep), earlier)
            else:
                earlier = [found, *earlier[: self.depth - 1]]
                adams = _sum(mixed(len(earlier), 1.0), earlier)
                average = (1 - keep) * before + keep * adams
                ahead = (1 - keep) * average + keep * adams
                direction = ahead if self.form == "nesterov" else average
            state = state + step * direction
        return state


def mixed(depth: int, damping: float) -> list[float]:
    """Return the weights of the last averages, newest first; of Adams-Bashforth at damping 1."""
    b = damping
    weights, scale = {
        1: ([1.0], 1.0),
        2: ([2 + b, b - 2], 2 * b),
        3: ([18 + 5 * b, 8 * b - 24, 6 - b], 12 * b),
        4: ([46 + 9 * b, 19 * b - 78, 42 - 5 * b, b - 10], 24 * b),
    }[depth]
    return [weight / scale for weight in weights]


def _sum(weights: list[float], parts: list[Tensor]) -> Tensor:
    total = weights[0] * parts[0]
    for weight, part in zip(weights[1:], parts[1:], strict=True):
        total = total + weight * part
    return total
