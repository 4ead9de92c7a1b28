"""Write a sweep over keys of one method, for wandb's agents and for Snakemake.

The file has wandb's format: `wandb sweep FILE` and `wandb agent ID` train its points and record
them. In configs/sweeps/ it is also a target: `snakemake sweep.NAME` trains every point of the grid,
without wandb, and sorts them by the metric. Points are compared on the split `valid`; test data is
not read.
"""

import argparse
import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longrun import config
from longrun.config.layers import NAME
from longrun.runtime import cli
from longrun.runtime.cli import UserError
from longrun.runtime.registry import allowed

log = logging.getLogger(__name__)

SEARCHES = ("grid", "random", "bayes")
# distributions, as a dataset and as wandb names them
DISTRIBUTIONS = {"uniform": "uniform", "log_uniform": "log_uniform_values"}
PREFIX = "valid/"  # of what training logs on validation data


@dataclass(frozen=True)
class Sweep:
    """What a sweep's file says.

    Attributes
    ----------
    experiment, method, seed
        The run whose options are varied.
    metric
        As the curves name it; smaller is better.
    parameters
        Values by key of the method's entry, or None for a key that is drawn from an interval.
    """

    experiment: str
    method: str
    seed: int
    metric: str
    parameters: dict[str, list[Any] | None]

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield every point of the grid, flat.

        Raises
        ------
        UserError
            A key is drawn from an interval.
        """
        values = []
        for key, listed in self.parameters.items():
            if listed is None:
                raise UserError(f"{key} is drawn from an interval, which has no grid; list values")
            values.append(listed)
        for point in itertools.product(*values):
            yield dict(zip(self.parameters, point, strict=True))


def parameter(text: str) -> tuple[str, dict[str, Any]]:
    """Read `key=a,b,c` or `key={log_uniform: [low, high]}` as one of wandb's parameters.

    Raises
    ------
    UserError
        Neither form, or an empty interval.
    """
    key, equals, values = text.partition("=")
    if not equals or not all(NAME.fullmatch(part) for part in key.split(".")):
        raise UserError(f"--key {text!r}: must be key=value,value,... as in width=16,32")
    listed = config.value(f"[{values}]")
    if not listed or len({config.canonical(v) for v in listed}) < len(listed):
        raise UserError(f"--key {text!r}: give one value or more, each once")
    if len(listed) > 1 or not isinstance(listed[0], dict):
        return key, {"values": listed}
    kind, interval = next(iter(listed[0].items()))
    if kind not in DISTRIBUTIONS or not (
        isinstance(interval, list)
        and len(interval) == 2
        and all(type(end) in (int, float) for end in interval)
        and interval[0] < interval[1]
    ):
        raise UserError(f"--key {text!r}: must be {{uniform: [low, high]}} or log_uniform")
    low, high = map(float, interval)
    return key, {"distribution": DISTRIBUTIONS[kind], "min": low, "max": high}


def write(
    path: Path,
    run: Mapping[str, str],
    parameters: Mapping[str, Mapping[str, Any]],
    search: str,
    metric: str,
) -> None:
    """Write a sweep's file.

    Parameters
    ----------
    run
        Experiment, method, seed and preset, as options of `longrun.train`.
    parameters
        wandb's, by key.
    search
        One of `SEARCHES`.
    metric
        As the curves name it.
    """
    options = [word for name, value in run.items() for word in (f"--{name}", value)]
    content = {
        "name": path.stem,
        "method": search,
        "metric": {"name": metric, "goal": "minimize"},
        "parameters": dict(parameters),
        # presets may switch tracking off, but agents need it
        "command": [
            *("${env}", "WANDB_MODE=online", "python", "-m", "longrun.train"),
            *(*options, "--set", "${args_no_hyphens}"),
        ],
    }
    with cli.atomic(path) as part:
        part.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")


def read(path: Path) -> Sweep:
    """Read a sweep's file, as `write` makes it or as a user changed it.

    Raises
    ------
    UserError
        Something is missing or malformed.
    """
    content = config.load(path)
    command = content.get("command")
    words = [str(word) for word in command] if isinstance(command, list) else []
    options = dict(itertools.pairwise(words))
    for option in ("--experiment", "--method", "--seed"):
        if option not in options:
            raise UserError(f"{path}: command: {option} is missing; longrun.sweep writes it")
    metric = content.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError(f"{path}: metric: must have a name")
    parameters: dict[str, list[Any] | None] = {}
    given = content.get("parameters")
    for key, entry in given.items() if isinstance(given, dict) else ():
        entry = entry if isinstance(entry, dict) else {}
        listed = entry.get("values", [entry["value"]] if "value" in entry else None)
        if not isinstance(listed, list | None) or (listed is None and "min" not in entry):
            raise UserError(f"{path}: parameters.{key}: must have values, or min and max")
        parameters[key] = listed
    if not parameters:
        raise UserError(f"{path}: parameters: must have a key")
    return Sweep(
        options["--experiment"],
        options["--method"],
        int(options["--seed"]) if options["--seed"].isdigit() else 0,
        metric["name"],
        parameters,
    )


def check(
    configs: Path,
    preset: str,
    run: Mapping[str, str],
    parameters: Mapping[str, Mapping[str, Any]],
    metric: str | None,
) -> str:
    """Refuse keys and values that the method can't have, and metrics that it doesn't log.

    Returns
    -------
    str
        The metric, the task's first unless one is given.

    Raises
    ------
    UserError
        One line that names the key.
    """
    which = configs, run["experiment"], preset, run["method"]
    known = [PREFIX + name for name in config.compose_run(*which)["validation"]]
    for key, entry in parameters.items():
        for value in entry.get("values", [entry.get("min"), entry.get("max")]):
            config.compose_run(*which, {key: value})
    if not known:
        raise UserError(f"{run['experiment']}: its task logs nothing on validation data")
    if metric is not None and metric not in known:
        raise UserError(f"--metric {metric!r} is not logged; {allowed(known, metric)}")
    return metric or known[0]


EXAMPLES = """
python -m longrun.sweep --experiment pde_refiner --method unet --preset cpu \\
    --key width=16,32 --key learning_rate=1e-3,3e-3
