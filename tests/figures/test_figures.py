"""What every figure keeps, found by its folder; then what single figures must show."""

import dataclasses
import importlib
import pickle
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import pytest
import synthetic
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from synthetic import built_site  # noqa: F401 (a fixture)

from longrun import plot
from longrun.config import KINDS
from longrun.figures import _style
from longrun.runtime import cli, registry

FIGURES = registry.names("figures")
# what an experiment that forecasts, with these methods, has
FORECAST = registry.figures("forecast", ["unet", "pde_refiner", "persistence"])
# Few methods draw fast; between them they train, refine, have a spread, diverge, or stand still.
METHODS = ("unet_history", "pde_refiner", "persistence")


@pytest.fixture(scope="module")
def inputs():
    return synthetic.inputs(METHODS)


def draw(name, inputs) -> Figure:
    return registry.find("figures", name)(inputs)


def words(figure: Figure) -> str:
    """All text of a figure."""
    texts = figure.findobj(matplotlib.text.Text)
    return "\n".join(text.get_text() for text in texts if text.get_text())


class Drawn(NamedTuple):
    name: str
    figure: Figure
    path: Path
    tidy: bool  # global state is as it was before drawing and saving


@pytest.fixture(scope="module", params=FORECAST)
def drawn(request, inputs, tmp_path_factory):
    """A figure drawn and saved once: a layout moves a little when it is drawn again."""
    path = tmp_path_factory.mktemp("svg") / f"{request.param}.svg"
    before, rng = dict(matplotlib.rcParams), random_state()
    figure = draw(request.param, inputs)
    plot.save(figure, path)
    return Drawn(
        request.param, figure, path, dict(matplotlib.rcParams) == before and random_state() == rng
    )


def random_state():
    return pickle.dumps(np.random.get_state())  # noqa: NPY002 (nobody may touch it)


def test_title_says_something_and_axes_are_labelled(drawn, inputs):
    figure = drawn.figure
    assert isinstance(figure, Figure)
    assert len(figure.get_suptitle().split()) >= 4
    assert inputs.experiment in words(figure) and f"preset {inputs.preset}" in words(figure)
    labelled = [axes for axes in figure.axes if axes.get_xlabel() or axes.get_ylabel()]
    assert labelled
    # Units, or a reason for none: something in brackets, a count, or a share.
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in labelled)
    assert any(word in labels for word in ("(", "updates", "ratio", "step", "share"))


def test_nothing_is_cut_off(drawn):
    figure = drawn.figure
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    for text in figure.findobj(lambda artist: isinstance(artist, matplotlib.text.Text)):
        if not text.get_text() or not text.get_visible() or isinstance(text.axes, type(None)):
            continue
        if text.get_in_layout() and text in (text.axes.title, text.axes.xaxis.label):
            box = text.get_window_extent()
            assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2
    for text in figure.texts:
        box = text.get_window_extent()
        assert box.x0 > -2 and box.x1 < width + 2 and box.y1 < height + 2


def test_declared_numbers_give_the_same_bytes(drawn, inputs, tmp_path):
    module = importlib.import_module(registry.module_name(registry.path("figures", drawn.name)))
    scores, curves = inputs.scores, inputs.curves
    declared = dataclasses.replace(
        inputs,
        scores=scores[scores["metric"].isin(getattr(module, "SCORES", ()))],
        curves=curves[curves["metric"].isin(getattr(module, "CURVES", ()))],
    )
    plot.save(draw(drawn.name, declared), tmp_path / "again.svg")
    assert drawn.path.read_bytes() == (tmp_path / "again.svg").read_bytes()


def test_svg_is_whole_undated_and_small(drawn):
    svg = drawn.path.read_bytes()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert b"<dc:date>" not in svg and len(svg) < 4e6
    assert [file.name for file in drawn.path.parent.iterdir()] == [drawn.path.name]


def test_global_state_is_left_alone(drawn):
    assert drawn.tidy
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        assert not pyplot.get_fignums()


@pytest.mark.parametrize("name", FIGURES)
def test_little_to_show_is_no_failure(name):
    figure = draw(name, synthetic.inputs(("persistence",)))
    assert len(words(figure).split()) >= 5


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_show_is_said(name, inputs, tmp_path):
    empty = dataclasses.replace(
        inputs,
        scores=inputs.scores[:0],
        curves=inputs.curves[:0],
        claims={"claims": [], "methods": []},
        predictions={},
    )
    figure = draw(name, empty)
    assert not figure.axes
    assert len(words(figure).split()) >= 4
    plot.save(figure, tmp_path / "note.svg")


