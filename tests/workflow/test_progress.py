"""What a run prints: a line for each job, what is left and until when, and what failed."""

import logging
import re
from types import SimpleNamespace

import pytest
from conftest import Tree
from snakemake_interface_logger_plugins.common import LogEvent
from stand_in import edit

from longrun.runtime import times
from longrun.runtime.times import Key, Times
from snakemake_logger_plugin_longrun import LogHandler

pytestmark = pytest.mark.xdist_group("workflow")
LINE = re.compile(r"^\d\d:\d\d:\d\d +(\d+)/(\d+)  (\w+)(.*)$")


def lines_of(text):
    """All lines but the first, in which Snakemake names the profile."""
    first, *lines = text.strip().splitlines()
    assert first.startswith("Using workflow specific profile profiles/default")
    return lines


def test_a_run_prints_one_line_for_each_job(finished):
    first, *lines, last = lines_of(finished.said)
    total = int(re.match(r"(\d+) jobs: ", first)[1])
    assert re.fullmatch(rf"{total} of {total} jobs done in \d+ s", last)
    assert len(lines) == total - 1  # all but the target
    found = [LINE.match(line) for line in lines]
    assert all(found), lines
    assert [int(match[1]) for match in found] == list(range(1, total))
    names = [match[4].partition(", ")[0].strip() for match in found]
    assert "pde_refiner.unet" in names and "kuramoto_sivashinsky" in names
    for left, match in zip(range(total - 1, 0, -1), found, strict=True):
        assert f"; {left} left" in match[4]


def test_details_are_in_the_logs(finished):
    assert (finished.folder / "logs/smoke/pde_refiner/unet/seed0/train.log").exists()
    logs = [file.read_text() for file in (finished.folder / ".snakemake/log").glob("*.log")]
    assert any("rule train:" in text for text in logs)


def test_a_second_run_knows_how_long_the_first_took(finished, tmp_path):
    tree = finished.copy(tmp_path / "tree")
    edit(
        tree.folder / "configs/experiments/pde_refiner.yaml",
        lambda c: c["presets"]["smoke"]["trainer"].update(log_every=7),
    )
    done = tree.snakemake("pde_refiner")
    assert re.search(r"left, about \d+ s, until \d\d:\d\d", lines_of(done.stdout)[0]), done.stdout
    assert "never timed" not in done.stdout


def test_nothing_to_do_is_said(finished):
    assert "Nothing to be done" in finished.snakemake("pde_refiner").stdout


