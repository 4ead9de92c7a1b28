"""results.html as a reader sees it, in a real browser."""

import pytest
from browser import assert_drawn, show, started_browser, visit  # noqa: F401 (a fixture)
from synthetic import SITE_FIGURES, built_site  # noqa: F401 (a fixture)

WIDTHS = [1280, 390]


@pytest.fixture(scope="module")
def report(smoke_run):
    """Snakemake's report of the smoke run."""
    path = smoke_run.folder / "report.html"
    if not path.exists():
        done = smoke_run.snakemake("--report", path.name)
        assert done.returncode == 0, done.stdout
    return path


@pytest.mark.slow
@pytest.mark.xdist_group("smoke")
def test_snakemakes_report_shows_claims_and_a_figure(browser, report):
    with visit(browser, report) as page:
        table = show(page, "Results", "claims and methods")
        table = table.locator("#pde_refiner table.claims")
        table.wait_for()
        assert table.bounding_box()["height"] > 100
        assert table.locator(".badge").count() > 0
        show(page, "Figures", "pde_refiner", "error over time")
        image = page.locator("main img, #app img").last
        image.wait_for()
        assert_drawn(image)


@pytest.fixture(scope="module", params=WIDTHS)
def page(request, browser, site):
    with visit(browser, site / "results" / "cpu" / "results.html", request.param) as page:
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
    images = page.locator("figure img")
    assert images.count() == len(SITE_FIGURES)
    for image in images.all():
        assert_drawn(image)


@pytest.mark.xdist_group("site")
def test_page_does_not_scroll_sideways(page):
    wide, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


@pytest.mark.xdist_group("site")
def test_links_lead_to_sections(page):
    targets = [link.get_attribute("href") for link in page.locator("nav a").all()]
    assert len(targets) == 2
    for target in targets:
        assert page.locator(target).count() == 1
