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


def _away(address: str, home: str) -> bool:
    return address.startswith("http") and not address.startswith(f"{home}/")


@contextlib.contextmanager
def visit(browser, place: Path | str, width: int = 1280, dark: bool = False) -> Iterator:
    """Open a local file, or an address of a local server.

    Fails when the page logs an error or requests anything from elsewhere.
    """
    scheme = "dark" if dark else "light"
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    address = place if isinstance(place, str) else place.resolve().as_uri()
    home = "/".join(address.split("/")[:3])  # of a file: no host
    trouble = []
    page.on("console", lambda said: trouble.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda made: trouble.append(made.url) if _away(made.url, home) else None)
    try:
        page.goto(address)
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
