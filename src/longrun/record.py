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
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from longrun import config
from longrun.config.layers import named
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError
from longrun.tabulate import (
    DASH,
    Outcome,
    chance,
    compared,
    count,
    described,
    duration,
    interval,
    load,
    main_claim,
    method_table,
    needed,
    number,
    read_captions,
    runs_of,
)

log = logging.getLogger(__name__)

PAPERS = Path("docs/papers")
OLD = "were made and judged with earlier settings, at the commit that the page names"
HEADER = "| claim | measured [95 %] | paper | needed | verdict | runs |"
SECONDS = {"s": 1, "min": 60, "h": 3600}
RESULTS = """# Results

Written by `make results` from the pages in [docs/papers](docs/papers), which hold all claims,
methods and machines. A row is the claim that a paper is cited for; time is that of its trainings
and evaluations, one after the other.
"""


def settings(configs: Path, spec: Mapping[str, Any], preset: str) -> str:
    """Return a line, for the source of a page, that changes when the results should."""
    names = {*spec["train"], *spec["test"]}
    data = {name: config.compose_dataset(configs, name, preset) for name in sorted(names)}
    parts = {
        key: value for key, value in spec.items() if key not in ("paper", "tracking", "metrics")
    }
    return f"<!-- settings: {config.fingerprint([parts, data])} -->"


def section(outcome: Outcome, preset: str, made_with: str) -> str:
    """Write what a paper's page says of one preset, the main claim first.

    Parameters
    ----------
    made_with
        From `settings`.
    """
    lines = [f"## Results at preset {preset}", made_with, ""]
    lines += [f"- {label}: {value}" for label, value in described(outcome.facts)]
    lines += ["", HEADER, "|---|---|---|---|---|---|"]
    for claim in outcome.judged["claims"]:
        says = f"{claim['says']} ({compared(claim)})"
        cells = [says, interval(claim), number(claim["paper"]), needed(claim)]
        cells += [f"**{claim['verdict']}**", runs_of(claim)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    header, rows = method_table(outcome, ("short",))
    lines += ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def page(
    name: str, spec: Mapping[str, Any], sections: Mapping[str, str], old: Container[str]
) -> str:
    """Write a paper's page.

    Parameters
    ----------
    spec
        The composed experiment, at any preset.
    sections
        What to say of each preset.
    old
        Presets whose results were made with other settings.
    """
    paper = spec["paper"]
    cited = [str(paper[key]) for key in ("title", "venue") if paper.get(key)]
    if arxiv := paper.get("arxiv"):
        cited.append(f"[arXiv:{arxiv}](https://arxiv.org/abs/{arxiv})")
    data = ", ".join(
        f"[{store}](../datasets.md)" for store in dict.fromkeys([*spec["train"], *spec["test"]])
    )
    lines = [f"# {name}", "", ", ".join(cited) + ".", ""]
    lines += [f"Task `{spec['task']['name']}`, data {data}.", ""]
    if main := main_claim(spec):
        lines.append(f"> {spec['claims'][main]['says']}")
    lines += ["", "## How it works", "", how_it_works(spec), ""]
    for preset, text in sections.items():
        if preset in old:
            lines += [f"> The results at preset {preset} {OLD}.", ""]
        lines += [f"<!-- begin {preset} -->", text.rstrip(), f"<!-- end {preset} -->", ""]
    lines += ["## Run it", "", "```sh", f"make reproduce PAPERS={name}", "```"]
    return "\n".join(lines) + "\n"


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
    lines = [RESULTS]
    for preset in sorted({preset for sections in pages.values() for preset in sections}):
        at = {name: sections[preset] for name, sections in pages.items() if preset in sections}
        rows = {name: claims_of(text) for name, text in at.items()}
        mains = [claims[0][4].strip("*") for claims in rows.values() if claims]
        verdicts = [claim[4].strip("*") for claims in rows.values() for claim in claims]
        total = duration(sum(seconds_of(text) for text in at.values()))
        lines += [f"## {preset}", ""]
        lines.append(
            f"{count(mains, 'main claim')}. {count(verdicts)} (every claim). Time {total}.\n"
        )
        today = [claims_of(text) for name, text in at.items() if preset not in old[name]]
        if said := chance([claim[4].strip("*") for claims in today for claim in claims]):
            lines.append(f"{said}\n")
        if len(today) < len(at):
            lines.append(f"† These {OLD}.\n")
        for task in sorted({tasks[name] for name in at}):
            lines += [f"### {task}", ""]
            lines += ["| experiment | main claim | measured [95 %] | needed | verdict | time |"]
            lines += ["|---|---|---|---|---|---|"]
            for name in at:
                if tasks[name] == task:
                    says, measured, _, need, verdict, _ = (rows[name] or [[DASH] * 6])[0]
                    time = duration(seconds_of(at[name]))
                    link = f"[{name}]({PAPERS}/{name}.md)" + (" †" if preset in old[name] else "")
                    cells = [link, says, measured, need, verdict, time]
                    lines.append("| " + " | ".join(cells) + " |")
            lines.append("")
    return "\n".join(lines)


def claims_of(text: str) -> list[list[str]]:
    """Return the cells of each row of a section's table of claims."""
    table = text.partition(HEADER)[2].partition("\n\n")[0]
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
    lines = ["| task | asked of a method | papers |", "|---|---|---|"]
    for task in sorted(set(tasks.values())):
        text = ast.get_docstring(ast.parse(registry.path("tasks", task).read_text("utf-8"))) or ""
        asked = " ".join(text.partition("\n\n")[0].split()).partition(": ")
        links = [f"[{name}]({PAPERS}/{name}.md)" for name in tasks if tasks[name] == task]
        lines.append(f"| {task} | {_cell(asked[2] or asked[0])} | {', '.join(links)} |")
    begin, end = "<!-- begin papers -->", "<!-- end papers -->"
    before, after = document.split(begin)[0], document.split(end)[1]
    return f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}"


