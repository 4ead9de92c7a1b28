"""Rollout error against the number of waves: at equal parameters, and beside what it costs."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("sinenet",)
SCORES = ("nrmse", "parameters", "wall_time_per_second", "predictability")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean over the rollout; bars span the lowest and the highest seed."""
    options = _options(inputs)
    runs = inputs.rows("nrmse").groupby(["method", "seed"])["value"].mean()
    error = runs.groupby("method").agg(["mean", "min", "max"])
    methods = _style.order(inputs, set(options) & set(error.index))
    if not methods:
        return _style.note("No network of waves was scored.")
    error = error.loc[methods]
    figure = _style.blank(11.0, 4.8)
    left, right = figure.subplots(1, 2, sharey=True)
    plain = [name for name in methods if _is_plain(options[name])]
    waves = pd.Series({name: options[name].get("waves", 8) for name in methods})
    _panel(left, inputs, error, waves, plain)
    ticks = sorted(set(waves))
    left.set_xscale("log", base=2)
    left.set_xticks(ticks, [str(number) for number in ticks])
    left.set_xticks([], minor=True)
    left.set(xlabel="waves", ylabel="nRMSE, mean over the rollout")
    size = inputs.rows("parameters").groupby("method")["value"].mean().reindex(methods)
    if size.notna().any():
        left.set_title(f"at {size.min():,.0f} to {size.max():,.0f} parameters".replace(",", " "))
    cost = inputs.rows("wall_time_per_second").groupby("method")["value"].mean().reindex(methods)
    _panel(right, inputs, error, 1e3 * cost, plain)
    right.set(
        xlim=(0, None), xlabel=f"wall time (ms) per {inputs.per_unit}", title="and what it costs"
    )
    _style.legend_right(figure, left)
    best = str(error["mean"].idxmin())
    title = f"{best} has the lowest rollout error: nRMSE {error.loc[best, 'mean']:.3g}"
    hint = "bars: range over seeds; line: SineNet as published, at other numbers of waves"
    return _style.finish(figure, inputs, title, inputs.rows("nrmse"), hint)


def _options(inputs: Inputs) -> dict[str, dict[str, Any]]:
    methods: dict[str, dict[str, Any]] = inputs.spec["methods"]
    return {name: entry for name, entry in methods.items() if entry["name"] in METHODS}


def _is_plain(options: dict[str, Any]) -> bool:
    return options.get("dual_path", True) and options.get("blocks", 1) == 1


def _panel(
    axes: Axes, inputs: Inputs, error: pd.DataFrame, place: pd.Series, plain: list[str]
) -> None:
    line = sorted(plain, key=lambda name: float(place[name]))
    axes.plot(place[line], error["mean"][line], color="#777777", linewidth=1.2, zorder=1)
    for name in error.index:
        mean, low, high = error.loc[name, ["mean", "min", "max"]]
        axes.errorbar(
            place[name],
            mean,
            [[mean - low], [high - mean]],
            capsize=4,
            markersize=8,
            markerfacecolor=None if name in plain else "white",
            label=name,
            **_style.look(inputs, name) | {"linestyle": ""},
        )
