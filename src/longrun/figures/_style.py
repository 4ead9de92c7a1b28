"""What all figures share: the style, the look of a method, the heading, the note for no data."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter

from longrun.figures._inputs import Inputs

TRUTH = "black"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9")
DARK = ("#003A5C", "#7A3500", "#00503A", "#7F5800", "#7A4F66", "#1F6E99")
LINES = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p")

STYLE = "longrun.figures.style"  # the file style.mplstyle of this package
# The decorator of every `draw`: works under our style and leaves the global one alone.
styled = matplotlib.style.context(STYLE)


def blank(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, without touching pyplot's list of open figures."""
    return Figure(figsize=(width, height), layout="constrained")


def note(text: str, width: float = 8.0) -> Figure:
    """Draw a sentence in place of a figure that has nothing to show."""
    figure = blank(width, 1.6)
    figure.text(0.5, 0.5, text, ha="center", va="center", color="#444444", fontsize=11, wrap=True)
    return figure


def look(inputs: Inputs, method: str) -> dict[str, Any]:
    """Return a method's colour, line and marker: the same in every figure of an experiment."""
    place = inputs.methods.index(method)
    return {
        "color": (COLOURS + DARK)[place % len(COLOURS + DARK)],
        "linestyle": LINES[place // len(COLOURS) % len(LINES)],
        "marker": MARKERS[place % len(MARKERS)],
    }


def line(inputs: Inputs, method: str) -> dict[str, Any]:
    """Return a method's colour and line, for curves too dense for markers.

    Later lines are thinner, more broken and on top, so that both show where two lie on each other.
    """
    place = inputs.methods.index(method) % len(LINES)
    width = 2.6 - 0.4 * place
    own = {"marker": None, "linestyle": LINES[place], "linewidth": width, "zorder": 3 - width / 10}
    return look(inputs, method) | own


def order(inputs: Inputs, methods: Iterable[str]) -> list[str]:
    """Sort methods as the experiment file lists them."""
    present = set(methods)
    return [method for method in inputs.methods if method in present]


def finish(
    figure: Figure,
    inputs: Inputs,
    title: str,
    scores: pd.DataFrame | None = None,
    hint: str = "",
) -> Figure:
    """Add a title that says what is seen, and below how to read it and what it was drawn from."""
    width, height = figure.get_size_inches()
    parts = [inputs.experiment, f"preset {inputs.preset}", f"data {inputs.dataset}"]
    if inputs.preset == "smoke":
        parts.insert(0, "a trial run, too small to mean anything")
    if scores is not None and len(scores):
        seeds = int(scores.groupby("method")["seed"].nunique().max())
        parts.append("1 seed" if seeds == 1 else f"up to {seeds} seeds")
        trajectories = scores.loc[scores["trajectory"] >= 0, "trajectory"].nunique()
        if trajectories:
            parts.append(f"{plural(trajectories, 'test trajectory')}")
    small = "  ·  ".join(([hint] if hint else []) + parts)
    head, below = (
        textwrap.wrap(text, int(width * inch)) for text, inch in ((title, 9), (small, 14))
    )
    top = 0.08 + 0.21 * len(head)
    figure.suptitle(
        "\n".join(head), x=0.01, y=1 - 0.08 / height, ha="left", va="top", fontweight="bold"
    ).set_in_layout(False)
    figure.text(
        0.01,
        1 - (top + 0.02) / height,
        "\n".join(below),
        ha="left",
        va="top",
        fontsize=8.5,
        color="#555555",
        in_layout=False,
    )
    room = (top + 0.1 + 0.15 * len(below)) / height
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - room))
    return figure


def predictability(axes: Axes, inputs: Inputs, vertical: bool = True, label: bool = True) -> None:
    """Mark the time after which the truth itself cannot be predicted, if the store knows it."""
    limit = inputs.number("predictability")
    if limit is None:
        return
    text = f"predictability limit, {limit:.0f} {inputs.unit}" if label else None
    draw = axes.axvline if vertical else axes.axhline
    draw(limit, color="#555555", linestyle=(0, (1, 1.5)), linewidth=1.3, label=text, zorder=1)


def legend_right(figure: Figure, axes: Axes) -> None:
    """Put the legend of one panel beside the whole figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")


def few_labels(axis: Axis) -> None:
    """Label a logarithmic axis at 1, 2 and 5 times powers of ten, at powers alone if it is long."""
    low, high = axis.get_view_interval()
    if high < 100 * low:
        axis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.set_minor_formatter(LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    else:
        axis.set_minor_formatter(NullFormatter())


def listed(names: Sequence[str]) -> str:
    """Return names as one says them."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def plural(number: int, noun: str) -> str:
    """Write a number with its noun: 1 claim, 2 claims."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s".replace("ys", "ies")
