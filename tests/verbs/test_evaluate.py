"""The verb evaluate: what it writes, that it repeats itself, and what it refuses at once."""

import json
import logging
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
import toy

from longrun import config
from longrun import evaluate as verb
from longrun.data.describe import describe
from longrun.data.store import open_store, read_predictions
from longrun.methods.forecast.persistence import Persistence
from longrun.metrics.table import ABSENT, ScoreTable
from longrun.runtime import checkpoint, cli, devices, registry
from longrun.runtime.cli import UserError

EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast"},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 5, "stride": 2, "trajectories": 3, "members": 2, "start": 2, "keep": 1},
    "methods": {
        "refiner": {
            "name": "pde_refiner",
            "width": 4,
            "multipliers": [1, 2],
            "refinement_steps": 1,
        },
        "still": {"name": "persistence", "trainer": {"trajectories": 2}},
    },
    "trainer": {"max_steps": 1, "batch_size": 4, "accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, root):
    """Configuration, a store, and a checkpoint of either method as `train` writes it, untrained."""
    folder = toy.with_store(tmp_path_factory.mktemp("project"), toy.DATASET, EXPERIMENT)
    experiment = config.compose(folder / "configs", "test", "smoke")
    description = describe([open_store(folder / "toy.zarr")], 2) | {"stride": 2}
    for method in EXPERIMENT["methods"]:
        spec = config.method_spec(experiment, method)
        arguments = checkpoint.sizes(spec["name"], description) | spec["options"]
        module = checkpoint.build(spec["name"], arguments, seed=0)
        module.fit_statistics(description["statistics"])
        checkpoint.save(
            folder / f"{method}.ckpt",
            module,
            method=spec["name"],
            arguments=arguments,
            description=description,
            train_seconds=12.5,
            provenance={"commit": "abc"},
        )
    return folder


def command(project, output, method="refiner", **options):
    given = {
        "experiment": "test",
        "method": method,
        "seed": 0,
        "preset": "smoke",
        "configs": project / "configs",
        "data": project / "toy.zarr",
        "checkpoint": project / f"{method}.ckpt",
        "output": project / output,
    } | options
    return ["evaluate", *(str(word) for k, v in given.items() for word in (f"--{k}", v))]


def run(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", arguments)
    verb.main()


def read(folder):
    return pd.read_parquet(folder / "scores.parquet")


def test_the_outputs_of_a_run(project, monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        run(monkeypatch, command(project, "whole"))
    names = {path.name for path in (project / "whole").iterdir()}
    assert names == {"scores.parquet", "predictions.zarr", "evaluation.json"}
    scores = read(project / "whole")
    assert list(scores.columns) == list(ABSENT)
    assert np.isfinite(scores["value"]).all() and set(scores["dataset"]) == {"toy"}
    size = scores.groupby("metric", observed=True)["value"].size()
    assert size["nrmse"] == size["correlation"] == size["drift_mean"] == 3 * 2 * 5
    assert size["crps"] == 3 * 5 and size["predicted_horizon"] == 3
    assert size["correlation_time_0.8"] == 3 * 2
    assert size["one_step_nrmse"] == 3 * 2 and size["level_error"] == size["noise_level"] == 2
    for metric in ("wall_time_per_second", "parameters", "peak_memory_mb", "predictability"):
        assert size[metric] == 1
    assert scores[scores["metric"] == "train_seconds"]["value"].tolist() == [12.5]
    predictions = read_predictions(project / "whole" / "predictions.zarr")
    assert predictions["prediction"].shape == (1, 5, 1, 32)
    truth = open_store(project / "toy.zarr").split("test").read(slice(0, 1), slice(4, 13, 2))
    assert np.array_equal(predictions["truth"], truth)
    notes = json.loads((project / "whole" / "evaluation.json").read_text())
    assert notes["provenance"]["versions"]["numpy"] == np.__version__
    assert notes["trained"] == {"commit": "abc"} and notes["wall_seconds"] > 0
    assert "evaluate test/refiner/seed0 at smoke, on cpu" in caplog.text


def test_the_same_run_scores_the_same_and_another_seed_does_not(project, monkeypatch):
    for output, seed in (("first", 0), ("again", 0), ("other", 1)):
        run(monkeypatch, command(project, output, seed=seed))
    timed = ["wall_time_per_second", "peak_memory_mb"]
    first, again, other = (read(project / name) for name in ("first", "again", "other"))
    first, again, other = (t[~t["metric"].isin(timed)] for t in (first, again, other))
    pd.testing.assert_frame_equal(first, again)
    assert (first["value"] != other["value"]).any()


def test_persistence_scores_what_arithmetic_says(project, monkeypatch):
    run(monkeypatch, command(project, "still", "still"))
    scores = read(project / "still")
    truth = open_store(project / "toy.zarr").split("test").read(slice(0, 3), slice(2, 13, 2))
    expected = np.sqrt(np.square(truth[:, 1:] - truth[:, :1]).mean((2, 3)))
    rows = scores[scores["metric"] == "rmse"].sort_values(["trajectory", "step"])
    assert np.allclose(rows["value"], expected.ravel(), rtol=1e-5)
    assert scores[scores["metric"] == "drift_mean"]["value"].max() < 1e-6
    assert "crps" not in set(scores["metric"])  # two members are requested; one suffices


def test_training_states_are_those_that_the_method_was_trained_on(project, monkeypatch):
    found = []

    def note(module, stores, *rest):
        found.extend(stores[0].split(name).trajectories for name in ("train", "test"))
        raise UserError("seen enough")

    monkeypatch.setattr(verb, "evaluate", note)
    with pytest.raises(UserError, match="seen enough"):
        run(monkeypatch, command(project, "few", "still"))
    store = open_store(project / "toy.zarr")
    assert store.split("train").trajectories > 2
    assert found == [2, store.split("test").trajectories]


def test_all_test_stores_are_scored(project, monkeypatch):
    shutil.copytree(project / "toy.zarr", project / "twin.zarr")
    stores = [open_store(project / name) for name in ("toy.zarr", "twin.zarr")]
    module = checkpoint.load(project / "still.ckpt")
    scores, _ = verb.evaluate(module, stores, EXPERIMENT["evaluate"], 0)
    assert scores.groupby("dataset")["value"].size().to_dict().keys() == {"toy", "twin"}


def altered(project, name, change):
    """Save a checkpoint that differs."""
    content = checkpoint.read(project / "refiner.ckpt")
    change(content)
    module = checkpoint.load(project / "refiner.ckpt")
    del content["state_dict"]
    checkpoint.save(project / name, module, **content)
    return project / name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "refinr"}, "no method 'refinr'.*did you mean refiner"),
        ({"checkpoint": "still.ckpt"}, "holds a persistence, not a pde_refiner"),
        ({"checkpoint": "nothing.ckpt"}, "no such checkpoint"),
        ({"data": "nothing.zarr"}, "no such store"),
        ({"checkpoint": ("width", 6)}, "was trained with width 6, the experiment says 4"),
        ({"checkpoint": ("stride", 4)}, "was trained with stride 4, the experiment says 2"),
        ({"checkpoint": ("field_names", ["v"])}, r"has fields \['u'\], the method .* on \['v'\]"),
        ({"checkpoint": ("dims", 2)}, "has dimensions 1, the method was trained on 2"),
        ({"checkpoint": ("parameter_names", ["dt"])}, "has parameters .* trained on .*'dt'"),
        ({"checkpoint": ("equation_name", "heat")}, "kuramoto_sivashinsky, not of heat"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(project, monkeypatch, options, message):
    def change(content):
        name, value = options["checkpoint"]
        part = content["description" if name in content["description"] else "arguments"]
        part[name] = value

    if isinstance(options.get("checkpoint"), tuple):
        options = {"checkpoint": altered(project, "altered.ckpt", change)}
    options = {k: v if k == "method" else project / v for k, v in options.items()}
    options.setdefault("checkpoint", project / "refiner.ckpt")
    arguments = command(project, "refused", **options)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, arguments)
    assert not (project / "refused").exists()


def test_an_incomplete_store_is_refused_on_stderr(project, monkeypatch, capsys):
    shutil.copytree(project / "toy.zarr", project / "half.zarr")
    meta = project / "half.zarr" / "zarr.json"
    meta.write_text(re.sub(r'"complete": "\w+"', '"complete": false', meta.read_text()))
    monkeypatch.setattr(sys, "argv", command(project, "refused", data=project / "half.zarr"))
    with pytest.raises(SystemExit) as stopped:
        cli.run(verb.main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "incomplete" in line and "half.zarr" in line


def test_a_gpu_that_is_not_there_is_missed(monkeypatch):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    assert devices.device_of("auto").type == devices.device_of("cpu").type == "cpu"
    with pytest.raises(UserError, match="this machine has no GPU"):
        devices.device_of("gpu")
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    assert devices.device_of("auto").type == devices.device_of("gpu").type == "cuda"
    assert devices.device_of("cpu").type == "cpu"


@pytest.fixture
def with_metrics(monkeypatch):
    """Persistence with a metric that no other method has; returns what `own_scores` must give."""
    monkeypatch.setattr(registry, "metrics", lambda name: {"corner": ("corner", "One point.")})
    given = ["corner"]

    def own_scores(self, store, options):
        table = ScoreTable(store.path.stem)
        for name in given:
            table.add(name, [1.5, 2.5], trajectory=[0, 1])
        return table

    monkeypatch.setattr(Persistence, "own_scores", own_scores)
    return given


def test_a_method_brings_metrics_along(project, monkeypatch, with_metrics):
    run(monkeypatch, command(project, "own", "still"))
    scores = read(project / "own").set_index("metric")
    assert scores.loc["corner", "value"].tolist() == [1.5, 2.5]
    assert set(scores.loc["corner", "dataset"]) == {"toy"} and "nrmse" in scores.index
    spec = config.compose(project / "configs", "test", "smoke")
    assert spec["metrics"]["corner"]["heading"] == "corner"


def test_a_method_gives_the_metrics_that_it_names(project, monkeypatch, with_metrics):
    with_metrics.append("edge")
    with pytest.raises(RuntimeError, match="gives corner, edge, METRICS names corner"):
        run(monkeypatch, command(project, "more", "still"))
    assert not (project / "more" / "scores.parquet").exists()
