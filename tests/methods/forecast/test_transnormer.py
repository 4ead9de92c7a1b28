"""TransNormerLLM against the sums of its paper."""

import math

import pytest
import torch
from torch.nn import functional

from longrun.methods.forecast.transnormer import SGLU, DecayingAttention, TransNormer

WIDTH, HEADS = 16, 2


def layer(share=1.0, encode=True):
    torch.manual_seed(0)
    return DecayingAttention(WIDTH, HEADS, share, encode).double()


def tokens(time=20):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, time, WIDTH, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("share", [1.0, 0.5, None])
@pytest.mark.parametrize("encode", [True, False])
def test_is_the_masked_product_of_the_paper(share, encode):
    """Products of queries and keys, turned by the time between them and decayed over it."""
    module, x = layer(share, encode), tokens()
    query, key, value, gate = module.inputs(x).chunk(4, -1)
    query, key = functional.silu(query), functional.silu(key)
    between = torch.arange(20)[:, None] - torch.arange(20)
    part, heads = WIDTH // HEADS, []
    for h in range(HEADS):
        own = slice(h * part, (h + 1) * part)
        turn = torch.ones(20, 20, part)
        if encode:
            turn = (between[..., None] * module.rate[h, 0]).cos()
        decay = torch.exp(-(share or 0.0) * 2.0 ** (-8 * (h + 1) / HEADS) * between).tril()
        weight = torch.einsum("bid,bjd,ijd->bij", query[..., own], key[..., own], turn.double())
        heads.append((weight * decay) @ value[..., own])
    mixed = torch.cat(heads, -1)
    mixed = mixed * math.sqrt(WIDTH) / mixed.norm(dim=-1, keepdim=True)  # SRMSNorm
    found, _ = module(x, {})
    torch.testing.assert_close(found, module.output(gate * mixed), rtol=1e-5, atol=1e-6)


def test_decays_are_longer_in_later_heads_and_layers():
    blocks = TransNormer(1, 1, 0, [4], width=16, layers=2, heads=4).blocks
    first, second = (block.mixer.slope.flatten() for block in blocks)
    torch.testing.assert_close(first, torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256]))
    torch.testing.assert_close(second, first / 2)
    assert blocks[0].mixer.rate is not None and blocks[1].mixer.rate is None


def test_heads_that_forget_soonest_turn_fastest():
    rate = layer().rate.detach().flatten()
    expected = 10_000.0 ** (-2 * torch.arange(WIDTH) / WIDTH)  # over all heads, not in each
    torch.testing.assert_close(rate, expected.double(), rtol=1e-5, atol=0)


def test_without_decay_the_state_grows_and_the_norm_hides_it():
    x = tokens(1).expand(-1, 400, -1)  # the same token again and again
    grown, found = {}, {}
    for share in (1.0, None):
        module = layer(share, encode=False)
        with torch.no_grad():
            (short, before), (long, after) = (module(x[:, :time], {}) for time in (100, 400))
        grown[share] = float(after["state"].norm() / before["state"].norm())
        found[share] = long[:, -1], short[:, -1]
    assert grown[None] == pytest.approx(4) and grown[1.0] < 2.5
    torch.testing.assert_close(*found[None])


def test_the_channel_mixer_has_no_activation():
    torch.manual_seed(0)
    mixer, x = SGLU(8, 12).double(), tokens()[..., :8]
    torch.testing.assert_close(mixer(-3 * x), 9 * mixer(x))


def test_a_block_has_as_many_parameters_as_the_others():
    width = 768
    with torch.device("meta"):
        (block,) = TransNormer(1, 1, 0, [4], width=width, layers=1, heads=8).blocks
    found = sum(parameter.numel() for parameter in block.parameters())
    assert found == 12 * width**2 + width  # the norms have none; theta has one for each component
