"""The deterministic baseline of a sampler: a network fitted to the mean by least squares.

E[next frame | what is seen of this one] is the best single forecast but not a sample: where the
future is open it is smoother than any truth. It is also what a rectified flow (Liu et al., 2022,
arXiv:2209.03003) gives in one step: v*(z0, 0) = E[z1] - z0.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.unet import UNetBackbone, grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks.sample import AbstractSampler


class ConditionalMean(AbstractSampler):
    """The U-Net of a rectified flow without noise and time, trained by squared error.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSampler`, also for the options.
    conditional : bool
        See `AbstractSampler`; without a condition there would be nothing to learn from.
    width : int
        Channels after the stem.
    multipliers : list of int
        Growth of the width from level to level, cumulative.

    Raises
    ------
    ValueError
        Without a condition.
    """

    stochastic = False
    supported_dims = (1, 2)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        conditional: bool = True,
        width: int = 64,
        multipliers: list[int] = [1, 2, 2, 2],  # noqa: B006 (read, never written)
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, conditional, **options)
        if not conditional:
            raise ValueError("conditional_mean needs conditional: true")
        self.network = UNetBackbone(dims, fields, fields, conditions, width, multipliers)

    def loss(
        self,
        data: Float[Tensor, "batch channel *space"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error."""
        return (self.network(context, conditions) - data).square().mean()

    def sample(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        nfe: int | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the mean, always by one evaluation."""
        return self.network(context, conditions)
