"""What `make status` says: done, running, failed, out of date, and what it would cost."""

import re
import subprocess
import sys

import pytest
from stand_in import comment

from longrun import config, status
from longrun.runtime import cli
from longrun.runtime.cli import UserError
from longrun.runtime.times import Key, Times

pytestmark = pytest.mark.xdist_group("workflow")


@pytest.fixture
def tree(finished, tmp_path, monkeypatch):
    """A finished tree in which things happen, from within."""
    copy = finished.copy(tmp_path / "tree")
    monkeypatch.chdir(copy.folder)
    return copy


def states(tree):
    found = status.jobs("smoke", status.summarise("smoke", tree.environment))
    return {(job.rule, job.kind.name): job for job in found}


def test_how_everything_stands(tree):
    """One run is out of date, one failed, one runs, and one was never begun."""
    folder = tree.folder
    comment(folder / "src/longrun/methods/forecast/unet.py")
    for method in ("fno", "persistence", "coarse_equal_cost"):
        (folder / f"results/smoke/pde_refiner/{method}/seed0/model.ckpt").unlink()
    logs = folder / "logs/smoke/pde_refiner"
    (logs / "fno/seed0/train.log").write_text("step 1\nlongrun.train: error: too hot\n")
    with cli.locked(folder / "runs/smoke/pde_refiner/persistence/seed0/0a1b"):
        found = states(tree)
    of = {name: job.state for (rule, name), job in found.items() if rule == "train"}
    assert of["pde_refiner/unet"] == "stale"
    assert of["pde_refiner/fno"] == "failed"
    assert of["pde_refiner/persistence"] == "running"
    assert of["pde_refiner/coarse_equal_cost"] == "missing"
    assert found["generate", "kuramoto_sivashinsky"].state == "done"
    assert found["evaluate", "pde_refiner/unet"].state == "stale"  # it rests on what is
    assert found["evaluate", "cape/cape"].state == "missing"


def test_the_table_has_a_row_for_each_experiment(tree, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["status", "--preset", "smoke"])
    monkeypatch.setattr(status.subprocess, "run", _here(tree))
    (tree.folder / "results/smoke/pde_refiner/fno/seed0/model.ckpt").unlink()
    log = tree.folder / "logs/smoke/pde_refiner/fno/seed0/train.log"
    log.write_text("longrun.train: error: too hot\n")
    status.main()
    shown = capsys.readouterr().out
    rows = dict(re.findall(r"^(\w+)  +(.*)$", shown, re.M))
    assert set(config.experiments(tree.folder / "configs")) == set(rows)
    assert rows["cape"].split()[:4] == ["-"] * 4
    assert "failed:\n  train results/smoke/pde_refiner/fno/seed0: longrun.train: error" in shown


def _here(tree):
    """Run what the verb runs with the tree's package."""
    run = subprocess.run

    def call(words, **options):
        return run(words, **options | {"env": tree.environment})

    return call


def test_a_cost_is_the_sum_of_what_would_run(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/times.csv").write_text(
        "preset,rule,name,seconds\ncpu,train,a/x,100\ncpu,evaluate,a/x,20\n"
    )
    known = Times("cpu", tmp_path)

    def job(rule, state, name="a/x"):
        return status.Job(rule, tmp_path, Key(rule, name), state, tmp_path)

    assert status.cost([job("train", "done"), job("evaluate", "stale")], known) == "20 s"
    both = [job("train", "missing"), job("evaluate", "failed"), job("generate", "missing", "d")]
    assert status.cost(both, known) == "2 min and 1 job never timed"
    assert status.cost([job("train", "done")], known) == "-"


def test_what_an_experiment_needs_is_its_own_and_what_it_borrows(root):
    stores, runs = status.needed(root / "configs", "poseidon_unseen", "cpu")
    assert any("poseidon_unseen" in map(str, folder.parts) for folder in runs)
    assert all(store.parts[:2] == ("data", "cpu") for store in stores) and stores


def test_elsewhere_it_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["status", "--preset", "cpu"])
    with pytest.raises(UserError, match="no Snakefile; this needs the repository's folder"):
        status.main()


def test_a_lock_is_seen_while_it_is_held(tmp_path):
    assert not cli.is_locked(tmp_path / "x")
    with cli.locked(tmp_path / "x"):
        assert cli.is_locked(tmp_path / "x")
    assert not cli.is_locked(tmp_path / "x")
    (tmp_path / ".x.lock").touch()  # what a killed process leaves
    assert not cli.is_locked(tmp_path / "x")
