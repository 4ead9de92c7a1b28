"""Draw the figures of one experiment: all of them into a folder, or one into a file."""

import argparse
import importlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from longrun import config
from longrun.figures import _style
from longrun.figures._inputs import Inputs
from longrun.figures._movie import film
from longrun.metrics.table import read_scores
from longrun.runtime import cli, registry

log = logging.getLogger(__name__)

MOVIE, PICTURE = 400_000, 75_000  # bytes at most: two pictures and a movie are on a committed page


class Predictions(Mapping[str, xr.Dataset]):
    """Kept predictions of seed 0 by method; each is read when it is asked for.

    Parameters
    ----------
    runs
        Folder of seed 0 by method; those that kept none are left out.
    """

    def __init__(self, runs: Mapping[str, Path]) -> None:
        paths = {method: folder / "predictions.zarr" for method, folder in runs.items()}
        self.paths = {method: path for method, path in paths.items() if path.exists()}

    def __getitem__(self, method: str) -> xr.Dataset:  # noqa: D105
        from longrun.data.store import read_predictions  # imports zarr, which few figures need

        return read_predictions(self.paths[method])

    def __iter__(self) -> Iterator[str]:  # noqa: D105
        return iter(self.paths)

    def __len__(self) -> int:  # noqa: D105
        return len(self.paths)


def load(
    name: str | None, spec: dict[str, Any], experiment: str, preset: str, results: Path, unit: str
) -> Inputs:
    """Read what one figure needs of an experiment's results.

    Parameters
    ----------
    name
        The figure: its module lists the metrics it reads in ``SCORES`` and ``CURVES``. None for
        a movie, which reads none.
    spec
        The composed experiment.
    results
        The folder above all presets.
    unit
        See `Inputs`.

    Raises
    ------
    longrun.runtime.cli.UserError
        A file that an earlier verb should have written is missing.
    """
    module = name and importlib.import_module(registry.find("figures", name).__module__)
    folder = results / preset / experiment
    runs = config.runs(spec, folder)
    scores = [pd.DataFrame(columns=["method", "seed", "dataset", "trajectory", "metric", "value"])]
    curves = [pd.DataFrame(columns=["method", "seed", "step", "metric", "value"])]
    for method, seed, run in runs:
        if wanted := getattr(module, "SCORES", ()):
            table = read_scores(run / "scores.parquet", wanted)
            scores.append(table.assign(method=method, seed=seed))
        if wanted := getattr(module, "CURVES", ()):
            table = pd.read_csv(_existing(run / "curves.csv", "train"))
            curves.append(table[table["metric"].isin(wanted)].assign(method=method, seed=seed))
    return Inputs(
        spec=spec,
        preset=preset,
        experiment=experiment,
        scores=_below(scores),
        claims=cli.read_json(folder / "claims.json", "judge"),
        curves=_below(curves),
        predictions=Predictions({run.method: run.folder for run in runs if run.seed == 0}),
        unit=unit,
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all; the same figure gives the same bytes.

    Parameters
    ----------
    path
        The suffix chooses the format: ``.svg``, ``.png``, ``.pdf``.
    """
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.style.context(_style.STYLE), cli.atomic(path) as part:
        figure.savefig(part, metadata=undated.get(path.suffix))


def save_movie(frames: Sequence[np.ndarray], path: Path) -> None:
    """Write frames as an animated WebP of at most `MOVIE` bytes: rather fewer than blurred ones.

    Parameters
    ----------
    frames
        Each (height, width, 3), of bytes.
    """
    for every, quality in ((1, 80), (1, 60), (2, 60), (3, 50), (4, 40), (6, 30)):
        images = [Image.fromarray(frame) for frame in [*frames[:-1:every], frames[-1]]]
        times = [120 * every] * (len(images) - 1) + [1500]  # ms; the end stays for a moment
        with io.BytesIO() as made:
            images[0].save(
                made,
                "webp",
                save_all=True,
                append_images=images[1:],
                duration=times,
                loop=0,
                quality=quality,
                method=4,
            )
            if made.tell() <= MOVIE:
                with cli.atomic(path) as part:
                    part.write_bytes(made.getvalue())
                return
    log.warning("%s: its frames don't fit into %d bytes, no movie", path, MOVIE)


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as a still WebP of at most `PICTURE` bytes, for a page that is committed."""
    for resolution, quality in ((150, 80), (120, 70), (100, 60), (80, 50), (60, 40)):
        with matplotlib.style.context(_style.STYLE), io.BytesIO() as drawn, io.BytesIO() as made:
            figure.savefig(drawn, format="png", dpi=resolution)
            Image.open(drawn).convert("RGB").save(made, "webp", quality=quality, method=4)
            if made.tell() <= PICTURE:
                with cli.atomic(path) as part:
                    part.write_bytes(made.getvalue())
                return
    raise cli.UserError(f"{path}: the figure doesn't fit into {PICTURE} bytes")


def unit_of(configs: Path, spec: Mapping[str, Any], preset: str) -> str:
    """Return the unit of time of the data that figures show."""
    equation = config.compose_dataset(configs, spec["test"][0], preset).get("equation")
    if not equation:
        return Inputs.unit
    unit: str = registry.attribute("equations", equation["name"], "time_unit", Inputs.unit)
    return unit


def _existing(path: Path, verb: str) -> Path:
    if not path.exists():
        raise cli.UserError(f"{path}: no such file; longrun.{verb} writes it")
    return path


def _below(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Stack tables; the first is empty and only gives the columns."""
    full = [table for table in tables if len(table)]
    return pd.concat(full, ignore_index=True) if full else tables[0]


EXAMPLES = """
python -m longrun.plot --experiment pde_refiner --preset cpu \\
    --output results/cpu/pde_refiner/figures
python -m longrun.plot space_time --experiment pde_refiner --preset cpu --output space_time.svg
python -m longrun.plot claims --experiment cape --preset gpu --output claims.pdf
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("plot", __doc__, EXAMPLES, "experiment", "preset", "configs", "results")
    made.add_argument(
        "figure",
        nargs="?",
        help="default: all of the experiment; one of: " + ", ".join(registry.names("figures")),
    )
    made.add_argument(
        "--output", type=Path, required=True, help="SVG, PNG or PDF; without a figure, a folder"
    )
    return made


def main() -> None:
    """Parse the command line; for each figure load, draw and save."""
    options = parser().parse_args()
    spec = config.compose(options.configs, options.experiment, options.preset)
    unit = unit_of(options.configs, spec, options.preset)
    run = options.experiment, options.preset, options.results, unit
    if options.figure:
        draw = registry.find("figures", options.figure)
        save(draw(load(options.figure, spec, *run)), options.output)
        return
    with cli.atomic(options.output) as folder:
        folder.mkdir()
        for name in config.figures(spec):
            figure = registry.find("figures", name)(load(name, spec, *run))
            save(figure, folder / f"{name}.svg")
            figure.clear()
            log.info("%s: drawn", name)
        if frames := film(load(None, spec, *run)):
            save_movie(frames, folder / "movie.webp")


if __name__ == "__main__":
    cli.run(main)
