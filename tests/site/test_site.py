"""The site as a reader sees it, in a real browser: built as `make docs` does."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import assert_drawn, started_browser, visit  # noqa: F401 (a fixture)

from longrun import record

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("docs")]
READ = ("README.md", "RESULTS.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff")
READ += ("bench", "configs", "examples", "src", "workflow")
NARROW, WIDE = 390, 1280
SHOWN = ("papers/pde_refiner", "papers/cape", "papers/index", "index", "results", "datasets")
SHOWN += ("metrics/index", "programs", "howto/experiment", "equations/burgers", "reliability")


@pytest.fixture(scope="module")
def built(root, tmp_path_factory):
    """The site, built where nothing is committed, with pages as today; a warning is an error."""
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("docs")
    ignored = shutil.ignore_patterns("_build", "_static", "metrics", "api", "examples")
    shutil.copytree(root / "docs", folder / "docs", ignore=ignored)
    for name in READ:
        if (root / name).exists():
            (folder / name).symlink_to(root / name)
    for name in ("README.md", "RESULTS.md"):  # which are written too
        (folder / name).unlink()
        shutil.copy(root / name, folder)
    record.write(folder, root / "configs", {}, "cpu")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    done = subprocess.run([*command, "docs", "html"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.fixture(scope="module")
def address(built):
    """Where a local server shows the site: a search reads pages, which files may not."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=built)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def visible(page):
    return page.locator(".card:visible")


def test_search_finds_a_paper(browser, address):
    with visit(browser, f"{address}/search.html?q=CAPE+channel+attention") as page:
        first = page.locator("#search-results li a", has_text="cape").first
        first.wait_for()
        first.click()
        assert "papers/cape.html" in page.url


def test_the_gallery_shows_every_paper_in_scope(browser, address, root):
    lines = (root / "docs/scope.csv").read_text("utf-8").splitlines()[1:]
    with visit(browser, f"{address}/papers/index.html") as page:
        assert visible(page).count() == len(lines)
        assert page.locator("output").inner_text() == f"{len(lines)} papers"
        assert page.locator(".card.out-of-scope small").count() == sum(
            not line.endswith(",") for line in lines
        )
        assert_drawn(page.locator(".thumb").first)


@pytest.mark.parametrize("key", ["task", "verdict", "equation", "dimension"])
def test_a_filter_filters(browser, address, key):
    with visit(browser, f"{address}/papers/index.html") as page:
        cards = page.locator(".card")
        values = cards.evaluate_all(f"cards => cards.map(card => card.dataset.{key}.split('|'))")
        select = page.locator(f"select[name={key}]")
        options = select.locator("option").all_inner_texts()[1:]
        assert set(options) == {value for own in values for value in own if value}
        for option in options:
            select.select_option(option)
            assert visible(page).count() == sum(option in own for own in values) > 0
        select.select_option("")
        assert visible(page).count() == len(values)


def test_words_and_choices_add_up(browser, address):
    with visit(browser, f"{address}/papers/index.html", NARROW) as page:
        page.locator("input[name=words]").fill("pde-refiner rollouts")
        assert visible(page).count() == 1
        page.locator("select[name=task]").select_option("map")
        assert visible(page).count() == 0
        assert page.locator(".group:visible").count() == 0
        assert page.locator("output").inner_text().startswith("0 of ")


def test_the_keyboard_alone_leads_to_a_paper(browser, address):
    with visit(browser, f"{address}/papers/index.html") as page:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "words":
                break
        page.keyboard.type("pde-refiner")
        page.keyboard.press("Enter")  # sends nothing away
        for _ in range(5):  # the four choices, then the card's link
            page.keyboard.press("Tab")
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert page.evaluate(outline) != "none"
        page.keyboard.press("Enter")
        page.wait_for_url("**/papers/pde_refiner.html")


@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_no_page_or_table_runs_out_of_the_window(browser, address, width):
    for name in SHOWN:
        with visit(browser, f"{address}/{name}.html", width) as page:
            window, whole = page.evaluate("[innerWidth, document.documentElement.scrollWidth]")
            assert whole <= window, name
            inside = page.evaluate(
                """[...document.querySelectorAll("table")].every(table => {
                    for (let box = table; box; box = box.parentElement) {
                        const over = getComputedStyle(box).overflowX;
                        if (over == "auto" || over == "scroll")
                            return box.getBoundingClientRect().right <= innerWidth + 1;
                    }
                    return table.getBoundingClientRect().right <= innerWidth + 1;
                })"""
            )
            assert inside, name


def test_a_phone_shows_each_claim_below_its_headings(browser, address):
    with visit(browser, f"{address}/papers/pde_refiner.html", NARROW) as page:
        claims = page.locator("table.claims")
        if claims.count():  # nothing before the first results
            cell = claims.locator("td[data-label=verdict]").first
            assert cell.locator(".badge").is_visible()
            label = "getComputedStyle(document.querySelector('td[data-label=verdict]'), '::before')"
            assert "verdict" in page.evaluate(f"{label}.content")


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read_by_day_and_by_night(browser, address, dark):
    contrast = """element => {
        const light = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number).map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        let box = element;
        while (getComputedStyle(box).backgroundColor.match(/, 0\\)$/)) box = box.parentElement;
        const both = [light(getComputedStyle(element).color),
                      light(getComputedStyle(box).backgroundColor)].sort((a, b) => a - b);
        return [(both[1] + 0.05) / (both[0] + 0.05), both];
    }"""
    with visit(browser, f"{address}/papers/index.html", dark=dark) as page:
        for place in (".card h3", ".card .soft", ".badge", "article h1", ".filters label"):
            for element in page.locator(place).all()[:3]:
                ratio, _ = element.evaluate(contrast)
                assert ratio >= 4.5, (place, ratio)
        body = page.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
        shades = [int(shade) for shade in re.findall(r"\d+", body)[:3]]
        assert max(shades) < 80 if dark else min(shades) > 200


class Links(HTMLParser):
    """Addresses that a page points to, those of pictures apart, and the places in it."""

    def __init__(self, file: Path):
        super().__init__()
        self.links, self.pictures, self.places = set(), set(), set()
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given.get("id"), given.get("name")}
        if tag == "img":
            self.pictures.add(given["src"])
        elif tag in ("a", "link", "script"):
            self.links.add(given.get("href") or given.get("src") or "")


@pytest.fixture(scope="module")
def pages(built):
    files = [file for file in built.rglob("*.html") if "_static" not in file.parts]
    return {file: Links(file) for file in files}


def test_no_link_is_broken(pages):
    assert len(pages) > 100
    for file, page in pages.items():
        for link in page.links | page.pictures:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            assert target.exists(), f"{file.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{file.name}: {link}"


def test_no_page_is_heavy(pages):
    for file, page in pages.items():
        local = [link for link in page.pictures if not urlsplit(link).scheme]
        size = sum((file.parent / unquote(link)).stat().st_size for link in local)
        assert file.stat().st_size + size <= 3e6, file.name


def test_what_is_committed_for_a_page_is_small(root):
    for file in (root / "docs/papers").glob("*.md"):
        drawn = re.findall(r"!\[(.*?)\]\(([^)]+)\)", file.read_text("utf-8"))
        sizes = {name: (file.parent / name).stat().st_size for _, name in drawn}
        movies = [sizes[name] for title, name in drawn if title == "movie"]
        assert all(size <= 400_000 for size in movies)
        assert sum(sizes.values()) - sum(movies) <= 150_000 * max(1, len(movies)), file.name
