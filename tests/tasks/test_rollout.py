"""Rollouts are scored by the written protocol, with forecasters of known outcome."""

import logging
import math
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky
from longrun.metrics.spectrum import energy_spectrum
from longrun.runtime.cli import UserError
from longrun.tasks import _rollout, _scoring
from longrun.tasks._rollout import evaluate_forecast, rollout

STRIDE, POINTS = 2, 32
DT = np.array([0.5, 0.4, 0.6, 0.5, 0.3])
X = 2 * np.pi * np.arange(POINTS) / POINTS


class Split:
    """Frames of a store, in memory; remembers what was read."""

    def __init__(self, values: np.ndarray):
        self.values, self.reads = values.astype(np.float32), []
        self.trajectories, self.frames = values.shape[:2]
        self.space = values.shape[3:]
        self.fields = tuple("uvw"[: values.shape[2]])
        self.constants: dict[str, float] = {}
        self.parameters = {
            "length": np.full(len(values), 4 * np.pi),
            "dt": np.resize(DT, len(values)),
            "viscosity": np.ones(len(values)),
        }

    def read(self, trajectories, frames):
        read = self.values[trajectories, frames]
        self.reads.append((frames, read.nbytes))
        return read


def store(values: np.ndarray, predictability: float = 1e3) -> SimpleNamespace:
    split = Split(values)
    return SimpleNamespace(
        path=Path("waves.zarr"),
        equation={"name": "kuramoto_sivashinsky", "points": POINTS, "length": 4 * np.pi},
        fields=("u",),
        boundary=("periodic",) * (values.ndim - 3),
        static=(),
        whole=True,
        predictability=predictability,
        attrs={"predictability_censored": 0.0},
        split=lambda name: split,
        data=split,
    )


class Toy(torch.nn.Module):
    """What evaluation needs of a method; `step` is the forecast from the last frame."""

    direct, stochastic, history, period, device = False, False, 1, 1, torch.device("cpu")
    noise_levels: tuple[float, ...] = ()
    target_scale = torch.tensor([0.5])
    calls = 0

    def __init__(self, values: np.ndarray, step=None):
        super().__init__()
        dims = values.ndim - 3
        axes = (0, 1, *range(3, values.ndim))
        self.step = step
        self.description = {
            "dims": dims,
            "statistics": {
                "mean": values.mean(axes).tolist(),
                "std": values.std(axes).tolist(),
            },
            # peak at 2, middle to 4, high from 5 on
            "spectrum": [0.0, 0.1, 1.0, 0.5, 0.1, 1e-3, 1e-5] + [1e-7] * 99,
        }

    def predict(self, history, parameters, generator=None):
        self.calls += 1
        assert history.shape[1] == self.history and len(parameters) == len(history)
        return self.step(history[:, -1], generator)

    def begin(self, history, parameters):
        return {"history": history, "parameters": parameters}

    def advance(self, memory, generator=None):
        frame = self.predict(memory["history"], memory["parameters"], generator)
        history = torch.cat([memory["history"][:, 1:], frame[:, None]], dim=1)
        return frame, memory | {"history": history}

    def stages(self, history, parameters, generator=None):
        return self.predict(history, parameters, generator)[None]


def travelling(trajectories: int = 4, frames: int = 21) -> np.ndarray:
    """Waves that move by one grid point per frame, another shape for every trajectory."""
    values = np.random.default_rng(0).normal(size=(trajectories, 1, 1, POINTS))
    values -= values.mean(-1, keepdims=True)
    moved = [np.roll(values, frame, axis=-1) for frame in range(frames)]
    return np.concatenate(moved, axis=1)


def travel(state, _):
    return state.roll(STRIDE, -1)


def options(**more):
    return {"steps": 8, "stride": STRIDE, "trajectories": 4} | more


def scores(toy, values, seed=0, **more):
    frame = evaluate_forecast(toy, store(values), options(**more), seed).scores
    assert np.isfinite(frame["value"]).all()
    return frame


def of(frame, metric, **where):
    rows = frame[frame["metric"] == metric]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows), f"no {metric} at {where}"
    return rows


