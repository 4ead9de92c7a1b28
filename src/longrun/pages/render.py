"""Fill templates, and turn Markdown into HTML."""

import functools
import importlib.resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt

from longrun.pages import words

FILTERS = ("compared", "count", "escaped", "in_words", "interval", "needed", "number", "runs")


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("longrun.pages"),
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for name in FILTERS:
        made.filters[name] = getattr(words, name)
    return made


def fill(template: str, **context: Any) -> str:
    """Fill a template of the folder `templates`; one that makes HTML escapes what it is given.

    Parameters
    ----------
    template
        Name of the file without its last suffix, `.jinja`.
    context
        All that the template names: a name that is missing is an error.
    """
    return _environment().get_template(f"{template}.jinja").render(**context)


def asset(name: str) -> str:
    """Return a file of the folder `templates` as it is."""
    return importlib.resources.files("longrun.pages.templates").joinpath(name).read_text("utf-8")


def html(markdown: str) -> str:
    """Turn Markdown with tables into HTML; tags in it are shown, not obeyed.

    A wide table or picture scrolls in a box of its own.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    text: str = parser.render(markdown)
    opened = text.replace("<table>", '<div class="wide"><table>')
    return opened.replace("</table>", "</table></div>").replace("<p><img", '<p class="wide"><img')


def whole(title: str, body: str) -> str:
    """Put the body of a page into a page that needs no other file."""
    style, script = asset("page.css") + asset("parts.css"), asset("pages.js")
    return fill("shell.html", title=title, body=body, style=style, script=script)
