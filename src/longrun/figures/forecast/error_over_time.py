"""Correlation and error of every method over lead time, with the spread between seeds."""

import numpy as np
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("correlation", "nrmse", "predictability")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean over trajectories; the band spans the lowest and the highest seed."""
    scores = inputs.rows("correlation")
    if scores.empty:
        return _style.note("No rollouts were scored.")
    figure = _style.blank(10.5, 6.4)
    grid = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    end = 0.0
    for axes, metric in zip(grid, ("correlation", "nrmse"), strict=True):
        rows = inputs.rows(metric)
        for method in _style.order(inputs, rows["method"]):
            runs = rows[rows["method"] == method].groupby(["seed", "step"])[["lead_time", "value"]]
            # One line per seed first: the band is about seeds, not trajectories.
            band = (
                runs.mean()
                .groupby("step")
                .agg({"lead_time": "mean", "value": ["mean", "min", "max"]})
            )
            time = band["lead_time", "mean"]
            end = max(end, float(time.max()))
            look = _style.line(inputs, method)
            axes.plot(time, band["value", "mean"], label=method, **look)
            axes.fill_between(
                time,
                band["value", "min"],
                band["value", "max"],
                color=look["color"],
                alpha=0.18,
                linewidth=0,
            )
        _style.predictability(axes, inputs)
    upper, lower = grid
    upper.axhline(0.8, color="#555555", linewidth=1.0, label="correlation 0.8")
    upper.set(ylabel="correlation with truth", ylim=(-0.15, 1.03), xlim=(0, end))
    lower.set(
        ylabel="nRMSE (error / truth, rms)", xlabel=f"lead time ({inputs.unit})", yscale="log"
    )
    _style.legend_right(figure, upper)
    mean = scores.groupby(["method", "step"])["value"].mean()
    last = {}
    for method in _style.order(inputs, scores["method"]):
        last[method] = int((mean[method].to_numpy() >= 0.8).cumprod().sum())
    times = scores.groupby("step")["lead_time"].mean().sort_index()
    title = _title(last, times.to_numpy(), inputs.unit)
    return _style.finish(figure, inputs, title, scores, "bands: range over seeds")


def _title(last: dict[str, int], times: np.ndarray, unit: str) -> str:
    """Say who stays above 0.8 longest, by the steps for which every method does."""
    longest = max(last.values())
    if not longest:
        return "No method's mean correlation is above 0.8, even after one step"
    time = f"{times[longest - 1]:.3g} {unit}"
    best = [method for method, steps in last.items() if steps == longest]
    keep = "keeps its" if len(best) == 1 else "keep their"
    until = f"to the end, {time}" if longest == len(times) else f"longest: {time}"
    return f"{_style.listed(best)} {keep} mean correlation above 0.8 {until}"
