"""Gated linear attention against the recurrence of its paper."""

import math

import pytest
import torch
from torch.nn import functional

from longrun.methods.forecast.gla import GLA, GatedLinearAttention


def layer(gates=True, width=16, number=2):
    torch.manual_seed(0)
    return GatedLinearAttention(width, number, gates).double()


def tokens(time=20, width=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, time, width, generator=generator, dtype=torch.float64)


def by_the_paper(module, x, gates=True):
    """Return outputs of the recurrence, head by head."""
    width, number = x.shape[-1], module.number
    query, key, value, gate = module.inputs(x).split([width // 2, width // 2, width, width], -1)
    forget = torch.ones_like(key)
    if gates:
        forget = functional.logsigmoid(module.decay(x)).div(16).exp()
    heads = []
    for h in range(number):
        k = slice(h * width // 2 // number, (h + 1) * width // 2 // number)
        v = slice(h * width // number, (h + 1) * width // number)
        state = x.new_zeros(len(x), width // 2 // number, width // number)
        rows = []
        for t in range(x.shape[1]):
            state = forget[:, t, k, None] * state + key[:, t, k, None] * value[:, t, None, v]
            row = (query[:, t, None, k] @ state)[:, 0] / math.sqrt(width // 2 // number)
            rows.append(row / (row.square().mean(-1, keepdim=True) + 1e-5).sqrt())
        heads.append(torch.stack(rows, 1))
    return module.output(torch.cat(heads, -1) * functional.silu(gate))


@pytest.mark.parametrize("gates", [True, False])
def test_is_the_recurrence_of_the_paper(gates):
    module, x = layer(gates), tokens()
    with torch.no_grad():
        found, _ = module(x, {})
        torch.testing.assert_close(found, by_the_paper(module, x, gates), rtol=0, atol=1e-10)


def test_gates_decide_what_is_remembered():
    module, x = layer(), tokens()
    with torch.no_grad():
        module.decay[1].weight.zero_()
        module.decay[1].bias.fill_(1e4)  # open: nothing is forgotten
        torch.testing.assert_close(module(x, {})[0], by_the_paper(module, x, gates=False))
        module.decay[1].bias.fill_(-1e4)  # closed: the present alone
        alone, _ = module(x[:, -1:], {})
        torch.testing.assert_close(module(x, {})[0][:, -1:], alone)


def test_initial_memories_are_long():
    module, x = layer(), tokens()
    with torch.no_grad():
        forget = (functional.logsigmoid(module.decay(x)) / 16).exp()
    assert forget.min() > 0.9 and forget.max() < 1


def test_a_smaller_divisor_begins_with_shorter_memories():
    x = tokens()
    torch.manual_seed(0)
    short = GatedLinearAttention(16, 2, True, divisor=1.0).double()
    with torch.no_grad():
        short.decay[1].weight.zero_()
        short.decay[1].bias.zero_()
        _, after = short(x[:, :1], {})
        nothing = torch.zeros_like(x[:, :1])
        _, later = short(nothing, after)
    torch.testing.assert_close(later["state"], after["state"] / 2)  # sigmoid(0)


@pytest.mark.parametrize("options", [{"divisor": 0.0}, {"divisor": 1.0, "gates": False}])
def test_divisors_of_nothing_are_refused(options):
    with pytest.raises(ValueError, match="divisor must be positive, and needs gates"):
        GLA(1, 1, 0, [4], **options)


def test_has_the_parameters_of_the_papers_smaller_model():
    width, layers, words = 1024, 24, 32_000
    with torch.device("meta"):
        blocks = GLA(1, 1, 0, [4], width=width, layers=layers, heads=4).blocks
    found = sum(parameter.numel() for parameter in blocks.parameters())
    gates = 16 * width + (16 + 1) * width // 2
    feed_forward = 3 * width * (8 * width // 3)
    each = 4 * width**2 + gates + width // 4 + feed_forward + 2 * width
    assert found == layers * each
    assert found + words * width == pytest.approx(340e6, rel=0.02)
