"""One-step error by the frames of context that a forecaster is given, also beyond the trained."""

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("transformer", "gla", "transnormer", "lssar", "s5_ptd")
SCORES = ("one_step_nrmse",)


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one curve per family of methods `name_n` that differ in their context."""
    rows = inputs.rows("one_step_nrmse")
    families = _families(inputs, set(rows["method"]))
    if not any(len(members) > 1 for members in families.values()):
        return _style.note("No method was scored with several contexts.")
    figure = _style.blank(8.6, 5.2)
    axes = figure.subplots()
    means: dict[str, dict[int, float]] = {}
    for family, members in families.items():
        look = _style.look(inputs, next(iter(members.values())))
        runs = {
            count: rows[rows["method"] == method].groupby("seed")["value"].mean()
            for count, method in members.items()
        }
        means[family] = {count: float(run.mean()) for count, run in runs.items()}
        axes.plot(list(runs), list(means[family].values()), label=_words(family), **look)
        low, high = ([getattr(run, end)() for run in runs.values()] for end in ("min", "max"))
        axes.fill_between(list(runs), low, high, color=look["color"], alpha=0.2, linewidth=0)
    trained = _trained(inputs, families)
    counts = sorted({count for members in families.values() for count in members})
    _levels(axes, inputs, rows, families)
    if trained is not None:
        axes.axvline(trained, color="#555555", linewidth=1.0, label="trained context")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="context (frames)",
        ylabel="one-step nRMSE (error / truth, rms)",
        xticks=counts,
        xlim=(counts[0] / 1.3, counts[-1] * 1.3),
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    _style.legend_right(figure, axes)
    return _style.finish(figure, inputs, _title(means, trained), rows, "bands: range over seeds")


def _context(inputs: Inputs, method: str) -> int | None:
    """Frames that a method sees, also where its run is borrowed."""
    borrowed = inputs.spec.get("borrowed", {}).get(method)
    own = inputs.spec.get("task", {}) | inputs.spec["methods"][method]
    found = (borrowed["options"] if borrowed else own).get("history")
    return None if found is None else int(found)


def _families(inputs: Inputs, scored: set[str]) -> dict[str, dict[int, str]]:
    """Names of the methods by the word before their context, and that context."""
    found: dict[str, dict[int, str]] = {}
    for method in _style.order(inputs, scored):
        name, context = re.fullmatch(r"(.+)_\d+", method), _context(inputs, method)
        if name and context:
            found.setdefault(name[1], {})[context] = method
    return {family: dict(sorted(members.items())) for family, members in found.items()}


def _trained(inputs: Inputs, families: dict[str, dict[int, str]]) -> int | None:
    """Return the context of what was trained here and scored with others, where it is one."""
    names = {name for members in families.values() for name in members.values()}
    starts = [inputs.spec["methods"][name].get("starts_from") for name in names]
    sources = {start["method"] for start in starts if isinstance(start, dict)} & names
    contexts = {_context(inputs, name) for name in sources}
    return contexts.pop() if len(contexts) == 1 else None


def _levels(
    axes: Axes, inputs: Inputs, rows: pd.DataFrame, families: dict[str, dict[int, str]]
) -> None:
    """Draw what has no context, as persistence, as levels."""
    drawn = {name for members in families.values() for name in members.values()}
    for method in _style.order(inputs, set(rows["method"]) - drawn):
        error = rows.loc[rows["method"] == method, "value"].mean()
        colour = _style.look(inputs, method)["color"]
        axes.axhline(error, color=colour, linestyle="--", linewidth=1.3, label=_words(method))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _title(means: dict[str, dict[int, float]], trained: int | None) -> str:
    """Say what happens to each family beyond the trained context."""
    said = []
    for family, errors in means.items():
        longest = max(errors)
        if trained in errors and longest > trained:
            said.append((errors[longest] / errors[trained], _words(family), longest))
    if not said:
        return "One-step error by context"
    parts = [f"{factor:.3g} times for {family}" for factor, family, _ in sorted(said)]
    return f"From {trained} to {said[0][2]} frames of context the one-step error becomes " + (
        ", ".join(parts)
    )