def test_a_perfect_forecast_is_censored_at_its_length():
    values = travelling()
    frame = scores(Toy(values, travel), values, start=3)
    for metric in ("correlation_time_0.8", "correlation_time_0.9"):
        rows = of(frame, metric)
        assert rows["trajectory"].tolist() == [0, 1, 2, 3] and rows["censored"].all()
        assert np.allclose(rows["value"], 8 * STRIDE * DT[:4])
    for metric in ("rmse", "nrmse", "vrmse", "climate_w1", "one_step_nrmse", "drift_mean"):
        assert of(frame, metric)["value"].max() < 1e-6
    for band in ("low", "middle", "high"):
        assert of(frame, f"spectrum_error_{band}")["value"].max() < 1e-5
        assert of(frame, f"climate_spectrum_error_{band}")["value"].max() < 1e-5
    assert of(frame, "correlation")["value"].min() == pytest.approx(1)
    assert (of(frame, "bounded")["value"] == 1).all()
    rows = of(frame, "nrmse", trajectory=1)
    assert rows["step"].tolist() == list(range(1, 9))
    assert np.allclose(rows["lead_time"], rows["step"] * STRIDE * DT[1])
    assert set(frame["dataset"]) == {"waves"} and (rows["member"] == 0).all()
    assert "crps" not in set(frame["metric"])


@pytest.mark.parametrize("history", [1, 3])
def test_start_counts_the_last_input_frame_whatever_the_history(history):
    values = travelling()

    class Watching(Toy):
        def predict(self, frames, parameters, generator=None):
            if not hasattr(self, "first"):
                self.first, self.given = frames, parameters
            return super().predict(frames, parameters, generator)

    toy = Watching(values, travel)
    toy.history = history
    result = evaluate_forecast(toy, store(values), options(start=4, keep=1), 0)
    inputs = values[:4, 4 - (history - 1) * STRIDE : 5 : STRIDE]
    assert np.allclose(toy.first, inputs)
    assert np.allclose(toy.given[:, 1], DT[:4])
    kept = result.predictions
    assert np.allclose(kept["truth"][0], values[0, 4 + STRIDE : 4 + 9 * STRIDE : STRIDE])
    assert np.allclose(kept["prediction"], kept["truth"], atol=1e-6)
    assert kept["lead_time"][0] == pytest.approx(STRIDE * DT[0])
    assert float(kept["x"][1]) == pytest.approx(4 * np.pi / POINTS)


def test_a_field_that_the_store_lacks_is_shown_and_not_scored():
    values = travelling()
    padded = np.concatenate([np.ones_like(values), values], axis=2)
    whole, part = Toy(values, travel), Toy(padded)
    part.target_scale = torch.tensor([1.0, 0.5])

    def step(state, _):  # wrong in the field that isn't there
        assert state.shape[1] == 2
        return torch.stack([state[:, 0] + 0.5, travel(state[:, 1], None)], dim=1)

    part.step = step
    part.description["statistics"]["std"][0] = 1.0
    seen = store(padded)
    seen.whole, seen.fields = False, ("rho", "u")
    seen.data.fields, seen.data.constants = ("rho", "u"), {"rho": 1.0}
    result = evaluate_forecast(part, seen, options(keep=1), 0)
    expected = evaluate_forecast(whole, store(values), options(keep=1), 0)
    for metric in ("relative_l1", "correlation", "one_step_nrmse", "level_error", "climate_w1"):
        rows, same = (of(frame.scores, metric)["value"] for frame in (result, expected))
        assert rows.tolist() == same.tolist(), metric
    assert result.predictions["field"].values.tolist() == ["u"]
    assert result.predictions["truth"].equals(expected.predictions["truth"])


def channel(values: np.ndarray) -> SimpleNamespace:
    """Frames of a flow in a channel of 16 x 8 cells, of speed 2."""
    made = store(values)
    made.equation = {"name": "confined_flow", "flow": "channel", "points": 8, "aspect": [2, 1]}
    made.fields, made.boundary = ("u", "v"), ("velocity inlet, outlet", "no-slip walls")
    names = ("length", "length_y", "dt", "speed", "density", "viscosity")
    numbers = (2.0, 1.0, 0.1, 2.0, 1.0, 0.01)
    made.data.parameters = {n: np.full(len(values), v) for n, v in zip(names, numbers, strict=True)}
    return made


