"""Error over lead time, by how a network sees the parameters and how it was trained."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("cape",)
SCORES = ("nrmse", "predictability")
TOLD = {"cape": "gated by CAPE", "channels": "as constant channels", "none": "not at all"}


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean over trajectories; the band spans the lowest and the highest seed."""
    scores = inputs.rows("nrmse")
    groups = _groups(inputs, set(scores["method"]))
    if not groups:
        return _style.note("No two networks differ in how they see the parameters.")
    figure = _style.blank(11.0, 4.6)
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, members) in zip(panels, groups.items(), strict=True):
        for method, label in members.items():
            _curve(axes, inputs, scores[scores["method"] == method], method, label)
        axes.set(title=title, xlabel=f"lead time ({inputs.unit})", yscale="log")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    panels[0].set_ylabel("nRMSE (error / truth, rms)")
    drawn = {name for members in groups.values() for name in members}
    mean = scores[scores["method"].isin(drawn)].groupby("method")["value"].mean()
    best = str(mean.idxmin())
    title = f"{best} has the lowest rollout error of these: nRMSE {mean[best]:.3g} on average"
    return _style.finish(figure, inputs, title, scores, "bands: range over seeds")


def _groups(inputs: Inputs, scored: set[str]) -> dict[str, dict[str, str]]:
    """Panels: a title, and its methods with their labels. One needs two methods to compare."""
    everything: dict[str, dict[str, Any]] = inputs.spec["methods"]
    common = inputs.spec["task"].get("training", {}).get("name", "one_step")
    networks = {
        name: entry | {"training": entry.get("training", {}).get("name", common)}
        for name, entry in everything.items()
        if entry["name"] in METHODS and name in scored
    }
    panels = {}
    for base in dict.fromkeys(entry.get("base", "fno") for entry in networks.values()):
        of_base = {n: entry for n, entry in networks.items() if entry.get("base", "fno") == base}
        told = {
            name: f"{name}: {TOLD[entry.get('conditioning', 'cape')]}"
            for name, entry in of_base.items()
            if entry["training"] == common
        }
        trained = {
            name: f"{name}: {entry['training']}".replace("_", " ")
            for name, entry in of_base.items()
            if entry.get("conditioning", "cape") == "cape"
        }
        panels[f"{base}: how it sees the parameters"] = told
        panels[f"{base}: how it was trained"] = trained
    return {title: members for title, members in panels.items() if len(members) > 1}


def _curve(axes: Axes, inputs: Inputs, rows: pd.DataFrame, method: str, label: str) -> None:
    runs = rows.groupby(["seed", "step"])[["lead_time", "value"]].mean()
    band = runs.groupby("step").agg({"lead_time": "mean", "value": ["mean", "min", "max"]})
    time, look = band["lead_time", "mean"], _style.line(inputs, method)
    axes.plot(time, band["value", "mean"], label=label, **look)
    axes.fill_between(
        time,
        band["value", "min"],
        band["value", "max"],
        color=look["color"],
        alpha=0.18,
        linewidth=0,
    )
