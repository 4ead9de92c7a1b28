"""How long each method stays correlated with the truth, above 0.8 and above 0.9."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("correlation_time_0.8", "correlation_time_0.9", "predictability")
LEVELS = {"0.8": (1.0, -0.2), "0.9": (0.45, 0.2)}  # how dark, and which side of the tick


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw two bars per method with 95 % bootstrap intervals."""
    summary = {level: inputs.summary(f"correlation_time_{level}") for level in LEVELS}
    methods = _style.order(inputs, summary["0.8"])
    if not methods:
        return _style.note("No method has a correlation time.")
    figure = _style.blank(9.5, 1.6 + 0.55 * len(methods))
    axes = figure.subplots()
    for level, (dark, shift) in LEVELS.items():
        for place, method in enumerate(methods):
            row = summary[level].get(method)
            if row is None:
                continue
            value = row["value"]
            axes.barh(
                place + shift, value, 0.38, color=_style.look(inputs, method)["color"], alpha=dark
            )
            axes.errorbar(
                value,
                place + shift,
                color="black",
                capsize=3,
                linewidth=1.1,
                xerr=np.abs([[row["low"] - value], [row["high"] - value]]),
            )
            text = f"{value:.3g}"
            if row["censored"]:
                text = f"≥ {text}: {row['censored']:.0%} never fell below"
            axes.annotate(
                text,
                (max(row["high"], value), place + shift),
                (5, 0),
                fontsize=8,
                textcoords="offset points",
                va="center",
            )
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.16)
    _style.predictability(axes, inputs)
    axes.set_xlabel(
        f"time until the correlation with the truth first falls below the level ({inputs.unit})"
    )
    handles = [
        Patch(color="#444444", alpha=dark, label=f"above {level}")
        for level, (dark, _) in LEVELS.items()
    ]
    figure.legend(
        handles=handles + axes.get_legend_handles_labels()[0], ncols=3, loc="outside lower center"
    )
    best = max(methods, key=lambda method: summary["0.8"][method]["value"])
    row = summary["0.8"][best]
    longest = f"{row['value']:.3g} {inputs.unit} on average"
    if row["censored"]:
        longest = f"at least {longest}; {row['censored']:.0%} of its rollouts never fall below"
    title = f"{best} stays above 0.8 longest: {longest}"
    return _style.finish(figure, inputs, title, inputs.rows("correlation_time_0.8"))