def test_errors_beside_walls_and_what_flows_out_of_cells():
    rough = np.random.default_rng(0).normal(size=(1, 1, 2, 16, 8))
    values = np.repeat(rough, 5, axis=1)  # it doesn't move
    flowing = rough[0, 0].copy()
    flowing[1, :, -1] = 0  # it sticks to the upper wall
    rms = np.sqrt(np.square(flowing).mean(axis=(1, 2)))
    ask = {"steps": 2, "stride": 1, "trajectories": 1, "keep": 1}

    def score(change):
        toy = Toy(values, lambda state, _: change(state.clone()))
        toy.target_scale = torch.ones(2)
        return evaluate_forecast(toy, channel(values), ask, 0)

    def off(field, i, j):
        def change(state):
            state[:, field, i, j] += 0.5
            return state

        first = of(score(change).scores, "wall_error", step=1)["value"]
        return 2 * rms[field] * first.item()  # the mean of two fields

    # of u 16 points along each wall and 6 between them at the inlet; v is prescribed on the upper
    # wall, so it is the row below that lies beside it
    assert [off(0, 0, 3), off(0, 9, 7)] == pytest.approx([0.5 / np.sqrt(38)] * 2, rel=1e-5)
    assert [off(1, 9, 6), off(1, 0, 0)] == pytest.approx([0.5 / np.sqrt(37)] * 2, rel=1e-5)
    assert off(0, 9, 6) == off(0, 15, 4) == off(1, 9, 7) == off(1, 5, 5) == 0

    def spoilt(field, j):
        def change(state):
            state[:, field, :, j] += 0.5
            return state

        rows = score(change).scores
        return [of(rows, name)["value"].max() for name in ("nrmse", "one_step_nrmse")]

    assert min(spoilt(0, 7)) > 0.05 and max(spoilt(1, 7)) == 0  # v on the upper wall
    even = score(lambda state: torch.zeros_like(state) + torch.tensor([2.0, 0])[:, None, None])
    assert of(even.scores, "divergence")["value"].max() < 1e-6
    assert of(score(lambda state: state).scores, "divergence")["value"].min() > 0.7
    free = even.predictions["free"]
    assert free.sel(field="u").all() and (free.sel(field="v") == (np.arange(8) < 7)).all()


def test_a_forecast_that_decays_at_a_known_rate_has_a_known_correlation_time():
    rate = 0.97
    wave, other = (np.sqrt(2) * np.stack([np.cos(3 * X), np.sin(3 * X)])).astype(np.float32)
    values = np.broadcast_to(wave, (4, 61, 1, POINTS))

    def forget(state, _):  # every step loses a share of what is left of the wave
        left = rate * (state * torch.tensor(wave)).mean(-1, keepdim=True)
        return left * torch.tensor(wave) + (1 - left**2).sqrt() * torch.tensor(other)

    frame = scores(Toy(values, forget), values, steps=30)
    steps = np.arange(31)
    assert np.allclose(
        of(frame, "correlation", trajectory=0)["value"], rate ** steps[1:], atol=1e-5
    )
    for threshold in (0.8, 0.9):
        expected = np.interp(-threshold, -(rate**steps), steps)
        assert expected == pytest.approx(math.log(threshold) / math.log(rate), rel=0.01)
        rows = of(frame, f"correlation_time_{threshold}")
        assert not rows["censored"].any()
        assert np.allclose(rows["value"], expected * STRIDE * DT[:4], rtol=1e-3)
    assert np.allclose(of(frame, "nrmse", step=1)["value"], math.sqrt(2 - 2 * rate), rtol=1e-3)
    assert of(frame, "climate_spectrum_error_middle")["value"].max() < 1e-4  # only phase is lost


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_a_constant_forecast_is_decorrelated_from_the_start(value):
    values = travelling()
    frame = scores(Toy(values, lambda state, _: torch.full_like(state, value)), values)
    assert (of(frame, "correlation")["value"] == 0).all()
    assert (of(frame, "bounded")["value"] == 1).all()
    rows = of(frame, "correlation_time_0.8")
    assert np.allclose(rows["value"], 0.2 * STRIDE * DT[:4]) and not rows["censored"].any()
    if value == 0:
        assert np.allclose(of(frame, "vrmse")["value"], 1, atol=1e-5)
        assert np.allclose(of(frame, "climate_spectrum_error_high")["value"], 1)


