"""The task `map` itself: variables, losses, errors, evaluation."""

import numpy as np
import pytest
import stores
import torch
from contracts import map as contract_map
from torch import nn

from longrun.metrics import steady
from longrun.metrics.pointwise import UNBOUNDED
from longrun.runtime.cli import UserError
from longrun.tasks.map import AbstractMap, h1_weight, relative_error

SPLITS = {
    "train": {"trajectories": 6, "frames": 1},
    "valid": {"trajectories": 3, "frames": 1},
    "test": {"trajectories": 5, "frames": 1},
}
SPACE = (6, 8)


class Pointwise(AbstractMap):
    """A linear map of each point's channels."""

    def __init__(self, coordinates=False, **options):
        self.coordinates = coordinates
        super().__init__(**{"fields": 2, "dims": 2, "conditions": 1, "points": [16, 16]} | options)
        self.network = nn.Conv2d(self.inputs, self.sought, 1)

    def operator(self, x):
        return self.network(x)


def build(**options):
    torch.manual_seed(0)
    module = Pointwise(**options)
    if module.fields == 2:
        module.fit_statistics(contract_map.description(Pointwise)["statistics"])
    return module


@pytest.fixture
def store(tmp_path):
    return stores.make(tmp_path / "steady.zarr", ("a", "p"), SPACE, SPLITS)


def on(store, **options):
    """A module for a store of two fields and two parameters that vary."""
    torch.manual_seed(0)
    module = Pointwise(conditions=2, points=list(SPACE), **options)
    train = store.split("train").read(slice(None), slice(None))[:, 0]
    statistics = {
        "mean": train.mean((0, 2, 3)).tolist(),
        "std": train.std((0, 2, 3)).tolist(),
        "condition_low": [1.0, 1.0],
        "condition_high": [2.0, 2.0],
    }
    module.fit_statistics(statistics)
    return module.eval()


class TestVariables:
    def test_the_operator_sees_normalised_fields_parameters_and_coordinates(self):
        module = build(coordinates=True)
        given, parameters = torch.full((2, 1, 16, 16), 12.0), torch.tensor([[1.0, 2.0], [1.0, 0.5]])
        seen = module.seen(given, parameters)
        assert seen.shape == (2, module.inputs, 16, 16) == (2, 4, 16, 16)
        torch.testing.assert_close(seen[:, 0], torch.ones(2, 16, 16))  # (12 - 7.5) / 4.5
        assert seen[0, 1].unique().tolist() == [1.0] and seen[1, 1].unique().tolist() == [0.0]
        centres = (torch.arange(16) + 0.5) / 16
        torch.testing.assert_close(seen[0, 2, :, 3], centres)
        torch.testing.assert_close(seen[0, 3, 3], centres)

    def test_a_prediction_is_in_physical_units(self):
        module = build()
        with torch.no_grad():
            module.network.weight.zero_()
            module.network.bias.fill_(2.0)
        batch = contract_map.batch(module)
        prediction = module.predict(module.split(batch["window"])[0], batch["parameters"])
        torch.testing.assert_close(prediction, torch.full((3, 1, 16, 16), 0.01 + 2 * 0.005))

    def test_the_last_fields_are_sought(self):
        module = build(fields=3, sought=2)
        window = torch.arange(3.0).reshape(1, 1, 3, 1, 1)
        given, sought = module.split(window)
        assert given.flatten().tolist() == [0.0] and sought.flatten().tolist() == [1.0, 2.0]

    def test_statistics_of_points(self, store):
        class Data:
            stores = (store, store)

        module = on(store, normalise="point")
        whole = module.field_std.clone()
        module.prepare(Data(), [])
        train = store.split("train").read(slice(None), slice(None))[:, 0].astype(np.float64)
        np.testing.assert_allclose(module.field_mean.numpy(), train.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(module.field_std.numpy(), train.std(0), rtol=1e-5)
        assert (whole == whole[:, :1, :1]).all() and module.field_std.shape == whole.shape

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"sought": 2}, "sought"),
            ({"sought": 0}, "sought"),
            ({"truncation": 0}, "truncation"),
            ({"criterion": "l7"}, "criterion"),
            ({"normalise": "all"}, "normalise"),
        ],
    )
    def test_bad_options_are_refused(self, options, message):
        with pytest.raises((ValueError, TypeError), match=message):
            build(**options)


