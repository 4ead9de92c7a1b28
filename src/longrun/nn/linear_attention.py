"""Causal linear attention with decay, in chunks (Yang et al., 2024, arXiv:2312.06635, section 4).

    S_t = diag(exp g_t) S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t

The log decay g <= 0 is one number per key dimension and time (gates), one per head (fixed decay),
or zero. Inside a chunk, with b_t the sum of g from its beginning,

    o_i = sum_{j <= i} (sum_d q_id k_jd exp(b_id - b_jd)) v_j + (S_before)^T (q_i exp b_i)

so that time is a matrix product inside a chunk and a recurrence from chunk to chunk. Every exponent
is a difference of logs and at most zero: nothing overflows, however strong the decay. A call with a
single frame is the recurrence itself.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

CHUNK = 8  # the fastest on a CPU with gates for each key


def linear_attention(
    query: Float[Tensor, "batch head time key"],
    key: Float[Tensor, "batch head time key"],
    value: Float[Tensor, "batch head time value"],
    log_decay: Float[Tensor, "#batch #head #time decay"] | None = None,
    state: Float[Tensor, "batch head key value"] | None = None,
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "batch head time value"], Float[Tensor, "batch head key value"]]:
    """Return the outputs of all times, and the state after the last.

    Parameters
    ----------
    query, key, value
        Of every time, oldest first.
    log_decay
        Log of the factor on the state before each time, at most 0; its last axis is that of the
        keys, or has length 1. None for no decay.
    state
        After what came before; zero by default.
    chunk
        Times per chunk: changes nothing but the cost.
    """
    time, size = query.shape[2], min(chunk, query.shape[2])
    if log_decay is None:
        log_decay = query.new_zeros(1, 1, 1, 1)
    log_decay = log_decay.expand(*query.shape[:3], -1)
    # times that are added at the end have no key and no decay, so the state passes them unchanged
    count = math.ceil(time / size)
    query, key, value, log_decay = (
        functional.pad(part, (0, 0, 0, count * size - time)).unflatten(2, (count, size))
        for part in (query, key, value, log_decay)
    )
    total = log_decay.cumsum(3)
    within = _scores(query, key, total) @ value
    last = total[..., -1:, :]
    added = (key * (last - total).exp()).transpose(-1, -2) @ value
    kept = last.transpose(-1, -2).exp()
    arriving = query * total.exp()
    if state is None:
        state = torch.zeros_like(added[:, :, 0])
    outputs = []
    for number in range(count):
        outputs.append(within[:, :, number] + arriving[:, :, number] @ state)
        state = kept[:, :, number] * state + added[:, :, number]
    return torch.cat(outputs, 2)[:, :, :time], state


def _scores(
    query: Float[Tensor, "*chunk time key"],
    key: Float[Tensor, "*chunk time key"],
    total: Float[Tensor, "*chunk time decay"],
) -> Float[Tensor, "*chunk time time"]:
    """Products of queries and keys, decayed over the time between them; zero for later keys."""
    size = total.shape[-2]
    later = torch.ones(size, size, dtype=torch.bool, device=total.device).triu(1)[..., None]
    between = total[..., :, None, :] - total[..., None, :, :]
    weight = between.masked_fill(later, -math.inf).exp()  # masked first: it would overflow
    if total.shape[-1] == 1:
        return query @ key.transpose(-1, -2) * weight[..., 0]
    return torch.einsum("...id,...jd,...ijd->...ij", query, key, weight)
