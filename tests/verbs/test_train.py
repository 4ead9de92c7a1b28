"""Training through the verb: what it writes, how it resumes, what it refuses."""

import argparse
import csv
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy
import warm
from methods import test_methods

from longrun import config
from longrun import train as train_verb
from longrun.runtime import checkpoint
from longrun.runtime.cli import UserError

DATASET = {
    "equation": {
        "name": "kuramoto_sivashinsky",
        "points": 32,
        "length": {"uniform": [15.0, 17.0]},
        "dt": 0.2,
        "viscosity": 1.0,
        "substeps": 1,
        "burn_in": 20,
        "integrator": "etdrk4",
    },
    "seed": 1,
    "splits": {
        "train": {"trajectories": 4, "frames": 30},
        "valid": {"trajectories": 2, "frames": 30},
        "test": {"trajectories": 2, "frames": 30},
    },
    "store": {"frames_per_chunk": 10, "trajectories_per_shard": 4, "dtype": "float32"},
}
REFINER = {"name": "pde_refiner", "width": 4, "multipliers": [1, 2], "refinement_steps": 1}
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast", "learning_rate": 1e-3, "ema_decay": 0.9, "warmup_steps": 3},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 5, "stride": 2, "trajectories": 2, "start": 2},
    "methods": {
        "refiner": REFINER | {"training": {"name": "pushforward", "after": 6}},
        "explodes": {"name": "unet", "width": 4, "multipliers": [1, 2], "learning_rate": 1e30},
        "still": {"name": "persistence"},
        "mixed": {
            "name": "fno",
            "width": 4,
            "modes": 4,
            "layers": 1,
            "schedule": "constant",
            "trainer": {"precision": "bf16-mixed", "max_steps": None, "max_epochs": 1},
        },
    },
    "trainer": {
        "max_steps": 40,
        "batch_size": 4,
        "accumulate": 2,
        "clip": 1.0,
        "accelerator": "cpu",
        "validate_every": 8,
        "checkpoint_every": 5,
        "log_every": 1,
        "valid_windows": 8,
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, root):
    return toy.with_store(tmp_path_factory.mktemp("project"), DATASET, EXPERIMENT)


def command(project, name, method="refiner", **options):
    given = {
        "experiment": "test",
        "method": method,
        "seed": 0,
        "preset": "smoke",
        "configs": project / "configs",
        "data": project / "toy.zarr",
        "output": project / name / "model.ckpt",
        "run-dir": project / name / "run",
    } | options
    words = [str(word) for key, value in given.items() for word in (f"--{key}", value)]
    return [str(warm.python()), "-m", "longrun.train", *words]


def start(arguments, project):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    return subprocess.Popen(
        arguments, cwd=project, env=environment, stderr=subprocess.PIPE, text=True
    )


def train(project, name, **options):
    process = start(command(project, name, **options), project)
    _, log = process.communicate()
    return process.returncode, log


@pytest.fixture
def verb(project, monkeypatch):
    """Call the verb in this process, which has done the imports."""

    def call(name, **options):
        monkeypatch.chdir(project)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        monkeypatch.setattr(sys, "argv", command(project, name, **options)[2:])
        train_verb.main()

    return call


@pytest.fixture(scope="module")
def finished(project):
    code, log = train(project, "whole")
    assert code == 0, log
    return project / "whole"


def interrupt(project, name, how):
    """Send a signal as soon as there is a state to go on from."""
    process = start(command(project, name), project)
    while process.poll() is None and not list((project / name).glob("run/*/last.ckpt")):
        time.sleep(0.002)
    process.send_signal(how)
    process.communicate()
    return process.returncode


