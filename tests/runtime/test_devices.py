"""Several devices, here two processes on the CPU: they compute what one does, and end together."""

import csv
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import toy
import warm

from longrun import evaluate as evaluate_verb
from longrun import train as train_verb
from longrun.data.module import TrajectoryData
from longrun.data.store import read_predictions
from longrun.runtime import checkpoint, devices
from longrun.runtime.cli import UserError
from longrun.tasks import _evaluation

FNO = {"name": "fno", "width": 4, "modes": 4, "layers": 1}  # its weights are complex
REFINER = {"name": "pde_refiner", "width": 4, "multipliers": [1, 2], "refinement_steps": 1}
# real weights, none with a gradient of pure rounding, such as a bias before a normalisation
PLAIN = {"name": "direct_mlp", "width": 16, "horizon": 4, "ema_decay": 0.0, "learning_rate": 2e-4}
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast", "learning_rate": 1e-3, "ema_decay": 0.9, "warmup_steps": 3},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {
        "steps": 5,
        "stride": 2,
        "trajectories": 3,
        "members": 2,
        "keep": 2,
        "batch_size": 2,
    },
    "methods": {
        "one": FNO,
        "two": FNO | {"trainer": {"devices": 2}},
        "plain": PLAIN,
        "plain_fsdp": PLAIN | {"trainer": {"devices": 2, "strategy": "fsdp"}},
        "refiner": REFINER | {"trainer": {"max_steps": 2}},
        "refiner_two": REFINER | {"trainer": {"max_steps": 2, "devices": 2}},
    },
    "trainer": {
        "max_steps": 60,
        "batch_size": 4,
        "accumulate": 2,
        "clip": 5.0,
        "accelerator": "cpu",
        "validate_every": 25,
        "checkpoint_every": 5,
        "log_every": 1,
        "valid_windows": 7,
    },
}
LIMIT = 60  # seconds within which a job must end after a process died


@pytest.fixture(scope="module")
def project(tmp_path_factory, root):
    return toy.with_store(tmp_path_factory.mktemp("project"), toy.DATASET, EXPERIMENT)


def command(project, verb, method, output, **options):
    given = {
        "experiment": "test",
        "method": method,
        "seed": 0,
        "preset": "smoke",
        "configs": project / "configs",
        "data": project / "toy.zarr",
        "output": output,
    } | options
    return ["-m", f"longrun.{verb}", *(str(w) for k, v in given.items() for w in (f"--{k}", v))]


def training(project, method, name):
    output = project / name
    return command(project, "train", method, output / "model.ckpt", **{"run-dir": output / "run"})


