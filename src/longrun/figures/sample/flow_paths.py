"""How straight a flow is: its error in few steps, its straightness, and its paths.

Of samplers that are no flows of their own, the error in few steps alone.
"""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("endpoint_error", "straightness", "transport_cost")

PATHS = 80  # of each method, as many as one can tell apart
COLUMNS = 4


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw error over evaluations, straightness and cost per method, and paths of points."""
    straightness = inputs.rows("straightness")
    methods = _style.order(inputs, straightness["method"].unique())
    if not methods:
        return _steps(inputs)
    kept = {method: _points(inputs, method) for method in methods}
    shown = {method: points for method, points in kept.items() if points is not None}
    rows = -(-len(shown) // COLUMNS)
    figure = _style.blank(11.0, 4.4 + 3.1 * rows)
    above: Any = figure
    if rows:
        heights = (4.0, 3.1 * rows)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    left, middle, right = above.subplots(1, 3, width_ratios=(1.5, 1, 1))
    _errors(left, inputs, methods)
    _bars(middle, inputs, "straightness", methods, "straightness S (1, log scale)")
    middle.set_xscale("log")
    lowest = straightness.loc[straightness["value"] > 0, "value"].min()
    if lowest > 0:  # from a whole power of ten on, of which alone there are labels
        middle.set_xlim(left=10.0 ** np.floor(np.log10(lowest)))
    middle.xaxis.set_minor_formatter(NullFormatter())
    middle.set_title("bend of the paths: 0 is straight")
    _bars(right, inputs, "transport_cost", methods, "transport cost per value (1)")
    right.set_title("how far the noise is carried")
    right.set_yticklabels([])
    if rows:
        grid = below.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axes, (method, points) in zip(grid.flat, shown.items(), strict=False):
            _paths(axes, inputs, method, points)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
    return _style.finish(figure, inputs, _verdict(inputs, methods), straightness)


def _steps(inputs: Inputs) -> Figure:
    """Draw the error of steps over the evaluations that they take."""
    rows = inputs.rows("endpoint_error")
    rows = rows[rows["value"] > 0]
    methods = _style.order(inputs, rows["method"].unique())
    if not methods:
        return _style.note("No method of this experiment goes from noise to data in steps.")
    figure = _style.blank(9.0, 5.2)
    axes = figure.subplots()
    for method in methods:
        parts = rows[rows["method"] == method].groupby("nfe")["value"]
        look = _style.line(inputs, method)
        root = parts.agg(lambda errors: float(np.sqrt(np.square(errors).mean())))
        axes.plot(root.index, root, label=method, **look)
        low, high = parts.quantile(0.1), parts.quantile(0.9)
        axes.fill_between(root.index, low, high, color=look["color"], alpha=0.12, linewidth=0)
    ticks = sorted(rows["nfe"].unique())
    axes.set(xscale="log", yscale="log", xticks=ticks, xticklabels=ticks)
    axes.minorticks_off()
    axes.set_xlabel("evaluations")
    axes.set_ylabel("error to the exact answer (std of the data)")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ends = rows[rows["nfe"] == ticks[-1]].groupby("method")["value"].mean()
    title = (
        f"In {ticks[-1]} evaluations {ends.idxmin()} errs least: {ends.min():.2g} of a deviation"
    )
    return _style.finish(figure, inputs, title, hint="bands: 80 % of the parts of the samples")


def _errors(axes: Axes, inputs: Inputs, methods: list[str]) -> None:
    """Draw the error against the method's own exact answer over the evaluations."""
    rows = inputs.rows("endpoint_error")
    for method in methods:
        runs = rows[rows["method"] == method].groupby(["seed", "nfe"])["value"].mean()
        band = runs.groupby("nfe").agg(["mean", "min", "max"])
        band = band[band["mean"] > 0]  # a distilled step is its own exact answer
        if band.empty:
            continue
        look = _style.look(inputs, method)
        axes.plot(band.index, band["mean"], label=method, **look)
        axes.fill_between(
            band.index, band["min"], band["max"], color=look["color"], alpha=0.2, linewidth=0
        )
    ticks = sorted(rows["nfe"].unique())
    axes.set(xscale="log", yscale="log", xticks=ticks, xticklabels=ticks)
    axes.minorticks_off()
    axes.set(xlabel="evaluations of the network", ylabel="end-point error (std of the data)")
    axes.set_title("error by number of Euler steps (range over seeds)")
    axes.legend(loc="lower left")


def _bars(axes: Axes, inputs: Inputs, metric: str, methods: list[str], label: str) -> None:
    rows = inputs.rows(metric)
    for place, method in enumerate(methods):
        runs = rows[rows["method"] == method].groupby("seed")["value"].mean()
        runs = runs[runs > 0] if metric == "straightness" else runs
        if runs.empty:
            axes.text(0.02, place, " 0", va="center", transform=axes.get_yaxis_transform())
            continue
        colour = _style.look(inputs, method)["color"]
        axes.barh(place, runs.mean(), color=colour, alpha=0.35, height=0.7)
        axes.plot(runs, [place] * len(runs), "o", color=colour, markersize=4)
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.4, -0.6)
    axes.set_xlabel(label)
    axes.grid(axis="y", visible=False)


def _points(inputs: Inputs, method: str) -> xr.Dataset | None:
    """Kept paths of a method whose data are points of a plane."""
    kept = inputs.predictions.get(method)
    if kept is None or "path" not in kept or kept.sizes.get("field") != 2:
        return None
    if kept["path"].ndim != 3 or not kept.sizes["trajectory"]:
        return None
    return kept


def _paths(axes: Axes, inputs: Inputs, method: str, kept: xr.Dataset) -> None:
    path, truth = kept["path"].values, kept["truth"].isel(lead_time=0).values
    axes.plot(*truth.T, ".", color="#bbbbbb", markersize=2, zorder=1)
    colour = _style.look(inputs, method)["color"]
    some = path[:, :PATHS]
    axes.plot(some[..., 0], some[..., 1], color=colour, linewidth=0.7, alpha=0.7)
    axes.plot(*some[0].T, "o", color=colour, markersize=2, markerfacecolor="white")
    axes.plot(*some[-1].T, "o", color=colour, markersize=2)
    limit = 1.05 * float(np.quantile(np.abs(path), 0.999))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set_title(f"{method}: {some.shape[1]} paths")
    names = kept["field"].values
    axes.set(xlabel=f"{names[0]} (1)", ylabel=f"{names[1]} (1)")
    axes.label_outer()


def _verdict(inputs: Inputs, methods: list[str]) -> str:
    """Say which method is the straightest, and what that is worth in one step."""
    means: pd.Series = inputs.rows("straightness").groupby("method")["value"].mean()
    curved = means[means > 0]
    if len(curved) < 2:
        return f"Paths from noise to data: {' and '.join(methods)}"
    best, worst = curved.idxmin(), curved.idxmax()
    factor = float(f"{curved[worst] / curved[best]:.2g}")
    return f"Paths of {best} are {factor:g} times straighter than those of {worst}"
