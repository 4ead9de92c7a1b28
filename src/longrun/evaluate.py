"""Score one trained method on the test data of its experiment.

Outputs in `--output`
---------------------
`scores.parquet`: one row per score.
`predictions.zarr`: truth and forecast of a few trajectories, of the first store.
`evaluation.json`: provenance and wall time.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from longrun.runtime import cli, early

    cli.run(early.check)

import argparse
import contextlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from longrun import config
from longrun.data.store import Store, View, open_store, write_predictions
from longrun.metrics.table import ScoreTable, write_scores
from longrun.runtime import checkpoint, cli, devices, registry
from longrun.runtime.cli import UserError, atomic, locked, provenance, run
from longrun.tasks._evaluation import is_first

log = logging.getLogger(__name__)


def check_checkpoint(
    path: Path, content: Mapping[str, Any], spec: Mapping[str, Any], stride: int
) -> None:
    """Refuse a checkpoint that was trained for something else.

    Parameters
    ----------
    path
        Where it was read, for the message.
    content
        As read by `longrun.runtime.checkpoint.read`.
    spec
        What the experiment says of the method, from `longrun.config.method_spec`.
    stride
        Frames per model step.

    Raises
    ------
    UserError
        Another method, option or stride.
    """
    if content["method"] != spec["name"]:
        raise UserError(f"{path}: holds a {content['method']}, not a {spec['name']}")
    wanted, found = spec["options"] | {"stride": stride}, dict(content["arguments"])
    found["stride"] = content["description"]["stride"]
    for name, value in wanted.items():
        if name not in found or config.canonical(found[name]) != config.canonical(value):
            raise UserError(
                f"{path}: was trained with {name} {found.get(name, 'at its default')}, the "
                f"experiment says {value}; train it anew"
            )


def check_store(store: Store, description: Mapping[str, Any]) -> None:
    """Refuse a store of other fields, parameters or dimensions than a method was trained on.

    Raises
    ------
    UserError
        One line that names what differs.
    """
    found = {
        "fields": list(store.fields),
        "parameters": list(store.parameters),
        "dimensions": len(store.split("test").space),
    }
    wanted = {
        "fields": description["field_names"],
        "parameters": description["parameter_names"],
        "dimensions": description["dims"],
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise UserError(
                f"{store.path}: has {name} {value}, the method was trained on {wanted[name]}"
            )


def evaluate(
    module: Any, stores: Sequence[Store], options: Mapping[str, Any], seed: int
) -> tuple[pd.DataFrame, xr.Dataset]:
    """Score a method on every store.

    Parameters
    ----------
    module
        A trained method, on the device to run on.
    stores
        The test data.
    options
        The composed `evaluate` section.
    seed
        Of the noise of a stochastic method.

    Returns
    -------
    scores
        One row per score, of all stores.
    predictions
        Truth and forecast of a few trajectories of the first store.
    """
    results = [module.evaluate(store, options, seed) for store in stores]
    scores = [result.scores for result in results]
    if is_first():
        scores += _own_scores(module, stores, options)
    return pd.concat(scores, ignore_index=True), results[0].predictions


def _own_scores(
    module: Any, stores: Sequence[Store], options: Mapping[str, Any]
) -> list[pd.DataFrame]:
    """Return the scores that only this method has, by store; most methods have none."""
    name = type(module).__module__.rpartition(".")[2]
    if name not in registry.names("methods") or not (declared := registry.metrics(name)):
        return []
    tables = [module.own_scores(store, options).frame() for store in stores]
    for table in tables:
        given = set(table["metric"])
        if given != set(declared):
            names = f"{', '.join(sorted(given))}, METRICS names {', '.join(sorted(declared))}"
            raise RuntimeError(f"{name}: own_scores gives {names}")
    return tables


EXAMPLES = """
python -m longrun.evaluate --experiment pde_refiner --method unet --seed 0 --preset cpu
python -m longrun.evaluate --experiment cape --method cape --seed 1 --preset gpu \\
    --checkpoint elsewhere/model.ckpt --output elsewhere
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser(
        "evaluate", __doc__, EXAMPLES, "experiment", "method", "seed", "preset", "configs"
    )
    made.add_argument(
        "--data", type=Path, nargs="+", help="stores; default: those of the experiment in data/"
    )
    made.add_argument("--checkpoint", type=Path, help="default: where train writes it")
    made.add_argument("--output", type=Path, help="folder; default: that of the checkpoint")
    return made


