"""The exact rectified flow of a mixture of Gaussians (after Liu et al., 2022, arXiv:2209.03003).

With data from sum_k w_k N(mu_k, S_k) and normal noise, every distribution in between is a mixture
too, and v*(x, t) = E[z1 - z0 | z_t = x] is known: with r_k the posterior weights of the components,

    v*(x, t) = sum_k r_k(x, t) (mu_k + (t S_k - (1 - t)) / (t^2 S_k + (1 - t)^2) (x - t mu_k))

This is the limit of a perfect 1-rectified flow: its remaining curvature and its errors in few steps
are the method's, not the network's. Equal to (D - x) / (1 - t) with the denoiser D, without its
singularity at t = 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.runtime import registry
from longrun.tasks._flow import AbstractFlow


def mixture_velocity(
    state: Float[Tensor, "batch value"],
    time: float | Float[Tensor, "batch 1 1"],
    means: Float[Tensor, "component value"],
    variances: Float[Tensor, "component value"],
) -> Float[Tensor, "batch value"]:
    """Return v* of a mixture of equally likely Gaussians with diagonal covariances.

    Parameters
    ----------
    state
        Where.
    time
        When, 0 is noise and 1 is data.
    means, variances
        Of the components.
    """
    between = time**2 * variances + (1 - time) ** 2
    deviation = state[:, None] - time * means
    log_weight = -0.5 * (deviation.square() / between + between.log()).sum(-1)
    gain = (time * variances - (1 - time)) / between
    return (log_weight.softmax(-1)[..., None] * (means + gain * deviation)).sum(1)


class ExactFlow(AbstractFlow):
    """The flow that rectified flow would learn from infinite data; learns nothing.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractFlow`, also for the options.
    equation : dict
        The `equation` section of the dataset, whose distribution has `centres` and `deviations`;
        from the data.

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
        mixture = registry.build("equations", equation)
        self._centres = torch.from_numpy(mixture.centres)
        self._deviations = torch.from_numpy(mixture.deviations)

    def velocity(
        self,
        state: Float[Tensor, "batch channel"],
        time: Float[Tensor, " batch"],
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel"]:
        """Return v* of the normalised distribution."""
        std, mean = self.field_std.to(state), self.field_mean.to(state)
        means = (self._centres.to(state) - mean) / std
        variances = (self._deviations.to(state) / std).square().expand_as(means)
        return mixture_velocity(state, time[:, None, None], means, variances)

    def loss(
        self,
        data: Float[Tensor, "batch channel"],
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return zero: there is nothing to learn."""
        return data.new_zeros(())
