"""The task `assimilate`: measurements and the protocol of a test, with methods of known outcome."""

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import assimilate as contract
from methods.test_methods import build, generator
from stores import make

from longrun.figures._inputs import Inputs
from longrun.figures.assimilate import assimilation
from longrun.runtime.cli import UserError
from longrun.tasks._estimation import relative_square
from longrun.tasks.assimilate import AbstractAssimilator

SPLITS = {
    "train": {"trajectories": 2, "frames": 30},
    "valid": {"trajectories": 2, "frames": 30},
    "test": {"trajectories": 4, "frames": 30},
}
OPTIONS = {
    "warm_up": 3,
    "steps": 20,
    "trajectories": 3,
    "measured": [0.0, 0.3, 1.0],
    "snr": 20.0,
    "draws": 2,
    "keep": 2,
    "lyapunov_time": 4.0,
}


class Known(AbstractAssimilator):
    """Repeats its state, and remembers what it is shown; `told` says how it corrects."""

    def __init__(self, told="nothing", fields=1, dims=1, **options):
        super().__init__(fields, dims, 0, **options)
        self.told, self.shown, self.begun = told, [], []
        if told == "scale":
            self.factor = torch.nn.Parameter(torch.tensor(0.9))

    def begin(self, measurement, mask, generator):
        self.begun.append((measurement, mask))
        return super().begin(measurement, mask, generator)

    def predict(self, state, parameters):
        return state

    def correct(self, forecast, measurement, mask):
        self.shown.append((measurement, mask))
        if self.told == "scale":
            return self.factor * forecast
        if self.told == "blow up":
            return torch.where(mask, forecast * 1e3 + 1e3, forecast)
        if self.told == "break":
            return torch.where(mask, torch.nan, forecast)
        return torch.where(mask, measurement, forecast) if self.told == "insert" else forecast


@pytest.fixture(name="store", scope="module")
def built_store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data") / "toy.zarr", splits=SPLITS)


def scored(module, store, seed=0, **options):
    return module.evaluate(store, OPTIONS | options, seed)


def rows(evaluation, metric, **where):
    frame = evaluation.scores[evaluation.scores["metric"] == metric]
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def drawn(module, size=4000, snr=20.0):
    frames = torch.sin(torch.arange(8.0))[None, None, None].expand(size, 2, 1, 8)
    measured = torch.ones(size, 2, dtype=torch.bool)
    return frames, module.measure(frames, measured, generator())


@pytest.mark.parametrize("snr", [10.0, 20.0, 30.0])
def test_noise_has_the_signal_to_noise_ratio_asked_for(snr):
    module = Known(snr=snr)
    module.field_std.fill_(1.3)
    frames, (measurement, mask) = drawn(module)
    noise = measurement - frames
    found = 10 * torch.log10(1.3**2 / noise.var())
    assert mask.all()
    assert found.item() == pytest.approx(snr, abs=0.05)
    assert noise.mean().abs() < 3 * noise.std() / noise.numel() ** 0.5


def test_noise_is_drawn_anew_and_from_the_generator_alone():
    module, g = Known(), generator()
    frames = torch.zeros(2, 3, 1, 8)
    measured = torch.ones(2, 3, dtype=torch.bool)
    state = torch.random.get_rng_state()
    first, second = (module.measure(frames, measured, g)[0] for _ in range(2))
    again, _ = module.measure(frames, measured, generator())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("dims", [1, 2])
def test_sensors_stand_at_every_nth_point_and_nothing_else_is_shown(dims):
    module = Known(dims=dims, spacing=3)
    frames = torch.full((2, 2, 1, *(8,) * dims), 5.0)
    measured = torch.tensor([[True, False], [True, True]])
    measurement, mask = module.measure(frames, measured, generator())
    sensors = torch.zeros(8, dtype=torch.bool)
    sensors[::3] = True
    expected = sensors if dims == 1 else sensors[:, None] & sensors
    assert torch.equal(mask[1, 1, 0], expected)
    assert not mask[0, 1].any()
    assert (measurement[~mask] == 0).all() and (measurement[mask] > 3).all()


