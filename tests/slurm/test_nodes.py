"""A training on two nodes of a real Slurm, submitted by Snakemake, learns what one process does.

The cluster is `start_one_node.sh FOLDER 2`: the nodes are of one machine, and so is their network.
"""

import pytest
import torch
import yaml
from conftest import Tree
from test_cluster import running, slurm

from longrun import config

MODEL = "results/smoke/pde_refiner/fno/seed0/model.ckpt"


@pytest.fixture(scope="module", autouse=True)
def two_nodes():
    if not running(2):
        pytest.skip("no slurmctld of tests/slurm/start_one_node.sh with two nodes answers")


def weights(tree):
    return torch.load(tree.folder / MODEL, weights_only=True)


@pytest.mark.slurm
@pytest.mark.slow
def test_two_nodes_learn_what_one_process_does(root, tmp_path_factory, monkeypatch):
    alone = Tree.of_repository(root, tmp_path_factory.mktemp("alone"))
    done = alone.snakemake(MODEL)
    assert done.returncode == 0, done.stdout

    tree = alone.copy(tmp_path_factory.mktemp("nodes") / "two")
    (tree.folder / MODEL).unlink()
    path = tree.folder / "configs/experiments/pde_refiner.yaml"
    content = config.load(path)
    content["presets"]["smoke"]["trainer"]["num_nodes"] = 2
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # where names of nodes don't resolve
    command = (
        f"-m snakemake {MODEL} --workflow-profile workflow/profiles/slurm-multinode "
        "--config preset=smoke --slurm-status-command squeue --latency-wait 5 "
        "--slurm-init-seconds-before-status-checks 1 --default-resources mem_mb=4000 runtime=60"
    )
    done = tree.python(*command.split())
    if done.returncode:
        slurm("scancel", "--me")
    assert done.returncode == 0, done.stdout
    asked = slurm("scontrol", "show", "job")
    assert "NumNodes=2" in asked and "NumTasks=2" in asked
    one, two = weights(alone), weights(tree)
    assert two["spec"]["trainer"]["num_nodes"] == 2
    for name, tensor in one["state_dict"].items():
        assert torch.allclose(tensor, two["state_dict"][name], rtol=0, atol=1e-6), name
    log = (tree.folder / "logs/smoke/pde_refiner/fno/seed0/train.log").read_text()
    assert log.count("step 30/30") == 1  # the first process speaks for all
