"""Causal transformer over frames (Vaswani et al., 2017, arXiv:1706.03762), a baseline.

    x <- x + Attention(RMSNorm(x)),  x <- x + SwiGLU(RMSNorm(x))

One token per frame, softmax attention to all frames before it, rotary positions, the block that
language models have by now: norms before, a gated feed-forward layer, no biases.
"""

from typing import Any

from torch import nn

from longrun.nn.sequence import CausalAttention, PreNormBlock, SwiGLU
from longrun.tasks._sequence import AbstractSequenceForecaster


class Transformer(AbstractSequenceForecaster):
    """Softmax attention over the last frames.

    Parameters
    ----------
    fields, dims, conditions, points, width
        See `AbstractSequenceForecaster`, also for the options.
    layers, heads : int
        Blocks, and heads of each.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, width, **options)
        self.blocks = nn.ModuleList(
            PreNormBlock(width, CausalAttention(width, heads, self.history), SwiGLU(width))
            for _ in range(layers)
        )
