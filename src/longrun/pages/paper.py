"""The page of a paper: what it claims, how it works, what came out, what was tried."""

import ast
import itertools
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from longrun.config.layers import named
from longrun.pages import words
from longrun.pages.render import fill
from longrun.runtime import registry

OLD = "were made and judged with earlier settings, at the commit that the page names"
HEADER = "| claim | measured [95 %] | paper | needed | verdict | runs |"
KEY = re.compile(r"( *)([\w.'\"]+):(.*)")
NOTED = re.compile(r"\s*(.*?)\s+# (.+)")


class Picture(NamedTuple):
    """A picture beside a page."""

    title: str
    file: str
    caption: str


def main_claim(spec: Mapping[str, Any]) -> str | None:
    """Name of the claim that a paper is cited for: `main: true`, else the first."""
    claims = spec["claims"]
    return next((name for name in claims if claims[name].get("main")), next(iter(claims), None))


def page(
    configs: Path,
    name: str,
    spec: Mapping[str, Any],
    sections: Mapping[str, str],
    old: Container[str] = (),
    data: Mapping[str, str | None] | None = None,
) -> str:
    """Write a paper's page in Markdown.

    Parameters
    ----------
    spec
        The composed experiment, at any preset.
    sections
        What to say of each preset, from `section`.
    old
        Presets whose results were made with other settings.
    data
        Where each dataset is described. With it sections stand between two markers each, by which
        they are found again.
    """
    paper = spec["paper"]
    main = main_claim(spec)
    how, details = parts(how_it_works(spec))
    stores = dict.fromkeys([*spec["train"], *spec["test"]])
    return fill(
        "paper.md",
        name=name,
        cited=cited(paper),
        task=spec["task"]["name"],
        data=[(store, (data or {}).get(store)) for store in stores],
        claim=spec["claims"][main]["says"] if main else None,
        how=how,
        details=details,
        sections=sections,
        old=old,
        earlier=OLD,
        markers=data is not None,
        pictures=any("![" in text for text in sections.values()),
        tried=tried((configs / "experiments" / f"{name}.yaml").read_text("utf-8")),
        title=paper.get("title", ""),
        arxiv=paper.get("arxiv"),
        venue=paper.get("venue"),
        year=words.year(paper),
    )


def cited(paper: Mapping[str, Any]) -> str:
    """Title, venue and number of a paper, those that are known, as Markdown."""
    parts = [words.escaped(paper[key]) for key in ("title", "venue") if paper.get(key)]
    if arxiv := paper.get("arxiv"):
        parts.append(f"[arXiv:{words.escaped(arxiv)}](https://arxiv.org/abs/{arxiv})")
    return ", ".join(parts)


def section(
    judged: Mapping[str, Any],
    facts: Sequence[tuple[str, str]],
    methods: tuple[Sequence[str], Sequence[Sequence[str]]],
    preset: str,
    pictures: Sequence[Picture] = (),
    movies: Sequence[Picture] = (),
    made_with: str = "",
) -> str:
    """Write what a paper's page says of one preset, the main claim first.

    Parameters
    ----------
    judged
        ``claims.json``.
    facts
        From `words.described`.
    methods
        Header and rows of the table of methods.
    made_with
        A comment that changes when the results should.
    """
    return fill(
        "section.md",
        preset=preset,
        made_with=made_with,
        facts=facts,
        header=HEADER,
        claims=judged["claims"],
        columns=list(methods[0]),
        rows=methods[1],
        pictures=pictures,
        movies=movies,
    )


def how_it_works(spec: Mapping[str, Any]) -> str:
    """Return the docstring of the file of the paper's method: equations and deviations.

    The method is the one that cites the paper; where several do, or none, the main claim decides.
    """
    main = main_claim(spec)
    names = named(spec["claims"][main], "of") if main else []
    names += [name for name in spec["methods"] if name not in names]
    texts = []
    for name in names:
        file = registry.path("methods", spec["methods"][name]["name"])
        texts.append(ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "")
    arxiv = spec["paper"].get("arxiv") or "no number"
    return next((text for text in texts if arxiv in text), texts[0])


def parts(text: str) -> tuple[str, str]:
    """Split a docstring after its first equation, which is indented: the idea, and the rest."""
    blocks = text.split("\n\n")
    shown = [block.startswith("    ") for block in blocks]
    last = shown.index(True) if True in shown else 0
    while last + 1 < len(blocks) and shown[last] and shown[last + 1]:
        last += 1
    return "\n\n".join(blocks[: last + 1]), "\n\n".join(blocks[last + 1 :])


def tried(text: str) -> str:
    """Return the comments of an experiment's file as Markdown, with the keys that they are about.

    Comments on lines of their own are paragraphs; those that follow a value are the rows of a
    table, without those that say no more than where a value is from.
    """
    remarks = [
        (f"`{'.'.join(key)}`: " if key else "") + _prose(lines) for key, lines in _comments(text)
    ]
    rows = [
        f"| `{'.'.join(key)}` | {f'`{value}`' if value else ''} | {words.escaped(note)} |"
        for key, value, note in _notes(text)
    ]
    if rows:
        remarks.append("\n".join(["| setting | value | why |", "|---|---|---|", *rows]))
    return "\n\n".join(remarks)


def _keyed(text: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield each line with the keys that it belongs to, and what follows its own key."""
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.strip():
            above = [(depth, key) for depth, key in above if depth < indent]
        rest = ""
        if found := KEY.match(line):
            above.append((indent, found[2].strip("'\"")))
            rest = found[3]
        yield tuple(key for _, key in above), line, rest


def _comments(text: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield blocks of whole lines of comment, with the keys above them."""
    for own, lines in itertools.groupby(_keyed(text), lambda one: one[1].lstrip().startswith("#")):
        if own:
            block = [*lines]
            yield block[0][0], [line.strip().removeprefix("#").rstrip() for _, line, _ in block]


def _notes(text: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield the comments that follow a value: keys, value, comment."""
    for keys, line, rest in _keyed(text):
        found = None if line.lstrip().startswith("#") else NOTED.fullmatch(rest)
        if found and found[2] != "paper":
            yield keys, found[1].replace("|", "\\|"), found[2]


def _prose(lines: Sequence[str]) -> str:
    """Join the lines of a comment to a paragraph; what is set off in it, as a table, stays so."""
    made = []
    for set_off, group in itertools.groupby(lines, lambda line: line.startswith("   ")):
        block = [*group]
        if set_off:
            made.append("\n".join(f"    {line.strip()}" for line in block))
        else:
            made.append(words.escaped(" ".join(line.strip() for line in block)).replace("\\|", "|"))
    return "\n\n".join(made)
