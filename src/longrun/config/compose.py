"""Composition of settings and experiments. Imports no torch: the Snakefile imports this."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from longrun.config import layers, models
from longrun.config.checks import Look, check_experiment, compose_dataset
from longrun.config.layers import Layer, Source, datasets, experiments, presets
from longrun.config.runs import method_spec, of_method, view
from longrun.config.section import defaults
from longrun.config.tasks import _common
from longrun.config.tasks._metric import Metric, metric
from longrun.config.yaml import ConfigError, load
from longrun.runtime import registry
from longrun.runtime.registry import allowed, shown


def settings(configs: Path) -> dict[str, Any]:
    """Read and check `config.yaml`: preset, experiments (a list, `all` too), tracking."""
    content = load(Path(configs) / "config.yaml")
    check_settings(content, configs)
    return content | {"experiments": chosen(content, configs)}


def chosen(content: Mapping[str, Any], configs: Path) -> list[str]:
    """Names of the experiments that settings ask for."""
    asked = content["experiments"]
    return experiments(configs) if asked == "all" else list(asked)


def check_settings(content: Mapping[str, Any], configs: Path) -> None:
    """Refuse settings (of `config.yaml`, or as changed on a command line) that can't be used."""
    source = Source([Layer(Path(configs) / "config.yaml", (), dict(content))])
    source.check(content, models.Settings)
    source.known(("preset",), content["preset"], presets(configs), "unknown preset")
    known = experiments(configs)  # read once: there may be hundreds
    asked = [] if content["experiments"] == "all" else content["experiments"]
    for i, experiment in enumerate(asked):
        source.known(("experiments", i), experiment, known, "unknown experiment")


def tracking_mode(tracking: str, environment: Mapping[str, str]) -> str:
    """Return the mode of tracking: WANDB_MODE of the environment, else what the files say.

    Raises
    ------
    ConfigError
        The environment names no mode.
    """
    mode, modes = environment.get("WANDB_MODE", tracking), get_args(models.Tracking)
    if mode not in modes:
        raise ConfigError(f"WANDB_MODE, of the environment: {shown(mode)}; {allowed(modes, mode)}")
    return mode


