"""Direct insertion: a measurement replaces the forecast where there is one.

The oldest way to assimilate data (Charney, Halem and Jastrow, 1969), and without later
measurements a forecast from the last one. The model is the residual Fourier neural operator that
NODA predicts with (Singh et al., 2024, arXiv:2402.15656), trained on forecasts only: insertion
would hide the forecast's error from the loss.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.nn.fno import FNOBackbone
from longrun.tasks.assimilate import AbstractAssimilator


class DirectInsertion(AbstractAssimilator):
    """Residual Fourier neural operator; measurements overwrite its state.

    Trained on windows as long as other methods', from one noisy frame; no step is measured unless
    `most_measured` says so.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractAssimilator`, also for the options.
    width : int
        Channels of the hidden layers.
    modes : int
        Fourier modes that a layer mixes, per axis, of both signs.
    layers : int
        Fourier layers.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 32,
        modes: int = 32,
        layers: int = 4,
        most_measured: float = 0.0,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, most_measured=most_measured, **options)
        self.network = FNOBackbone(dims, self.inputs, fields, width, modes, layers)

    def predict(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next state."""
        increment = self.network(self.network_input(state, parameters))
        return state + self.keep_mean(self.per_channel(self.increment_std) * increment)

    def correct(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the measurement where there is one, its mean corrected where that is known."""
        innovation = torch.where(mask, measurement - forecast, 0.0)
        return forecast + self.keep_mean(innovation)