@pytest.mark.parametrize("name", FIGURES)
def test_caption_is_plain_text(name, root):
    caption = (root / "workflow" / "report" / f"{name}.rst").read_text("utf-8")
    assert len(caption.split()) > 20
    assert not set("`*|_<>{}\\") & set(caption)


def test_figures_need_no_torch():
    modules = [registry.module_name(registry.path("figures", name)) for name in FIGURES]
    code = f"import sys, {', '.join(modules)}, longrun.plot, longrun.tabulate;"
    code += "sys.exit(bool({'torch', 'zarr', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_methods_look_different_and_the_same_everywhere(inputs):
    many = dataclasses.replace(inputs, spec={"methods": {f"method{i}": {} for i in range(12)}})
    looks = [_style.look(many, method) for method in many.methods]
    assert len({look["marker"] for look in looks}) == 12
    assert len({(look["color"], str(look["linestyle"])) for look in looks}) == 12
    colours = set()
    for name in ("error_over_time", "spectra", "training_curves"):
        lines = [
            line
            for axes in draw(name, inputs).axes
            for line in axes.lines
            if line.get_label() == "pde_refiner"
        ]
        colours |= {to_hex(line.get_color()) for line in lines}
    assert colours == {_style.look(inputs, "pde_refiner")["color"].lower()}


@pytest.mark.parametrize("figure", ["error_over_time", "horizon_bars", "cost_horizon"])
def test_titles_say_so_where_rollouts_never_lose_the_truth(figure, inputs):
    """Who is "longest" is not known then."""

    def title(correlation, censored):
        scores = inputs.scores.copy()
        scores.loc[scores["metric"] == "correlation", "value"] *= correlation
        rows = [row | {"censored": censored} for row in inputs.claims["methods"]]
        claims = inputs.claims | {"methods": rows}
        found = dataclasses.replace(inputs, scores=scores, claims=claims)
        return draw(figure, found).get_suptitle()

    said = "to the end" if figure == "error_over_time" else "at least"
    assert said not in title(1.0, 0.0)
    assert said in title(1e6, 1.0)


def test_error_over_time_draws_the_mean_the_level_and_the_limit(inputs):
    axes = draw("error_over_time", inputs).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    scores = inputs.rows("correlation")
    mean = scores[scores["method"] == "unet_history"].groupby("step")["value"].mean()
    np.testing.assert_allclose(lines["unet_history"].get_ydata(), mean, atol=1e-12)
    assert lines["correlation 0.8"].get_ydata()[0] == 0.8
    limit = next(line for label, line in lines.items() if label.startswith("predictability"))
    assert limit.get_xdata()[0] == synthetic.PREDICTABILITY
    assert len(axes.collections) == len(METHODS)  # one band each


def test_horizon_bars_are_the_judged_means(inputs):
    axes = draw("horizon_bars", inputs).axes[0]
    widths = [bar.get_width() for bar in axes.patches]
    means = [
        inputs.summary(f"correlation_time_{level}")[method]["value"]
        for level in ("0.8", "0.9")
        for method in METHODS
    ]
    assert widths == pytest.approx(means)


def censored(inputs, share):
    """The same, with this share of all scores censored."""
    summary = [row | {"censored": share} for row in inputs.claims["methods"]]
    return dataclasses.replace(inputs, claims=inputs.claims | {"methods": summary})


def test_censored_horizons_are_marked(inputs):
    marked = censored(inputs, 0.25)
    assert "≥" in words(draw("horizon_bars", marked))
    assert "25% never fell below" in words(draw("horizon_bars", marked))
    assert "lower bound" in words(draw("cost_horizon", marked))
    assert "≥" not in words(draw("horizon_bars", censored(inputs, 0.0)))


def test_space_time_is_rasterised_and_marks_this_rollout(inputs):
    figure = draw("space_time", inputs)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 1 + 2 * len(METHODS)  # the truth once
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    scores = inputs.rows("correlation_time_0.8")
    first = scores[(scores["method"] == "unet_history") & (scores["seed"] == 0)]
    expected = first.loc[first["trajectory"] == 0, "value"].iloc[0]
    marks = [line.get_xdata()[0] for line in panels[1].lines]
    assert sorted(marks) == pytest.approx([expected, synthetic.PREDICTABILITY])


def test_time_has_the_unit_of_the_equation(inputs):
    for name in ("error_over_time", "horizon_bars", "space_time", "cost_horizon"):
        assert "time units)" in words(draw(name, inputs)), name
        assert "(s)" not in words(draw(name, inputs)).replace("wall time (s)", ""), name
    seconds = dataclasses.replace(inputs, unit="s")
    assert "lead time (s)" in words(draw("error_over_time", seconds))


def test_a_trial_run_says_that_it_means_nothing(inputs):
    assert "too small to mean" not in words(draw("spectra", inputs))
    small = dataclasses.replace(inputs, preset="smoke")
    assert "too small to mean" in words(draw("spectra", small))


