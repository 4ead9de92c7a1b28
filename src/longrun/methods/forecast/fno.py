"""Fourier neural operator (Li et al., 2021, arXiv:2010.08895) as a forecaster.

Our two choices: no grid channels, because a periodic domain has no origin, and the conditions
enter as constant channels.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.fno import FNOBackbone, as_channels
from longrun.tasks.forecast import AbstractForecaster


class FNO(AbstractForecaster):
    """Fourier neural operator as a one-step forecaster.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    width : int
        Channels of the hidden layers.
    modes : int
        Wavenumbers that a layer mixes, per axis.
    layers : int
        Fourier layers.
    iterations : int
        0 is FNO; else that of the implicit FNO, whose one layer is applied so many times, see
        `FNOBackbone`.
    """

    in_rim = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 64,
        modes: int = 16,
        layers: int = 4,
        iterations: int = 0,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        inputs = self.inputs + self.scalars
        self.network = FNOBackbone(dims, inputs, fields, width, modes, layers, iterations)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        frames = history.flatten(1, 2)
        return self.network(torch.cat([frames, as_channels(conditions, frames)], dim=1))
