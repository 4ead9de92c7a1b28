"""Log configuration, scores, claims and figures of an experiment to wandb, as one artefact.

Outputs
-------
`artefact.json`: the files that it holds, with their SHA-256, and where it was logged.

With tracking disabled the list is written and nothing is logged. What is logged is copied into
`runs/` first, so that an offline run can still be sent when the results have changed.
"""

import argparse
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun import config
from longrun.runtime import cli
from longrun.runtime.cli import UserError

log = logging.getLogger(__name__)


def outcome(spec: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Files of an experiment's outcome, by their name in the artefact.

    Parameters
    ----------
    spec
        The composed experiment.
    folder
        `results/{preset}/{experiment}`.

    Raises
    ------
    UserError
        One that an earlier verb should have written is missing.
    """
    files = {"claims.json": (folder / "claims.json", "judge")}
    for figure in config.figures(spec):
        files[f"figures/{figure}.svg"] = (folder / "figures" / f"{figure}.svg", "plot")
    for method, seed, run in config.runs(spec, folder):
        files[f"scores/{method}/seed{seed}.parquet"] = (run / "scores.parquet", "evaluate")
    for path, verb in files.values():
        if not path.exists():
            raise UserError(f"{path}: no such file; longrun.{verb} writes it")
    return {name: path for name, (path, _) in files.items()}


def digests(spec: Mapping[str, Any], files: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of the configuration and of every file, by name in the artefact."""
    contents = {"config.json": _text(spec).encode()}
    contents |= {name: path.read_bytes() for name, path in files.items()}
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def pack(spec: Mapping[str, Any], files: Mapping[str, Path], folder: Path) -> None:
    """Copy the configuration and the files into a folder."""
    with cli.atomic(folder) as part:
        for name, path in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, part / name)
        (part / "config.json").write_text(_text(spec), "utf-8")


def _text(spec: Mapping[str, Any]) -> str:
    return json.dumps(spec, indent=1, sort_keys=True) + "\n"


def summary(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Value and verdict of each claim, as wandb lists them beside the run."""
    found = {}
    for claim in claims["claims"]:
        found[f"{claim['name']}/value"] = claim["value"]
        found[f"{claim['name']}/verdict"] = claim["verdict"]
    return found


EXAMPLES = """
python -m longrun.publish --experiment pde_refiner --preset cpu \\
    --output results/cpu/pde_refiner/artefact.json
WANDB_MODE=offline python -m longrun.publish --experiment cape --preset gpu --output cape.json
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("publish", __doc__, EXAMPLES, "experiment", "preset", "configs", "results")
    made.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder of what wandb still has to send"
    )
    made.add_argument("--output", type=Path, required=True, help="artefact.json to write")
    return made


def main() -> None:
    """Read the command line, collect, log, write the list."""
    arguments = parser().parse_args()
    experiment, preset = arguments.experiment, arguments.preset
    spec = config.compose(arguments.configs, experiment, preset)
    files = outcome(spec, arguments.results / preset / experiment)
    listed = digests(spec, files)
    mode = config.tracking_mode(spec["tracking"], os.environ)
    if mode == "disabled":
        log.info("tracking is disabled: %s is written, nothing is logged", arguments.output)
    else:
        from longrun.runtime import (
            tracking,  # Lightning, which takes seconds to import
        )

        folder = arguments.runs / preset / experiment / "artefacts" / config.fingerprint(listed)
        pack(spec, files, folder)
        tracking.log_artefact(
            mode,
            folder,
            name=f"{experiment}-{preset}",
            group=experiment,
            tags=[preset],
            config=spec | {"preset": preset},
            summary=summary(json.loads(files["claims.json"].read_text("utf-8"))),
        )
    with cli.atomic(arguments.output) as part:
        part.write_text(json.dumps({"mode": mode, "files": listed}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    cli.run(main)
