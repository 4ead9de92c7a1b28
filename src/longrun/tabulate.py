"""Put the verdicts of all experiments into a table, an index and a page for each experiment.

Outputs in `--output-dir`
-------------------------
`results.csv`: every claim and every summary of a method.
`results.html`: a card for each paper, its main claim, with a link to its page.
`pages/{experiment}.html`: all claims, methods and figures, which stay where they were drawn.
`claims.html`: the index without links, for Snakemake's report.
"""

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from longrun import config
from longrun.metrics.table import read_scores
from longrun.pages import data, gallery, paper, words
from longrun.pages.render import fill, html, whole
from longrun.runtime import cli, registry
from longrun.runtime.times import in_words

COLUMNS = ["experiment", "preset", "row", "name", "metric", "of", "against", "explains", "kind"]
COLUMNS += ["value", "low", "high", "paper", "holds", "direction", "verdict"]
COLUMNS += ["seeds", "trajectories", "censored", "bound", "note"]
MOVIE = "movie.webp"  # among the figures
MOVED = "A test rollout: the truth, a forecast and its error, on one colour scale."
TERMS = {
    "holds / weaker / contradicted / open": "A claim holds when the whole 95 % interval clears "
    "the number that the claim needs, and stays open when that number lies inside: this run cannot "
    "tell. Else it is contradicted when the whole interval lies on the wrong side of equality, and "
    "weaker when it doesn't: the effect is smaller than claimed.",
    "interval": "95 %, Student's t over seeds and test trajectories, in square brackets. A method "
    "that learns nothing has one seed, and its interval covers trajectories only.",
    "not judged": "Preset smoke shows that everything runs; its numbers mean nothing. Elsewhere: a "
    "trained method has fewer than 3 seeds.",
    "predictability": "How long two runs of the reference solver that differ by 1e-6 stay "
    "correlated above 0.8. A score beyond it is meaningless.",
    "paper": f"The paper's own value, for its own setting; {words.DASH} where we know of none.",
}


@dataclass(frozen=True)
class Outcome:
    """The results of one experiment at one preset.

    Attributes
    ----------
    name
        Of the experiment.
    spec
        The composed experiment.
    judged
        ``claims.json``, the main claim first.
    facts
        Hardware, commits and seconds, from ``evaluation.json`` of every run.
    figures
        SVG files by name of the figure.
    movie
        The rollout as a movie, where there is one.
    equations
        Names of the equations of the data.
    dimensions
        Numbers of spatial axes of the data, where they are known.
    """

    name: str
    spec: dict[str, Any]
    judged: dict[str, Any]
    facts: dict[str, Any]
    figures: dict[str, Path]
    movie: Path | None = None
    equations: Sequence[str] = ()
    dimensions: Sequence[str] = ()

    @property
    def paper(self) -> dict[str, Any]:
        """Title, arXiv number and venue, from the experiment file."""
        found: dict[str, Any] = self.spec["paper"]
        return found

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Heading, meaning and table of each metric of the experiment."""
        found: dict[str, dict[str, Any]] = self.spec["metrics"]
        return found

    @property
    def task(self) -> str:
        """The experiment's."""
        return str(self.spec["task"]["name"])

    @property
    def verdicts(self) -> list[str]:
        """Verdicts of all claims, the main one's first."""
        return [claim["verdict"] for claim in self.judged["claims"]]


def load(
    configs: Path, results: Path, preset: str, sides: Mapping[str, int] | None = None
) -> list[Outcome]:
    """Read all experiments that were judged at a preset.

    Parameters
    ----------
    sides
        Number of spatial axes by dataset, of those that are known; from `data.dimensions`.

    Raises
    ------
    longrun.runtime.cli.UserError
        None was, or a run that a verdict rests on has lost its files.
    """
    outcomes = []
    for name in config.experiments(configs):
        folder = results / preset / name
        if not (folder / "claims.json").exists():
            continue
        spec = config.compose(configs, name, preset)
        runs = [run.folder for run in config.runs(spec, folder)]
        judged = cli.read_json(folder / "claims.json", "judge")
        judged["claims"].sort(key=lambda claim: claim["name"] != paper.main_claim(spec))
        figures = {figure: folder / "figures" / f"{figure}.svg" for figure in _figure_order()}
        movie = folder / "figures" / MOVIE
        outcomes.append(
            Outcome(
                name,
                spec,
                judged,
                _facts(runs, judged["methods"]) | {"classical": _classical(spec)},
                {figure: path for figure, path in figures.items() if path.exists()},
                movie if movie.exists() else None,
                data.equations(configs, spec, preset),
                data.dimensions_of(spec, sides or {}),
            )
        )
    if not outcomes:
        raise cli.UserError(f"{results / preset}: no claims.json there; longrun.judge writes it")
    return outcomes