def test_what_failed_is_listed_at_the_end_with_the_last_line_of_its_log(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")
    stand_in = (tree.programs / "python").read_text()
    tree = Tree(tree.folder, tree.folder / "programs")
    tree.programs.mkdir()
    fails = 'if "fno" in words and verb == "train":\n    sys.exit("longrun.train: error: too hot")'
    text = stand_in.replace("for folder in folders:", f"{fails}\nfor folder in folders:", 1)
    (tree.programs / "python").write_text(text)
    (tree.programs / "python").chmod(0o755)
    done = tree.snakemake("pde_refiner", "--keep-going")
    assert done.returncode != 0
    lines = lines_of(done.stdout)
    log = "logs/smoke/pde_refiner/fno/seed0/train.log"
    assert lines[-2:] == [
        "1 failed:",
        f"  train pde_refiner.fno, seed 0: longrun.train: error: too hot ({log})",
    ]
    assert sum("fno" in line for line in lines) == 2  # where it failed, and at the end
    assert "python -m" not in done.stdout and "Traceback" not in done.stdout
    assert sum("evaluate" in line for line in lines[1:]) > 2  # the others went on


def test_a_plan_looks_as_snakemake_has_it(finished):
    planned = finished.snakemake("pde_refiner", "--dry-run", "--forceall").stdout
    assert "rule train:" in planned and "jobs done" not in planned


# Estimates ---------------------------------------------------------------------------------------


def record(event, **content):
    made = logging.LogRecord("snakemake", logging.INFO, "", 0, "", None, None)
    made.__dict__ |= {"event": event, **content}
    return made


def job(number, method):
    """What the handler looks at of Snakemake's jobs."""
    experiment, name = method.split(".")
    names = {"experiment": experiment, "method": name, "preset": "cpu", "seed": number}
    rule = SimpleNamespace(name="train")
    resources = {"_cores": 1, "gpu": 0, "mpi": "srun"}
    return SimpleNamespace(
        jobid=number, rule=rule, wildcards_dict=names, output=["x"], resources=resources
    )


def test_an_estimate_is_of_the_cores_and_learns(tmp_path, monkeypatch, capsys):
    """Four jobs of 100 s on two cores; two of a kind that was never timed."""
    monkeypatch.chdir(tmp_path)
    benchmark(tmp_path, "cape/unet/seed0/train.tsv", 100.0)
    now = [0.0]
    monkeypatch.setattr("snakemake_logger_plugin_longrun.time.monotonic", lambda: now[0])
    settings = dict.fromkeys(("dryrun", "verbose", "debug_dag", "printshellcmds", "stdout"), False)
    settings |= {"nocolor": True, "quiet": None, "show_failed_logs": False}
    handler = LogHandler(SimpleNamespace(**settings), None)
    methods = ["cape.unet"] * 4 + ["tsm.tsm"] * 2
    jobs = [job(number, method) for number, method in enumerate(methods)]
    handler.plan(jobs, "cpu", {"_cores": 2, "_nodes": 2**63 - 1})
    assert handler.seconds_left() == (200.0, 2)
    for event in (record(LogEvent.WORKFLOW_STARTED), record(LogEvent.RUN_INFO, stats={"total": 6})):
        handler.emit(event)
    for number in (0, 4):
        about = {"jobid": number, "rule_name": "train", "wildcards": jobs[number].wildcards_dict}
        handler.emit(record(LogEvent.JOB_INFO, **about))
    now[0] = 50.0
    handler.emit(record(LogEvent.JOB_FINISHED, job_id=0))  # twice as fast as there
    assert handler.seconds_left() == (75.0, 2)
    handler.emit(record(LogEvent.JOB_FINISHED, job_id=4))
    assert handler.seconds_left() == (100.0, 0)
    handler.close()
    shown = capsys.readouterr().err
    assert "2/6  train tsm.tsm, seed 4, 50 s; 4 left, about 2 min" in shown
    assert shown.endswith("2 of 6 jobs done in 50 s\n")


# Times -------------------------------------------------------------------------------------------


def benchmark(folder, path, *seconds):
    file = folder / "benchmarks/cpu" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = "".join(f"{value}\t0:00:01\n" for value in seconds)
    file.write_text(f"s\th:m:s\n{rows}")


def test_times_come_from_here_and_else_from_the_committed_ones(tmp_path):
    benchmark(tmp_path, "cape/unet/seed0/train.tsv", 100.0)
    benchmark(tmp_path, "cape/unet/seed1/train.tsv", 120.0)
    benchmark(tmp_path, "cape/unet/0123456789ab/seed0/train.tsv", 1.0)  # a point of a sweep
    benchmark(tmp_path, "generate/burgers.tsv", 7.0)
    benchmark(tmp_path, "generate/broken.tsv")
    (tmp_path / "docs").mkdir()
    committed = "preset,rule,name,seconds\ncpu,train,cape/unet,9\ncpu,train,tsm/tsm,50\n"
    (tmp_path / "docs/times.csv").write_text(f"{committed}gpu,train,tsm/li,1\n")
    known = Times("cpu", tmp_path)
    assert known.of(Key("train", "cape/unet")) == 110.0
    assert known.of(Key("train_point", "cape/unet")) == 55.0
    assert known.of(Key("train", "cape/new")) == 110.0  # as others of its experiment
    assert known.of(Key("train", "tsm/tsm")) == 50.0
    assert known.of(Key("generate", "burgers")) == 7.0
    assert known.of(Key("generate", "broken")) is known.of(Key("evaluate", "tsm/tsm")) is None
    assert known.of(Key("judge", "cape")) == times.SHORT["judge"]


def test_results_take_the_times_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    benchmark(tmp_path, "cape/unet/seed0/train.tsv", 100.0)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/times.csv").write_text(
        "preset,rule,name,seconds\ncpu,train,cape/unet,9.0\ngpu,train,cape/unet,3.0\n"
    )
    times.commit("cpu", tmp_path)
    assert (tmp_path / "docs/times.csv").read_text().splitlines() == [
        "preset,rule,name,seconds",
        "cpu,train,cape/unet,100.0",
        "gpu,train,cape/unet,3.0",
    ]


def test_the_committed_times_are_of_experiments_that_exist(root):
    found = times.committed(root / times.COMMITTED, "cpu")
    assert len(found) > 50
    from longrun import config

    names = {name.partition("/")[0] for rule, name in found if rule in ("train", "evaluate")}
    assert names <= set(config.experiments(root / "configs"))
