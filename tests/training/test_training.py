"""Every training scheme against plain sums over a window, for two methods with one number each.

`Linear` sees only frames, `Remembering` carries a sum from step to step in its own `begin` and
`advance`. What a scheme should give is written out here frame by frame, in numpy.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longrun import config
from longrun.config import ConfigError
from longrun.runtime import registry
from longrun.tasks.forecast import AbstractForecaster

SCHEMES = registry.names("training")
A, B = 0.8, 0.3  # the next frame is A x + B y
FRAMES = 5


class Linear(AbstractForecaster):
    """A times the last frame plus B times the one before it."""

    def __init__(self, **options):
        super().__init__(1, 1, 0, history=2, target="state", normalise=False, **options)
        self.factor = torch.nn.Parameter(torch.tensor(A, dtype=torch.float64))

    def step(self, history, conditions, generator=None):
        return self.factor * history[:, -1] + B * history[:, -2]


class Remembering(AbstractForecaster):
    """A times the last frame plus B times the sum of all frames since it began."""

    def __init__(self, **options):
        super().__init__(1, 1, 0, history=2, target="state", normalise=False, **options)
        self.factor = torch.nn.Parameter(torch.tensor(A, dtype=torch.float64))

    def step(self, history, conditions, generator=None):
        raise AssertionError("a rollout goes through advance")

    def begin(self, history, parameters):
        return {"frame": history[:, -1], "sum": history.sum(1)}

    def advance(self, memory, generator=None):
        frame = self.factor * memory["frame"] + B * memory["sum"]
        return frame, {"frame": frame, "sum": memory["sum"] + frame}


def linear_rollout(history, steps):
    """Return the forecasts of `Linear`, one after the other."""
    frames = list(history)
    for _ in range(steps):
        frames.append(A * frames[-1] + B * frames[-2])
    return frames[len(history) :]


def remembering_rollout(history, steps):
    """Return the forecasts of `Remembering`, one after the other."""
    last, total, found = history[-1], sum(history), []
    for _ in range(steps):
        last = A * last + B * total
        total = total + last
        found.append(last)
    return found


METHODS = {Linear: linear_rollout, Remembering: remembering_rollout}


def window(batch=3):
    """Return random frames, (batch, frame, channel, x), and parameters, of which there are none."""
    frames = torch.randn(
        batch, FRAMES, 1, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    return frames, torch.zeros(batch, 0, dtype=torch.float64)


def build(kind, update=0, total=100, **options):
    """Return a method in the middle of a training."""
    module = kind(**options)
    module._trainer = SimpleNamespace(max_steps=total, global_step=update, lightning_module=module)
    return module


def generator():
    return torch.Generator().manual_seed(3)


def mean_square(forecasts, truths):
    return np.mean([np.square(a - b).mean() for a, b in zip(forecasts, truths, strict=True)])


def frames_first():
    return np.moveaxis(window()[0].numpy(), 1, 0)


def expected(scheme, roll):
    """Return the loss of three steps of the window by a scheme."""
    x = frames_first()
    h = 2
    match scheme:
        case "one_step":
            return mean_square(roll(x[:h], 1), x[h : h + 1])
        case "unrolled":
            return mean_square(roll(x[:h], 3), x[h:])
        case "pushforward":
            return mean_square(roll(x[:h], 3)[-1:], x[-1:])
        case "teacher_forcing":
            return mean_square([roll(x[i : i + h], 1)[0] for i in range(3)], x[h:])
        case "curriculum":  # two steps in a row, then the true frame comes between
            first, second = roll(x[:h], 2)
            third = roll([first, x[h + 1]], 1)[0]
            return mean_square([first, second, third], x[h:])
    raise AssertionError


STEPS = ["one_step", "unrolled", "pushforward", "teacher_forcing", "curriculum"]
MIDDLE = 58  # of 100 updates: 0.5 (1 + tanh(0.08 / 0.2)) is 0.69 of three steps, two of them


def section(name, **options):
    return {"name": name} | ({} if name == "one_step" else {"unroll": 3}) | options


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", STEPS)
def test_the_loss_is_the_sum_written_out(kind, name):
    module = build(kind, MIDDLE, training=section(name))
    loss = module.window_loss(*window(), generator())
    assert loss.item() == pytest.approx(expected(name, METHODS[kind]), rel=1e-12)
    (slope,) = torch.autograd.grad(loss, module.parameters())
    assert slope != 0


def test_what_is_written_out_differs_between_schemes():
    for roll in METHODS.values():
        losses = [expected(name, roll) for name in STEPS]
        assert len(set(np.round(losses, 9))) == len(STEPS)


@pytest.mark.parametrize("kind", METHODS)
def test_teacher_forcing_sees_true_frames_at_every_step(kind):
    """The prediction of a step has no influence on the steps after it."""
    frames, parameters = window()
    module = build(kind, training=section("teacher_forcing"))
    seen, begin = [], module.begin
    module.begin = lambda history, parameters: seen.append(history) or begin(history, parameters)
    module.window_loss(frames, parameters, generator())
    assert len(seen) == 3
    assert all(torch.equal(history, frames[:, i : i + 2]) for i, history in enumerate(seen))


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("name", ["unrolled", "pushforward"])
def test_it_begins_with_one_step(kind, name):
    early, late = (build(kind, n, training=section(name, after=10)) for n in (9, 10))
    roll = METHODS[kind]
    for module, scheme in ((early, "one_step"), (late, name)):
        loss = module.window_loss(*window(), generator()).item()
        assert loss == pytest.approx(expected(scheme, roll), rel=1e-12)


@pytest.mark.parametrize("kind", METHODS)
def test_the_gradient_of_a_pushforward_goes_through_the_last_step_alone(kind):
    frames, parameters = window()
    module = build(kind, training=section("pushforward"))
    loss = module.window_loss(frames, parameters, generator())
    (slope,) = torch.autograd.grad(loss, module.parameters())
    x, roll = frames_first(), METHODS[kind]
    *_, before, last = [*x[:2], *roll(x[:2], 3)]
    # of mean((a y + constant - truth)^2) by a
    assert slope.item() == pytest.approx((2 * (last - x[-1]) * before).mean(), rel=1e-12)


def test_a_curriculum_goes_from_one_step_to_the_whole_window():
    scheme = registry.build("training", section("curriculum", unroll=10, after=20))
    depths = [scheme.free(update, 100) for update in range(100)]
    share = 0.5 * (1 + np.tanh(((np.arange(100) - 20) / 80 - 0.5) / 0.2))
    assert depths == [max(int(10 * part), 1) for part in share]
    assert depths == sorted(depths) and depths[0] == 1 and depths[60] == 5


@pytest.mark.parametrize("name", STEPS)
def test_noise_is_on_true_frames_alone_and_once_on_each(name):
    """Each true frame that a step sees has its own noise; targets have none."""
    frames, parameters = window()
    module = build(Linear, MIDDLE, training=section(name), input_noise=0.5)
    drawn = generator()
    first = 0.5 * torch.empty_like(frames[:, :2]).normal_(generator=drawn)
    later = [0.5 * torch.empty_like(frames[:, :1]).normal_(generator=drawn)[:, 0] for _ in range(2)]
    noise = [first[:, 0], first[:, 1], *later]
    if name == "curriculum":  # the first true frame after the history is that before the last step
        noise = [first[:, 0], first[:, 1], None, later[0]]
    x = frames_first()
    loss = module.window_loss(frames, parameters, generator()).item()
    noisy = [a if b is None else a + b.numpy() for a, b in zip(x, noise, strict=False)]
    roll = linear_rollout
    match name:
        case "one_step":
            forecasts, truths = roll(noisy[:2], 1), x[2:3]
        case "unrolled":
            forecasts, truths = roll(noisy[:2], 3), x[2:]
        case "pushforward":
            forecasts, truths = roll(noisy[:2], 3)[-1:], x[-1:]
        case "teacher_forcing":
            forecasts, truths = [roll(noisy[i : i + 2], 1)[0] for i in range(3)], x[2:]
        case "curriculum":
            one, two = roll(noisy[:2], 2)
            forecasts, truths = [one, two, roll([one, noisy[3]], 1)[0]], x[2:]
    assert loss == pytest.approx(mean_square(forecasts, truths), rel=1e-12)


class Lead(AbstractForecaster):
    """A to the power of the lead time, times the frame."""

    def __init__(self, **options):
        super().__init__(1, 1, 0, target="state", normalise=False, **options)

    def step(self, history, conditions, generator=None):
        lead = self.unroll / 10 * conditions[:, -1]
        return history[:, -1] * (A**lead)[:, None, None]


@pytest.mark.parametrize("name", ["all2all", "one2all"])
def test_pairs_are_compared_at_their_own_lead_time(name):
    """A trajectory that decays by A in each step is met exactly; another one isn't."""
    frames = A ** torch.arange(5.0, dtype=torch.float64)[None, :, None, None]
    frames = frames.expand(50, 5, 1, 4)
    module = Lead(training={"name": name, "unroll": 4})
    nothing = torch.zeros(50, 0, dtype=torch.float64)
    assert module.window_loss(frames, nothing, generator()) < 1e-20
    assert module.window_loss(frames**2, nothing, generator()) > 1e-3


