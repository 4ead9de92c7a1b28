"""NODA does what its equations say, and its baselines what theirs do."""

from types import SimpleNamespace

import pytest
import torch
from contracts import assimilate as contract
from methods.test_methods import build, generator, perturb
from stores import make

from longrun.runtime.cli import UserError


def given(module, size=3, spacing=1):
    """Forecast-like states, measurements of other states, parameters."""
    batch = contract.batch(module, size)
    module.spacing = spacing
    measured = torch.ones(batch["window"].shape[:2], dtype=torch.bool)
    measurement, mask = module.measure(batch["window"], measured, generator())
    return batch["window"][:, 0], measurement[:, 1], mask[:, 1], batch["parameters"]


def size(module):
    real = (2 * p.numel() if p.is_complex() else p.numel() for p in module.parameters())
    return sum(real)


@pytest.mark.parametrize("gain", ["pointwise", "spectral"])
def test_without_measurements_it_is_its_predictor_bit_for_bit(gain):
    module = perturb(build("noda", gain=gain, fixed_mean=True)[0])
    state, measurement, mask, parameters = given(module)
    forecast = module.predict(state, parameters)
    nothing = torch.zeros_like(mask)
    zero = torch.zeros_like(measurement)
    assert torch.equal(module.correct(forecast, zero, nothing), forecast)
    assert not torch.equal(module.correct(forecast, measurement, mask), forecast)


@pytest.mark.parametrize("gain", ["pointwise", "spectral"])
def test_a_sample_that_is_measured_changes_no_other(gain):
    module = perturb(build("noda", gain=gain)[0])
    state, measurement, mask, parameters = given(module)
    mask = mask.clone()
    mask[1] = False
    forecast = module.predict(state, parameters)
    analysis = module.correct(forecast, torch.where(mask, measurement, 0.0), mask)
    assert torch.equal(analysis[1], forecast[1])
    assert not torch.equal(analysis[0], forecast[0])


def test_an_open_gate_and_no_noise_return_the_measurement():
    module, _ = build("noda", snr=300.0)
    with torch.no_grad():
        module.gate[-1].weight.zero_()
        module.gate[-1].bias.fill_(40.0)
        module.measurement_map[-1].weight.zero_()
        module.measurement_map[-1].bias.zero_()
    state, measurement, mask, _ = given(module)
    torch.testing.assert_close(module.correct(state, measurement, mask), measurement)


def test_the_gate_starts_near_a_tenth_and_the_map_near_the_identity():
    module, _ = build("noda", first_gain=0.1, width=8, gain_width=32)
    state, *_ = given(module)
    gain = module.gain(state, torch.zeros_like(state))
    assert gain.min() > 0.07 and gain.max() < 0.14
    assert (module.measured_state(state) - state).square().mean() < 0.01 * state.var()


def test_the_correction_is_the_gated_innovation():
    module = perturb(build("noda")[0])
    state, measurement, mask, _ = given(module)
    innovation = measurement - module.measured_state(state)
    expected = state + module.gain(state, innovation) * innovation
    torch.testing.assert_close(module.correct(state, measurement, mask), expected)


def test_a_gate_that_sees_the_innovation_depends_on_it():
    for sees, differs in (("forecast", False), ("innovation", True)):
        module, _ = build("noda", gate_sees=sees)
        state = torch.randn(2, 1, 64, generator=torch.Generator().manual_seed(1))
        near, far = (module.gain(state, size * torch.ones_like(state)) for size in (0.1, 3.0))
        assert torch.equal(near, far) != differs


def test_neither_step_nor_correction_moves_a_known_mean():
    module = perturb(build("noda", fixed_mean=True)[0])
    state, measurement, mask, parameters = given(module)
    for changed in (module.predict(state, parameters), module.correct(state, measurement, mask)):
        torch.testing.assert_close(changed.mean(-1), state.mean(-1))


@pytest.mark.parametrize("gain", ["pointwise", "spectral"])
def test_only_a_spectral_gain_fills_the_gaps_between_sensors(gain):
    module = perturb(build("noda", gain=gain)[0])
    state, measurement, mask, _ = given(module, spacing=4)
    change = module.correct(state, measurement, mask) - state
    assert (change[mask] != 0).all()
    assert (change[~mask] != 0).all() == (gain == "spectral")


