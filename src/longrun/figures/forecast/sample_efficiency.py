"""How many trajectories of a new task a method needs: error against the number trained on."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("poseidon",)
SCORES = ("relative_l1",)


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one curve per family of methods `name_n` that differ only in their n trajectories."""
    rows = inputs.rows("relative_l1")
    rows = rows[rows["step"] == rows["step"].max()]
    families = _families(inputs, set(rows["method"]))
    if not families:
        return _style.note("No method was trained on several numbers of trajectories.")
    figure = _style.blank(8.2, 5.2)
    axes = figure.subplots()
    means = {}
    for family, members in families.items():
        look = _style.look(inputs, next(iter(members.values())))
        runs = {
            count: 100 * rows[rows["method"] == method].groupby("seed")["value"].mean()
            for count, method in members.items()
        }
        means[family] = {count: run.mean() for count, run in runs.items()}
        axes.plot(list(runs), [run.mean() for run in runs.values()], label=_words(family), **look)
        low, high = ([getattr(run, end)() for run in runs.values()] for end in ("min", "max"))
        axes.fill_between(list(runs), low, high, color=look["color"], alpha=0.2, linewidth=0)
    _sources(axes, inputs, rows, [m for members in families.values() for m in members.values()])
    counts = sorted({count for members in families.values() for count in members})
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="trajectories of the new task that were trained on (number)",
        ylabel=f"relative L1 error at {_time(inputs, rows)} (%)",
        xticks=counts,
    )
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(ScalarFormatter())
    axes.set_xlim(counts[0] / 1.2, counts[-1] * 1.2)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _style.finish(figure, inputs, _title(means), rows, "bands: range over seeds")


def _families(inputs: Inputs, scored: set[str]) -> dict[str, dict[int, str]]:
    """Names of the methods by the word before their number of trajectories, and that number."""
    found: dict[str, dict[int, str]] = {}
    for method in _style.order(inputs, scored):
        name = re.fullmatch(r"(.+)_(\d+)", method)
        given = inputs.spec["methods"][method].get("trainer", {}).get("trajectories")
        if name and given == int(name[2]):
            found.setdefault(name[1], {})[given] = method
    return {
        family: dict(sorted(members.items()))
        for family, members in found.items()
        if len(members) > 1
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _sources(axes: Axes, inputs: Inputs, rows: pd.DataFrame, members: list[str]) -> None:
    """Draw as a level what fine-tuned methods start from, which saw no trajectory of the task."""
    starts = [inputs.spec["methods"][method].get("starts_from", {}) for method in members]
    own = {start["method"] for start in starts if start and "experiment" not in start}
    for source in _style.order(inputs, own):
        error = 100 * rows.loc[rows["method"] == source, "value"].mean()
        if np.isfinite(error):
            colour = _style.look(inputs, source)["color"]
            label = f"{_words(source)}, not trained on the task"
            axes.axhline(error, color=colour, linestyle="--", linewidth=1.3, label=label)


def _time(inputs: Inputs, rows: pd.DataFrame) -> str:
    return f"lead time {rows['lead_time'].mean():.3g} {inputs.unit}"


def _title(means: dict[str, dict[int, float]]) -> str:
    """Say how the family that is best with the fewest trajectories compares with the others."""
    fewest = min(count for family in means.values() for count in family)
    errors = {
        _words(family): counts[fewest] for family, counts in means.items() if fewest in counts
    }
    best = min(errors, key=lambda family: errors[family])
    others = [
        f"{error / errors[best]:.2g} times less than {family}"
        for family, error in errors.items()
        if family != best
    ]
    least = f"From {_style.plural(fewest, 'trajectory')}, {best} has the lowest error"
    return ", ".join([least, *others])
