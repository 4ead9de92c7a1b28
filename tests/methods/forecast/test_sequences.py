"""What all forecasters over a sequence of frames share, and their baselines."""

import numpy as np
import pytest
import torch

from longrun.methods.forecast.gla import GLA
from longrun.methods.forecast.linear_autoregression import LinearAutoregression
from longrun.methods.forecast.lssar import LSSAR
from longrun.methods.forecast.s5_ptd import S5PTD
from longrun.methods.forecast.transformer import Transformer
from longrun.methods.forecast.transnormer import TransNormer
from longrun.nn.sequence import CausalAttention, rotated

KINDS = [
    (Transformer, {}),
    (GLA, {}),
    (GLA, {"gates": False}),
    (TransNormer, {}),
    (TransNormer, {"decay": False}),
    (LSSAR, {}),
    (LSSAR, {"reweight": False}),
    (S5PTD, {"state": 8}),
]
NONE = torch.zeros(2, 0)


def build(kind, history=24, **options):
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 2} | ({} if kind is S5PTD else {"heads": 2})
    return kind(1, 1, 0, [4], history=history, **(sizes | options)).double()


def frames(time, batch=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, time, 1, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_frames_one_by_one_give_what_all_at_once_give(kind, options):
    module, x = build(kind, **options), frames(24)
    with torch.no_grad():
        whole, _ = module.read(x, NONE, {})
        found, memory = [], {}
        for t in range(24):
            target, memory = module.read(x[:, t : t + 1], NONE, memory)
            found.append(target)
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_no_frame_sees_a_later_one_and_each_sees_the_first(kind, options):
    module, x = build(kind, **options), frames(12)
    other = x.clone()
    other[:, 7] += 1.0
    changed = x.clone()
    changed[:, 0] += 1.0
    with torch.no_grad():
        still, later, first = (module.read(one, NONE, {})[0] for one in (x, other, changed))
    torch.testing.assert_close(later[:, :7], still[:, :7], rtol=0, atol=1e-12)
    assert (later[:, 7:] - still[:, 7:]).abs().amax((2, 3)).min() > 1e-9
    assert (first - still).abs().amax((2, 3)).min() > 1e-9


@pytest.mark.parametrize(("kind", "options"), KINDS[:4])
def test_a_rollout_is_the_forecast_of_its_own_frames(kind, options):
    module, x = build(kind, history=6, **options), frames(6)
    with torch.no_grad():
        memory, found = module.begin(x, NONE), []
        for _ in range(3):
            frame, memory = module.advance(memory)
            found.append(frame)
        torch.testing.assert_close(found[0], module.predict(x, NONE))
        if kind is not Transformer:  # what is recurrent keeps all
            grown = torch.cat([x, torch.stack(found[:2], 1)], 1)
            torch.testing.assert_close(found[2], module.predict(grown, NONE))


def test_attention_sees_its_window_alone_in_a_rollout():
    torch.manual_seed(0)
    layer = CausalAttention(8, 2, window=4).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 9, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        memory = {}
        for t in range(9):
            found, memory = layer(x[:, t : t + 1], memory)
        expected, _ = layer(x[:, 5:], {})
    assert memory["key"].shape[2] == 3
    torch.testing.assert_close(found[:, 0], expected[:, -1])


def test_rotary_positions_see_differences_of_time_alone():
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 5, 8, generator=generator, dtype=torch.float64)
    place = torch.arange(5)
    near, far = (rotated(query, p) @ rotated(key, p).mT for p in (place, place + 100))
    torch.testing.assert_close(near, far)
    assert (near - query @ key.mT).abs().max() > 0.1


def test_every_frame_of_a_window_is_trained():
    module, window = build(Transformer, history=5), frames(6)
    module.field_std.fill_(2.0)
    module.increment_std.fill_(0.5)
    loss = module.window_loss(window, NONE, torch.Generator())
    with torch.no_grad():
        errors = []
        for count in range(1, 6):
            target = (window[:, count] - window[:, count - 1]) / 0.5
            given = (window[:, :count] - module.field_mean) / 2.0
            errors.append((module.step(given, NONE) - target).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_another_context_has_the_same_weights():
    short, long = build(LSSAR, history=4), build(LSSAR, history=400)
    with torch.no_grad():
        for parameter in short.parameters():
            parameter.add_(0.1)
    long.take_over(short)
    x = frames(4)
    torch.testing.assert_close(long.step(x, NONE), short.step(x, NONE), rtol=0, atol=0)


def test_rollouts_are_not_trained_and_odd_widths_refused():
    with pytest.raises(ValueError, match="training must be one_step, is unrolled"):
        build(GLA, training={"name": "unrolled", "unroll": 2})
    for kind in (Transformer, GLA, LSSAR):
        with pytest.raises(ValueError, match=r"multiple of twice heads \(6\), is 16"):
            build(kind, heads=3)
    with pytest.raises(ValueError, match=r"multiple of heads \(3\), is 16"):
        build(TransNormer, heads=3)


class Process:
    """Windows of a linear process of second order, as a data module gives them."""

    def __init__(self, count, seed):
        self.count, self.generator = count, np.random.default_rng(seed)

    def spread(self, count):
        return np.arange(min(count, self.count))

    def read(self, chosen):
        x = self.generator.normal(size=(len(chosen), 5, 1, 4))
        for t in range(2, 5):
            x[:, t] = 0.3 + 1.2 * x[:, t - 1] - 0.5 * np.roll(x[:, t - 2], 1, -1)
        return x.astype(np.float32), np.zeros((len(chosen), 1), np.float32)


def test_linear_autoregression_finds_a_linear_process():
    class Data:
        train_windows, valid_windows = Process(3000, 0), Process(200, 1)

    module = LinearAutoregression(1, 1, 0, [4], history=4)
    module.field_std.fill_(1.7)
    module.prepare(Data, [])
    window = torch.from_numpy(Process(50, 2).read(np.arange(50))[0])
    found = module.predict(window[:, :4], torch.zeros(50, 1))
    torch.testing.assert_close(found, window[:, 4], rtol=0, atol=1e-3)
    with pytest.raises(ValueError, match="takes no starts_from"):
        module.prepare(Data, [module])
