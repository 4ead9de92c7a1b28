"""Softplus attention with re-weighting, LSSAR (Gao and Spratling, 2025, arXiv:2501.13428).

Softmax attention flattens as the context grows. LSSAR keeps the norm of the weights and replaces
the exponential: by a softplus whose scale grows with the number of keys (LSSA), and by a power that
keeps what attracts more than the average (R).

    a_ij = softplus(log d log N_i q_i . k_j),  j <= i,  q and k of length 1 after rotary positions
    A_ij = a_ij / sum_j a_ij                                                        (LSSA)
    W_ij = relu(N_i A_ij - O_i)^p,   A'_ij = W_ij / sum_j W_ij                      (LSSAR)

d is the dimension of a head, N_i = i the number of keys that row i sees, O_i = 1, and 0 in the
first three rows. p = 15; earlier versions of the paper have 3. p and O are from a second source and
unverified: we had neither the paper's formulas nor its code at hand.

What we chose:

- A row's largest value is divided out before the power, and a row without any value above O keeps
  A: with p = 15 the usual 1e-8 in the denominator would silence rows whose weights are all within
  30 % of the average.
- p grows linearly from 1 over the first `power_updates` updates: the power's gradient vanishes
  where all weights are near the average, as they are at first.
- `reweight: false` is LSSA. A run of it may also be scored with re-weighting switched on, which the
  first version of the paper calls free of fine-tuning.

Blocks are those of the baseline `transformer`, with the same number of parameters.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.sequence import CausalAttention, PreNormBlock, SwiGLU
from longrun.tasks._sequence import AbstractSequenceForecaster

SMALL = 1e-8  # in the denominators; paper
FREE_ROWS = 3  # in which nothing is taken off


class LSSAR(AbstractSequenceForecaster):
    """Softplus attention over the last frames.

    Parameters
    ----------
    fields, dims, conditions, points, width
        See `AbstractSequenceForecaster`, also for the options.
    layers, heads : int
        Blocks, and heads of each.
    reweight : bool
        Whether weights above the average are sharpened.
    power : float
        p.
    power_updates : int
        Updates over which p grows from 1.
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
        reweight: bool = True,
        power: float = 15.0,
        power_updates: int = 1000,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, width, **options)
        if power < 1 or power_updates < 0:
            raise ValueError("power must be at least 1, power_updates must not be negative")
        self.power, self.power_updates = power, power_updates
        chosen = power if reweight else None
        self.blocks = nn.ModuleList(
            PreNormBlock(
                width, SoftplusAttention(width, heads, self.history, chosen), SwiGLU(width)
            )
            for _ in range(layers)
        )

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the loss at the power of this update."""
        share = min(1.0, self.global_step / max(1, self.power_updates))
        mixers: list[Any] = [block.mixer for block in self.blocks]
        for mixer in mixers:
            mixer.share = share
        try:
            return super().window_loss(window, parameters, generator)
        finally:
            for mixer in mixers:
                mixer.share = 1.0


class SoftplusAttention(CausalAttention):
    """LSSA, or with a power LSSAR.

    Parameters
    ----------
    width, heads, window
        See `CausalAttention`.
    power
        p; None for LSSA.

    Attributes
    ----------
    share
        How far p has grown from 1 to `power`.
    """

    share: float = 1.0

    def __init__(self, width: int, heads: int, window: int, power: float | None):
        super().__init__(width, heads, window)
        self.power = power

    def mix(
        self,
        query: Float[Tensor, "batch head time part"],
        key: Float[Tensor, "batch head seen part"],
        value: Float[Tensor, "batch head seen part"],
        place: Int[Tensor, " time"],
    ) -> Float[Tensor, "batch head time part"]:
        """Return the weighted values."""
        return self.weights(query, key, place) @ value

    def weights(
        self,
        query: Float[Tensor, "batch head time part"],
        key: Float[Tensor, "batch head seen part"],
        place: Int[Tensor, " time"],
    ) -> Float[Tensor, "batch head time seen"]:
        """Return the weight of every key for every query."""
        seen = place[:, None] >= torch.arange(key.shape[2], device=key.device)
        count = (place + 1).to(query.dtype)[:, None]
        scale = math.log(query.shape[-1]) * count.log()
        cosine = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).mT
        weight = functional.softplus(scale * cosine) * seen
        weight = weight / (weight.sum(-1, keepdim=True) + SMALL)
        if self.power is None:
            return weight
        offset = (count > FREE_ROWS).to(weight)
        above = (count * weight - offset).relu() * seen
        largest = above.amax(-1, keepdim=True)
        power = 1 + self.share * (self.power - 1)
        sharp = (above / largest.clamp_min(SMALL)) ** power
        sharp = sharp / (sharp.sum(-1, keepdim=True) + SMALL)
        return torch.where(largest > SMALL, sharp, weight)