def test_writes_a_checkpoint_and_curves(finished):
    content = checkpoint.read(finished / "model.ckpt")
    assert content["method"] == "pde_refiner" and content["seed"] == 0
    assert content["train_seconds"] > 0 and "versions" in content["provenance"]
    with (finished / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [int(row["step"]) for row in rows if row["metric"] == "train/loss"]
    assert steps == list(range(40))
    assert {row["metric"] for row in rows} == {
        "train/loss",
        "learning_rate",
        "valid/increment_error",
    }
    rates = [float(row["value"]) for row in rows if row["metric"] == "learning_rate"]
    assert rates[0] == pytest.approx(1e-3 / 3) and max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 1e-4


def test_the_weights_are_the_average_of_the_last_ones(finished, project):
    state = torch.load(next((finished / "run").glob("*/last.ckpt")), weights_only=True)
    averaged = checkpoint.read(finished / "model.ckpt")["state_dict"]
    last = state["current_model_state"]
    assert any(not torch.equal(averaged[key], last[key]) for key in averaged)
    for key in averaged:
        assert torch.equal(averaged[key], state["state_dict"][key])


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_an_interrupted_run_resumes_to_the_same_bits(project, finished, how):
    name = how.name.lower()
    code = interrupt(project, name, how)
    assert code == (-signal.SIGKILL if how == signal.SIGKILL else 143)
    folder = project / name
    assert not (folder / "model.ckpt").exists() and not (folder / "curves.csv").exists()
    state = torch.load(next(folder.glob("run/*/last.ckpt")), weights_only=True)
    assert 0 < state["global_step"] < 40
    code, log = train(project, name)
    assert code == 0, log
    resumed, whole = (checkpoint.read(p / "model.ckpt") for p in (folder, finished))
    for key, tensor in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][key], tensor), key
    ends = [
        torch.load(next(p.glob("run/*/last.ckpt")), weights_only=True) for p in (folder, finished)
    ]
    for key in ("optimizer_states", "lr_schedulers", "current_model_state"):
        assert equal(ends[0][key], ends[1][key]), key
    assert (folder / "curves.csv").read_text() == (finished / "curves.csv").read_text()


@pytest.mark.slow
def test_a_run_killed_after_its_last_update_leaves_the_same_weights(project, finished):
    folder = project / "late"
    shutil.copytree(finished / "run", folder / "run")
    code, log = train(project, "late")
    assert code == 0 and "step 40" not in log, log
    late, whole = (checkpoint.read(p / "model.ckpt")["state_dict"] for p in (folder, finished))
    assert all(torch.equal(late[key], whole[key]) for key in whole)
    assert (folder / "curves.csv").read_bytes() == (finished / "curves.csv").read_bytes()


