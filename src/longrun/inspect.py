"""Print what is in a store, and draw a few of its trajectories."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from longrun import cli
from longrun.data import schema
from longrun.data.store import Split, Store, open_store

PANELS = 3


def summary(store: Store) -> Iterator[str]:
    """Lines that say what is in a store: arrays, parameters, error, origin, size."""
    attrs = store.attrs
    options = {key: value for key, value in store.equation.items() if key != "name"}
    yield f"{store.path}  {_size(store.path)}"
    yield f"equation    {store.equation['name']}"
    yield from (f"            {key}: {value}" for key, value in options.items())
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
    lead_time, error = store.reference_error()
    yield ""
    yield "reference error (relative RMSE against half the step and twice the resolution)"
    for i in np.unique(np.geomspace(1, len(error), 5).astype(int) - 1):
        yield f"  {error[i]:.2e} after {lead_time[i]:.4g}"
    censored = attrs[schema.CENSORED]
    yield (
        f"predictability (runs 1e-6 apart stay correlated above 0.8)  {store.predictability:.4g}"
        + (f", a lower bound: {censored:.0%} of the runs were still correlated" if censored else "")
    )
    yield ""
    origin = attrs[schema.PROVENANCE]
    commit = origin["commit"] or "unknown"
    yield f"made at commit {commit}{' with uncommitted changes' if origin['dirty'] else ''}"
    for group in ("versions", "hardware"):
        yield f"  {', '.join(f'{key} {value}' for key, value in origin[group].items())}"


def preview(store: Store, split: str = "train") -> Figure:
    """Draw space and time of a few trajectories: the first field along the first axis.

    In more than one dimension this is a line through the middle of the box.
    """
    part = store.split(split)
    chosen = np.unique(np.linspace(0, part.trajectories - 1, PANELS).astype(int))
    states = part.read(chosen, slice(None))[:, :, 0]
    for points in part.space[:0:-1]:
        states = states[..., points // 2]
    largest = np.abs(states).max()
    figure = Figure(figsize=(3.2 * len(chosen) + 1, 4.5), layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for panel, trajectory, state in zip(panels, chosen, states, strict=True):
        length, dt = (part.parameters[name][trajectory] for name in (schema.LENGTH, schema.DT))
        image = panel.imshow(
            state,
            origin="lower",
            aspect="auto",
            extent=(0, length, 0, dt * part.frames),
            cmap="RdBu_r",
            vmin=-largest,
            vmax=largest,
            interpolation="nearest",
        )
        panel.set_title(f"{split} {trajectory}", fontsize="medium")
        panel.set_xlabel(f"{schema.AXES[0]} [{_units(part, schema.LENGTH)}]")
    panels[0].set_ylabel(f"{schema.TIME} [{_units(part, schema.DT)}]")
    name = store.fields[0]
    long_name = part.array(name)["attrs"]["long_name"]
    figure.colorbar(image, ax=panels, label=f"{long_name} {name} [{_units(part, name)}]")
    figure.suptitle(store.equation["name"])
    return figure


def _units(split: Split, name: str) -> str:
    return str(split.array(name)["attrs"]["units"])


def _size(path: Path) -> str:
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def main() -> None:
    """Read the command line, print the summary and draw the preview."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument(
        "--preview", type=Path, help="PNG to draw; default: beside the store, same name"
    )
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    print("\n".join(summary(store)))
    image = arguments.preview or store.path.with_suffix(".png")
    with cli.atomic(image) as part:
        preview(store).savefig(part, dpi=150)
    print(f"\npreview: {image}")


if __name__ == "__main__":
    cli.run(main)
