"""Numbers, claims and verdicts in words, the same on every page."""

import math
import re
from collections.abc import Mapping
from typing import Any

from longrun.runtime.times import in_words

DASH = "–"
VERDICTS = ("holds", "weaker", "contradicted", "open", "not judged")
ALWAYS = ("contradicted", "open")  # counted also where there are none


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


def interval(row: Mapping[str, Any]) -> str:
    """Value with its interval: ``1.32 [1.12, 1.55]``, with ≥ where rollouts were too short."""
    value = number(row["value"])
    if value == DASH:
        return "no finite value"
    bound = _bound(row)
    low, high = number(row["low"]), number(row["high"])
    return bound + (value if low == value == high else f"{value} [{low}, {high}]")


def _bound(row: Mapping[str, Any]) -> str:
    """Sign of a value that is only a bound, because rollouts never crossed."""
    if "verdict" in row:
        return {"lower": "≥ ", "upper": "≤ "}.get(row.get("bound") or "", "")
    return "≥ " if row.get("censored") else ""


def compared(claim: Mapping[str, Any]) -> str:
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


def needed(claim: Mapping[str, Any]) -> str:
    """Say what a claim needs."""
    sign = "≤" if claim.get("direction") == "below" else "≥"
    return f"{sign} {number(claim['holds'])}"


def runs(claim: Mapping[str, Any]) -> str:
    """Say on how many runs and trajectories a claim rests, with its note."""
    seeds = "1 seed" if claim["seeds"] == 1 else f"{claim['seeds']} seeds"
    text = f"{seeds} × {claim['trajectories']} trajectories"
    return text + (f"; {claim['note']}" if claim.get("note") else "")


def described(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say with what, when and for how long an experiment ran."""
    described = [
        ("hardware", "; ".join(facts["machines"])),
        ("commit", ", ".join(facts["commits"])),
        (
            "wall time",
            f"training {in_words(facts['train'])}, evaluation {in_words(facts['evaluate'])}, "
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


def year(paper: Mapping[str, Any]) -> str:
    """Return the year of a paper's venue, else that of its arXiv number; empty for neither."""
    if venue := re.search(r"\b(?:19|20)\d\d\b", str(paper.get("venue") or "")):
        return venue[0]
    arxiv = re.match(r"(\d\d)\d\d\.\d", str(paper.get("arxiv") or ""))
    return f"20{arxiv[1]}" if arxiv else ""


def escaped(text: object) -> str:
    """Return a text that stands in a cell of a Markdown table as it is."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
