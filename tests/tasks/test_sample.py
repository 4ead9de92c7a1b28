"""The task sample: what is shown, what a draw depends on, how samples are scored."""

import numpy as np
import pandas as pd
import pytest
import stores
import torch
from contracts import sample as contract_sample
from matplotlib.axes import Axes
from matplotlib.text import Text

from longrun.config.tasks.sample import METRICS
from longrun.data.describe import describe
from longrun.figures._inputs import Inputs
from longrun.figures.sample import flow_paths, samples
from longrun.methods.sample.conditional_mean import ConditionalMean
from longrun.methods.sample.rectified_flow import RectifiedFlow
from longrun.metrics.samples import energy_score, sliced_w2
from longrun.runtime.cli import UserError
from longrun.tasks.sample import AbstractSampler

SPLITS = {
    "train": {"trajectories": 40, "frames": 6},
    "valid": {"trajectories": 4, "frames": 6},
    "test": {"trajectories": 12, "frames": 6},
}
OPTIONS = {"trajectories": 10, "stride": 2, "start": 1, "nfe": [1, 3], "keep": 2}


class Shifted(AbstractSampler):
    """Draws standard noise, moved by an error that halves with every evaluation."""

    def loss(self, data, context, conditions, generator):
        return data.new_zeros(())

    def sample(self, context, conditions, generator, nfe):
        shape = (len(context), self.fields, *context.shape[2:])
        noise = torch.empty(shape, dtype=context.dtype).normal_(generator=generator)
        return noise if nfe is None else noise + 2.0**-nfe


@pytest.fixture
def store(tmp_path):
    return stores.make(tmp_path / "toy.zarr", splits=SPLITS)


def built(kind, store, stride=2, **options):
    description = describe([store], stride) | {"stride": stride}
    sizes = {name: description[name] for name in ("fields", "dims", "conditions")}
    module = kind(**sizes, **options)
    module.fit_statistics(description["statistics"])
    module.description = description
    return module.eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def flow(store, **options):
    torch.manual_seed(0)
    small = {"width": 8, "multipliers": [1, 2], "fine_steps": 4}
    return built(RectifiedFlow, store, **small, **options)


def test_only_some_points_are_seen_and_the_others_hold_the_mean(store):
    module = flow(store, conditional=True, observe_every=4)
    frames = torch.from_numpy(store.split("test").read(slice(0, 2), slice(0, 1))[:, 0])
    seen = module.observe(frames, generator())
    assert torch.equal(seen[..., ::4], frames[..., ::4])
    rest = [i for i in range(8) if i % 4]
    assert torch.equal(seen[..., rest], module.field_mean.expand(2, 1, 6))
    context = module.context_of(seen)
    assert torch.equal(context[..., rest], torch.zeros(2, 1, 6))


def test_the_noise_of_an_observation_is_in_standard_deviations():
    module = RectifiedFlow(2, 1, 0, width=4, conditional=True, observe_noise=0.5)
    module.field_std.copy_(torch.tensor([1.0, 10.0]))
    frames = torch.zeros(500, 2, 16)
    noise = module.observe(frames, generator()).std(dim=(0, 2))
    torch.testing.assert_close(noise, torch.tensor([0.5, 5.0]), rtol=0.05, atol=0)


def test_without_a_condition_nothing_is_seen(store):
    module = flow(store)
    assert (module.history, module.unroll) == (1, 0)
    assert module.observe(torch.zeros(3, 1, 8), generator()).shape == (3, 0, 8)
    assert (flow(store, conditional=True).history, flow(store, conditional=True).unroll) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"observe_noise": 0.1},
        {"observe_every": 2},
        {"conditional": True, "observe_every": 0},
        {"conditional": True, "observe_noise": -1.0},
    ],
)
def test_impossible_observations_are_refused(options):
    with pytest.raises(ValueError, match="observe_noise"):
        RectifiedFlow(1, 1, 0, width=4, **options)


def test_a_baseline_needs_a_condition():
    with pytest.raises(ValueError, match="conditional"):
        ConditionalMean(1, 1, 0, conditional=False, width=4)


def test_training_and_drawing_use_the_same_units(store):
    """The datum of the loss is the frame that a perfect draw would return."""
    module = flow(store, conditional=True)
    window = torch.from_numpy(store.split("train").read(slice(0, 4), slice(0, 3, 2)))
    parameters = torch.ones(4, 2)
    given = {}

    def loss(data, context, conditions, generator):
        given["data"] = data
        return data.mean()

    module.loss = loss
    module.batch_loss({"window": window, "parameters": parameters}, generator())
    module.sample = lambda context, conditions, generator, nfe: given["data"]
    condition = module.observe(window[:, 0], generator())
    drawn = module.draw(condition, parameters, generator())
    torch.testing.assert_close(drawn, window[:, 1])


