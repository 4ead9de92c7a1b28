"""Figures of flows in three dimensions show what the numbers say."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure

from longrun.figures._inputs import Inputs
from longrun.metrics.table import ABSENT
from longrun.runtime import registry

STEPS, POINTS = 40, 8


def rows(method, seed, metric, value, **columns):
    value = np.asarray(value, float)
    cells = {"value": value, "metric": metric, "method": method, "seed": seed} | columns
    return pd.DataFrame(ABSENT | {"dataset": "flow"} | cells)


@pytest.fixture(scope="module")
def inputs():
    """A method that keeps its energy, and one that loses it and diverges half way."""
    step = np.arange(1, STEPS + 1)
    where = {"step": step, "lead_time": 0.25 * step, "trajectory": 0}
    at = {"step": STEPS, "lead_time": 10.0, "wavenumber": np.arange(5.0)}
    spectrum = np.array([0, 1.0, 0.1, 1e-2, 1e-3])
    parts = []
    for seed in range(2):
        for method, decay in (("ifactformer", 0.0), ("fno", 0.1)):
            energy = 1.4 * np.exp(-decay * step)
            lost = (step > STEPS // 2) & (method == "fno")
            energy = np.where(lost, 1e4, energy)
            parts += [
                rows(method, seed, "kinetic_energy", energy, censored=lost, member=0, **where),
                rows(method, seed, "truth_kinetic_energy", 1.4 + 0.1 * np.sin(step), **where),
                rows(method, seed, "energy_spectrum", spectrum * np.exp(-decay), **at),
                rows(method, seed, "truth_spectrum", spectrum, **at),
                rows(method, seed, "climate_energy_error", [decay], trajectory=0),
            ]
    dims = ("trajectory", "lead_time", "field", "x", "y", "z")
    shape = (1, STEPS, 3, POINTS, POINTS, POINTS)
    truth = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kept = {}
    for method in ("ifactformer", "fno"):
        guess = truth.copy()
        if method == "fno":
            guess[:, STEPS // 2 :] = np.nan
            guess[:, 0] = 0.0
        line = 2 * np.pi * np.arange(POINTS) / POINTS
        coordinates = {"lead_time": 0.25 * step, "field": list("uvw")} | dict.fromkeys("xyz", line)
        kept[method] = xr.Dataset(
            {"truth": (dims, truth), "prediction": (dims, guess)}, coords=coordinates
        )
    methods = {name: {"name": name} for name in kept}
    spec = {"methods": methods, "test": ["flow"], "evaluate": {}}
    scores = pd.concat(parts, ignore_index=True)
    return Inputs(spec, "cpu", "turbulence", scores, {}, pd.DataFrame(), kept)


def draw(name, inputs) -> Figure:
    return registry.find("figures", name)(inputs)


def test_energy_of_a_diverged_forecast_ends(inputs):
    figure = draw("turbulence", inputs)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines) >= {"truth", "ifactformer", "fno"}
    assert len(lines["ifactformer"].get_xdata()) == STEPS
    assert len(lines["fno"].get_xdata()) == STEPS // 2
    assert axes.get_ylim()[1] < 3 and lines["truth"].get_color() == "black"
    assert "ifactformer 0 %" in figure.get_suptitle() and "fno 10 %" in figure.get_suptitle()
    assert [panel.get_title(loc="left") for panel in figure.axes[1:]] == ["after 10 time units"]


def test_slices_say_how_a_forecast_agrees_and_where_it_has_diverged(inputs):
    figure = draw("slices", inputs)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles.count("r = 1.00") >= 5
    assert "diverged" in titles and "constant" in titles and "0.25 time units" in titles
    assert "10 time units" in titles


def test_what_is_not_there_is_said(inputs):
    empty = Inputs(inputs.spec, "cpu", "turbulence", inputs.scores[:0], {}, pd.DataFrame(), {})
    for name in ("turbulence", "slices"):
        texts = " ".join(text.get_text() for text in draw(name, empty).texts)
        assert texts.startswith("No ")


def test_space_time_takes_the_first_line_of_a_box(inputs):
    figure = draw("space_time", inputs)
    assert figure.axes[0].get_title(loc="left") == "truth"
