"""What choosing a solver's parameter saves: iterations over the sequence, and choice by context."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("iterations", "iterations_late")
LATE = 0.5  # share of the sequence, its last part, whose choices are shown
BINS = 8  # of the context, with equally many systems in each


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean so far, the late mean, and omega against the context."""
    scores = inputs.rows("iterations")
    methods = _style.order(inputs, scores["method"])
    if not methods:
        return _style.note("No method of this experiment chooses relaxation parameters.")
    figure = _style.blank(12.0, 5.2)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 0.8, 1.1))
    _over_sequence(left, inputs, scores, methods)
    late = _late(middle, inputs, methods)
    _choices(right, inputs, methods)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 6))
    hint = "bands and bars: range over seeds and trials"
    return _style.finish(figure, inputs, _title(late), scores, hint)


def _title(late: pd.Series) -> str:
    """Say which method ends with the fewest iterations, and which with the most."""
    if late.empty:
        return "Iterations per system so far"
    best, worst = late.idxmin(), late.idxmax()
    if best == worst:
        return f"{best} needs {late[best]:.3g} iterations per system late in the sequence"
    return (
        f"Late in the sequence {best} needs {late[best]:.3g} iterations per system, "
        f"{worst} {late[worst]:.3g}"
    )


def _over_sequence(axes: Axes, inputs: Inputs, scores: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        mine = scores[scores["method"] == method]
        trials = mine.pivot_table(
            index="step", columns=["seed", "trajectory"], values="value", observed=True
        )
        mean = trials.expanding().mean()  # blocks are equally long
        look = _style.line(inputs, method)
        axes.plot(mean.index, mean.mean(axis=1), label=method, **look)
        low, high = mean.min(axis=1), mean.max(axis=1)
        axes.fill_between(mean.index, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axes.set(
        xlabel="systems solved",
        ylabel="iterations per system, mean so far",
        yscale="log",
        xlim=(0, float(scores["step"].max())),
    )
    _plain(axes)
    axes.set_title("while learning")


def _late(axes: Axes, inputs: Inputs, methods: list[str]) -> pd.Series:
    """Draw the late means; return them by method."""
    rows = inputs.rows("iterations_late")
    rows = rows[rows["method"].isin(methods)]
    ends = rows.groupby("method", observed=True)["value"].agg(["mean", "min", "max"])
    ends = ends.reindex([method for method in methods if method in ends.index])
    for place, (method, (mean, low, high)) in enumerate(ends.iterrows()):
        look = _style.look(inputs, str(method))
        axes.vlines(place, low, high, color=look["color"], linewidth=2)
        axes.plot(place, mean, markersize=8, **look | {"linestyle": ""})
        axes.text(place + 0.25, mean, f"{mean:.3g}", va="center", fontsize=9)
    axes.set_xticks(range(len(ends)), list(map(str, ends.index)), rotation=40, ha="right")
    axes.set(ylabel="iterations per system", yscale="log")
    if len(ends):
        axes.set_xlim(-0.5, len(ends) - 0.1)
    _plain(axes)
    share = inputs.spec["evaluate"].get("late")
    axes.set_title(f"in the last {100 * share:.3g} %" if share else "late")
    return ends["mean"]


def _choices(axes: Axes, inputs: Inputs, methods: list[str]) -> None:
    """Draw the mean choice per part of the context, and how far choices spread."""
    drawn = False
    for method in methods:
        table = _late_choices(inputs, method)
        if table.empty or not table["omega"].any():  # all 0: no preconditioner
            continue
        parts = pd.qcut(table["context"], BINS, labels=False, duplicates="drop")
        groups = table.groupby(parts if parts.notna().all() else np.zeros(len(table)))
        context, omega = groups["context"].mean(), groups["omega"]
        look = _style.line(inputs, method)
        axes.plot(context, omega.mean(), **look)
        spread = omega.quantile(0.1), omega.quantile(0.9)
        axes.fill_between(context, *spread, color=look["color"], alpha=0.12, linewidth=0)
        drawn = True
    axes.set_title("choices late in one trial")
    axes.set(xlabel="context of the system", ylabel="relaxation parameter ω")
    if not drawn:
        axes.text(0.5, 0.5, "no choices were kept", ha="center", transform=axes.transAxes)


def _late_choices(inputs: Inputs, method: str) -> pd.DataFrame:
    """Context and omega of the last systems of the first trial that was kept."""
    kept = inputs.predictions.get(method, xr.Dataset())
    if "omega" not in kept or not kept.sizes["trajectory"]:
        return pd.DataFrame({"context": [], "omega": []})
    late = slice(-max(1, round(LATE * kept.sizes["system"])), None)
    trial = kept.isel(trajectory=0, system=late)
    return pd.DataFrame({name: trial[name].to_numpy() for name in ("context", "omega")})


def _plain(axes: Axes) -> None:
    """Write numbers, not powers, on a logarithmic axis of little extent."""
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_ylim()
    if high < 30 * low:
        ticks = [t for t in MaxNLocator(6).tick_values(low, high) if low <= t <= high]
        axes.set_yticks(ticks)
