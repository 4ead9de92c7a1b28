"""Composition and validation of the YAML files. Imports no torch: the Snakefile imports this."""

import copy
import functools
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import yaml

from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.runtime.registry import Argument, allowed, shown

NAME = re.compile(r"[a-z][a-z0-9_]*")
ADDRESS = re.compile(r"tcp://(?P<host>[\w.*-]+|\[[\w:.]+\]):(?P<port>\d+|\*)")
# keys of a method entry; the rest are options
RESERVED = ("name", "trainer", "seeds", "starts_from", "train")
CHANGES = Path("changes")  # where an error is that is in no file
# keys of a trainer that say what a job may take: they change no bit of a result
ALLOCATION = ("mem_mb", "runtime")
MEETING = ("listen", "patience")  # of `online`: neither does how solvers find it

# what no configuration needs, and an accident or an attack would have; an alias counts as what it
# stands for
BYTES, VALUES, DEPTH = 2**20, 20_000, 30
LARGEST = 2**53  # a larger integer is no number of JSON for every reader

Key = tuple[str | int, ...]


class ConfigError(UserError):
    """A YAML file that can't be used: file, key, what is allowed, nearest spelling."""

    def __str__(self) -> str:
        """Return one line; what YAML says has several."""
        return " ".join(super().__str__().split())


class _Loader(yaml.CSafeLoader):
    """YAML with the scalars of JSON: `1e-4` is a number, `no` a word, `010` ten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            where = f"line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.YAMLError(f"{where}: a key must be text")
            if key.value in seen:
                raise yaml.YAMLError(f"{where}: key {key.value!r} is given twice")
            seen.add(key.value)
        return super().construct_mapping(node, deep=True)


_Loader.yaml_implicit_resolvers = {}  # without YAML 1.1's: they read 1e-4 as text, no as false
for _tag, _pattern, _first in (
    ("null", r"~|null|", "~n"),
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.?|\.[0-9])[0-9]*(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"^(?:{_pattern})$"),
        [*_first] + ([""] if _tag == "null" else []),
    )


def _number(loader: yaml.CSafeLoader, node: yaml.ScalarNode) -> int | float:
    kind = int if node.tag.endswith(":int") else float
    text = node.value.replace("_", "")
    value = kind(text) if len(text) <= registry.SHOWN else math.inf
    if not abs(value) <= (LARGEST if kind is int else sys.float_info.max):
        line = f"line {node.start_mark.line + 1}"
        raise yaml.YAMLError(f"{line}: {text[: registry.SHOWN]} is too large a number")
    return value


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def _check_size(text: str) -> None:
    """Refuse what would grow without end, or run something, before anything is made of it.

    Raises
    ------
    yaml.YAMLError
        A tag, a value that contains itself, too many values, or too many inside each other.
    """
    if len(text) > BYTES:
        raise yaml.YAMLError(f"has {len(text)} letters, allowed: {BYTES}")
    sizes: dict[str, int] = {}  # values that an anchor stands for
    inside: list[tuple[str | None, int]] = [(None, 0)]  # anchor and values so far, outermost first
    for event in yaml.parse(text, yaml.CSafeLoader):
        where = f"line {event.start_mark.line + 1}"
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.YAMLError(f"{where}: tags such as {event.tag} are not allowed")
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, 1))
            if len(inside) > DEPTH:
                raise yaml.YAMLError(f"{where}: more than {DEPTH} values inside each other")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == around for around, _ in inside):
                raise yaml.YAMLError(f"{where}: *{anchor} contains itself")
            size = sizes.get(anchor or "", 1)
        elif not isinstance(event, yaml.ScalarEvent):
            continue
        if anchor is not None:
            sizes[anchor] = size
        around, so_far = inside[-1]
        inside[-1] = (around, so_far + size)
        if so_far + size > VALUES:
            raise yaml.YAMLError(f"{where}: more than {VALUES} values, aliases spelled out")


def load(path: Path) -> dict[str, Any]:
    """Read one YAML file.

    Raises
    ------
    ConfigError
        No file, not UTF-8, no YAML, not a mapping, or a key given twice.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8") from error
    return copy.deepcopy(_parse(path, text))