def test_gaps_without_a_spectral_gain_are_refused():
    with pytest.raises(UserError, match="spectral"):
        build("noda", spacing=2)
    with pytest.raises(UserError, match="first_gain"):
        build("noda", first_gain=1.0)


def test_the_loss_adds_the_error_of_the_measurement_map():
    plain, weighted = (perturb(build("noda", measurement_weight=w)[0]) for w in (0.0, 0.5))
    state, measurement, mask, _ = given(plain)
    mask = mask.clone()
    mask[0] = False
    measurement = torch.where(mask, measurement, 0.0)
    arguments = (state, state + 0.1, state, measurement, mask)
    error = (plain.measured_state(state) - measurement)[1:].square().sum()
    expected = plain.loss(*arguments) + 0.5 * error / measurement.square().sum()
    torch.testing.assert_close(weighted.loss(*arguments), expected)


def test_the_loss_is_finite_where_nothing_is_measured():
    module, _ = build("noda", least_measured=0.0, most_measured=0.0)
    assert module.batch_loss(contract.batch(module), generator()).isfinite()


def test_a_learnable_gain_gets_a_gradient_through_several_steps():
    module = perturb(build("noda", gain="spectral", unroll=4, least_measured=1.0)[0])
    module.batch_loss(contract.batch(module), generator()).backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_translations_commute_unless_coordinates_are_shown():
    for coordinates in (True, False):
        module = perturb(build("noda", coordinates=coordinates)[0])
        state, _, _, parameters = given(module)
        moved = module.predict(state.roll(5, -1), parameters)
        still = module.predict(state, parameters).roll(5, -1)
        assert torch.allclose(moved, still, atol=1e-4) != coordinates


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_it_works_in_every_dimension(dims):
    from longrun.methods.assimilate.noda import NODA

    module = NODA(2, dims, 0, width=4, modes=4, layers=1, gain_width=4, gain="spectral", spacing=2)
    frames = torch.randn(2, 3, 2, *(8,) * dims, generator=generator())
    measured = torch.tensor([[True, True, False]] * 2)
    measurement, mask = module.measure(frames, measured, generator())
    for estimate in module.follow(measurement, mask, torch.zeros(2, 0), generator()):
        assert estimate.shape == frames[:, 0].shape and estimate.isfinite().all()


def test_the_predictor_of_the_small_setting_is_as_small_as_stated():
    module, _ = build("noda", width=24, modes=12, layers=3, coordinates=False)
    baseline, _ = build("direct_insertion", width=24, modes=12, layers=3, coordinates=False)
    assert size(module.network) == size(baseline) < 60_000


# Baselines ---------------------------------------------------------------------------------------


def test_direct_insertion_is_the_measurement_or_the_forecast():
    module = perturb(build("direct_insertion")[0])
    state, measurement, mask, parameters = given(module, spacing=2)
    forecast = module.predict(state, parameters)
    analysis = module.correct(forecast, measurement, mask)
    torch.testing.assert_close(analysis[mask], measurement[mask])
    assert torch.equal(analysis[~mask], forecast[~mask])


def test_direct_insertion_is_trained_on_forecasts_alone():
    module = perturb(build("direct_insertion")[0])
    batch = contract.batch(module, 6)
    loss = module.batch_loss(batch, generator())
    free = perturb(build("direct_insertion")[0])
    free.correct = lambda forecast, measurement, mask: forecast
    assert torch.equal(loss, free.batch_loss(batch, generator()))


def fitted_nudging(tmp_path, **options):
    splits = {name: {"trajectories": 3, "frames": 20} for name in ("train", "valid", "test")}
    store = make(tmp_path / "toy.zarr", splits=splits, space=(contract.POINTS,))
    source = perturb(build("direct_insertion")[0])
    nudging, _ = build("nudging", **options)
    for module in (source, nudging):  # the toy store has fewer parameters
        module.register_buffer("condition_index", torch.tensor([0]))
    data = SimpleNamespace(stores=[store], train_windows=SimpleNamespace(stride=1))
    return nudging, source, data


def test_nudging_takes_the_predictor_as_it_is(tmp_path):
    nudging, source, data = fitted_nudging(tmp_path)
    nudging.prepare(data, [source])
    state, _, _, parameters = given(nudging)
    assert torch.equal(nudging.predict(state, parameters), source.predict(state, parameters))
    assert not any(parameter.requires_grad for parameter in nudging.parameters())


