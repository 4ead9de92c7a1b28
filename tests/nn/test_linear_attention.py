"""The chunked form of linear attention against the recurrence that it stands for."""

import pytest
import torch

from longrun.nn.linear_attention import linear_attention

BATCH, HEADS, KEYS, VALUES = 2, 3, 6, 5


def recurrence(query, key, value, log_decay, state):
    """S_t = diag(exp g_t) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t, as it is written."""
    outputs = []
    for t in range(query.shape[2]):
        state = log_decay[:, :, t, :, None].exp() * state
        state = state + key[:, :, t, :, None] * value[:, :, t, None]
        outputs.append((query[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state


def drawn(time, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = [draw(BATCH, HEADS, time, size) for size in (KEYS, KEYS, VALUES)]
    return *tokens, draw(BATCH, HEADS, KEYS, VALUES), draw


def decays(kind, time, draw):
    if kind == "gates":  # from none at all to one that forgets everything
        return -50 * draw(BATCH, HEADS, time, KEYS).square()
    each = torch.tensor([0.01, 1.0, 100.0], dtype=torch.float64)[:, None, None]
    return -each[None] if kind == "fixed" else None


@pytest.mark.parametrize("time", [1, 5, 16, 37])
@pytest.mark.parametrize("kind", ["gates", "fixed", "none"])
def test_chunks_are_the_recurrence(kind, time):
    query, key, value, state, draw = drawn(time)
    given = decays(kind, time, draw)
    whole = torch.zeros(1, 1, 1, 1) if given is None else given
    expected = recurrence(query, key, value, whole.expand(BATCH, HEADS, time, -1), state)
    found = linear_attention(query, key, value, given, state)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["gates", "fixed", "none"])
def test_neither_chunks_nor_pauses_change_a_bit_of_it(kind):
    query, key, value, _, draw = drawn(23)
    given = decays(kind, 23, draw)
    whole, after = linear_attention(query, key, value, given)
    small, same = linear_attention(query, key, value, given, chunk=3)
    torch.testing.assert_close(small, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(same, after, rtol=0, atol=1e-10)
    parts, state = [], None
    for piece in (slice(0, 9), slice(9, 10), slice(10, 23)):
        decay = given[:, :, piece] if kind == "gates" else given
        tokens = (part[:, :, piece] for part in (query, key, value))
        part, state = linear_attention(*tokens, decay, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(state, after, rtol=0, atol=1e-10)


def test_the_future_is_masked_before_it_overflows():
    query, key, value, *_ = drawn(16)
    query, key, value = (part.float() for part in (query, key, value))
    decay = torch.full((BATCH, HEADS, 16, KEYS), -60.0, requires_grad=True)  # exp(7 * 60) is inf
    found, _ = linear_attention(query, key, value, decay)
    found.sum().backward()
    assert found.isfinite().all() and decay.grad.isfinite().all()
    alone = (query * key).sum(-1, keepdim=True) * value  # only the present is left
    torch.testing.assert_close(found, alone)
