"""Forest plot of the paper's claims: what was measured, what the paper says, what is needed."""

import math
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETLEFTBASE, CARETRIGHTBASE

from longrun.figures import _style
from longrun.figures._inputs import Inputs

VERDICTS = {  # colour, marker, word: never by colour alone
    "holds": ("#0072B2", "o", "holds"),
    "weaker": ("#CC79A7", "D", "weaker"),
    "contradicted": ("#D55E00", "X", "contradicted"),
    "open": ("#777777", "s", "open"),
    "not judged": ("#777777", "s", "not judged"),
}


AXES = {  # label below the axis of each kind of claim
    "ratio": "ratio of the two methods (1: no difference)",
    "updates": "updates, relative to those of the other method (1: no difference)",
    "value": "value, relative to what is needed",
    "slope": "slope of log score over the log of what varies (0: no dependence)",
    "r_squared": "R², share of variance explained",
    "rank_correlation": "Spearman's rank correlation (0: none)",
}
NO_EFFECT = {"ratio": 1, "updates": 1, "slope": 0, "rank_correlation": 0}
LOGARITHMIC = ("ratio", "updates", "value")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one line per claim, each kind on its own axis."""
    claims = inputs.claims.get("claims", [])
    if not claims:
        return _style.note("This experiment makes no claims.")
    kinds = [kind for kind in AXES if any(c["kind"] == kind for c in claims)]
    groups = [[claim for claim in claims if claim["kind"] == kind] for kind in kinds]
    figure = _style.blank(11.0, 1.9 + 0.72 * len(claims) + 0.6 * (len(kinds) - 1))
    grid = figure.subplots(
        len(kinds), 1, squeeze=False, height_ratios=[len(group) + 0.3 for group in groups]
    )[:, 0]
    for axes, kind, group in zip(grid, kinds, groups, strict=True):
        _forest(axes, kind, group)
    title = f"Of {_style.plural(len(claims), 'claim')}, {_counted(claims)}"
    figure.legend(handles=_legend(claims), loc="outside lower center", ncols=7, columnspacing=1.2)
    return _style.finish(figure, inputs, title)


def _counted(claims: list[dict[str, Any]]) -> str:
    """Count the verdicts that occur."""
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in VERDICTS}
    words = {"holds": "holds" if counts["holds"] == 1 else "hold"}
    return ", ".join(f"{n} {words.get(verdict, verdict)}" for verdict, n in counts.items() if n)


def _forest(axes: Axes, kind: str, claims: list[dict[str, Any]]) -> None:
    # a value may be negative, a ratio only by chance
    below = any(claim["low"] is not None and claim["low"] <= 0 for claim in claims)
    logarithmic = kind in LOGARITHMIC and not (kind == "value" and below)
    for place, claim in enumerate(claims):
        colour, marker, _ = VERDICTS[claim["verdict"]]
        # values have different units: they share an axis relative to what each claim needs
        unit = abs(claim["holds"]) if kind == "value" else 1.0
        values = [claim["low"], claim["value"], claim["high"]]
        if all(_drawable(value, logarithmic) for value in values):
            low, value, high = (value / unit for value in values)
            axes.plot(
                [low, high], [place, place], color=colour, linewidth=3.2, solid_capstyle="butt"
            )
            axes.plot(value, place, color=colour, marker=marker, markersize=9)
        else:
            axes.text(
                0.5,
                place,
                "no finite interval",
                ha="center",
                va="center",
                color="#777777",
                transform=axes.get_yaxis_transform(),
            )
        needed = claim["holds"] / unit
        axes.plot(needed, place, color="black", marker="|", markersize=19, markeredgewidth=2)
        arrow = CARETLEFTBASE if claim.get("direction") == "below" else CARETRIGHTBASE
        axes.plot(needed, place + 0.2, color="black", marker=arrow, markersize=6)
        if _drawable(claim.get("paper"), logarithmic):
            axes.plot(
                claim["paper"] / unit,
                place - 0.27,
                color="black",
                marker="D",
                markersize=7,
                markerfacecolor="white",
            )
        beside: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "color": colour}
        axes.text(
            1.01, place, VERDICTS[claim["verdict"]][2], va="bottom", fontweight="bold", **beside
        )
        axes.text(1.01, place + 0.06, _numbers(claim), va="top", fontsize=8.5, **beside)
    labels = [textwrap.fill(claim["says"], 54, max_lines=3, placeholder=" ...") for claim in claims]
    axes.set_yticks(range(len(claims)), labels, fontsize=8.5)
    axes.set_ylim(len(claims) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(AXES[kind])
    if kind in NO_EFFECT:
        axes.axvline(NO_EFFECT[kind], color="#555555", linestyle="--", linewidth=1.2, zorder=1)
    if logarithmic:
        axes.set_xscale("log")
        _readable_ticks(axes)
    elif kind == "r_squared":
        axes.set_xlim(0, 1.02)


def _numbers(claim: dict[str, Any]) -> str:
    if claim["value"] is None:
        return "no value"
    if claim["low"] is None or claim["high"] is None:
        return f"{claim['value']:.3g}, no interval"
    bound = {"lower": "≥ ", "upper": "≤ "}.get(claim.get("bound") or "", "")
    return bound + "{value:.3g} [{low:.3g}, {high:.3g}]".format(**claim)


def _drawable(value: float | None, logarithmic: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not logarithmic)


def _readable_ticks(axes: Axes) -> None:
    """Label a log axis with plain numbers: 0.5, 1, 1.5, not 10 to the power of something."""
    low, high = axes.get_xlim()
    low, high = min(low, 0.9), max(high, 1.12)
    steps = [lead * 10.0**power for power in range(-4, 5) for lead in (1, 2, 5)]
    if high / low < 6:
        steps = sorted({*steps, 0.7, 0.8, 0.9, 1.1, 1.2, 1.5, 3.0})
    ticks = [step for step in steps if low <= step <= high]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def _legend(claims: list[dict[str, Any]]) -> list[Line2D]:
    marks = [
        Line2D([], [], color=colour, marker=marker, markersize=8, linewidth=3, label=word)
        for verdict, (colour, marker, word) in VERDICTS.items()
        if any(claim["verdict"] == verdict for claim in claims)
    ]
    black: dict[str, Any] = {"color": "black", "linestyle": ""}
    return [
        *marks,
        Line2D([], [], marker="D", markerfacecolor="white", label="paper's value", **black),
        Line2D(
            [],
            [],
            marker="|",
            markersize=14,
            markeredgewidth=2,
            label="needed, on the arrow's side",
            **black,
        ),
        Line2D([], [], color="#555555", linestyle="--", label="no difference"),
    ]
