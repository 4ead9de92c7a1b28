"""What the runs of a composed experiment depend on, where they are kept and what they take."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from longrun.config.layers import NAME
from longrun.config.yaml import ConfigError, canonical, fingerprint, merge, value
from longrun.runtime import registry
from longrun.runtime.registry import shown

# keys of a method entry; the rest are options
RESERVED = ("name", "trainer", "seeds", "starts_from", "train")
# keys of a trainer that say what a job may take: they change no bit of a result
ALLOCATION = ("mem_mb", "runtime")
AT_THE_END = 10**9  # updates between validations: more than there are
MEETING = ("listen", "patience")  # of `online`: neither does how solvers find it


def method_spec(experiment: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Resolve one method of a composed experiment.

    Returns
    -------
    dict
        `name` in the registry; `options`, those of the task that the method takes <- its own;
        `trainer`, the experiment's <- its own; `seeds`; `train`, its own datasets or the
        experiment's; `starts_from` (`method`; `experiment` and `seed` where they aren't the run's
        own), a list of such, or None.
    """
    if method in experiment.get("borrowed", {}):
        return experiment["borrowed"][method]
    entry = experiment["methods"][method]
    takes = registry.arguments("methods", entry["name"])
    shared = {k: v for k, v in experiment["task"].items() if k != "name" and k in takes}
    own = {k: v for k, v in entry.items() if k not in RESERVED}
    return {
        "name": entry["name"],
        "options": merge(shared, own),
        "trainer": merge(experiment["trainer"], entry.get("trainer", {})),
        "seeds": entry.get("seeds", experiment["seeds"]),
        "train": entry.get("train", experiment["train"]),
        "starts_from": entry.get("starts_from"),
    }


