"""Space and time of one test trajectory: the truth, and prediction and error of every method."""

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("correlation_time_0.8", "predictability")
COLOURS = colormaps["RdBu_r"].resampled(64)  # enough for the eye, and half the bytes of 256


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the truth, then one row per method; the colour scale is the same in every panel."""
    kept = {method: inputs.predictions[method] for method in inputs.predictions}
    line = next(iter(kept.values()), xr.Dataset())
    samples = {method: _first(kept[method]) for method in kept if kept[method].sizes["trajectory"]}
    methods = _style.order(inputs, samples)
    if not methods:
        return _style.note("No predictions were kept: evaluate.keep is 0 for every method.")
    figure = _style.blank(11.0, 1.3 + 1.25 * (1 + len(methods)))
    grid = figure.subplots(1 + len(methods), 2, sharex=True, sharey=True, squeeze=False)
    scale = max(_limit(samples[method]) for method in methods)
    limit = inputs.number("predictability")
    truth = samples[methods[0]]["truth"]
    _panel(grid[0, 0], truth, scale)
    grid[0, 0].set_title("truth")
    grid[0, 1].remove()
    for row, method in zip(grid[1:], methods, strict=True):
        sample = samples[method]
        prediction = sample["prediction"]
        crossing, censored = _crossing(inputs, method, sample)
        for axes, field in zip(row, (prediction, prediction - sample["truth"]), strict=True):
            image = _panel(axes, field, scale)
            if crossing is not None and not censored:
                axes.axvline(crossing, color="black", linestyle="--", linewidth=1.3)
        ends = "no correlation score"
        if crossing is not None:
            ends = "r > 0.8 to the end" if censored else f"r < 0.8 at {crossing:.3g} {inputs.unit}"
        row[0].set_title(f"{method}: {ends}")
        row[1].set_title("error")
    shown = [axes for axes in grid.flat if axes.figure]
    for axes in shown if limit is not None else ():
        axes.axvline(limit, color="black", linestyle=(0, (1, 1.5)), linewidth=1.3)
    for axes in grid[:, 0]:
        axes.set_ylabel(_name(truth, "x"))
    for axes in grid[-1]:
        axes.set_xlabel(f"lead time ({inputs.unit})")
    name = str(truth.coords["field"].values) if "field" in truth.coords else "field"
    units = truth.attrs.get("units", "1")
    label = name if units in ("", "1") else f"{name} ({units})"
    figure.colorbar(image, ax=shown, label=f"{label}, same scale everywhere", aspect=40, pad=0.01)
    hint = "dashed: correlation falls below 0.8"
    if limit is not None and limit <= float(truth["lead_time"][-1]):
        hint += f"; dotted: predictability limit, {limit:.3g} {inputs.unit}"
    across = [axis for axis in ("y", "z") if axis in line.dims]
    if across:
        places = [f"{axis} = {float(line[axis][0]):.3g}" for axis in across]
        hint = f"along x, where {_style.listed(places)}; {hint}"
    title = (
        "One test trajectory in space and time: the truth, then forecast and error of every method"
    )
    return _style.finish(figure, inputs, title, hint=hint)


def _first(kept: xr.Dataset) -> xr.Dataset:
    """Take the first trajectory and field, and the first line of a field of more dimensions."""
    sample = kept.isel({dim: 0 for dim in ("trajectory", "field", "y", "z") if dim in kept.dims})
    # The axes are means over trajectories; this one has its own time step and domain.
    if "seconds_per_step" in sample.coords:
        steps = np.arange(1, sample.sizes["lead_time"] + 1)
        sample = sample.assign_coords(lead_time=float(sample["seconds_per_step"]) * steps)
    if "length" in sample.coords:
        points = np.arange(sample.sizes["x"])
        sample = sample.assign_coords(x=float(sample["length"]) / points.size * points)
    return sample


def _limit(sample: xr.Dataset) -> float:
    """Colour limit: what 99.5 % of the truth's absolute values stay below."""
    return float(np.quantile(np.abs(sample["truth"].values), 0.995)) or 1.0


def _panel(axes: Axes, field: xr.DataArray, scale: float) -> AxesImage:
    """Show a field over time (across) and space (up); what is not finite stays grey."""
    values = np.ma.masked_invalid(field.transpose("x", "lead_time").values)
    x, time = field["x"].values, field["lead_time"].values
    extent = (*_ends(time), *_ends(x))
    image = axes.imshow(
        values,
        cmap=COLOURS,
        vmin=-scale,
        vmax=scale,
        extent=extent,
        origin="lower",
        aspect="auto",
        interpolation_stage="data",  # averages fields, not colours, so that no colours are added
    )
    axes.set_autoscale_on(False)  # a mark beyond the end of the run must not widen the panel
    axes.set_facecolor("#bdbdbd")
    axes.grid(False)
    return image


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Return where the cells around equally spaced values begin and end."""
    half = (values[1] - values[0]) / 2 if len(values) > 1 else 0.5
    return float(values[0] - half), float(values[-1] + half)


def _crossing(inputs: Inputs, method: str, sample: xr.Dataset) -> tuple[float | None, bool]:
    """Time at which this rollout's correlation crosses 0.8, and whether it never did."""
    scores: pd.DataFrame = inputs.rows("correlation_time_0.8")
    trajectory = int(sample["trajectory"]) if "trajectory" in sample.coords else 0
    scores = scores[(scores["method"] == method) & (scores["trajectory"] == trajectory)]
    scores = scores[scores["seed"] == scores["seed"].min()].sort_values("member")
    if scores.empty:
        return None, False
    return float(scores["value"].iloc[0]), bool(scores["censored"].iloc[0])


def _name(field: xr.DataArray, axis: str) -> str:
    units = field[axis].attrs.get("units", "1")
    return axis if units in ("", "1") else f"{axis} ({units})"
