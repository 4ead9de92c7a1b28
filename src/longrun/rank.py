"""Sort the points of a sweep by what they reached on validation data."""

import argparse
import logging
import math
from pathlib import Path

import pandas as pd

from longrun import config, sweep
from longrun.runtime import cli
from longrun.runtime.cli import UserError

log = logging.getLogger(__name__)


def last_value(curves: Path, metric: str) -> tuple[int, float]:
    """Return the last step at which a metric was logged, and its value then.

    Raises
    ------
    UserError
        No such file, or no such metric in it.
    """
    if not curves.exists():
        raise UserError(f"{curves}: no such file; longrun.train writes it")
    table = pd.read_csv(curves)
    rows = table[table["metric"] == metric]
    if rows.empty:
        there = ", ".join(sorted(table["metric"].unique())) or "nothing"
        raise UserError(f"{curves}: has no {metric}; it has {there}")
    return int(rows["step"].iloc[-1]), float(rows["value"].iloc[-1])


def rank(swept: sweep.Sweep, results: Path, preset: str) -> pd.DataFrame:
    """Return one row per point, the best first.

    Returns
    -------
    DataFrame
        `metric`, its `value` after the last update, the `step` then, a column per key, and the
        `folder` of the run. A point that diverged comes last.
    """
    rows = []
    for point in swept.points():
        run = config.run_folder(preset, swept.experiment, swept.method, swept.seed, point)
        step, value = last_value(results / run / "curves.csv", swept.metric)
        shown = {key: v if isinstance(v, int | float | str) else str(v) for key, v in point.items()}
        found = {"metric": swept.metric, "value": value if math.isfinite(value) else math.nan}
        rows.append(found | {"step": step} | shown | {"folder": str(run)})
    return pd.DataFrame(rows).sort_values("value", kind="stable", ignore_index=True)


EXAMPLES = """
python -m longrun.rank configs/sweeps/pde_refiner_unet.yaml --preset cpu --output unet.csv
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("rank", __doc__, EXAMPLES, "preset", "results")
    made.add_argument("sweep", type=Path, help="file that longrun.sweep wrote")
    made.add_argument("--output", type=Path, required=True, help="CSV to write")
    return made


def main() -> None:
    """Read the command line, write the table and show it."""
    arguments = parser().parse_args()
    table = rank(sweep.read(arguments.sweep), arguments.results, arguments.preset)
    with cli.atomic(arguments.output) as part:
        table.to_csv(part, index=False)
    log.info("%s", table.drop(columns="folder").to_string(index=False))


if __name__ == "__main__":
    cli.run(main)
