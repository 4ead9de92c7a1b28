"""What each refinement step leaves: its error spectrum, and its error beside its noise level."""

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrun.figures import _style
from longrun.figures._inputs import Inputs

METHODS = ("pde_refiner",)
SCORES = ("one_step_error_spectrum", "one_step_truth_spectrum", "level_error", "noise_level")


@_style.styled
def draw(inputs: Inputs) -> Figure:
    """Draw one row per method that refines: spectra on the left, levels on the right."""
    scores = inputs.rows("one_step_error_spectrum")
    stages = scores.groupby("method")["stage"].nunique()
    methods = _style.order(inputs, stages[stages > 1].index)
    if not methods:
        return _style.note("No method of this experiment refines its prediction in stages.")
    figure = _style.blank(11.0, 0.8 + 4.6 * len(methods))
    grid = figure.subplots(len(methods), 2, squeeze=False)
    verdicts = []
    for (left, right), method in zip(grid, methods, strict=True):
        _spectra(left, inputs, method)
        raised = _levels(right, inputs, method)
        steps = " and ".join(str(stage + 1) for stage in raised)
        verdicts.append(
            f"{method}: "
            + (
                f"step {steps} raises the error left to it"
                if steps
                else "every step lowers the error left to it"
            )
        )
    return _style.finish(figure, inputs, "; ".join(verdicts), scores)


def _spectra(axes: Axes, inputs: Inputs, method: str) -> None:
    truth = inputs.rows("one_step_truth_spectrum")
    truth = truth[(truth["method"] == method) & (truth["wavenumber"] > 0)]
    black = truth.groupby("wavenumber")["value"].mean()
    axes.plot(black, color=_style.TRUTH, linewidth=3, label="truth")
    rows = inputs.rows("one_step_error_spectrum")
    rows = rows[rows["wavenumber"] > 0]
    for other in _rivals(inputs, method):
        theirs = rows[rows["method"] == other].groupby("wavenumber")["value"].mean()
        axes.plot(
            theirs, label=f"error of {other}", **_style.line(inputs, other) | {"linestyle": ":"}
        )
    mine = rows[rows["method"] == method]
    stages = sorted(mine["stage"].unique())
    for stage in stages:
        colour = colormaps["cividis_r"](0.15 + 0.85 * stage / max(stages[-1], 1))
        runs = mine[mine["stage"] == stage].groupby(["seed", "wavenumber"])["value"].mean()
        band = runs.groupby("wavenumber").agg(["mean", "min", "max"])
        label = "error of first prediction" if stage == 0 else f"error after refinement {stage}"
        axes.plot(band["mean"], color=colour, label=label)
        axes.fill_between(
            band.index, band["min"], band["max"], color=colour, alpha=0.25, linewidth=0
        )
    axes.set(
        yscale="log",
        xlabel="wavenumber (rad / unit length)",
        ylabel="energy per wavenumber, one step",
    )
    axes.set_ylim(max(black.max() * 1e-14, mine["value"].min() / 10), black.max() * 5)
    axes.set_xlim(0, black.index[black > black.max() * 1e-13].max() * 1.01)
    axes.set_title(f"{method}: error after each step beside the truth")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def _rivals(inputs: Inputs, method: str) -> list[str]:
    """Methods that a claim about one-step error compares with this one."""
    pairs = [
        {claim["of"], claim.get("against")}
        for claim in inputs.claims.get("claims", [])
        if claim["metric"].startswith("one_step_error")
    ]
    named = {name for pair in pairs if method in pair for name in pair if name}
    return _style.order(inputs, named - {method})


def _levels(axes: Axes, inputs: Inputs, method: str) -> list[int]:
    """Draw error beside noise per level; list the levels whose error the next step raises."""
    error, noise = (
        rows[rows["method"] == method].groupby("stage")["value"].agg(["mean", "min", "max"])
        for rows in (inputs.rows("level_error"), inputs.rows("noise_level"))
    )
    axes.set_title(f"{method}: error and noise of each level")
    axes.set(
        xlabel="refinement step (0: first prediction)", ylabel="std / rms of the scaled target"
    )
    if error.empty or noise.empty:
        axes.text(0.5, 0.5, "no noise levels", ha="center", transform=axes.transAxes)
        return []
    colour = _style.look(inputs, method)["color"]
    axes.plot(
        noise["mean"],
        color="#777777",
        marker="_",
        markersize=22,
        markeredgewidth=2.5,
        linestyle="",
        label="noise that the step starts from",
    )
    spread = error[["min", "max"]].sub(error["mean"], axis=0).abs().to_numpy().T
    axes.errorbar(
        error.index,
        error["mean"],
        spread,
        color=colour,
        marker="o",
        capsize=4,
        label="error that the step leaves (range over seeds)",
    )
    bad = [stage for stage in error.index[:-1] if error["mean"][stage + 1] > error["mean"][stage]]
    for stage in bad:
        axes.axvspan(
            stage,
            stage + 1,
            color=_style.COLOURS[1],
            alpha=0.15,
            linewidth=0,
            label="the step raises the error" if stage == bad[0] else None,
        )
    axes.set(yscale="log", xticks=error.index)
    axes.set_ylim(min(error["mean"].min(), noise["mean"].min()) / 3, noise["mean"].max() * 3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=1)
    return bad
