"""What every optimiser must do. A new file in optimisers/ is covered without edits."""

import ast
import io
import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from methods.test_methods import TRAINER, FewBatches, build, contract

from longrun import config
from longrun.config import ConfigError
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.train import fit

OPTIMISERS = registry.names("optimisers")
RATE = {"lbfgs": 1.95}  # too long a step for the quadratic below; 0.05 for the others
NETWORK = "fno"  # has complex weights


def options(name):
    """Return the options that YAML may give."""
    takes = registry.arguments("optimisers", name)
    return {key: argument for key, argument in takes.items() if not argument.required}


def weights(dtype=torch.float32):
    """Return weights, complex ones among them."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3,), (2, 2)]
    kinds = [dtype, dtype.to_complex()]
    return [
        torch.nn.Parameter(torch.randn(shape, dtype=kind, generator=generator))
        for shape, kind in zip(shapes, kinds, strict=True)
    ]


def make(name, given, **section):
    groups = [{"params": given, "lr": RATE.get(name, 0.05)}]
    return registry.build("optimisers", {"name": name, **section}, params=groups, lr=1.0)


def loss(given):
    """Return an ill-conditioned quadratic form with its minimum at 1 + i."""
    real, complex_ = given
    steep = 1 + 9 * torch.arange(real.numel())
    return (steep * (real - 1) ** 2).sum() + ((complex_ - 1 - 1j).abs() ** 2).sum()


def descend(optimiser, given, updates):
    for _ in range(updates):

        def closure():
            optimiser.zero_grad()
            value = loss(given)
            value.backward()
            return value

        optimiser.step(closure)
    return [weight.detach().clone() for weight in given]


def another(argument):
    """Return an allowed value that is not the default."""
    value = argument.default
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2
    if isinstance(value, float):
        return value + 0.3 * (1 - value)
    if isinstance(value, tuple):
        return [0.5 * part for part in value]
    node = ast.parse(argument.annotation, mode="eval").body
    assert isinstance(node, ast.BinOp), "a choice or null"
    return None


@pytest.mark.parametrize("name", OPTIMISERS)
class TestEveryOptimiser:
    def test_descends_a_quadratic(self, name):
        given = weights()
        before = loss(given)
        descend(make(name, given), given, 200)
        assert loss(given) < 1e-3 * before

    def test_sees_real_numbers_only(self, name):
        given = weights()
        optimiser = make(name, given)
        descend(optimiser, given, 2)
        shown = [weight for group in optimiser.param_groups for weight in group["params"]]
        state = [v for s in optimiser.state.values() for v in s.values() if torch.is_tensor(v)]
        assert not any(tensor.is_complex() for tensor in shown + state)

    def test_a_complex_weight_moves_like_two_real_ones(self, name):
        given = weights(torch.float64)
        twins = [given[0].detach().clone(), torch.view_as_real(given[1]).detach().clone()]
        twins = [torch.nn.Parameter(weight) for weight in twins]
        complex_ = descend(make(name, given), given, 5)
        optimiser = make(name, twins)
        for _ in range(5):

            def closure():
                optimiser.zero_grad()
                value = loss([twins[0], torch.view_as_complex(twins[1])])
                value.backward()
                return value

            optimiser.step(closure)
        torch.testing.assert_close(torch.view_as_real(complex_[1]), twins[1].detach())

    def test_gradients_accumulate_until_they_are_forgotten(self, name):
        given = weights()
        optimiser = make(name, given)
        optimiser.zero_grad()
        loss(given).backward()
        once = [group.grad.clone() for group in optimiser.param_groups[0]["params"]]
        loss(given).backward()
        for weight, grad in zip(optimiser.param_groups[0]["params"], once, strict=True):
            torch.testing.assert_close(weight.grad, 2 * grad)
        optimiser.zero_grad()
        loss(given).backward()
        for weight, grad in zip(optimiser.param_groups[0]["params"], once, strict=True):
            assert torch.equal(weight.grad, grad)

    def test_its_state_goes_through_a_file(self, name):
        given = weights()
        whole = descend(make(name, given), given, 6)
        given = weights()
        first = make(name, given)
        descend(first, given, 3)
        file = io.BytesIO()
        torch.save(first.state_dict(), file)
        file.seek(0)
        second = make(name, given)
        second.load_state_dict(torch.load(file, weights_only=True))
        resumed = descend(second, given, 3)
        assert all(map(torch.equal, whole, resumed))

    def test_a_resumed_training_ends_with_the_same_bits(self, name, tmp_path):
        searches = registry.attribute("optimisers", name, "searches", False)
        settings = TRAINER | {"clip": None if searches else 1.0}
        ended = []
        for folder, stops in (("whole", None), ("broken", 2), ("broken", None)):
            module, _ = build(NETWORK, optimiser={"name": name}, warmup_steps=2)
            data = FewBatches(contract(NETWORK).batch, stops_at=stops)
            (tmp_path / folder).mkdir(exist_ok=True)
            try:
                fit(module.train(), data, settings, tmp_path / folder, [], progress=False)
            except InterruptedError:
                assert stops
                continue
            ended.append(module.state_dict())
        whole, resumed = ended
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
        untrained = build(NETWORK)[0].state_dict()
        assert any(not torch.equal(whole[key], untrained[key]) for key in whole)

    def test_every_option_changes_what_it_does(self, name):
        updates = 1 if registry.attribute("optimisers", name, "searches", False) else 3
        given = weights()
        default = descend(make(name, given), given, updates)
        for option, argument in options(name).items():
            value = another(argument)
            assert argument.refusal(value) is None, option
            given = weights()
            changed = descend(make(name, given, **{option: value}), given, updates)
            assert not all(map(torch.equal, changed, default)), option

    def test_every_option_is_checked_when_composing(self, name, root):
        for option in options(name):
            section = {"name": name, option: "many"}
            with pytest.raises(ConfigError) as caught:
                compose(root, section)
            assert f"task.optimiser.{option}: " in str(caught.value)
            assert "'many'" in str(caught.value)


def compose(root, section, **entry):
    changes = {"task": {"optimiser": section}}
    if entry:
        changes["methods"] = {"unet": entry}
    return config.compose(root / "configs", "pde_refiner", "smoke", changes)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"name": "adanw"}, "task.optimiser.name: unknown optimiser 'adanw'; allowed: "),
        ({"name": "adanw"}, "; did you mean adamw?"),
        ({"name": "adam", "beta": 0.9}, "task.optimiser.beta: unknown key; allowed: betas, "),
        ({"name": "adam", "lr": 1e-3}, "task.optimiser.lr: unknown key; allowed: "),
        ({"betas": [0.9, 0.99]}, "task.optimiser.name: is missing"),
        ("adamw", "task.optimiser: must be dict[str, Any], is 'adamw'"),
    ],
)
def test_a_wrong_section_is_refused_in_one_line(root, section, says):
    with pytest.raises(ConfigError) as caught:
        compose(root, section)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_options_of_the_task_and_of_a_method_merge_where_the_name_is_the_same(root):
    shared = {"name": "adam", "weight_decay": 0.1}

    def merged(own):
        spec = compose(root, shared, optimiser=own)
        return config.method_spec(spec, "unet")["options"]["optimiser"]

    assert merged({"eps": 1e-6}) == shared | {"eps": 1e-6}
    assert merged({"name": "adam", "eps": 1e-6}) == shared | {"eps": 1e-6}
    assert merged({"name": "sgd", "momentum": 0.5}) == {"name": "sgd", "momentum": 0.5}


def test_a_wrong_option_of_a_method_is_blamed_on_it(root):
    with pytest.raises(ConfigError, match=r"methods\.unet\.optimiser\.momentum: unknown key"):
        compose(root, {"name": "adam"}, optimiser={"momentum": 0.5})


def test_a_search_is_neither_clipped_nor_shared(root):
    for trainer, says in (({"clip": 1.0}, "clip: must be null"), ({"devices": 2}, "devices: must")):
        with pytest.raises(ConfigError, match=f"{says} .*lbfgs"):
            compose(root, {"name": "lbfgs"}, trainer=trainer)


def test_a_value_that_the_optimiser_refuses_is_one_line(tmp_path):
    module, _ = build(NETWORK, optimiser={"name": "adam", "betas": [0.9, 2.0]})
    data = FewBatches(contract(NETWORK).batch, stops_at=None)
    with pytest.raises(UserError, match=r"optimiser adam: Invalid beta parameter .* 2\.0"):
        fit(module, data, TRAINER | {"clip": None}, tmp_path, [], progress=False)


# Schedules ---------------------------------------------------------------------------------------


def rates(total, **settings):
    """Return the learning rates that a training would have."""
    module, _ = build(NETWORK, learning_rate=1.0, **settings)
    module._trainer = SimpleNamespace(max_steps=total)
    made = module.configure_optimizers()
    optimiser, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(total):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return torch.tensor(found, dtype=torch.float64)


def expected(total, first, after):
    """Return linear growth over `first` updates, then a function of the update after it."""
    return [(n + 1) / first if n < first else after(n - first) for n in range(total)]


@pytest.mark.parametrize("first", [0, 1, 5])
def test_the_learning_rate_follows_its_formula(first):
    total = 20
    final, later = 1e-3, total - first

    def cosine(n):
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * n / later))

    cases = [
        ({"schedule": "constant"}, lambda n: 1.0),
        ({"schedule": "cosine", "final_learning_rate": final}, cosine),
        (
            {"schedule": "exponential", "decay": 0.5, "decay_every": 4},
            lambda n: 0.5 ** (n / 4),
        ),
        (
            {"schedule": "exponential", "decay": 0.5, "decay_every": 4, "staircase": True},
            lambda n: 0.5 ** (n // 4),
        ),
    ]
    for settings, after in cases:
        found = rates(total, warmup_steps=first, **settings)
        wanted = torch.tensor(expected(total, first, after), dtype=torch.float64)
        torch.testing.assert_close(found, wanted, msg=str(settings))


def test_one_cycle_rises_from_a_25th_and_falls_to_the_end():
    found = rates(20, schedule="one_cycle", warmup_steps=5, final_learning_rate=1e-3)
    assert found[0] == pytest.approx(1 / 25)
    assert found.argmax() == 5 and found[5] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(found[:6]))
    assert all(a > b for a, b in itertools.pairwise(found[5:]))
    assert found[-1] == pytest.approx(1e-3)


def test_a_cycle_has_room_for_its_warm_up():
    with pytest.raises(UserError, match="warmup_steps must be at most 18 in a cycle of 20"):
        rates(20, schedule="one_cycle", warmup_steps=19)
