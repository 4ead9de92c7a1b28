"""Print what is in a store, and draw a few of its trajectories."""

import argparse
import io
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy import ndarray
from PIL import Image

from longrun.data import schema
from longrun.data.store import Split, Store, open_store
from longrun.runtime import cli

TRAJECTORIES = 3
FRAMES = 4
WIDTH = 22  # letters beside a small panel
FIELDS = 5  # more rows than this don't help
COLOURS = 64  # enough for the eye, and a picture of tens of kilobytes
POINTS = 2000  # of a cloud


def summary(store: Store) -> Iterator[str]:
    """Lines that say what is in a store: arrays, parameters, error, origin, size."""
    attrs = store.attrs
    options = {key: value for key, value in store.equation.items() if key != "name"}
    yield f"{store.path}  {_size(store.path)}"
    yield f"equation    {store.equation['name']}"
    yield from (f"            {key}: {value}" for key, value in options.items())
    if schema.SOURCE in attrs:
        read = attrs[schema.SOURCE]
        yield f"source      {read['format']}, {read['path']}, {len(read['files'])} files"
    boundary = ", ".join(f"{axis} {kind}" for axis, kind in attrs[schema.BOUNDARY].items())
    yield f"boundary    {boundary}"
    yield f"seed        {attrs['seed']}"
    for name in schema.SPLITS:
        split = store.split(name)
        yield ""
        yield f"{name}: {split.trajectories} x {split.frames} frames, {_size(split.path)}"
        for field in store.fields:
            array = split.array(field)
            described = array["attrs"]
            yield (
                f"  {field}  {described['long_name']} [{described['units']}]  {array['dtype']} "
                f"{array['shape']}, chunks {array['chunks']}, shards {array['shards']}"
            )
        for parameter, values in split.parameters.items():
            described = split.array(parameter)["attrs"]
            yield (
                f"  {parameter}  {described['long_name']} [{described['units']}]  "
                f"{values.min():.6g} to {values.max():.6g}, mean {values.mean():.6g}"
            )
    yield ""
    if attrs[schema.REFERENCE_ERROR] is None:
        yield "reference error  not known"
    else:
        lead_time, error = store.reference_error()
        yield "reference error (relative RMSE against half the step and twice the resolution)"
        for i in np.unique(np.geomspace(1, len(error), 5).astype(int) - 1):
            yield f"  {error[i]:.2e} after {lead_time[i]:.4g}"
    if attrs[schema.PREDICTABILITY] is not None:
        yield (
            "predictability (runs 1e-6 apart stay correlated above 0.8)  "
            f"{store.predictability:.4g}" + _bound(attrs[schema.CENSORED])
        )
    yield ""
    origin = attrs[schema.PROVENANCE]
    commit = origin["commit"] or "unknown"
    yield f"made at commit {commit}{' with uncommitted changes' if origin['dirty'] else ''}"
    for group in ("versions", "hardware"):
        yield f"  {', '.join(f'{key} {value}' for key, value in origin[group].items())}"


def _bound(censored: float) -> str:
    share = f", a lower bound: {censored:.0%} of the runs were still correlated"
    return share if censored else ""


def facts(store: Store) -> dict[str, Any]:
    """Return what a catalogue says of a store, as plain JSON."""
    attrs = store.attrs
    split = store.split("train")
    known = attrs[schema.REFERENCE_ERROR] is not None
    lead_time, error = store.reference_error() if known else (np.zeros(1), np.array([np.nan]))
    return {
        "equation": store.equation,
        "fields": {name: split.array(name)["attrs"] for name in store.fields},
        "parameters": {
            name: {"low": values.min(), "high": values.max(), **split.array(name)["attrs"]}
            for name, values in split.parameters.items()
        },
        "boundary": attrs[schema.BOUNDARY],
        "space": split.space,
        "splits": {
            name: {
                "trajectories": store.split(name).trajectories,
                "frames": store.split(name).frames,
            }
            for name in schema.SPLITS
        },
        "bytes": _bytes(store.path),
        "reference_error": attrs[schema.REFERENCE_ERROR],
        "last_reference_error": float(error[-1]) if known else None,
        "last_lead_time": float(lead_time[-1]),
        "predictability": attrs[schema.PREDICTABILITY],
        "predictability_censored": attrs[schema.CENSORED],
        "provenance": attrs[schema.PROVENANCE],
    }