def _settings(experiment: Mapping[str, Any], method: str, content: Mapping[str, Any]) -> str | None:
    """Return a fingerprint of what the run was trained and evaluated with; None: not known."""
    if "settings" not in content:  # a checkpoint from before they were kept
        return None
    return config.run_settings(experiment, method, content["settings"])


def main() -> None:
    """Read the command line, check everything, score, write."""
    arguments = parser().parse_args()
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger().setLevel(logging.WARNING)  # the first process speaks for all

    preset, method = arguments.preset, arguments.method
    experiment = config.compose_run(arguments.configs, arguments.experiment, preset, method)
    spec = config.method_spec(experiment, arguments.method)
    options = experiment["evaluate"]
    folder = config.run_folder(preset, arguments.experiment, method, arguments.seed)
    arguments.data = arguments.data or config.stores(preset, experiment["test"])
    arguments.checkpoint = arguments.checkpoint or Path("results") / folder / "model.ckpt"
    arguments.output = arguments.output or arguments.checkpoint.parent
    content = checkpoint.read(arguments.checkpoint)
    check_checkpoint(arguments.checkpoint, content, spec, options["stride"])
    # scores of training states are of those that the method was trained on
    seen = View(**config.view(experiment), trajectories=spec["trainer"]["trajectories"])
    same = spec["train"] == experiment["test"]  # else a method may be scored on another equation
    equation = content["description"]["equation_name"] if same else None
    stores = [open_store(path, equation).view(seen) for path in arguments.data]
    for store in stores:
        check_store(store, content["description"])
    trainer, number = spec["trainer"], spec["trainer"]["devices"]
    device = devices.device_of(trainer["accelerator"])
    shared = number > 1 and experiment["all_devices"]

    name = f"{arguments.experiment}/{arguments.method}/seed{arguments.seed}"
    where = f"{device}, {number} processes" if shared else device
    log.info("evaluate %s at %s, on %s", name, arguments.preset, where)
    if number > 1 and not shared:
        log.info("evaluations of this task use one device")
    # the processes of the other devices are part of this evaluation
    alone = locked(arguments.output) if rank_zero_only.rank == 0 else contextlib.nullcontext()  # type: ignore[attr-defined]
    with alone:
        if shared:
            for library in ("pytorch_lightning", "lightning_fabric"):  # no devices, no tips
                logging.getLogger(library).setLevel(logging.WARNING)
            device = devices.share(trainer)
        module = checkpoint.load(arguments.checkpoint, device)
        started = time.monotonic()
        with devices.in_one_line():
            scores, predictions = evaluate(module, stores, options, arguments.seed)
        if not is_first():
            return
        training = ScoreTable(stores[0].path.stem)
        training.add("train_seconds", content["train_seconds"])
        if diverged := content.get("diverged", False):
            training.add("diverged", 1.0)
            log.warning("%s diverged in training: its last weights are scored", name)
        scores = pd.concat([scores, training.frame()], ignore_index=True)
        seconds = time.monotonic() - started
        log.info("%d scores in %.1f s", len(scores), seconds)

        notes = {
            "experiment": arguments.experiment,
            "method": arguments.method,
            "seed": arguments.seed,
            "preset": arguments.preset,
            "wall_seconds": seconds,
            "provenance": provenance(),
            "trained": content["provenance"],
            "diverged": diverged,
            "settings": _settings(experiment, method, content),
        }
        write_predictions(arguments.output / "predictions.zarr", predictions)
        with atomic(arguments.output / "evaluation.json") as part:
            part.write_text(json.dumps(notes, indent=1) + "\n", "utf-8")
        write_scores(arguments.output / "scores.parquet", scores)


if __name__ == "__main__":
    run(main)
