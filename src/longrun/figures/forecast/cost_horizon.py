"""What a longer horizon costs: wall time against correlation time, classical solver included."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("wall_time_per_second", "correlation_time_0.8", "predictability")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one point per method, with the 95 % interval of its horizon."""
    scores = inputs.rows("wall_time_per_second")
    cost = scores.groupby("method")["value"].agg(["mean", "min", "max"])
    horizon = inputs.summary("correlation_time_0.8")
    methods = [method for method in _style.order(inputs, cost.index) if method in horizon]
    if not methods:
        return _style.note("No method has both a cost and a horizon.")
    figure = _style.blank(9.5, 5.2)
    axes = figure.subplots()
    for method in methods:
        row, look = horizon[method], _style.look(inputs, method)
        price = max(cost["mean"][method], 1e-12)
        axes.errorbar(
            price,
            row["value"],
            xerr=np.abs([[cost["min"][method] - price], [cost["max"][method] - price]]),
            yerr=np.abs([[row["low"] - row["value"]], [row["high"] - row["value"]]]),
            color=look["color"],
            capsize=4,
        )
        axes.plot(
            price,
            row["value"],
            color=look["color"],
            marker=look["marker"],
            markersize=9,
            linestyle="",
            label=method + ("  (lower bound)" if row["censored"] else ""),
            markerfacecolor="white" if row["censored"] else look["color"],
        )
    _style.predictability(axes, inputs, vertical=False)
    axes.set(
        xscale="log",
        xlabel=f"wall time (s) per {inputs.per_unit} and trajectory; left is cheaper",
        ylabel=f"correlation above 0.8 ({inputs.unit}); up is better",
    )
    axes.set_ylim(bottom=0)
    _style.few_labels(axes.xaxis)
    _style.legend_right(figure, axes)
    best = max(methods, key=lambda method: horizon[method]["value"])
    longest = _time(horizon[best])
    title = f"The longest horizon, {longest} {inputs.unit}, is that of {best}"
    cheaper = [m for m in methods if cost["mean"][m] < cost["mean"][best]]
    if cheaper:
        rival = max(cheaper, key=lambda method: horizon[method]["value"])
        title += f"; the best cheaper one, {rival}, reaches {_time(horizon[rival])}"
    return _style.finish(figure, inputs, title, inputs.rows("correlation_time_0.8"))


def _time(row: dict[str, Any]) -> str:
    """Say a horizon, that of rollouts which never crossed as the bound that it is."""
    return f"{'at least ' if row['censored'] else ''}{row['value']:.3g}"
