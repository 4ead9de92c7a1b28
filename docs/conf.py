"""How the site is built: `make docs`. What nobody writes by hand comes from `longrun.site`."""

import importlib.metadata
import re
import types
from pathlib import Path

import longrun.site

ROOT = Path(__file__).parent.parent
TEMPLATES = "../src/longrun/pages/templates"

project = "Longrun"
author = "The Longrun developers"
release = importlib.metadata.version("longrun")
extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
numpydoc_show_class_members = False
autodoc_typehints_format = "short"

html_theme = "pydata_sphinx_theme"
html_title = "Longrun"
html_favicon = "favicon.svg"
html_context = {"default_mode": "auto"}
html_static_path = ["_static", f"{TEMPLATES}/parts.css", f"{TEMPLATES}/pages.js", "site.css"]
html_css_files = ["parts.css", "site.css"]
html_js_files = ["pages.js"]
html_sidebars = {"papers/index": [], "index": []}
html_theme_options = {
    "navigation_with_keys": False,
    "collapse_navigation": True,
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": {"papers/index": [], "index": [], "**": ["page-toc"]},
}
html_copy_source = False
copyright = "The Longrun developers, Apache-2.0"

longrun.site.write(ROOT)

CODE = re.compile(r"(``.+?``|`[^`]+`)")
MARKS = re.compile(r"[|*]|(?<=\w)_(?=\W|$)")


def setup(app):
    """Read docstrings as they are written: code in single backticks, equations indented."""
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before numpydoc
    app.connect("autodoc-skip-member", alias)


def alias(app, what, name, thing, skip, options):
    """Leave out names of types, whose docstrings are those of `dict` and `list`."""
    return True if isinstance(thing, types.GenericAlias) else None


def as_written(app, what, name, thing, options, lines):
    """Say in reStructuredText what the lines of a docstring mean."""
    made, equation, last = [], False, ""
    for line in lines:
        indented = line.startswith("    ")
        after_blank = bool(made) and not made[-1].strip()
        if indented and not equation and after_blank and not last.startswith((" ", "-", "=")):
            made += ["::", ""]
            equation = True
        elif line.strip() and not indented:
            equation = False
        made.append(line if equation else _escaped(line))
        last = line or last
    lines[:] = made


def _escaped(line):
    parts = CODE.split(line)  # every second one is code
    parts[::2] = [MARKS.sub(r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [f"``{part.strip('`')}``" for part in parts[1::2]]
    return "".join(parts)
