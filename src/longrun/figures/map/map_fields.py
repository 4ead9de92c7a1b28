"""One test state of a steady equation: what is given, the truth, and every method beside it."""

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from longrun.figures import _style
from longrun.figures._inputs import Inputs

COLOURS = colormaps["viridis"].resampled(64)  # enough for the eye, and half the bytes of 256
ERRORS = colormaps["magma"].resampled(64)
SMALLEST = 1e-4  # error at the lower end of the colours, relative to the largest true value


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw a column per method: its solution above, its error below."""
    samples = {method: _first(kept) for method, kept in inputs.predictions.items()}
    known = {method: sample for method, sample in samples.items() if sample is not None}
    methods = _style.order(inputs, known)
    if not methods:
        return _style.note("No predictions of two-dimensional steady fields were kept.")
    columns = 1 + len(methods)
    figure = _style.blank(1.6 + 1.9 * columns, 5.0)
    grid = figure.subplots(2, columns, sharex=True, sharey=True, squeeze=False)
    truth = known[methods[0]]["truth"]
    given, sought = (str(truth["field"].values[place]) for place in (0, -1))
    solution = truth.sel(field=sought).values
    largest = float(np.abs(solution).max()) or 1.0
    limits = {"vmin": float(min(solution.min(), 0.0)), "vmax": float(solution.max())}
    medium = _panel(grid[1, 0], truth.sel(field=given), cmap="cividis")
    grid[1, 0].set_title(f"given: {given}")
    shown = _panel(grid[0, 0], truth.sel(field=sought), cmap=COLOURS, **limits)
    grid[0, 0].set_title(f"truth: {sought}")
    errors = {}
    for (above, below), method in zip(grid[:, 1:].T, methods, strict=True):
        prediction = known[method]["prediction"].sel(field=sought)
        error = prediction - solution
        errors[method] = float(np.sqrt(np.square(error).sum() / np.square(solution).sum()))
        _panel(above, prediction, cmap=COLOURS, **limits)
        above.set_title(method)
        wrong = _panel(below, abs(error) / largest, cmap=ERRORS, norm=LogNorm(SMALLEST, 1.0))
        below.set_title(f"relative L2 {errors[method]:.2%}")
    for axes in grid[-1]:
        axes.set_xlabel("x (1)")
        axes.xaxis.set_major_locator(MaxNLocator(2))
    for axes in grid[:, 0]:
        axes.set_ylabel("y (1)")
    figure.colorbar(shown, ax=grid[0], label=f"{sought} (1)", aspect=15, pad=0.01)
    figure.colorbar(
        wrong, ax=grid[1], label="|error| / max |truth|", aspect=15, pad=0.01, extend="both"
    )
    low, high = (_number(value) for value in medium.get_clim())
    hint = f"{given} from {low} (dark) to {high} (bright); seed 0"
    finite = {method: error for method, error in errors.items() if np.isfinite(error)}
    best = min(finite, key=lambda method: finite[method], default=None)
    title = "One test state: no method gives a finite solution"
    if best is not None:
        title = f"One test state: {best} comes closest, with a relative L2 error of "
        title += f"{finite[best]:.2%}"
    return _style.finish(figure, inputs, title, hint=hint)


def _first(kept: xr.Dataset) -> xr.Dataset | None:
    """Take the first state; None where there is none, or it isn't two-dimensional."""
    if not kept.sizes.get("trajectory") or not {"x", "y"} <= set(kept.dims) or "z" in kept.dims:
        return None
    return kept.isel(trajectory=0, lead_time=0)


def _panel(axes: Axes, field: xr.DataArray, **colours: object) -> AxesImage:
    """Show a field with x across and y up; what is not finite stays grey."""
    values = np.ma.masked_invalid(field.transpose("y", "x").values)
    ends = [float(field[axis].values[-1]) * (1 + 1 / (field.sizes[axis] - 1)) for axis in "xy"]
    image = axes.imshow(
        values,
        origin="lower",
        extent=(0.0, ends[0], 0.0, ends[1]),
        interpolation_stage="data",  # averages fields, not colours, so that no colours are added
        **colours,  # type: ignore[arg-type]
    )
    axes.set_facecolor("#bdbdbd")
    axes.grid(False)
    return image


def _number(value: float) -> str:
    return f"{value:.3g}"
