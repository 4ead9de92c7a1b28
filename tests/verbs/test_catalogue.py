import json
import re
import sys

import numpy as np
import pytest
import stores

from longrun import catalogue, config, inspect
from longrun.runtime import registry


def facts(path, **options):
    store = stores.make(path, equation="kuramoto_sivashinsky", **options)
    store.attrs["provenance"] = {
        "commit": "c0ffee00",
        "hardware": {"cpu": "a processor"},
        "versions": {"python": "3.11", "torch": "2"},
    }
    return json.loads(json.dumps(inspect.facts(store)))


@pytest.mark.parametrize(
    ("space", "fields", "panels"),
    [((), ("x", "y"), 2), ((8,), ("u",), 4), ((8, 6), ("u", "v"), 10), ((8, 6, 4), ("u",), 5)],
)
def test_previews_show_every_kind_of_field(tmp_path, space, fields, panels):
    store = stores.make(tmp_path / "toy.zarr", fields=fields, space=space)
    figure = inspect.preview(store)
    assert len(figure.axes) == panels  # with colour bars
    labels = [axes.get_ylabel() for axes in figure.axes]
    for name in fields:
        assert any(f"{name} [1]" in label for label in labels)
    inspect._save(figure, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")


def test_a_steady_map_shows_samples(tmp_path):
    splits = {name: {"trajectories": 4, "frames": 1} for name in stores.SPLITS}
    store = stores.make(tmp_path / "toy.zarr", ("a", "b"), (8, 8), splits)
    titles = [axes.get_title() for axes in inspect.preview(store).axes]
    assert titles[:3] == ["sample 0", "sample 1", "sample 3"]


EQUATION = "kuramoto_sivashinsky"


def test_the_pages_list_what_was_measured(tmp_path):
    found = facts(tmp_path / "waves.zarr")
    steady = found | {"predictability": None, "predictability_censored": None}
    made = {"waves": found, "maps": steady}
    table = catalogue.table("smoke", made, "", ["maps", "waves"])
    link = "[waves](equations/kuramoto_sivashinsky.md#waves)"
    assert f"| {link} | kuramoto_sivashinsky | 8 | 7 + 3 + 1 × 23 | 1.0e-01 |" in table
    assert "| 5 |" in table and "| none |" in table
    page = catalogue.equation_page(EQUATION, made, "", ["maps", "waves"])
    assert page.count("Long waves grow") == 1  # of the equation's docstring, once for all
    assert "## waves" in page and "![waves](../datasets/waves.png)" in page
    assert "c0ffee" in page and "a processor" in page
    censored = catalogue.row("waves", found | {"predictability_censored": 0.5})
    assert "| ≥ 5 |" in censored


def test_the_pages_keep_what_was_measured_at_another_time(tmp_path):
    found = facts(tmp_path / "waves.zarr")
    both = {"maps": found, "waves": found}
    old = catalogue.table("cpu", {"maps": found, "gone": found}, "", ["gone", "maps"])
    table = catalogue.table("cpu", {"waves": found}, old, ["maps", "waves"])
    assert table == catalogue.table("cpu", both, "", ["maps", "waves"])
    other = catalogue.table("gpu", {"waves": found}, old, ["maps", "waves"])
    assert other.endswith("at this preset yet: `maps`.\n")
    old = catalogue.equation_page(EQUATION, {"maps": found, "gone": found}, "", ["gone", "maps"])
    page = catalogue.equation_page(EQUATION, {"waves": found}, old, ["maps", "waves"])
    assert page == catalogue.equation_page(EQUATION, both, "", ["maps", "waves"])


def test_the_committed_table_leads_to_every_dataset(root):
    """A row for each dataset, whose link leads to a part of its equation's page."""
    table = (root / "docs/datasets.md").read_text()
    links = re.findall(r"^\| \[(\w+)\]\((equations/\w+\.md)#(\w+)\)", table, re.M)
    later = re.findall(r"`(\w+)`", table.partition(catalogue.NOT_MADE)[2])
    every = config.datasets(root / "configs")
    assert [name for name, _, _ in links] == [name for name in every if name not in later]
    assert set(later) <= set(every)
    for name, file, part in links:
        assert name == part
        text = (root / "docs" / file).read_text()
        assert f"\n## {name}\n" in text and f"../datasets/{name}.png" in text


def test_every_equation_explains_itself():
    for name in registry.names("equations"):
        text = catalogue.about(name)
        assert len(text.split()) > 25, name
        assert "Parameters" not in text.splitlines()


def test_the_command_takes_the_facts_that_there_are(root, tmp_path, monkeypatch):
    arguments = ["catalogue", "--preset", "smoke", "--configs", str(root / "configs")]
    arguments += ["--facts", str(tmp_path), "--output", str(tmp_path / "docs" / "datasets.md")]
    monkeypatch.setattr(sys, "argv", arguments)
    catalogue.main()
    table = (tmp_path / "docs" / "datasets.md").read_text()
    assert "`darcy`" in table.partition(catalogue.NOT_MADE)[2]
    found = facts(tmp_path / "waves.zarr")
    for name in config.datasets(root / "configs"):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
        (tmp_path / f"{name}.png").write_bytes(b"picture")
    catalogue.main()
    text = (tmp_path / "docs" / "equations" / "kuramoto_sivashinsky.md").read_text()
    assert "## kuramoto_sivashinsky" in text
    assert "[darcy](equations/" in (tmp_path / "docs" / "datasets.md").read_text()
    picture = tmp_path / "docs" / "datasets" / "kuramoto_sivashinsky.png"
    assert picture.read_bytes() == b"picture"


def test_a_store_of_unknown_error_says_so(tmp_path):
    writer = stores.begin(tmp_path / "toy.zarr")
    stores.fill(writer)
    unknown = ("reference_error", "predictability", "predictability_censored")
    writer.finish(np.empty(0), np.empty(0), dict.fromkeys(unknown))
    store = inspect.open_store(tmp_path / "toy.zarr")
    assert store.predictability == np.inf
    assert [len(part) for part in store.reference_error()] == [0, 0]
    assert store.attrs["reference_error"] is None
