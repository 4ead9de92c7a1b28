"""Data and losses that degenerate: what happens is defined and reported."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import stores
import torch

from faults.project import DATASET, EXPERIMENT, RUN, Project, few, saved
from longrun import config, judge
from longrun.metrics.table import read_scores

pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture
def make(server, root, tmp_path):
    """A project of some configuration, in which nothing has run."""

    def made(dataset=DATASET, **experiment):
        folder = tmp_path / "degenerate"
        folder.mkdir()
        content = copy.deepcopy(EXPERIMENT)
        for section, values in experiment.items():
            content[section] |= values
        return Project(folder, server).configure(dataset, content)

    return made


def verdict(project) -> dict:
    """What a preset that is judged would say of the scores; smoke says "not judged"."""
    written = json.loads((project.folder / RUN / "claims.json").read_text())["claims"][0]
    spec = config.compose(project.folder / "configs", "test", "smoke")
    (claim,), _ = judge.judge(spec, *judge.read_runs(project.folder / RUN, spec))
    assert written == claim | {"verdict": judge.NOT_JUDGED}
    return claim


def scores(project, method="net"):
    return read_scores(project.output("evaluate", method) / "scores.parquet")


@pytest.mark.fault("degenerate_loss")
@pytest.mark.parametrize(
    ("log_every", "says"), [(1, "the loss is"), (1_000_000, "are not finite: lower learning_rate")]
)
def test_a_loss_that_is_not_finite(whole, make, row, log_every, says):
    """The second looks at its loss only once, before it has exploded."""
    project = make(
        task={"learning_rate": 1e30, "warmup_steps": 0}, trainer={"log_every": log_every}
    )
    store = whole.folder / "toy.zarr"
    assert says in project.run("train", more=["--data", store]).refusal()
    assert project.content("train") == {}
    row.add("nothing: one line says what to change, no checkpoint is written")


@pytest.mark.fault("degenerate_rollout")
@pytest.mark.parametrize("factor", few([1e6, 1e30, math.inf, math.nan]))
def test_rollouts_that_explode(project, row, factor):
    file = project.without("evaluate").output("train") / "model.ckpt"
    content = torch.load(file, weights_only=True)
    for name, weight in content["state_dict"].items():
        if weight.is_floating_point() and not name.endswith(("_std", "_mean", "_scale", "_low")):
            weight.mul_(factor)
    file.write_bytes(saved(content))
    project.made("evaluate").made("judge")
    found = scores(project)
    assert np.isfinite(found["value"]).all()
    last = found[found["step"] == EXPERIMENT["evaluate"]["steps"]]
    assert (last.loc[last["metric"] == "bounded", "value"] == 0).all()
    assert last.loc[last["metric"] == "nrmse", "censored"].all()
    assert (last.loc[last["metric"] == "nrmse", "value"] == 100).all()
    assert verdict(project)["verdict"] != "holds"
    row.add("nothing: errors stand at their ceiling and are marked as lower bounds")


def constant(what, split, count, frames):
    """Frames (trajectory, time, channel, x) that never vary, in one sense or another."""
    shape = (count, frames, 2, 16)
    wave = np.sin(2 * np.pi * np.arange(16) / 16)
    varying = stores.values(split, 2, (16,), SPLITS)[0]
    return {
        "zero": np.zeros(shape),
        "one number": np.full(shape, 0.1),
        "the same in every frame": np.broadcast_to(wave, shape),
        "one of two fields": np.where(np.arange(2)[:, None] == 0, varying, -3.0),
    }[what].astype("f4")


SPLITS = {
    "train": {"trajectories": 4, "frames": 30},
    "valid": {"trajectories": 2, "frames": 20},
    "test": {"trajectories": 4, "frames": 40},
}


@pytest.mark.fault("degenerate_constant")
@pytest.mark.parametrize(
    "what", few(["zero", "one number", "the same in every frame", "one of two fields"])
)
def test_fields_that_never_vary(make, row, what):
    project = make(DATASET | {"splits": SPLITS})
    writer = stores.begin(project.folder / "toy.zarr", ("u", "v"), (16,), SPLITS)
    for split, numbers in list(writer.missing()):
        size = SPLITS[split]
        states = constant(what, split, size["trajectories"], size["frames"])
        block = slice(numbers.start, numbers.stop)
        one = {name: np.ones(len(numbers)) for name in ("length", "dt")}
        writer.write(split, numbers, one, states[block])
    unknown = dict.fromkeys(("reference_error", "predictability", "predictability_censored"))
    writer.finish(np.empty(0), np.empty(0), unknown)
    for method in ("net", "still"):
        project.made("train", method).made("evaluate", method)
        found = scores(project, method)
        assert np.isfinite(found["value"]).all()
        if method == "still" and what != "one of two fields":
            assert (found.loc[found["metric"] == "rmse", "value"] == 0).all()
    curves = pd.read_csv(project.output("train") / "curves.csv")
    assert np.isfinite(curves["value"]).all()
    project.made("judge")
    if what != "one of two fields":  # where nothing varies, no method is better than another
        assert verdict(project)["verdict"] in ("open", "contradicted")
    row.add("nothing: weights, curves and scores are finite, and no claim holds by accident")


@pytest.mark.fault("degenerate_single")
def test_one_trajectory(make, row):
    one = {name: {"trajectories": 1, "frames": 30} for name in ("train", "valid", "test")}
    project = make(DATASET | {"splits": one}, evaluate={"trajectories": 1}).everything()
    assert verdict(project)["verdict"] == "not judged"
    assert "one run on one trajectory" in verdict(project)["note"]
    row.add("nothing: the claim is not judged")


@pytest.mark.fault("degenerate_single")
@pytest.mark.parametrize("verb", ["generate", "train"])
def test_one_frame(make, row, verb):
    frames = {"train": 1, "valid": 1, "test": 40}
    splits = {name: {"trajectories": 4, "frames": n} for name, n in frames.items()}
    project = make(DATASET | {"splits": splits}).made("generate")
    if verb == "generate":
        row.add("nothing: a store of one frame is a store")
        return
    assert "toy.zarr" in project.run("train").refusal()
    row.add("nothing: one line says how many frames a window needs")
