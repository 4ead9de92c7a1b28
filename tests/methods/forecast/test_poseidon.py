"""The operator transformer of Poseidon, against its paper's equations and sizes."""

import math

import pytest
import torch

from longrun.methods.forecast import poseidon
from longrun.methods.forecast.poseidon import Poseidon, ScOT, SwinLayer, TimeNorm, WindowAttention

SMALL = {"width": 8, "depths": [2, 2], "heads": [1, 2], "patch": 2, "window": 4}


def build(fields=2, seed=0, **options):
    torch.manual_seed(seed)
    defaults = {"training": {"name": "all2all", "unroll": 4}, "target": "state"} | SMALL
    return Poseidon(fields=fields, dims=2, conditions=0, **defaults | options)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module):
    """Move all weights off their small initial values."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(0.2 * noise(*parameter.shape, seed=i))
    return module


@pytest.mark.parametrize(
    ("width", "depth", "millions"), [(48, 4, 20.8), (96, 8, 158), (192, 8, 629)]
)
def test_as_many_parameters_as_the_paper(width, depth, millions):
    with torch.device("meta"):
        network = ScOT(4, 4, width, [depth] * 4, [3, 6, 12, 24], 4, 16)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=3e-3)


def test_the_norm_follows_its_formula():
    norm, x, t = shaken(TimeNorm(6)), noise(3, 4, 5, 6), torch.tensor([[0.0], [0.5], [1.0]])
    a, b = norm.scale.weight[:, 0], norm.scale.bias
    c, d = norm.shift.weight[:, 0], norm.shift.bias
    time = t[:, None, None]
    whitened = (x - x.mean(-1, keepdim=True)) / (
        x.var(-1, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    torch.testing.assert_close(norm(x, t), whitened * (a * time + b) + c * time + d)


def test_branches_start_near_zero_and_a_lead_time_of_zero_hides_the_input():
    network = build().network
    x, none, one = noise(2, 2, 16, 16), torch.zeros(2, 1), torch.ones(2, 1)
    assert torch.equal(network(x, none), network(2 * x, none))
    assert 0 < (network(x, one) - network(x, none)).abs().max() < 0.1


def test_window_attention_is_cosine_attention_with_a_position_bias():
    attention = shaken(WindowAttention(8, 2))
    x = noise(1, 1, 6, 8)
    q, k, v = attention.mix(x)[0, 0].chunk(3, dim=1)  # the key has no bias
    q, v = q + attention.query_bias, v + attention.value_bias
    expected = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        size = q[:, part].norm(dim=1)[:, None] * k[:, part].norm(dim=1)
        score = q[:, part] @ k[:, part].T / size * attention.temperature[head].exp()
        for i in range(6):
            for j in range(6):  # tokens of a window of 2 x 3, row by row
                apart = torch.tensor([8.0 * (i // 3 - j // 3), 8.0 * (i % 3 - j % 3) / 2])
                apart = apart.sign() * (1 + apart.abs()).log2() / math.log2(8)
                score[i, j] += 16 * attention.position(apart)[head].sigmoid()
        expected.append(score.softmax(1) @ v[:, part])
    torch.testing.assert_close(
        attention(x, (2, 3), None)[0, 0], attention.output(torch.cat(expected, dim=1))
    )
    assert attention.mix.bias is None


def test_the_temperature_is_clamped():
    attention = WindowAttention(8, 2)
    x = noise(1, 1, 4, 8)
    with torch.no_grad():
        attention.temperature.fill_(math.log(100))
        highest = attention(x, (2, 2), None)
        attention.temperature.fill_(50.0)
    assert torch.equal(attention(x, (2, 2), None), highest)


def test_windows_are_cut_and_joined():
    x = torch.arange(2 * 4 * 6).reshape(2, 4, 6, 1).float()
    parts = poseidon.cut(x, (2, 3))
    assert parts[0, :, :, 0].tolist()[1] == [3, 4, 5, 9, 10, 11]
    assert torch.equal(poseidon.join(parts, (2, 3), (4, 6)), x)


def reached(layer, sides, start):
    """Tokens whose attention output depends on one token."""
    x = noise(1, *sides, 8).requires_grad_()
    t = torch.ones(1, 1)
    out = layer(x, t)[0, start[0], start[1]].sum()
    (gradient,) = torch.autograd.grad(out, x)
    return {tuple(place) for place in (gradient[0].abs().sum(-1) > 1e-12).nonzero().tolist()}


def test_shifted_windows_do_not_join_opposite_sides():
    plain = shaken(SwinLayer(8, 2, 4, shifted=False))
    shifted = shaken(SwinLayer(8, 2, 4, shifted=True))
    assert reached(plain, (8, 8), (0, 0)) == {(i, j) for i in range(4) for j in range(4)}
    middle = {(i, j) for i in range(2, 6) for j in range(2, 6)}
    assert reached(shifted, (8, 8), (3, 4)) == middle
    assert reached(shifted, (8, 8), (0, 0)) == {(i, j) for i in range(2) for j in range(2)}
    assert reached(shifted, (8, 8), (7, 3)) == {(i, j) for i in (6, 7) for j in range(2, 6)}


def test_a_window_as_long_as_the_grid_is_not_shifted():
    layer = shaken(SwinLayer(8, 2, 16, shifted=True))
    other = SwinLayer(8, 2, 4, shifted=False)
    other.load_state_dict(layer.state_dict())
    x, t = noise(2, 4, 4, 8), torch.ones(2, 1)
    assert torch.equal(layer(x, t), other(x, t))


def test_merging_takes_2_by_2_and_unmerging_gives_them_back():
    merge, unmerge = shaken(poseidon.Merge(8)), shaken(poseidon.Unmerge(16))
    x, t = noise(1, 4, 4, 8), torch.ones(1, 1)
    coarse = merge(x, t)
    assert coarse.shape == (1, 2, 2, 16) and unmerge(coarse, t).shape == (1, 4, 4, 8)
    x[0, 2:, :2] += 1
    changed = (merge(x, t) != coarse).any(-1)[0]
    assert changed.tolist() == [[False, False], [True, False]]
    coarse[0, 1, 0] += noise(16, seed=1)
    fine = (unmerge(coarse, t) != unmerge(merge(x, t), t)).any(-1)[0]
    assert fine[2:, :2].all() and not fine[2:, 2:].any()


def test_the_decoder_adds_the_skip():
    """Without ConvNeXt blocks, and layers and merging cut off, the output is that of the input."""
    network = shaken(ScOT(1, 1, 8, [1, 1], [1, 1], 1, 4, blocks=0))
    for part in (*network.down, *network.up):
        for layer in part:
            for norm in (layer.attention_norm, layer.mlp_norm):
                for parameter in norm.parameters():
                    parameter.data.zero_()
    network.unmerges[0].mix.weight.data.zero_()
    x, t = noise(2, 1, 8, 8), torch.ones(2, 1)
    embedded = network.norm(network.embedding(x).movedim(1, -1), t).movedim(-1, 1)
    expected = network.smoothing(network.recovery(embedded))
    torch.testing.assert_close(network(x, t), expected)


def test_what_enters_a_stage_is_merged_with_what_leaves_it():
    network, seen = shaken(ScOT(1, 1, 8, [1, 1], [1, 1], 1, 4)), []
    for part in (network.down[0], network.skips[0], network.merges[0]):
        part.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    network(noise(2, 1, 8, 8), torch.ones(2, 1))
    (entered, left), (skipped, _), (merged, _) = seen
    assert not torch.allclose(entered, left)
    assert torch.equal(skipped, left)
    torch.testing.assert_close(merged, entered + left)


@pytest.mark.parametrize(("depth", "moves"), [(4, [1, 0, 1, 0]), (3, [0, 1, 0])])
def test_layers_on_the_way_up_are_in_reverse_order(depth, moves):
    network = ScOT(1, 1, 8, [depth, depth], [1, 1], 1, 4)
    for down, up in zip(network.down, network.up, strict=True):
        assert [layer.shifted for layer in up] == moves
        assert [layer.shifted for layer in down] == moves[::-1]


def test_the_convnext_branch_starts_at_a_millionth():
    block = poseidon.ConvNeXt(8)
    assert torch.equal(block.scale, torch.full((8,), 1e-6))
    x = noise(1, 8, 8, 8)
    assert (block(x, torch.ones(1, 1)) - x).abs().max() < 1e-5


def test_the_lead_time_is_a_part_of_the_whole():
    module = shaken(build()).eval()
    frames = noise(3, 1, 2, 16, 16)
    scalars = module._scalars(torch.zeros(3, 1), torch.tensor([0, 2, 4]))
    expected = module.network(frames[:, 0], torch.tensor([[0.0], [0.5], [1.0]]))
    torch.testing.assert_close(module.step(frames, scalars), expected)


def test_single_steps_have_the_lead_time_one():
    module = shaken(build(training={"name": "one_step"})).eval()
    frames = noise(3, 1, 2, 16, 16)
    expected = module.network(frames[:, 0], torch.ones(3, 1))
    torch.testing.assert_close(module.step(frames, torch.zeros(3, 0)), expected)


def test_the_loss_is_relative_per_group_over_the_whole_batch():
    module = shaken(build(fields=3, groups=[[0], [1, 2]]))
    module.field_mean.copy_(torch.tensor([1.0, 0.0, -1.0]))
    module.field_std.copy_(torch.tensor([2.0, 1.0, 3.0]))
    history, target = noise(4, 1, 3, 16, 16), noise(4, 3, 16, 16, seed=1)
    scalars = torch.full((4, 1), 2.5)
    error = (module.step(history, scalars) - target).abs()
    parts = [error[:, g].mean() / target[:, g].abs().mean() for g in ([0], [1, 2])]
    torch.testing.assert_close(module.loss(history, target, scalars), sum(parts) / 2)


def test_a_masked_channel_counts_only_where_it_varies():
    module = shaken(build(fields=2, groups=[[0], [1]], masked=[1]))
    history, target = noise(4, 1, 2, 16, 16), noise(4, 2, 16, 16, seed=1)
    target[:2, 1] = 0.3
    error, size = (module.step(history, torch.full((4, 1), 5.0)) - target).abs(), target.abs()
    error[:2, 1] = size[:2, 1] = 0
    parts = [error[:, c].mean() / size[:, c].mean() for c in (0, 1)]
    loss = module.loss(history, target, torch.full((4, 1), 5.0))
    torch.testing.assert_close(loss, sum(parts) / 2)
    target[:, 1] = 0.0  # nothing to divide by
    assert module.loss(history, target, torch.full((4, 1), 5.0)).isfinite()


def test_masked_groups_give_neither_loss_nor_gradient():
    """Incompressible flow beside gas: what it lacks of density and pressure teaches nothing."""
    module = shaken(build(fields=4, groups=[[0], [1, 2], [3]], masked=[0, 3]))
    history, target = noise(4, 1, 4, 16, 16), noise(4, 4, 16, 16, seed=1)
    target[:, 0], target[:, 3] = 1.0, 0.0
    scalars = torch.full((4, 1), 5.0)
    prediction = module.step(history, scalars)
    error = (prediction - target).abs()[:, 1:3].mean() / target[:, 1:3].abs().mean()
    prediction.retain_grad()
    module.step = lambda *_: prediction
    loss = module.loss(history, target, scalars)
    torch.testing.assert_close(loss, error / 3)
    loss.backward()
    silent = prediction.grad.abs().amax((0, 2, 3)) == 0
    assert silent.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ("all2all", {(i, j) for j in range(5) for i in range(j + 1)}),  # i = j among them
        ("one2all", {(0, j) for j in range(1, 5)}),
    ],
)
def test_which_pairs_of_frames_are_trained_on(training, expected):
    module, found = build(fields=1, training={"name": training, "unroll": 4}), set()

    def note(history, target, scalars, generator=None):
        for first, later, scalar in zip(history, target, scalars, strict=True):
            pair = int(first.mean().round()), int(later.mean().round())
            assert scalar.item() == pytest.approx(10 / 4 * (pair[1] - pair[0]))  # 10 is the whole
            found.add(pair)
        return history.sum()

    module.loss = note
    window = torch.arange(5.0)[None, :, None, None, None].expand(400, 5, 1, 16, 16)
    module.window_loss(window, torch.zeros(400, 0), torch.Generator().manual_seed(0))
    assert found == expected


def test_another_criterion_is_the_tasks():
    module = shaken(build(criterion="mse"))
    history, target = noise(4, 1, 2, 16, 16), noise(4, 2, 16, 16, seed=1)
    scalars = torch.full((4, 1), 5.0)
    expected = module.distance(module.step(history, scalars), target)
    torch.testing.assert_close(module.loss(history, target, scalars), expected)


def test_embedding_recovery_and_norms_learn_faster():
    module = build(outer_factor=10.0)
    trunk, fast = module.parameter_groups()
    assert (trunk["factor"], fast["factor"]) == (1.0, 10.0)
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    slow_names = {names[id(p)] for p in trunk["params"]}
    fast_names = {names[id(p)] for p in fast["params"]}
    assert not slow_names & fast_names and len(names) == len(slow_names) + len(fast_names)
    outer = ("norm", "embedding", "recovery", "smoothing")
    assert {name for name in names.values() if any(word in name for word in outer)} == fast_names


def test_fine_tuning_starts_from_weights_and_normalisation():
    source, module = shaken(build()), build(seed=1)
    source.field_mean.fill_(0.7)
    source.field_std.fill_(1.9)
    module.prepare(None, [source])
    for key, value in module.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_other_channels_get_a_new_embedding_and_recovery():
    source, module, fresh = shaken(build()), build(fields=3, seed=1), build(fields=3, seed=1)
    source.field_std.fill_(1.9)
    module.prepare(None, [source])
    for key, value in module.network.state_dict().items():
        new = key.startswith(("embedding.", "recovery.", "smoothing."))
        expected = fresh if new else source
        assert torch.equal(value, expected.network.state_dict()[key]), key
    assert torch.equal(module.field_std, torch.ones(3))


def test_fine_tuning_refuses_other_sources():
    with pytest.raises(ValueError, match="same width, depths, heads and patch"):
        build().prepare(None, [build(width=16)])
    with pytest.raises(ValueError, match="same width, depths, heads and patch"):
        build().prepare(None, [build(depths=[2, 3])])
    with pytest.raises(ValueError, match="another run of poseidon"):
        build().prepare(None, [torch.nn.Linear(1, 1)])


def test_resampling_is_exact_for_resolved_waves():
    def wave(points):
        x = 2 * torch.pi * torch.arange(points) / points
        return (torch.sin(3 * x)[:, None] * torch.cos(2 * x + 1))[None, None]

    torch.testing.assert_close(poseidon.resample(wave(16), 24), wave(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(poseidon.resample(wave(24), 16), wave(16), atol=1e-5, rtol=0)


def test_other_grids_are_resampled_on_request():
    frames, scalars = noise(2, 1, 2, 20, 20), torch.full((2, 1), 5.0)
    with pytest.raises(ValueError, match="multiple"):
        shaken(build(patch=4)).step(frames, scalars)
    module = shaken(build(patch=4, resolution=16))
    assert module.step(frames, scalars).shape == (2, 2, 20, 20)
    with pytest.raises(ValueError, match="square"):
        module.step(noise(2, 1, 2, 20, 16), scalars)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"heads": [1]}, "equally many"),
        ({"heads": [3, 2]}, "heads"),
        ({"window": 0}, "at least 1"),
        ({"groups": [[0]]}, "groups"),
        ({"groups": [[0, 1], [1]]}, "groups"),
        ({"masked": [2]}, "masked"),
        ({"outer_factor": 0.0}, "outer_factor"),
    ],
)
def test_impossible_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        build(**options)


def test_windows_must_fill_the_grid():
    with pytest.raises(ValueError, match="don't fill"):
        build(window=3).step(noise(1, 1, 2, 16, 16), torch.ones(1, 1))
