"""Vorticity of a test trajectory on a staggered grid: the truth above every method's forecast."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("tsm",)
COLUMNS = 5  # lead times
LOST = 0.8  # correlation of vorticity below which the paper counts a forecast as lost
COLOURS = colormaps["RdBu_r"].resampled(64)  # enough for the eye, and half the bytes of 256


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
    true = _vorticity(first, "truth")
    predicted = {method: _vorticity(samples[method], "prediction") for method in methods}
    steps = true.sizes["lead_time"]
    shown = np.unique(np.linspace(0, steps - 1, COLUMNS + 1).round().astype(int)[1:])
    scale = float(np.quantile(np.abs(true.values), 0.995)) or 1.0
    rows = ["truth", *methods]
    figure = _style.blank(11.0, 1.4 + 2.0 * len(rows))
    grid = figure.subplots(len(rows), len(shown), squeeze=False, sharex=True, sharey=True)
    for line, name in zip(grid, rows, strict=True):
        field = true if name == "truth" else predicted[name]
        for axes, step in zip(line, shown, strict=True):
            image = _panel(axes, field.isel(lead_time=step), scale)
            time = float(field["lead_time"][step])
            if name == "truth":
                axes.set_title(f"{time:.3g} {inputs.unit}")
            else:
                agreement = _correlation(field[step].values, true[step].values)
                mark = "" if agreement >= LOST else ", lost"
                axes.set_title(f"r = {agreement:.2f}{mark}")
        line[0].set_ylabel(f"{name}\ny")
    for axes in grid[-1]:
        axes.set_xlabel("x")
    figure.colorbar(
        image, ax=grid, label=f"vorticity (1 / {inputs.per_unit}), same scale everywhere", aspect=40
    )
    times = {method: _lost(predicted[method], true, inputs.unit) for method in methods}
    kept = ", ".join(f"{method} until {time}" for method, time in times.items())
    title = f"One test trajectory. Vorticity correlates above {LOST:g}: {kept}"
    return _style.finish(figure, inputs, title, hint="r: correlation with the truth over space")


def _vorticity(sample: xr.Dataset, name: str) -> xr.DataArray:
    """Return circulation per area around corners, between faces of a periodic box."""
    u, v = (sample[name].sel(field=field).transpose("lead_time", "x", "y") for field in ("u", "v"))
    length = float(sample["length"]) if "length" in sample.coords else 1.0
    along_x = np.roll(v.values, -1, 1) - v.values
    along_y = np.roll(u.values, -1, 2) - u.values
    spacing = [length / u.sizes[axis] for axis in ("x", "y")]
    return u.copy(data=along_x / spacing[0] - along_y / spacing[1])


def _panel(axes: Axes, field: xr.DataArray, scale: float) -> AxesImage:
    """Show a field with x across and y up; what is not finite stays grey."""
    axes.set_facecolor("#bbbbbb")
    extent = (0.0, float(field["x"][-1]), 0.0, float(field["y"][-1]))
    return axes.imshow(
        np.ma.masked_invalid(field.values.T),
        origin="lower",
        extent=extent,
        cmap=COLOURS,
        vmin=-scale,
        vmax=scale,
        interpolation="nearest",
    )


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Pearson's correlation over space; 0 where it has no value."""
    if not np.isfinite(one).all() or one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def _lost(predicted: xr.DataArray, true: xr.DataArray, unit: str) -> str:
    """Say when the correlation first falls below the threshold."""
    for step, time in enumerate(true["lead_time"].values):
        if _correlation(predicted[step].values, true[step].values) < LOST:
            return f"{time:.3g} {unit}"
    return "the end"
