"""Parts of causal sequence models: pre-norm blocks, a gated feed-forward layer, attention.

A token mixer takes tokens and what it remembers of those before them, and returns its outputs and
what it remembers then; {} is the memory of nothing. Tokens one by one give what all at once give.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.coordinates import turned

Memory = dict[str, Tensor]
"""What a mixer remembers, batch first in every tensor."""

ROTARY_BASE = 10_000.0


class SwiGLU(nn.Module):
    """The feed-forward layer W3 (silu(W1 x) * W2 x) of Shazeer (2020, arXiv:2002.05202).

    Parameters
    ----------
    width
        Of a token.
    hidden
        Units; 8/3 of the width by default, as many parameters as the classical layer.
    """

    def __init__(self, width: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or 8 * width // 3
        self.inputs = nn.Linear(width, 2 * hidden, bias=False)
        self.output = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token width"]:
        """Return the layer's outputs."""
        gate, up = self.inputs(x).chunk(2, -1)
        return self.output(functional.silu(gate) * up)


class PreNormBlock(nn.Module):
    """x + mixer(norm x), then x + feed_forward(norm x).

    Parameters
    ----------
    width
        Of a token.
    mixer, feed_forward
        See the module; tokens alone go through the latter.
    affine
        Whether the norms have weights.
    """

    def __init__(self, width: int, mixer: nn.Module, feed_forward: nn.Module, affine: bool = True):
        super().__init__()
        self.norm1, self.norm2 = (
            nn.RMSNorm(width, eps=1e-6, elementwise_affine=affine) for _ in range(2)
        )
        self.mixer, self.feed_forward = mixer, feed_forward

    def forward(
        self, x: Float[Tensor, "batch time width"], memory: Memory
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Return the tokens after the block, and what its mixer remembers."""
        mixed, memory = self.mixer(self.norm1(x), memory)
        x = x + mixed
        return x + self.feed_forward(self.norm2(x)), memory


class CausalAttention(nn.Module):
    """Softmax attention over the last tokens, with rotary positions (Su et al., arXiv:2104.09864).

    Parameters
    ----------
    width, heads
        Of a token, and parts of it that attend separately; width must be a multiple of 2 heads.
    window
        Tokens that a token sees, itself the last, once they come one by one.

    Raises
    ------
    ValueError
        A width that can't be divided among the heads.
    """

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width must be a multiple of twice heads ({2 * heads}), is {width}")
        self.heads, self.window = heads, window
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time width"], memory: Memory
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Return the outputs; keys and values are remembered."""
        query, key, value = (heads(part, self.heads) for part in self.inputs(x).chunk(3, -1))
        if memory:
            key = torch.cat([memory["key"], key], 2)
            value = torch.cat([memory["value"], value], 2)
        place = torch.arange(key.shape[2], device=x.device)
        now = place[len(place) - query.shape[2] :]
        mixed = self.mix(rotated(query, now), rotated(key, place), value, now)
        first = max(0, len(place) - self.window + 1)
        memory = {"key": key[:, :, first:], "value": value[:, :, first:]}
        return self.output(mixed.transpose(1, 2).flatten(2)), memory

    def mix(
        self,
        query: Float[Tensor, "batch head time part"],
        key: Float[Tensor, "batch head seen part"],
        value: Float[Tensor, "batch head seen part"],
        place: Int[Tensor, " time"],
    ) -> Float[Tensor, "batch head time part"]:
        """Return the weighted values; `place` is the number of each query among the keys."""
        seen = place[:, None] >= torch.arange(key.shape[2], device=key.device)
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)


def heads(x: Float[Tensor, "batch time width"], number: int) -> Float[Tensor, "batch head time _"]:
    """Cut tokens into parts, one for each head."""
    return x.unflatten(-1, (number, -1)).transpose(1, 2)


def rotated(
    x: Float[Tensor, "batch head time part"], place: Int[Tensor, " time"]
) -> Float[Tensor, "batch head time part"]:
    """Turn pairs of components by angles that grow with the place: products see differences."""
    half = x.shape[-1] // 2
    rate = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    return turned(x, place[:, None].to(x.dtype) * rate)