def table(outcomes: Iterable[Outcome], preset: str) -> pd.DataFrame:
    """Claims and summaries of methods, one row each, in the columns of ``results.csv``."""
    rows = []
    for outcome in outcomes:
        same = {"experiment": outcome.name, "preset": preset}
        rows += [same | {"row": "claim"} | claim for claim in outcome.judged["claims"]]
        rows += [
            same | {"row": "method", "name": row["method"]} | row
            for row in outcome.judged["methods"]
        ]
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def cards(outcomes: list[Outcome], links: bool = True) -> list[gallery.Card]:
    """Return the card of each paper: its claim, verdict, and first figure."""
    return gallery.merged(_card(outcome, links) for outcome in outcomes)


def _card(outcome: Outcome, links: bool) -> gallery.Card:
    claims = outcome.judged["claims"]
    main = claims[0] if claims else None
    seconds = in_words(outcome.facts["train"] + outcome.facts["evaluate"])
    figure = next(iter(outcome.figures.values()), None)
    entry = gallery.Entry(
        name=outcome.name,
        says=main["says"] if main else "",
        verdict=main["verdict"] if main else "no claim",
        measured=words.interval(main) if main else "",
        needed=words.needed(main) if main else "",
        link=f"pages/{outcome.name}.html" if links else "",
        more=f"{words.count(outcome.verdicts)}. Time {seconds}.",
    )
    return gallery.Card(
        title=outcome.paper.get("title") or outcome.name,
        task=outcome.task,
        year=words.year(outcome.paper),
        about=str(outcome.paper.get("venue") or ""),
        picture=f"{outcome.name}/figures/{figure.name}" if links and figure else "",
        entries=[entry],
        equations=outcome.equations,
        dimensions=outcome.dimensions,
    )


def index(outcomes: list[Outcome], preset: str, links: bool = True) -> str:
    """Write the page with a card for each paper, by task."""
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    body = fill(
        "index.html",
        preset=preset,
        headline=words.count(verdicts),
        chance=words.chance(verdicts),
        gallery=gallery.gallery(cards(outcomes, links), choose=links),
        glossary=fill("glossary.html", words=TERMS),
    )
    return whole(f"Longrun, {preset}: {words.count(verdicts)}", body)


def page(outcome: Outcome, configs: Path, preset: str, captions: dict[str, str]) -> str:
    """Write the page of an experiment: that of its paper, with all figures.

    Parameters
    ----------
    captions
        Text below each figure, by the figure's name.
    """
    terms = {name: e["meaning"] for name, e in outcome.metrics.items() if e.get("table")}
    text = paper.page(
        configs,
        outcome.name,
        outcome.spec,
        {preset: section(outcome, preset, captions)},
    )
    body = fill(
        "run.html",
        preset=preset,
        text=html(text),
        glossary=fill("glossary.html", words=TERMS | terms),
    )
    return whole(f"{outcome.name}, {preset}: {words.count(outcome.verdicts)}", body)


def section(outcome: Outcome, preset: str, captions: dict[str, str]) -> str:
    """Write what came out, with figures that stay where they were drawn, two folders away."""
    facts = [*words.described(outcome.facts), ("versions", ", ".join(outcome.facts["versions"]))]
    folder = f"../{outcome.name}/figures"
    pictures = [
        paper.Picture(name.replace("_", " "), f"{folder}/{file.name}", captions.get(name, ""))
        for name, file in outcome.figures.items()
    ]
    movies = [paper.Picture("movie", f"{folder}/{MOVIE}", MOVED)] if outcome.movie else []
    tables = method_table(outcome, ("short", "long"))
    return paper.section(outcome.judged, facts, tables, preset, pictures, movies)


def _classical(spec: Mapping[str, Any]) -> list[str]:
    """Names of the methods that are the data's own solver, coarsened."""
    units = {name: entry["name"] for name, entry in spec["methods"].items()}
    return [
        n for n, unit in units.items() if registry.attribute("methods", unit, "classical", False)
    ]


