"""Fourier neural operator (Li et al., 2021, arXiv:2010.08895), as neuraloperator implements it.

    w_l = gelu(W_l v_l + F^-1 R_l F v_l),    v_(l+1) = gelu(M_l w_l + g_l * v_l)
    v_0 = P input,    output = Q v_L

The paper's layer ends at w_l. The library adds M_l, an MLP of half the width at every point, and
g_l, one factor for each channel; its last layer is without both activations.

No grid channels and no conditions: the caller adds what it needs to the input.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.walls import crop, pad_far

Factorization = Literal["dense", "tucker", "cp", "tt"]


class FNOBackbone(nn.Module):
    """Map channels on a grid to others.

    No grid channels: a periodic domain has no origin. Scalars that condition the map are channels
    that the caller adds. Fourier layers are periodic: beyond the far ends of axes that aren't,
    zeros are appended, an eighth of the axis, and cut off again, as in the paper's code.

    Parameters
    ----------
    dims : int
        Space dimensions.
    inputs, outputs : int
        Channels of the fields.
    width : int
        Channels of the hidden layers.
    modes : int
        Wavenumbers of each sign that a layer mixes, per axis, from 0 to modes - 1; as in the
        public code, -modes too along all axes but the last.
    layers : int
        Fourier layers.
    iterations : int
        0 is FNO. Else the one layer is applied so many times, as in IFNO (You et al., 2022,
        arXiv:2203.08205): v <- v + gelu(layer(v)) / iterations.
    factorization : {"dense", "tucker", "cp", "tt"}
        Of the spectral weights of each layer, by tensorly-torch; "dense" is none.
    rank : float
        Share of the dense weights that a factorization has.

    Attributes
    ----------
    periodic : tuple of bool or None
        Of each axis, see `longrun.nn.walls.pad_as`.
    """

    periodic: tuple[bool, ...] | None = None

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        width: int = 64,
        modes: int = 16,
        layers: int = 4,
        iterations: int = 0,
        factorization: Factorization = "dense",
        rank: float = 1.0,
    ):
        super().__init__()
        if factorization == "dense" and rank != 1:
            raise ValueError(f"rank {rank:g} needs a factorization, the weights are dense")
        if iterations and layers > 1:
            raise ValueError(f"iterations are of one layer, layers is {layers}")
        self.iterations = iterations
        from neuralop.models import FNO as FourierNeuralOperator  # a second of imports

        self.operator = FourierNeuralOperator(
            n_modes=(2 * modes,) * (dims - 1) + (2 * modes - 1,),  # it counts both signs
            in_channels=inputs,
            out_channels=outputs,
            hidden_channels=width,
            n_layers=layers,
            positional_embedding=None,
            factorization=None if factorization == "dense" else factorization,
            rank=rank,
            implementation="factorized",  # contracts with the factors, never builds the weights
        )
        # neuraloperator adds its options to the weights; ours are elsewhere, and plain JSON.
        self.register_state_dict_post_hook(_only_weights)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FNOBackbone":
        """Let the complex weights follow the real ones: `double()` leaves complex tensors alone."""
        super()._apply(fn, recurse)
        real = next(p.dtype for p in self.parameters() if not p.is_complex())
        for weight in self.parameters():
            if weight.is_complex():
                weight.data = weight.data.to(real.to_complex())
        return self

    def forward(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch outputs *space"]:
        """Return the output channels on the grid of the input."""
        # FFTs in half precision don't exist on a CPU, and need powers of two on a GPU.
        with torch.autocast(x.device.type, enabled=False):
            if all(self.periodic or (True,)):
                return self._map(x)
            space = tuple(x.shape[2:])
            sides = zip(space, self.periodic or (), strict=True)
            beyond = [0 if joined else -(-side // 8) for side, joined in sides]
            return crop(self._map(pad_far(x, beyond)), space)

    def _map(self, x: Float[Tensor, "batch inputs *space"]) -> Tensor:
        if not self.iterations:
            return self.operator(x)
        v = self.operator.lifting(x)
        for _ in range(self.iterations):
            v = v + functional.gelu(self.operator.fno_blocks(v)) / self.iterations
        return self.operator.projection(v)


def _only_weights(_: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [key for key, value in state.items() if not isinstance(value, Tensor)]:
        del state[key]


def as_channels(
    scalars: Float[Tensor, "batch scalar"], like: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, "batch scalar *space"]:
    """Spread scalars between 0 and 10 over the grid of a field, as constants between 0 and 1."""
    constants = scalars.reshape(*scalars.shape, *(1,) * (like.ndim - 2)) / 10
    return constants.expand(-1, -1, *like.shape[2:]).to(like.dtype)
