"""Samples beside the truth: in few evaluations and in many."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

SCORES = ("sliced_w2", "sliced_w2_data", "energy_spectrum", "truth_spectrum")

MEMBERS = 6  # lines in a panel
SHOWN = 3  # numbers of evaluations: the fewest, one between, the most


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one row per method, one column per number of evaluations, and scores over them."""
    kept = {
        method: kept
        for method, kept in inputs.predictions.items()
        if "samples" in kept and kept.sizes["trajectory"]
    }
    methods = _style.order(inputs, kept)
    if not methods:
        return _style.note("No samples were kept: evaluate.keep is 0 for every method.")
    dims = kept[methods[0]]["truth"].ndim - 3
    counts = kept[methods[0]]["nfe"].values.tolist()
    places = sorted({0, len(counts) // 2, len(counts) - 1})[:SHOWN]
    columns = len(places) + (dims == 2)
    figure = _style.blank(11.0, 3.8 + (2.4 if dims != 1 else 1.7) * len(methods))
    heights = (3.4, (2.4 if dims != 1 else 1.7) * len(methods))
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]
    spectra = dims > 0 and not inputs.rows("energy_spectrum").empty
    panels = above.subplots(1, 1 + spectra, squeeze=False)[0]
    _distances(panels[0], inputs, methods)
    if spectra:
        _spectra(panels[1], inputs, methods, counts)
    lines = panels[0].get_legend_handles_labels()
    panels[-1].legend(*lines, loc="center left", bbox_to_anchor=(1.0, 0.5))
    share = dims < 2
    grid = below.subplots(len(methods), columns, sharex=share, sharey=share, squeeze=False)
    for row, method in zip(grid, methods, strict=True):
        sample = kept[method]
        for axes, place in zip(row, places, strict=False):
            drawer = (_cloud, _lines, _image)[min(dims, 2)]
            drawer(axes, inputs, method, sample, place)
            calls = _style.plural(counts[place], "evaluation")
            axes.set_title(f"{method}, {calls}")
        if dims == 2:
            _image(row[-1], inputs, method, sample, None)
            row[-1].set_title("truth")
    for axes in grid.flat:
        if share:
            axes.label_outer()
    hint = ("grey: test data", "black: truth; dots: what is seen", "same colours in every panel")
    title = "Samples beside the truth, drawn with few and with many evaluations of the network"
    return _style.finish(figure, inputs, title, inputs.rows("sliced_w2"), hint=hint[min(dims, 2)])


def _distances(axes: Axes, inputs: Inputs, methods: list[str]) -> None:
    rows = inputs.rows("sliced_w2")
    for method in methods:
        runs = rows[rows["method"] == method].groupby(["seed", "nfe"])["value"].mean()
        if runs.empty:
            continue
        band = runs.groupby("nfe").agg(["mean", "min", "max"])
        look = _style.look(inputs, method)
        axes.plot(band.index, band["mean"], label=method, **look)
        axes.fill_between(
            band.index, band["min"], band["max"], color=look["color"], alpha=0.2, linewidth=0
        )
    floor = inputs.number("sliced_w2_data")
    if floor is not None:
        label = "as many true frames: a perfect sampler"
        axes.axhline(floor, color=_style.TRUTH, linestyle=(0, (1, 1.5)), label=label)
    ticks = sorted(rows["nfe"].unique())
    if ticks:
        axes.set(xscale="log", yscale="log", xticks=ticks, xticklabels=ticks)
        axes.minorticks_off()
    axes.set(xlabel="evaluations of the network", ylabel="sliced W2 (std of the data)")
    axes.set_title("distance from data (range over seeds)")


def _spectra(axes: Axes, inputs: Inputs, methods: list[str], counts: list[int]) -> None:
    """Draw the mean spectra of the truth, and of the fewest and of the most evaluations."""
    truth = inputs.rows("truth_spectrum")
    truth = truth[truth["wavenumber"] > 0].groupby("wavenumber")["value"].mean()
    axes.plot(truth, color=_style.TRUTH, linewidth=3)
    rows = inputs.rows("energy_spectrum")
    rows = rows[rows["wavenumber"] > 0]
    for method in methods:
        mine = rows[rows["method"] == method]
        for count, style in ((counts[0], ":"), (counts[-1], "-")):
            mean = mine[mine["nfe"] == count].groupby("wavenumber")["value"].mean()
            axes.plot(mean, **_style.line(inputs, method) | {"linestyle": style})
    axes.set(yscale="log", xlabel="wavenumber (rad / unit length)")
    axes.set_ylabel("energy (variance of the data)")
    axes.set_ylim(max(truth.max() * 1e-9, truth.min() / 10), truth.max() * 5)
    axes.set_title(f"spectrum: black truth, dotted {counts[0]}, full {counts[-1]}")


def _cloud(axes: Axes, inputs: Inputs, method: str, sample: xr.Dataset, place: int) -> None:
    truth = sample["truth"].isel(lead_time=0).values
    points = sample["samples"].isel(nfe=place).values.reshape(-1, truth.shape[-1])
    if truth.shape[-1] != 2:
        # in the bins of the truth: one step of an exact flow gives one point again and again
        bins = np.histogram_bin_edges(truth[:, 0], 50)
        axes.hist(truth[:, 0], bins.tolist(), color="#bbbbbb", density=True)
        colour = _style.look(inputs, method)["color"]
        axes.hist(points[:, 0], bins.tolist(), color=colour, histtype="step", density=True)
        highest = np.histogram(truth[:, 0], bins, density=True)[0].max()
        axes.set(ylim=(0, 2.5 * highest))  # what is all in one bin is cut off
        axes.set(xlabel=f"{sample['field'].values[0]} (1)", ylabel="density")
        return
    axes.plot(*truth.T, ".", color="#bbbbbb", markersize=4)
    axes.plot(*points.T, ".", color=_style.look(inputs, method)["color"], markersize=1.5)
    limit = 1.4 * float(np.quantile(np.abs(truth), 0.999))
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    names = sample["field"].values
    axes.set(xlabel=f"{names[0]} (1)", ylabel=f"{names[1]} (1)")


def _lines(axes: Axes, inputs: Inputs, method: str, sample: xr.Dataset, place: int) -> None:
    first = sample.isel(trajectory=0, field=0)
    x = first["x"].values
    colour = _style.look(inputs, method)["color"]
    members = first["samples"].isel(nfe=place).values[:MEMBERS]
    axes.plot(x, members.T, color=colour, linewidth=0.9, alpha=0.8)
    axes.plot(x, first["truth"].isel(lead_time=0), color=_style.TRUTH, linewidth=2)
    if "observation" in first:
        seen = first["observation"].values
        shown = seen != np.median(seen)  # unseen points hold one number, the mean
        shown = shown if shown.sum() < len(x) / 2 + 1 else np.ones_like(shown)
        axes.plot(x[shown], seen[shown], "o", color="#777777", markersize=4)
    axes.set(xlabel="x (unit length)", ylabel=f"{sample['field'].values[0]} (1)")


def _image(axes: Axes, inputs: Inputs, method: str, sample: xr.Dataset, place: int | None) -> None:
    first = sample.isel(trajectory=0, field=0)
    truth = first["truth"].isel(lead_time=0)
    limit = float(np.quantile(np.abs(truth.values), 0.995)) or 1.0
    shown = truth if place is None else first["samples"].isel(nfe=place, member=0)
    axes.imshow(shown.values.T, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
    axes.set(xticks=[], yticks=[], xlabel="x (points)", ylabel="y (points)")
    axes.grid(False)