def compose(
    configs: Path,
    experiment: str,
    preset: str,
    changes: Mapping[str, Any] | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Compose and check one experiment at one preset.

    Parameters
    ----------
    configs
        Folder of the YAML files.
    changes
        What a command line or a sweep changes, merged last.
    look
        Looks into the files that datasets are read from, to check sizes.

    Returns
    -------
    dict
        `experiments/x.yaml <- presets/p.yaml <- experiments/x.yaml:presets.p <- changes`, with
        defaults of trainer and evaluate filled in, `dataset` written as `train` and `test`,
        `tracking`, `metrics` (those of the task and of its methods: heading, meaning, table),
        `all_devices` (whether an evaluation of the task uses all devices of a node), `validation`
        (names of what its methods log on `valid`, smaller is better), `columns` (of the scores,
        that a claim may choose from), `borrowed` (see `method_spec`, of the methods whose runs are
        made by another experiment), and what was set to null among methods (with the claims that
        need it) and claims dropped.

    Raises
    ------
    ConfigError
        One line: file, key, what is allowed, nearest spelling.
    """
    configs = Path(configs)
    source, spec = _completed(configs, experiment, preset, changes)
    spec["borrowed"] = {
        method: _borrow(source, spec, method, configs, preset)
        for method, entry in spec["methods"].items()
        if "run_of" in entry
    }
    for method, borrowed in spec["borrowed"].items():
        spec["methods"][method] |= {"name": borrowed["name"]}
    for method, entry in spec["methods"].items():
        if "name" not in entry:
            source.fail(("methods", method, "name"), "is missing")
        spec["metrics"] = _with_own_metrics(source, spec, method)
    check_experiment(source, spec, configs, preset, look)
    return spec


def _completed(
    configs: Path, experiment: str, preset: str, changes: Mapping[str, Any] | None = None
) -> tuple[Source, dict[str, Any]]:
    """Merge an experiment and fill in what its task says, without a look at its methods."""
    source, spec = layers.experiment(configs, experiment, preset, changes)
    name = spec["task"]["name"]
    source.known(("task", "name"), name, registry.names("tasks"), "unknown task")
    task = importlib.import_module(f"longrun.config.tasks.{name}")
    source.check(spec["evaluate"], task.Evaluate, ("evaluate",))
    spec["evaluate"] = defaults(task.Evaluate) | spec["evaluate"]
    spec["all_devices"], spec["validation"] = task.ALL_DEVICES, list(task.VALIDATION)
    spec["columns"] = list(task.COLUMNS)
    spec["metrics"] = task.METRICS | _common.METRICS
    has_settings = (configs / "config.yaml").exists()
    spec.setdefault("tracking", settings(configs)["tracking"] if has_settings else "disabled")
    _name_datasets(source, spec)
    return source, spec


def _borrow(
    source: Source, spec: Mapping[str, Any], method: str, configs: Path, preset: str
) -> dict[str, Any]:
    """Return what another experiment says of a method whose runs are borrowed.

    Scores are comparable only where both experiments evaluate alike on the same test data.
    """
    entry, key = spec["methods"][method], ("methods", method, "run_of")
    for name in entry:
        if name != "run_of":
            why = "has no effect beside run_of: the run is made elsewhere"
            source.fail(("methods", method, name), why)
    origin = entry["run_of"]
    others = [name for name in experiments(configs) if name != source.layers[0].file.stem]
    source.known((*key, "experiment"), origin["experiment"], others, "unknown experiment")
    _, other = _completed(configs, origin["experiment"], preset)
    source.known((*key, "method"), origin["method"], other["methods"], "unknown method")
    if "run_of" in other["methods"][origin["method"]]:
        source.fail(key, "is borrowed there too; name the experiment that makes it")
    ours, theirs = ({**_scored(one), **one["evaluate"]} for one in (spec, other))
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            values = f"{shown(theirs.get(name))} there, {shown(ours.get(name))} here"
            source.fail(key, f"is scored otherwise: {name} is {values}")
    return method_spec(other, origin["method"])


def _scored(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what besides the options of an evaluation decides what a score means."""
    return {"task": spec["task"]["name"], "test": spec["test"], **view(spec)}


def _with_own_metrics(source: Source, spec: Mapping[str, Any], method: str) -> dict[str, Metric]:
    """Return the metrics with those that a method brings along."""
    name = spec["methods"][method]["name"]
    if name not in registry.names("methods"):
        return spec["metrics"]  # refused later, with the nearest spelling
    own = {key: metric(*about, table="short") for key, about in registry.metrics(name).items()}
    for key, about in own.items():
        if spec["metrics"].get(key, about) != about:
            source.fail(("methods", method, "name"), f"{name} has a metric {key}, which is taken")
    return spec["metrics"] | own


def compose_run(
    configs: Path,
    experiment: str,
    preset: str,
    method: str,
    flat: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compose an experiment for a run of one of its methods.

    Parameters
    ----------
    flat
        Changes of the method's entry, see `changes`.

    Raises
    ------
    ConfigError
        As `compose`, and for a method that the experiment lacks at this preset.
    """
    spec = compose(configs, experiment, preset)
    if method not in spec["methods"]:
        choices = allowed(spec["methods"], method)
        raise ConfigError(f"{experiment}: no method {shown(method)} at preset {preset}; {choices}")
    return compose(configs, experiment, preset, of_method(method, flat)) if flat else spec


def validate_all(
    configs: Path, experiment_names: Iterable[str] | None = None, preset: str | None = None
) -> None:
    """Compose experiments (default: all), and all datasets, at one preset (default: all).

    Raises
    ------
    ConfigError
        For the first file that can't be used.
    """
    chosen = experiments(configs) if experiment_names is None else list(experiment_names)
    for name in presets(configs) if preset is None else [preset]:
        for dataset in datasets(configs):
            compose_dataset(configs, dataset, name)
        for experiment in chosen:
            compose(configs, experiment, name)


def _name_datasets(source: Source, spec: dict[str, Any]) -> None:
    both = spec.pop("dataset", None)
    given = [key for key in ("train", "test") if key in spec]
    if both is not None and given:
        source.fail((given[0],), "dataset is short for train and test: give it or them")
    if both is None and len(given) < 2:
        source.fail(("dataset",), "is missing; give dataset, or train and test")
    if both is not None:
        spec |= {"train": [both], "test": [both]}