def _cell(text: str) -> str:
    return text.rstrip(".").replace("|", "\\|")


def picture_of(outcome: Outcome, spec: Mapping[str, Any]) -> str | None:
    """Return the figure closest to the paper: its own, else its task's, else a shared one."""

    def shared(name: str) -> tuple[bool, bool]:
        file = registry.path("figures", name)
        return not registry.only_for(file), file.parent.name == "figures"

    drawn = [name for name in config.figures(spec) if name in outcome.figures]
    return min(drawn, key=shared, default=None)


def _is_old(configs: Path, name: str, preset: str, text: str) -> bool:
    """Whether what a page says of a preset was made with other settings than today's."""
    return settings(configs, config.compose(configs, name, preset), preset) not in text


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
            text = page(name, spec, dict(sorted(sections.items())), old[name])
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
    judged = [*(options.results / options.preset).glob("*/claims.json")]
    outcomes = load(options.configs, options.results, options.preset) if judged else []
    log.info("%d experiments were made here at preset %s", len(outcomes), options.preset)
    captions = read_captions(options.captions)
    made = {}
    for outcome in outcomes:
        spec = config.compose(options.configs, outcome.name, options.preset)
        made_with = settings(options.configs, spec, options.preset)
        made[outcome.name] = section(outcome, options.preset, made_with)
        if figure := picture_of(outcome, spec):
            name = f"{outcome.name}_{options.preset}.svg"
            with cli.atomic(options.root / PAPERS / name) as part:
                shutil.copyfile(outcome.figures[figure], part)
            caption = captions.get(figure, "")
            made[outcome.name] += f"\n![{figure.replace('_', ' ')}]({name})\n\n{caption}\n"
    write(options.root, options.configs, made, options.preset)


if __name__ == "__main__":
    cli.run(main)
