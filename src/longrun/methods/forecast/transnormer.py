"""TransNormerLLM (Qin et al., 2023, arXiv:2307.14995).

Linear attention with a fixed exponential decay of each head, a norm in place of the denominator,
and gates without activations.

    x <- x + Mixer(SRMSNorm(x)),  x <- x + SGLU(SRMSNorm(x)),   SRMSNorm(x) = x sqrt(d) / |x|
    q, k, v, u = W x;  q and k through silu, and in layer 0 x -> [x cos(theta t), x sin(theta t)]
    S_t = lambda S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t,   y_t = W_o (u_t * SRMSNorm(o_t))
    SGLU(x) = W3 (W1 x * W2 x)
    lambda of head h of H in layer l of L (l from 0) = exp(-2^(-8h/H) (1 - l/L))

The turn by theta t is the paper's linearised relative positional encoding: products of queries and
keys see the time between them alone. theta is learnt, from 10000^(-2j/d) for component j of all d
of a token, so that the first heads, which forget soonest, turn fastest. The
block form is the paper's Lightning attention, here `nn/linear_attention.py`, with chunks of 8
instead of 256: the same numbers; a rollout is the recurrence.

What we chose:

- The decays. Our reading of the text's schedule, exp(-(8h/H)(1 - l/L)), would forget all but a
  frame or two; public code has the slopes 2^(-8h/H) of ALiBi, which we take. It lets the last
  layer of L forget almost nothing, (1 - l/(L-1)); we keep 1 - l/L, so that every layer forgets.
- `hidden` of the SGLU is 7/3 of the width, which gives a block the 12 d^2 parameters of the others.
- Tokens are frames, not words; tensor-parallel norms and the paper's kernels are left out, since
  they change no number.

`decay: false` is the ablation lambda = 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.linear_attention import linear_attention
from longrun.nn.sequence import ROTARY_BASE, Memory, PreNormBlock, heads
from longrun.tasks._sequence import AbstractSequenceForecaster


class TransNormer(AbstractSequenceForecaster):
    """Linear attention with fixed decay over frames.

    Parameters
    ----------
    fields, dims, conditions, points, width
        See `AbstractSequenceForecaster`, also for the options.
    layers, heads : int
        Blocks, and heads of each.
    decay : bool
        Whether the state forgets.
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
        decay: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, width, **options)
        share = [1 - layer / layers if decay else None for layer in range(layers)]
        self.blocks = nn.ModuleList(
            PreNormBlock(
                width,
                DecayingAttention(width, heads, share[layer], encode=layer == 0),
                SGLU(width, 7 * width // 3),
                affine=False,
            )
            for layer in range(layers)
        )


class DecayingAttention(nn.Module):
    """The token mixer; its memory is the state of each head, and how many tokens there were.

    Parameters
    ----------
    width, number
        Of a token; heads.
    share
        Factor on the slopes of the heads' decay; None for no decay.
    encode
        Whether queries and keys are turned by their times.

    Raises
    ------
    ValueError
        A width that can't be divided among the heads.
    """

    slope: Tensor

    def __init__(self, width: int, number: int, share: float | None, encode: bool):
        super().__init__()
        if width % number:
            raise ValueError(f"width must be a multiple of heads ({number}), is {width}")
        self.number = number
        self.inputs = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.norm = nn.RMSNorm(width, eps=1e-12, elementwise_affine=False)
        each = 2.0 ** (-8 * torch.arange(1, number + 1) / number)
        self.register_buffer("slope", (share or 0.0) * each[:, None, None])
        rate = ROTARY_BASE ** (-2 * torch.arange(width) / width)
        self.rate = nn.Parameter(rate.reshape(number, 1, -1)) if encode else None

    def forward(
        self, x: Float[Tensor, "batch time width"], memory: Memory
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Return the outputs, the state after the last token, and the number of tokens."""
        query, key, value, gate = self.inputs(x).chunk(4, -1)
        before = memory["count"] if memory else x.new_zeros(len(x))
        query, key = (
            self._encoded(heads(functional.silu(part), self.number), before)
            for part in (query, key)
        )
        value = heads(value, self.number)
        found, state = linear_attention(query, key, value, -self.slope[None], memory.get("state"))
        found = self.norm(found.transpose(1, 2).flatten(2))
        return self.output(gate * found), {"state": state, "count": before + x.shape[1]}

    def _encoded(
        self, x: Float[Tensor, "batch head time part"], before: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch head time _"]:
        """Put the components' cosines and sines side by side, where this layer does."""
        if self.rate is None:
            return x
        place = before[:, None] + torch.arange(x.shape[2], device=x.device)
        angle = place[:, None, :, None] * self.rate
        return torch.cat([x * angle.cos(), x * angle.sin()], -1)


class SGLU(nn.Module):
    """The channel mixer: a gated linear unit without activation.

    Parameters
    ----------
    width, hidden
        Of a token; units.
    """

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.inputs = nn.Linear(width, 2 * hidden, bias=False)
        self.output = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*token width"]) -> Float[Tensor, "*token width"]:
        """Return the layer's outputs."""
        left, right = self.inputs(x).chunk(2, -1)
        return self.output(left * right)