def test_a_diverged_forecast_is_frozen_marked_and_alone():
    values = travelling()
    shapes = torch.fft.rfft(torch.tensor(values[:, 0])).abs().float()

    def is_number(trajectory, state):  # at any place in the batch
        shape = torch.fft.rfft(state).abs()
        return torch.cosine_similarity(shape, shapes[trajectory], -1)[..., None] > 0.999

    def explode(state, _):
        following = travel(state, None)
        following = torch.where(is_number(1, state), 10 * following, following)
        return torch.where(is_number(2, state), math.nan, following)

    result = evaluate_forecast(Toy(values, explode), store(values), options(keep=4), 0)
    frame = result.scores
    assert np.isfinite(frame["value"]).all()
    healthy = scores(Toy(values, travel), values)
    for metric in ("nrmse", "correlation", "climate_w1", "drift_mean", "correlation_time_0.8"):
        for trajectory in (0, 3):
            rows = of(frame, metric, trajectory=trajectory)
            same = of(healthy, metric, trajectory=trajectory)
            assert rows["value"].tolist() == same["value"].tolist()
    bounded = [of(frame, "bounded", trajectory=i)["value"].tolist() for i in range(4)]
    last = sum(10**n * np.abs(values[1]).max() <= 100 * values.std() for n in range(1, 9))
    assert 1 <= last <= 3
    assert bounded == [[1] * 8, [1] * last + [0] * (8 - last), [0] * 8, [1] * 8]
    for trajectory, begin in ((1, last + 1), (2, 1)):
        for step in range(begin, 9):
            where = {"trajectory": trajectory, "step": step}
            assert of(frame, "correlation", **where)["value"].item() == 0
            for metric, ceiling in (("nrmse", 100), ("vrmse", 100), ("spectrum_error_high", 1e4)):
                row = of(frame, metric, **where)
                assert row["value"].item() == ceiling and row["censored"].item()
        assert of(frame, "climate_w1", trajectory=trajectory)["value"].item() > 50
        assert of(frame, "climate_w1", trajectory=trajectory)["censored"].item()
    first = of(frame, "correlation_time_0.8", trajectory=2)
    assert first["value"].item() == pytest.approx(0.2 * STRIDE * DT[2])
    assert not first["censored"].item()
    assert np.isnan(result.predictions["prediction"][2]).all()
    assert np.isfinite(result.predictions["prediction"][[0, 3]]).all()
    assert np.isfinite(of(frame, "energy_spectrum")["value"]).all()


def test_all_may_diverge_and_the_table_stays_finite():
    values = travelling()
    toy = Toy(values, lambda state, _: state * math.inf)
    frame = scores(toy, values)
    assert (of(frame, "bounded")["value"] == 0).all()
    assert "energy_spectrum" not in set(frame["metric"])
    assert (of(frame, "one_step_nrmse")["value"] == 100).all()
    assert of(frame, "one_step_nrmse")["censored"].all()


def noisy(state, generator):
    return travel(state, None) + 0.1 * torch.empty_like(state).normal_(generator=generator)


def test_batches_do_not_matter_and_noise_is_reproducible():
    values = travelling()
    timed = ["wall_time_per_second", "peak_memory_mb"]

    def table(step, stochastic, seed=0, **more):
        toy = Toy(values, step)
        toy.stochastic = stochastic
        frame = scores(toy, values, seed, **more)
        frame = frame[~frame["metric"].isin(timed)]
        return frame.sort_values([c for c in frame if c != "value"], kind="stable")["value"]

    whole, split = table(travel, False), table(travel, False, batch_size=3)
    assert np.allclose(whole, split, rtol=1e-5, atol=1e-7)
    runs = [table(noisy, True, seed, members=3) for seed in (1, 1, 2)]
    assert runs[0].tolist() == runs[1].tolist() != runs[2].tolist()
    assert len(table(noisy, True, members=3, batch_size=2)) == len(runs[0])
    assert len(table(travel, False, members=3)) == len(whole)  # no noise: one member suffices


