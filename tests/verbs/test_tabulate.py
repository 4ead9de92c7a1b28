import dataclasses
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
from longrun.pages import gallery, paper, words
from longrun.pages.render import html as rendered
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


def test_index_for_the_report_is_that_of_the_run_without_links_and_choices(site, index, judged):
    light = (site / "results" / "cpu" / "claims.html").read_text("utf-8")
    assert '<a href="pages/pde_refiner.html">' in index and "<form" in index
    assert "<a " not in light and "<form" not in light and "<img" not in light
    assert judged["claims"][0]["says"] in light


def test_index_has_a_card_for_each_paper_with_its_main_claim(index, judged):
    assert "Of 5 claims, 2 hold, 1 contradicted, 2 open" in index
    main = judged["claims"][0]
    assert index.count("<article") == 1 and main["says"] in index
    assert words.interval(main) in index and f'badge {main["verdict"]}"' in index
    assert all(claim["says"] not in index for claim in judged["claims"][1:])
    for attribute in ('task="forecast"', 'equation="kuramoto_sivashinsky"', 'dimension="1D"'):
        assert f"data-{attribute}" in index


def test_a_paper_with_two_experiments_has_one_card(site):
    (one,) = tabulate.load(site / "configs", site / "results", "cpu", {"kuramoto_sivashinsky": 1})
    two = dataclasses.replace(one, name="again", dimensions=["2D"])
    (card,) = tabulate.cards([one, two])
    assert [entry.name for entry in card.entries] == ["pde_refiner", "again"]
    assert card.dimensions == ["1D", "2D"] and card.link == ""
    text = gallery.gallery([card])
    assert 'href="pages/again.html"' in text and 'data-dimension="1D|2D"' in text


def test_the_claim_that_is_marked_main_comes_first():
    spec = {"claims": {"a": {}, "b": {"main": True}, "c": {}}}
    assert paper.main_claim(spec) == "b"
    assert paper.main_claim({"claims": {"a": {}, "b": {}}}) == "a"
    assert paper.main_claim({"claims": {}}) is None


def test_a_preset_that_is_not_judged_counts_no_verdict(site, tmp_path):
    outcome = tabulate.load(site / "configs", site / "results", "cpu")[0]
    for claim in outcome.judged["claims"]:
        claim["verdict"] = "not judged"
    index = tabulate.index([outcome], "smoke")
    page = tabulate.page(outcome, site / "configs", "smoke", {})
    for text in (index, page):
        assert "5 claims, not judged" in text
        assert not re.search('badge (holds|contradicted|open)"|<strong>(holds|open)', text)
    assert page.count("<strong>not judged</strong>") == 5


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
        if tag not in ("meta", "link", "br", "img", "input"):
            self.open.append(tag)

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_no_network(html):
    parser = Balance()
    parser.feed(html)
    assert not parser.open
    figures = [f"../pde_refiner/figures/{name}.svg" for name in SITE_FIGURES]
    assert sorted(parser.sources) == sorted(["data:,", *figures])
    assert "@import" not in html and "url(" not in html and "<script src" not in html


def test_page_says_what_when_and_where(html):
    for word in ("Imaginary CPU (2 cores)", "0123456789", "preset", "wall time", "a time of 84"):
        assert word in html
    assert "Of 5 claims, 2 hold, 1 contradicted, 2 open" in html


def test_only_what_is_judged_may_err(index):
    assert "5 claims are judged" in index
    assert words.chance(["not judged", "not judged"]) == ""


def test_pages_name_the_classical_solvers(site, root):
    spec = config.compose(root / "configs", "pde_refiner", "cpu")
    assert tabulate._classical(spec) == ["coarse_equal_cost", "coarse_equal_error"]
    (outcome,) = tabulate.load(site / "configs", site / "results", "cpu")
    assert "competes" not in str(words.described(outcome.facts))
    facts = outcome.facts | {"classical": ["coarse"]}
    line = ("what a surrogate competes with", "coarse, the data's own solver")
    assert line in words.described(facts)


def test_pages_name_the_runs_that_diverged(site, html, tmp_path):
    assert "diverged" not in html
    results = tmp_path / "results"
    shutil.copytree(site / "results", results)
    for method in ("unet", "sobolev"):
        file = results / f"cpu/pde_refiner/{method}/seed0/evaluation.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"diverged": True}))
    (outcome,) = tabulate.load(site / "configs", results, "cpu")
    for page in (
        tabulate.page(outcome, site / "configs", "cpu", {}),
        record.section(outcome, "cpu", ""),
    ):
        assert "diverged in training" in page and "unet seed0, sobolev seed0: the last" in page


def test_page_shows_each_figure_with_its_caption_and_is_small(site, html, root):
    folder = site / "results" / "cpu"
    drawn = [folder / "pages" / f"../pde_refiner/figures/{name}.svg" for name in SITE_FIGURES]
    assert sum(file.stat().st_size for file in drawn) + len(html) < 3e6
    for name in SITE_FIGURES:
        caption = tabulate.read_captions(root / "workflow" / "report")[name]
        assert rendered(caption).strip() in html


def test_what_the_paper_does_not_say_is_a_dash(site, judged, html):
    unknown = [claim for claim in judged["claims"] if claim["paper"] is None]
    assert unknown
    claims = html.partition("<th>verdict</th>")[2].partition("</table>")[0]
    assert claims.count("<td>–</td>") == len(unknown)


def test_user_text_is_escaped(site, tmp_path):
    outcome = tabulate.load(site / "configs", site / "results", "cpu")[0]
    claim = outcome.judged["claims"][0] | {"says": "<b>a | b</b>"}
    spec = outcome.spec | {"paper": {"title": "<i>", "arxiv": '"'}}
    judged = {"claims": [claim], "methods": []}
    outcome = dataclasses.replace(outcome, spec=spec, judged=judged, figures={})
    page = tabulate.page(outcome, site / "configs", "cpu", {})
    page += tabulate.index([outcome], "cpu")
    assert "<b>" not in page and "<i>" not in page and "No pictures yet" in page
    assert page.count("&lt;b&gt;a | b&lt;/b&gt;") == 2
    section = record.section(outcome, "cpu", "").splitlines()
    row = next(line for line in section if "a \\| b" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 7


def test_page_says_how_it_works_and_what_was_tried(html, site):
    for words_ in ("perturbed with Gaussian noise", "<h2>Details", "make reproduce PAPERS="):
        assert words_ in html
    text = """
# Of the file,
# in two lines.
task:
  rate: 1.0  # paper
  steps: 3   # a short training
presets:
  cpu:
    # Tried on valid:
    #   a 1.0
    methods: {}
"""
    assert paper.tried(text) == (
        "Of the file, in two lines.\n\n"
        "`presets.cpu`: Tried on valid:\n\n    a 1.0\n\n"
        "| setting | value | why |\n|---|---|---|\n| `task.steps` | `3` | a short training |"
    )


def test_the_idea_ends_with_its_equation():
    text = "Idea.\n\nWords.\n\n    a = b\n\n    c = d\n\nMore.\n\n    e = f"
    assert paper.parts(text) == (
        "Idea.\n\nWords.\n\n    a = b\n\n    c = d",
        "More.\n\n    e = f",
    )
    assert paper.parts("Idea.\n\nMore.") == ("Idea.", "More.")


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
    assert words.number(value) == text


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
    assert words.interval(row) == text


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
