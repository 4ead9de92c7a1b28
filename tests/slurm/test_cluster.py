"""The whole graph through a real Slurm, with a training that is cancelled half-way.

`start_one_node.sh` starts the cluster and prints its folder; with `stop FOLDER` it ends it.
"""

import re
import shutil
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
import yaml
from conftest import OWN, Tree

from longrun import config

STEPS, EVERY = 1500, 300
RUN = "smoke/rectified_flow/flow_1/seed0"
PATIENCE = 600  # seconds after which even a loaded machine counts as stuck


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


def running(nodes):
    """Whether the script's cluster with this many nodes is there: tests must not use others."""
    if not shutil.which("scontrol") or "longrun-test" not in slurm("scontrol", "show", "config"):
        return False
    return len(slurm("sinfo", "--noheader", "--Node").splitlines()) == nodes


@pytest.fixture(scope="module", autouse=True)
def one_node():
    if not running(1):
        pytest.skip("no slurmctld of tests/slurm/start_one_node.sh answers")


@pytest.fixture
def tree(root, tmp_path_factory):
    """A baseline that learns nothing, and a training that takes some seconds."""
    tree = Tree.of_repository(root, tmp_path_factory.mktemp("cluster"), programs=OWN)

    def edit(name, change):
        path = tree.folder / "configs" / name
        content = config.load(path)
        change(content)
        path.write_text(yaml.safe_dump(content))

    def shrink(experiment):
        methods = experiment["presets"]["smoke"]["methods"]
        methods["flow_2"] = None
        methods["flow_1"]["trainer"] = {
            "max_steps": STEPS,
            "checkpoint_every": EVERY,
            "validate_every": EVERY // 4,
            "log_every": EVERY // 4,
        }

    edit("config.yaml", lambda settings: settings.update(experiments=["rectified_flow"]))
    edit("experiments/rectified_flow.yaml", shrink)
    return tree


class Workflow:
    """Snakemake on what would be the login node, with the profile as it is shipped."""

    def __init__(self, tree):
        self.log = tree.folder / "workflow.log"
        command = (
            "-m snakemake --workflow-profile workflow/profiles/slurm --config preset=smoke "
            "--slurm-status-command squeue --set-threads generate=2 --latency-wait 5 "
            "--slurm-init-seconds-before-status-checks 1"
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command.split()],
                cwd=tree.folder,
                env=tree.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_for(self, what):
        """Return what the function returns as soon as it is not empty."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            found = what()
            if found:
                return found
            time.sleep(0.1)
        pytest.fail(self.log.read_text()[-6000:], pytrace=False)


@pytest.fixture
def workflow(tree):
    workflow = Workflow(tree)
    yield workflow
    if workflow.process.poll() is None:
        workflow.process.kill()
        workflow.process.wait()
        slurm("scancel", "--me")


def training():
    """Number of the job that trains flow_1 at this moment, if there is one."""
    queue = slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i %k")
    return re.findall(r"^(\d+) rule_train_.*flow_1", queue, re.M)


def state(job):
    return slurm("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").strip()


def untimed(scores):
    timed = ["wall_time_per_sample", "train_seconds", "peak_memory_mb"]
    return scores[~scores["metric"].isin(timed)].reset_index(drop=True)


@pytest.mark.slurm
@pytest.mark.slow
def test_a_cancelled_training_goes_on_to_the_same_bits(tree, workflow, tmp_path):
    alone = Tree(tree.copy(tmp_path / "alone").folder)
    workflow.wait_for(lambda: list(tree.folder.glob(f"runs/{RUN}/*/last.ckpt")))
    (job,) = training()
    subprocess.run(["scancel", job], check=True)
    workflow.wait_for(lambda: state(job) == "CANCELLED")
    (last,) = tree.folder.glob(f"runs/{RUN}/*/last.ckpt")
    stopped = torch.load(last, weights_only=True)["global_step"]
    assert EVERY < stopped < STEPS  # the state at that time, then that left by SIGTERM

    undisturbed = alone.snakemake(f"results/{RUN}/scores.parquet")
    assert undisturbed.returncode == 0, undisturbed.stdout
    try:
        code = workflow.process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = None
    said = workflow.log.read_text()
    assert code == 0, said[-6000:]

    assert re.search(rf"SLURM-job '{job}' failed, SLURM status is: 'CANCELLED'", said)
    (slurm_log,) = tree.folder.glob(f"logs/slurm/rule_train/*/{job}.log")
    assert "returned non-zero exit status 143" in slurm_log.read_text()
    log = (tree.folder / f"logs/{RUN}/train.log").read_text()
    first, *_ = map(int, re.findall(rf"^step (\d+)/{STEPS}", log, re.M))
    assert first > stopped  # one that starts over logs after a quarter of EVERY

    ours, theirs = (t.folder / "results" / RUN for t in (tree, alone))
    weights, expected = (
        torch.load(folder / "model.ckpt", weights_only=True)["state_dict"]
        for folder in (ours, theirs)
    )
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    scores, wanted = (
        untimed(pd.read_parquet(folder / "scores.parquet")) for folder in (ours, theirs)
    )
    assert len(scores)
    pd.testing.assert_frame_equal(scores, wanted, check_exact=True)

    assert (tree.folder / "results/smoke/results.html").exists()
    submitted = re.findall(r"with SLURM jobid (\d+) \(log: .*/((?:rule|group)_\w+)/", said)
    kinds = sorted(kind for _, kind in submitted)
    # two rollouts in one job, and none of the local rules
    assert kinds == ["group_rollouts_evaluate", "rule_generate", *["rule_train"] * 3]
