"""SineNet against the equations of its paper, and the size of the public code."""

import pytest
import torch

from longrun.methods.forecast.sinenet import SineNet, Wave, upsampled


def build(seed=0, **options):
    torch.manual_seed(seed)
    options = {"waves": 2, "width": 4, "multiplier": 1.5, "levels": 2} | options
    return SineNet(fields=1, dims=2, conditions=options.pop("conditions", 0), **options)


def frames(points=16, batch=2, history=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, history, 1, points, points, generator=generator)


NONE = torch.zeros(2, 0)


@pytest.mark.parametrize(
    ("waves", "multiplier", "count"),
    [
        (8, 1.425, 35_490_219),
        (6, 1.5, 35_475_499),
        (4, 1.611, 35_493_699),
        (2, 1.8075, 35_499_989),
        (1, 2.0, 33_788_099),
    ],
)
def test_has_the_parameters_of_the_public_code(waves, multiplier, count):
    # smoke: density and two components of velocity, four frames of them. The count of eight waves
    # is exact; of the others the millions are known (35.48, 35.49, 35.50, 33.8).
    with torch.device("meta"):
        module = SineNet(3, 2, 0, history=4, waves=waves, multiplier=multiplier)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_channels_are_the_integer_parts_of_powers():
    with torch.device("meta"):
        wave = SineNet(3, 2, 0, history=4).waves[0]
    outputs = [level.first.convolution2.convolution.out_channels for level in wave.down]
    assert outputs == [91, 129, 185, 263]
    assert [level.first.norm2.num_channels for level in wave.up] == [185, 129, 91, 64]


def test_the_second_path_has_the_base_width_from_the_second_level_on():
    with torch.device("meta"):
        dual = SineNet(3, 2, 0, history=4).waves[0]
        tangled = SineNet(3, 2, 0, history=4, dual_path=False).waves[0]
    inputs = [
        [level.first.convolution1.convolution.in_channels for level in wave.down]
        for wave in (dual, tangled)
    ]
    assert inputs == [[64, 91 + 64, 129 + 64, 185 + 64], [64, 91, 129, 185]]


def test_the_second_path_is_the_pooled_input_untouched():
    # With every processed feature silenced, the coarsest level still sees the input.
    torch.manual_seed(0)
    wave = Wave([4, 6, 9], 1, True, "circular", 0)
    seen = []
    wave.down[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    x = frames().expand(-1, 4, -1, -1, -1)[:, :, 0]
    wave(x, None)
    expected = torch.nn.functional.avg_pool2d(x, 4)
    torch.testing.assert_close(seen[0], expected)


def test_waves_add_to_one_another():
    module = build()
    with torch.no_grad():
        x = module.stem(frames()[:, 0])
        for wave in module.waves:
            x = x + wave(x, None)
        torch.testing.assert_close(module.step(frames(), NONE), module.head(x))


def test_silent_waves_leave_stem_and_head():
    module = build()
    for wave in module.waves:
        last = wave.up[-1]
        for parameter in (*last.shortcut.parameters(), *last.first.norm2.parameters()):
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        expected = module.head(module.stem(frames()[:, 0]))
        torch.testing.assert_close(module.step(frames(), NONE), expected)


@pytest.mark.parametrize("points", [1, 2, 8])
def test_upsampling_of_a_periodic_grid_has_no_seam(points):
    x = frames(points)[:, 0].double()
    doubled = upsampled(x, "circular")
    assert doubled.shape[2:] == (2 * points, 2 * points)
    moved = upsampled(x.roll((1, 3), (2, 3)), "circular")
    torch.testing.assert_close(moved, doubled.roll((2, 6), (2, 3)))
    torch.testing.assert_close(upsampled(torch.ones_like(x), "circular"), torch.ones_like(doubled))


def test_upsampling_is_bicubic_inside():
    x = frames(12)[:, 0]
    inner = slice(6, -6)
    periodic, closed = (
        upsampled(x, padding)[..., inner, inner] for padding in ("circular", "zeros")
    )
    torch.testing.assert_close(periodic, closed)


def test_commutes_with_translations_by_the_coarsest_cell():
    module = build().double()
    x = frames().double()
    with torch.no_grad():
        still = module.step(x, NONE)
        moved = module.step(x.roll((4, 8), (3, 4)), NONE)
    torch.testing.assert_close(moved, still.roll((4, 8), (2, 3)))


def test_zeros_know_where_the_walls_are():
    module = build(padding="zeros").double()
    x = frames().double()
    with torch.no_grad():
        moved = module.step(x.roll(4, 3), NONE)
    assert not torch.allclose(moved, module.step(x, NONE).roll(4, 2), atol=1e-3)


def test_more_blocks_deepen_one_wave():
    module = build(waves=1, blocks=3)
    assert [len(level.more) for level in (*module.waves[0].down, *module.waves[0].up)] == [2] * 4


def test_a_condition_changes_every_block():
    module = build(conditions=1)
    few, many = (module.step(frames(), torch.full((2, 1), value)) for value in (0.0, 10.0))
    assert not torch.allclose(few, many)


def test_a_grid_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        build().step(frames(18), NONE)


@pytest.mark.parametrize("options", [{"waves": 0}, {"blocks": 0}, {"multiplier": 0.5}])
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="at least 1"):
        build(**options)


def test_one_dimension_is_refused():
    with pytest.raises(ValueError, match="dims must be 2"):
        SineNet(1, 1, 0)
