"""Training online through a real Slurm: its solvers are jobs, of which one is cancelled.

The cluster is that of one node of `start_one_node.sh`.
"""

import csv
import os
import socket
import subprocess
import time

import pytest
import yaml
from conftest import OWN, Tree
from test_cluster import PATIENCE, running, slurm, state

from longrun import config
from longrun.runtime import checkpoint

UPDATES, BATCH = 3000, 8
RUN = "smoke/online_training/online_reservoir/seed0"


@pytest.fixture(scope="module", autouse=True)
def one_node():
    if not running(1):
        pytest.skip("no slurmctld of tests/slurm/start_one_node.sh answers")
    yield
    slurm("scancel", "--me")


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


@pytest.fixture
def tree(root, tmp_path, port):
    """An online training that starts no solvers, and stands still without any."""
    tree = Tree.of_repository(root, tmp_path, programs=OWN)
    path = tree.folder / "configs/experiments/online_training.yaml"
    experiment = config.load(path)
    smoke = experiment["presets"]["smoke"]
    smoke["trainer"] |= {"max_steps": UPDATES, "batch_size": BATCH}
    smoke["methods"]["online_reservoir"]["trainer"]["online"] |= {
        "policy": "fifo",  # which draws nothing twice
        "solvers": 0,
        "listen": f"tcp://*:{port}",
        "patience": 10,
    }
    path.write_text(yaml.safe_dump(experiment))
    store = "data/smoke/heated_plate.zarr"
    done = tree.python(
        *("-m", "longrun.generate", "--dataset", "heated_plate"),
        *("--preset", "smoke", "--output", store),
    )
    assert done.returncode == 0, done.stdout
    return tree


def submit(tree, *words):
    """Submit a job, as from a login node whose environment is activated; return its number."""
    programs = f"{tree.programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sbatch", "--parsable", *words],
        cwd=tree.folder,
        env=tree.environment | {"PATH": programs},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def wait_for(what, log):
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        if time.monotonic() > end:
            pytest.fail(f"{slurm('squeue', '--states=all')}\n{log.read_text()}", pytrace=False)
        time.sleep(0.1)
    return found


def arrivals(tree):
    """Numbers of the simulations that have arrived, by the solver that sent them."""
    found = {}
    for file in tree.folder.glob(f"runs/{RUN}/*/arrivals.csv"):
        for row in csv.DictReader(line for line in file.open() if line.endswith("\n")):
            solver = row["solver"].partition(" ")[0]
            found.setdefault(solver, []).append(int(row["simulation"]))
    return found


@pytest.mark.slurm
@pytest.mark.slow
def test_the_job_of_a_solver_that_is_cancelled_is_replaced(tree, port):
    run = RUN.replace("/seed", "/").split("/")
    solvers = submit(
        tree, "--array=1-9%1", "workflow/profiles/slurm/solvers.sh", *run, str(port)
    )  # before the training
    log = tree.folder / "train.log"
    log.touch()
    command = "python -m longrun.train --experiment {1} --method {2} --seed {3} --preset {0}"
    training = submit(
        tree,
        f"--comment=rule_train_wildcards_{'_'.join(run)}",
        *("--cpus-per-task=1", "--mem=4G", f"--output={log}", "--wrap", command.format(*run)),
    )
    wait_for(lambda: len(arrivals(tree).get("solver1", ())) > 50, log)
    assert state(training) == "RUNNING"
    subprocess.run(["scancel", f"{solvers}_1"], check=True)
    wait_for(lambda: state(training) not in ("PENDING", "RUNNING", "COMPLETING"), log)
    assert state(training) == "COMPLETED", log.read_text()
    assert state(f"{solvers}_1") == "CANCELLED"

    assert checkpoint.read(tree.folder / "results" / RUN / "model.ckpt")["updates"] == UPDATES
    came = arrivals(tree)
    assert set(came) == {"solver1", "solver2"}
    simulations = sorted(came["solver1"] + came["solver2"])
    windows = config.load(tree.folder / "configs/datasets/heated_plate.yaml")["presets"]["smoke"]
    each = windows["splits"]["train"]["frames"] - 1
    assert len(set(simulations)) == len(simulations) >= UPDATES * BATCH / each
    # the array is over, though most of it has never run
    wait_for(lambda: not slurm("squeue", "--noheader", "--me"), log)
    assert "COMPLETED" in state(f"{solvers}_2")
