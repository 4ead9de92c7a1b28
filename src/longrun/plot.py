"""Draw the figures of one experiment: all of them into a folder, or one into a file."""

import argparse
import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from longrun import config
from longrun.figures import _style
from longrun.figures._inputs import Inputs
from longrun.metrics.table import read_scores
from longrun.runtime import cli, registry

log = logging.getLogger(__name__)


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
    name: str, spec: dict[str, Any], experiment: str, preset: str, results: Path, unit: str
) -> Inputs:
    """Read what one figure needs of an experiment's results.

    Parameters
    ----------
    name
        The figure: its module lists the metrics it reads in ``SCORES`` and ``CURVES``.
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
    module = importlib.import_module(registry.find("figures", name).__module__)
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
    data = config.compose_dataset(options.configs, spec["test"][0], options.preset)
    unit = Inputs.unit
    if "equation" in data:  # else the data are files of one's own, of which nothing is known
        unit = registry.attribute("equations", data["equation"]["name"], "time_unit", unit)
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


if __name__ == "__main__":
    cli.run(main)
