"""Runs that start from others, and runs that diverge: through the verbs, in this process."""

import json
import logging
import sys

import pandas as pd
import pytest
import torch
import toy

from longrun import config
from longrun import evaluate as evaluate_verb
from longrun import train as train_verb
from longrun.config import ConfigError
from longrun.runtime import checkpoint
from longrun.runtime.cli import UserError

FNO = {"name": "fno", "width": 4, "modes": 4, "layers": 1}
UNET = {"name": "unet", "width": 4, "multipliers": [1, 2]}
ORIGIN = {"starts_from": {"method": "origin"}}
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast", "learning_rate": 1e-2, "ema_decay": 0.9},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 5, "stride": 2, "trajectories": 2, "start": 2},
    "methods": {
        "origin": FNO,
        "as_it_is": FNO | ORIGIN | {"input_noise": 0.1, "trainer": {"max_steps": 0}},
        "tuned": FNO | ORIGIN | {"learning_rate": 1e-9, "final_learning_rate": 1e-9},
        "wider": FNO | ORIGIN | {"layers": 2},
        "other": UNET | ORIGIN,
        "twofold": FNO | {"starts_from": [{"method": "origin"}, {"method": "as_it_is"}]},
        "explodes": UNET | {"learning_rate": 1e30, "trainer": {"diverged": "keep"}},
        "careful": FNO | {"trainer": {"diverged": "keep"}},
    },
    "trainer": {
        "max_steps": 8,
        "batch_size": 4,
        "accelerator": "cpu",
        "validate_every": 8,
        "checkpoint_every": 5,
        "log_every": 5,
        "valid_windows": 8,
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return toy.with_store(tmp_path_factory.mktemp("project"), toy.DATASET, EXPERIMENT)


@pytest.fixture
def train(project, monkeypatch):
    """Train a method; return its checkpoint."""

    def call(method, *starts_from):
        output = project / method / "model.ckpt"
        if output.exists():
            return checkpoint.read(output)
        words = ["--experiment", "test", "--method", method, "--seed", "0", "--preset", "smoke"]
        words += ["--data", project / "toy.zarr", "--output", output, "--run-dir", project / "run"]
        words += ["--starts-from", *(project / name / "model.ckpt" for name in starts_from)]
        monkeypatch.chdir(project)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        monkeypatch.setattr(sys, "argv", ["train", *map(str, words[: None if starts_from else -1])])
        train_verb.main()
        return checkpoint.read(output)

    return call


def weights(content):
    return content["state_dict"]


def test_no_update_leaves_weights_and_statistics_as_they_are(train):
    origin, taken = train("origin"), train("as_it_is", "origin")
    assert taken["updates"] == 0 and taken["arguments"]["input_noise"] == 0.1
    assert weights(taken).keys() == weights(origin).keys()
    assert all(torch.equal(weights(taken)[key], weights(origin)[key]) for key in weights(origin))


def test_training_goes_on_from_there(train):
    origin, tuned = train("origin"), train("tuned", "origin")
    assert tuned["updates"] == 8
    for key, weight in weights(origin).items():
        torch.testing.assert_close(weights(tuned)[key], weight, rtol=0, atol=1e-7)
    assert any(
        not torch.equal(weights(tuned)[key], weights(origin)[key]) for key in weights(origin)
    )


def test_what_is_new_is_named(train, caplog):
    train("origin")
    with caplog.at_level(logging.WARNING):
        train("wider", "origin")
    (line,) = [r.getMessage() for r in caplog.records if "weights are not from" in r.getMessage()]
    assert "starts_from: network.operator.fno_blocks" in line and "lifting" not in line


def test_nothing_in_common_is_refused_in_one_line(train):
    train("origin")
    with pytest.raises(UserError, match="method unet: no weights of its starts_from have") as found:
        train("other", "origin")
    assert "\n" not in str(found.value)


def test_several_are_for_methods_that_ask_for_them(train, monkeypatch):
    train("origin")
    train("as_it_is", "origin")
    with pytest.raises(UserError, match="method fno: starts_from must be one run, 2 are given"):
        train("twofold", "origin", "as_it_is")
    given = []
    kind = "longrun.methods.forecast.fno.FNO.prepare"
    monkeypatch.setattr(kind, lambda self, data, sources: given.extend(sources))
    train("twofold", "origin", "as_it_is")
    assert [source.input_noise for source in given] == [0.0, 0.1]


def test_where_several_are_found():
    starts = [{"method": "a"}, {"experiment": "other", "method": "b", "seed": 3}]
    found = config.origins({"starts_from": starts}, "cpu", "own", 1)
    assert list(map(str, found)) == ["cpu/own/a/seed1", "cpu/other/b/seed3"]
    assert config.origins({"starts_from": None}, "cpu", "own", 1) == []


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            {"trainer": {"max_steps": 0}},
            "trainer.max_steps: must be at least 1 without starts_from",
        ),
        ({"trainer": {"max_steps": -1}}, "trainer.max_steps: must be at least 0, is -1"),
        ({"starts_from": {"metod": "tuned"}}, "starts_from.method: is missing"),
        ({"starts_from": {"method": "x", "sed": 1}}, "starts_from.sed: unknown key; allowed: "),
        ({"starts_from": {"method": 3}}, "starts_from.method: must be string"),
        ({"starts_from": []}, "starts_from: must not be empty"),
        ({"starts_from": [{"metod": "tuned"}]}, "starts_from.0.method: is missing"),
        (
            {"starts_from": [{"method": "explodes"}, {"method": "tund"}]},
            "starts_from.1.method: unknown method 'tund'; allowed: ",
        ),
        (
            {"starts_from": [{"method": "other"}, {"method": "tuned"}]},
            "starts_from.0.method: a method can't start from itself",
        ),
        ({"trainer": {"diverged": "keeps"}}, "trainer.diverged: 'keeps' is not allowed; allowed: "),
    ],
)
def test_refusals_when_composing(project, entry, says):
    with pytest.raises(ConfigError) as found:
        config.compose(project / "configs", "test", "smoke", {"methods": {"origin": entry}})
    assert says in str(found.value) and "\n" not in str(found.value)