def test_an_ensemble_that_knows_nothing_is_reliable_and_sees_no_horizon():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 101, 1, POINTS))
    toy = Toy(values, lambda state, g: torch.empty_like(state).normal_(generator=g))
    toy.stochastic = True
    frame = scores(toy, values, steps=50, members=5, trajectories=5)
    assert (of(frame, "spread")["member"] == -1).all()
    assert of(frame, "rmse")["member"].nunique() == 5
    ratio = of(frame, "spread")["value"].mean() / of(frame, "ensemble_rmse")["value"].mean()
    assert ratio == pytest.approx(1, abs=0.05)
    assert of(frame, "spread_skill")["value"].mean() == pytest.approx(1, abs=0.1)
    expected = 2 / math.sqrt(math.pi) * (1 - 4 / 5 / 2)  # E|X - y| - E|X - X'| / 2 with M = 5
    assert of(frame, "crps")["value"].mean() == pytest.approx(expected, rel=0.05)
    assert of(frame, "member_correlation")["value"].mean() == pytest.approx(0, abs=0.03)
    assert (of(frame, "predicted_horizon")["value"] < STRIDE * 0.6).all()
    assert len(of(frame, "predicted_horizon")) == 5


def test_a_diverged_member_takes_its_ensemble_with_it_but_no_other():
    values = travelling()

    def one_explodes(state, generator):
        chance = torch.rand(len(state), generator=generator)
        bad = (chance == chance.min()).reshape(-1, 1, 1)
        return torch.where(bad, math.nan, travel(state, None))

    toy = Toy(values, one_explodes)
    toy.stochastic = True
    frame = scores(toy, values, steps=1, members=3)
    hit = of(frame, "bounded", value=0.0)["trajectory"].unique()
    assert len(hit) == 1
    rows = of(frame, "crps").set_index("trajectory")
    assert rows.loc[hit, "censored"].all() and (rows.loc[hit, "value"] > 10).all()
    others = rows.drop(hit)
    assert not others["censored"].any() and (others["value"] < 1e-6).all()
    agreement = of(frame, "member_correlation").set_index("trajectory")["value"]
    assert agreement[hit].item() == pytest.approx(1 / 3)


def test_the_stages_of_a_step_are_scored_apart():
    values = travelling(frames=40)
    sizes, waves = torch.tensor([0.2, 0.05, 0.01]), (2, 4, 6)
    errors = torch.stack(
        [a * torch.cos(k * torch.tensor(X)) for a, k in zip(sizes, waves, strict=True)]
    )

    class Refining(Toy):
        noise_levels = (1.0, 0.3, 0.1)

        def stages(self, history, parameters, generator=None):
            frame = travel(history[:, -1], None)
            return frame + errors.float()[:, None, None]

    frame = scores(Refining(values, travel), values, steps=15)
    for stage, (size, wave) in enumerate(zip(sizes.tolist(), waves, strict=True)):
        level = of(frame, "level_error", stage=stage)["value"].item()
        assert level == pytest.approx(size / math.sqrt(2) / 0.5, rel=1e-4)
        energy = of(frame, "one_step_error_spectrum", stage=stage)
        assert np.argmax(energy["value"]) == wave
        assert energy["wavenumber"].iloc[2] == pytest.approx(1)  # index 2 on a domain of 4 pi
        assert energy["value"].sum() == pytest.approx(size**2 / 2, rel=1e-4)
        rms = values[:4, 0, 0].std(-1)
        nrmse = of(frame, "one_step_nrmse", stage=stage)["value"]
        assert np.allclose(nrmse, size / math.sqrt(2) / rms, rtol=1e-4)
    # each wave lies in its own band; in the others is nothing but rounding
    bands = ("low", "middle", "high")
    for stage in range(3):
        parts = [of(frame, f"one_step_error_{band}", stage=stage)["value"] for band in bands]
        assert np.argmax(parts, axis=0).tolist() == [stage] * len(parts[0])
    assert of(frame, "noise_level")["value"].tolist() == [1.0, 0.3, 0.1]
    truth = of(frame, "one_step_truth_spectrum", stage=2)["value"]
    assert np.allclose(truth, energy_spectrum(values[:4, 0, 0], 1).mean(0), rtol=1e-4)