class TestCriterion:
    def test_relative_l2_is_the_ratio_of_norms(self):
        truth = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        error = relative_error(1.1 * truth, truth)
        torch.testing.assert_close(error, torch.full((3, 1), 0.1))
        zero = torch.zeros_like(truth)
        assert torch.equal(relative_error(zero, zero), torch.zeros(3, 1))

    def test_h1_weighs_a_wave_by_its_wavenumber(self):
        x = torch.arange(16) / 16 * 2 * torch.pi
        truth = torch.cos(x)[:, None].expand(16, 16)[None, None]
        error = 0.1 * torch.cos(3 * x)[None, None, None].expand(1, 1, 16, 16)
        weight = h1_weight((16, 16), None)
        found = relative_error(truth + error, truth, weight)
        expected = 0.1 * ((1 + 9) / (1 + 1)) ** 0.5
        torch.testing.assert_close(found, torch.tensor([[expected]]), rtol=1e-4, atol=0)
        metric = steady.relative_h1((truth + error).numpy(), truth.numpy(), 2)
        np.testing.assert_allclose(metric, [expected], rtol=1e-4)

    def test_truncation_leaves_rough_modes_their_l2_weight(self):
        weight = h1_weight((16, 8), 3)
        assert weight[0, 0] == 1 and weight[2, 2] == 9 and weight[-2, 1] == 6
        assert weight[3, 0] == 1 and weight[3, 2] == 5  # each component for itself
        assert h1_weight((16, 8), None)[3, 2] == 14
        assert torch.equal(h1_weight((16,), 20), h1_weight((16,), None))

    def test_the_metric_has_the_truncation_of_the_loss(self):
        truth, error = torch.randn(2, 3, 1, 16, 12, generator=torch.Generator().manual_seed(1))
        loss = relative_error(truth + error, truth, h1_weight((16, 12), 3)).mean(1)
        fields = (truth + error).double().numpy(), truth.double().numpy()
        np.testing.assert_allclose(steady.relative_h1(*fields, 2, 3), loss.numpy(), rtol=1e-5)
        assert not np.allclose(steady.relative_h1(*fields, 2), loss.numpy(), rtol=1e-2)

    @pytest.mark.parametrize("criterion", ["relative_l2", "relative_h1"])
    def test_a_loss_is_the_sum_over_samples(self, criterion):
        module = build(criterion=criterion)
        whole = contract_map.batch(module, 4)
        generator = torch.Generator()
        parts = [
            module.batch_loss({k: v[i : i + 1] for k, v in whole.items()}, generator)
            for i in range(4)
        ]
        torch.testing.assert_close(module.batch_loss(whole, generator), torch.stack(parts).sum())

    def test_mse_is_of_normalised_fields(self):
        module = build(criterion="mse")
        batch = contract_map.batch(module)
        given, truth = module.split(batch["window"])
        error = (module.predict(given, batch["parameters"]) - truth) / 0.005
        loss = module.batch_loss(batch, torch.Generator())
        torch.testing.assert_close(loss, error.square().mean())

    def test_validation_is_the_mean_relative_error(self):
        module = build()
        batch = contract_map.batch(module)
        loss = module.batch_loss(batch, torch.Generator())
        found = module.validate(batch, torch.Generator())["relative_l2"]
        torch.testing.assert_close(found, loss / 3)