def preview(store: Store, split: str = "train") -> Figure:
    """Draw a few trajectories to show what kind of field it is.

    Without space: fields over time, one line per trajectory. In one dimension: space and time. In
    two: frames of one trajectory; in three the plane through the middle. A steady map: given and
    sought fields of a few samples; without space, one point for each of many.
    """
    part = store.split(split)
    names = store.fields[:FIELDS]
    chosen = np.unique(np.linspace(0, part.trajectories - 1, TRAJECTORIES).astype(int))
    dims = len(part.space)
    if dims == 0 and part.frames == 1:
        figure = _points(part)
    elif dims == 0:
        figure = _lines(part, names, chosen)
    elif dims == 1:
        figure = _space_time(part, names, chosen)
    elif part.frames > 1:
        figure = _frames(part, names)
    else:
        figure = _maps(part, names, chosen)
    figure.suptitle(f"{store.path.stem.replace('_', ' ')}: {split}")
    return figure


def _points(part: Split) -> Figure:
    states = part.read(slice(0, POINTS), slice(0, 1))[:, 0]
    figure = Figure(figsize=(4.5, 4.2), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    first, last = part.fields[0], part.fields[-1]
    axes.plot(states[:, 0], states[:, -1], ".", markersize=3)
    axes.set(xlabel=_label(part, first), ylabel=_label(part, last))
    return figure


def _lines(part: Split, names: tuple[str, ...], chosen: ndarray) -> Figure:
    states = part.read(chosen, slice(None))
    figure = Figure(figsize=(7, 1.4 * len(names) + 0.6), layout="constrained")
    for row, name in enumerate(names):
        axes = figure.add_subplot(len(names), 1, row + 1)
        for trajectory, state in zip(chosen.tolist(), states, strict=True):
            time = _parameter(part, schema.DT, trajectory) * np.arange(part.frames)
            axes.plot(time, state[:, row], linewidth=0.9, label=f"trajectory {trajectory}")
        axes.set_ylabel(_label(part, name))
    axes.set_xlabel(f"{schema.TIME} [{_units(part, schema.DT)}]")
    figure.axes[0].legend(loc="upper right", fontsize="x-small")
    return figure


def _space_time(part: Split, names: tuple[str, ...], chosen: ndarray) -> Figure:
    states = part.read(chosen, slice(None))
    size = (2.6 * len(chosen) + 1, 2.4 * len(names) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(names), len(chosen), squeeze=False)
    for row, name in enumerate(names):
        scale = _scale(states[:, :, row])
        for panel, trajectory, state in zip(panels[row], chosen.tolist(), states, strict=True):
            length = _parameter(part, schema.LENGTH, trajectory)
            seconds = _parameter(part, schema.DT, trajectory) * part.frames
            image = _image(panel, state[:, row], (0, length, 0, seconds), **scale)
            panel.set_title(f"trajectory {trajectory}", fontsize="medium")
            panel.set_xlabel(f"{schema.AXES[0]} [{_units(part, schema.LENGTH)}]")
        panels[row, 0].set_ylabel(f"{schema.TIME} [{_units(part, schema.DT)}]")
        figure.colorbar(image, ax=panels[row], label=_label(part, name))
    return figure


def _frames(part: Split, names: tuple[str, ...]) -> Figure:
    times = np.unique(np.linspace(0, part.frames - 1, FRAMES).astype(int))
    states = np.stack([part.read(np.array([0]), slice(t, t + 1))[0, 0] for t in times])
    titles = [f"t = {_parameter(part, schema.DT, 0) * t:.4g}" for t in times.tolist()]
    return _grid(part, names, states, titles)


def _maps(part: Split, names: tuple[str, ...], chosen: ndarray) -> Figure:
    states = part.read(chosen, slice(0, 1))[:, 0]
    return _grid(part, names, states, [f"sample {number}" for number in chosen])


def _grid(
    part: Split,
    names: tuple[str, ...],
    states: Float[ndarray, "column field *space"],
    titles: list[str],
) -> Figure:
    """Draw fields as rows, states as columns."""
    extent = _extent(part)
    height = 2.0 * min(2.0, extent[3] / extent[1])
    size = (2.0 * len(states) + 1.2, (height + 0.35) * len(names) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(names), len(states), squeeze=False)
    for row, name in enumerate(names):
        fields = states[:, row]
        if fields.ndim == 4:  # the plane through the middle of the third axis
            fields = fields[..., fields.shape[-1] // 2]
        scale = _scale(fields)
        for panel, field, title in zip(panels[row], fields, titles, strict=True):
            image = _image(panel, field.T, extent, aspect="equal", **scale)
            panel.set_title(title, fontsize="small")
            panel.set(xticks=[], yticks=[])
        label = textwrap.fill(_label(part, name), WIDTH)
        figure.colorbar(image, ax=panels[row]).set_label(label, fontsize="small")
    units = _units(part, schema.LENGTH)
    panels[-1, 0].set_xlabel(f"{schema.AXES[0]}, {extent[1]:.4g} [{units}]")
    panels[-1, 0].set_ylabel(f"{schema.AXES[1]}, {extent[3]:.4g} [{units}]")
    return figure


def _extent(part: Split) -> tuple[float, float, float, float]:
    width = _parameter(part, schema.LENGTH, 0)
    name = f"{schema.LENGTH}_{schema.AXES[1]}"
    return 0, width, 0, float(part.parameters[name][0]) if name in part.parameters else width


def _parameter(part: Split, name: str, trajectory: int) -> float:
    return float(part.parameters[name][trajectory]) if name in part.parameters else 1.0


def _scale(values: ndarray) -> dict[str, Any]:
    """Colours that are symmetric about zero where the values have both signs."""
    low, high = float(values.min()), float(values.max())
    if low < 0 < high:
        return {"cmap": "RdBu_r", "vmin": -max(-low, high), "vmax": max(-low, high)}
    return {"cmap": "viridis", "vmin": low, "vmax": high}


def _image(
    panel: Axes,
    values: Float[ndarray, "row column"],
    extent: tuple[float, float, float, float],
    aspect: Literal["equal", "auto"] = "auto",
    **scale: Any,
) -> AxesImage:
    return panel.imshow(
        values, origin="lower", aspect=aspect, extent=extent, interpolation="nearest", **scale
    )


def _label(part: Split, name: str) -> str:
    return f"{part.array(name)['attrs']['long_name']} {name} [{_units(part, name)}]"


def _units(split: Split, name: str) -> str:
    return str(split.array(name)["attrs"]["units"]) if (split.path / name).exists() else "1"


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _size(path: Path) -> str:
    size = float(_bytes(path))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours: a catalogue keeps one for each dataset."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    with cli.atomic(path) as part:
        Image.open(buffer).convert("RGB").quantize(COLOURS).save(part, optimize=True)


EXAMPLES = """
python -m longrun.inspect data/cpu/gray_scott.zarr
python -m longrun.inspect data/cpu/gray_scott.zarr --preview gray_scott.png --facts facts.json
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("inspect", __doc__, EXAMPLES)
    made.add_argument("store", type=Path, help="folder of the store")
    made.add_argument(
        "--preview", type=Path, help="PNG to draw; default: beside the store, same name"
    )
    made.add_argument("--facts", type=Path, help="JSON to write, for a catalogue")
    return made


def main() -> None:
    """Read the command line, print the summary and draw the preview."""
    arguments = parser().parse_args()
    store = open_store(arguments.store)
    print("\n".join(summary(store)))
    image = arguments.preview or store.path.with_suffix(".png")
    _save(preview(store), image)
    print(f"\npreview: {image}")
    if arguments.facts:
        with cli.atomic(arguments.facts) as part:
            part.write_text(json.dumps(facts(store), indent=1), "utf-8")


if __name__ == "__main__":
    cli.run(main)
