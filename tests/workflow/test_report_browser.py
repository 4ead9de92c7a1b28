"""results.html and the pages that it leads to, as a reader sees them, in a real browser."""

import pytest
from browser import assert_drawn, show, started_browser, visit  # noqa: F401 (a fixture)
from synthetic import SITE_FIGURES, built_site  # noqa: F401 (a fixture)

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def report(smoke_run):
    """Snakemake's report of the smoke run."""
    path = smoke_run.folder / "report.html"
    if not path.exists():
        done = smoke_run.snakemake("all", "--report", path.name, experiments="[pde_refiner]")
        assert done.returncode == 0, done.stdout
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("smoke")
def test_snakemakes_report_shows_claims_and_a_figure(browser, report):
    with visit(browser, report) as page:
        card = show(page, "Results", "verdicts").locator(".card").first
        card.wait_for()
        assert card.bounding_box()["height"] > 50
        assert card.locator(".badge").count() > 0
        show(page, "Figures", "pde_refiner", "error_over_time")
        image = page.locator("main img, #app img").last
        image.wait_for()
        assert_drawn(image)


@pytest.fixture(scope="module", params=WIDTHS)
def page(request, browser, site):
    with visit(
        browser, site / "results" / "cpu" / "pages" / "pde_refiner.html", request.param
    ) as page:
        yield page


@pytest.mark.xdist_group("site")
def test_claims_are_visible_with_their_verdicts(page):
    table = page.locator("table.claims")
    assert table.is_visible()
    box = table.bounding_box()
    assert box["width"] > 300 and box["height"] > 200
    badges = page.locator("table.claims .badge")
    assert badges.count() == 5
    assert {"holds", "contradicted", "open"} == set(badges.all_inner_texts())
    for badge in badges.all():
        assert badge.is_visible()


@pytest.mark.xdist_group("site")
def test_every_figure_is_drawn(page):
    images = page.locator("main img")
    assert images.count() == len(SITE_FIGURES)
    for image in images.all():
        assert_drawn(image)


@pytest.fixture(params=WIDTHS)
def index(request, browser, site):
    with visit(browser, site / "results" / "cpu" / "results.html", request.param) as page:
        yield page


def width(page):
    """How wide what a page shows is, tables included, beside its window."""
    tables = page.evaluate(
        """[...document.querySelectorAll("table")].map(table => {
            for (let box = table.parentElement; box; box = box.parentElement)
                if (getComputedStyle(box).overflowX == "auto")
                    return box.getBoundingClientRect().right;
            return table.getBoundingClientRect().right;
        })"""
    )
    window, whole = page.evaluate("[window.innerWidth, document.documentElement.scrollWidth]")
    return max([whole, *tables]), window


@pytest.mark.xdist_group("site")
def test_no_page_or_table_runs_out_of_the_window(page, index):
    for shown in (page, index):
        wide, window = width(shown)
        assert wide <= window


@pytest.mark.xdist_group("site")
def test_a_card_of_the_index_leads_to_a_page_and_back(index):
    assert index.locator(".card").count() == 1
    index.locator(".card a").click()
    assert index.locator("main img").count() == len(SITE_FIGURES)
    index.locator("nav a").click()
    assert index.url.endswith("results.html")


@pytest.mark.xdist_group("site")
def test_the_form_of_the_index_chooses(index):
    card, shown = index.locator(".card"), index.locator("output")
    assert shown.inner_text() == "1 paper"
    index.get_by_label("Search").fill("refiner nothing")
    assert card.is_hidden() and shown.inner_text() == "0 of 1 paper"
    index.get_by_label("Search").fill("refiner")
    index.get_by_label("Task").select_option("forecast")
    assert card.is_visible()
