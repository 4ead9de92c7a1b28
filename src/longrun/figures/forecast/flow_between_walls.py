"""Speed of a flow between walls: the truth above every method's forecast, bodies left out."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("cfdbench", "deeponet")
COLUMNS = 4  # lead times
COLOURS = colormaps["viridis"].resampled(64)  # enough for the eye, and half the bytes of 256
GREY = "#bbbbbb"


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one row for the truth and one per method; the colour scale is the same everywhere."""
    samples = {
        method: kept.isel(trajectory=0)
        for method, kept in inputs.predictions.items()
        if kept.sizes["trajectory"] and {"u", "v"} <= set(kept["field"].values.tolist())
    }
    methods = _style.order(inputs, samples)
    if not methods:
        return _style.note("No velocities in two dimensions were kept: is evaluate.keep 0?")
    first = samples[methods[0]]
    true = _speed(first, "truth")
    steps = true.sizes["lead_time"]
    shown = np.unique(np.geomspace(1, steps, COLUMNS).round().astype(int)) - 1
    scale = float(np.quantile(true.values, 0.998)) or 1.0
    width = 10.0 / len(shown)
    height = width * true.sizes["y"] / true.sizes["x"]
    figure = _style.blank(11.5, 1.2 + (0.3 + height) * (1 + len(methods)))
    grid = figure.subplots(1 + len(methods), len(shown), squeeze=False)
    for line, name in zip(grid, ["truth", *methods], strict=True):
        field = true if name == "truth" else _speed(samples[name], "prediction")
        for axes, step in zip(line, shown, strict=True):
            image = _panel(axes, field.isel(lead_time=step), first, scale)
            if name == "truth":
                axes.set_title(
                    f"step {step + 1}, {float(field['lead_time'][step]):.3g} {inputs.unit}"
                )
            else:
                axes.set_title(f"nRMSE {_error(samples[name].isel(lead_time=step)):.2g}")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    label = f"speed (length / {inputs.per_unit}), same scale everywhere"
    figure.colorbar(image, ax=grid, label=label, aspect=40)
    errors = {method: _error(samples[method].isel(lead_time=-1)) for method in methods}
    best = min(errors, key=lambda method: errors[method])
    title = (
        f"Speed in one test trajectory: after {steps} steps {best} is nearest to the truth, "
        f"with an error of {errors[best]:.2g} of it"
    )
    hint = "nRMSE: error of both velocities over their root mean square; grey: body, or not finite"
    return _style.finish(figure, inputs, title, hint=hint)


def _speed(sample: xr.Dataset, name: str) -> xr.DataArray:
    """Return the speed (lead time, x, y), of velocities on faces that are half a cell apart."""
    u, v = (sample[name].sel(field=field).transpose("lead_time", "x", "y") for field in ("u", "v"))
    return (u**2 + v**2) ** 0.5


def _error(frame: xr.Dataset) -> float:
    """Return the error of both velocities, where they are free; infinite once it has diverged."""
    if "free" in frame:
        frame = frame.where(frame["free"].astype(bool), 0.0)
    truth, forecast = (frame[name].sel(field=["u", "v"]).values for name in ("truth", "prediction"))
    if not np.isfinite(forecast).all():
        return float("inf")
    return float(np.sqrt(np.square(forecast - truth).mean() / np.square(truth).mean()))


def _panel(axes: Axes, field: xr.DataArray, sample: xr.Dataset, scale: float) -> AxesImage:
    """Show a field with x across and y up; bodies and what is not finite stay grey."""
    values = np.ma.masked_invalid(field.transpose("x", "y").values)
    if "free" in sample:
        body = ~sample["free"].transpose("field", "x", "y").values.astype(bool).any(0)
        values = np.ma.masked_where(body, values)
    axes.set_facecolor(GREY)
    axes.set(xticks=[], yticks=[])
    return axes.imshow(
        values.T, origin="lower", cmap=COLOURS, vmin=0.0, vmax=scale, interpolation="nearest"
    )
