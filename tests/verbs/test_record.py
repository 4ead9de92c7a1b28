"""Pages of the repository: what was measured stays as it was, and the tables follow from it."""

import json
import shutil

import pytest
from PIL import Image
from synthetic import built_site, run  # noqa: F401 (a fixture)

from longrun import config, record
from longrun.pages import paper
from longrun.runtime.cli import UserError
from longrun.tabulate import load

pytestmark = pytest.mark.xdist_group("site")
README = "before\n<!-- begin papers -->\n<!-- end papers -->\nafter\n"


@pytest.fixture(scope="module")
def drawn(site, root, tmp_path_factory):
    """A folder with a README in which the site's results are recorded."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "README.md").write_text(README)
    at = f"--preset cpu --configs {site}/configs --results {site}/results"
    arguments = f"{at} --captions {root}/workflow/report --root "
    run(record.main, f"{arguments}{folder}")
    return folder, arguments


@pytest.fixture
def book(drawn, tmp_path, monkeypatch):
    """A copy of it, in which pictures stay as they are."""
    folder = shutil.copytree(drawn[0], tmp_path / "book")
    monkeypatch.setattr(record, "draw", lambda outcome, *_: record.pictures_of(outcome))
    return folder, drawn[1] + str(folder)


def test_a_page_says_what_the_paper_claims_how_it_works_and_what_came_out(book):
    page = (book[0] / "docs/papers/pde_refiner.md").read_text()
    for words in (
        "[arXiv:2308.05732](https://arxiv.org/abs/2308.05732)",
        "> With equal network, data and updates",
        "perturbed with Gaussian noise",  # the method's own file
        "- hardware: Imaginary CPU (2 cores)",
        "make reproduce PAPERS=pde_refiner",
        "](pde_refiner_cpu_error_over_time.webp)",
        "](pde_refiner_cpu_space_time.webp)",
    ):
        assert words in page


def test_two_small_pictures_are_beside_a_page(book):
    drawn = sorted((book[0] / "docs/papers").glob("*.webp"))
    assert [file.stem for file in drawn] == [
        "pde_refiner_cpu_error_over_time",
        "pde_refiner_cpu_space_time",
    ]
    assert sum(file.stat().st_size for file in drawn) <= 150_000
    for file in drawn:
        with Image.open(file) as picture:
            assert picture.width >= 600


@pytest.mark.parametrize(("change", "old"), [("", False), ("holds: 1.06", True)])
def test_results_made_with_other_settings_say_so(book, site, change, old):
    folder, _ = book
    files = folder / "docs/papers/pde_refiner.md", folder / "RESULTS.md"
    configs = shutil.copytree(site / "configs", folder / "configs")
    experiment = configs / "experiments/pde_refiner.yaml"
    text = experiment.read_text()
    assert text.count("holds: 1.05") > 0
    experiment.write_text(text.replace("holds: 1.05", change) if old else text + "\n# a comment\n")
    record.write(folder, configs, {}, "cpu")
    assert all((paper.OLD in file.read_text()) == old for file in files)
    assert ("claims are judged" in files[1].read_text()) != old


def test_what_is_not_judged_has_no_picture(site, tmp_path):
    (outcome,) = load(site / "configs", site / "results", "cpu")
    for claim in outcome.judged["claims"]:
        claim["verdict"] = "not judged"
    assert record.draw(outcome, site / "configs", site / "results", "cpu", tmp_path) == []
    assert not [*tmp_path.iterdir()]


def test_results_has_a_row_for_each_experiment(book):
    text = (book[0] / "RESULTS.md").read_text()
    (row,) = [line for line in text.splitlines() if line.startswith("| [")]
    assert row.startswith("| [pde_refiner](docs/papers/pde_refiner.md) | With equal network")
    assert "Of 1 main claim, " in text and "Of 5 claims, 2 hold, 1 contradicted, 2 open" in text
    assert "### forecast" in text


def test_readme_lists_the_papers_and_keeps_the_rest(book):
    text = (book[0] / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n")
    assert "| forecast | given the last frames" in text
    assert "[pde_refiner](docs/papers/pde_refiner.md)" in text


def test_once_more_changes_nothing_and_other_presets_stay(book):
    folder, arguments = book
    page = folder / "docs/papers/pde_refiner.md"
    at_gpu = page.read_text().split("<!-- begin cpu -->")[1].split("<!-- end cpu -->")[0]
    at_gpu = at_gpu.replace("preset cpu", "preset gpu").replace("Imaginary CPU", "Another")
    page.write_text(f"{page.read_text()}<!-- begin gpu -->{at_gpu}<!-- end gpu -->")
    run(record.main, arguments)
    once = {file: file.read_text() for file in folder.rglob("*.md")}
    assert at_gpu in once[page] and "Imaginary CPU" in once[page]
    assert "## gpu" in once[folder / "RESULTS.md"]
    run(record.main, arguments)
    assert {file: file.read_text() for file in folder.rglob("*.md")} == once


@pytest.mark.parametrize(
    "document",
    [
        "<!-- begin cpu -->\n",
        "<!-- end cpu -->\n<!-- begin cpu -->\n",
        "<!-- begin cpu --><!-- end cpu --><!-- begin cpu --><!-- end cpu -->",
    ],
)
def test_broken_markers_are_refused(book, document):
    folder, arguments = book
    shutil.copy(folder / "RESULTS.md", folder / "old.md")
    (folder / "docs/papers/pde_refiner.md").write_text(document)
    with pytest.raises(UserError, match="begin cpu"):
        run(record.main, arguments)
    assert (folder / "RESULTS.md").read_text() == (folder / "old.md").read_text()


def test_a_readme_without_markers_is_refused(book):
    folder, arguments = book
    (folder / "README.md").write_text("nothing")
    with pytest.raises(UserError, match="begin papers"):
        run(record.main, arguments)


def test_the_committed_tables_follow_from_the_committed_pages(root, tmp_path):
    """Nobody types a number: the files are what `make results` would write."""
    for name in ("README.md", "RESULTS.md", "docs/papers"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, tmp_path / name)
    record.write(tmp_path, root / "configs", {}, "cpu")
    for name in ("README.md", "RESULTS.md"):
        assert (tmp_path / name).read_text() == (root / name).read_text()
    for experiment in config.experiments(root / "configs"):
        assert (root / f"docs/papers/{experiment}.md").exists()


def test_what_was_not_run_at_a_preset_is_named():
    pages = {"old": {"cpu": "text"}, "new": {}}
    table = record.results(pages, dict.fromkeys(pages, "forecast"), dict.fromkeys(pages, ()))
    assert "Not run yet at this preset: [new](docs/papers/new.md).\n" in table
    del pages["new"]
    assert "Not run" not in record.results(pages, {"old": "forecast"}, {"old": ()})


def test_runs_of_other_settings_are_not_recorded_as_todays(site, tmp_path):
    spec = config.compose(site / "configs", "pde_refiner", "cpu")
    folder = shutil.copytree(site / "results/cpu/pde_refiner", tmp_path / "pde_refiner")
    record.check_settings(spec, folder)  # written before settings were kept
    path = folder / "unet/seed1/evaluation.json"
    note = json.loads(path.read_text())
    today = config.run_settings(spec, "unet")
    path.write_text(json.dumps(note | {"settings": today}))
    record.check_settings(spec, folder)
    spec["task"]["learning_rate"] = 1e-2
    assert config.run_settings(spec, "unet") != today
    with pytest.raises(UserError, match="unet/seed1: was made with other settings"):
        record.check_settings(spec, folder)
