"""Does the spread of an ensemble know when its forecast fails? Estimated against true horizon."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("predicted_horizon", "correlation_time_0.8")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one panel per method with an ensemble, one point per trajectory and seed."""
    estimates, truths = (inputs.rows(metric) for metric in SCORES)
    methods = _style.order(inputs, set(estimates["method"]) & set(truths["method"]))
    if not methods:
        return _style.note("No method was rolled out as an ensemble, so none predicts its horizon.")
    columns = min(len(methods), 3)
    figure = _style.blank(1.2 + 4.0 * columns, 1.4 + 4.0 * -(-len(methods) // columns))
    grid = figure.subplots(-(-len(methods) // columns), columns, squeeze=False).ravel()
    keys = ["seed", "trajectory"]
    best = (-1.0, "")
    for axes, method in zip(grid, methods, strict=False):
        mine, true = (
            rows[rows["method"] == method].groupby(keys)[["value", "censored"]].mean()
            for rows in (estimates, truths)
        )
        both = mine.join(true, lsuffix="_estimated", rsuffix="_true", how="inner")
        x, y = both["value_estimated"].to_numpy(), both["value_true"].to_numpy()
        censored = (both["censored_estimated"] + both["censored_true"]).to_numpy() > 0
        look = _style.look(inputs, method)
        for mask, face, label in (
            (~censored, look["color"], "trajectory"),
            (censored, "none", "at least (run too short)"),
        ):
            if mask.any():
                axes.scatter(
                    x[mask],
                    y[mask],
                    s=34,
                    facecolors=face,
                    edgecolors=look["color"],
                    marker=look["marker"],
                    alpha=0.85,
                    label=label,
                )
        top = 1.06 * max(x.max(), y.max())
        axes.plot([0, top], [0, top], color="#777777", linestyle="--", linewidth=1.1, label="equal")
        share = _shared_variance(both)
        axes.set_title(f"{method}: R² = {share:.2f}")
        axes.set(
            xlim=(0, top),
            ylim=(0, top),
            aspect="equal",
            xlabel=f"horizon estimated from the spread ({inputs.unit})",
            ylabel=f"true horizon, r > 0.8 ({inputs.unit})",
        )
        axes.legend(loc="upper left")
        best = max(best, (share, method))
    for axes in grid[len(methods) :]:
        axes.remove()
    title = f"The spread of {best[1]} explains {best[0]:.0%} of its horizon's variance"
    return _style.finish(figure, inputs, title, estimates)


def _shared_variance(both: pd.DataFrame) -> float:
    """Squared Pearson correlation over trajectories, mean over seeds; 0 where nothing varies."""
    squared = [
        run["value_estimated"].corr(run["value_true"]) ** 2 for _, run in both.groupby("seed")
    ]
    return float(np.nan_to_num(squared).mean())
