"""Experiments in one process: the jobs of the graph, in its order; failures are reported."""

import logging
import sys

import pytest

from longrun import config, smoke
from longrun.runtime import cli
from longrun.runtime.cli import UserError


def test_jobs_are_those_of_the_graph(root):
    jobs = smoke.plan(root / "configs", ["poseidon_unseen"])
    spec = config.compose(root / "configs", "poseidon_unseen", "smoke")
    for method in spec["methods"]:
        job = jobs[f"poseidon_unseen/{method}/seed0/evaluate"]
        assert f"poseidon_unseen/{method}/seed0/train" in job.needs
        assert job.log.as_posix() == f"logs/smoke/poseidon_unseen/{method}/seed0/evaluate.log"
        assert {f"{name}.zarr" for name in spec["test"]} <= set(job.needs)
    # of the experiment that it starts from it makes only that run
    others = {name for name in jobs if name.startswith("poseidon/")}
    assert others == {"poseidon/scot_pretrained/seed0/train"}
    assert "poseidon_unseen/plot" in jobs["tabulate"].needs
    assert all(need in jobs for job in jobs.values() for need in job.needs)


def test_every_experiment_is_planned(root):
    every = config.experiments(root / "configs")
    assert {f"{name}/judge" for name in every} <= set(smoke.plan(root / "configs", every))


@pytest.fixture(autouse=True)
def bare(monkeypatch):
    """Start jobs from a process that has imported nothing: they need little."""
    monkeypatch.setattr(smoke, "_modules", list)


def job(tmp_path, verb, *needs):
    return smoke.Job(verb, ("--wrong",), tmp_path / f"{verb}.log", needs)


def test_what_rests_on_a_failure_is_left_out(tmp_path):
    jobs = {
        "data": job(tmp_path, "generate"),
        "run": job(tmp_path, "train", "data"),
        "score": job(tmp_path, "evaluate", "run"),
        "other": job(tmp_path, "judge"),
    }
    told = {}
    failed, _ = smoke.run(jobs, 2, lambda name, outcome, seconds: told.update({name: outcome}))
    assert sorted(failed) == ["data", "other"]
    assert told == {"data": "failed", "other": "failed", "run": "left out", "score": "left out"}
    assert "the following arguments are required" in cli.last_line(tmp_path / "generate.log")


def test_failures_are_listed_with_the_last_line_of_their_log(root, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    jobs = {"data": job(tmp_path, "generate")}
    monkeypatch.setattr(smoke, "plan", lambda configs, experiments: jobs)
    monkeypatch.setattr(sys, "argv", ["smoke", "--configs", f"{root}/configs", "cape"])
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as ended:
        smoke.main()
    assert ended.value.code == 1
    last = caplog.messages[-1]
    assert last.startswith("failed: data: ") and "arguments are required" in last


@pytest.mark.parametrize("words", [["cpae"], ["--besides", "cpae"]])
def test_an_unknown_name_is_refused_with_the_nearest(root, monkeypatch, words):
    monkeypatch.setattr(sys, "argv", ["smoke", "--configs", f"{root}/configs", *words])
    with pytest.raises(UserError, match=r"cpae: no such experiment; .*did you mean cape\?"):
        smoke.main()
