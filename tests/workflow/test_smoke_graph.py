"""The whole graph at preset smoke: data, training, rollouts, verdicts, figures, tables, report."""

import json
import re

import pandas as pd
import pytest

from longrun import config

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smoke")]


def test_every_declared_output_is_there_and_nothing_is_left_to_do(smoke_run):
    results = smoke_run.folder / "results/smoke"
    for experiment in config.experiments(smoke_run.folder / "configs"):
        spec = config.compose(smoke_run.folder / "configs", experiment, "smoke")
        for method in spec["methods"]:
            if method in spec.get("borrowed", {}):  # a run of another experiment
                continue
            scores = pd.read_parquet(results / experiment / method / "seed0/scores.parquet")
            assert scores["value"].notna().any()
            curves = pd.read_csv(results / experiment / method / "seed0/curves.csv")
            logged = {name for name in set(curves["metric"]) if name.startswith("valid/")}
            assert logged <= {f"valid/{name}" for name in spec["validation"]}  # for sweeps
        judged = json.loads((results / experiment / "claims.json").read_text())
        assert {claim["name"] for claim in judged["claims"]} == set(spec["claims"])
        assert {claim["verdict"] for claim in judged["claims"]} <= {"not judged"}
        for figure in config.figures(spec):
            drawing = (results / experiment / "figures" / f"{figure}.svg").read_text()
            assert "</svg>" in drawing
    every = config.experiments(smoke_run.folder / "configs")
    assert "Nothing to be done" in smoke_run.snakemake(*every, "--dry-run").stdout


def test_no_page_of_smoke_says_that_anything_was_decided(smoke_run):
    results = smoke_run.folder / "results/smoke"
    pages = [results / "results.html", results / "claims.html", *results.glob("pages/*.html")]
    assert len(pages) == 2 + len(config.experiments(smoke_run.folder / "configs"))
    for page in pages:
        text = page.read_text()
        assert "not judged" in text
        assert not re.search('class="badge (holds|weaker|contradicted|open)"', text)
    assert not set(pd.read_csv(results / "results.csv")["verdict"].dropna()) - {"not judged"}


def test_no_page_of_results_is_larger_than_three_megabytes(smoke_run):
    results = smoke_run.folder / "results/smoke"
    for page in results.glob("pages/*.html"):
        shown = [page, *(results / page.stem / "figures").glob("*.svg")]
        assert sum(file.stat().st_size for file in shown) < 3e6, page


def test_the_report_is_built(smoke_run):
    done = smoke_run.snakemake("pde_refiner", "--report", "report.html")
    assert done.returncode == 0, done.stdout
    assert (smoke_run.folder / "report.html").stat().st_size > 1_000_000


def test_the_pages_of_the_repository_are_written(smoke_run, root, tmp_path):
    """What `make results` does after the graph."""
    (tmp_path / "README.md").write_text((root / "README.md").read_text())
    done = smoke_run.python("-m", "longrun.record", "--preset", "smoke", "--root", tmp_path)
    assert done.returncode == 0, done.stdout
    every = config.experiments(smoke_run.folder / "configs")
    assert f"{len(every)} main claims, not judged" in (tmp_path / "RESULTS.md").read_text()
    assert "persistence" in (tmp_path / "docs/papers/pde_refiner.md").read_text()