def start(arguments, project, tracking="disabled"):
    """Start a verb as a user does: it starts the other process itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": tracking}
    return subprocess.Popen(
        [warm.python(), *map(str, arguments)],
        cwd=project,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def complete(arguments, project, tracking="disabled"):
    process = start(arguments, project, tracking)
    _, log = process.communicate()
    assert process.returncode == 0, log
    return log


@pytest.fixture
def here(project, monkeypatch):
    """Call a verb in this process only, which has done the imports."""

    def call(verb, arguments):
        monkeypatch.chdir(project)
        monkeypatch.setenv("WANDB_MODE", "disabled")
        monkeypatch.setattr(sys, "argv", arguments[1:])
        verb.main()

    return call


def state(folder):
    return torch.load(next(folder.glob("run/*/last.ckpt")), weights_only=True)


def rows(folder, metric):
    with (folder / "curves.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["metric"] == metric]
    return [int(row["step"]) for row in found], [float(row["value"]) for row in found]


@pytest.fixture(scope="module")
def two(project):
    """Folder and log of an undisturbed training by two processes, tracked by wandb."""
    return project / "two", complete(training(project, "two", "two"), project, "offline")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(project, two, here):
    """Weights, their average, and the running means of gradients and of their squares."""
    here(train_verb, training(project, "one", "one"))
    one, (two, log) = project / "one", two
    before = checkpoint.build("fno", checkpoint.read(one / "model.ckpt")["arguments"], seed=0)
    ends = [state(folder) for folder in (one, two)]
    moved = 0.0
    for name, weight in ends[0]["current_model_state"].items():
        assert torch.allclose(weight, ends[1]["current_model_state"][name], rtol=0, atol=1e-6)
        moved = max(moved, float((weight - before.state_dict()[name]).abs().max()))
    assert moved > 1e-3
    averages = [checkpoint.read(folder / "model.ckpt")["state_dict"] for folder in (one, two)]
    for name, weight in averages[0].items():
        assert torch.allclose(weight, averages[1][name], rtol=0, atol=1e-6)
    moments = [end["optimizer_states"][0]["state"] for end in ends]
    for number, moment in moments[0].items():
        for kind in ("exp_avg", "exp_avg_sq"):
            scale = float(moment[kind].abs().max())
            assert scale > 0
            difference = (moment[kind] - moments[1][number][kind]).abs().max()
            assert float(difference) < 1e-5 * scale, (number, kind)
    for metric in ("train/loss", "learning_rate"):
        expected, found = rows(one, metric), rows(two, metric)
        assert found[0] == expected[0] == list(range(60))
        assert np.allclose(found[1], expected[1], rtol=1e-5)
    assert rows(two, "valid/increment_error")[0] == rows(one, "valid/increment_error")[0]
    lines = [line for line in log.splitlines() if line.startswith(("step ", "train "))]
    assert len(lines) == len(set(lines)) == 3  # the first process speaks for all
    (run,) = two.glob("run/*/wandb/offline-run-*")  # and tracks, a preview at the end included
    assert list(run.glob("files/media/images/valid/*.png"))


def disturb(project, name, how, rank, method="two"):
    """Send a signal to a process as soon as there is a new state to go on from."""
    folder, began = project / name, time.time()
    process = start(training(project, method, name), project)
    while process.poll() is None:
        states = list(folder.glob("run/*/last.ckpt"))
        if states and states[0].stat().st_mtime > began:
            break
        time.sleep(0.002)
    (other,) = psutil.Process(warm.program(process.pid)).children()
    (other if rank else process).send_signal(how)
    asked = time.monotonic()
    _, log = process.communicate(timeout=LIMIT)
    psutil.wait_procs([other], timeout=max(0.0, LIMIT + asked - time.monotonic()))
    assert not other.is_running()
    assert not (folder / "model.ckpt").exists()
    return process.returncode, log


@pytest.mark.slow
def test_a_dead_process_ends_the_job_which_resumes_to_the_same_bits(project, two):
    code, log = disturb(project, "disturbed", signal.SIGKILL, rank=1)
    assert code not in (0, None)
    assert "another process of this job died" in log or code == -signal.SIGKILL
    code, _ = disturb(project, "disturbed", signal.SIGKILL, rank=0)
    assert code == -signal.SIGKILL
    code, _ = disturb(project, "disturbed", signal.SIGTERM, rank=0)
    assert code == 143
    assert 15 <= state(project / "disturbed")["global_step"] < 60
    complete(training(project, "two", "disturbed"), project)
    disturbed, (undisturbed, _) = project / "disturbed", two
    weights = [checkpoint.read(f / "model.ckpt")["state_dict"] for f in (disturbed, undisturbed)]
    for key, tensor in weights[1].items():
        assert torch.equal(weights[0][key], tensor), key
    found, expected = (
        (f / "curves.csv").read_text().splitlines() for f in (disturbed, undisturbed)
    )
    # A kill between a checkpoint and the log of its step costs that step's rows, and no others.
    assert [row for row in expected if row in found] == found
    assert len({row.split(",")[0] for row in expected if row not in found}) <= 2


@pytest.mark.slow
def test_an_evaluation_by_two_processes_has_the_scores_of_one(project, here):
    """Of a method with noise, in three batches of one trajectory and two members each."""
    here(train_verb, training(project, "refiner", "refiner"))
    model = {"checkpoint": project / "refiner" / "model.ckpt"}
    outputs = [project / name for name in ("scores_one", "scores_two")]
    here(evaluate_verb, command(project, "evaluate", "refiner", outputs[0], **model))
    log = complete(command(project, "evaluate", "refiner_two", outputs[1], **model), project)
    assert len(log.splitlines()) == 2  # the first process speaks for all
    timed = ["wall_time_per_second", "peak_memory_mb"]
    one, two = (pd.read_parquet(output / "scores.parquet") for output in outputs)
    assert one["metric"].tolist() == two["metric"].tolist()
    pd.testing.assert_frame_equal(
        one[~one["metric"].isin(timed)], two[~two["metric"].isin(timed)], check_exact=True
    )
    one, two = (read_predictions(output / "predictions.zarr") for output in outputs)
    assert one.identical(two)


@pytest.mark.slow
def test_fsdp_learns_what_one_process_does_and_resumes(project, here):
    here(train_verb, training(project, "plain", "plain"))
    before = checkpoint.build(
        "direct_mlp", checkpoint.read(project / "plain/model.ckpt")["arguments"], seed=0
    ).state_dict()
    disturb(project, "plain_fsdp", signal.SIGTERM, rank=0, method="plain_fsdp")
    assert 5 <= state(project / "plain_fsdp")["global_step"] < 60
    complete(training(project, "plain_fsdp", "plain_fsdp"), project)
    whole, parts = (
        checkpoint.read(project / name / "model.ckpt")["state_dict"]
        for name in ("plain", "plain_fsdp")
    )
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        assert torch.allclose(weight, parts[name], rtol=0, atol=1e-6), name
    assert max(float((weight - before[name]).abs().max()) for name, weight in whole.items()) > 1e-3


@pytest.mark.parametrize(("groups", "world"), [(5, 3), (2, 3), (4, 2), (1, 1)])
def test_every_group_is_scored_once(monkeypatch, groups, world):
    shares = []

    def gather(shares_of_all, mine):  # nothing is exchanged: each is called in turn
        shares_of_all[:] = [mine]

    for name, value in (("is_initialized", True), ("get_world_size", world)):
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        trajectories = [np.array([10 + group]) for group in range(groups)]
        shares.append(
            _evaluation.share_out(lambda number, chosen: (number, int(chosen[0])), trajectories)
        )
        assert _evaluation.is_first() == (rank == 0)
    assert list(itertools.chain(*shares)) == [(group, 10 + group) for group in range(groups)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def trainer(**options):
    return {"devices": 1, "num_nodes": 1, "strategy": "ddp"} | options


def test_several_nodes_need_slurm(monkeypatch):
    several = trainer(num_nodes=2)
    monkeypatch.setattr(devices.SLURMEnvironment, "detect", lambda: False)
    with pytest.raises(UserError, match="num_nodes is 2: start this with Slurm's srun"):
        devices.environment(several)
    monkeypatch.setattr(devices.SLURMEnvironment, "detect", lambda: True)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "4")
    with pytest.raises(UserError, match="srun --nodes=2 --ntasks-per-node=1"):
        devices.environment(several)
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    place = devices.environment(several)
    assert isinstance(place, devices.SLURMEnvironment) and not place.auto_requeue
    assert isinstance(devices.environment(trainer(devices=2)), devices.LightningEnvironment)


def test_one_device_has_no_strategy():
    assert devices.strategy(trainer(strategy="fsdp")) == "auto"
    assert isinstance(devices.strategy(trainer(devices=2)), devices.DDPStrategy)


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="out of memory"), devices.in_one_line():
        raise RuntimeError("out of memory")
    with pytest.raises(UserError, match="another process"), devices.in_one_line():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")


def test_a_method_that_shares_no_batches_is_refused(project):
    class Draws:
        shares_batches = False

    with pytest.raises(UserError, match=r"trainer\.devices must be 1"):
        data = TrajectoryData.__new__(TrajectoryData)  # not used
        train_verb.fit(Draws(), data, trainer(devices=2), project, [], progress=False)
