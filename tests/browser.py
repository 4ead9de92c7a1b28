"""Headless Chromium for tests that look at a page; nothing in it may reach for the network."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(name="browser", scope="module")
def started_browser():
    """The Chromium of this machine, driven by Playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=QUIET)
        yield opened
        opened.close()


@contextlib.contextmanager
def visit(browser, path: Path, width: int = 1280) -> Iterator:
    """Open a local file; fails when the page logs an error or requests anything from elsewhere."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    trouble = []
    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda made: trouble.append(made.url) if made.url[:4] == "http" else None)
    try:
        page.goto(path.resolve().as_uri())
        yield page
        assert not trouble, trouble
    finally:
        page.close()


def show(page, *path: str):
    """Click through a Snakemake report: category, subcategory, label of a result; return its frame.

    Snakemake leaves out a subcategory that is the only one of its category.
    """
    result = page.locator("tr", has_text=path[-1]).first
    page.locator("nav ol a").first.click()
    for name in path[:-1]:
        link = page.locator("li a", has_text=name)
        link.or_(result).first.wait_for()
        if not result.is_visible():
            link.click()
    result.locator("a[iconname=eye]").click()
    return page.frame_locator("iframe")


def assert_drawn(image) -> None:
    """An image is on the page, has a size, and its bytes are really a picture."""
    image.scroll_into_view_if_needed()
    assert image.is_visible()
    box = image.bounding_box()
    assert box["width"] > 50 and box["height"] > 50
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 50