def equal(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def test_mixed_precision_and_a_budget_in_epochs(project, verb):
    verb("mixed", method="mixed")
    state = checkpoint.read(project / "mixed/model.ckpt")["state_dict"]
    assert all(t.dtype in (torch.float32, torch.complex64, torch.int64) for t in state.values())
    with (project / "mixed/curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["value"]) for row in rows if row["metric"] == "train/loss"]
    # 4 trajectories of 28 windows of two frames, 2 apart, in updates of 2 batches of 4
    assert len(losses) == 4 * 28 // 8
    assert all(map(math.isfinite, losses))
    rates = {row["value"] for row in rows if row["metric"] == "learning_rate"}
    assert max(map(float, rates)) == pytest.approx(1e-3) and len(rates) == 3


def test_a_loss_that_is_not_finite_says_where(project, verb):
    with pytest.raises(UserError, match=r"the loss is .* at epoch 0, step \d+, learning rate"):
        verb("explodes", method="explodes")
    assert not (project / "explodes/model.ckpt").exists()


def test_a_method_without_parameters_is_written_untrained(project, verb):
    verb("still", method="still")
    assert checkpoint.read(project / "still/model.ckpt")["method"] == "persistence"
    assert (project / "still/curves.csv").read_text() == "step,metric,value\n"


@pytest.mark.parametrize(
    "options, says",
    [
        ({"data": "nowhere.zarr"}, "nowhere.zarr"),
        ({"preset": "smok"}, "did you mean smoke?"),
    ],
)
def test_refusals_come_before_any_work(project, verb, options, says):
    with pytest.raises(UserError, match=re.escape(says)) as refusal:
        verb("refused", **options)
    assert "\n" not in str(refusal.value)
    assert not (project / "refused").exists()


def test_a_refusal_is_one_line_and_not_success(project):
    words = [sys.executable, *command(project, "refused", method="refine")[1:]]
    process = start(words, project)
    _, log = process.communicate()
    assert process.returncode == 2
    assert log.startswith("longrun.train: error: ") and log.count("\n") == 1
    assert "did you mean refiner?" in log


def test_a_checkpoint_of_another_method_or_shape_is_refused(finished, tmp_path):
    path = finished / "model.ckpt"
    with pytest.raises(UserError, match="holds a pde_refiner, not a unet"):
        checkpoint.load(path, method="unet")
    content = checkpoint.read(path)
    content["arguments"]["width"] = 8
    torch.save(content, tmp_path / "wide.ckpt")
    with pytest.raises(UserError, match="do not fit pde_refiner"):
        checkpoint.load(tmp_path / "wide.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match="is not a checkpoint"):
        checkpoint.load(tmp_path / "text.ckpt")


def test_epochs_are_counted_in_windows():
    options = {"max_epochs": 3, "batch_size": 4, "accumulate": 2}
    assert train_verb.updates(options, windows=20) == 8  # 60 windows, 8 per update
    assert train_verb.updates({"max_steps": 5, "max_epochs": None}, windows=20) == 5


def test_the_final_scores_and_a_rollout_are_tracked(project, finished, monkeypatch):
    """On validation data: what is tracked must not tempt anyone to choose by test error."""
    module = checkpoint.load(finished / "model.ckpt")
    experiment = config.compose(project / "configs", "test", "smoke")
    summary, images = {}, {}
    monkeypatch.setattr(
        train_verb.tracking, "log_summary", lambda made, values: summary.update(values)
    )
    monkeypatch.setattr(
        train_verb.tracking,
        "log_image",
        lambda made, key, figure, step: images.update({key: (figure, step)}),
    )
    store = train_verb.open_store(project / "toy.zarr")
    train_verb.log_preview([], module, experiment, store, "refiner", "smoke", 40)
    assert 0 < summary["valid/one_step_nrmse"] < 10
    assert "valid/correlation_time_0.8" in summary
    figure, step = images["valid/space_time"]
    assert step == 40 and len(figure.axes) >= 3


@pytest.mark.parametrize(
    ("start", "file"),
    [
        ({"method": "x"}, "smoke/own/x/seed1"),
        ({"method": "x", "seed": 0}, "smoke/own/x/seed0"),
        ({"experiment": "other", "method": "x"}, "smoke/other/x/seed1"),
    ],
)
def test_where_a_run_starts_from(start, file):
    keys = ("data", "output", "run_dir", "starts_from")
    arguments = argparse.Namespace(preset="smoke", experiment="own", method="y", seed=1)
    vars(arguments).update(dict.fromkeys(keys))
    train_verb.fill_paths(arguments, {"train": ["waves"], "starts_from": start}, {})
    assert arguments.starts_from == [Path("results") / file / "model.ckpt"]


def test_the_average_of_a_short_training_forgets_its_first_weights():
    average = [torch.ones(2), torch.ones(1, dtype=torch.complex64)]
    follow = train_verb.moving_average(0.995)
    for count in range(1, 101):  # 0.995 alone would leave 61 % of them
        follow(average, [torch.zeros_like(part) for part in average], torch.tensor(count))
    assert all(part.abs().max() < 1e-9 for part in average)
    follow(average, [torch.ones_like(part) for part in average], torch.tensor(10**6))
    assert average[0].tolist() == pytest.approx([0.005] * 2)


@pytest.mark.parametrize("name", ["unet", "fno"])
def test_the_average_of_the_weights_has_their_precision(name, tmp_path):
    """A copy made before the weights become double would have other types."""
    module, _ = test_methods.build(name, ema_decay=0.5)
    first = [parameter.detach().clone() for parameter in module.parameters()]
    data = test_methods.FewBatches(test_methods.contract(name).batch, stops_at=None)
    options = test_methods.TRAINER | {"precision": "64-true", "clip": 1.0}
    train_verb.fit(module.train(), data, options, tmp_path, [], progress=False)
    for before, after in zip(first, module.parameters(), strict=True):
        assert after.dtype == (torch.complex128 if before.is_complex() else torch.float64)
        assert after.isfinite().all()
    assert any(not torch.equal(b.to(a), a) for b, a in zip(first, module.parameters(), strict=True))