def _facts(runs: list[Path], methods: list[dict[str, Any]]) -> dict[str, Any]:
    """Collect where, with what and for how long an experiment ran."""
    notes = [cli.read_json(run / "evaluation.json", "evaluate") for run in runs]
    made = [note[when] for note in notes for when in ("trained", "provenance")]
    scores = read_scores(runs[0] / "scores.parquet", ["predictability"], ["value"])
    return {
        "runs": len(runs),
        "machines": sorted({_machine(one["hardware"]) for one in made}),
        "commits": sorted({_commit(one) for one in made}),
        "versions": sorted({f"{k} {v}" for one in made for k, v in one["versions"].items()}),
        "train": sum(
            row["value"] * row["seeds"] for row in methods if row["metric"] == "train_seconds"
        ),
        "evaluate": sum(note["wall_seconds"] for note in notes),
        "diverged": [
            f"{run.parent.name} {run.name}"
            for run, note in zip(runs, notes, strict=True)
            if note.get("diverged")
        ],
        "predictability": float(scores["value"].mean()),
    }


def _commit(made: dict[str, Any]) -> str:
    return (made["commit"] or "unknown")[:10] + (" with local changes" if made["dirty"] else "")


def _machine(hardware: dict[str, Any]) -> str:
    parts = [hardware.get("gpu"), f"{hardware['cpu']} ({hardware['cores']} cores)"]
    return ", ".join(part for part in parts if part)


def _figure_order() -> list[str]:
    """All figures, the ones that answer first in front."""
    first = ["claims", "error_over_time", "horizon_bars", "space_time"]
    return first + [name for name in registry.names("figures") if name not in first]


def method_table(outcome: Outcome, tables: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per method, with those of the tables' metrics that any method has."""
    judged, dash = outcome.judged["methods"], words.DASH
    metrics = [name for name, entry in outcome.metrics.items() if entry.get("table") in tables]
    cells = {(row["method"], row["metric"]): words.interval(row) for row in judged}
    shown = [metric for metric in metrics if any(key[1] == metric for key in cells)]
    methods = dict.fromkeys(method for method, _ in cells)
    rows = [[name] + [cells.get((name, metric), dash) for metric in shown] for name in methods]
    places = {row["metric"]: row["at"] for row in judged}
    headings = [
        ", ".join([outcome.metrics[name]["heading"], *(words.place(*at) for at in where.items())])
        for name, where in ((metric, places[metric]) for metric in shown)
    ]
    return ["method", *headings], rows


def read_captions(folder: Path) -> dict[str, str]:
    """Read the captions that Snakemake's report shows too: plain sentences, one file per figure."""
    files = {name: folder / f"{name}.rst" for name in registry.names("figures")}
    return {
        name: re.sub(r"\s+", " ", path.read_text("utf-8")).strip()
        for name, path in files.items()
        if path.exists()
    }


EXAMPLES = """
python -m longrun.tabulate --preset cpu --output-dir results/cpu
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("tabulate", __doc__, EXAMPLES, "preset", "configs", "results")
    made.add_argument(
        "--captions", type=Path, default=Path("workflow/report"), help="folder of the .rst files"
    )
    made.add_argument(
        "--docs", type=Path, default=Path("docs"), help="folder of datasets.md, for dimensions"
    )
    made.add_argument("--output-dir", type=Path, required=True, help="for results.csv and .html")
    return made


def main() -> None:
    """Parse the command line, load, write table, index and pages."""
    options = parser().parse_args()
    preset, output = options.preset, options.output_dir
    sides = data.dimensions(options.docs / "datasets.md")
    outcomes = load(options.configs, options.results, preset, sides)
    captions = read_captions(options.captions)
    with cli.atomic(output / "results.csv") as part:
        table(outcomes, preset).to_csv(part, index=False)
    with cli.atomic(output / "pages") as part:
        part.mkdir()
        for outcome in outcomes:
            text = page(outcome, options.configs, preset, captions)
            (part / f"{outcome.name}.html").write_text(text, "utf-8")
    for name, links in (("claims", False), ("results", True)):
        with cli.atomic(output / f"{name}.html") as part:
            part.write_text(index(outcomes, preset, links), "utf-8")


if __name__ == "__main__":
    cli.run(main)
