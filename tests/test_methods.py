"""What every method must do. A new file in methods/ is covered without an edit here."""

import inspect
import json

import pytest
import torch

from longrun import checkpoint, registry

POINTS = 32
#: Small sizes for options that a constructor may have; what it doesn't name is left out.
SMALL = {"width": 8, "multipliers": [1, 2], "modes": 4, "layers": 2}
EQUATION = {
    "name": "kuramoto_sivashinsky",
    "points": POINTS,
    "length": 16.0,
    "dt": 0.2,
    "viscosity": 1.0,
    "substeps": 2,
    "burn_in": 0,
}
DESCRIPTION = {
    "fields": 1,
    "dims": 1,
    "conditions": 1,  # only the length varies
    "points": [POINTS],
    "equation": EQUATION,
    "stride": 2,
    "statistics": {
        "mean": [0.1],
        "std": [1.3],
        "increment_std": [0.3],
        "condition_low": [14.0, 0.2, 1.0],
        "condition_high": [18.0, 0.2, 1.0],
    },
}
METHODS = registry.names("methods")


def build(name, seed=0, **options):
    arguments = checkpoint.sizes(name, DESCRIPTION)
    named = inspect.signature(registry.find("methods", name)).parameters
    arguments |= {key: value for key, value in SMALL.items() if key in named} | options
    module = checkpoint.build(name, arguments, seed)
    module.fit_statistics(DESCRIPTION["statistics"])
    return module.eval(), arguments


def perturb(module, seed=1):
    """Leave the zeros of the initial weights, as one update would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            real = torch.view_as_real(parameter) if parameter.is_complex() else parameter
            real.add_(0.05 * torch.randn(real.shape, generator=generator).to(real.dtype))
    return module


def sample(batch=3, history=1, dtype=torch.float32):
    x = torch.arange(POINTS, dtype=dtype) / POINTS * 2 * torch.pi
    phase = torch.arange(batch * history, dtype=dtype).reshape(batch, history, 1, 1)
    frames = torch.sin(x + phase) + 0.5 * torch.cos(2 * x - phase)
    parameters = torch.tensor([[15.0, 0.2, 1.0]] * batch, dtype=dtype)
    return frames, parameters


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", METHODS)
class TestEveryMethod:
    @pytest.mark.parametrize("history", [1, 2])
    @pytest.mark.parametrize("batch", [1, 3])
    def test_keeps_shape_and_dtype(self, name, batch, history):
        module, _ = build(name, history=history)
        frames, parameters = sample(batch, history)
        before = frames.clone()
        forecast = module.predict(frames, parameters, generator())
        assert forecast.shape == frames[:, -1].shape
        assert forecast.dtype == frames.dtype
        assert forecast.isfinite().all()
        assert torch.equal(frames, before)

    def test_takes_float64(self, name):
        module, _ = build(name)
        frames, parameters = sample(dtype=torch.float64)
        forecast = module.double().predict(frames, parameters, generator())
        assert forecast.dtype == torch.float64

    def test_the_last_stage_is_the_forecast(self, name):
        module = perturb(build(name)[0])
        frames, parameters = sample()
        stages = module.stages(frames, parameters, generator())
        assert torch.equal(stages[-1], module.predict(frames, parameters, generator()))
        assert len(module.noise_levels) in (0, len(stages))

    def test_same_seed_same_weights(self, name):
        state = torch.random.get_rng_state()
        first, second, other = build(name)[0], build(name)[0], build(name, seed=1)[0]
        assert torch.equal(torch.random.get_rng_state(), state)
        weights = [list(m.parameters()) for m in (first, second, other)]
        assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
        if weights[0]:
            pairs = zip(weights[0], weights[2], strict=True)
            assert any(not torch.equal(a, b) for a, b in pairs)

    def test_every_parameter_gets_a_gradient(self, name):
        module = perturb(build(name)[0]).train()
        frames, parameters = sample(batch=16)
        window = torch.stack([frames[:, 0], 0.9 * frames[:, 0]], dim=1)
        loss = module.window_loss(window, parameters, generator())
        if loss.requires_grad:
            loss.backward()
        for key, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key

    def test_every_block_changes_the_output(self, name):
        module = perturb(build(name)[0])
        frames, parameters = sample()
        whole = module.predict(frames, parameters, generator())
        for key, parameter in module.named_parameters():
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.mul_(0.5)
            assert not torch.equal(module.predict(frames, parameters, generator()), whole), key
            with torch.no_grad():
                parameter.copy_(kept)

    def test_samples_of_a_batch_do_not_mix(self, name):
        module = perturb(build(name)[0])
        if module.stochastic:
            pytest.skip("the noise depends on the batch")
        frames, parameters = sample(batch=4)
        whole = module.predict(frames, parameters)
        alone = module.predict(frames[2:3], parameters[2:3])
        torch.testing.assert_close(alone, whole[2:3], rtol=1e-4, atol=1e-5)

    def test_a_shifted_field_gives_a_shifted_forecast(self, name):
        module = perturb(build(name)[0])
        if module.stochastic:
            pytest.skip("the noise does not shift")
        frames, parameters = sample()
        moved = module.predict(frames.roll(4, -1), parameters)  # a multiple of the coarsest cell
        still = module.predict(frames, parameters).roll(4, -1)
        torch.testing.assert_close(moved, still, rtol=1e-4, atol=1e-4)

    def test_noise_comes_from_the_generator_alone(self, name):
        module = perturb(build(name)[0])
        frames, parameters = sample()
        state = torch.random.get_rng_state()
        forecasts = [module.predict(frames, parameters, generator(s)) for s in (0, 0, 1)]
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(forecasts[0], forecasts[1])
        assert torch.equal(forecasts[0], forecasts[2]) != module.stochastic

    def test_checkpoint_round_trip(self, name, tmp_path):
        module, arguments = build(name)
        perturb(module)
        path = tmp_path / "model.ckpt"
        checkpoint.save(path, module, method=name, arguments=arguments, description=DESCRIPTION)
        assert arguments == json.loads(json.dumps(arguments))
        again = checkpoint.load(path, method=name)
        frames, parameters = sample()
        assert torch.equal(
            again.predict(frames, parameters, generator()),
            module.predict(frames, parameters, generator()),
        )
        assert again.description == DESCRIPTION

    def test_its_docstring_says_where_it_is_from(self, name):
        kind = registry.find("methods", name)
        text = (inspect.getmodule(kind).__doc__ or "") + (kind.__doc__ or "")
        assert "arXiv:" in text or name == "persistence"
