"""Fourier neural operator (Li et al., 2021, arXiv:2010.08895) as a steady map.

As in the paper's Darcy runs it sees the coordinates, and the grid is padded with zeros beyond its
far walls, because Fourier layers are periodic. We pad the input, the public code pads the output of
the lifting.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from longrun.nn.fno import FNOBackbone
from longrun.nn.walls import crop, pad_far
from longrun.tasks.map import AbstractMap


class FNOMap(AbstractMap):
    """Fourier neural operator between walls.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options.
    width : int
        Channels of the hidden layers.
    modes : int
        Fourier modes that a layer mixes, per axis.
    layers : int
        Fourier layers.
    padding : int
        Points of zeros beyond each far wall; 0 for a periodic domain.
    """

    coordinates = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 32,
        modes: int = 12,
        layers: int = 4,
        padding: int = 9,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        if padding < 0:
            raise ValueError(f"padding must not be negative, is {padding}")
        self.padding = padding
        self.network = FNOBackbone(dims, self.inputs, self.sought, width, modes, layers)

    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields."""
        return crop(self.network(pad_far(x, self.padding)), tuple(x.shape[2:]))