python -m longrun.sweep --experiment cape --method cape --preset gpu --search bayes \\
    --key 'learning_rate={log_uniform: [1e-4, 1e-2]}' --key trainer.batch_size=16,32,64
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("sweep", __doc__, EXAMPLES, "experiment", "method", "preset", "configs")
    made.add_argument("--seed", type=int, default=0, help="number of the run; default: 0")
    made.add_argument(
        "--key",
        action="append",
        required=True,
        metavar="KEY=VALUES",
        help="option of the method, or of its trainer, and its values; repeatable",
    )
    made.add_argument("--search", choices=SEARCHES, default="grid", help="default: grid")
    made.add_argument("--metric", help="default: what the task logs on validation data first")
    made.add_argument(
        "--output", type=Path, help="YAML to write; default: sweeps/EXPERIMENT_METHOD.yaml"
    )
    return made


def main() -> None:
    """Read the command line, check every value, write the file, say how to run it."""
    arguments = parser().parse_args()
    run = {"experiment": arguments.experiment, "method": arguments.method}
    run |= {"seed": str(arguments.seed), "preset": arguments.preset}
    parameters = unique(arguments.key)
    metric = check(arguments.configs, arguments.preset, run, parameters, arguments.metric)
    drawn = [key for key, entry in parameters.items() if "values" not in entry]
    if drawn and arguments.search == "grid":
        raise UserError(f"--key {drawn[0]}: a grid needs values; or --search random, or bayes")
    name = f"{arguments.experiment}_{arguments.method}.yaml"
    output = arguments.output or arguments.configs / "sweeps" / name
    if not NAME.fullmatch(output.stem):
        raise UserError(f"--output {output}: a name has only lower-case letters, digits and _")
    write(output, run, parameters, arguments.search, metric)
    log.info("%s: written; train its points with wandb's agents:", output)
    log.info("  wandb sweep --project longrun %s", output)
    if not drawn and output.parent.resolve() == (arguments.configs / "sweeps").resolve():
        count = sum(1 for _ in read(output).points())
        log.info("or all %d here, by Snakemake:", count)
        log.info("  snakemake --cores 2 --config preset=%s -- sweep.%s", run["preset"], output.stem)


def unique(keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read the parameters; a key that is given twice is an error."""
    pairs = [parameter(text) for text in keys]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UserError("--key: a key is given twice")
    return found


if __name__ == "__main__":
    cli.run(main)
