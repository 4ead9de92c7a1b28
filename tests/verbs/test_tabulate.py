import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest
from synthetic import SITE_FIGURES, built_site, run  # noqa: F401 (a fixture)

from longrun import config, record, tabulate
from longrun.runtime import cli

pytestmark = pytest.mark.xdist_group("site")


@pytest.fixture(scope="module")
def judged(site):
    return json.loads((site / "results" / "cpu" / "pde_refiner" / "claims.json").read_text())


@pytest.fixture(scope="module")
def html(site):
    return (site / "results" / "cpu" / "pages" / "pde_refiner.html").read_text("utf-8")


@pytest.fixture(scope="module")
def index(site):
    return (site / "results" / "cpu" / "results.html").read_text("utf-8")


def rerun(site, output, *more, results=None):
    """Tabulate the site's results into another folder."""
    at = f"--preset cpu --configs {site / 'configs'} --results {results or site / 'results'}"
    run(tabulate.main, " ".join([at, f"--output-dir {output}", *map(str, more)]))


def test_csv_holds_every_claim_and_every_summary(site, judged):
    table = pd.read_csv(site / "results" / "cpu" / "results.csv")
    claims = table[table["row"] == "claim"].set_index("name")
    for claim in judged["claims"]:
        row = claims.loc[claim["name"]]
        assert row["verdict"] == claim["verdict"]
        assert row[["value", "low", "high"]].tolist() == pytest.approx(
            [claim["value"], claim["low"], claim["high"]]
        )
    assert (table["row"] == "method").sum() == len(judged["methods"])
    assert set(table["preset"]) == {"cpu"} and set(table["experiment"]) == {"pde_refiner"}


def test_index_for_the_report_is_that_of_the_site_without_links(site, index):
    light = (site / "results" / "cpu" / "claims.html").read_text("utf-8")
    assert '<a href="pages/pde_refiner.html">' in index
    assert light == index.replace('<a href="pages/pde_refiner.html">', "").replace("</a>", "")


def test_index_has_a_row_for_each_experiment_with_its_main_claim(index, judged):
    assert "Of 5 claims, 2 hold, 1 contradicted, 2 open" in index
    main = judged["claims"][0]
    assert index.count("<tr>") == 2 and main["says"] in index
    assert all(claim["says"] not in index for claim in judged["claims"][1:])


def test_the_claim_that_is_marked_main_comes_first():
    spec = {"claims": {"a": {}, "b": {"main": True}, "c": {}}}
    assert tabulate.main_claim(spec) == "b"
    assert tabulate.main_claim({"claims": {"a": {}, "b": {}}}) == "a"
    assert tabulate.main_claim({"claims": {}}) is None


def test_a_preset_that_is_not_judged_counts_no_verdict(site, tmp_path):
    outcome = tabulate.load(site / "configs", site / "results", "cpu")[0]
    for claim in outcome.judged["claims"]:
        claim["verdict"] = "not judged"
    for text in (tabulate.index([outcome], "smoke"), tabulate.page(outcome, "smoke", {})):
        assert "5 claims, not judged" in text
        assert not re.search('class="badge (holds|contradicted|open)"', text)


class Balance(HTMLParser):
    """Counts how deep the tags are, and collects what an address points to."""

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        self.sources += [
            value
            for name, value in attributes
            if name == "src" or (name == "href" and tag == "link")
        ]
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_network(html):
    parser = Balance()
    parser.feed(html)
    assert not parser.open
    figures = [f"../pde_refiner/figures/{name}.svg" for name in SITE_FIGURES]
    assert sorted(parser.sources) == sorted(["data:,", *figures])
    assert "@import" not in html and "url(" not in html and "<script" not in html


def test_page_says_what_when_and_where(html):
    for word in ("Imaginary CPU (2 cores)", "0123456789", "preset", "wall time", "84 s"):
        assert word in html
    assert "Of 5 claims, 2 hold, 1 contradicted, 2 open" in html


def test_only_what_is_judged_may_err(index):
    assert "5 claims are judged" in index
    assert tabulate.chance(["not judged", "not judged"]) == ""


