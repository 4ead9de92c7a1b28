"""Write what was made here into the repository's pages, for readers who run nothing.

Outputs below `--root`
----------------------
`docs/papers/{experiment}.md`: what the paper does, and a section of results for each preset, with a
picture beside it.
`RESULTS.md`: one row for each of these pages.
`README.md`: its table of papers.

A page keeps its sections of other presets, and says where the settings have changed since.
RESULTS.md and README.md are made from the pages alone, so what was made at another time, on another
machine, stays as it was measured. Where nothing was made here, all follow what the pages, and the
files of the methods, say.
"""

import argparse
import ast
import logging
import re
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from longrun import config, plot
from longrun.pages import paper, words
from longrun.pages.render import fill
from longrun.runtime import cli, registry, times
from longrun.runtime.cli import UserError
from longrun.tabulate import MOVED, Outcome, load, method_table, read_captions

log = logging.getLogger(__name__)

PAPERS = Path("docs/papers")
TELLING = ("claims", "error_over_time", "space_time")  # before others of their folder
SECONDS = {"s": 1, "min": 60, "h": 3600}


def settings(configs: Path, spec: Mapping[str, Any], preset: str) -> str:
    """Return a line, for the source of a page, that changes when the results should."""
    names = {*spec["train"], *spec["test"]}
    data = {name: config.compose_dataset(configs, name, preset) for name in sorted(names)}
    parts = {
        key: value for key, value in spec.items() if key not in ("paper", "tracking", "metrics")
    }
    return f"<!-- settings: {config.fingerprint([parts, data])} -->"


def section(
    outcome: Outcome,
    preset: str,
    made_with: str,
    pictures: Sequence[paper.Picture] = (),
    movies: Sequence[paper.Picture] = (),
) -> str:
    """Write what a paper's page says of one preset, the main claim first.

    Parameters
    ----------
    made_with
        From `settings`.
    """
    facts, tables = words.described(outcome.facts), method_table(outcome, ("short",))
    return paper.section(outcome.judged, facts, tables, preset, pictures, movies, made_with)


def sections_of(text: str, file: Path) -> dict[str, str]:
    """Return what a page says of each preset.

    Raises
    ------
    UserError
        One of a section's two markers is missing, or there are several.
    """
    found = {}
    for preset in dict.fromkeys(re.findall(r"<!-- (?:begin|end) (\w+) -->", text)):
        begin, end = f"<!-- begin {preset} -->", f"<!-- end {preset} -->"
        once = (text.count(begin), text.count(end)) == (1, 1)
        if not once or text.index(begin) > text.index(end):
            raise UserError(
                f"{file}: the markers {begin} and {end} must come once each, in this order"
            )
        found[preset] = text.split(begin)[1].split(end)[0].strip() + "\n"
    return found


def results(
    pages: Mapping[str, Mapping[str, str]],
    tasks: Mapping[str, str],
    old: Mapping[str, Container[str]],
) -> str:
    """Write RESULTS.md from the sections of all pages, by experiment and preset."""
    parts = []
    for preset in sorted({preset for sections in pages.values() for preset in sections}):
        at = {name: sections[preset] for name, sections in pages.items() if preset in sections}
        claims = {name: claims_of(text) for name, text in at.items()}
        today = [claim for name in at if preset not in old[name] for claim in claims[name]]
        rows: dict[str, list[dict[str, Any]]] = {
            task: [] for task in sorted({tasks[name] for name in at})
        }
        for name, text in at.items():
            says, measured, _, need, verdict, _ = (claims[name] or [[words.DASH] * 6])[0]
            row: dict[str, Any] = {"name": name, "says": says, "measured": measured, "needed": need}
            row |= {"verdict": verdict, "seconds": seconds_of(text), "old": preset in old[name]}
            rows[tasks[name]].append(row)
        parts.append(
            {
                "preset": preset,
                "mains": [_verdict(found[0]) for found in claims.values() if found],
                "verdicts": [_verdict(claim) for found in claims.values() for claim in found],
                "seconds": sum(map(seconds_of, at.values())),
                "chance": words.chance([_verdict(claim) for claim in today]),
                "old": any(preset in old[name] for name in at),
                "tasks": rows,
                "missing": sorted(tasks.keys() - at.keys()),
            }
        )
    return fill("results.md", presets=parts, earlier=paper.OLD)


def _verdict(claim: Sequence[str]) -> str:
    return claim[4].strip("*")


