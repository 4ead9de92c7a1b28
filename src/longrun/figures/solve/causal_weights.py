"""How causal weights open one slice of time after the other, and what error that leaves."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("causal_pinn",)
SLICES = 21  # evenly spaced over the interval, as the method logs them
SCORES = ("relative_l2_over_time",)
CURVES = tuple(f"train/weight_{number:02d}" for number in range(SLICES))
OPEN = 0.5


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the weights of each causal method over time and updates, and all errors over time."""
    scores, curves = inputs.rows("relative_l2_over_time"), inputs.curves
    curves = curves[curves["metric"].isin(CURVES)]
    causal = _style.order(inputs, curves["method"].unique())
    if not causal or scores.empty:
        return _style.note("No method of this experiment weighs time causally.")
    figure = _style.blank(4.0 * len(causal) + 5.5, 4.6)
    *left, right = figure.subplots(1, len(causal) + 1, squeeze=False)[0]
    last = float(scores["lead_time"].max())
    verdicts = []
    for axes, method in zip(left, causal, strict=True):
        shown, reached = _weights(axes, curves[curves["method"] == method], last)
        axes.set_title(f"{method}: weights")
        verdicts.append(f"{method}: slices up to t = {reached:.2f} count at the end")
    left[0].set_ylabel(f"time ({inputs.unit})")
    figure.colorbar(shown, ax=left, label="weight of a slice (mean over seeds)", pad=0.02)
    _errors(right, inputs, scores)
    return _style.finish(
        figure,
        inputs,
        "; ".join(verdicts),
        scores,
        "line: up to where weights exceed 0.5, running median",
    )


def _weights(axes: Axes, curves: pd.DataFrame, last: float) -> tuple[AxesImage, float]:
    """Draw weights over updates (across) and time (up); return how far they are open at the end."""
    table = curves.pivot_table(index="metric", columns="step", values="value").reindex(CURVES)
    time = np.linspace(0, last, SLICES)
    half = last / (SLICES - 1) / 2
    shown = axes.imshow(
        table,
        vmin=0,
        vmax=1,
        cmap="cividis",
        extent=(float(table.columns[0]), float(table.columns[-1]), -half, last + half),
        origin="lower",
        aspect="auto",
        interpolation="nearest",
    )
    is_open = (table.to_numpy() > OPEN).cumprod(axis=0).sum(axis=0)  # of each update, in a row
    front = pd.Series(time[np.maximum(is_open - 1, 0)], index=table.columns)
    window = max(1, len(front) // 20)  # points are redrawn, so the weights jump
    front = front.rolling(window, min_periods=1).median()
    axes.plot(front, color="white", linewidth=1.5)
    axes.set(xlabel="updates", ylim=(0, last))
    axes.grid(False)
    return shown, float(front.iloc[-1])


def _errors(axes: Axes, inputs: Inputs, scores: pd.DataFrame) -> None:
    scores = scores[scores["step"] > 0]  # frame 0 is given
    for method in _style.order(inputs, scores["method"].unique()):
        rows = scores[scores["method"] == method].groupby("lead_time")["value"]
        band, look = rows.agg(["mean", "min", "max"]), _style.line(inputs, method)
        axes.plot(band["mean"], label=method, **look)
        axes.fill_between(
            band.index, band["min"], band["max"], color=look["color"], alpha=0.2, linewidth=0
        )
    axes.set(yscale="log", xlabel=f"time ({inputs.unit})", ylabel="relative L2 error (ratio)")
    axes.set_title("error at each time (band: all seeds)")
    axes.legend(loc="lower right")
