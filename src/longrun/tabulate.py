"""Put the verdicts of all experiments into a table, an index and a page for each experiment.

Outputs in `--output-dir`
-------------------------
`results.csv`: every claim and every summary of a method.
`results.html`: one row for each experiment, its main claim, with a link to its page.
`pages/{experiment}.html`: all claims, methods and figures, which stay where they were drawn.
`claims.html`: the index without links, for Snakemake's report.
"""

import argparse
import html
import importlib.resources
import math
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from longrun import config
from longrun.metrics.table import read_scores
from longrun.runtime import cli, registry

DASH = "–"
VERDICTS = ("holds", "weaker", "contradicted", "open", "not judged")
ALWAYS = ("contradicted", "open")  # counted also where there are none
COLUMNS = ["experiment", "preset", "row", "name", "metric", "of", "against", "explains", "kind"]
COLUMNS += ["value", "low", "high", "paper", "holds", "direction", "verdict"]
COLUMNS += ["seeds", "trajectories", "censored", "bound", "note"]
KINDS = {
    "claim": "says",
    "measured": "number",
    "paper": "number",
    "needed": "number",
    "time": "number",
    "verdict": "verdict",
    "runs": "runs",
}  # classes of the cells of a column
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
    "paper": f"The paper's own value, for its own setting; {DASH} where we know of none.",
}


@dataclass(frozen=True)
class Outcome:
    """The results of one experiment at one preset.

    Attributes
    ----------
    name
        Of the experiment.
    paper
        Title, arXiv number and venue, from the experiment file.
    judged
        ``claims.json``.
    facts
        Hardware, commits and seconds, from ``evaluation.json`` of every run.
    figures
        SVG files by name of the figure.
    metrics
        Heading, meaning and table of each metric of the experiment's task.
    task
        The experiment's.
    """

    name: str
    paper: dict[str, Any]
    judged: dict[str, Any]
    facts: dict[str, Any]
    figures: dict[str, Path]
    metrics: dict[str, dict[str, Any]]
    task: str

    @property
    def verdicts(self) -> list[str]:
        """Verdicts of all claims, the main one's first."""
        return [claim["verdict"] for claim in self.judged["claims"]]