def test_equal_curves_are_told_apart(inputs):
    """Of two lines on each other the later is thinner and more broken."""
    looks = [_style.line(inputs, method) for method in METHODS]
    widths = [look["linewidth"] for look in looks]
    assert widths == sorted(set(widths), reverse=True)
    assert len({str(look["linestyle"]) for look in looks}) == len(METHODS)


@pytest.mark.parametrize("error", [0.02, 1e-5])
def test_refinement_says_which_step_raises_the_error(inputs, error):
    scores = inputs.scores.copy()
    first = (scores["metric"] == "level_error") & (scores["stage"] == 0)
    scores.loc[first, "value"] = error
    levels = (scores["metric"] == "level_error") & (scores["stage"] > 0)
    scores.loc[levels, "value"] = 1e-4
    title = draw("refinement", dataclasses.replace(inputs, scores=scores)).get_suptitle()
    assert ("step 1 raises the error" in title) == (error < 1e-4)
    assert ("every step lowers" in title) == (error > 1e-4)


def test_bodies_are_left_out_of_a_flow_between_walls(inputs):
    rng, shape = np.random.default_rng(0), (1, 9, 2, 12, 8)
    axes = ("trajectory", "lead_time", "field", "x", "y")
    truth = rng.normal(size=shape)
    fluid = np.ones((1, 12, 8), dtype=bool)
    fluid[0, 3:5, 2:4] = False
    kept = {}
    for method, error in zip(METHODS, (0.1, 0.5, np.nan), strict=True):
        fields = {"truth": (axes, truth), "prediction": (axes, truth + error)}
        fields["free"] = (("trajectory", "field", "x", "y"), np.repeat(fluid[:, None], 2, 1))
        coordinates = {"field": ["u", "v"], "lead_time": np.arange(1, 10) * 0.5}
        kept[method] = xr.Dataset(fields, coords=coordinates)
    figure = draw("flow_between_walls", dataclasses.replace(inputs, predictions=kept))
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 4 * (1 + len(METHODS))
    shown = panels[0].images[0].get_array()  # y upwards, x across
    assert (np.ma.getmaskarray(shown) == ~fluid[0].T).all()
    speed = np.hypot(*truth[0, 0])
    assert np.allclose(shown[0, 0], speed[0, 0])
    assert panels[-1].images[0].get_array().mask.all()  # has diverged
    assert "nRMSE inf" in words(figure) and "step 9, 4.5" in words(figure)
    inside = fluid[0].mean() / np.square(truth[0, -1] * fluid[0]).mean()
    size = 1 / np.sqrt(inside)
    title = " ".join(figure.get_suptitle().split())
    assert f"after 9 steps {METHODS[0]} is nearest" in title
    assert f"error of {0.1 / size:.2g} of it" in title


def claim_of(kind, value, holds, verdict, **others):
    claim = {"says": f"A claim on the {kind}.", "kind": kind, "holds": holds, "verdict": verdict}
    claim |= {"value": value, "low": value - 0.2, "high": value + 0.1, "direction": "above"}
    return claim | {"paper": None} | others


def test_every_kind_of_claim_has_an_axis(inputs):
    claims = [
        claim_of("ratio", 1.4, 1.2, "holds", paper=1.5),
        claim_of("value", 0.9, 1e3, "contradicted"),
        claim_of("slope", 2.9, 2.5, "holds"),
        claim_of("updates", 0.5, 0.4, "open", direction="below"),
        claim_of("r_squared", 0.6, 0.5, "open"),
        claim_of("rank_correlation", 0.4, 0.8, "weaker"),
    ]
    assert {claim["kind"] for claim in claims} == set(KINDS)
    figure = draw("claims", dataclasses.replace(inputs, claims={"claims": claims, "methods": []}))
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert len(labels) == len(set(labels)) == len(KINDS) and all(labels)
    assert "2 hold, 1 weaker, 1 contradicted, 2 open" in figure.get_suptitle()


def test_claims_show_verdicts_in_words_and_survive_missing_values(inputs):
    claims = [dict(claim) for claim in synthetic.inputs(synthetic.SITE).claims["claims"]]
    claims[0] |= {"value": None, "low": None, "high": None, "verdict": "open"}
    figure = draw("claims", dataclasses.replace(inputs, claims={"claims": claims, "methods": []}))
    for word in ("holds", "contradicted", "open", "no finite interval", "no value"):
        assert word in words(figure)
    assert {axes.get_xscale() for axes in figure.axes} == {"log", "linear"}