def claims_of(text: str) -> list[list[str]]:
    """Return the cells of each row of a section's table of claims."""
    table = text.partition(paper.HEADER)[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [re.split(r" (?<!\\)\| ", row.strip()[2:-2]) for row in rows]


def seconds_of(text: str) -> float:
    """Return the time of a section's trainings and evaluations."""
    line = re.search(r"^- wall time: (.*), summed", text, re.M)
    spent = re.findall(r"([\d.]+) (s|min|h)\b", line[1]) if line else []
    return sum(float(value) * SECONDS[unit] for value, unit in spent)


def readme(document: str, tasks: Mapping[str, str], file: Path) -> str:
    """Put the table of papers between the README's two markers.

    Raises
    ------
    UserError
        The markers are missing.
    """
    old = sections_of(document, file)
    if "papers" not in old:
        raise UserError(f"{file}: has no markers <!-- begin papers --> and <!-- end papers -->")
    rows = []
    for task in sorted(set(tasks.values())):
        text = ast.get_docstring(ast.parse(registry.path("tasks", task).read_text("utf-8"))) or ""
        asked = " ".join(text.partition("\n\n")[0].split()).partition(": ")
        names = [name for name in tasks if tasks[name] == task]
        rows.append((task, (asked[2] or asked[0]).rstrip("."), names))
    begin, end = "<!-- begin papers -->", "<!-- end papers -->"
    before, after = document.split(begin)[0], document.split(end)[1]
    return f"{before}{begin}\n{fill('tasks.md', tasks=rows)}{end}{after}"


def pictures_of(outcome: Outcome) -> list[str]:
    """Return the two figures closest to the paper: its own, then its task's, then shared ones."""

    def distance(name: str) -> tuple[bool, bool, bool]:
        file = registry.path("figures", name)
        return not registry.only_for(file), file.parent.name == "figures", name not in TELLING

    return sorted(outcome.figures, key=distance)[:2]


def draw(outcome: Outcome, configs: Path, results: Path, preset: str, folder: Path) -> list[str]:
    """Draw a page's pictures into a folder, small enough to be committed; return their figures.

    Earlier ones are removed. What is not judged is no result, and has none.
    """
    for earlier in folder.glob(f"{outcome.name}_{preset}*.webp"):
        earlier.unlink()
    if set(outcome.verdicts) <= {"not judged"}:
        return []
    unit = plot.unit_of(configs, outcome.spec, preset)
    drawn = pictures_of(outcome)
    for name in drawn:
        inputs = plot.load(name, outcome.spec, outcome.name, preset, results, unit)
        figure = registry.find("figures", name)(inputs)
        plot.save_picture(figure, folder / f"{outcome.name}_{preset}_{name}.webp")
    return drawn


def check_settings(spec: Mapping[str, Any], folder: Path) -> None:
    """Refuse to record runs of other settings than the experiment has today as if they had these.

    Parameters
    ----------
    spec
        The experiment, composed.
    folder
        `results/{preset}/{experiment}`.

    Raises
    ------
    UserError
        Of the first such run.
    """
    for method, _, run in config.runs(spec, folder):
        if method in spec.get("borrowed", {}):
            continue
        note = cli.read_json(run / "evaluation.json", "evaluate")
        if note.get("settings") not in (None, config.run_settings(spec, method)):
            raise UserError(f"{run}: was made with other settings than today's; make it anew")


def _is_old(configs: Path, name: str, preset: str, text: str) -> bool:
    """Whether what a page says of a preset was made with other settings than today's."""
    return settings(configs, config.compose(configs, name, preset), preset) not in text


def _described(root: Path, configs: Path, name: str, preset: str) -> str:
    """Return where a paper's page finds a dataset described: on its equation's page."""
    equation = config.compose_dataset(configs, name, preset).get("equation")
    page = f"equations/{equation['name']}.md" if equation else ""
    file = root / "docs" / page
    known = file.is_file() and f"\n## {name}\n" in file.read_text("utf-8")
    return f"../{page}#{name}" if known else "../datasets.md"


def write(root: Path, configs: Path, made: Mapping[str, str], preset: str) -> None:
    """Write all pages.

    Parameters
    ----------
    made
        Sections of the experiments that were made here.
    """
    pages, tasks, old = {}, {}, {}
    for name in config.experiments(configs):
        spec = config.compose(configs, name, preset)
        file = root / PAPERS / f"{name}.md"
        text = file.read_text("utf-8") if file.exists() else ""
        sections = sections_of(text, file) | ({preset: made[name]} if name in made else {})
        pages[name], tasks[name] = sections, spec["task"]["name"]
        old[name] = [at for at in sections if _is_old(configs, name, at, sections[at])]
        with cli.atomic(file) as part:
            ordered = dict(sorted(sections.items()))
            data = {
                store: _described(root, configs, store, preset)
                for store in (*spec["train"], *spec["test"])
            }
            text = paper.page(configs, name, spec, ordered, old[name], data)
            part.write_text(text, "utf-8")
    readme_file = root / "README.md"
    table = readme(readme_file.read_text("utf-8"), tasks, readme_file)
    rows = results(pages, tasks, old)
    for file, text in ((root / "RESULTS.md", rows), (readme_file, table)):
        with cli.atomic(file) as part:
            part.write_text(text, "utf-8")


EXAMPLES = """
python -m longrun.record --preset cpu
python -m longrun.record --preset gpu --root elsewhere
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("record", __doc__, EXAMPLES, "preset", "configs", "results")
    made.add_argument(
        "--captions", type=Path, default=Path("workflow/report"), help="folder of the .rst files"
    )
    made.add_argument("--root", type=Path, default=Path(), help="folder of README.md and docs")
    return made


def main() -> None:
    """Read the command line, load what was made, write the pages."""
    options = parser().parse_args()
    if options.root == Path():
        cli.check_checkout()
    judged = [*(options.results / options.preset).glob("*/claims.json")]
    outcomes = load(options.configs, options.results, options.preset) if judged else []
    log.info("%d experiments were made here at preset %s", len(outcomes), options.preset)
    captions = read_captions(options.captions)
    made = {}
    for outcome in outcomes:
        check_settings(outcome.spec, options.results / options.preset / outcome.name)
        at = options.preset, options.root / PAPERS
        made_with = settings(options.configs, outcome.spec, options.preset)
        pictures = [
            paper.Picture(
                figure.replace("_", " "),
                f"{outcome.name}_{options.preset}_{figure}.webp",
                captions.get(figure, ""),
            )
            for figure in draw(outcome, options.configs, options.results, *at)
        ]
        movies = []
        if outcome.movie:
            name = f"{outcome.name}_{options.preset}.webp"
            with cli.atomic(options.root / PAPERS / name) as part:
                shutil.copyfile(outcome.movie, part)
            movies = [paper.Picture("movie", name, MOVED)]
        made[outcome.name] = section(outcome, options.preset, made_with, pictures, movies)
    write(options.root, options.configs, made, options.preset)
    times.commit(options.preset, options.root)


if __name__ == "__main__":
    cli.run(main)
