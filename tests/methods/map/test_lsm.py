"""LSM: parameters counted, blocks computed by their formulas."""

import math

import pytest
import torch
from contracts import map as contract_map
from torch import nn

from longrun.methods.map.lsm import LSM, NeuralSpectralBlock

SMALL = {"width": 8, "scales": 3, "patch": 2, "tokens": 3, "basis": 4, "heads": 2}


def build(points=(16, 16), **options):
    torch.manual_seed(0)
    sizes = {"fields": 2, "dims": len(points), "conditions": 0, "points": list(points)}
    return LSM(**sizes | SMALL | options)


def block(width=8, patch=4, tokens=3, basis=4, heads=2):
    torch.manual_seed(0)
    return NeuralSpectralBlock(width, patch, tokens, basis, heads).double()


def features(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_parameter_count():
    with torch.device("meta"):
        module = LSM(fields=2, dims=2, conditions=0, points=[85, 85], width=64, patch=6)
        unet = LSM(fields=2, dims=2, conditions=0, points=[85, 85], width=64, blocks=False)
    assert count(module) / 1e6 == pytest.approx(19.19, abs=0.005)
    widths = (64, 128, 256, 512, 512)
    blocks = sum(3 * w * w + 3 * w + 4 * w + 2 * 12 * w for w in widths)
    assert count(module) - count(unet) == blocks
    assert module.multiple == 96  # 85 points are padded by 11


def test_a_block_follows_its_formulas():
    b, x = block(), features(1, 8, 4, 4)  # one patch
    pixels = x.flatten(2)[0]
    both = b.keys_and_values(x).flatten(2)[0]
    asked = b.queries(x).flatten(2)[0]
    expected = pixels.clone()
    for head in range(2):
        mine = slice(4 * head, 4 * head + 4)
        keys, values, queries = both[:8][mine].T, both[8:][mine].T, asked[mine].T
        q = b.tokens[head]
        z = q + torch.softmax(q @ keys.T, dim=1) @ values  # no scale
        change = torch.zeros_like(z)
        for m in range(4):
            phase = math.pi * m / 4 * z
            change += b.sine[head, :, m] * phase.sin() + b.cosine[head, :, m] * phase.cos()
        z = z + change
        expected[mine] += (torch.softmax(queries @ z.T, dim=1) @ z).T
    torch.testing.assert_close(b(x)[0].flatten(1), expected)


def test_patches_share_weights_and_do_not_mix():
    b, x = block(), features(2, 8, 8, 12)
    whole = b(x)
    for i in range(2):
        for j in range(3):
            here = (slice(None), slice(None), slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4))
            torch.testing.assert_close(whole[here], b(x[here]))


def test_attention_is_not_scaled():
    b, x = block(), features(1, 8, 4, 4)
    scaled = block()
    with torch.no_grad():
        scaled.keys_and_values.weight[:8] /= 4**0.5
        scaled.keys_and_values.bias[:8] /= 4**0.5
    assert not torch.allclose(b(x), scaled(x))


def test_without_waves_tokens_pass_unchanged():
    b, z = block(basis=0), features(1, 2, 3, 4)
    assert torch.equal(b.expand(z), z)
    assert count(block()) - count(b) == 2 * 8 * 4


def test_initial_weights_lie_between_zero_and_one_over_the_width():
    b = NeuralSpectralBlock(64, 4, 4, 12, 8)
    for weights in (b.tokens, b.sine, b.cosine):
        assert weights.min() >= 0 and 0.9 / 64 < weights.max() <= 1 / 64
    assert b.tokens.shape == (8, 4, 8)


def test_every_scale_has_a_block_and_ablations_are_the_same_network_without():
    module, bare = build(), build(blocks=False)
    assert [b.tokens.numel() // 3 for b in module.blocks] == [8, 16, 16]
    assert all(isinstance(b, nn.Identity) for b in bare.blocks)
    shapes = {k: v.shape for k, v in module.state_dict().items() if not k.startswith("blocks")}
    assert {k: v.shape for k, v in bare.state_dict().items()} == shapes
    attention = build(spectral=False)
    assert not any("sine" in key for key in attention.state_dict())
    assert count(module) - count(attention) == 2 * 4 * (8 + 16 + 16)


@pytest.mark.parametrize("points", [(16, 16), (13, 20), (8, 9)])
def test_grids_are_padded_and_cropped(points):
    module = build(points).eval()
    assert module.operator(torch.randn(2, 3, *points)).shape == (2, 1, *points)


def test_no_buffer_but_statistics_and_those_of_batch_norm():
    names = {key.rsplit(".", 1)[-1] for key, _ in build().named_buffers()}
    assert names == {
        "field_mean",
        "field_std",
        "condition_index",
        "condition_low",
        "condition_scale",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_it_sees_the_coordinates():
    module = build()
    assert module.inputs == 3
    seen = module.seen(torch.zeros(1, 1, 16, 16), torch.ones(1, 2))
    assert seen[0, 1, 0, 0] < seen[0, 1, -1, 0] and seen[0, 2, 0, 0] < seen[0, 2, 0, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": (16,)}, "dims"),
        ({"scales": 1}, "scales"),
        ({"heads": 3}, "heads"),
        ({"tokens": 0}, "at least 1"),
        ({"basis": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_it_learns_a_solution_operator():
    module = build(conditions=1)
    module.fit_statistics(contract_map.description(LSM)["statistics"])
    optimiser = torch.optim.Adam(module.parameters(), lr=3e-3)
    batch, generator = contract_map.batch(module, 4), torch.Generator()
    losses = []
    for _ in range(40):
        optimiser.zero_grad()
        losses.append(module.batch_loss(batch, generator))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.3 * losses[0]