# Divergence --------------------------------------------------------------------------------------


def test_the_last_weights_with_a_finite_loss_are_kept_and_marked(train, project):
    kept = train("explodes")
    assert kept["diverged"] and kept["updates"] == 1
    # the first loss is finite; the first update sends the weights beyond all bounds
    untrained = checkpoint.build(kept["method"], kept["arguments"], seed=0)
    for name, weight in untrained.named_parameters():
        assert torch.equal(weights(kept)[name], weight), name


def test_they_are_scored(train, project, monkeypatch):
    train("explodes")
    train("origin")
    found = {}
    for method in ("explodes", "origin"):
        words = ["--experiment", "test", "--method", method, "--seed", "0", "--preset", "smoke"]
        words += ["--data", project / "toy.zarr", "--checkpoint", project / method / "model.ckpt"]
        monkeypatch.chdir(project)
        monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words)])
        evaluate_verb.main()
        scores = pd.read_parquet(project / method / "scores.parquet")
        assert (scores["metric"] == "nrmse").any()
        notes = json.loads((project / method / "evaluation.json").read_text())
        found[method] = (
            notes["diverged"],
            scores.loc[scores["metric"] == "diverged", "value"].tolist(),
        )
    assert found == {"explodes": (True, [1.0]), "origin": (False, [])}


def test_a_loss_that_is_never_finite_keeps_nothing(train, project, monkeypatch):
    (project / "explodes/model.ckpt").unlink(missing_ok=True)
    kind = "longrun.methods.forecast.unet.UNet.batch_loss"
    monkeypatch.setattr(
        kind, lambda self, batch, generator: sum(p.sum() for p in self.parameters()) * float("nan")
    )
    with pytest.raises(UserError, match="the loss is nan at epoch 0, step 0"):
        train("explodes")
    assert not (project / "explodes/model.ckpt").exists()


def test_a_training_that_does_not_diverge_learns_the_same_bits(train):
    plain, careful = train("origin"), train("careful")
    assert not careful["diverged"]
    assert all(torch.equal(weights(careful)[key], weights(plain)[key]) for key in weights(plain))


def test_the_choice_is_part_of_what_a_run_depends_on(project):
    spec = config.compose(project / "configs", "test", "smoke")
    assert "diverged" in config.train_spec(spec, "careful")
    assert "diverged" not in config.train_spec(spec, "origin")
