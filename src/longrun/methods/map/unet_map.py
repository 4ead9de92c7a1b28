"""Modern U-Net (Gupta and Brandstetter, 2022, arXiv:2209.15616) as a steady map.

Its convolutions pad with zeros, because there are walls, and the grid is padded with zeros beyond
its far walls where its sides can't be halved often enough.
"""

from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from longrun.nn.unet import UNetBackbone
from longrun.nn.walls import crop, pad_to_multiple
from longrun.tasks.map import AbstractMap


class UNetMap(AbstractMap):
    """The U-Net between walls, or on a periodic domain.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options.
    width : int
        Channels after the stem.
    multipliers : list of int
        Growth of the width from level to level, cumulative.
    padding : {"circular", "zeros"}
        What lies beyond the grid.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 64,
        multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 (read, never written)
        padding: Literal["circular", "zeros"] = "zeros",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        self.network = UNetBackbone(
            dims, self.inputs, self.sought, 0, width, multipliers, padding=padding
        )

    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields."""
        padded = pad_to_multiple(x, self.network.coarsening)
        return crop(self.network(padded, padded.new_empty(len(x), 0)), tuple(x.shape[2:]))
