"""Kinetic energy over a long forecast, and spectra on the way: the truth in black."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("ifactformer",)
SCORES = (
    "kinetic_energy",
    "truth_kinetic_energy",
    "energy_spectrum",
    "truth_spectrum",
    "climate_energy_error",
)


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw energy above, and below it spectra after one step, half way and at the end."""
    energy, spectra = inputs.rows("kinetic_energy"), inputs.rows("energy_spectrum")
    if energy.empty:
        return _style.note("No kinetic energy was scored: the data has no velocity.")
    steps = sorted(spectra["step"].unique().tolist())
    figure = _style.blank(11.0, 7.0)
    grid = figure.add_gridspec(2, max(1, len(steps)))
    upper = figure.add_subplot(grid[0, :])
    _draw_energy(upper, inputs, energy)
    first = None
    for place, step in enumerate(steps):
        axes = figure.add_subplot(grid[1, place], sharex=first, sharey=first)
        _draw_spectra(axes, inputs, spectra[spectra["step"] == step], step)
        first = first or axes
    if first:
        first.set_ylabel("mean energy per wavenumber")
    _style.legend_right(figure, upper)
    errors = inputs.rows("climate_energy_error").groupby("method")["value"].mean()
    found = [f"{name} {100 * errors[name]:.3g} %" for name in _style.order(inputs, errors.index)]
    title = f"Error of the mean energy of the long run: {', '.join(found)}"
    hint = "bands: all test trajectories and seeds; forecasts that diverged end there"
    return _style.finish(figure, inputs, title, energy, hint)


def _draw_energy(axes: Axes, inputs: Inputs, energy: pd.DataFrame) -> None:
    """Draw the mean of every method over lead time, and the range over its runs."""
    truth = inputs.rows("truth_kinetic_energy")
    top = 1.6 * truth["value"].max()
    black = {"color": _style.TRUTH, "linewidth": 2.8}
    _draw_band(axes, truth, {**black, "label": "truth"})
    for method in _style.order(inputs, energy["method"]):
        mine = energy[(energy["method"] == method) & ~energy["censored"]]
        _draw_band(axes, mine, {**_style.line(inputs, method), "label": method})
    _style.predictability(axes, inputs)
    axes.set(xlabel=f"lead time ({inputs.unit})", ylabel="kinetic energy", ylim=(0, top))
    axes.set_xlim(0, truth["lead_time"].max())


def _draw_band(axes: Axes, rows: pd.DataFrame, look: dict[str, Any]) -> None:
    by_step = rows.groupby("step")
    time, value = by_step["lead_time"].mean(), by_step["value"]
    axes.plot(time, value.mean(), **look)
    axes.fill_between(time, value.min(), value.max(), color=look["color"], alpha=0.13, linewidth=0)


def _draw_spectra(axes: Axes, inputs: Inputs, rows: pd.DataFrame, step: int) -> None:
    """Draw one spectrum per method at one lead time, the mean over its runs."""
    truth = inputs.rows("truth_spectrum")
    truth = truth[(truth["step"] == step) & (truth["wavenumber"] > 0)]
    black = truth.groupby("wavenumber")["value"].mean()
    axes.plot(black, color=_style.TRUTH, linewidth=2.8)
    for method in _style.order(inputs, rows["method"]):
        mine = rows[(rows["method"] == method) & (rows["wavenumber"] > 0)]
        axes.plot(mine.groupby("wavenumber")["value"].mean(), **_style.line(inputs, method))
    axes.set(yscale="log", xlabel="wavenumber (rad / unit length)")
    axes.set_ylim(max(black[black > 0].min() / 10, black.max() * 1e-8), black.max() * 10)
    axes.set_title(f"after {rows['lead_time'].mean():.3g} {inputs.unit}")
