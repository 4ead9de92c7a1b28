"""What the plan says of a machine that can't carry it out."""

import pytest
from conftest import Tree

from longrun.runtime import cli

pytestmark = pytest.mark.xdist_group("workflow")


@pytest.fixture(scope="module")
def tree(root, tmp_path_factory):
    return Tree.of_repository(root, tmp_path_factory.mktemp("machine"))


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_a_gpu_that_is_hidden_is_none(no_gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "GPU_FILES", [str(tmp_path)])
    assert not cli.may_have_gpu()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert cli.may_have_gpu()
    monkeypatch.setattr(cli, "GPU_FILES", [str(tmp_path / "absent")])
    assert not cli.may_have_gpu()


def test_a_preset_that_needs_a_gpu_starts_nothing_without_one(tree, no_gpu):
    target = "results/gpu/pde_refiner/persistence/seed0/scores.parquet"
    plan = tree.snakemake("--dry-run", target, preset="gpu")
    assert (
        plan.returncode == 0
        and plan.stdout.count("accelerator is gpu and this machine has none") == 1
    )
    for _ in range(2):  # the second finds no lock
        done = tree.snakemake(target, preset="gpu")
        assert done.returncode == 1 and "Traceback" not in done.stdout
        assert "accelerator is gpu and this machine has none: take preset cpu" in done.stdout
    assert not (tree.folder / "data").exists() and not (tree.folder / "results").exists()
    target = target.replace("gpu", "cpu")
    assert "machine has none" not in tree.snakemake("--dry-run", target, preset="cpu").stdout


def test_a_mode_of_wandb_that_is_none_stops_the_plan(tree, monkeypatch):
    tree = Tree(tree.folder, tracking="of")
    done = tree.snakemake("--dry-run", "pde_refiner")
    assert done.returncode == 1 and "Traceback" not in done.stdout
    assert "WANDB_MODE, of the environment: 'of'; allowed: disabled, offline, online" in done.stdout