class TestErrors:
    def test_of_the_worst_point_and_along_the_walls(self):
        truth = np.full((1, 1, 5, 4), 2.0)
        prediction = truth.copy()
        prediction[0, 0, 2, 1] += 1.0  # inside
        assert steady.max_error(prediction, truth, 2) == pytest.approx([0.5])
        assert steady.wall_error(prediction, truth, 2) == pytest.approx([0.0])
        prediction[0, 0, 0, :] += 1.0  # four of the fourteen points at walls
        assert steady.wall_error(prediction, truth, 2) == pytest.approx([np.sqrt(4 / 14) / 2])

    def test_are_means_over_fields_and_need_not_be_square(self):
        truth = np.random.default_rng(0).normal(size=(3, 2, 6, 7, 5))
        prediction = truth.copy()
        prediction[:, 0] *= 1.5
        for error in (steady.relative_h1, steady.max_error):
            np.testing.assert_allclose(error(prediction, truth, 3), 0.25, rtol=1e-12)


class TestEvaluation:
    def rows(self, evaluation, metric):
        scores = evaluation.scores
        return scores[scores["metric"] == metric]["value"].to_numpy()

    def test_scores_are_those_of_test_and_training_states(self, store):
        module = on(store)
        found = module.evaluate(store, {"trajectories": 5, "keep": 2, "batch_size": 2}, 0)
        expected = {}
        for name in ("test", "train"):
            split = store.split(name)
            window = torch.from_numpy(split.read(slice(5), slice(1)))
            parameters = torch.from_numpy(np.stack(list(split.parameters.values()), 1)[:5]).float()
            given, truth = module.split(window)
            with torch.no_grad():
                error = relative_error(module.predict(given, parameters), truth)[:, 0].numpy()
            expected[name] = error
        np.testing.assert_allclose(self.rows(found, "relative_l2"), expected["test"], rtol=1e-5)
        trained = self.rows(found, "train_relative_l2")
        np.testing.assert_allclose(trained, expected["train"], rtol=1e-5)
        times = expected["test"] / expected["train"].mean()
        np.testing.assert_allclose(self.rows(found, "generalisation_ratio"), times, rtol=1e-4)
        assert len(self.rows(found, "wall_time_per_sample")) == 1
        assert set(found.scores["metric"]) >= {"relative_h1", "max_error", "wall_error"}
        assert not found.scores["censored"].any()

    def test_predictions_hold_given_fields_and_both_solutions(self, store):
        module = on(store)
        found = module.evaluate(store, {"trajectories": 3, "keep": 2}, 0).predictions
        assert found["truth"].dims == ("trajectory", "lead_time", "field", "x", "y")
        assert found["truth"].shape == (2, 1, 2, *SPACE)
        given = found.sel(field="a")
        np.testing.assert_array_equal(given["truth"], given["prediction"])
        assert (found["truth"] != found["prediction"]).sel(field="p").all()

    def test_a_prediction_without_bounds_is_censored_not_nan(self, store):
        module = on(store)
        with torch.no_grad():
            module.network.bias.fill_(torch.inf)
        scores = module.evaluate(store, {"trajectories": 2}, 0).scores
        errors = scores[scores["metric"].isin(["relative_l2", "relative_h1", "max_error"])]
        assert (errors["value"] == UNBOUNDED).all() and errors["censored"].all()
        assert scores[scores["metric"] == "generalisation_ratio"]["censored"].all()

    def test_the_same_call_gives_the_same_numbers(self, store):
        module = on(store)
        first, second = (
            module.evaluate(store, {"trajectories": 5, "batch_size": size}, seed).scores
            for size, seed in ((5, 0), (5, 1))
        )
        timed = first["metric"].isin(["wall_time_per_sample", "peak_memory_mb"])
        assert first[~timed].equals(second[~timed])

    def test_what_cannot_be_scored_is_refused(self, store, tmp_path):
        module = on(store)
        with pytest.raises(UserError, match="6 are to be evaluated"):
            module.evaluate(store, {"trajectories": 6}, 0)
        moving = stores.make(tmp_path / "moving.zarr", ("a", "p"), SPACE)
        with pytest.raises(UserError, match="knows no time"):
            module.evaluate(moving, {"trajectories": 1}, 0)
