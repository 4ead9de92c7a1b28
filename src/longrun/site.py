"""Write what the site is built from besides the pages in `docs`, while it is built.

The gallery of papers, pages on metrics, programs and public modules, and what README.md and its
neighbours say. Git ignores them all.
"""

import csv
import importlib
import posixpath
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from longrun import config, record
from longrun.__main__ import verbs
from longrun.config.tasks import _common
from longrun.config.tasks._metric import Metric, metric
from longrun.pages import data, paper, words
from longrun.pages.gallery import NOT_RUN, OUT, PLANNED, Card, Entry, gallery, merged
from longrun.pages.render import fill
from longrun.runtime import cli, registry

PRESETS = ("paper", "gpu", "cpu")  # the largest that was run is shown
THUMB = (480, 320)  # pixels at most
# where the site has what the repository has at its top
PAGES = {
    "README.md": "start.md",
    "RESULTS.md": "results.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "bench/README.md": "benchmarks.md",
    "docs/papers": "papers/index.md",
}
PUBLIC = {
    "From Python": ["api", "trained"],
    "Tasks": ["tasks/_learner", "tasks"],
    "Equations": ["equations/_base"],
    "Solvers": ["solvers/_base", "solvers"],
    "Data": ["data"],
    "Metrics": ["metrics"],
    "Networks": ["nn"],
    "Training": ["training/_base", "training", "optimisers/_base"],
    "Figures": ["figures/_inputs", "figures/_style"],
}
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def write(root: Path) -> None:
    """Write all generated pages of a checkout into its folder `docs`."""
    configs, docs = root / "configs", root / "docs"
    specs = {name: config.compose(configs, name, "cpu") for name in config.experiments(configs)}
    pages = {name: (docs / "papers" / f"{name}.md").read_text("utf-8") for name in specs}
    thumbs = {name: _thumb(docs, name, spec) for name, spec in specs.items()}
    sides = data.dimensions(docs / "datasets.md")
    done = {
        name: _done(configs, name, spec, pages[name], thumbs[name], sides)
        for name, spec in specs.items()
    }
    made = {"papers/index.md": papers(scope(docs / "scope.csv", specs, done))}
    made |= metrics(specs)
    made |= {"programs.md": programs(), "start.md": start(root)} | api()
    made |= {
        page: relinked((root / file).read_text("utf-8"), posixpath.dirname(file))
        for file, page in PAGES.items()
        if (root / file).is_file() and page not in made
    }
    made |= examples(root / "examples")
    for name, text in made.items():
        with cli.atomic(docs / name) as part:
            part.write_text(text, "utf-8")


def scope(
    file: Path, specs: Mapping[str, Mapping[str, Any]], done: Mapping[str, Card]
) -> list[Card]:
    """Return a card for each paper that we mean to treat, and for each that an experiment adds.

    Parameters
    ----------
    file
        Title, year, arXiv number, task, and why it is left out: empty for most.
    specs
        The experiments: a paper is done once one cites its number, or has its title.
    done
        Card of each experiment.
    """
    with file.open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    cards = []
    left = dict(done)
    for row in rows:
        own = [name for name in left if _same(specs[name]["paper"], row)]
        cards += merged(left.pop(name) for name in own)
        if not own:
            cards.append(_open(row))
    return [*cards, *merged(left.values())]


def _same(cited: Mapping[str, Any], row: Mapping[str, str]) -> bool:
    """Whether an experiment is of the paper of a row."""
    number = cited.get("arxiv")
    return (bool(number) and number == row["arxiv"]) or _plain(cited["title"]) == _plain(
        row["title"]
    )


def _plain(title: str) -> str:
    return re.sub(r"\W+", " ", title).strip().lower()


def _open(row: Mapping[str, str]) -> Card:
    """Return the card of a paper without an experiment."""
    reason = row["out_of_scope_because"]
    return Card(
        title=row["title"],
        task=row["task"] or OUT,
        year=row["year"],
        status=OUT if reason else PLANNED,
        reason=reason,
        source=f"https://arxiv.org/abs/{row['arxiv']}" if row["arxiv"] else "",
    )


def _done(
    configs: Path,
    name: str,
    spec: Mapping[str, Any],
    page: str,
    thumb: str,
    sides: Mapping[str, int],
) -> Card:
    """Return the card of an experiment: what its page says of the largest preset that was run."""
    sections = record.sections_of(page, Path(f"{name}.md"))
    preset = next((one for one in PRESETS if one in sections), None)
    text = sections[preset] if preset else ""
    main = paper.main_claim(spec)
    says = spec["claims"][main]["says"] if main else ""
    entry = Entry(name, says, NOT_RUN, link=f"{name}.html")
    if claims := record.claims_of(text):
        said, measured, _, needed, verdict, _ = claims[0]
        verdicts = [claim[4].strip("*") for claim in claims]
        entry = Entry(
            name=name,
            says=re.sub(r" \([^()]*: [^()]*\)$", "", said),
            verdict=verdict.strip("*"),
            measured=measured,
            needed=needed,
            link=f"{name}.html",
            more=f"preset {preset}: {words.count(verdicts)}",
        )
    return Card(
        title=spec["paper"]["title"],
        task=spec["task"]["name"],
        year=words.year(spec["paper"]),
        about=str(spec["paper"].get("venue") or ""),
        picture=f"../_static/thumbs/{thumb}" if thumb else "",
        entries=[entry],
        equations=data.equations(configs, spec, "cpu"),
        dimensions=data.dimensions_of(spec, sides),
    )