def load(configs: Path, results: Path, preset: str) -> list[Outcome]:
    """Read all experiments that were judged at a preset.

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
        judged["claims"].sort(key=lambda claim: claim["name"] != main_claim(spec))
        figures = {figure: folder / "figures" / f"{figure}.svg" for figure in _figure_order()}
        outcomes.append(
            Outcome(
                name,
                spec["paper"],
                judged,
                _facts(runs, judged["methods"]) | {"classical": _classical(spec)},
                {figure: path for figure, path in figures.items() if path.exists()},
                spec["metrics"],
                spec["task"]["name"],
            )
        )
    if not outcomes:
        raise cli.UserError(f"{results / preset}: no claims.json there; longrun.judge writes it")
    return outcomes


def main_claim(spec: Mapping[str, Any]) -> str | None:
    """Name of the claim that a paper is cited for: `main: true`, else the first."""
    claims = spec["claims"]
    return next((name for name in claims if claims[name].get("main")), next(iter(claims), None))


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


def index(outcomes: list[Outcome], preset: str, links: bool = True) -> str:
    """Write the page with a row for each experiment, by task."""
    verdicts = [verdict for outcome in outcomes for verdict in outcome.verdicts]
    lines = [
        f"<header><p class=soft>Longrun, preset {_text(preset)}</p>",
        f"<h1>{_text(headline(outcomes))}</h1>",
        "<p>Each paper's claims about neural PDE solvers, measured again: data, training, rollouts "
        "and verdicts come from one workflow. A row is the claim that a paper is cited for.</p>",
        f"<p class=soft>{_text(chance(verdicts))}</p>",
        "</header><main>",
    ]
    for task in dict.fromkeys(sorted(outcome.task for outcome in outcomes)):
        labels = ("experiment", "claim", "measured", "needed", "verdict", "all claims", "time")
        lines.append(f"<section><h2>{_text(task)}</h2>" + _head("claims", labels))
        for outcome in outcomes:
            if outcome.task == task:
                lines.append(_index_row(outcome, labels, links))
        lines.append("</tbody></table></div></section>")
    lines.append(_glossary(TERMS) + "</main>")
    return _whole(f"Longrun, {preset}: {headline(outcomes)}", lines)


def _index_row(outcome: Outcome, labels: tuple[str, ...], links: bool) -> str:
    name = _text(outcome.name)
    claims = outcome.judged["claims"]
    cells = {
        "experiment": f'<a href="pages/{name}.html">{name}</a>' if links else name,
        "all claims": f"<small>{_text(count(outcome.verdicts))}</small>",
        "time": f"{_text(duration(outcome.facts['train'] + outcome.facts['evaluate']))}",
    }
    if claims:
        cells |= {
            "claim": f"{_text(claims[0]['says'])}<br><small>{_text(compared(claims[0]))}</small>",
            "measured": _text(interval(claims[0])),
            "needed": _text(needed(claims[0])),
            "verdict": _badge(claims[0]),
        }
    return _row(labels, [cells.get(label, DASH) for label in labels])


def page(outcome: Outcome, preset: str, captions: dict[str, str]) -> str:
    """Write the page of an experiment.

    Parameters
    ----------
    captions
        Text below each figure, by the figure's name.
    """
    body = [f'<nav><a href="../results.html">All results, preset {_text(preset)}</a></nav><main>']
    body += _section(outcome, preset, captions)
    terms = {name: e["meaning"] for name, e in outcome.metrics.items() if e.get("table")}
    body.append(_glossary(TERMS | terms) + "</main>")
    return _whole(f"{outcome.name}, {preset}: {headline([outcome])}", body)


def _whole(title: str, body: list[str]) -> str:
    template = importlib.resources.files("longrun.figures").joinpath("page.html").read_text("utf-8")
    return string.Template(template).substitute(title=_text(title), body="\n".join(body))


def _glossary(words: dict[str, str]) -> str:
    entries = "".join(f"<dt>{_text(w)}</dt><dd>{_text(text)}</dd>" for w, text in words.items())
    return f'<section id="glossary"><h2>Glossary</h2><dl class=glossary>{entries}</dl></section>'


def _head(kind: str, labels: Iterable[str]) -> str:
    cells = "".join(f"<th scope=col>{_text(label)}</th>" for label in labels)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>'


def _row(labels: Iterable[str], cells: Iterable[str]) -> str:
    """Write a row of a table whose cells a narrow screen shows below each other."""
    filled = "".join(
        f'<td class="{KINDS.get(label, "")}" data-label="{label}"><span>{cell}</span></td>'
        for label, cell in zip(labels, cells, strict=True)
    )
    return f"<tr>{filled}</tr>"


def _badge(claim: dict[str, Any]) -> str:
    verdict = _text(claim["verdict"])
    return f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span>'


def headline(outcomes: Iterable[Outcome]) -> str:
    """Count the verdicts in one sentence."""
    return count([verdict for outcome in outcomes for verdict in outcome.verdicts])


def count(verdicts: list[str], what: str = "claim") -> str:
    """Say how many of each verdict there are; those of a preset that isn't judged don't count."""
    claims = f"{len(verdicts)} {what}" + "s" * (len(verdicts) != 1)
    count = {word: verdicts.count(word) for word in VERDICTS}
    if verdicts and count["not judged"] == len(verdicts):
        return f"{claims}, not judged"
    said = [f"{count['holds']} {'holds' if count['holds'] == 1 else 'hold'}"]
    said += [f"{count[word]} {word}" for word in VERDICTS[1:] if count[word] or word in ALWAYS]
    return f"Of {claims}, {', '.join(said)}"


def chance(verdicts: list[str]) -> str:
    """Say how many false verdicts to expect of so many claims; nothing where none is judged."""
    judged = len(verdicts) - verdicts.count("not judged")
    return (
        f"{judged} claims are judged, each by a 95 % interval: one that just misses what it needs "
        f"is said to hold with a chance of 2.5 %: at most {0.025 * judged:.1f} such errors in all."
        if judged
        else ""
    )


def number(value: float | int | None) -> str:
    """Three significant digits; a dash for what is unknown or not finite."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(row: dict[str, Any]) -> str:
    """Value with its interval: ``1.32 [1.12, 1.55]``, with ≥ where rollouts were too short."""
    value = number(row["value"])
    if value == DASH:
        return "no finite value"
    bound = _bound(row)
    low, high = number(row["low"]), number(row["high"])
    return bound + (value if low == value == high else f"{value} [{low}, {high}]")


