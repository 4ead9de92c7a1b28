"""The whole graph at preset smoke: data, training, rollouts, verdicts, figures, tables, report."""

import json

import pandas as pd
import pytest

from longrun import config

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smoke")]


def test_every_declared_output_is_there_and_nothing_is_left_to_do(smoke_run):
    results = smoke_run.folder / "results/smoke"
    for experiment in config.settings(smoke_run.folder / "configs")["experiments"]:
        spec = config.compose(smoke_run.folder / "configs", experiment, "smoke")
        for method in spec["methods"]:
            scores = pd.read_parquet(results / experiment / method / "seed0/scores.parquet")
            assert scores["value"].notna().any()
            curves = pd.read_csv(results / experiment / method / "seed0/curves.csv")
            logged = {name for name in set(curves["metric"]) if name.startswith("valid/")}
            assert logged <= {f"valid/{name}" for name in spec["validation"]}  # for sweeps
        judged = json.loads((results / experiment / "claims.json").read_text())
        assert {claim["name"] for claim in judged["claims"]} == set(spec["claims"])
        for figure in config.figures(spec):
            drawing = (results / experiment / "figures" / f"{figure}.svg").read_text()
            assert "</svg>" in drawing
    again = smoke_run.snakemake("--dry-run")
    assert "Nothing to be done" in again.stdout


def test_the_report_is_built(smoke_run):
    done = smoke_run.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout
    assert (smoke_run.folder / "report.html").stat().st_size > 1_000_000


def test_the_section_of_results_is_written(smoke_run, tmp_path):
    """What `make results` does after the graph."""
    done = smoke_run.python(
        "-m", "longrun.tabulate", "--preset", "smoke", "--output-dir", tmp_path,
        "--markdown", tmp_path / "RESULTS.md",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    section = (tmp_path / "RESULTS.md").read_text()
    assert "## smoke" in section
    assert "persistence" in section
