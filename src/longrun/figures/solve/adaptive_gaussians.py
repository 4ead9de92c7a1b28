"""Where trained Gaussians go: prediction, error and Gaussians of each method in the plane."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("pig",)
SCORES = ("relative_l2",)
MAPS = "RdBu_r"


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one row per method: prediction, error, and its Gaussians."""
    kept = {method: inputs.predictions[method] for method in inputs.predictions}
    planes = {m: _plane(d) for m, d in kept.items() if "y" in d.dims and d.sizes["trajectory"]}
    methods = _style.order(inputs, planes)
    if not any("centre" in plane for plane in planes.values()):
        return _style.note("No method of this experiment is made of Gaussians in the plane.")
    figure = _style.blank(10.5, 0.6 + 3.1 * len(methods))
    grid = figure.subplots(len(methods), 3, sharex=True, sharey=True, squeeze=False)
    limit = max(float(abs(plane["truth"]).max()) for plane in planes.values())
    scores = inputs.rows("relative_l2")
    errors = scores.groupby("method")["value"].mean()
    for row, method in zip(grid, methods, strict=True):
        plane = planes[method]
        error = plane["prediction"] - plane["truth"]
        field = _panel(row[0], plane["prediction"], limit)
        row[0].set_title(f"{method}: prediction")
        row[0].set_ylabel("y (length)")
        scale = float(abs(error).max()) or 1.0
        shown = _panel(row[1], error, scale)
        figure.colorbar(shown, ax=row[1], label="error (units of the field)")
        row[1].set_title(f"error, relative L2 {errors.get(method, np.nan):.1e}")
        figure.colorbar(field, ax=row[0], label="field (its own units)")
        _gaussians(row[2], plane, limit)
    for axes in grid[-1]:
        axes.set_xlabel("x (length)")
    best = min(methods, key=lambda method: errors.get(method, np.inf))
    title = f"{best} has the smallest error: {errors.get(best, np.nan):.1e} relative L2"
    hint = "fields of seed 0; each error has its own scale; a Gaussian's diameter is its width"
    return _style.finish(figure, inputs, title, scores, hint)


def _plane(kept: xr.Dataset) -> xr.Dataset:
    return kept.isel({dim: 0 for dim in ("trajectory", "lead_time", "field") if dim in kept.dims})


def _panel(axes: Axes, field: xr.DataArray, limit: float) -> Any:
    x, y = field["x"].values, field["y"].values
    half = (x[1] - x[0]) / 2
    extent = (x[0] - half, x[-1] + half, y[0] - half, y[-1] + half)
    axes.grid(False)
    return axes.imshow(
        field.transpose("y", "x").values,
        cmap=MAPS,
        vmin=-limit,
        vmax=limit,
        extent=extent,
        origin="lower",
    )


def _gaussians(axes: Axes, plane: xr.Dataset, limit: float) -> None:
    """Draw half a standard deviation of each Gaussian over the pale truth."""
    _panel(axes, plane["truth"], 3 * limit)
    if "centre" not in plane:
        axes.set_title("truth")
        return
    centre, width = plane["centre"].values, plane["width"].values
    axes.add_collection(
        EllipseCollection(
            width[:, 0],
            width[:, 1],
            np.zeros(len(width)),
            units="xy",
            offsets=centre,
            transOffset=axes.transData,
            facecolors="none",
            edgecolors="black",
            linewidths=0.4,
        )
    )
    axes.set_title(f"truth and {len(centre)} Gaussians")
