"""What a masked training is worth: errors of rebuilt frames, and of forecasts from few samples."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("prithvi_wxc",)
RATIOS = (50, 75, 90)
KINDS = {"local": "places of every window hidden", "global": "whole windows hidden"}
SCORES = (*(f"reconstruction_{kind}_{ratio}" for kind in KINDS for ratio in RATIOS), "nrmse")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw error over the share that is hidden, for both kinds, and over lead time."""
    entries = inputs.spec["methods"]
    masked = [name for name, entry in entries.items() if entry.get("mask_ratio", 0.5)]
    errors = {kind: _rebuilt(inputs, kind, masked) for kind in KINDS}
    scores = inputs.rows("nrmse")
    methods = _style.order(inputs, scores["method"])
    if not methods or not any(errors.values()):
        return _style.note("No method of this experiment rebuilt hidden frames.")
    figure = _style.blank(12.0, 4.6)
    first, second, third = figure.subplots(1, 3)
    second.sharey(first)
    for axes, (kind, title) in zip((first, second), KINDS.items(), strict=True):
        for method, runs in errors[kind].items():
            mean, look = runs.mean(1), _style.look(inputs, method)
            spread = np.abs([runs.min(1) - mean, runs.max(1) - mean])
            axes.errorbar(RATIOS, mean, spread, capsize=3, **look)
        axes.axhline(1, color="#555555", linewidth=1.0, linestyle="--")
        axes.set(title=title, xlabel="hidden (%)", xticks=RATIOS)
    first.set_ylabel("error where hidden / std of the anomaly")
    first.set_ylim(bottom=0)
    _forecasts(third, inputs, methods)
    figure.legend(*third.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    title = _title(errors["local"])
    hint = "dashed: the climatology; bars and bands: range over seeds"
    return _style.finish(figure, inputs, title, scores, hint)


def _rebuilt(inputs: Inputs, kind: str, masked: list[str]) -> dict[str, np.ndarray]:
    """Return errors (share, seed) by method, of those that were trained with masks."""
    found: dict[str, list[np.ndarray]] = {}
    for ratio in RATIOS:
        rows = inputs.rows(f"reconstruction_{kind}_{ratio}")
        for method in _style.order(inputs, set(rows["method"]) & set(masked)):
            own = rows[rows["method"] == method]
            found.setdefault(method, []).append(own.groupby("seed")["value"].mean().to_numpy())
    return {method: np.array(runs) for method, runs in found.items()}


def _forecasts(axes: Axes, inputs: Inputs, methods: list[str]) -> None:
    rows = inputs.rows("nrmse")
    for method in methods:
        own = rows[rows["method"] == method]
        runs = own.groupby(["seed", "step"])[["lead_time", "value"]].mean()
        band = runs.groupby("step").agg({"lead_time": "mean", "value": ["mean", "min", "max"]})
        time, look = band["lead_time", "mean"], _style.line(inputs, method)
        axes.plot(time, band["value", "mean"], label=method, **look)
        low, high = band["value", "min"], band["value", "max"]
        axes.fill_between(time, low, high, color=look["color"], alpha=0.18, linewidth=0)
    axes.set(title="forecasts", xlabel=f"lead time ({inputs.unit})", ylabel="nRMSE (error / truth)")
    axes.set_ylim(bottom=0)


def _title(errors: dict[str, np.ndarray]) -> str:
    """Say what hiding more costs the network that rebuilds best."""
    mean = {method: runs.mean(1) for method, runs in errors.items()}
    best = min(mean, key=lambda method: mean[method][0])
    few, many = mean[best][0], mean[best][-1]
    return f"{best} rebuilds half of a frame to {few:.2g} of its anomaly, nine tenths to {many:.2g}"