def test_training_measures_a_share_that_differs_between_batches():
    batch = {"window": torch.randn(400, 6, 1, 8, generator=generator())}
    batch["parameters"] = torch.zeros(400, 0)
    shares = []
    for seed in range(12):
        module = Known(unroll=5, least_measured=0.2, most_measured=0.6)
        module.batch_loss(batch, generator(seed))
        assert module.begun[0][1].all()  # the first frame is measured always
        shares.append(torch.stack([mask for _, mask in module.shown]).float().mean().item())
    assert min(shares) > 0.15 and max(shares) < 0.65
    assert max(shares) - min(shares) > 0.2


def test_a_share_may_be_drawn_for_each_sample():
    spreads = {}
    for of in ("batch", "sample"):
        window = torch.randn(16, 41, 1, 8, generator=torch.Generator().manual_seed(0))
        module = Known(unroll=40, share_of=of)
        module.batch_loss({"window": window, "parameters": torch.zeros(16, 1)}, torch.Generator())
        masks = torch.stack([mask for _, mask in module.shown]).float()
        spreads[of] = masks.flatten(2).mean((0, 2)).std().item()
    assert spreads["batch"] < 0.12 and spreads["sample"] > 0.2  # binomial alone; 0.29 with shares


def test_the_loss_is_the_relative_error_of_the_analysis():
    window = 1 + torch.rand(5, 3, 1, 8, generator=generator())
    batch = {"window": window, "parameters": torch.zeros(5, 0)}
    module = Known(unroll=2, least_measured=1.0)
    loss = module.batch_loss(batch, generator())
    first = module.begun[0][0]
    expected = [relative_square(first - window[:, k], window[:, k]).mean() for k in (1, 2)]
    torch.testing.assert_close(loss, torch.stack(expected).mean())


def test_a_spin_up_gives_neither_loss_nor_gradient():
    window = 1 + torch.rand(5, 4, 1, 8, generator=generator())
    batch = {"window": window, "parameters": torch.zeros(5, 0)}
    module = Known("scale", unroll=1, spin_up=2, least_measured=1.0)
    assert module.unroll == 3
    loss = module.batch_loss(batch, generator())
    loss.backward()
    first = module.begun[0][0]  # each step multiplies by 0.9, only the last with a gradient
    error = relative_square(0.9**3 * first - window[:, 3], window[:, 3]).mean()
    torch.testing.assert_close(loss, error)
    truth, state = window[:, 3], 0.9**2 * first
    slope = (2 * (0.9 * state - truth) * state).mean((1, 2)) / truth.square().mean((1, 2))
    torch.testing.assert_close(module.factor.grad, slope.mean())


def test_a_known_mean_is_kept_from_the_first_measurement_on():
    module = Known(fixed_mean=True)
    module.field_mean.fill_(0.7)
    _, (measurement, mask) = drawn(module, size=5)
    state = module.begin(measurement[:, 0], mask[:, 0], generator())
    torch.testing.assert_close(state.mean((1, 2)), torch.full((5,), 0.7))


def test_where_nothing_is_measured_the_first_state_is_the_climate():
    module = Known(spacing=4)
    module.field_mean.fill_(0.7)
    _, (measurement, mask) = drawn(module, size=5)
    state = module.begin(measurement[:, 0], mask[:, 0], generator())
    assert (state[~mask[:, 0]] == 0.7).all()
    torch.testing.assert_close(state[mask[:, 0]], measurement[:, 0][mask[:, 0]])


