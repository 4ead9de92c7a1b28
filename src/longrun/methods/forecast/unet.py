"""The one-step U-Net that PDE-Refiner is compared with (Lippe et al., 2023, arXiv:2308.05732).

u(t + dt) = u(t) + scale * UNet(u(t), conditions)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.unet import UNetBackbone, grid_multiple  # noqa: F401 (for the registry)
from longrun.nn.walls import crop, pad_to_multiple
from longrun.tasks.forecast import AbstractForecaster


class UNet(AbstractForecaster):
    """Modern U-Net (Gupta and Brandstetter, 2022, arXiv:2209.15616) as a one-step forecaster.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    width : int
        Channels after the stem; 64 is 53.8 million parameters in one dimension.
    multipliers : list of int
        Growth of the width from level to level, cumulative.
    """

    in_rim = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 64,
        multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 (read, never written)
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        self.network = UNetBackbone(dims, self.inputs, fields, self.scalars, width, multipliers)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        frames = history.flatten(1, 2)
        if self.boundary == "unseen":
            return self.network(frames, conditions)
        padded = pad_to_multiple(frames, self.network.coarsening)  # the rim is not one
        return crop(self.network(padded, conditions), frames.shape[2:])
