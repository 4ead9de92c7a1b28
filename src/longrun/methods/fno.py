"""Fourier neural operator (Li et al., 2021, arXiv:2010.08895), as neuraloperator implements it.

    v_(l+1) = gelu(W v_l + F^-1 R_l F v_l),    target = Q v_L,    v_0 = P (frames, conditions)

Two choices of ours: no grid channels, because a periodic domain has no origin, and the conditions
enter as constant channels.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

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
        Fourier modes that a layer mixes, per axis.
    layers : int
        Fourier layers.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 64,
        modes: int = 32,
        layers: int = 4,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        from neuralop.models import FNO as FourierNeuralOperator  # a second of imports

        self.network = FourierNeuralOperator(
            n_modes=(modes,) * dims,
            in_channels=self.history * fields + conditions,
            out_channels=fields,
            hidden_channels=width,
            n_layers=layers,
            positional_embedding=None,
        )

        # neuraloperator adds its options to the weights; ours are elsewhere, and plain JSON.
        self.register_state_dict_post_hook(_only_weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FNO":
        """Let the complex weights follow the real ones: `double()` leaves complex tensors alone."""
        super()._apply(fn, recurse)
        real = next(p.dtype for p in self.parameters() if not p.is_complex())
        for weight in self.parameters():
            if weight.is_complex():
                weight.data = weight.data.to(real.to_complex())
        return self

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        frames = history.flatten(1, 2)
        constants = conditions.reshape(*conditions.shape, *(1,) * self.dims)
        constants = constants.expand(-1, -1, *frames.shape[2:]) / 10
        inputs = torch.cat([frames, constants.to(frames.dtype)], dim=1)
        # Fourier transforms know no half precision on a CPU, and only powers of two on a GPU.
        with torch.autocast(inputs.device.type, enabled=False):
            return self.network(inputs)


def _only_weights(_: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key, value in state.items() if not isinstance(value, Tensor)]:
        del state[key]
