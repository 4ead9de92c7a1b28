"""A rollout in two dimensions as a movie: truth, forecast and error, on one colour scale."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg

from longrun.figures import _style
from longrun.figures._inputs import Inputs

FRAMES = 48  # at most: more make a file too large
COLOURS = colormaps["RdBu_r"]


@_style.styled
def film(inputs: Inputs) -> list[UInt8[np.ndarray, "height width 3"]]:
    """Draw the frames of a test trajectory; none where no rollout in two dimensions was kept.

    The method is the one that the main claim is about, the field the first.
    """
    method = _method(inputs)
    if method is None:
        return []
    kept = inputs.predictions[method].isel(trajectory=0, field=0)
    kept = kept.transpose("lead_time", "y", "x", ...)  # rows are y
    truth, forecast = kept["truth"].values, kept["prediction"].values
    shift = _shift(truth)
    name = str(kept["field"].values) + (f" − {shift:.3g}" if shift else "")
    stage = _Stage(inputs, method, name, _limit(truth - shift), kept)
    times = _times(kept)
    return [
        stage.frame(
            (truth[i] - shift, forecast[i] - shift, forecast[i] - truth[i]),
            f"lead time {times[i]:.3g} {inputs.unit}",
        )
        for i in np.unique(np.linspace(0, len(truth) - 1, FRAMES).round().astype(int))
    ]


def _method(inputs: Inputs) -> str | None:
    """Return the method that the main claim is about, of those whose fields have two axes."""
    claims = list(inputs.spec["claims"].values())
    main = next((claim for claim in claims if claim.get("main")), claims[0] if claims else {})
    of = main.get("of", [])
    wanted = [of] if isinstance(of, str) else [*of]
    for method in [*wanted, *_style.order(inputs, inputs.predictions)]:
        if method in inputs.predictions and _is_plane(inputs.predictions[method]):
            return str(method)
    return None


def _is_plane(kept: xr.Dataset) -> bool:
    axes = {*kept.dims} - {"trajectory", "lead_time", "field"}
    rolled = "prediction" in kept and {"lead_time", "field"} <= {*kept["prediction"].dims}
    if axes != {"x", "y"} or not rolled or not kept.sizes["trajectory"]:
        return False
    return kept.sizes["lead_time"] > 1  # a steady map has one frame, whose first field is given


def _shift(truth: Float[np.ndarray, "time y x"]) -> float:
    """Return what is taken from field and forecast, so that zero, and no error, is in the middle.

    A field that keeps one sign, as a density, varies around a mean far from zero.
    """
    mean, spread = float(truth.mean()), float(truth.std())
    return mean if abs(mean) > 2 * spread else 0.0


def _limit(values: Float[np.ndarray, "time y x"]) -> float:
    """Colour limit: what 99.5 % of the truth's absolute values stay below."""
    return float(np.quantile(np.abs(values), 0.995)) or 1.0


def _times(kept: xr.Dataset) -> Float[np.ndarray, " time"]:
    """Lead times of this trajectory; the axis holds means over all."""
    if "seconds_per_step" in kept.coords:
        return float(kept["seconds_per_step"]) * np.arange(1, kept.sizes["lead_time"] + 1)
    times: np.ndarray = kept["lead_time"].values
    return times


class _Stage:
    """Three panels: what stays is drawn once, and each frame upon it."""

    def __init__(self, inputs: Inputs, method: str, name: str, limit: float, kept: xr.Dataset):
        figure = _style.blank(7.6, 3.5)
        self.figure, self.canvas = figure, FigureCanvasAgg(figure)
        self.row = figure.subplots(1, 3, sharex=True, sharey=True)
        extent = (0.0, float(kept["x"][-1]), 0.0, float(kept["y"][-1]))
        blank = np.zeros((kept.sizes["y"], kept.sizes["x"]))
        self.images = []
        for axes, title in zip(self.row, ("truth", f"{method}: forecast", "error"), strict=True):
            axes.set_facecolor("#bdbdbd")  # where a forecast is no number
            axes.grid(False)
            axes.set(title=title, xlabel="x")
            image = axes.imshow(
                blank, COLOURS, extent=extent, origin="lower", vmin=-limit, vmax=limit
            )
            image.set_animated(True)
            self.images.append(image)
        self.row[0].set_ylabel("y")
        figure.colorbar(self.images[0], ax=self.row, label=name, aspect=30, pad=0.01)
        title = "A test trajectory: truth, forecast and error, one colour scale"
        _style.finish(figure, inputs, title)
        self.clock = figure.text(0.99, 0.98, "", ha="right", va="top", animated=True)
        self.canvas.draw()
        self.empty = self.canvas.copy_from_bbox(figure.bbox)

    def frame(
        self, panels: Sequence[Float[np.ndarray, "y x"]], label: str
    ) -> UInt8[np.ndarray, "height width 3"]:
        """Draw a field into each panel, and the time above."""
        self.canvas.restore_region(self.empty)
        for axes, image, panel in zip(self.row, self.images, panels, strict=True):
            image.set_data(np.ma.masked_invalid(panel))
            axes.draw_artist(image)
        self.clock.set_text(label)
        self.figure.draw_artist(self.clock)
        return np.asarray(self.canvas.buffer_rgba())[..., :3].copy()
