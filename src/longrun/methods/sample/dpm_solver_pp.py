"""DPM-Solver++(2M): two steps of the denoised data (Lu et al., 2022, arXiv:2211.01095).

The denoised D changes less than the noise where data have a scale of their own, so it is what is
extrapolated, in the logarithm lambda = -log rho; the rest is solved exactly. In y = x / a, with the
step h_i = lambda_{i+1} - lambda_i and r = h_{i-1} / h_i,

    D' = D_i + (D_i - D_{i-1}) / (2 r)                     (D' = D_0 in the first step)
    y_{i+1} = e^{-h_i} y_i + (1 - e^{-h_i}) D'

The paper places its steps equally in lambda (`grid: log`). Every step is one call. As in the public
code, the last of fewer than 15 steps is of first order: where it is long, it would extrapolate too
far.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.nn.unet import grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._denoising import AbstractDenoising, Noise

FEW = 15  # steps, of which the last is of first order if there are fewer


class DPMSolverPP(AbstractDenoising):
    """An exponential integrator of two steps in the denoised data; no options of its own."""

    order = 2
    usual_grid = "log"

    def carry(
        self,
        state: Float[Tensor, "batch channel *space"],
        rho: Float[ndarray, " level"],
        noise: Noise,
    ) -> Float[Tensor, "batch channel *space"]:
        """Take a step from each level to the next."""
        step = -np.diff(np.log(rho))
        earlier: Tensor | None = None
        for i, level in enumerate(rho[:-1].tolist()):
            data = state - level * noise(state, level)
            ahead = data
            plain = i == len(step) - 1 and len(step) < FEW
            if earlier is not None and not plain:
                ahead = data + float(step[i] / step[i - 1] / 2) * (data - earlier)
            kept = float(rho[i + 1] / rho[i])
            state, earlier = kept * state + (1 - kept) * ahead, data
        return state
