"""The task sample: what is shown, what a draw depends on, how samples are scored."""

from types import SimpleNamespace

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
from longrun.data.store import open_store
from longrun.data.windows import Windows
from longrun.equations.gaussian_mixture import GaussianMixture
from longrun.figures._inputs import Inputs
from longrun.figures.sample import flow_paths, samples
from longrun.methods.sample.conditional_gaussian import ConditionalGaussian
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


def gaussian(store, source, count=30, **options):
    module = built(ConditionalGaussian, store, points=[8], residuals=count, **SEEN, **options)
    valid = Windows([store], "valid", 2, 2)
    module.prepare(SimpleNamespace(valid_windows=valid), [source])
    return module


SEEN = {"width": 8, "multipliers": [1, 2], "observe_every": 2, "observe_noise": 0.5}


@pytest.mark.parametrize("count", [12, 30])  # valid has 16 windows
def test_the_gaussian_baseline_has_the_errors_of_its_mean_on_valid(store, count):
    torch.manual_seed(0)
    source = built(ConditionalMean, store, **SEEN)
    module = gaussian(store, source, count)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    # the mean of a new network is zero: what is left is the frame itself
    chosen = Windows([store], "valid", 2, 2).spread(count)
    frames = torch.from_numpy(Windows([store], "valid", 2, 2).read(np.resize(chosen, count))[0])
    torch.testing.assert_close(module.errors, module.normalised(frames[:, -1]))
    condition = torch.zeros(20_000, 1, 8)
    drawn = module.normalised(module.draw(condition, torch.ones(20_000, 2), generator(), 4))
    noise = drawn.flatten(1).T.cov(correction=0)
    wanted = module.errors.flatten(1).T @ module.errors.flatten(1) / count
    torch.testing.assert_close(noise, wanted, rtol=0, atol=0.05)


def test_the_gaussian_baseline_refuses_what_is_not_its_mean(store):
    source = built(ConditionalMean, store, **SEEN)
    with pytest.raises(ValueError, match="starts_from"):
        gaussian(store, flow(store, conditional=True))
    with pytest.raises(ValueError, match="sees"):
        gaussian(store, built(ConditionalMean, store, **SEEN | {"observe_noise": 0.1}))
    with pytest.raises(ValueError, match="width"):
        gaussian(store, built(ConditionalMean, store, **SEEN | {"width": 12}))
    with pytest.raises(ValueError, match="residuals"):
        gaussian(store, source, 0)
    with pytest.raises(ValueError, match="conditional"):
        ConditionalGaussian(1, 1, 0, points=[8], conditional=False)


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
    by_part = scores[scores["metric"] == "endpoint_error"]
    assert set(by_part["trajectory"]) == set(range(10))  # as many parts as trajectories
    per_trajectory = scores[scores["metric"] == "crps"]
    if conditional:
        assert set(per_trajectory["trajectory"]) == set(range(10))
        skill = scores[(scores["metric"] == "spread_skill") & (scores["nfe"] == 3)]
        assert 0.7 < skill["value"].item() < 1.3  # the truth is noise of the same distribution
    else:
        assert per_trajectory.empty
    assert not set(scores["metric"]) & {"straightness", "transport_cost"}  # it is not a flow


def test_every_score_is_described(store, mixture):
    described = set(METRICS)
    module = flow(store, conditional=True, observe_noise=0.5)
    scores = module.evaluate(store, OPTIONS | {"members": 2}, seed=0).scores
    of_law = built(Clusters, mixture, stride=1).evaluate(mixture, PARTED, seed=0).scores
    found = {*scores["metric"].astype(str), *of_law["metric"].astype(str)}
    assert found - {"parameters", "peak_memory_mb"} == (
        described - {"spectrum_error_high"}  # noise has no such band
    )


PARTED = {"trajectories": 1600, "truths": 6400, "nfe": [1]}