def _thumb(docs: Path, name: str, spec: Mapping[str, Any]) -> str:
    """Make a small picture of an experiment: of its movie, its data, or its figures.

    The name of the file, or nothing where there is no picture.
    """
    movies = [docs / "papers" / f"{name}_{preset}.webp" for preset in PRESETS]
    drawn = [docs / "datasets" / f"{store}.png" for store in [*spec["test"], *spec["train"]]]
    figures = [one for preset in PRESETS for one in docs.glob(f"papers/{name}_{preset}_*.webp")]
    source = next((file for file in [*movies, *drawn, *figures] if file.exists()), None)
    if source is None:
        return ""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
        small.thumbnail(THUMB)
    with cli.atomic(docs / "_static" / "thumbs" / f"{name}.webp") as part:
        small.save(part, "webp", quality=75, method=6)
    return f"{name}.webp"


def papers(cards: list[Card]) -> str:
    """Write the page with the gallery of all papers."""
    counts = {status: sum(card.status == status for card in cards) for status in ("", PLANNED, OUT)}
    waits = sum({entry.verdict for entry in card.entries} == {NOT_RUN} for card in cards)
    return fill(
        "papers.md",
        total=len(cards),
        done=counts[""] - waits,
        waits=waits,
        planned=counts[PLANNED],
        out=counts[OUT],
        gallery=gallery(cards),
    )


def metrics(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Write a page for each metric, of tasks and of single methods, and their index."""
    found: dict[str, dict[str, Metric]] = {}
    for task in registry.names("tasks"):
        module = importlib.import_module(f"longrun.config.tasks.{task}")
        for name, entry in (module.METRICS | _common.METRICS).items():
            found.setdefault(name, {})[task] = entry
    for method in registry.names("methods"):
        for name, (heading, meaning) in registry.metrics(method).items():
            found.setdefault(name, {})[method] = metric(heading, meaning)
    made = {
        _metric_page(name): fill("metric.md", name=name, places=where, claims=_about(name, specs))
        for name, where in found.items()
    }
    rows = [(name, _metric_page(name), found[name]) for name in sorted(found)]
    return made | {"metrics/index.md": fill("metrics.md", metrics=rows)}


def _metric_page(name: str) -> str:
    """Return the page of a metric; `drift_*` stands for a metric of each conserved quantity."""
    return f"metrics/{name.replace('*', 'each')}.md"


def _about(name: str, specs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the claims on a metric: experiment and sentence."""
    return [
        (experiment, claim["says"])
        for experiment, spec in specs.items()
        for claim in spec["claims"].values()
        if name in (claim["metric"], claim.get("explains"))
    ]


def programs() -> str:
    """Write the page on all programs: what each says when it is asked for help."""
    helped = {}
    for verb in verbs():
        parser = importlib.import_module(f"longrun.{verb}").parser()
        helped[verb] = parser.format_help()
    return fill("programs.md", programs=helped)


def start(root: Path) -> str:
    """Write the page for beginners: what README.md says from `Start` on, up to clusters."""
    text = (root / "README.md").read_text("utf-8")
    body = text[text.index("## Start") : text.index("## On a cluster")]
    return "# Getting started\n\n" + relinked(body.partition("\n")[2].lstrip(), "")


def relinked(text: str, folder: str) -> str:
    """Point the links of a file of the repository to where the site has what they lead to.

    Parameters
    ----------
    folder
        Of the file, from the top of the repository; it becomes a page at the top of the site.
    """

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, found[1]))
        known = PAGES.get(target) or target.removeprefix("docs/")
        place = known if known != target else posixpath.join("..", target)
        return f"]({place}{found[2] or ''})"

    return LINK.sub(moved, text)


def examples(folder: Path) -> dict[str, str]:
    """Write a page for each example: scripts in the percent format, their text as text."""
    made = {f"examples/{file.stem}.md": _example(file) for file in sorted(folder.glob("*.py"))}
    return made | {"examples/index.md": fill("examples.md", any=bool(made))}


def _example(file: Path) -> str:
    cells = re.split(r"^# %%(.*)\n", file.read_text("utf-8"), flags=re.M)
    parts = []
    for kind, text in zip(["", *cells[1::2]], cells[::2], strict=True):
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", text.strip(), flags=re.M))
        elif text.strip() and not _is_header(text):
            parts.append(f"```python\n{text.strip()}\n```")
    return "\n\n".join(parts) + f"\n\nThe whole of it is `examples/{file.name}`.\n"


def _is_header(text: str) -> bool:
    """Whether a cell is the header that jupytext writes."""
    return all(line.startswith("#") for line in text.strip().splitlines())


def api() -> dict[str, str]:
    """Write the pages on what Python code may use, and their index."""
    groups = {title: _modules(names) for title, names in PUBLIC.items()}
    groups = {title: modules for title, modules in groups.items() if modules}
    made = {
        f"api/{title.lower().replace(' ', '_')}.md": fill("api.md", title=title, modules=modules)
        for title, modules in groups.items()
    }
    return made | {"api/index.md": fill("apis.md", groups=groups)}


def _modules(names: Iterable[str]) -> list[str]:
    """Return the modules of a group; a folder stands for those that have no underscore."""
    found = []
    for name in names:
        place = registry.ROOT / name
        files = sorted(place.glob("[!_]*.py")) if place.is_dir() else [place.with_suffix(".py")]
        found += [registry.module_name(file) for file in files if file.exists()]
    return found
