"""What the site is built from: nobody types a status, a link or the meaning of a metric."""

import csv

import pytest
from PIL import Image

from longrun import config, record, site
from longrun.pages.gallery import OUT, PLANNED, Card, Entry

HEADER = "title,year,arxiv,task,out_of_scope_because\n"


@pytest.fixture(scope="module")
def specs(root):
    configs = root / "configs"
    return {name: config.compose(configs, name, "cpu") for name in config.experiments(configs)}


def card(name, title):
    return Card(title=title, task="map", entries=[Entry(name, "It holds.", "holds")])


def test_a_paper_is_done_once_an_experiment_cites_its_number_or_has_its_title(tmp_path):
    file = tmp_path / "scope.csv"
    file.write_text(
        f"{HEADER}One,2020,2001.00001,map,\nA second: paper,2021,,map,\n"
        "Third,2022,2201.00001,map,\nFourth,,,,another field\n"
    )
    specs = {
        "a": {"paper": {"title": "Another title", "arxiv": "2001.00001"}},
        "b": {"paper": {"title": "A Second  paper", "arxiv": "2101.00001"}},
        "own": {"paper": {"title": "One of my own", "arxiv": "2501.00001"}},
    }
    done = {name: card(name, spec["paper"]["title"]) for name, spec in specs.items()}
    cards = site.scope(file, specs, done)
    assert [(one.title, one.status) for one in cards] == [
        ("Another title", ""),
        ("A Second  paper", ""),
        ("Third", PLANNED),
        ("Fourth", OUT),
        ("One of my own", ""),
    ]
    assert cards[2].link == "https://arxiv.org/abs/2201.00001"
    assert cards[3].reason == "another field"


def test_every_experiment_is_of_a_paper_in_scope(root, specs):
    with (root / "docs/scope.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    titles = [row["title"] for row in rows]
    assert len(titles) == len(set(titles)) > 190
    for name, spec in specs.items():
        found = [row for row in rows if site._same(spec["paper"], row)]
        assert len(found) == 1 and not found[0]["out_of_scope_because"], name
    assert all(row["task"] or row["out_of_scope_because"] for row in rows)


def test_the_card_of_an_experiment_says_what_its_page_says(root, specs):
    spec = specs["cape"]
    pages = "".join(
        f"<!-- begin {preset} -->\n## Results at preset {preset}\n\n{record.paper.HEADER}\n"
        f"|---|---|---|---|---|---|\n| It errs less. (nrmse: a / b) | {value} [0.5, 2] | – | ≤ 1 | "
        f"**{verdict}** | 3 seeds × 6 trajectories |\n\n<!-- end {preset} -->\n"
        for preset, value, verdict in (("cpu", 1.1, "open"), ("gpu", 0.9, "holds"))
    )
    made = site._done(root / "configs", "cape", spec, pages, "", {"advection": 1})
    (entry,) = made.entries
    assert (entry.says, entry.measured, entry.verdict) == ("It errs less.", "0.9 [0.5, 2]", "holds")
    assert "preset gpu" in entry.more and made.dimensions == ["1D"] and made.year == "2023"
    never = site._done(root / "configs", "cape", spec, "# cape\n", "", {})
    assert never.entries[0].verdict == "not run yet"
    text = " ".join(site.papers([made, never]).split())
    assert "1 are done, 1 have an experiment that was not run yet, 0 are planned" in text


def test_every_metric_that_a_claim_names_has_a_page_that_names_the_claim(specs):
    pages = site.metrics(specs)
    for name, spec in specs.items():
        for claim in spec["claims"].values():
            page = pages[f"metrics/{claim['metric']}.md"]
            assert f"[{name}](../papers/{name}.md): {claim['says']}" in page
    assert "first falls below 0.8" in pages["metrics/correlation_time_0.8.md"]


def test_links_lead_to_the_pages_of_the_site():
    text = "[a](docs/papers/a.md#x) [b](bench/README.md) [c](a/x.py) [d](https://doi.org) [e](#z)"
    assert site.relinked(text, "") == (
        "[a](papers/a.md#x) [b](benchmarks.md) [c](../a/x.py) [d](https://doi.org) [e](#z)"
    )
    assert site.relinked("[a](../README.md) [b](solvers.py)", "bench") == (
        "[a](start.md) [b](../bench/solvers.py)"
    )


def test_an_example_is_shown_as_text_and_code(tmp_path):
    (tmp_path / "make.py").write_text(
        "# ---\n# jupyter: 1\n# ---\n\n# %% [markdown]\n# # Make data\n#\n# It is easy.\n\n"
        "# %%\nx = 1  # one\n"
    )
    pages = site.examples(tmp_path)
    assert pages["examples/make.md"].startswith(
        "# Make data\n\nIt is easy.\n\n```python\nx = 1  # one\n```\n"
    )
    assert "toctree" in pages["examples/index.md"]
    assert "toctree" not in site.examples(tmp_path / "none")["examples/index.md"]


def test_a_thumbnail_is_small_and_of_the_movie_first(tmp_path):
    spec = {"test": ["advection"], "train": ["advection"]}
    assert site._thumb(tmp_path, "cape", spec) == ""
    for folder in ("papers", "datasets"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (900, 900), "red").save(tmp_path / "datasets/advection.png")
    Image.new("RGB", (900, 300), "blue").save(tmp_path / "papers/cape_cpu.webp")
    assert site._thumb(tmp_path, "cape", spec) == "cape.webp"
    with Image.open(tmp_path / "_static/thumbs/cape.webp") as picture:
        assert picture.size == (480, 160)


def test_api_names_no_private_module_but_the_bases():
    pages = site.api()
    text = "".join(pages.values())
    assert ".. automodule:: longrun.solvers.spectral" in text
    assert ".. automodule:: longrun.tasks._learner" in text
    assert "longrun.tasks._scoring" not in text
