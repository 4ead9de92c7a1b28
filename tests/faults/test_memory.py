"""What must not grow with the length of a rollout or the size of a store runs within a limit."""

import copy

import pytest

from faults.project import DATASET, EXPERIMENT, FULL, Project
from longrun.data.store import open_store
from longrun.metrics.table import read_scores
from longrun.runtime import cli

pytestmark = [pytest.mark.xdist_group("faults"), pytest.mark.slow]

STEPS = 100_000 if FULL else 10_000
# bytes beyond what the libraries have taken when a verb starts; the system gives no more
ROLLOUT, STORE = 256 * 2**20, 96 * 2**20
TIMES = 10 if FULL else 2
# Seconds until a verb that was given too little is killed: it may wait for a thread for ever, which
# Python started and could not give memory. It shows that the limit is one.
STARVED = 60


@pytest.fixture
def empty(server, root, tmp_path):
    """Make a project of some configuration, in which nothing has run."""

    def make(dataset, experiment=EXPERIMENT):
        folder = tmp_path / "large"
        folder.mkdir()
        return Project(folder, server).configure(dataset, experiment)

    return make


@pytest.mark.fault("memory_rollout")
def test_a_long_rollout(empty, row):
    dataset, experiment = copy.deepcopy(DATASET), copy.deepcopy(EXPERIMENT)
    dataset["splits"]["test"] = {"trajectories": 1, "frames": STEPS + 1}
    dataset["store"]["frames_per_chunk"] = 100
    experiment["evaluate"] = {"steps": STEPS, "trajectories": 1, "keep": 1}
    del experiment["claims"]
    project = empty(dataset, experiment).made("generate").made("train", "still")
    done = project.run("evaluate", "still", data=ROLLOUT)
    assert done.code == 0, done.text
    assert len(read_scores(project.output("evaluate", "still") / "scores.parquet")) > 10 * STEPS
    project.without("evaluate", "still")
    assert project.start("evaluate", "still", data=2**22).wait(STARVED).code != 0
    row.add(f"nothing: {ROLLOUT // 2**20} MiB beyond the libraries are enough")


@pytest.mark.fault("memory_generate")
def test_a_store_larger_than_the_memory(empty, row):
    points, frames = 4096, 100
    trajectories = TIMES * STORE // (8 * points * frames) + 1
    dataset = {
        "equation": {"name": "advection", "points": points},
        "seed": 1,
        "splits": {
            "train": {"trajectories": trajectories, "frames": frames},
            "valid": {"trajectories": 1, "frames": 2},
            "test": {"trajectories": 1, "frames": 2},
        },
        "store": {"trajectories_per_shard": 1, "dtype": "float64"},
        "measure": {"trajectories": 1, "frames": 2},
    }
    project = empty(dataset)
    done = project.run("generate", data=STORE)
    assert done.code == 0, done.text
    store = project.folder / "toy.zarr"
    size = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    assert size >= TIMES * STORE
    assert open_store(store).split("train").trajectories == trajectories
    cli._remove(store)
    assert project.start("generate", data=2**22).wait(STARVED).code != 0
    row.add(f"nothing: {STORE // 2**20} MiB beyond the libraries are enough")