@pytest.mark.parametrize("conditional", [False, True])
def test_scores_of_a_known_sampler(store, conditional):
    module = built(Shifted, store, conditional=conditional)
    found = module.evaluate(store, OPTIONS | {"members": 6}, seed=0)
    scores = found.scores
    assert np.isfinite(scores["value"]).all()
    ends = scores[scores["metric"] == "endpoint_error"].groupby("nfe")["value"].mean()
    np.testing.assert_allclose(ends.to_numpy(), [0.5, 0.125], rtol=1e-5)
    law = scores[scores["metric"] == "sliced_w2"].set_index("nfe")["value"]
    assert law[1] > law[3] > 0 and list(law.index) == [1, 3]
    assert set(scores.loc[scores["metric"] == "sliced_w2", "trajectory"]) == {-1}
    per_trajectory = scores[scores["metric"] == "crps"]
    if conditional:
        assert set(per_trajectory["trajectory"]) == set(range(10))
        skill = scores[(scores["metric"] == "spread_skill") & (scores["nfe"] == 3)]
        assert 0.7 < skill["value"].item() < 1.3  # the truth is noise of the same distribution
    else:
        assert per_trajectory.empty
    assert not set(scores["metric"]) & {"straightness", "transport_cost"}  # it is not a flow


def test_every_score_is_described(store):
    described = set(METRICS)
    module = flow(store, conditional=True, observe_noise=0.5)
    scores = module.evaluate(store, OPTIONS | {"members": 2}, seed=0).scores
    assert set(scores["metric"].astype(str)) - {"parameters", "peak_memory_mb"} == (
        described - {"spectrum_error_high"}  # noise has no such band
    )


def test_same_bits_for_every_seed_and_one_noise_for_all_evaluations(store):
    module = flow(store, conditional=True, observe_noise=0.5)
    first, again = (module.evaluate(store, OPTIONS, seed) for seed in (0, 1))
    timed = ["wall_time_per_sample", "peak_memory_mb"]
    tables = [e.scores[~e.scores["metric"].isin(timed)]["value"] for e in (first, again)]
    assert tables[0].equals(tables[1])
    assert first.predictions.equals(again.predictions)
    # the last layer is zero at first, so the velocity is too, and every draw is its noise
    ends = first.scores[first.scores["metric"] == "endpoint_error"]["value"]
    assert (ends == 0).all()


def test_predictions_hold_truth_samples_and_paths(store):
    module = flow(store, conditional=True, observe_noise=0.5)
    found = module.evaluate(store, OPTIONS | {"members": 3}, seed=0).predictions
    truth = store.split("test").read(slice(0, 2), slice(3, 4))
    np.testing.assert_allclose(found["truth"].transpose(*found["truth"].dims), truth, rtol=1e-5)
    assert found["samples"].sizes == {
        "nfe": 2,
        "trajectory": 2,
        "member": 3,
        "field": 1,
        "x": 8,
    }
    last = found["samples"].isel(nfe=-1, member=0)
    np.testing.assert_array_equal(last, found["prediction"].isel(lead_time=0))
    assert found["path"].sizes["path_time"] == 5 and float(found["path_time"][-1]) == 1
    assert found["observation"].dims == ("trajectory", "field", "x")


def test_a_sampler_that_diverges_is_bounded_and_censored(store):
    class Wild(Shifted):
        def sample(self, context, conditions, generator, nfe):
            drawn = super().sample(context, conditions, generator, nfe)
            drawn[0] = torch.nan
            return drawn

    scores = built(Wild, store).evaluate(store, OPTIONS, seed=0).scores
    bounded = scores[scores["metric"] == "bounded"]["value"]
    np.testing.assert_allclose(bounded, 0.9)
    assert scores[scores["metric"] == "sliced_w2"]["censored"].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"start": 5}, "needs 8 frames"), ({"trajectories": 13}, "has 12 trajectories")],
)
def test_a_store_too_small_is_refused(store, options, message):
    with pytest.raises(UserError, match=message):
        flow(store, conditional=True).evaluate(store, OPTIONS | options, seed=0)


