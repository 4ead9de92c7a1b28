"""Put the verdicts of all experiments into one table, one page and one section of RESULTS.md."""

import argparse
import base64
import html
import importlib.resources
import math
import re
import string
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from longrun import config
from longrun.metrics.table import read_scores
from longrun.runtime import cli, registry

DASH = "–"
COLUMNS = ["experiment", "preset", "row", "name", "metric", "of", "against", "explains", "kind"]
COLUMNS += ["value", "low", "high", "paper", "holds", "direction", "verdict"]
COLUMNS += ["seeds", "trajectories", "censored", "bound", "note"]
TERMS = {
    "holds / contradicted / open": "A claim holds when the whole 95 % interval clears the "
    "number that the claim needs; it is contradicted when the whole interval lies on the wrong "
    "side of equality; else it stays open: this run cannot tell.",
    "interval": "95 % bootstrap over seeds and test trajectories, in square brackets. With one "
    "seed it covers trajectories only.",
    "predictability": "How long two runs of the reference solver that differ by 1e-6 stay "
    "correlated above 0.8. A score beyond it is meaningless.",
    "paper": f"The paper's own value, for its own setting; {DASH} where we know of none.",
}


@dataclass(frozen=True)
class Outcome:
    """What one experiment left at one preset.

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
    """

    name: str
    paper: dict[str, Any]
    judged: dict[str, Any]
    facts: dict[str, Any]
    figures: dict[str, Path]
    metrics: dict[str, dict[str, Any]]


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
        figures = {figure: folder / "figures" / f"{figure}.svg" for figure in _figure_order()}
        outcomes.append(
            Outcome(
                name,
                spec["paper"],
                judged,
                _facts(runs, judged["methods"]),
                {figure: path for figure, path in figures.items() if path.exists()},
                spec["metrics"],
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


def page(outcomes: list[Outcome], preset: str, captions: dict[str, str] | None) -> str:
    """Write the self-contained page.

    Parameters
    ----------
    captions
        Text below each figure, by the figure's name; None leaves the figures out.
    """
    head = headline(outcomes)
    body = [f"<header><p class=soft>Longrun, preset {_text(preset)}</p><h1>{_text(head)}</h1>"]
    body.append(
        "<p>Each paper's claims about long rollouts of neural PDE solvers, measured again: data, "
        "training, rollouts and verdicts come from one workflow. Intervals are 95 % bootstrap "
        "intervals over seeds and test trajectories.</p>"
    )
    links = [(outcome.name, outcome.paper.get("title", outcome.name)) for outcome in outcomes]
    links.append(("glossary", "Glossary"))
    body.append(
        "<nav>" + "".join(f'<a href="#{_text(a)}">{_text(b)}</a> ' for a, b in links) + "</nav>"
    )
    body.append("</header><main>")
    for outcome in outcomes:
        body += _section(outcome, preset, captions)
    body.append('<section id="glossary"><h2>Glossary</h2><dl class=glossary>')
    words = TERMS | {
        name: entry["meaning"]
        for outcome in outcomes
        for name, entry in outcome.metrics.items()
        if entry.get("table")
    }
    body += [f"<dt>{_text(word)}</dt><dd>{_text(text)}</dd>" for word, text in words.items()]
    body.append("</dl></section></main>")
    template = importlib.resources.files("longrun").joinpath("tabulate.html").read_text("utf-8")
    title = _text(f"Longrun, {preset}: {head}")
    return string.Template(template).substitute(title=title, body="\n".join(body))


def headline(outcomes: Iterable[Outcome]) -> str:
    """Count the verdicts in one sentence."""
    return _count([claim["verdict"] for outcome in outcomes for claim in outcome.judged["claims"]])


def _count(verdicts: list[str]) -> str:
    count = {word: verdicts.count(word) for word in ("holds", "contradicted", "open")}
    claims = f"{len(verdicts)} claim" + "s" * (len(verdicts) != 1)
    verb = "holds" if count["holds"] == 1 else "hold"
    return (
        f"Of {claims}, {count['holds']} {verb}, {count['contradicted']} contradicted, "
        f"{count['open']} open"
    )


def markdown(outcome: Outcome) -> str:
    """Write what RESULTS.md says of one experiment."""
    lines = [f"### {outcome.name}: {_paper(outcome.paper)}", ""]
    lines += [f"- {label}: {value}" for label, value in _described(outcome.facts)]
    lines += ["", "| claim | measured [95 %] | paper | needed | verdict | runs |"]
    lines += ["|---|---|---|---|---|---|"]
    for claim in outcome.judged["claims"]:
        says = f"{claim['says']} ({_compared(claim)})"
        cells = [says, interval(claim), number(claim["paper"]), _needed(claim)]
        cells += [f"**{claim['verdict']}**", _runs(claim)]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    header, rows = _method_table(outcome, ("short",))
    lines += ["", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def insert(document: str, preset: str, parts: dict[str, str], known: Collection[str]) -> str:
    """Put what was made into a preset's section; all else in the document stays.

    Parameters
    ----------
    document
        RESULTS.md as it is.
    parts
        What to say of each experiment that was made here, see `markdown`. It replaces what the
        section said of these experiments; of others, made at another time, it keeps its word.
    known
        Experiments that there are: what the section says of any other is dropped.

    Raises
    ------
    longrun.runtime.cli.UserError
        One of the section's two markers is missing, or there are several.
    """
    begin, end = f"<!-- begin {preset} -->", f"<!-- end {preset} -->"
    found = (document.count(begin), document.count(end))
    if found == (0, 0):
        document = f"{document.rstrip()}\n\n{begin}\n{end}\n".lstrip("\n")
    elif found != (1, 1) or document.index(begin) > document.index(end):
        raise cli.UserError(f"the markers {begin} and {end} must come once each, in this order")
    before, rest = document.split(begin)
    old, after = rest.split(end)
    kept = {part.split(":")[0]: f"### {part.rstrip()}\n" for part in old.split("\n### ")[1:]}
    parts = {name: text for name, text in sorted((kept | parts).items()) if name in known}
    body = "\n".join(parts.values())
    verdicts = re.findall(r"\| \*\*(holds|contradicted|open)\*\* \|", body)
    section = f"## {preset}\n\n{_count(verdicts)}.\n\n{body}"
    return f"{before}{begin}\n{section}{end}{after}"


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
    """Sign of a value that rollouts which never crossed make a bound."""
    if "verdict" in row:
        return {"lower": "≥ ", "upper": "≤ "}.get(row.get("bound") or "", "")
    return "≥ " if row.get("censored") else ""


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
        "predictability": float(scores["value"].mean()),
    }


def _commit(made: dict[str, Any]) -> str:
    return (made["commit"] or "unknown")[:10] + (" with local changes" if made["dirty"] else "")


def _machine(hardware: dict[str, Any]) -> str:
    parts = [hardware.get("gpu"), f"{hardware['cpu']} ({hardware['cores']} cores)"]
    return ", ".join(part for part in parts if part)


def _described(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Put the facts into words, for page and section alike."""
    described = [
        ("hardware", "; ".join(facts["machines"])),
        ("commit", ", ".join(facts["commits"])),
        (
            "wall time",
            f"training {_duration(facts['train'])}, evaluation {_duration(facts['evaluate'])}, "
            f"summed over {facts['runs']} runs",
        ),
    ]
    if math.isfinite(facts["predictability"]):
        limit = number(facts["predictability"])
        described.append(("predictability", f"{limit} s: scores beyond it are meaningless"))
    return described


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figure_order() -> list[str]:
    """All figures, the ones that answer first in front."""
    first = ["claims", "error_over_time", "horizon_bars", "space_time"]
    return first + [name for name in registry.names("figures") if name not in first]


def _paper(paper: dict[str, Any]) -> str:
    parts = [paper.get("title"), paper.get("venue")]
    parts.append(f"arXiv:{paper['arxiv']}" if paper.get("arxiv") else None)
    return ", ".join(str(part) for part in parts if part)


def _compared(claim: dict[str, Any]) -> str:
    if claim["kind"] == "r_squared":
        return f"R² of {claim['metric']} with {claim['explains']}: {claim['of']}"
    first, second = (
        "".join(f" at {column} {value}" for column, value in (claim.get(where) or {}).items())
        for where in ("at", "against_at")
    )
    return f"{claim['metric']}: {claim['of']}{first} / {claim['against']}{second}"


def _needed(claim: dict[str, Any]) -> str:
    sign = "≤" if claim.get("direction") == "below" else "≥"
    return f"{sign} {number(claim['holds'])}"


def _runs(claim: dict[str, Any]) -> str:
    seeds = "1 seed" if claim["seeds"] == 1 else f"{claim['seeds']} seeds"
    text = f"{seeds} × {claim['trajectories']} trajectories"
    return text + (f"; {claim['note']}" if claim.get("note") else "")


def _method_table(outcome: Outcome, tables: tuple[str, ...]) -> tuple[list[str], list[list[str]]]:
    """Header and one row per method, with those of the tables' metrics that any method has."""
    metrics = [name for name, entry in outcome.metrics.items() if entry.get("table") in tables]
    cells = {(row["method"], row["metric"]): interval(row) for row in outcome.judged["methods"]}
    shown = [metric for metric in metrics if any(key[1] == metric for key in cells)]
    methods = dict.fromkeys(method for method, _ in cells)
    rows = [[name] + [cells.get((name, metric), DASH) for metric in shown] for name in methods]
    return ["method"] + [outcome.metrics[metric]["heading"] for metric in shown], rows


def _section(outcome: Outcome, preset: str, captions: dict[str, str] | None) -> list[str]:
    """One experiment: facts, claims, methods, figures."""
    paper = _text(_paper(outcome.paper))
    if arxiv := outcome.paper.get("arxiv"):
        link = f'<a href="https://arxiv.org/abs/{_text(arxiv)}">arXiv:{_text(arxiv)}</a>'
        paper = paper.replace(f"arXiv:{_text(arxiv)}", link)
    facts = [("experiment", outcome.name), ("preset", preset), *_described(outcome.facts)]
    facts.append(("versions", ", ".join(outcome.facts["versions"])))
    lines = [f'<section id="{_text(outcome.name)}"><h2>{paper}</h2>', "<dl class=facts>"]
    lines += [f"<dt>{_text(label)}</dt><dd>{_text(value)}</dd>" for label, value in facts]
    lines += ["</dl>", "<h3>Claims</h3>", '<table class="claims"><thead><tr>']
    labels = ("claim", "measured", "paper", "needed", "verdict", "runs")
    lines += [f"<th scope=col>{label}</th>" for label in labels]
    lines.append("</tr></thead><tbody>")
    kinds = ("says", "number", "number", "number", "verdict", "runs")
    for claim in outcome.judged["claims"]:
        says = f"{_text(claim['says'])}<br><small>{_text(_compared(claim))}</small>"
        badge = f'<span class="badge {claim["verdict"]}">{claim["verdict"]}</span>'
        runs = f"<small>{_text(_runs(claim))}</small>"
        cells = [says, *map(_text, (interval(claim), number(claim["paper"]), _needed(claim)))]
        lines.append("<tr>")
        for label, kind, cell in zip(labels, kinds, [*cells, badge, runs], strict=True):
            lines.append(f'<td class="{kind}" data-label="{label}"><span>{cell}</span></td>')
        lines.append("</tr>")
    lines.append("</tbody></table>")
    header, rows = _method_table(outcome, ("short", "long"))
    lines.append('<h3>Methods</h3><div class="wide"><table class="methods"><thead><tr>')
    lines += [f"<th scope=col>{_text(cell)}</th>" for cell in header]
    lines.append("</tr></thead><tbody>")
    for name, *cells in rows:
        lines.append(f"<tr><th scope=row>{_text(name)}</th>")
        for value, _, rest in (cell.partition(" [") for cell in cells):
            below = f"<br><small>{_text(rest.rstrip(']').replace(', ', ' to '))}</small>"
            lines.append(f"<td class=number>{_text(value)}{below if rest else ''}</td>")
        lines.append("</tr>")
    lines.append("</tbody></table></div>")
    if captions is None:
        return [*lines, "</section>"]
    lines.append("<h3>Figures</h3>")
    for name, path in outcome.figures.items():
        lines.append(_figure(name, path, captions.get(name, "")))
    if not outcome.figures:
        lines.append("<p>No figures were drawn.</p>")
    return [*lines, "</section>"]


def _figure(name: str, path: Path, caption: str) -> str:
    """Embed an SVG as an image: its ids cannot clash with those of the other figures."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    title = name.replace("_", " ").capitalize()
    alt = f"{title}. {caption}".strip()
    return (
        f'<figure id="{_text(path.parent.parent.name)}-{_text(name)}"><div class="wide">'
        f'<img alt="{_text(alt)}" src="data:image/svg+xml;base64,{data}"></div>'
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
python -m longrun.tabulate --preset cpu --output-dir results/cpu --markdown RESULTS.md
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("tabulate", __doc__, EXAMPLES, "preset", "configs", "results")
    made.add_argument(
        "--captions", type=Path, default=Path("workflow/report"), help="folder of the .rst files"
    )
    made.add_argument("--output-dir", type=Path, required=True, help="for results.csv and .html")
    made.add_argument("--markdown", type=Path, help="file whose section of this preset to write")
    return made


def main() -> None:
    """Parse the command line, load, write table and page, and the section if asked to."""
    options = parser().parse_args()
    outcomes = load(options.configs, options.results, options.preset)
    with cli.atomic(options.output_dir / "results.csv") as part:
        table(outcomes, options.preset).to_csv(part, index=False)
    # Without figures for Snakemake's report: Chromium refuses a frame of more than two megabytes.
    for name, captions in (("claims", None), ("results", read_captions(options.captions))):
        with cli.atomic(options.output_dir / f"{name}.html") as part:
            part.write_text(page(outcomes, options.preset, captions), "utf-8")
    if options.markdown:
        old = "# Results\n"
        if options.markdown.exists():
            old = options.markdown.read_text("utf-8")
        parts = {outcome.name: markdown(outcome) for outcome in outcomes}
        new = insert(old, options.preset, parts, config.experiments(options.configs))
        with cli.atomic(options.markdown) as part:
            part.write_text(new, "utf-8")


if __name__ == "__main__":
    cli.run(main)
