"""Softplus attention with re-weighting against its formulas, row by row."""

import math

import pytest
import torch

from longrun.methods.forecast.lssar import LSSAR, SoftplusAttention

PART = 8


def attention(power):
    torch.manual_seed(0)
    return SoftplusAttention(2 * PART, 2, window=64, power=power)


def drawn(time=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 2, time, PART, generator=generator, dtype=torch.float64)


def by_the_formulas(query, key, power):
    time = query.shape[-2]
    rows = torch.zeros(2, time, time, dtype=torch.float64)
    for h in range(2):
        for i in range(time):
            count = i + 1
            a = []
            for j in range(count):
                q, k = query[0, h, i], key[0, h, j]
                s = math.log(PART) * math.log(count) * float(q @ k / (q.norm() * k.norm()))
                a.append(math.log1p(math.exp(s)))
            row = [one / sum(a) for one in a]
            if power is not None:
                offset = 0.0 if i < 3 else 1.0
                row = [max(0.0, count * one - offset) ** power for one in row]
                row = [one / sum(row) for one in row]
            rows[h, i, :count] = torch.tensor(row, dtype=torch.float64)
    return rows


@pytest.mark.parametrize("power", [None, 1.0, 3.0, 15.0])
def test_weights_are_those_of_the_formulas(power):
    query, key = drawn()
    found = attention(power).weights(query, key, torch.arange(12))
    expected = by_the_formulas(query, key, power)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), rtol=0, atol=1e-6)


def test_reweighting_keeps_what_is_above_the_average():
    query, key = drawn()
    plain, sharp = (attention(p).weights(query, key, torch.arange(12)) for p in (None, 15.0))
    above = plain * torch.arange(1, 13)[:, None] > 1
    assert not sharp[:, :, 3:][~above[:, :, 3:]].any()
    assert (sharp.amax(-1) >= plain.amax(-1) - 1e-9)[:, :, 3:].all()


def test_a_row_whose_weights_are_equal_keeps_them():
    query, key = drawn()
    found = attention(15.0).weights(query, key[..., :1, :].expand_as(key), torch.arange(12))
    expected = torch.tril(torch.ones(12, 12, dtype=torch.float64)) / torch.arange(1, 13)[:, None]
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-6)


def test_weights_close_to_the_average_are_not_silenced():
    """Within 10 % of it, 0.1^15 is far below the 1e-8 in the usual denominator."""
    query, key = drawn()
    near = key[..., :1, :] + 1e-3 * key
    found = attention(15.0).weights(query, near, torch.arange(12))
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), rtol=0, atol=1e-6)


def test_the_power_grows_while_it_trains(monkeypatch):
    torch.manual_seed(0)
    module = LSSAR(1, 1, 0, [4], width=8, layers=1, heads=2, history=6, power_updates=10)
    seen = []

    def mix(mixer, query, key, value, place):
        seen.append(1 + mixer.share * (mixer.power - 1))
        return value

    monkeypatch.setattr(SoftplusAttention, "mix", mix)
    window, none = (
        torch.randn(2, 7, 1, 4, generator=torch.Generator().manual_seed(0)),
        torch.zeros(2, 0),
    )
    for step in (0, 5, 10, 99):
        monkeypatch.setattr(LSSAR, "global_step", step)
        module.window_loss(window, none, torch.Generator())
        module.step(window[:, :6], none)
    assert seen == [1, 15, 8, 15, 15, 15, 15, 15]  # a forecast has all of it


def test_has_the_parameters_of_the_papers_model():
    width, layers, words = 768, 12, 50_257
    with torch.device("meta"):
        blocks = LSSAR(1, 1, 0, [4], width=width, layers=layers, heads=12).blocks
    found = sum(parameter.numel() for parameter in blocks.parameters())
    assert found == layers * (12 * width**2 + 2 * width)
    assert found + words * width == pytest.approx(124e6, rel=0.01)  # GPT-2 small


@pytest.mark.parametrize("options", [{"power": 0.5}, {"power_updates": -1}])
def test_impossible_powers_are_refused(options):
    with pytest.raises(ValueError, match="power"):
        LSSAR(1, 1, 0, [4], **options)