def test_points_without_space_are_scored(tmp_path):
    splits = {name: {"trajectories": 20, "frames": 1} for name in SPLITS}
    store = stores.make(tmp_path / "points.zarr", fields=("x", "y"), space=(), splits=splits)
    torch.manual_seed(0)
    module = built(RectifiedFlow, store, stride=1, width=8, layers=1, fine_steps=4)
    found = module.evaluate(store, {"trajectories": 16, "keep": 3}, seed=0)
    assert found.predictions["samples"].shape == (5, 3, 1, 2)
    bends = found.scores[found.scores["metric"] == "straightness"]
    assert list(bends["trajectory"]) == list(range(16))
    assert not any("spectrum" in metric for metric in set(found.scores["metric"]))


def test_validation_logs_the_distance_of_quick_draws():
    torch.manual_seed(0)
    module = RectifiedFlow(1, 1, 1, width=8, multipliers=[1, 2], conditional=True)
    module.fit_statistics(contract_sample.FIELD["statistics"])
    found = module.validate(contract_sample.batch(module, 8), generator())
    assert set(found) == {"sliced_w2"} and 0 < float(found["sliced_w2"]) < 10


def test_sliced_distance_of_a_shift_and_of_itself():
    points = np.random.default_rng(1).normal(size=(500, 3))
    assert sliced_w2(points, points[::-1]) == 0
    # along a direction d the distance of a shift m is |d.m|, whose mean square is |m|^2 / 3
    moved = sliced_w2(points + np.array([3.0, 0, 0]), points, projections=20_000)
    assert moved == pytest.approx(np.sqrt(3), rel=0.02)
    wider = sliced_w2(2 * points[:, :1], points[:, :1])
    assert wider == pytest.approx(np.sqrt(np.square(points[:, 0]).mean()), rel=1e-12)


def test_energy_score_by_hand_and_proper():
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 3))
    expected = []
    for some, one in zip(members, truth, strict=True):
        norms = [np.sqrt(np.square(m - one).mean()) for m in some]
        pairs = [np.sqrt(np.square(a - b).mean()) for a in some for b in some]
        expected.append(np.mean(norms) - sum(pairs) / (2 * 5 * 4))
    np.testing.assert_allclose(energy_score(members, truth), expected)
    np.testing.assert_allclose(
        energy_score(members[:, :1], truth)[0], np.sqrt(np.square(members[0, 0] - truth[0]).mean())
    )
    truth = rng.normal(size=(4000, 3))
    scores = [energy_score(s * rng.normal(size=(4000, 8, 3)), truth).mean() for s in (0.5, 1, 2)]
    assert scores[1] < min(scores[0], scores[2])


def pictures(module, store, **options):
    """Both figures of the task, drawn from one evaluation, and all that they say."""
    evaluation = module.evaluate(store, OPTIONS | {"members": 2} | options, seed=0)
    inputs = Inputs(
        spec={"methods": {"some": {}}, "test": [store.path.stem]},
        preset="smoke",
        experiment="toy",
        scores=evaluation.scores.assign(method="some", seed=0),
        claims={},
        curves=pd.DataFrame(),
        predictions={"some": evaluation.predictions},
    )
    for figure in (samples.draw(inputs), flow_paths.draw(inputs)):
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(Text)]
        yield len(figure.findobj(Axes)), " ".join(text for text in texts if text)


@pytest.mark.parametrize("dims", [0, 1, 2])
def test_figures_of_points_lines_and_maps(tmp_path, dims):
    splits = {name: {"trajectories": 12, "frames": 1 if dims == 0 else 6} for name in SPLITS}
    fields = ("x", "y") if dims == 0 else ("u",)
    store = stores.make(tmp_path / "toy.zarr", fields=fields, space=(8,) * dims, splits=splits)
    small = {"width": 8, "layers": 1, "multipliers": [1, 2], "fine_steps": 4}
    seen = {"conditional": True, "observe_every": 4} if dims else {}
    torch.manual_seed(0)
    module = built(RectifiedFlow, store, stride=2 if dims else 1, **small, **seen)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1)
    where = {} if dims else {"start": 0, "stride": 1}
    (panels, beside), (ways, paths) = pictures(module, store, **where)
    assert panels == (1 + (dims > 0)) + 2 + (dims == 2)  # scores, samples at 1 and 3, truth
    assert "1 evaluation" in beside and "3 evaluations" in beside and "sliced W2" in beside
    assert ways == (7 if dims == 0 else 3)
    assert "straightness S" in paths and ("paths" in paths or dims)


def test_figures_of_a_method_that_is_no_flow(store):
    beside, ways = pictures(built(Shifted, store), store)
    assert "some, 3 evaluations" in beside[1]
    assert ways == (0, "No method of this experiment is a flow from noise to data.")
