"""What measurements are worth: error over lead time and against the fraction of measured steps."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("relative_mse",)
COLOURS = colormaps["RdBu_r"].resampled(64)  # enough for the eye, and half the bytes of 256


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw error over lead time per fraction, error against fraction, and one trajectory."""
    scores = inputs.rows("relative_mse")
    if scores.empty:
        return _style.note("No method of this experiment assimilates measurements.")
    percentages = sorted(scores["measured"].unique())
    methods = _style.order(inputs, scores["method"])
    pictures = _pictures(inputs, methods[0])
    figure = _style.blank(3.4 * (len(percentages) + 1), 7.4 if pictures else 4.6)
    parts: Any = figure.subfigures(2, 1, height_ratios=(3.2, 2)) if pictures else [figure]
    grid = parts[0].subplots(1, len(percentages) + 1, sharey=True)
    for axes, percentage in zip(grid, percentages, strict=False):
        _over_time(axes, inputs, scores[scores["measured"] == percentage], methods)
        axes.set_title("free forecast" if percentage == 0 else f"{percentage} % of steps measured")
    grid[0].set(ylabel="relative MSE (error / truth, squared)", yscale="log")
    _against_fraction(grid[-1], inputs, scores, methods)
    parts[0].legend(*grid[-1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    if pictures:
        _space_time(parts[1], pictures, inputs.unit)
    hint = "bands: range over seeds"
    if inputs.spec["evaluate"].get("lyapunov_time"):
        hint += "; dotted: whole Lyapunov times"
    return _style.finish(figure, inputs, _title(scores, methods[0]), scores, hint)


def _title(scores: pd.DataFrame, method: str) -> str:
    """Say what measurements are worth to the first method."""
    mean = scores[scores["method"] == method].groupby("measured")["value"].mean()
    if 0 not in mean.index or len(mean) == 1:
        return f"{method}: relative MSE {mean.iloc[-1]:.3g} with {mean.index[-1]} % measured"
    worth = [f"{mean[0] / mean[s]:.3g} with {s} %" for s in mean.index if s and mean[s] > 0]
    return f"{method}: measuring steps divides the mean error by " + ", by ".join(worth)


def _over_time(axes: Axes, inputs: Inputs, rows: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        runs = rows[rows["method"] == method].groupby(["seed", "step"])[["lead_time", "value"]]
        band = (
            runs.mean().groupby("step").agg({"lead_time": "mean", "value": ["mean", "min", "max"]})
        )
        time, look = band["lead_time", "mean"], _style.line(inputs, method)
        axes.plot(time, band["value", "mean"], **look)
        axes.fill_between(
            time,
            band["value", "min"],
            band["value", "max"],
            color=look["color"],
            alpha=0.18,
            linewidth=0,
        )
    end = float(rows["lead_time"].max())
    unit = inputs.spec["evaluate"].get("lyapunov_time")
    for number in range(1, int(end / unit) + 1) if unit else ():
        axes.axvline(number * unit, color="#555555", linestyle=(0, (1, 1.5)), linewidth=1.0)
    _draw_noise(axes, inputs)
    axes.set(xlabel=f"lead time ({inputs.unit})", xlim=(0, end))


def _against_fraction(axes: Axes, inputs: Inputs, scores: pd.DataFrame, methods: list[str]) -> None:
    for method in methods:
        runs = scores[scores["method"] == method].groupby(["seed", "measured"])["value"].mean()
        band = runs.groupby("measured").agg(["mean", "min", "max"])
        spread = band[["min", "max"]].sub(band["mean"], axis=0).abs().to_numpy().T
        look = _style.look(inputs, method)
        axes.errorbar(band.index, band["mean"], spread, capsize=4, label=method, **look)
    _draw_noise(axes, inputs)
    axes.set(xlabel="measured steps (%)", xticks=sorted(scores["measured"].unique()))
    axes.set_title("mean over all steps")


def _draw_noise(axes: Axes, inputs: Inputs) -> None:
    """Draw the relative MSE of a measurement."""
    snr = inputs.spec["evaluate"]["snr"]
    if snr is not None:
        axes.axhline(
            10 ** (-snr / 10),
            color="#555555",
            linestyle="--",
            linewidth=1.0,
            label="noise of measurements",
        )


def _pictures(inputs: Inputs, method: str) -> dict[str, np.ndarray]:
    """Space-time fields (x, time) of the first trajectory, by what they are."""
    kept = inputs.predictions.get(method)
    if kept is None or not kept.sizes["trajectory"] or "x" not in kept.dims:
        return {}
    sample = kept.isel({dim: 0 for dim in ("trajectory", "field", "y", "z") if dim in kept.dims})
    names = {"truth": "truth"}
    for place, fraction in enumerate(inputs.spec["evaluate"]["measured"]):
        percent = round(100 * fraction)
        what = f"{percent} % of steps measured" if percent else "free forecast"
        names[f"prediction_{percent}" if place else "prediction"] = f"{method}, {what}"
    end, length = float(sample["lead_time"][-1]), float(sample["x"][-1])
    fields = {title: sample[n].transpose("x", "lead_time").values for n, title in names.items()}
    return fields | {"": np.array([end, length])}


def _space_time(figure: SubFigure, pictures: dict[str, np.ndarray], unit: str) -> None:
    end, length = pictures.pop("")
    grid = figure.subplots(1, len(pictures), sharey=True)
    scale = float(np.quantile(np.abs(pictures["truth"]), 0.995)) or 1.0
    for axes, (title, values) in zip(grid, pictures.items(), strict=True):
        image = axes.imshow(
            np.ma.masked_invalid(values),
            origin="lower",
            aspect="auto",
            extent=(0, end, 0, length),
            cmap=COLOURS,
            vmin=-scale,
            vmax=scale,
            interpolation="nearest",
        )
        axes.set_facecolor("#bbbbbb")
        axes.grid(visible=False)
        axes.set(title=title, xlabel=f"lead time ({unit})")
    grid[0].set_ylabel("x")
    figure.colorbar(image, ax=grid, label="field, same scale in all", aspect=25, pad=0.01)
