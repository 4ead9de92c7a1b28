"""Refuse bad configurations before torch and Lightning are imported, which takes seconds.

A verb that needs them calls this first. Later it composes again, with all of its options.
"""

import argparse
import sys
from pathlib import Path

from longrun import config


def check() -> None:
    """Compose what the command line names.

    Raises
    ------
    UserError
        What `longrun.config` refuses. The verb itself complains about an incomplete command line.
    """
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("dataset", "experiment", "method", "preset"):
        known.add_argument(f"--{name}")
    known.add_argument("--configs", type=Path, default=Path("configs"))
    known.add_argument("--set", nargs="+", default=[])
    try:
        given, _ = known.parse_known_args(sys.argv[1:])
    except argparse.ArgumentError:
        return
    if given.dataset is not None and given.preset is not None:
        config.compose_dataset(given.configs, given.dataset, given.preset)
    if None not in (given.experiment, given.preset, given.method):
        changes = config.changes(given.set)
        config.compose_run(given.configs, given.experiment, given.preset, given.method, changes)