@functools.cache
def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        _check_size(text)
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}{error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return content


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge dicts key by key; anything else of `over`, lists and null too, replaces."""
    merged = copy.deepcopy(dict(base))
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def canonical(obj: object) -> str:
    """JSON with sorted keys: equal content, equal text."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(obj: object) -> str:
    """Twelve hexadecimal digits of a hash of `canonical(obj)`."""
    return hashlib.sha256(canonical(obj).encode()).hexdigest()[:12]


def experiments(configs: Path) -> list[str]:
    """Names of the experiments, sorted."""
    return _listing(configs, "experiments")


def datasets(configs: Path) -> list[str]:
    """Names of the datasets, sorted."""
    return _listing(configs, "datasets")


def presets(configs: Path) -> list[str]:
    """Names of the presets, sorted."""
    return _listing(configs, "presets")


def sweeps(configs: Path) -> list[str]:
    """Names of the sweeps, sorted."""
    return _listing(configs, "sweeps")


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
    source = _Source([_Layer(Path(configs) / "config.yaml", (), dict(content))])
    _check_schema(source, dict(content), _schema(configs, "config"))
    source.known(("preset",), content["preset"], presets(configs), "unknown preset")
    if content["experiments"] != "all":
        known = experiments(configs)
        for i, experiment in enumerate(content["experiments"]):
            source.known(("experiments", i), experiment, known, "unknown experiment")


def compose(
    configs: Path, experiment: str, preset: str, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Compose and check one experiment at one preset.

    Parameters
    ----------
    configs
        Folder of the YAML files; the schemas are in `workflow/schemas` beside it or, failing
        that, of the working directory.
    changes
        What a command line or a sweep changes, merged last.

    Returns
    -------
    dict
        `experiments/x.yaml <- presets/p.yaml <- experiments/x.yaml:presets.p <- changes`, with
        defaults of trainer and evaluate filled in, `dataset` written as `train` and `test`,
        `tracking`, `metrics` (those of the task: heading, meaning, table), `spreads` (whether an
        evaluation of the task uses all devices of a node), `validation` (names of what its methods
        log on `valid`, smaller is better), and what was set to null among methods (with the claims
        that need it) and claims dropped.

    Raises
    ------
    ConfigError
        One line: file, key, what is allowed, nearest spelling.
    """
    configs = Path(configs)
    source, spec = _merged(configs, experiment, preset, changes)
    schema = _schema(configs, "experiment")
    spec["trainer"] = _defaults(schema["$defs"]["trainer"]) | spec["trainer"]
    source.known(("task", "name"), spec["task"]["name"], registry.names("tasks"), "unknown task")
    task = _schema(configs, f"tasks/{spec['task']['name']}")
    _check_schema(source, spec["evaluate"], task["evaluate"], ("evaluate",))
    spec["evaluate"] = _defaults(task["evaluate"]) | spec["evaluate"]
    spec["spreads"] = task.get("spreads", False)
    spec["validation"] = task["validation"]
    spec["metrics"] = task["metrics"] | _schema(configs, "tasks/common")["metrics"]
    has_settings = (configs / "config.yaml").exists()
    spec.setdefault("tracking", settings(configs)["tracking"] if has_settings else "disabled")
    _name_datasets(source, spec)
    _check_experiment(source, spec, configs, preset)
    return spec


def _merged(
    configs: Path, experiment: str, preset: str, changes: Mapping[str, Any] | None = None
) -> tuple["_Source", dict[str, Any]]:
    """Merge the layers of an experiment, of the right types but for what its task defines."""
    file = _file(configs, "experiments", experiment)
    cap_file = _file(configs, "presets", preset)
    base, caps = load(file), load(cap_file)
    _check_schema(_Source([_Layer(cap_file, (), caps)]), caps, _schema(configs, "preset"))
    sections = _sections(configs, file, base)
    source = _Source(
        [
            _Layer(file, (), base),
            _Layer(cap_file, (), caps),
            _Layer(file, ("presets", preset), sections.get(preset) or {}),
            *([_Layer(CHANGES, (), dict(changes))] if changes else []),
        ]
    )
    spec = source.merged()
    _drop(source, spec)
    _check_schema(source, spec, _schema(configs, "experiment"))
    return source, spec


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
        As `compose`, and for a method that the experiment has not at this preset.
    """
    spec = compose(configs, experiment, preset)
    if method not in spec["methods"]:
        choices = allowed(spec["methods"], method)
        raise ConfigError(f"{experiment}: no method {shown(method)} at preset {preset}; {choices}")
    return compose(configs, experiment, preset, of_method(method, flat)) if flat else spec


def compose_dataset(configs: Path, dataset: str, preset: str) -> dict[str, Any]:
    """Compose and check one dataset at one preset: `datasets/d.yaml <- datasets/d.yaml:presets.p`.

    Raises
    ------
    ConfigError
        One line: file, key, what is allowed, nearest spelling.
    """
    configs = Path(configs)
    file = _file(configs, "datasets", dataset)
    _file(configs, "presets", preset)
    base = load(file)
    sections = _sections(configs, file, base)
    source = _Source(
        [
            _Layer(file, (), base),
            _Layer(file, ("presets", preset), sections.get(preset) or {}),
        ]
    )
    spec = source.merged()
    schema = _schema(configs, "dataset")
    _check_schema(source, spec, schema)
    for section in ("store", "measure"):
        spec[section] = _defaults(schema["$defs"][section]) | spec.get(section, {})
    spec.setdefault("jobs", 1)
    _check_equation(source, spec["equation"])
    return spec


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


def method_spec(experiment: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Resolve one method of a composed experiment.

    Returns
    -------
    dict
        `name` in the registry; `options`, those of the task that the method takes <- its own;
        `trainer`, the experiment's <- its own; `seeds`; `train`, its own datasets or the
        experiment's; `starts_from` (`method`; `experiment` and `seed` where they aren't the run's
        own) or None.
    """
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


def value(text: str) -> Any:
    """Read one value as the YAML files would hold it."""
    try:
        _check_size(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(text)} can't be read: {error}") from error


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
        The training datasets, composed, by name. With them the text changes with the data, as the
        name of a run's folder must; a rule needs them not, the store is its input.
    """
    spec = method_spec(experiment, method)
    del spec["seeds"]
    for key in ALLOCATION:
        spec["trainer"].pop(key, None)
    if online := spec["trainer"].get("online"):
        spec["trainer"]["online"] = {k: v for k, v in online.items() if k not in MEETING}
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


def judge_spec(experiment: Mapping[str, Any]) -> str:
    """Canonical JSON of all that the verdicts depend on besides the scores."""
    seeds = {name: method_spec(experiment, name)["seeds"] for name in experiment["methods"]}
    return canonical({"claims": experiment["claims"], "methods": seeds})


def figures(experiment: Mapping[str, Any]) -> list[str]:
    """Names of the figures that an experiment has."""
    units = [entry["name"] for entry in experiment["methods"].values()]
    return registry.figures(experiment["task"]["name"], units)


def gpus(trainer: Mapping[str, Any]) -> int:
    """GPUs that a composed trainer asks for: none unless its accelerator is `gpu`."""
    return devices(trainer) if trainer["accelerator"] == "gpu" else 0


def rollout_gpus(experiment: Mapping[str, Any], method: str) -> int:
    """GPUs that an evaluation asks for: those of a node where it spreads over them, else one."""
    trainer = method_spec(experiment, method)["trainer"]
    return min(trainer["devices"] if experiment["spreads"] else 1, gpus(trainer))


def devices(trainer: Mapping[str, Any]) -> int:
    """Devices of a composed trainer, over all nodes."""
    return int(trainer["devices"] * trainer["num_nodes"])


@dataclass(frozen=True)
class _Layer:
    """Part of a composition: the file it is in, and the keys that lead to it there."""

    file: Path
    prefix: Key
    content: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """Layers of a composition, lowest first, to say which file and key an error is in."""

    layers: list[_Layer]

    def merged(self) -> dict[str, Any]:
        spec: dict[str, Any] = {}
        for layer in self.layers:
            spec = merge(spec, layer.content)
        spec.pop("presets", None)
        return spec

    def fail(self, key: Key, problem: str) -> NoReturn:
        """Blame the highest layer that has the key, or as much of it as any has."""
        for length in range(len(key), 0, -1):
            for layer in reversed(self.layers):
                if _has(layer.content, key[:length]):
                    dotted = ".".join(map(str, layer.prefix + key))
                    raise ConfigError(f"{layer.file}: {dotted}: {problem}")
        raise ConfigError(f"{self.layers[0].file}: {'.'.join(map(str, key))}: {problem}")

    def known(self, key: Key, name: object, names: Iterable[str], what: str) -> None:
        choices = list(names)
        if name not in choices:
            self.fail(key, f"{what} {shown(name)}; {allowed(choices, name)}")


def _has(content: Any, key: Key) -> bool:
    for part in key:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return False
    return True


def _listing(configs: Path, folder: str) -> list[str]:
    return sorted(file.stem for file in (Path(configs) / folder).glob("*.yaml"))


def _file(configs: Path, folder: str, name: str) -> Path:
    """File of a name; only names that are listed, so none leads out of the folder."""
    if not NAME.fullmatch(str(name)) or name not in _listing(configs, folder):
        raise ConfigError(
            f"{configs / folder}: {str(name)[: registry.SHOWN]}: no such {folder[:-1]}; "
            f"{allowed(_listing(configs, folder), name)}"
        )
    return configs / folder / f"{name}.yaml"


def _sections(configs: Path, file: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """Preset sections of a file, whose names must be presets."""
    sections = base.get("presets") or {}
    source = _Source([_Layer(file, (), dict(base))])
    if not isinstance(sections, dict):
        source.fail(("presets",), "must be a mapping of presets to sections")
    for name, section in sections.items():
        source.known(("presets", name), name, presets(configs), "unknown preset")
        if section is not None and not isinstance(section, dict):
            source.fail(("presets", name), f"must be a mapping, is {shown(section)}")
    return sections


def _drop(source: _Source, spec: dict[str, Any]) -> None:
    """Drop methods and claims that are null, and claims that need a dropped method."""
    dropped = set()
    for section in ("methods", "claims"):
        entries = spec.get(section)
        if not isinstance(entries, dict):
            continue
        given = {
            name
            for layer in source.layers
            if isinstance(layer.content.get(section), dict)
            for name, entry in layer.content[section].items()
            if entry is not None
        }
        for name in [name for name, entry in entries.items() if entry is None]:
            if name not in given:
                source.fail((section, name), f"null drops nothing; {allowed(given, name)}")
            dropped.add((section, name))
            del entries[name]
    claims = spec.setdefault("claims", {})
    for name, claim in list(claims.items()) if isinstance(claims, dict) else ():
        needs = [claim.get(role) for role in ("of", "against")] if isinstance(claim, dict) else []
        if any(("methods", str(method)) in dropped for method in needs):
            del claims[name]


@functools.cache
def _read_schema(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}: schemas belong beside configs") from error


def _schema(configs: Path, name: str) -> dict[str, Any]:
    beside = Path(configs).resolve().parent / "workflow" / "schemas"
    return _read_schema((beside if beside.is_dir() else Path("workflow/schemas")) / f"{name}.json")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    # 1e6 is no integer here: it would reach range() as a float
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: type(value) is int
    ),
)


def _check_schema(
    source: _Source, spec: dict[str, Any], schema: dict[str, Any], prefix: Key = ()
) -> None:
    errors = sorted(
        _Validator(schema).iter_errors(spec), key=lambda e: [str(k) for k in e.absolute_path]
    )
    if errors:
        key, problem = _explain(errors[0])
        source.fail((*prefix, *key), problem)


def _explain(error: jsonschema.ValidationError) -> tuple[Key, str]:
    """Key and problem of a schema's complaint, in our words."""
    key: Key = tuple(error.absolute_path)
    value: Any = error.instance
    limit: Any = error.validator_value
    schema: Any = error.schema
    match error.validator:
        case "additionalProperties":
            known = schema["properties"]
            unknown = min(set(value) - set(known))
            return (*key, unknown), f"unknown key; {allowed(known, unknown)}"
        case "required":
            missing = next(name for name in limit if name not in value)
            return (*key, missing), "is missing"
        case "type":
            types = " or ".join([limit] if isinstance(limit, str) else limit)
            hint = " (quote it)" if types == "string" else ""
            return key, f"must be {types}{hint}, is {shown(value)}"
        case "enum":
            return key, f"{shown(value)} is not allowed; {allowed(limit, value)}"
        case "anyOf":
            choices = [c for part in limit for c in part.get("enum", [part.get("pattern", "")])]
            return key, f"{shown(value)} is not allowed; {allowed(filter(None, choices), value)}"
        case "minimum":
            return key, f"must be at least {limit}, is {shown(value)}"
        case "maximum":
            return key, f"must be at most {limit}, is {shown(value)}"
        case "exclusiveMinimum":
            return key, f"must be more than {limit}, is {shown(value)}"
        case "pattern":  # of a key: the path leads to the mapping around it
            rule = "lower-case letters, digits and _, a letter first"
            return (*key, value), f"{shown(value)} is no name; allowed: {rule}"
        case "maxLength":
            return key, f"{shown(value)} has {len(value)} letters, allowed: {limit}"
    return key, error.message[:300]


def _defaults(section: Mapping[str, Any]) -> dict[str, Any]:
    properties = section["properties"].items()
    return {name: entry["default"] for name, entry in properties if "default" in entry}


def _name_datasets(source: _Source, spec: dict[str, Any]) -> None:
    both = spec.pop("dataset", None)
    given = [key for key in ("train", "test") if key in spec]
    if both is not None and given:
        source.fail((given[0],), "dataset is short for train and test: give it or them")
    if both is None and len(given) < 2:
        source.fail(("dataset",), "is missing; give dataset, or train and test")
    if both is not None:
        spec |= {"train": [both], "test": [both]}


def _check_experiment(source: _Source, spec: dict[str, Any], configs: Path, preset: str) -> None:
    task = registry.arguments("tasks", spec["task"]["name"])
    _check_options(source, ("task",), spec["task"], task, ("name",))
    for method, entry in spec["methods"].items():
        key = ("methods", method)
        _check_method(source, (*key, "name"), entry["name"], spec["task"]["name"])
        takes = registry.arguments("methods", entry["name"])
        _check_options(source, key, entry, takes, RESERVED)
        _check_trainer(source, key, spec, method_spec(spec, method), entry)
        _check_devices(source, key, spec, method)
        _check_start(source, spec, method, configs, preset)
    _check_claims(source, spec)
    _check_sizes(source, spec, configs, preset)


def _check_method(source: _Source, key: Key, name: str, task: str) -> None:
    able = registry.names("methods", task)
    if name in able:
        return
    if name in registry.names("methods"):
        source.fail(
            key, f"{name} is a method of the task {registry.task(name)}; {allowed(able, name)}"
        )
    source.known(key, name, able, "unknown method")


def _check_options(
    source: _Source,
    key: Key,
    entry: Mapping[str, Any],
    arguments: Mapping[str, Argument],
    reserved: tuple[str, ...],
) -> None:
    """Check options against a constructor; arguments without default are the data's to give."""
    options = {name for name, argument in arguments.items() if not argument.required}
    for name, value in entry.items():
        if name in reserved:
            continue
        if name not in options:
            source.fail((*key, name), f"unknown key; {allowed([*options, *reserved], name)}")
        refusal = arguments[name].refusal(value)
        if refusal:
            source.fail((*key, name), refusal)


def _check_trainer(
    source: _Source,
    key: Key,
    spec: Mapping[str, Any],
    method: Mapping[str, Any],
    entry: Mapping[str, Any],
) -> None:
    trainer = method["trainer"]
    budgets = [b for b in ("max_steps", "max_epochs") if trainer.get(b) is not None]
    if len(budgets) != 1:
        given = "both are" if budgets else "neither is"
        at = _trainer_key(key, entry, "max_steps")
        source.fail(at, f"allowed: max_steps or max_epochs; {given} given")
    if trainer.get("online"):
        _check_online(
            source,
            lambda name: _trainer_key(key, entry, name),
            spec,
            trainer,
            method["train"],
        )


def _check_devices(source: _Source, key: Key, spec: Mapping[str, Any], method: str) -> None:
    """Refuse what several devices can't share."""
    trainer, entry = method_spec(spec, method)["trainer"], spec["methods"][method]
    number, size = devices(trainer), trainer["batch_size"]
    if number == 1:
        return

    def fail(name: str, problem: str) -> NoReturn:
        source.fail(_trainer_key(key, entry, name), problem)

    if size % number:
        fail("batch_size", f"must be divisible by the number of devices ({number}), is {size}")
    if trainer["valid_windows"] < number:
        fail("valid_windows", f"must be at least the number of devices ({number})")
    if _option(spec, method, "optimiser", None) == "lbfgs":
        several = "devices" if trainer["devices"] > 1 else "num_nodes"
        fail(several, "must be 1 with the optimiser lbfgs, whose search sees one device's loss")
    if trainer["strategy"] != "fsdp":
        return
    if trainer["precision"] not in (whole := ("32-true", "bf16-mixed", "bf16-true")):
        fail("precision", f"must be {', '.join(whole)} with strategy fsdp")
    if _option(spec, method, "ema_decay", 0.0):
        fail("strategy", f"fsdp needs ema_decay 0 of {method}: no device has all weights")


def _trainer_key(key: Key, entry: Mapping[str, Any], name: str) -> Key:
    """Where a key of a method's trainer is given: by the method, or by the experiment."""
    return (*key, "trainer", name) if name in entry.get("trainer", {}) else ("trainer", name)


def _check_start(
    source: _Source, spec: Mapping[str, Any], method: str, configs: Path, preset: str
) -> None:
    key: Key = ("methods", method, "starts_from")
    start = spec["methods"][method].get("starts_from")
    if not start:
        return
    other: Mapping[str, Any] = spec
    if "experiment" in start:
        others = [name for name in experiments(configs) if name != source.layers[0].file.stem]
        source.known((*key, "experiment"), start["experiment"], others, "unknown experiment")
        _, other = _merged(configs, start["experiment"], preset)
    for name in _ancestors(spec, method):
        if _start_within(spec, name) == method:
            source.fail((*key, "method"), "a method can't start from itself")
    source.known((*key, "method"), start["method"], other["methods"], "unknown method")
    needs = start.get("seed", method_spec(spec, method)["seeds"] - 1)
    has = other["methods"][start["method"]].get("seeds", other["seeds"])
    if needs >= has:
        source.fail(
            (*key, "seed"), f"{start['method']} has seeds 0 to {has - 1}, {needs} is needed"
        )


def _check_online(
    source: _Source,
    at: Callable[[str], Key],
    spec: Mapping[str, Any],
    trainer: Mapping[str, Any],
    datasets: Sequence[str],
) -> None:
    """Refuse what can't be trained on a stream of trajectories."""
    online, key = trainer["online"], at("online")
    if spec["task"]["name"] != "forecast":
        source.fail(key, f"is for the task forecast, this is {spec['task']['name']}")
    if len(datasets) > 1:
        source.fail(key, f"streams one dataset, {len(datasets)} are to be trained on")
    for name in ("fields", "parameters"):
        if name in spec:
            source.fail((name,), "must be left out: a training online sees all of a dataset")
    if trainer.get("max_steps") is None:
        source.fail(at("max_epochs"), "must be max_steps online: a stream has no epochs")
    for name in ("devices", "num_nodes"):
        if trainer[name] > 1:
            source.fail(at(name), f"must be 1 online, is {trainer[name]}")
    count, threshold, capacity = trainer["batch_size"], online["threshold"], online["capacity"]
    if threshold < count:
        source.fail((*key, "threshold"), f"must be at least batch_size ({count}), is {threshold}")
    if capacity < threshold + count:
        source.fail(
            (*key, "capacity"),
            f"must be at least threshold + batch_size ({threshold + count}), is {capacity}",
        )
    listen = online.get("listen", "tcp://127.0.0.1:*")
    address = ADDRESS.fullmatch(listen)
    if not address or (address["port"] != "*" and not 0 < int(address["port"]) < 2**16):
        source.fail((*key, "listen"), f"must be tcp://host:port, is {listen!r}")
    if online.get("solvers", 1) == 0 and address["port"] == "*":
        source.fail((*key, "listen"), "needs a port where solvers is 0: who comes must know it")


def _start_within(spec: Mapping[str, Any], method: str) -> str | None:
    """Return the method of the same experiment that a method starts from, if any."""
    start = spec["methods"][method].get("starts_from", {})
    return None if "experiment" in start else start.get("method")


def _ancestors(spec: Mapping[str, Any], method: str) -> Iterator[str]:
    """Yield the method, what it starts from, and so on; end at a cycle."""
    seen: set[str] = set()
    following: str | None = method
    while following is not None and following in spec["methods"] and following not in seen:
        seen.add(following)
        yield following
        following = _start_within(spec, following)


def _check_claims(source: _Source, spec: Mapping[str, Any]) -> None:
    evaluate = spec["evaluate"]
    for name, claim in spec["claims"].items():
        key: Key = ("claims", name)
        kinds = [kind for kind in ("ratio", "r_squared") if kind in claim]
        if len(kinds) != 1:
            source.fail(key, "allowed: ratio or r_squared, exactly one")
        other = "against" if kinds == ["ratio"] else "explains"
        wrong = "explains" if kinds == ["ratio"] else "against"
        if other not in claim:
            source.fail((*key, other), f"is missing; {kinds[0]} needs it")
        if wrong in claim:
            source.fail((*key, wrong), f"unknown key beside {kinds[0]}; allowed: {other}")
        for role in ("of", "against"):
            if role in claim:
                source.known((*key, role), claim[role], spec["methods"], "unknown method")
        for role in ("metric", "explains"):
            if role in claim:
                _check_metric(source, spec, key, role, claim[role])
        for where in ("at", "against_at"):
            step = claim.get(where, {}).get("step", 0)
            if step > evaluate.get("steps", step):
                source.fail(
                    (*key, where, "step"), f"must be at most evaluate.steps ({evaluate['steps']})"
                )


def _check_metric(
    source: _Source, spec: Mapping[str, Any], key: Key, role: str, metric: str
) -> None:
    entry = spec["metrics"].get(metric)
    for name in spec["metrics"]:  # `drift_*` stands for every name that begins so
        if name.endswith("*") and NAME.fullmatch(metric) and metric.startswith(name[:-1]):
            entry = spec["metrics"][name]
    if entry is None:
        source.fail((*key, role), f"{metric!r} is not allowed; {allowed(spec['metrics'], metric)}")
    if entry.get("ensemble") and spec["evaluate"].get("members", 1) < 2:
        source.fail(
            ("evaluate", "members"),
            f"must be at least 2, {'.'.join(map(str, key))} needs an ensemble",
        )


def _check_sizes(source: _Source, spec: Mapping[str, Any], configs: Path, preset: str) -> None:
    """Refuse windows and rollouts that the stored trajectories can't give."""
    evaluate = spec["evaluate"]
    stride, start = evaluate["stride"], evaluate.get("start", 0)
    if evaluate.get("keep", 0) > evaluate["trajectories"]:
        source.fail(
            ("evaluate", "keep"),
            f"must be at most evaluate.trajectories ({evaluate['trajectories']})",
        )
    known = datasets(configs)
    for role in ("train", "test"):
        for i, name in enumerate(spec[role]):
            key: Key = ("dataset",) if len(spec["train"]) == 1 else (role, i)
            source.known(key, name, known, "unknown dataset")
    for method, entry in spec["methods"].items():
        for i, name in enumerate(entry.get("train", [])):
            source.known(("methods", method, "train", i), name, known, "unknown dataset")
    trained = {method: method_spec(spec, method)["train"] for method in spec["methods"]}
    splits = {
        name: compose_dataset(configs, name, preset)["splits"]
        for name in {*spec["test"], *(name for names in trained.values() for name in names)}
    }
    for name in spec["test"]:
        test = splits[name]["test"]
        if evaluate["trajectories"] > test["trajectories"]:
            source.fail(
                ("evaluate", "trajectories"),
                f"must be at most {test['trajectories']}, the test trajectories of {name}, "
                f"is {evaluate['trajectories']}",
            )
        needs = start + evaluate.get("steps", 0) * stride + 1
        if needs > test["frames"]:
            source.fail(
                ("evaluate", "steps"),
                f"{evaluate['steps']} steps of {stride} frames from frame {start} "
                f"need {needs} test frames of {name}, allowed: {test['frames']}",
            )
    if "train_trajectories" in evaluate:
        _check_gap(source, spec, splits)
    for method, names in trained.items():
        history, horizon = (_option(spec, method, name, 1) for name in ("history", "unroll"))
        if start < (history - 1) * stride:
            source.fail(
                ("evaluate", "start"),
                f"must be at least {(history - 1) * stride}, the last frame that {method} sees, "
                f"is {start}",
            )
        needs = (history + horizon - 1) * stride + 1
        for name in names:
            frames = min(splits[name][split]["frames"] for split in ("train", "valid"))
            if needs > frames and frames > 1:  # one frame: a steady map, which has no windows
                source.fail(
                    ("methods", method, "unroll"),
                    f"a window of {history} + {horizon} frames {stride} apart needs {needs} "
                    f"frames of {name}, allowed: {frames}",
                )


def _check_gap(
    source: _Source, spec: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse to compare with trajectories that were not trained on, or are shorter."""
    key: Key = ("evaluate", "train_trajectories")
    evaluate = spec["evaluate"]
    needs = evaluate.get("start", 0) + evaluate["steps"] * evaluate["stride"] + 1
    for method in spec["methods"]:
        resolved = method_spec(spec, method)
        if resolved["train"] != spec["test"]:
            source.fail(key, f"{method} is trained on other datasets than those that are tested")
        for name in spec["test"]:
            split = splits[name]["train"]
            trained = min(resolved["trainer"]["trajectories"] or math.inf, split["trajectories"])
            if evaluate["train_trajectories"] > trained:
                source.fail(key, f"must be at most {trained}, those that {method} trains on")
            if needs > split["frames"]:
                source.fail(key, f"needs {needs} training frames of {name}: {split['frames']}")


def _option(spec: Mapping[str, Any], method: str, name: str, absent: Any) -> Any:
    """Value of an option of a method, its default where the YAML files are silent."""
    resolved = method_spec(spec, method)
    if name in resolved["options"]:
        return resolved["options"][name]
    argument = registry.arguments("methods", resolved["name"]).get(name)
    return absent if argument is None or argument.default is None else argument.default


def _check_equation(source: _Source, equation: Mapping[str, Any]) -> None:
    key: Key = ("equation",)
    source.known((*key, "name"), equation["name"], registry.names("equations"), "unknown equation")
    takes = registry.arguments("equations", equation["name"])
    for name, argument in takes.items():
        if argument.required and name not in equation:
            source.fail((*key, name), "is missing")
    for name, value in equation.items():
        if name == "name":
            continue
        if name not in takes:
            source.fail((*key, name), f"unknown key; {allowed(takes, name)}")
        if isinstance(value, dict):
            _check_distribution(source, (*key, name), value)
        else:
            refusal = takes[name].refusal(value)
            if refusal:
                source.fail((*key, name), refusal)


def _check_distribution(source: _Source, key: Key, value: Mapping[str, Any]) -> None:
    """Check a parameter drawn anew for each trajectory, see `longrun.equations._base.Varying`."""
    values: Any
    kind, values = next(iter(value.items())) if len(value) == 1 else ("", None)
    numbers = isinstance(values, list) and values and all(type(v) in (int, float) for v in values)
    ordered = numbers and len(values) == 2 and values[0] <= values[1]
    if not (numbers if kind == "choice" else ordered and kind in ("uniform", "log_uniform")):
        source.fail(
            key,
            "must be a number, {uniform: [low, high]}, {log_uniform: [low, high]} or "
            f"{{choice: [value, ...]}}, is {shown(value)}",
        )
