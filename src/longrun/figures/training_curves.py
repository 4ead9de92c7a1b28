"""Loss, validation error and learning rate of every run over its updates; supply of a stream."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

PANELS = {
    "train/loss": "training loss\n(each method's own)",
    "valid/increment_error": "one-step error on valid\n(share of the increment)",
    "valid/field_error": "error of a frame on valid\n(share of the spread)",
    "learning_rate": "learning rate",
    "online/simulations": "simulations\nthat have arrived",
    "online/buffer": "windows\nin the buffer",
    "online/reuse": "draws per window\nthat was drawn",
}
CURVES = tuple(PANELS)


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean over seeds with the range between them."""
    curves = inputs.curves
    panels = {
        metric: label for metric, label in PANELS.items() if (curves["metric"] == metric).any()
    }
    if not panels:
        return _style.note("Nothing was trained in this experiment.")
    figure = _style.blank(10.5, 0.9 + 2.1 * len(panels))
    grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (metric, label) in zip(grid, panels.items(), strict=True):
        rows = curves[curves["metric"] == metric]
        for method in _style.order(inputs, rows["method"]):
            runs = _thinned(rows[rows["method"] == method]).groupby(["seed", "step"])["value"]
            band = runs.mean().groupby("step").agg(["mean", "min", "max"])
            look = _style.line(inputs, method)
            axes.plot(band["mean"], label=method, **look | {"linewidth": 1.2})
            axes.fill_between(
                band.index, band["min"], band["max"], color=look["color"], alpha=0.18, linewidth=0
            )
        axes.set(ylabel=label, yscale="log")
    grid[-1].set_xlabel("optimiser updates")
    _style.legend_right(figure, grid[0])
    title = "Training, per update"
    valid = curves[curves["metric"] == "valid/increment_error"]
    if len(valid):
        last = valid[valid["step"] == valid.groupby(["method", "seed"])["step"].transform("max")]
        final = last.groupby("method")["value"].mean()
        title = f"{final.idxmin()} ends with the lowest one-step error on valid: {final.min():.2g}"
    return _style.finish(figure, inputs, title, hint="bands: range over seeds")


def _thinned(rows: pd.DataFrame, points: int = 250) -> pd.DataFrame:
    """Give neighbouring steps the same number, so that a long run has a few hundred points."""
    steps = np.unique(rows["step"])
    width = -(-len(steps) // points)
    place = np.searchsorted(steps, rows["step"]) // width * width
    return rows.assign(step=steps[place])
