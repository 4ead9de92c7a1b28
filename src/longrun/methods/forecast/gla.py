"""Gated linear attention (Yang et al., 2024, arXiv:2312.06635).

Attention without softmax is a recurrence whose state is a matrix. Here gates that depend on the
token make every row of it forget at its own rate, so that what matters stays and the rest fades.

    g_t = logsigmoid(W2 W1 x_t + b) / 16                       (low rank, per key dimension)
    S_t = diag(exp g_t) S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t / sqrt(key dimensions)
    y_t = W_o (RMSNorm(o_t) * silu(W_g x_t))                   (the norm of each head for itself)

Keys and queries have half the width, values all of it; no biases but b. Blocks are those of the
transformer: norm before, SwiGLU after. With the same width both have equally many parameters, up to
the gates' low rank. A window is read in chunks, a rollout frame by frame: `nn/linear_attention.py`.

`gates: false` is the ablation: plain linear attention, which forgets nothing.

The paper's models of 340 million and 1.3 billion parameters read text; here tokens are frames,
which the paper has not. Its kernels keep chunks in a GPU's fast memory and chunk a second time;
ours are matrix products, which give the same numbers. The 16 is `divisor`: it begins with memories
of some 25 tokens, which suits text, and a gate that is to forget a frame at once has far to go.
"""

import math
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.linear_attention import linear_attention
from longrun.nn.sequence import Memory, PreNormBlock, SwiGLU, heads
from longrun.tasks._sequence import AbstractSequenceForecaster

DIVISOR = 16.0  # paper: of the log gates, so that initial memories are long
RANK = 16  # paper


class GLA(AbstractSequenceForecaster):
    """Gated linear attention over frames.

    Parameters
    ----------
    fields, dims, conditions, points, width
        See `AbstractSequenceForecaster`, also for the options.
    layers, heads : int
        Blocks, and heads of each.
    gates : bool
        Whether the state forgets.
    divisor : float
        Of the log gates.

    Raises
    ------
    ValueError
        A divisor that isn't positive, or that divides nothing.
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
        gates: bool = True,
        divisor: float = DIVISOR,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, width, **options)
        if divisor <= 0 or not (gates or divisor == DIVISOR):
            raise ValueError(f"divisor must be positive, and needs gates, is {divisor:g}")
        self.blocks = nn.ModuleList(
            PreNormBlock(width, GatedLinearAttention(width, heads, gates, divisor), SwiGLU(width))
            for _ in range(layers)
        )


class GatedLinearAttention(nn.Module):
    """The token mixer; its memory is the state of each head.

    Parameters
    ----------
    width, number, gates, divisor
        Of a token; heads; whether the state forgets; of the log gates.

    Raises
    ------
    ValueError
        A width that can't be divided among the heads.
    """

    def __init__(self, width: int, number: int, gates: bool, divisor: float = DIVISOR):
        super().__init__()
        if width % (2 * number):
            raise ValueError(f"width must be a multiple of twice heads ({2 * number}), is {width}")
        self.number, self.divisor = number, divisor
        self.sizes = [width // 2, width // 2, width, width]
        self.inputs = nn.Linear(width, sum(self.sizes), bias=False)
        self.decay = (
            nn.Sequential(nn.Linear(width, RANK, bias=False), nn.Linear(RANK, width // 2))
            if gates
            else None
        )
        self.norm = nn.RMSNorm(width // number, eps=1e-5)
        self.output = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "batch time width"], memory: Memory
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Return the outputs and the state after the last token."""
        *mixed, gate = self.inputs(x).split(self.sizes, -1)
        query, key, value = (heads(part, self.number) for part in mixed)
        log_decay = None
        if self.decay is not None:
            log_decay = heads(functional.logsigmoid(self.decay(x)) / self.divisor, self.number)
        query = query / math.sqrt(query.shape[-1])
        found, state = linear_attention(query, key, value, log_decay, memory.get("state"))
        found = self.norm(found.transpose(1, 2)).flatten(2)
        return self.output(found * functional.silu(gate)), {"state": state}