def changes(settings: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts: keys of a method's entry, dotted where they are inside another.

    Returns
    -------
    dict
        Value by key, flat. Values are YAML, or Python's `True`, `False` and `None`.

    Raises
    ------
    ConfigError
        Not of this form, or a key given twice.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(NAME.fullmatch(part) for part in key.split(".")):
            raise ConfigError(
                f"{shown(setting)} must be key=value, as in width=32 or trainer.clip=1.0"
            )
        if key in found:
            raise ConfigError(f"{key} is given twice")
        python = {"True": True, "False": False, "None": None}  # as wandb's agent writes them
        found[key] = python[text] if text in python else value(text)
    return found


def of_method(method: str, flat: Mapping[str, Any]) -> dict[str, Any]:
    """Nest flat changes of a method's entry as an experiment has them."""
    entry: dict[str, Any] = {}
    for key, content in flat.items():
        for part in reversed(key.split(".")):
            content = {part: content}
        entry = merge(entry, content)
    return {"methods": {method: entry}} if entry else {}


def run_folder(
    preset: str, experiment: str, method: str, seed: int, flat: Mapping[str, Any] | None = None
) -> Path:
    """Folder of a run below `results/` and `runs/`; one of changed options has its own."""
    point = [fingerprint(flat)] if flat else []
    return Path(preset, experiment, method, *point, f"seed{seed}")


class Run(NamedTuple):
    """A run of an experiment: whose, and where its files are."""

    method: str
    seed: int
    folder: Path


def runs(experiment: Mapping[str, Any], folder: Path) -> list[Run]:
    """Return all runs of an experiment.

    Parameters
    ----------
    folder
        `results/{preset}/{experiment}`. A borrowed run is in that of the experiment that made it.
    """
    found = []
    for method, entry in experiment["methods"].items():
        origin = entry.get("run_of")
        home = (
            folder.parent / origin["experiment"] / origin["method"] if origin else folder / method
        )
        seeds = range(method_spec(experiment, method)["seeds"])
        found += [Run(method, seed, home / f"seed{seed}") for seed in seeds]
    return found


def halves(experiment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the changes with which each method is trained for half its updates, once.

    Left out are methods of one seed, which learn nothing, those whose runs are borrowed, and tasks
    that log no error on valid.
    """
    found = {}
    for method, entry in experiment["methods"].items():
        spec = method_spec(experiment, method)
        learns = "run_of" not in entry and spec["seeds"] > 1 and experiment.get("validation")
        for budget in ("max_steps", "max_epochs"):
            if experiment.get("halve") and learns and (spec["trainer"].get(budget) or 0) > 1:
                half = {budget: spec["trainer"][budget] // 2, "validate_every": AT_THE_END}
                found[method] = {f"trainer.{key}": number for key, number in half.items()}
    return found


def half_curves(experiment: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Return the curves of the runs with half the updates, by method.

    Parameters
    ----------
    folder
        `results/{preset}/{experiment}`.
    """
    return {
        method: folder / method / fingerprint(flat) / "seed0" / "curves.csv"
        for method, flat in halves(experiment).items()
    }


def option(experiment: Mapping[str, Any], method: str, name: str, absent: Any = None) -> Any:
    """Value of an option of a method, its default where the YAML files are silent."""
    resolved = method_spec(experiment, method)
    if name in resolved["options"]:
        return resolved["options"][name]
    argument = registry.arguments("methods", resolved["name"]).get(name)
    return absent if argument is None or argument.default is None else argument.default


def starts(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the runs that a method starts from."""
    start = entry.get("starts_from") or []
    return start if isinstance(start, list) else [start]


def origins(spec: Mapping[str, Any], preset: str, experiment: str, seed: int) -> list[Path]:
    """Folders of the runs that a run starts from.

    Parameters
    ----------
    spec
        Of its method, from `method_spec`.
    preset, experiment, seed
        The run's own.
    """
    return [
        run_folder(
            preset, start.get("experiment", experiment), start["method"], start.get("seed", seed)
        )
        for start in starts(spec)
    ]


def stores(preset: str, names: Iterable[str]) -> list[Path]:
    """Where the workflow has the stores of these datasets."""
    return [Path("data", preset, f"{name}.zarr") for name in names]


def train_spec(
    experiment: Mapping[str, Any],
    method: str,
    composed: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Canonical JSON of all that a run of training depends on, and nothing else.

    Parameters
    ----------
    composed
        The training datasets, composed, by name. With them the text changes when the data do, as
        the name of a run's folder must. A rule leaves them out: the store is its input.
    """
    spec = method_spec(experiment, method)
    del spec["seeds"]
    for key in ALLOCATION:
        spec["trainer"].pop(key, None)
    if online := spec["trainer"].get("online"):
        spec["trainer"]["online"] = {k: v for k, v in online.items() if k not in MEETING}
    if spec["trainer"]["diverged"] == "fail":  # as if there were no choice
        del spec["trainer"]["diverged"]
    if devices(spec["trainer"]) == 1:  # how several would share the work changes nothing then
        del spec["trainer"]["num_nodes"], spec["trainer"]["strategy"]
    spec |= {"task": experiment["task"]["name"], "stride": experiment["evaluate"]["stride"]}
    spec |= view(experiment)
    if composed is not None:
        spec["datasets"] = {name: composed[name] for name in spec["train"]}
    return canonical(spec)


def view(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Fields and parameters of the stores that an experiment sees; nothing where it sees all."""
    return {key: experiment[key] for key in ("fields", "parameters") if key in experiment}


def evaluate_spec(experiment: Mapping[str, Any], method: str) -> str:
    """Canonical JSON of all that an evaluation depends on besides checkpoint and store."""
    return canonical(
        {
            "task": experiment["task"]["name"],
            "name": experiment["methods"][method]["name"],
            "evaluate": experiment["evaluate"],
            "test": experiment["test"],
        }
        | view(experiment)
    )


def run_settings(experiment: Mapping[str, Any], method: str, trained: str | None = None) -> str:
    """Return a fingerprint of what a run is trained and evaluated with.

    Parameters
    ----------
    trained
        The fingerprint of `train_spec` that a checkpoint holds; by default that of the experiment.
    """
    trained = trained or fingerprint(train_spec(experiment, method))
    return fingerprint([trained, evaluate_spec(experiment, method)])


def judge_spec(experiment: Mapping[str, Any]) -> str:
    """Canonical JSON of all that the verdicts depend on besides the scores."""
    seeds = {name: method_spec(experiment, name)["seeds"] for name in experiment["methods"]}
    origin = {name: entry.get("starts_from") for name, entry in experiment["methods"].items()}
    about = {"claims": experiment["claims"], "methods": seeds, "starts_from": origin}
    return canonical(about | {"halves": halves(experiment)})


def figures(experiment: Mapping[str, Any]) -> list[str]:
    """Names of the figures that an experiment has."""
    units = [entry["name"] for entry in experiment["methods"].values()]
    return registry.figures(experiment["task"]["name"], units)


def gpus(trainer: Mapping[str, Any]) -> int:
    """GPUs that a composed trainer asks for: none unless its accelerator is `gpu`."""
    return devices(trainer) if trainer["accelerator"] == "gpu" else 0


def rollout_gpus(experiment: Mapping[str, Any], method: str) -> int:
    """GPUs that an evaluation asks for: those of a node where it uses all, else one."""
    trainer = method_spec(experiment, method)["trainer"]
    return min(trainer["devices"] if experiment["all_devices"] else 1, gpus(trainer))


def devices(trainer: Mapping[str, Any]) -> int:
    """Devices of a composed trainer, over all nodes."""
    return int(trainer["devices"] * trainer["num_nodes"])
