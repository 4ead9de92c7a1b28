"""The exact rectified flow of a mixture of Gaussians (after Liu et al., 2022, arXiv:2209.03003).

With data from sum_k w_k N(mu_k, S_k) and normal noise, every distribution in between is a mixture
too, and v*(x, t) = E[z1 - z0 | z_t = x] is known: see `longrun.nn.mixture.posterior`.

This is the limit of a perfect 1-rectified flow: its remaining curvature and its errors in few steps
are the method's, not the network's. Equal to (D - x) / (1 - t) with the denoiser D, without its
singularity at t = 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.mixture import posterior
from longrun.runtime import registry
from longrun.tasks._flow import AbstractFlow


class ExactFlow(AbstractFlow):
    """The flow that rectified flow would learn from infinite data; learns nothing.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractFlow`, also for the options.
    equation : dict
        The `equation` section of the dataset, whose distribution is known; from the data.

    Raises
    ------
    ValueError
        Data whose distribution is not known.
    """

    supported_dims = (0,)
    equations = ("gaussian_mixture",)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if equation["name"] not in self.equations or self.conditional:
            raise ValueError(
                f"the distribution of {equation['name']} is not known, or not without condition"
            )
        law = registry.build("equations", equation).law({})
        self._means, self._variances = map(torch.from_numpy, law[:2])

    def velocity(
        self,
        state: Float[Tensor, "batch channel"],
        time: Float[Tensor, " batch"],
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel"]:
        """Return v* of the normalised distribution."""
        std, mean = self.field_std.to(state), self.field_mean.to(state)
        means = (self._means.to(state) - mean) / std
        variances = self._variances.to(state) / std.square()
        time = time[:, None, None]
        weight, scaled = posterior(state, time, 1 - time, means, variances)
        return (weight * (means + (time * variances - (1 - time)) * scaled)).sum(1)