def test_values_below_zero_and_without_an_interval_are_drawn(inputs):
    claims = [
        claim_of("value", 0.01, 0.04, "holds"),  # its interval reaches below zero
        claim_of("value", -3.0, 25.0, "open") | {"low": None, "high": None},
    ]
    figure = draw("claims", dataclasses.replace(inputs, claims={"claims": claims, "methods": []}))
    assert "0.01 [-0.19, 0.11]" in words(figure) and "-3, no interval" in words(figure)
    assert words(figure).count("no finite interval") == 1
    assert {axes.get_xscale() for axes in figure.axes} == {"linear"}


def test_labels_of_a_wide_axis_leave_room(inputs):
    claims = [
        claim_of("ratio", value, 1.0, "holds") | {"low": value, "high": value}
        for value in (5e-4, 20.0)
    ]
    figure = draw("claims", dataclasses.replace(inputs, claims={"claims": claims, "methods": []}))
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["0.001", "0.01", "0.1", "1", "10"]


def test_predicted_horizon_has_the_judges_r_squared():
    inputs = synthetic.inputs(("pde_refiner",))
    judged = inputs.claims["claims"][0]
    assert judged["name"] == "spread"
    assert f"R² = {judged['value']:.2f}" in words(draw("predicted_horizon", inputs))


def test_cost_axis_holds_every_method(inputs):
    axes = draw("cost_horizon", censored(inputs, 0.0)).axes[0]
    _, labels = axes.get_legend_handles_labels()
    assert [label for label in labels if "limit" not in label] == list(METHODS)
    assert axes.get_xscale() == "log"


def test_verb_names_what_is_missing(tmp_path):
    spec = synthetic.EXPERIMENT | {"train": ["kuramoto_sivashinsky"]}
    with pytest.raises(cli.UserError, match=r"scores.parquet.*longrun.evaluate"):
        plot.load("spectra", spec, "pde_refiner", "cpu", tmp_path, "s")
    with pytest.raises(cli.UserError, match=r"claims.json.*longrun.judge"):
        plot.load("claims", spec, "pde_refiner", "cpu", tmp_path, "s")


@pytest.mark.xdist_group("site")
def test_verb_loads_what_runs_left(site):
    spec = synthetic.inputs(synthetic.SITE).spec
    inputs = plot.load("error_over_time", spec, "pde_refiner", "cpu", site / "results", "s")
    assert set(inputs.scores["metric"]) == {"correlation", "nrmse", "predictability"}
    assert len(inputs.curves) == 0
    runs = inputs.scores.groupby("method")["seed"].nunique().to_dict()
    assert runs == {name: synthetic.seeds(name) for name in synthetic.SITE}
    curves = plot.load("training_curves", spec, "pde_refiner", "cpu", site / "results", "s").curves
    assert set(curves["method"]) == {*synthetic.SITE} - {"persistence"}
    assert isinstance(curves, pd.DataFrame)
    kept = inputs.predictions["unet"]
    np.testing.assert_array_equal(
        kept["truth"].values, synthetic.predictions("unet")["truth"].values
    )


def test_error_by_context_draws_a_curve_for_each_family_and_marks_the_trained_context(inputs):
    errors = {"gla_8": 0.4, "gla_64": 0.2, "gla_512": 0.21, "soft_64": 0.2, "soft_512": 0.5}
    errors["persistence"] = 0.9
    methods = {
        name: {"name": "gla", "history": int(name.split("_")[1])}
        | ({} if name.endswith("_64") else {"starts_from": {"method": f"{name.split('_')[0]}_64"}})
        for name in errors
        if name != "persistence"
    }
    methods["persistence"] = {"name": "persistence", "history": 1}
    rows = inputs.scores[inputs.scores["metric"] == "one_step_nrmse"]
    rows = rows[rows["method"] == "unet_history"]
    scores = pd.concat(rows.assign(method=name, value=value) for name, value in errors.items())
    spec = inputs.spec | {"methods": methods}
    # a borrowed run says elsewhere what it saw
    spec["methods"]["soft_512"] = {
        "run_of": {"experiment": "other", "method": "soft"},
        "name": "gla",
    }
    spec["borrowed"] = {"soft_512": {"name": "gla", "options": {"history": 512}}}
    figure = draw("error_by_context", dataclasses.replace(inputs, spec=spec, scores=scores))
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["gla"].get_xdata(), [8, 64, 512])
    np.testing.assert_allclose(lines["gla"].get_ydata(), [0.4, 0.2, 0.21])
    np.testing.assert_allclose(lines["soft"].get_ydata(), [0.2, 0.5])
    assert lines["trained context"].get_xdata()[0] == 64 and "persistence" in lines
    assert figure.get_suptitle().replace("\n", " ") == (
        "From 64 to 512 frames of context the one-step error becomes 1.05 times for gla, 2.5 times "
        "for soft"
    )