def test_every_method_and_seed_sees_the_same_measurements(store):
    first, second = Known(), Known("insert")
    scored(first, store, seed=0), scored(second, store, seed=7)
    for ours, theirs in zip(first.begun + first.shown, second.begun + second.shown, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_batches_change_no_measurement(store):
    whole = scored(Known("insert"), store, batch_size=512).scores
    single = scored(Known("insert"), store, batch_size=1).scores
    order = ["metric", "trajectory", "member", "measured", "step"]
    timeless = {"wall_time_per_second", "peak_memory_mb"}
    a, b = (
        frame[~frame["metric"].isin(timeless)].sort_values(order)["value"].to_numpy()
        for frame in (whole, single)
    )
    np.testing.assert_array_equal(a, b)


def test_the_warm_up_is_measured_and_then_the_share_that_was_asked_for(store):
    module = Known()
    scored(module, store, measured=[0.0, 0.25, 0.5, 1.0], draws=40, batch_size=4096)
    followed = [mask[:, 0, 0] for _, mask in module.shown[:22]]  # the others are those timed
    when = torch.stack(followed).unflatten(1, (3, 40, 4))
    warm, later = when[:2], when[2:]  # before these, the first frame begins
    assert warm.all() and module.begun[0][1].all()
    shares = later.float().mean((0, 1, 2))
    torch.testing.assert_close(shares, torch.tensor([0, 0.25, 0.5, 1]), atol=0.04, rtol=0)
    assert (later[..., :-1] <= later[..., 1:]).all()  # more measurements, the same and others
    assert not torch.equal(later[:, :, 0], later[:, :, 1])  # a separate draw each


def test_scores_are_of_the_corrected_state_against_the_next_frames(store):
    evaluation = scored(Known("insert"), store, snr=200.0)
    assert rows(evaluation, "relative_mse", measured=100)["value"].max() < 1e-10
    free = rows(evaluation, "relative_mse", measured=0, trajectory=1, member=0)
    truth = store.split("test").read(np.array([1]), slice(0, 23))[0, :, 0].astype(np.float64)
    error = np.square(truth[3:] - truth[2]).mean(1) / np.square(truth[3:]).mean(1)
    np.testing.assert_allclose(free["value"], error, rtol=1e-5)
    dt = store.split("test").parameters["dt"][1]
    np.testing.assert_allclose(free["lead_time"], dt * np.arange(1, 21))


def test_early_is_the_first_two_lyapunov_times_and_late_the_second_half(store):
    evaluation = scored(Known(), store)
    each = rows(evaluation, "relative_mse", measured=30, trajectory=2, member=1)
    early = rows(evaluation, "early_relative_mse", measured=30, trajectory=2, member=1)["value"]
    late = rows(evaluation, "late_relative_mse", measured=30, trajectory=2, member=1)["value"]
    assert early.item() == pytest.approx(each[each["lead_time"] <= 8.0]["value"].mean())
    assert late.item() == pytest.approx(each[each["step"] > 10]["value"].mean())
    assert rows(scored(Known(), store, lyapunov_time=None), "early_relative_mse").empty


def test_the_horizon_is_that_of_the_free_forecast(store):
    found = rows(scored(Known(), store), "correlation_time_0.8")
    assert set(found["measured"]) == {0} and len(found) == 6
    assert rows(scored(Known(), store, measured=[0.5]), "correlation_time_0.8").empty


@pytest.mark.parametrize("told", ["blow up", "break"])
def test_what_diverges_is_censored_at_the_ceiling_and_never_nan(store, told):
    evaluation = scored(Known(told), store)
    assert evaluation.scores["value"].notna().all()
    error = rows(evaluation, "relative_mse")
    assert (error["value"] == 1e4).all() and error["censored"].all()
    assert (rows(evaluation, "bounded")["value"] == 0).all()
    assert (rows(evaluation, "nrmse")["value"] == 100).all()
    assert (rows(evaluation, "correlation")["value"] == 0).all()
    assert rows(evaluation, "late_relative_mse")["censored"].all()
    assert np.isnan(evaluation.predictions["prediction"]).all()


def test_fields_of_the_first_draw_are_kept_for_figures(store):
    kept = scored(Known("insert"), store, snr=200.0).predictions
    assert kept["truth"].dims == ("trajectory", "lead_time", "field", "x")
    assert dict(kept.sizes) == {"trajectory": 2, "lead_time": 20, "field": 1, "x": 8}
    np.testing.assert_allclose(kept["prediction_100"], kept["truth"], atol=1e-5)
    assert np.abs(kept["prediction"] - kept["truth"]).max() > 0.1
    assert scored(Known(), store, keep=0).predictions.sizes["trajectory"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 28}, "the store has 30"),
        ({"trajectories": 5}, "has 4 trajectories"),
        ({"measured": [0.1, 0.101]}, "one percentage"),
    ],
)
def test_an_evaluation_that_the_store_cannot_give_is_refused(store, options, message):
    with pytest.raises(UserError, match=message):
        scored(Known(), store, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unroll": 0}, "at least 1"),
        ({"spacing": 0}, "at least 1"),
        ({"least_measured": 0.5, "most_measured": 0.2}, "between 0 and 1"),
        ({"dims": 4}, "dims must be"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Known(**options)


def test_validation_tells_the_free_forecast_from_the_measured_one():
    module, _ = build("direct_insertion", most_measured=1.0)
    found = module.validate(contract.batch(module, 8), generator())
    assert set(found) == {"free_relative_mse", "measured_relative_mse"}
    assert found["measured_relative_mse"] < found["free_relative_mse"]


@pytest.mark.parametrize("keep", [0, 1])
def test_the_figure_says_what_measurements_are_worth(store, keep):
    found = {told: scored(Known(told), store, keep=keep) for told in ("insert", "nothing")}
    tables = [e.scores.assign(method=told, seed=0) for told, e in found.items()]
    inputs = Inputs(
        spec={"methods": dict.fromkeys(found), "evaluate": OPTIONS, "test": [store.path.stem]},
        preset="smoke",
        experiment="toy",
        scores=pd.concat(tables),
        claims={},
        curves=pd.DataFrame(),
        predictions={told: e.predictions for told, e in found.items()},
    )
    figure = assimilation.draw(inputs)
    titles = [axes.get_title("left") for part in figure.subfigs or [figure] for axes in part.axes]
    panels = ["free forecast", "30 % of steps measured", "100 % of steps measured"]
    assert titles[:4] == [*panels, "mean over all steps"]
    assert titles[4:8] == ["truth", *(f"insert, {panel}" for panel in panels)][: 4 * keep]
    mean = rows(found["insert"], "relative_mse").groupby("measured")["value"].mean()
    title = " ".join(figure.get_suptitle().split())
    assert f"by {mean[0] / mean[30]:.3g} with 30 %" in title


def test_errors_at_and_between_sensors_are_scored_apart(store):
    """A method that knows the sensors' points and says 0 elsewhere, told apart by frames too."""

    class Sees(Known):
        def predict(self, state, parameters):
            return torch.zeros_like(state)

    module = Sees("insert", sensor_share=0.5, snr=None)
    apart = {"measured": [1.0], "snr": None, "sensor_share": 0.5, "known_every": 2, "window": 8}
    result = scored(module, store, **apart)
    at, between = (
        rows(result, f"relative_mse_{place}") for place in ("at_sensors", "between_sensors")
    )
    assert at["value"].max() < 1e-10
    np.testing.assert_allclose(between["value"], 1.0)
    assert set(at["step"]) == {2, 4, 6, 8}  # the warm-up ends with frame 2
    other = rows(result, "relative_mse_between_sensors_between_frames")
    assert set(other["step"]) == {1, 3, 5, 7}
    assert rows(scored(module, store, measured=[1.0]), "relative_mse_at_sensors").empty


def test_two_ways_to_place_sensors_are_refused(store):
    with pytest.raises(UserError, match="no effect beside sensor_share"):
        scored(Known(), store, spacing=2, sensor_share=0.5)
    with pytest.raises(ValueError, match="no effect beside sensor_share"):
        Known(spacing=2, sensor_share=0.5)
    with pytest.raises(UserError, match=r"at most evaluate\.steps"):
        scored(Known(), store, window=21)
