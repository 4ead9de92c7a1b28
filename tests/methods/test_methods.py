"""What every method must do, whatever its task. A new file in methods/ is covered without edits.

A task's `tests/contracts/<task>.py` says how its methods are built and fed:
`SMALL`, sizes for options that a constructor may have; `ONLY_IN_LOSS`, by method, the parts of it
that serve its training alone; `description(kind)` of the data for a class;
`batch(module, size, dtype)` of training; `output(module, size, seed, dtype)`, what the method is
used for.
"""

import copy
import functools
import importlib
import inspect
import json
import os
import time
from collections import Counter

import pytest
import pytorch_lightning as pl
import torch
from contracts import sample

from longrun.data.module import Batches, TrajectoryData
from longrun.runtime import checkpoint, registry
from longrun.tasks import _flow
from longrun.train import fit

METHODS = registry.names("methods")
EMA = {"contracts.forecast": {"ema_decay": 0.9}}
TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "num_nodes": 1,
    "strategy": "ddp",
    "precision": "32-true",
    "accumulate": 1,
    "diverged": "fail",
    "validate_every": 4,
    "checkpoint_every": 1,
    "log_every": 1,
}


def contract(name):
    return importlib.import_module(f"contracts.{registry.task(name)}")


def build(name, seed=0, described=None, **options):
    """Return a method of small size, and the arguments it was built with."""
    task, kind = contract(name), registry.find("methods", name)
    described = described or task.description(kind)
    named = registry.arguments("methods", name)
    arguments = checkpoint.sizes(name, described)
    arguments |= {key: value for key, value in task.SMALL.items() if key in named}
    arguments |= {k: v for k, v in getattr(task, "OPTIONS", {}).get(name, {}).items()} | options
    module = checkpoint.build(name, arguments, seed)
    module.fit_statistics(described["statistics"])
    module.description = described
    return module.eval(), arguments