def _bound(row: dict[str, Any]) -> str:
    """Sign of a value that is only a bound, because rollouts never crossed."""
    if "verdict" in row:
        return {"lower": "≥ ", "upper": "≤ "}.get(row.get("bound") or "", "")
    return "≥ " if row.get("censored") else ""


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


def described(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Put the facts into words, for page and section alike."""
    described = [
        ("hardware", "; ".join(facts["machines"])),
        ("commit", ", ".join(facts["commits"])),
        (
            "wall time",
            f"training {duration(facts['train'])}, evaluation {duration(facts['evaluate'])}, "
            f"summed over {facts['runs']} runs",
        ),
    ]
    if math.isfinite(facts["predictability"]):
        limit = number(facts["predictability"])
        described.append(("predictability", f"a time of {limit}; scores beyond it are meaningless"))
    if facts["classical"]:
        text = f"{', '.join(facts['classical'])}, the data's own solver"
        described.append(("what a surrogate competes with", text))
    if facts["diverged"]:
        text = f"{', '.join(facts['diverged'])}: the last weights with a finite loss are scored"
        described.append(("diverged in training", text))
    return described


def duration(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figure_order() -> list[str]:
    """All figures, the ones that answer first in front."""
    first = ["claims", "error_over_time", "horizon_bars", "space_time"]
    return first + [name for name in registry.names("figures") if name not in first]


def citation(paper: dict[str, Any]) -> str:
    """Title, venue and number of a paper, those that are known."""
    parts = [paper.get("title"), paper.get("venue")]
    parts.append(f"arXiv:{paper['arxiv']}" if paper.get("arxiv") else None)
    return ", ".join(str(part) for part in parts if part)


def compared(claim: dict[str, Any]) -> str:
    """Say what a claim compares: metric, methods and where."""
    if claim["kind"] == "r_squared":
        return f"R² of {claim['metric']} with {claim['explains']}: {claim['of']}"
    first, second = (
        "".join(f" at {place(*one)}" for one in (claim.get(where) or {}).items())
        for where in ("at", "against_at")
    )
    if claim["against"] is None:
        return f"{claim['metric']}: {claim['of']}{first}"
    return f"{claim['metric']}: {claim['of']}{first} / {claim['against']}{second}"


def place(column: str, value: object) -> str:
    """Say which rows of the scores a claim is about."""
    return f"{value} % measured" if column == "measured" else f"{column} {value}"


def needed(claim: dict[str, Any]) -> str:
    """Say what a claim needs."""
    sign = "≤" if claim.get("direction") == "below" else "≥"
    return f"{sign} {number(claim['holds'])}"


def runs_of(claim: dict[str, Any]) -> str:
    """Say on how many runs and trajectories a claim rests, with its note."""
    seeds = "1 seed" if claim["seeds"] == 1 else f"{claim['seeds']} seeds"
    text = f"{seeds} × {claim['trajectories']} trajectories"
    return text + (f"; {claim['note']}" if claim.get("note") else "")


def method_table(outcome: Outcome, tables: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per method, with those of the tables' metrics that any method has."""
    metrics = [name for name, entry in outcome.metrics.items() if entry.get("table") in tables]
    cells = {(row["method"], row["metric"]): interval(row) for row in outcome.judged["methods"]}
    shown = [metric for metric in metrics if any(key[1] == metric for key in cells)]
    methods = dict.fromkeys(method for method, _ in cells)
    rows = [[name] + [cells.get((name, metric), DASH) for metric in shown] for name in methods]
    places = {row["metric"]: row["at"] for row in outcome.judged["methods"]}
    headings = [
        ", ".join(
            [outcome.metrics[metric]["heading"], *(place(*at) for at in places[metric].items())]
        )
        for metric in shown
    ]
    return ["method", *headings], rows


def _section(outcome: Outcome, preset: str, captions: dict[str, str]) -> list[str]:
    """One experiment: facts, claims, methods, figures."""
    paper = _text(citation(outcome.paper))
    if arxiv := outcome.paper.get("arxiv"):
        link = f'<a href="https://arxiv.org/abs/{_text(arxiv)}">arXiv:{_text(arxiv)}</a>'
        paper = paper.replace(f"arXiv:{_text(arxiv)}", link)
    facts = [("experiment", outcome.name), ("preset", preset), *described(outcome.facts)]
    facts.append(("versions", ", ".join(outcome.facts["versions"])))
    lines = [f'<section id="{_text(outcome.name)}"><h2>{paper}</h2>', "<dl class=facts>"]
    lines += [f"<dt>{_text(label)}</dt><dd>{_text(value)}</dd>" for label, value in facts]
    labels = ("claim", "measured", "paper", "needed", "verdict", "runs")
    lines += ["</dl>", "<h3>Claims</h3>", _head("claims", labels)]
    for claim in outcome.judged["claims"]:
        says = f"{_text(claim['says'])}<br><small>{_text(compared(claim))}</small>"
        numbers = map(_text, (interval(claim), number(claim["paper"]), needed(claim)))
        runs = f"<small>{_text(runs_of(claim))}</small>"
        lines.append(_row(labels, [says, *numbers, _badge(claim), runs]))
    lines.append("</tbody></table></div>")
    header, rows = method_table(outcome, ("short", "long"))
    lines.append("<h3>Methods</h3>" + _head("methods", header))
    for name, *cells in rows:
        lines.append(f"<tr><th scope=row>{_text(name)}</th>")
        for value, _, rest in (cell.partition(" [") for cell in cells):
            below = f"<br><small>{_text(rest.rstrip(']').replace(', ', ' to '))}</small>"
            lines.append(f"<td class=number>{_text(value)}{below if rest else ''}</td>")
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    lines.append("<h3>Figures</h3>")
    for name, path in outcome.figures.items():
        lines.append(_figure(name, path, captions.get(name, "")))
    if not outcome.figures:
        lines.append("<p>No figures were drawn.</p>")
    return [*lines, "</section>"]


def _figure(name: str, path: Path, caption: str) -> str:
    """Show an SVG from where it was drawn, two folders away."""
    title = name.replace("_", " ").capitalize()
    alt = f"{title}. {caption}".strip()
    source = f"../{path.parent.parent.name}/figures/{path.name}"
    return (
        f'<figure id="{_text(name)}"><div class="wide">'
        f'<img alt="{_text(alt)}" src="{_text(source)}"></div>'
        f"<figcaption><strong>{_text(title)}.</strong> {_text(caption)}</figcaption></figure>"
    )


def _text(text: object) -> str:
    return html.escape(str(text), quote=True)


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
    made.add_argument("--output-dir", type=Path, required=True, help="for results.csv and .html")
    return made


def main() -> None:
    """Parse the command line, load, write table, index and pages."""
    options = parser().parse_args()
    preset, output = options.preset, options.output_dir
    outcomes = load(options.configs, options.results, preset)
    captions = read_captions(options.captions)
    with cli.atomic(output / "results.csv") as part:
        table(outcomes, preset).to_csv(part, index=False)
    with cli.atomic(output / "pages") as part:
        part.mkdir()
        for outcome in outcomes:
            (part / f"{outcome.name}.html").write_text(page(outcome, preset, captions), "utf-8")
    for name, links in (("claims", False), ("results", True)):
        with cli.atomic(output / f"{name}.html") as part:
            part.write_text(index(outcomes, preset, links), "utf-8")


if __name__ == "__main__":
    cli.run(main)