def test_spectra_are_pooled_at_the_first_the_middle_and_the_last_step():
    values = travelling()
    frame = scores(Toy(values, lambda state, _: 0.5 * travel(state, None)), values, steps=9)
    truth = energy_spectrum(values[:4, 0, 0], 1).mean(0)
    assert sorted(of(frame, "energy_spectrum")["step"].unique()) == [1, 5, 9]
    for step in (1, 5, 9):
        assert np.allclose(of(frame, "truth_spectrum", step=step)["value"], truth, rtol=1e-4)
        energy = of(frame, "energy_spectrum", step=step)
        assert np.allclose(energy["value"], truth * 0.25**step, rtol=1e-4)
        assert np.allclose(energy["lead_time"], step * STRIDE * DT[:4].mean())
    assert np.allclose(of(frame, "climate_truth_spectrum")["value"], truth, rtol=1e-4)
    late = np.mean([0.25**step for step in range(5, 10)])  # the second half of the rollout
    assert np.allclose(of(frame, "climate_spectrum")["value"], truth * late, rtol=1e-4)


def test_cost_and_predictability_are_reported(caplog):
    values = travelling()
    toy = Toy(values, travel)
    toy.weight = torch.nn.Parameter(torch.zeros(7))
    with caplog.at_level(logging.WARNING):
        frame = evaluate_forecast(toy, store(values, 9.5), options(), 0).scores
    assert "9.5 s" in caplog.text and "waves.zarr" in caplog.text  # 8 steps of 1.2 s
    assert of(frame, "predictability")["value"].item() == 9.5
    assert of(frame, "parameters")["value"].item() == 7
    assert 0 < of(frame, "wall_time_per_second")["value"].item() < 0.1
    assert of(frame, "peak_memory_mb")["value"].item() > 10
    caplog.clear()
    evaluate_forecast(toy, store(values, 9.7), options(), 0)
    assert not caplog.text


def test_cost_is_the_mean_over_a_period(monkeypatch):
    def one_second(call):
        call()
        return 1.0

    monkeypatch.setattr(_rollout, "seconds_per_call", one_second)
    values = travelling()
    toy = Toy(values, travel)
    for toy.period in (1, 4):
        cost = of(scores(toy, values), "wall_time_per_second")["value"].item()
        assert cost == pytest.approx(1 / toy.period / (STRIDE * DT[:4].sum()))


def test_derived_fields_have_scores_of_their_own(monkeypatch):
    values = travelling()
    toy = Toy(values, lambda state, _: travel(state, _) + 100)  # the slope is right all the same

    def derived(equation, state, parameters):
        assert parameters["dt"].shape == state.shape[:-2]
        slope = np.diff(state[..., 0, :], append=state[..., 0, :1])
        return {"slope": slope, "reverse": -(slope**3)}

    monkeypatch.setattr(KuramotoSivashinsky, "derived", derived)
    monkeypatch.setattr(_rollout, "UNBOUNDED", 1e6)
    frame = scores(toy, values)
    for name in ("slope", "reverse"):
        assert np.allclose(of(frame, f"correlation_{name}")["value"], 1, atol=1e-4)
        times = of(frame, f"correlation_time_0.8_{name}")
        assert times["censored"].all() and len(times) == 4
    assert len(of(frame, "correlation_slope")) == len(of(frame, "correlation"))


def test_the_climate_of_derived_fields_has_a_distance(monkeypatch):
    """In units of the first frame: a field that is wider by a constant is that far away."""
    values = travelling()

    def derived(equation, state, parameters):
        return {"slope": state[..., 0, :]}

    monkeypatch.setattr(KuramotoSivashinsky, "derived", derived)
    exact = of(scores(Toy(values, travel), values), "climate_w1_slope")
    assert len(exact) == 4 and exact["value"].max() < 1e-3
    higher = Toy(values, lambda state, _: travel(state, _) + 0.1)  # by 0.8 at the last step
    found = of(scores(higher, values), "climate_w1_slope")["value"]
    shift = 0.1 * np.mean([5, 6, 7, 8]) / values[0, 0].std()
    assert np.allclose(found, shift, rtol=0.02)


def test_a_forecast_that_stands_still_has_no_motion():
    values = travelling()
    still = of(scores(Toy(values, lambda state, _: state), values), "climate_motion_error")
    assert (still["value"] == 1).all() and len(still) == 4
    exact = of(scores(Toy(values, travel), values), "climate_motion_error")
    assert exact["value"].max() < 1e-6
    # one point per step where the truth moves by two
    halved = Toy(values, lambda state, _: state.roll(1, -1))
    assert 0 < of(scores(halved, values), "climate_motion_error")["value"].min() < 1


