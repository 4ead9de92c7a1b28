"""Convert a dataset between a store, The Well's HDF5 files and PDEBench's.

One side is a store. `longrun.exchange.well` and `longrun.exchange.pdebench` say what the formats
hold, and what they don't.
"""

import argparse
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longrun.config.models import Storage
from longrun.config.section import defaults
from longrun.data import schema
from longrun.data.store import open_store
from longrun.exchange import formats as exchange
from longrun.exchange.pdebench import export_pdebench
from longrun.exchange.well import export_well
from longrun.generate import generate
from longrun.runtime import cli
from longrun.runtime.cli import UserError

log = logging.getLogger(__name__)

STORE, WELL, PDEBENCH = "store", "the_well", "pdebench"
FORMATS = (STORE, WELL, PDEBENCH)


def export(source: Path, output: Path, kind: str) -> None:
    """Write a store in another format.

    Raises
    ------
    UserError
        No store, one that the format can't hold, or something is at `output`.
    """
    store = open_store(source)
    {WELL: export_well, PDEBENCH: export_pdebench}[kind](store, output)


def convert(
    source: Path,
    output: Path,
    kind: str,
    provenance: Mapping[str, Any],
    *,
    splits: Sequence[int] | None = None,
    parameters: Mapping[str, float] | None = None,
    fields: Sequence[str] | None = None,
    boundary: Sequence[str] | None = None,
) -> None:
    """Write a store from files of another format, as a dataset with this `source` would be made.

    Parameters
    ----------
    source
        File or folder.
    output
        Folder of the store; must not exist.
    kind
        `the_well` or `pdebench`.
    provenance
        See `longrun.runtime.cli.provenance`.
    splits
        Trajectories of train, valid and test, where the files aren't split.
    parameters
        Numbers that the files don't hold, the same for all trajectories.
    fields, boundary
        Names and conditions that PDEBench's files don't hold.

    Raises
    ------
    UserError
        Files that can't be read or stored; options that are missing or don't fit.
    """
    exchange.absent(output)
    said: dict[str, Any] = {"format": kind, "path": str(source)}
    if parameters:
        said["parameters"] = dict(parameters)
    if fields:
        said["fields"] = list(fields)
    if boundary:
        if kind == WELL:
            raise UserError("files of The Well know their boundary conditions")
        several = dict(zip(schema.AXES, boundary, strict=False))
        said["boundary"] = several if len(boundary) > 1 else boundary[0]
    spec: dict[str, Any] = {"source": said, "store": defaults(Storage) | {"dtype": None}}
    if splits:
        counts = zip(schema.SPLITS, splits, strict=True)
        spec["splits"] = {name: {"trajectories": count} for name, count in counts}
    try:
        generate(spec, output, provenance)
    except UserError:  # what can't be converted is not worth resuming
        shutil.rmtree(output.with_name(f".{output.name}.partial"), ignore_errors=True)
        raise


def _parameter(text: str) -> tuple[str, float]:
    """Read `name=value`."""
    name, _, value = text.partition("=")
    try:
        return exchange.as_name(name), float(value)
    except ValueError:
        raise UserError(f"--parameter must be name=number, is {text!r}") from None


EXAMPLES = """
python -m longrun.convert --from store --to the_well data/cpu/gray_scott.zarr gray_scott_well
python -m longrun.convert --from pdebench --to store --splits 800 100 100 \\
    1D_Advection_Sols_beta0.4.hdf5 data/cpu/beta.zarr
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("convert", __doc__, EXAMPLES)
    made.add_argument("source", type=Path, help="store, file or folder")
    made.add_argument("output", type=Path, help="store or folder; must not exist")
    made.add_argument(
        "--from", dest="origin", choices=FORMATS, required=True, help="format of the source"
    )
    made.add_argument(
        "--to", dest="target", choices=FORMATS, required=True, help="format of the output"
    )
    made.add_argument(
        "--splits",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VALID", "TEST"),
        help="trajectories of each split, in the order of the file",
    )
    made.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=NUMBER", help="repeatable"
    )
    made.add_argument("--fields", nargs="+", help="names that PDEBench's file doesn't give")
    made.add_argument(
        "--boundary", nargs="+", help="boundary conditions that PDEBench's file doesn't give"
    )
    return made


def main() -> None:
    """Read the command line and convert."""
    arguments = parser().parse_args()
    if (arguments.origin == STORE) == (arguments.target == STORE):
        raise UserError("one of --from and --to must be store, the other another format")
    if arguments.origin == STORE:
        if arguments.splits or arguments.parameter or arguments.fields or arguments.boundary:
            raise UserError("a store knows its splits, parameters, fields and boundary conditions")
        export(arguments.source, arguments.output, arguments.target)
    else:
        convert(
            arguments.source,
            arguments.output,
            arguments.origin,
            cli.provenance(),
            splits=arguments.splits,
            parameters=dict(map(_parameter, arguments.parameter)),
            fields=arguments.fields,
            boundary=arguments.boundary,
        )
    log.info("%s: written", arguments.output)


if __name__ == "__main__":
    cli.run(main)
