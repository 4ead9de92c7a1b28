"""Error of a steady map: over its parameters, against that on training states, while training."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, Formatter, FuncFormatter, LogLocator, NullFormatter

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("relative_l2", "relative_h1", "train_relative_l2", "parameters")
CURVES = ("train/relative_l2", "valid/relative_l2")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw error against parameters, test beside training states, and both while training."""
    means = {
        metric: inputs.rows(metric).groupby("method")["value"].mean().to_dict() for metric in SCORES
    }
    methods = _style.order(inputs, means["relative_l2"])
    if not methods:
        return _style.note("No method of this experiment maps given fields to sought ones.")
    curves = inputs.curves[inputs.curves["metric"].isin(CURVES)]
    figure = _style.blank(11.0, 4.4 + 3.2 * (not curves.empty))
    if curves.empty:
        left, right = figure.subplots(1, 2)
    else:
        panels = figure.subplot_mosaic([["size", "gap"], ["curve", "curve"]])
        left, right = panels["size"], panels["gap"]
        _curves(panels["curve"], inputs)
    _sizes(left, inputs, methods, means)
    _gaps(right, inputs, methods, means)
    handles = [Line2D([], [], **_style.look(inputs, method), label=method) for method in methods]
    figure.legend(handles=handles, ncols=min(len(methods), 5), loc="outside lower center")
    best = min(methods, key=lambda method: means["relative_l2"][method])
    title = f"{best} has the lowest relative L2 error on test states: "
    title += f"{means['relative_l2'][best]:.2%}"
    return _style.finish(figure, inputs, title, inputs.rows("relative_l2"))


def _sizes(
    axes: Axes, inputs: Inputs, methods: list[str], means: dict[str, dict[str, float]]
) -> None:
    """Error in both norms over the number of parameters."""
    for method in methods:
        look = _style.look(inputs, method) | {"linestyle": ""}
        size = max(means["parameters"].get(method, 0.0), 1.0)
        for metric, face in (("relative_l2", look["color"]), ("relative_h1", "white")):
            if method not in means[metric]:
                continue
            value = means[metric][method]
            interval = inputs.summary(metric).get(method)
            spread = _spread(value, interval)
            axes.errorbar(size, value, spread, markerfacecolor=face, capsize=3, **look)
    axes.set(xscale="log", yscale="log", xlabel="trained parameters (count)")
    low, high = axes.get_xlim()
    axes.set_xlim(low / 2, high * 2)  # room for two labels where all sizes are close
    _few_labels(axes.xaxis, EngFormatter(sep=""))
    axes.set_ylabel("relative error on test states (%)")
    _percent(axes.yaxis)
    axes.set_title("error and size")
    grey: dict[str, Any] = {"color": "#555555", "linestyle": "", "marker": "o"}
    norms = [
        Line2D([], [], **grey, label="L2"),
        Line2D([], [], **grey, markerfacecolor="white", label="H1"),
    ]
    axes.legend(handles=norms, title="norm")


def _gaps(
    axes: Axes, inputs: Inputs, methods: list[str], means: dict[str, dict[str, float]]
) -> None:
    """Training and test error of each method, joined."""
    for place, method in enumerate(methods):
        look = _style.look(inputs, method)
        test, train = means["relative_l2"][method], means["train_relative_l2"].get(method)
        if train is not None:
            axes.plot([train, test], [place, place], color=look["color"], linewidth=2, alpha=0.5)
            axes.plot(
                train,
                place,
                color=look["color"],
                marker="|",
                markersize=14,
                markeredgewidth=2.5,
                linestyle="",
            )
        axes.errorbar(
            test,
            place,
            xerr=_spread(test, inputs.summary("relative_l2").get(method)),
            color=look["color"],
            marker=look["marker"],
            capsize=3,
        )
        text = f"{test:.2%}" if train is None else f"{test / max(train, 1e-12):.1f} times"
        axes.annotate(text, (test, place), (10, 5), textcoords="offset points", fontsize=8)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.45, -0.55)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.16)
    axes.set(xscale="log", xlabel="relative L2 error (%): bar on training, symbol on test")
    _percent(axes.xaxis)
    axes.set_title("what is lost on unseen states")


def _curves(axes: Axes, inputs: Inputs) -> None:
    """Error of training batches and on valid over the updates."""
    lines = {"valid/relative_l2": "-", "train/relative_l2": (0, (1.2, 1.2))}
    rows = inputs.curves
    for metric, style in lines.items():
        some = rows[rows["metric"] == metric]
        for method in _style.order(inputs, some["method"]):
            mean = some[some["method"] == method].groupby("step")["value"].mean()
            look = _style.line(inputs, method) | {"linestyle": style, "linewidth": 1.3}
            axes.plot(mean, **look)
    axes.set(yscale="log", xlabel="optimiser updates", ylabel="relative L2 error (%)")
    _percent(axes.yaxis)
    names = ("on valid", "on training batches")
    handles = [
        Line2D([], [], color="#555555", linestyle=style, label=name)  # type: ignore[arg-type]
        for style, name in zip(lines.values(), names, strict=True)
    ]
    axes.legend(handles=handles)
    axes.set_title("while training, mean over seeds")


def _percent(axis: Axis) -> None:
    """Label a logarithmic axis of shares with percentages."""
    _few_labels(axis, FuncFormatter(lambda share, _: f"{100 * share:g}"))


def _few_labels(axis: Axis, formatter: Formatter) -> None:
    """Label a logarithmic axis, seldom enough not to overlap."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(formatter)
    axis.set_minor_formatter(NullFormatter())


def _spread(value: float, interval: dict[str, float] | None) -> np.ndarray | None:
    """Distances to the ends of an interval, as error bars need them."""
    if not interval or interval.get("low") is None or interval.get("high") is None:
        return None
    return np.abs([[interval["low"] - value], [interval["high"] - value]])