def test_motion_and_energy_do_not_depend_on_blocks(monkeypatch):
    monkeypatch.setattr(KuramotoSivashinsky, "velocity", ("u",))
    values = travelling()
    toy = Toy(values, lambda state, _: 0.9 * travel(state, _))
    whole = scores(toy, values)
    monkeypatch.setattr(_scoring, "BLOCK", POINTS * 3)
    parts = scores(toy, values, batch_size=1)
    for metric in ("climate_motion_error", "climate_energy_error", "kinetic_energy"):
        one, other = (of(f, metric).sort_values(["trajectory", "step"]) for f in (whole, parts))
        assert np.allclose(one["value"], other["value"], rtol=1e-6)


def test_kinetic_energy_is_scored_where_there_is_a_velocity(monkeypatch):
    values = travelling()
    toy = Toy(values, lambda state, _: 0.9 * travel(state, _))
    assert "kinetic_energy" not in set(scores(toy, values)["metric"])
    monkeypatch.setattr(KuramotoSivashinsky, "velocity", ("u",))
    frame = scores(toy, values)
    energy = 0.5 * np.square(values[:, 0, 0]).mean(-1)
    truth, found = of(frame, "truth_kinetic_energy"), of(frame, "kinetic_energy")
    assert len(truth) == len(found) == 4 * 8
    assert np.allclose(truth["value"], energy[truth["trajectory"]], rtol=1e-5)
    expected = energy[found["trajectory"]] * 0.81 ** found["step"].to_numpy()
    assert np.allclose(found["value"], expected, rtol=1e-5)
    error = 1 - np.mean(0.81 ** np.arange(5, 9))
    assert np.allclose(of(frame, "climate_energy_error")["value"], error, rtol=1e-5)


def test_memory_does_not_grow_with_the_length_of_the_rollout(monkeypatch):
    wave = np.sin(2 * np.pi * np.arange(4096) / 4096)
    values = np.broadcast_to(wave.astype(np.float32), (2, 241, 1, 4096)).copy()
    monkeypatch.setattr(_scoring, "BLOCK", 4 * 2 * 4096)  # four steps
    toy = Toy(values[:, :3], lambda state, _: state)
    peaks = []
    for steps in (20, 120):
        opened = store(values)
        tracemalloc.start()
        evaluate_forecast(toy, opened, options(steps=steps, trajectories=2), 0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert max(size for _, size in opened.data.reads) <= 4 * _scoring.BLOCK
    whole = 120 * values[:, 0].nbytes
    assert peaks[1] - peaks[0] < 0.25 * whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 11}, "needs 23 frames, the store has 21"),
        ({"steps": 10, "start": 1}, "needs 22 frames"),
        ({"trajectories": 5}, "has 4 trajectories, 5"),
    ],
)
def test_what_the_store_does_not_hold_is_refused_before_any_forecast(change, message):
    values = travelling()
    toy = Toy(values, travel)
    with pytest.raises(UserError, match=message):
        evaluate_forecast(toy, store(values), options(**change), 0)
    assert toy.calls == 0


def test_a_start_without_room_for_the_history_is_refused():
    values = travelling()
    toy = Toy(values, travel)
    toy.history = 3
    with pytest.raises(UserError, match="start must be at least 4"):
        evaluate_forecast(toy, store(values), options(start=3), 0)


def test_a_store_without_space_is_refused():
    values = travelling()
    points = store(values)
    points.data.space = ()
    with pytest.raises(UserError, match="no axis of space"):
        evaluate_forecast(Toy(values, travel), points, options(), 0)


def test_a_store_of_an_unknown_equation_is_scored_without_invariants():
    values = travelling()
    imported = store(values, math.inf)
    imported.equation = {"name": "imported"}
    frame = evaluate_forecast(Toy(values, travel), imported, options(), 0).scores
    assert len(of(frame, "correlation"))
    assert not any(name.startswith("drift_") for name in set(frame["metric"]))
    assert "predictability" not in set(frame["metric"])