def perturb(module, seed=1):
    """Move the weights off their initial zeros, as one update would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            real.add_(0.05 * torch.randn(real.shape, generator=generator).to(real.dtype))
    return module


@functools.cache
def _made(name):
    module, arguments = build(name)
    return module, perturb(copy.deepcopy(module)), arguments


def fresh(name):
    """Return a copy of a method as it is built, which takes longer than to copy it."""
    return copy.deepcopy(_made(name)[0])


def shaken(name):
    """Return a copy of a method whose weights have left their initial zeros."""
    return copy.deepcopy(_made(name)[1])


def fitted(module):
    return any(parameter.requires_grad for parameter in module.parameters())


class FewBatches(TrajectoryData):
    """Four batches that differ, as a run's data module gives them: from the trainer's step on."""

    def __init__(self, batch, stops_at):
        pl.LightningDataModule.__init__(self)
        self.seed, self.batches = 0, 4
        self.batch, self.stops_at = batch, stops_at

    def train_dataloader(self):
        return Batches(self.batches, self._rest)

    def val_dataloader(self):
        return Batches(1, lambda: iter([self.batch(self.trainer.lightning_module, size=2)]))

    def _rest(self):
        for number in range(self.trainer.global_step, self.batches):
            if number == self.stops_at:
                raise InterruptedError
            batch = self.batch(self.trainer.lightning_module, size=3)
            yield batch | {"window": (1 + 0.1 * number) * batch["window"]}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


SECONDS = Counter()  # of this process, by method


@pytest.fixture(autouse=True)
def _clock(request):
    """Add up the time that the contract takes for each method, without imports."""
    name = getattr(request.node, "callspec", None) and request.node.callspec.params.get("name")
    if name:
        registry.find("methods", name)
    began = time.process_time()
    yield
    if name and request.cls is not None:
        SECONDS[name] += time.process_time() - began


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    @pytest.mark.parametrize("size", [1, 3])
    def test_gives_finite_output_and_changes_no_input(self, name, size):
        module = fresh(name)
        result = contract(name).output(module, size)
        assert result.isfinite().all()
        assert torch.equal(result, contract(name).output(module, size))

    def test_takes_float64(self, name):
        module = fresh(name)
        result = contract(name).output(module.double(), dtype=torch.float64)
        assert result.dtype == torch.float64

    def test_same_seed_same_weights(self, name):
        state = torch.random.get_rng_state()
        first, second, other = fresh(name), build(name)[0], build(name, seed=1)[0]
        assert torch.equal(torch.random.get_rng_state(), state)
        weights = [list(m.parameters()) for m in (first, second, other)]
        assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
        if weights[0]:
            pairs = zip(weights[0], weights[2], strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs)

    def test_every_parameter_gets_a_gradient(self, name):
        module = shaken(name).train()
        if not fitted(module):
            return
        module.batch_loss(contract(name).batch(module, size=16), generator()).backward()
        for key, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue  # frozen by an option
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key

    def test_a_batch_of_one_trains(self, name):
        module = shaken(name).train()
        if fitted(module):
            loss = module.batch_loss(contract(name).batch(module, size=1), generator())
            assert loss.ndim == 0 and loss.isfinite()

    def test_what_it_logs_of_validation_is_what_a_sweep_can_sort_by(self, name):
        module = shaken(name)
        logged = module.validate(contract(name).batch(module, size=4), generator())
        task = importlib.import_module(f"longrun.config.tasks.{registry.task(name)}")
        assert set(logged) <= set(task.VALIDATION)

    def test_every_weight_changes_the_output(self, name):
        """One backward pass through what the method is used for; a loss may use more."""
        module = shaken(name)
        if not fitted(module):
            return
        result = contract(name).output(module)
        (result * torch.randn(result.shape, generator=generator())).sum().backward()
        others = getattr(contract(name), "ONLY_IN_LOSS", {}).get(name, ())
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and key.partition(".")[0] not in others:
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, key

    def test_noise_comes_from_the_generator_alone(self, name):
        module = shaken(name)
        state = torch.random.get_rng_state()
        results = [contract(name).output(module, seed=seed) for seed in (0, 0, 1)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2]) != module.stochastic

    def test_checkpoint_round_trip(self, name, tmp_path):
        module, arguments = shaken(name), _made(name)[2]
        path = tmp_path / "model.ckpt"
        checkpoint.save(
            path, module, method=name, arguments=arguments, description=module.description
        )
        assert arguments == json.loads(json.dumps(arguments))
        again = checkpoint.load(path, method=name)
        output = contract(name).output
        assert torch.equal(output(again), output(module))
        assert again.description == module.description

    def test_its_docstring_says_where_it_is_from(self, name):
        kind = registry.find("methods", name)
        text = (inspect.getmodule(kind).__doc__ or "") + (kind.__doc__ or "")
        assert "arXiv:" in text or name == "persistence"


def resumed():
    """Names of the first method of each task that is fitted, and of those with more to restore."""
    seen = set()
    for name in METHODS:
        kind, task = registry.find("methods", name), registry.task(name)
        more = {"advance", "prepare"} & vars(kind).keys()
        if (task not in seen or more) and fitted(_made(name)[0]):
            seen.add(task)
            yield name


RESUMED = [*resumed()]


@pytest.mark.slow
@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_training_ends_with_the_same_bits(name, tmp_path):
    ended = []
    for folder, stops in (("whole", False), ("broken", True), ("broken", False)):
        module, _ = build(name, **EMA.get(contract(name).__name__, {}))
        data = FewBatches(contract(name).batch, stops_at=2 if stops else None)
        options = TRAINER | {"clip": None if module.optimiser["name"] == "lbfgs" else 1.0}
        (tmp_path / folder).mkdir(exist_ok=True)
        try:
            fit(module.train(), data, options, tmp_path / folder, [], progress=False)
        except InterruptedError:
            assert stops
            continue
        ended.append(module.state_dict())
    whole, resumed = ended
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def simplest(name):
    """Return a sampler of points where it can be one: fields take longer and show no more."""
    points = 0 in registry.find("methods", name).supported_dims
    # a network of rectified units has kinks, which limit the order
    exact = {"denoiser": "law"} if "denoiser" in registry.arguments("methods", name) else {}
    described = sample.POINT if points else None
    return perturb(build(name, described=described, **exact)[0]).double()


SAMPLERS = [name for name in METHODS if registry.task(name) == "sample"]


@pytest.mark.parametrize("name", SAMPLERS)
class TestEverySampler:
    def test_its_error_falls_at_the_order_that_it_states(self, name):
        if registry.find("methods", name).order is not None:
            sample.check_order(simplest(name))

    def test_more_evaluations_matter_where_it_states_an_order(self, name):
        module = shaken(name)
        given = sample.batch(module)
        seen = module.observe(given["window"][:, 0], generator())
        with torch.no_grad():
            few, many = (module.draw(seen, given["parameters"], generator(), n) for n in (1, 8))
        assert torch.equal(few, many) == (module.order is None)


def _mutated(scheme):
    """Return the states of a flow by a scheme whose coefficients are wrong in one way."""

    def states(velocity, start, steps, kind="rk4"):
        state, h = start, 1 / steps
        yield state
        for step in range(steps):
            state = scheme(velocity, state, step * h, h)
            yield state

    return states


WRONG = {
    "sign": lambda v, z, t, h: z - h * v(z, t),
    "size": lambda v, z, t, h: z + 1.05 * h * v(z, t),
    "time": lambda v, z, t, h: z + h * v(z, min(t + 0.1, 1.0)),
    "nothing": lambda v, z, t, h: z,
    "order": lambda v, z, t, h: z + h * v(z + h / 2 * v(z, t), t + h / 2),
}


@pytest.mark.parametrize("name", ["exact_flow", "rectified_flow"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_sampler_with_wrong_coefficients_breaks_the_contract(name, wrong, monkeypatch):
    module = simplest(name)
    monkeypatch.setattr(_flow, "flow_states", _mutated(WRONG[wrong]))
    with pytest.raises(AssertionError):
        sample.check_order(module)


FORECASTERS = [name for name in METHODS if registry.task(name) == "forecast"]


@pytest.mark.parametrize("name", FORECASTERS)
class TestEveryForecaster:
    @pytest.mark.parametrize("history", [1, 2])
    def test_keeps_shape_and_dtype(self, name, history):
        given = registry.arguments("methods", name)
        if "history" not in given and history > 1:
            pytest.skip("sees a history of its own")
        module, _ = build(name, **({"history": history} if "history" in given else {}))
        before = contract(name).batch(module)["window"]
        result = contract(name).output(module)
        assert result.shape[2:] == before.shape[2:]
        assert result.dtype == before.dtype

    def test_the_last_stage_is_the_forecast(self, name):
        module = shaken(name)
        given = contract(name).batch(module)
        history, parameters = given["window"][:, : module.history], given["parameters"]
        stages = module.stages(history, parameters, generator())
        frame, _ = module.advance(module.begin(history, parameters), generator())
        assert torch.equal(stages[-1], frame)
        assert len(module.noise_levels) in (0, len(stages))

    def test_samples_of_a_batch_do_not_mix(self, name):
        module = shaken(name)
        if module.stochastic:
            pytest.skip("the noise depends on the batch")
        whole = contract(name).output(module, size=4)
        given = contract(name).batch(module, size=4)
        memory = module.begin(given["window"][2:3, : module.history], given["parameters"][2:3])
        alone, _ = module.advance(memory)
        torch.testing.assert_close(alone, whole[2:3, 0], rtol=1e-4, atol=1e-5)

    def test_a_shifted_field_gives_a_shifted_forecast(self, name):
        module = shaken(name)
        if module.stochastic or not module.translates:
            pytest.skip("the noise does not shift, or the method knows where it is")
        given = contract(name).batch(module)
        history, parameters = given["window"][:, : module.history], given["parameters"]
        still, _ = module.advance(module.begin(history, parameters))
        moved, _ = module.advance(module.begin(history.roll(4, 3), parameters))
        torch.testing.assert_close(moved, still.roll(4, 2), rtol=1e-4, atol=1e-4)


def test_the_contract_takes_at_most_three_seconds_a_method():
    """Runs last: a suite of 150 methods is run before every commit."""
    if os.getloadavg()[0] > 1.5 * os.cpu_count():
        pytest.skip("a crowded machine takes several times as long")
    assert SECONDS and max(SECONDS.values()) < 3, SECONDS.most_common(5)