@pytest.mark.parametrize("name", SCHEMES)
def test_every_option_is_checked_when_composing(name, root):
    for option in registry.arguments("training", name):
        with pytest.raises(ConfigError) as caught:
            compose(root, {"name": name, option: "many"})
        assert f"methods.unet.training.{option}: must be " in str(caught.value)


def compose(root, section):
    changes = {"methods": {"unet": {"training": section}}}
    return config.compose(root / "configs", "pde_refiner", "smoke", changes)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"name": "unroled"}, "training.name: unknown training 'unroled'; allowed: all2all, "),
        ({"name": "unroled"}, "; did you mean unrolled?"),
        (
            {"name": "teacher_forcing", "after": 3},
            "training.after: unknown key; allowed: name, unroll",
        ),
        ({"name": "one_step", "unroll": 2}, "training.unroll: unknown key; allowed: name"),
        ({"unroll": 2}, "training.name: is missing"),
        (
            {"name": "unrolled", "unroll": 1000},
            "training.unroll: a window of 1 + 1000 frames",
        ),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(root, section, says):
    with pytest.raises(ConfigError) as caught:
        compose(root, section)
    assert f"methods.unet.{says}" in str(caught.value) or says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted({*SCHEMES} - {"one_step"}))
def test_a_window_has_room_for_more_than_one_step(name):
    with pytest.raises(ValueError, match="unroll must be at least 2, is 1"):
        Lead(training={"name": name, "unroll": 1})


def test_lead_times_need_a_method_that_sees_one_frame():
    with pytest.raises(ValueError, match="all2all needs history 1, is 2"):
        Linear(training={"name": "all2all"})
