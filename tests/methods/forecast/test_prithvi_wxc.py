"""Prithvi WxC: what is hidden stays hidden, what is predicted deviates from the climatology."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import forecast as contract
from methods.test_methods import build, generator, perturb
from stores import make

from longrun.data.windows import Windows, time_mean
from longrun.methods.forecast.prithvi_wxc import PrithviWxC, Seen, _linear, _nearest
from longrun.nn.windows import Layer, LocalGlobal, rolled, to_grid, to_windows
from longrun.runtime.cli import UserError

ONES = torch.ones(3)


def made(**options):
    return perturb(build("prithvi_wxc", **options)[0])


def given(module):
    batch = contract.batch(module)
    history = module.normalised(batch["window"][:, : module.history])
    return history, module.scaled_conditions(batch["parameters"])


# Windows -----------------------------------------------------------------------------------------


def test_windows_come_together_again_and_roll_around():
    grid = torch.randn(2, 5, 8, 12, generator=generator())
    tokens = to_windows(grid, (4, 3))
    assert tokens.shape == (2, 2 * 4, 12, 5)
    torch.testing.assert_close(tokens[0, 1, :, 0], grid[0, 0, :4, 3:6].flatten())
    assert torch.equal(to_grid(tokens, (4, 3), columns=4), grid)
    moved = rolled(tokens, (4, 3), 4, forward=True)
    assert torch.equal(to_grid(moved, (4, 3), 4), grid.roll((2, 1), (2, 3)))
    assert torch.equal(rolled(moved, (4, 3), 4, forward=False), tokens)


def test_layers_mix_places_and_windows_by_turns():
    """A single layer stays within a window; three reach everything, the shifted windows too."""
    x = torch.randn(1, 4, 9, 8, generator=generator())
    other = x.clone()
    other[0, 2, 5, 0] += 1  # not all features: a norm takes that off

    def touched(network):
        return (network(other) - network(x)).abs().amax(-1)[0] > 1e-7

    local = touched(LocalGlobal(8, 2, pairs=0, shift=False))
    assert local[2].all() and not local[[0, 1, 3]].any()
    layer = Layer(8, 2)
    across = touched(lambda y: layer(y.transpose(1, 2)).transpose(1, 2))
    assert across[:, 5].all() and across.sum() == 4
    assert touched(LocalGlobal(8, 2, pairs=1, shift=False)).all()


def test_a_layer_has_the_weights_of_the_paper():
    """12 E^2 for a layer, 2.36 billion in the 30 layers of the released model."""
    with torch.device("meta"):
        layer = Layer(2560, 16)
    size = sum(parameter.numel() for parameter in layer.parameters())
    assert 30 * 12 * 2560**2 == 2_359_296_000
    biases = 2 * 2 * 2560 + 5 * 2560  # norms, feed-forward; none in the attention
    assert size == 12 * 2560**2 + biases


def test_the_small_model_has_the_size_of_the_paper():
    with torch.device("meta"):
        module = PrithviWxC(160, 2, 0, [360, 576], window=[15, 16])
    layers = [*module.encoder.layers, *module.decoder.layers]
    assert len(module.encoder.layers) == 17 and len(module.decoder.layers) == 5
    size = sum(parameter.numel() for layer in layers for parameter in layer.parameters())
    assert size == pytest.approx(0.28e9, rel=0.02)
    assert module.sizes == (216, 240)  # windows and places


# Masks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["global", "local"])
def test_what_is_hidden_has_no_say(kind):
    module = made()
    history, conditions = given(module)
    seen = module.draw(kind, 0.5, len(history), generator())
    hidden = module._hidden(seen)[:, None]
    before = module.answer(history, conditions, ONES, ONES, seen)
    changed = module.answer(history + 3 * hidden, conditions, ONES, ONES, seen)
    assert torch.equal(changed, before)
    changed = module.answer(history + 3 * (1 - hidden), conditions, ONES, ONES, seen)
    assert not torch.allclose(changed, before)


@pytest.mark.parametrize("kind", ["global", "local"])
def test_as_much_is_hidden_as_asked_for_and_other_in_every_sample(kind):
    module = made()
    for ratio in (0.5, 0.75):
        hidden = module._hidden(module.draw(kind, ratio, 3, generator()))
        np.testing.assert_allclose(hidden.mean((1, 2, 3)), ratio)
        assert not torch.equal(hidden[0], hidden[1])
        windows = to_windows(hidden, (4, 4)).mean((2, 3))  # of 2 x 2 tokens of 2 x 2 points
        assert (set(windows.unique().tolist()) == {0.0, 1.0}) == (kind == "global")
    assert module.draw(kind, 0.0, 3, generator()) is None


def test_all_tokens_in_any_order_are_the_whole_frame():
    """The order in which windows are kept means nothing."""
    module = made()
    history, conditions = given(module)
    whole = module.answer(history, conditions, ONES, ONES, None)
    windows, places = module.sizes
    for axis, number in ((1, windows), (2, places)):
        sets = 1 if axis == 1 else windows
        order = torch.randperm(number, generator=generator())
        numbers = order.expand(3, sets, number)
        numbers = numbers.mT if axis == 1 else numbers
        found = module.answer(history, conditions, ONES, ONES, Seen(axis, numbers))
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_lead_and_spacing_are_told():
    module = made()
    history, conditions = given(module)
    answers = [
        module.answer(history, conditions, spacing * ONES, lead * ONES, None)
        for spacing, lead in ((1, 1), (2, 1), (1, 0))
    ]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[0], answers[2])


@pytest.mark.parametrize("part", ["climatology", "position", "missing", "shift"])
def test_hidden_places_are_filled_from_what_is_known_of_them(part):
    """Their climatology, their place, a learnt token; and windows that move reach others."""
    module = made()
    history, conditions = given(module)
    seen = module.draw("local", 0.75, len(history), generator())
    before = module.answer(history, conditions, ONES, ONES, seen)
    if part == "shift":
        module.decoder.shift = False
    else:
        with torch.no_grad():
            value = getattr(module, part)
            value.add_(torch.randn(value.shape, generator=generator()))
    change = (module.answer(history, conditions, ONES, ONES, seen) - before).abs()
    assert (change * module._hidden(seen)).max() > 1e-4


# Training ----------------------------------------------------------------------------------------


def test_a_training_draws_lead_and_spacing_and_asks_for_that_frame(monkeypatch):
    module = made(leads=[0, 1, 3], spacings=[1, 2])
    batch = contract.batch(module, size=64)
    time = torch.arange(module.history + module.unroll)  # a window that counts its frames
    batch["window"] = time[:, None, None, None].expand(64, -1, 2, 16, 16).float()
    asked = {}

    def answer(history, conditions, spacing, lead, seen):
        asked.update(history=history, spacing=spacing, lead=lead, seen=seen)
        return torch.zeros_like(history[:, 0])

    monkeypatch.setattr(module, "answer", answer)
    monkeypatch.setattr(
        module,
        "step_error",
        lambda found, target, history: asked.update(target=target) or torch.zeros(()),
    )
    module.batch_loss(batch, generator())
    first, second = module.physical(asked["history"])[..., 0, 0, 0].T
    truth = asked["target"] * module.per_channel(module.target_scale) + module.climatology
    truth = truth[:, 0, 0, 0]
    torch.testing.assert_close(second - first, asked["spacing"])
    torch.testing.assert_close(truth - second, asked["lead"], atol=1e-5, rtol=0)
    assert set(asked["lead"].tolist()) == {0, 1, 3} and set(asked["spacing"].tolist()) == {1, 2}
    assert asked["seen"] is not None


def test_without_masks_and_leads_it_is_trained_as_any_forecaster():
    module = made(mask_ratio=0.0, leads=[1], spacings=[1])
    batch = contract.batch(module)
    history, conditions = given(module)
    target = module.scaled_target(batch["window"][:, 1], batch["window"][:, 2])
    expected = module.step_error(module.step(history, conditions), target, history)
    torch.testing.assert_close(module.batch_loss(batch, generator()), expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"leads": [0, 2]}, "must hold 1"),
        ({"spacings": [2]}, "must hold 1"),
        ({"history": 1, "spacings": [1, 2]}, "no effect on one frame"),
        ({"window": [3, 2]}, "multiple of patch times window"),
        ({"width": 12}, "multiple of 8"),
        ({"training": {"name": "unrolled", "unroll": 3}}, "no effect"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        build("prithvi_wxc", **options)


# Climatology -------------------------------------------------------------------------------------


@pytest.fixture(name="windows", scope="module")
def made_windows(tmp_path_factory):
    splits = {name: {"trajectories": 3, "frames": 12} for name in ("train", "valid", "test")}
    store = make(tmp_path_factory.mktemp("data") / "toy.zarr", splits=splits)
    return Windows([store], "train", 3, 1)


def test_the_mean_over_time_is_that_of_the_frames(windows):
    frames = windows.read(np.arange(len(windows)))[0][:, 0].astype(float)
    mean, std = time_mean(windows)
    np.testing.assert_allclose(mean, frames.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(frames.var(0).mean(1)), rtol=1e-5)


def test_a_network_that_says_nothing_forecasts_the_climatology():
    module = made()
    with torch.no_grad():
        module.unembed.weight.zero_()
        module.unembed.bias.zero_()
        module.climatology.copy_(torch.randn(module.climatology.shape, generator=generator()))
    batch = contract.batch(module)
    history = batch["window"][:, :2]
    found = module.predict(history, batch["parameters"])
    assert torch.equal(found, module.climatology.expand_as(found))
    plain = build("prithvi_wxc", residual="mean")[0]
    with torch.no_grad():
        plain.unembed.weight.zero_()
        plain.unembed.bias.zero_()
    found = plain.predict(history, batch["parameters"])
    torch.testing.assert_close(found, plain.per_channel(plain.field_mean).expand_as(found))


def test_tuning_goes_on_with_the_climatology_of_the_pretraining():
    source, module = made(), made(mask_ratio=0.0, leads=[1], spacings=[1])
    source.climatology.fill_(2.0)
    source.anomaly_std.fill_(3.0)
    data = SimpleNamespace(train_windows=None)  # is not looked at
    module.prepare(data, [source])
    assert (module.climatology == 2).all() and (module.anomaly_std == 3).all()
    assert torch.equal(module.unembed.weight, source.unembed.weight)


# Reconstruction ----------------------------------------------------------------------------------


def test_the_nearest_patch_is_found_around_the_box():
    frames = torch.arange(8.0).repeat_interleave(2).expand(1, 1, 4, 16)
    hidden = torch.zeros(1, 1, 4, 16)
    hidden[..., :4] = 1  # patches 0 and 1 of each row
    found = _nearest(frames, hidden, patch=2)[0, 0, 0, ::2]
    assert found.tolist() == [7, 2, 2, 3, 4, 5, 6, 7]


def test_a_linear_fill_goes_around_the_box():
    """Exact for a field that is linear but for its fold, which two seen points enclose."""
    x = torch.arange(16.0)
    frames = torch.minimum(x, 16 - x).reshape(1, 1, 16, 1).expand(1, 1, 16, 8)
    hidden = torch.ones(1, 1, 16, 8)
    hidden[:, :, [0, 5, 8, 12]] = 0
    torch.testing.assert_close(_linear(frames, hidden), frames)


def test_rebuilding_is_scored_where_frames_are_hidden():
    module = made()
    batch = contract.batch(module)
    with torch.no_grad():
        module.unembed.weight.zero_()
        module.unembed.bias.zero_()
    errors = module._rebuilt(batch["window"][:, :2], batch["parameters"], seed=0)
    truth = batch["window"][:, 1]
    square = truth.square().mean(1)  # the climatology is zero, the deviation of the anomaly one
    assert set(errors) == {
        *(f"reconstruction_{kind}_{r}" for kind in ("global", "local") for r in (50, 75, 90)),
        "nearest",
        "linear",
    }
    mean = errors["reconstruction_local_90"]
    assert ((mean - square.mean((1, 2))).abs() < 0.5 * square.mean((1, 2))).all()
    assert math.isfinite(errors["nearest"].sum()) and math.isfinite(errors["linear"].sum())
