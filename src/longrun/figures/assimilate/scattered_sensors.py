"""What scattered sensors tell of the places and times between them."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("continuous_observer",)
PLACES = {"at_sensors": "at the sensors", "between_sensors": "between the sensors"}
SCORES = tuple(
    f"relative_mse_{place}{when}" for place in PLACES for when in ("", "_between_frames")
)
COLUMNS = 4  # lead times
COLOURS = colormaps["RdBu_r"].resampled(64)  # enough for the eye, and half the bytes of 256


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the error over lead time at and between the sensors, and a trajectory below."""
    scores = pd.concat([inputs.rows(name) for name in SCORES])
    if scores.empty:
        return _style.note("No method of this experiment sees scattered sensors.")
    methods = _style.order(inputs, scores["method"])
    samples = {
        name: kept.isel(trajectory=0, field=0)
        for name, kept in inputs.predictions.items()
        if name in methods and kept.sizes["trajectory"] and "y" in kept.dims
    }
    shown = [name for name in methods if name in samples]
    height = 1.0 + 1.9 * (len(shown) + 1) if shown else 0.0
    figure = _style.blank(11.0, 4.0 + height)
    parts: Any = figure.subfigures(2, 1, height_ratios=(4.0, height)) if shown else [figure]
    panels = parts[0].subplots(1, 2, sharey=True)
    for axes, (place, title) in zip(panels, PLACES.items(), strict=True):
        _over_time(axes, inputs, place, methods)
        axes.set(title=title, xlabel=f"lead time ({inputs.unit})", yscale="log")
    panels[0].set_ylabel("relative MSE (error / truth, squared)")
    _style.legend_right(parts[0], panels[1])
    if shown:
        _fields(parts[1], inputs, {name: samples[name] for name in shown})
    return _style.finish(figure, inputs, _title(inputs, methods), scores, _hint(inputs))


def _over_time(axes: Axes, inputs: Inputs, place: str, methods: list[str]) -> None:
    """Draw all frames as a line, and dots on those whose like the training knows."""
    names = [f"relative_mse_{place}", f"relative_mse_{place}_between_frames"]
    rows = pd.concat([inputs.rows(name).assign(known=name == names[0]) for name in names])
    for method in methods:
        own = rows[rows["method"] == method]
        runs = own.groupby(["seed", "step", "lead_time", "known"])["value"].mean()
        band = runs.groupby(["step", "lead_time", "known"]).agg(["mean", "min", "max"])
        band = band.reset_index().sort_values("step")
        look = _style.line(inputs, method)
        time, known = band["lead_time"], band["known"]
        axes.plot(time, band["mean"], label=method, **look)
        axes.plot(time[known], band["mean"][known], "o", color=look["color"], markersize=4)
        axes.fill_between(time, band["min"], band["max"], color=look["color"], alpha=0.18, lw=0)


def _fields(figure: SubFigure, inputs: Inputs, samples: dict[str, xr.Dataset]) -> None:
    first = next(iter(samples.values()))
    steps = np.unique(np.linspace(0, first.sizes["lead_time"] - 1, COLUMNS).round().astype(int))
    scale = float(np.quantile(np.abs(first["truth"].values), 0.995)) or 1.0
    fields = {"truth": first["truth"], **{name: s["prediction"] for name, s in samples.items()}}
    grid = figure.subplots(len(fields), len(steps), squeeze=False, sharex=True, sharey=True)
    for line, (name, field) in zip(grid, fields.items(), strict=True):
        for axes, step in zip(line, steps, strict=True):
            values = field.isel(lead_time=step).transpose("y", "x").values
            image = axes.imshow(
                np.ma.masked_invalid(values),
                origin="lower",
                extent=(0.0, float(first["x"][-1]), 0.0, float(first["y"][-1])),
                cmap=COLOURS,
                vmin=-scale,
                vmax=scale,
                interpolation="nearest",
            )
            axes.set_facecolor("#bbbbbb")
            axes.grid(visible=False)
            if name == "truth":
                axes.set_title(f"{float(first['lead_time'][step]):.3g} {inputs.unit}")
        line[0].set_ylabel(f"{name}\ny")
    if "sensor" in first.coords:
        places = first["sensor"].where(first["sensor"], drop=False).stack(point=("x", "y"))
        places = places[places == 1]
        grid[0, 0].plot(places["x"], places["y"], ".", color="black", markersize=1.5)
    for axes in grid[-1]:
        axes.set_xlabel("x")
    figure.colorbar(image, ax=grid, label="field, same scale in all", aspect=30, pad=0.01)


def _title(inputs: Inputs, methods: list[str]) -> str:
    """Say how far the first method errs where nothing was ever measured."""
    rows = inputs.rows("relative_mse_between_sensors_between_frames")
    mean = rows[rows["method"] == methods[0]]["value"].mean()
    return f"{methods[0]}: relative MSE {mean:.3g} where and when nothing was ever measured"


def _hint(inputs: Inputs) -> str:
    share = inputs.spec["evaluate"].get("sensor_share") or 1.0
    return (
        f"black dots: the sensors, {100 * share:.3g} % of the points, that see the frame at 0; "
        "dots on lines: frames whose like the training knows; bands: range over seeds"
    )