class Clusters(AbstractSampler):
    """Draws from the mixture itself, its clusters wider by a factor, a share of them moved."""

    wider, share = 1.0, 0.0

    def loss(self, data, context, conditions, generator):
        return data.new_zeros(())

    def sample(self, context, conditions, generator, nfe):
        law = GaussianMixture()
        chosen = torch.randint(8, (len(context),), generator=generator)
        moved = torch.rand(len(context), generator=generator) < self.share
        centres = torch.from_numpy(law.centres)[torch.where(moved, 0, chosen)]
        width = self.wider * float(law.deviations[0])
        points = centres + width * torch.randn(len(context), 2, generator=generator)
        return self.normalised(points.float())


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A store of points from eight clusters."""
    path = tmp_path_factory.mktemp("mixture") / "mixture.zarr"
    splits = {"train": 3200, "valid": 4, "test": 6400}
    splits = {name: {"trajectories": size, "frames": 1} for name, size in splits.items()}
    writer = stores.begin(path, ("x", "y"), (), splits, equation="gaussian_mixture", shard=3200)
    for split, some in list(writer.missing()):
        draws = [np.random.default_rng([len(split), n]) for n in range(some.start, some.stop)]
        points = GaussianMixture().sample(draws)[1].astype(np.float32)
        ones = {name: np.ones(len(points)) for name in ("length", "dt")}
        writer.write(split, some, ones, points[:, None])
    lead = np.ones(1)
    unknown = {"reference_error": 0.1, "predictability": None, "predictability_censored": 0.0}
    writer.finish(lead, lead, unknown)
    return open_store(path)


def parts(mixture, wider=1.0, share=0.0):
    """Mean and standard error over parts of what is scored by part."""
    module = built(Clusters, mixture, stride=1)
    module.wider, module.share = wider, share
    scores = module.evaluate(mixture, PARTED, seed=0).scores
    rows = scores[scores["trajectory"] >= 0]
    assert (rows.groupby("metric", observed=True)["trajectory"].nunique() == 16).all()
    found = rows.groupby("metric", observed=True)["value"].agg(["mean", "sem"])
    return {name: tuple(row) for name, row in found.iterrows()}


def test_a_perfect_sampler_differs_from_the_law_by_chance_alone(mixture):
    found = parts(mixture)
    wanted = {"sliced_w2_excess": 0, "log_density_gap": 0, "cluster_spread": 1, "variance_ratio": 1}
    assert set(found) == {*wanted, "endpoint_error"}
    for name, value in wanted.items():
        mean, error = found[name]
        assert abs(mean - value) < 4 * error, name


def test_wider_clusters_are_seen_by_density_and_spread_not_by_the_sliced_distance(mixture):
    right, found = parts(mixture), parts(mixture, wider=1.2)
    # of the same noise
    ratio = found["cluster_spread"][0] / right["cluster_spread"][0]
    assert ratio == pytest.approx(1.2, rel=1e-3)
    # the square of the distance to the centre, in deviations, is 2 on average
    gap = found["log_density_gap"][0] - right["log_density_gap"][0]
    assert gap == pytest.approx(1.2**2 - 1, abs=0.04)
    mean, error = found["sliced_w2_excess"]
    assert abs(mean) < 4 * error  # (0.2 * 0.05)^2 of a variance of 0.5 is lost in chance


def test_what_is_not_chance_of_a_sliced_distance(mixture):
    """Two fifths moved to one cluster: the same distance for many as for few."""
    mean, error = parts(mixture, share=0.4)["sliced_w2_excess"]
    whole = built(Clusters, mixture, stride=1)
    whole.share = 0.4
    nothing = torch.zeros(60_000, 0)
    drawn = whole.sample(nothing, nothing, generator(5), 1).double().numpy()
    whole.share = 0.0
    truth = whole.sample(nothing, nothing, generator(6), 1).double().numpy()
    assert mean > 4 * error
    assert mean == pytest.approx(sliced_w2(drawn, truth) ** 2, abs=4 * error)


@pytest.mark.parametrize("truths", [2000, 800])
def test_truths_that_samples_cannot_be_parted_with_are_refused(mixture, truths):
    with pytest.raises(UserError, match="truths must"):
        built(Clusters, mixture, stride=1).evaluate(mixture, PARTED | {"truths": truths}, seed=0)


def test_truths_are_refused_beside_a_condition(store):
    with pytest.raises(UserError, match="conditional: false"):
        flow(store, conditional=True).evaluate(store, OPTIONS | {"truths": 12}, seed=0)


def test_one_scale_keeps_the_proportions_of_fields():
    module = Clusters(2, 0, 0, one_scale=True)
    statistics = {"mean": [1.0, 0.0], "std": [3.0, 1.0], "condition_low": [], "condition_high": []}
    module.fit_statistics(statistics)
    scaled = module.normalised(torch.tensor([[4.0, 1.0]]))
    torch.testing.assert_close(scaled, torch.tensor([[3.0, 1.0]]) / 5**0.5)


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


def test_sliced_distance_from_few_samples_to_many_truths():
    rng = np.random.default_rng(2)
    few, many = rng.normal(size=(20, 3)), rng.normal(size=(60, 3))
    assert sliced_w2(few, many) == pytest.approx(sliced_w2(few.repeat(3, axis=0), many))


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


def test_figure_of_points_of_more_values_shows_how_the_first_is_spread(tmp_path):
    splits = {name: {"trajectories": 12, "frames": 1} for name in SPLITS}
    store = stores.make(tmp_path / "toy.zarr", fields=("a", "b", "c"), space=(), splits=splits)
    module = built(RectifiedFlow, store, stride=1, width=8, layers=1, fine_steps=4)
    (panels, beside), _ = pictures(module, store, start=0, stride=1)
    assert panels == 3 and "density" in beside and "a (1)" in beside


def test_figures_of_a_method_that_is_no_flow(store):
    beside, ways = pictures(built(Shifted, store), store)
    assert "some, 3 evaluations" in beside[1]
    assert ways[0] == 1 and "some errs least" in ways[1]