def test_nudging_chooses_the_gain_of_least_error_on_validation_data(tmp_path):
    nudging, source, data = fitted_nudging(tmp_path, gains=[0.2, 0.6, 1.0], measured=[0.5])
    nudging.prepare(data, [source])
    chosen, errors = nudging.gain.item(), {}
    for gain in nudging.gains:
        nudging.gain.fill_(gain)
        errors[gain] = nudging._error(data.stores[0], 1)
    assert chosen == pytest.approx(min(errors, key=errors.get))
    assert len({round(error, 6) for error in errors.values()}) == 3


def test_nudging_of_gain_one_is_direct_insertion(tmp_path):
    nudging, source, data = fitted_nudging(tmp_path, gains=[1.0])
    nudging.prepare(data, [source])
    assert torch.equal(contract.output(nudging), contract.output(source))


def test_nudging_needs_a_predictor_of_its_size(tmp_path):
    nudging, _, data = fitted_nudging(tmp_path)
    with pytest.raises(ValueError, match="starts_from"):
        nudging.prepare(data, [])
    other, _ = build("direct_insertion", width=4)
    with pytest.raises(ValueError, match="width"):
        nudging.prepare(data, [other])
    with pytest.raises(UserError, match="gains"):
        build("nudging", gains=[0.0])


def filter_of(members=400, **options):
    return build("ensemble_kalman_filter", members=members, inflation=1.0, **options)[0].double()


def test_the_ensemble_filter_is_the_kalman_filter_for_the_same_covariance():
    module = filter_of(members=400)
    draw = torch.randn(1, 400, 1, 6, dtype=torch.float64, generator=generator())
    mix = torch.randn(6, 6, dtype=torch.float64, generator=generator(1))
    forecast = 1.0 + draw @ mix
    mask = torch.tensor([True, False, True, True, False, True]).reshape(1, 1, 6)
    measurement = torch.where(mask, 0.3, 0.0).double()
    analysis = module.correct(forecast, measurement, mask)[0, :, 0]

    states = forecast[0, :, 0]
    mean, covariance = states.mean(0), torch.cov(states.T)
    variance = module.noise_std(module.snr).item() ** 2
    seen = torch.eye(6, dtype=torch.float64)[mask[0, 0]]
    innovation = seen @ covariance @ seen.T + variance * torch.eye(4, dtype=torch.float64)
    gain = covariance @ seen.T @ torch.linalg.inv(innovation)
    expected = mean + gain @ (measurement[0, 0][mask[0, 0]] - seen @ mean)
    torch.testing.assert_close(analysis.mean(0), expected)
    reduced = (torch.eye(6, dtype=torch.float64) - gain @ seen) @ covariance
    torch.testing.assert_close(torch.cov(analysis.T), reduced)


def test_the_ensemble_filter_forecasts_with_the_reference_solver():
    module = filter_of(members=3)
    state, _, _, parameters = given(module)
    state, parameters = state.double(), parameters.double()
    ensemble = state[:, None].repeat(1, 3, 1, 1)
    values = dict(zip(("length", "dt", "viscosity"), parameters.T, strict=True))
    expected = module.equation.solver(values, stride=2).step(state)
    torch.testing.assert_close(module.estimate(module.predict(ensemble, parameters)), expected)


def test_the_ensemble_filter_keeps_its_forecast_without_measurements():
    module = filter_of(members=5)
    state, measurement, mask, _ = given(module)
    forecast = state[:, None] + torch.randn(3, 5, 1, 32, generator=generator())
    forecast, measurement = forecast.double(), measurement.double()
    nothing = torch.zeros_like(mask)
    assert torch.equal(module.correct(forecast, 0 * measurement, nothing), forecast)
    assert module.correct(forecast, measurement, mask).isfinite().all()


def test_the_first_ensemble_is_as_wide_as_what_is_known():
    module = filter_of(members=400, spacing=4)
    _, measurement, mask, _ = given(module, spacing=4)
    ensemble = module.begin(measurement, mask, generator())
    spread = ensemble.std(1)
    assert spread[mask].mean().item() == pytest.approx(0.13, rel=0.05)
    assert spread[~mask].mean().item() == pytest.approx(1.3, rel=0.05)
