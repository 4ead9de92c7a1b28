"""The middle plane of a flow in three dimensions: the truth above every method's forecast."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("ifactformer",)
COLUMNS = 5  # lead times


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one row for the truth and one per method; the colour scale is the same everywhere."""
    samples = {
        method: kept.isel(trajectory=0)
        for method, kept in inputs.predictions.items()
        if kept.sizes["trajectory"] and "z" in kept.dims
    }
    methods = _style.order(inputs, samples)
    if not methods:
        return _style.note("No fields in three dimensions were kept: is evaluate.keep 0?")
    truth = samples[methods[0]]["truth"]
    shown = _lead_times(truth.sizes["lead_time"])
    rows = {"truth": truth} | {method: samples[method]["prediction"] for method in methods}
    scale = float(np.quantile(np.abs(_plane(truth)), 0.995)) or 1.0
    figure = _style.blank(11.0, 1.4 + 1.9 * len(rows))
    grid = figure.subplots(len(rows), len(shown), squeeze=False, sharex=True, sharey=True)
    extent = (0.0, float(truth["x"][-1]), 0.0, float(truth["y"][-1]))
    for line, (name, field) in zip(grid, rows.items(), strict=True):
        for axes, step in zip(line, shown, strict=True):
            plane = _plane(field.isel(lead_time=step))
            axes.set_facecolor("#bbbbbb")
            axes.grid(False)
            image = axes.imshow(
                np.ma.masked_invalid(plane.T),
                origin="lower",
                extent=extent,
                cmap="RdBu_r",
                vmin=-scale,
                vmax=scale,
            )
            time = f"{float(truth['lead_time'][step]):.3g} {inputs.unit}"
            axes.set_title(time if name == "truth" else _agreement(field, truth, step))
        line[0].set_ylabel(f"{name}\ny")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    component = str(truth["field"].values[0])
    figure.colorbar(image, ax=grid, label=f"{component}, same scale everywhere", aspect=40)
    title = f"{component} in the plane through the middle of z, of one test trajectory"
    return _style.finish(figure, inputs, title, hint="r: correlation with the truth over the box")


def _lead_times(steps: int) -> list[int]:
    """Return the first step, the last, and steps evenly spaced on a logarithmic scale."""
    return sorted({round(step) - 1 for step in np.geomspace(1, steps, COLUMNS)})


def _plane(field: xr.DataArray) -> np.ndarray:
    """Return the first field in the middle of the last axis."""
    middle = field.isel(field=0, z=field.sizes["z"] // 2)
    return np.asarray(middle.transpose(..., "x", "y").values)


def _agreement(field: xr.DataArray, truth: xr.DataArray, step: int) -> str:
    """Say how the first field correlates with the truth over the whole box."""
    one, other = (part.isel(lead_time=step, field=0).values.ravel() for part in (field, truth))
    if not np.isfinite(one).all():
        return "diverged"
    if one.std() == 0:
        return "constant"
    return f"r = {np.corrcoef(one, other)[0, 1]:.2f}"