def test_pages_name_the_classical_solvers(site, root):
    spec = config.compose(root / "configs", "pde_refiner", "cpu")
    assert tabulate._classical(spec) == ["coarse_equal_cost", "coarse_equal_error"]
    (outcome,) = tabulate.load(site / "configs", site / "results", "cpu")
    assert "competes" not in str(tabulate.described(outcome.facts))
    facts = outcome.facts | {"classical": ["coarse"]}
    line = ("what a surrogate competes with", "coarse, the data's own solver")
    assert line in tabulate.described(facts)


def test_pages_name_the_runs_that_diverged(site, html, tmp_path):
    assert "diverged" not in html
    results = tmp_path / "results"
    shutil.copytree(site / "results", results)
    for method in ("unet", "sobolev"):
        file = results / f"cpu/pde_refiner/{method}/seed0/evaluation.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"diverged": True}))
    (outcome,) = tabulate.load(site / "configs", results, "cpu")
    for page in (tabulate.page(outcome, "cpu", {}), record.section(outcome, "cpu", "")):
        assert "diverged in training" in page and "unet seed0, sobolev seed0: the last" in page


def test_page_shows_each_figure_with_its_caption_and_is_small(site, html, root):
    folder = site / "results" / "cpu"
    drawn = [folder / "pages" / f"../pde_refiner/figures/{name}.svg" for name in SITE_FIGURES]
    assert sum(file.stat().st_size for file in drawn) + len(html) < 3e6
    for name in SITE_FIGURES:
        caption = tabulate.read_captions(root / "workflow" / "report")[name]
        assert tabulate._text(caption) in html


def test_what_the_paper_does_not_say_is_a_dash(site, judged, html):
    unknown = [claim for claim in judged["claims"] if claim["paper"] is None]
    assert unknown
    assert html.count('data-label="paper"><span>–</span>') == len(unknown)


def test_user_text_is_escaped(site, tmp_path):
    outcome = tabulate.load(site / "configs", site / "results", "cpu")[0]
    claim = outcome.judged["claims"][0] | {"says": "<b>a | b</b>"}
    outcome = tabulate.Outcome(
        outcome.name,
        {"title": "<i>", "arxiv": '"'},
        {"claims": [claim], "methods": []},
        outcome.facts,
        {},
        {},
        outcome.task,
    )
    page = tabulate.page(outcome, "cpu", {}) + tabulate.index([outcome], "cpu")
    assert "<b>" not in page and "<i>" not in page and "No figures were drawn." in page
    row = next(
        line for line in record.section(outcome, "cpu", "").splitlines() if "a \\| b" in line
    )
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.0, "0"),
        (1.3, "1.3"),
        (0.99951, "1"),
        (53_900_000.0, "53,900,000"),
        (8.4349e-5, "8.43e-05"),
    ],
)
def test_numbers(value, text):
    assert tabulate.number(value) == text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"value": 1.5, "low": 1.2, "high": 2.0, "censored": 0.0}, "1.5 [1.2, 2]"),
        ({"value": 95.0, "low": 95.0, "high": 95.0, "censored": 0.0}, "95"),
        ({"value": 78.0, "low": 66.0, "high": 88.0, "censored": 0.25}, "≥ 78 [66, 88]"),
        ({"value": None, "low": None, "high": None, "censored": 0.0}, "no finite value"),
        (
            {
                "value": 1.5,
                "low": 1.2,
                "high": 2,
                "censored": 0.1,
                "bound": "upper",
                "verdict": "open",
            },
            "≤ 1.5 [1.2, 2]",
        ),
        (
            {
                "value": 1.5,
                "low": 1.2,
                "high": 2,
                "censored": 0.1,
                "bound": None,
                "verdict": "open",
            },
            "1.5 [1.2, 2]",
        ),
    ],
)
def test_intervals(row, text):
    assert tabulate.interval(row) == text


def test_nothing_judged_is_one_clear_line(site, tmp_path):
    at = f"--configs {site}/configs --results {tmp_path} --output-dir {tmp_path}".split()
    command = [sys.executable, "-m", "longrun.tabulate", "--preset", "cpu", *at]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "longrun.judge writes it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_lost_evaluation_is_named(site, tmp_path):
    results = tmp_path / "results" / "cpu" / "pde_refiner"
    results.mkdir(parents=True)
    judged = site / "results" / "cpu" / "pde_refiner" / "claims.json"
    (results / "claims.json").write_bytes(judged.read_bytes())
    with pytest.raises(cli.UserError, match=r"unet.seed0.evaluation.json: no such file"):
        rerun(site, tmp_path / "out", results=tmp_path / "results")