def test_what_is_left_out_or_seen_through_a_window_is_said(caplog):
    values = travelling()
    walled = store(values, math.inf)
    walled.equation, walled.boundary = {"name": "imported"}, ("wall",)
    with caplog.at_level(logging.INFO):
        evaluation = evaluate_forecast(Toy(values, travel), walled, options(), 0)
    assert "boundary wall: spectra are taken through a Hann window along x" in caplog.text
    assert "its equation is not known: quantities that an equation conserves" in caplog.text
    assert evaluation.predictions.attrs["windowed"] == ["x"]
    truth = of(evaluation.scores, "truth_spectrum", step=1)["value"]
    whole = energy_spectrum(values[:4, STRIDE, 0], 1, periodic=[False]).mean(0)
    assert np.allclose(truth, whole, rtol=1e-4)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        plain = evaluate_forecast(Toy(values, travel), store(values), options(), 0)
    assert "Hann" not in caplog.text and plain.predictions.attrs["windowed"] == []


def test_fields_that_do_not_move_are_not_scored():
    values = travelling()
    both = np.concatenate([values, np.ones_like(values)], axis=2)
    masked = store(both)
    masked.static, masked.fields = ("mask",), ("u", "mask")
    masked.data.fields = ("u", "mask")
    masked.whole = False
    toy = Toy(both, travel)
    toy.target_scale = torch.tensor([0.5, 1.0])
    evaluation = evaluate_forecast(toy, masked, options(), 0)
    assert evaluation.predictions.sizes["field"] == 1
    masked.static = ("u", "mask")
    with pytest.raises(UserError, match="nothing to forecast"):
        evaluate_forecast(toy, masked, options(), 0)


def test_fields_of_two_dimensions_and_two_channels(monkeypatch):
    class Equation:
        rim = None
        velocity = ()

        def __init__(self, **section): ...
        def derived(self, state, parameters):
            return {}

        outflows = derived

        def invariants(self, state, parameters):
            assert parameters["viscosity"].shape == state.shape[:-3]
            return {"mean": state.mean((-3, -2, -1))}

    monkeypatch.setattr(_rollout.registry, "find", lambda kind, name: Equation)
    values = np.random.default_rng(0).normal(size=(3, 1, 2, 12, 16))
    values = np.concatenate([np.roll(values, frame, -1) for frame in range(17)], axis=1)
    toy = Toy(values, travel)
    toy.target_scale = torch.tensor([0.5, 0.5])
    opened = store(values)
    opened.fields = ("u", "v")
    result = evaluate_forecast(toy, opened, options(trajectories=3, keep=2, batch_size=2), 0)
    frame = result.scores
    assert of(frame, "correlation")["value"].min() > 0.999
    assert len(of(frame, "energy_spectrum", step=1)) == 7
    assert result.predictions["truth"].dims == ("trajectory", "lead_time", "field", "x", "y")
    assert result.predictions["truth"].shape == (2, 8, 2, 12, 16)


def test_a_rollout_feeds_the_forecast_back_in_pieces():
    values = travelling()
    toy = Toy(values, lambda state, _: 2 * state)
    start = torch.tensor(values[:4, :1]).float()
    frames = list(rollout(toy, start, torch.ones(4, 3), 3, batch_size=3))
    assert [len(frame) for frame in frames] == [4, 4, 4] and toy.calls == 6
    assert torch.equal(frames[2], 8 * start[:, 0])


def test_arrays_are_scored_without_a_method():
    """Forecasts from elsewhere have the scores that the same ones of a method have."""
    values = travelling()
    opened, toy = store(values), Toy(values, lambda state, _: 0.9 * travel(state, _))
    whole = evaluate_forecast(toy, opened, options(keep=2), 0)
    cases, chosen = _rollout._cases(toy, opened, options(keep=2)), np.arange(4)
    truth = cases.read(chosen, STRIDE, 8)
    by_hand = truth * (0.9 ** np.arange(1, 9, dtype=np.float32))[:, None, None]
    halves = ((np.arange(1, 6), by_hand[:, :5]), (np.arange(6, 9), by_hand[:, 5:]))
    rows, _, (kept, forecast) = _scoring.score_rollouts(cases, chosen, values[:, 0], halves)
    found = rows.frame()
    assert len(found) > 100
    for metric in found["metric"].unique():
        expected = of(whole.scores, metric)["value"].to_numpy()
        np.testing.assert_allclose(
            np.sort(of(found, metric)["value"]), np.sort(expected), rtol=1e-4, atol=1e-6
        )
    np.testing.assert_array_equal(kept, truth[:2])
    np.testing.assert_array_equal(forecast, by_hand[:2])
