"""Energy spectra of truth and prediction at short lead, at long lead, and in the climate."""

import pandas as pd
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("energy_spectrum", "truth_spectrum", "climate_spectrum", "climate_truth_spectrum")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw the mean over seeds, the truth in black."""
    scores = inputs.rows("energy_spectrum")
    if scores.empty:
        return _style.note("No spectra were scored.")
    first, last = scores["step"].min(), scores["step"].max()
    panels = [("energy_spectrum", "truth_spectrum", step) for step in dict.fromkeys((first, last))]
    if len(inputs.rows("climate_spectrum")):
        panels.append(("climate_spectrum", "climate_truth_spectrum", None))
    figure = _style.blank(11.5, 6.4)
    grid = figure.subplots(
        2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(3, 2)
    )
    shown: list[pd.Series] = []
    for (upper, lower), (metric, truth_metric, step) in zip(grid.T, panels, strict=True):
        truth, rows = (inputs.rows(name) for name in (truth_metric, metric))
        truth, rows = (table[table["wavenumber"] > 0] for table in (truth, rows))
        if step is not None:
            truth, rows = truth[truth["step"] == step], rows[rows["step"] == step]
        black = truth.groupby("wavenumber")["value"].mean()
        # Below single precision there is nothing to compare.
        black = black[black > black.max() * 1e-13]
        upper.plot(black, color=_style.TRUTH, linewidth=3.2, alpha=0.85, label="truth")
        lower.axhline(1, color=_style.TRUTH, linewidth=1.2)
        for method in _style.order(inputs, rows["method"]):
            mine = rows[rows["method"] == method].groupby("wavenumber")["value"].mean()
            mine = mine.reindex(black.index)
            upper.plot(mine, label=method, **_style.line(inputs, method))
            lower.plot(mine / black, **_style.line(inputs, method))
        lead = rows["lead_time"].mean()
        upper.set_title(
            "climate: second half of the rollout"
            if step is None
            else f"{'short' if step == first else 'long'} lead: {lead:.1f} {inputs.unit}"
        )
        upper.set(yscale="log")
        shown.append(black)
        lower.set(yscale="log", ylim=(1e-2, 1e2), xlabel="wavenumber (rad / unit length)")
    everything = pd.concat(shown)  # the panels share their axis; forecasts may leave it
    grid[0, 0].set_ylim(everything.min() / 10, everything.max() * 30)
    grid[0, 0].set_ylabel("mean energy per wavenumber")
    grid[1, 0].set_ylabel("forecast / truth")
    _style.legend_right(figure, grid[0, 0])
    title = "Energy spectra of the forecasts beside the truth's, and as a fraction of it"
    found = [forecast.attrs.get("windowed", []) for forecast in inputs.predictions.values()]
    windowed = found[0] if found else []
    if windowed:
        title += f"; through a Hann window along {', '.join(windowed)}"
    return _style.finish(figure, inputs, title, scores)
