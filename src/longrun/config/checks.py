"""What no type can say: names that must exist, and combinations that can't work."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from longrun.config import layers
from longrun.config.layers import NAME, Source, datasets, experiments, is_dataset, named
from longrun.config.runs import RESERVED, devices, halves, method_spec, option, starts
from longrun.config.section import Key
from longrun.config.yaml import UNITS, KeyProblem
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.runtime.registry import Argument, allowed, shown

ADDRESS = re.compile(r"tcp://(?P<host>[\w.*-]+|\[[\w:.]+\]):(?P<port>\d+|\*)")


Look = Callable[[Mapping[str, Any]], dict[str, Any]]
"""Looks into the files of a composed dataset: `splits`, their `trajectories` and `frames`; `space`,
the points along each axis. Raises `KeyProblem`."""

# keys of a source, besides format and path, that not all formats have
TAKES = {
    "pdebench": ("fields", "parameters", "boundary", "stride", "coarsen", "cut"),
    "the_well": ("fields", "parameters", "stride", "coarsen", "cut"),
    "store": ("fields", "parameters", "stride", "coarsen", "cut"),
}


def check_experiment(
    source: Source, spec: dict[str, Any], configs: Path, preset: str, look: Look | None = None
) -> None:
    """Refuse an experiment that can't work, though every type is right.

    Parameters
    ----------
    look
        Of datasets that are read from files; without it what only the files know isn't checked.
    """
    task = registry.arguments("tasks", spec["task"]["name"])
    _check_options(source, ("task",), spec["task"], task, ("name",))
    _check_units(source, ("task",), spec["task"], spec["task"])
    for method, entry in spec["methods"].items():
        if "run_of" in entry:  # checked where it is made
            continue
        key = ("methods", method)
        _check_method(source, (*key, "name"), entry["name"], spec["task"]["name"])
        takes = registry.arguments("methods", entry["name"])
        _check_options(source, key, entry, takes, RESERVED)
        _check_units(source, key, entry, method_spec(spec, method)["options"])
        _check_trainer(source, key, spec, method_spec(spec, method), entry)
        _check_devices(source, key, spec, method)
        _check_starts(source, spec, method, configs, preset)
    _check_halves(source, spec)
    _check_claims(source, spec)
    _check_sizes(source, spec, configs, preset, look)


def _check_method(source: Source, key: Key, name: str, task: str) -> None:
    able = registry.names("methods", task)
    if name in able:
        return
    if name in registry.names("methods"):
        source.fail(
            key, f"{name} is a method of the task {registry.task(name)}; {allowed(able, name)}"
        )
    source.known(key, name, able, "unknown method")


def _check_options(
    source: Source,
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


def _check_units(
    source: Source, key: Key, entry: Mapping[str, Any], options: Mapping[str, Any]
) -> None:
    """Check the sections of an entry that name an optimiser or the like, merged as `options`."""
    for name, kind in UNITS.items():
        if name not in entry:
            continue
        section = options[name]
        if "name" not in section:
            source.fail((*key, name, "name"), "is missing")
        source.known((*key, name, "name"), section["name"], registry.names(kind), f"unknown {name}")
        takes = registry.arguments(kind, section["name"])
        _check_options(source, (*key, name), section, takes, ("name",))


def _check_trainer(
    source: Source,
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
    if trainer.get("max_steps") == 0 and not method["starts_from"]:
        at = _trainer_key(key, entry, "max_steps")
        source.fail(at, "must be at least 1 without starts_from, is 0")
    if trainer.get("online"):
        _check_online(
            source,
            lambda name: _trainer_key(key, entry, name),
            spec,
            trainer,
            method["train"],
        )


def _check_halves(source: Source, spec: Mapping[str, Any]) -> None:
    """Refuse a training that doesn't end with a validation, where one of half its updates does."""
    if any(layer.file == layers.CHANGES for layer in source.layers):
        return  # it is about one run
    for method in halves(spec):
        trainer = method_spec(spec, method)["trainer"]
        steps, every = trainer.get("max_steps"), trainer["validate_every"]
        if steps and steps % min(steps, every):
            at = _trainer_key(("methods", method), spec["methods"][method], "validate_every")
            source.fail(at, f"must divide max_steps ({steps}) with halve: true, is {every}")


def _check_devices(source: Source, key: Key, spec: Mapping[str, Any], method: str) -> None:
    """Refuse what several devices, or the searches of an optimiser, can't share."""
    trainer, entry = method_spec(spec, method)["trainer"], spec["methods"][method]
    number, size = devices(trainer), trainer["batch_size"]
    optimiser = option(spec, method, "optimiser", {})["name"]
    searches = registry.attribute("optimisers", optimiser, "searches", False)

    def fail(name: str, problem: str) -> NoReturn:
        source.fail(_trainer_key(key, entry, name), problem)

    if searches and trainer["clip"] is not None:
        fail("clip", f"must be null with the optimiser {optimiser}: its search needs the gradient")
    if number == 1:
        return
    if size % number:
        fail("batch_size", f"must be divisible by the number of devices ({number}), is {size}")
    if trainer["valid_windows"] < number:
        fail("valid_windows", f"must be at least the number of devices ({number})")
    if searches:
        several = "devices" if trainer["devices"] > 1 else "num_nodes"
        why = "its search sees one device's loss"
        fail(several, f"must be 1 with the optimiser {optimiser}: {why}")
    if trainer["strategy"] != "fsdp":
        return
    if trainer["diverged"] == "keep":
        fail("diverged", "must be fail with strategy fsdp: no device has all weights to keep")
    if trainer["precision"] not in (whole := ("32-true", "bf16-mixed")):
        fail("precision", f"must be {', '.join(whole)} with strategy fsdp")
    if option(spec, method, "ema_decay", 0.0):
        fail("strategy", f"fsdp needs ema_decay 0 of {method}: no device has all weights")


def _trainer_key(key: Key, entry: Mapping[str, Any], name: str) -> Key:
    """Where a key of a method's trainer is given: by the method, or by the experiment."""
    return (*key, "trainer", name) if name in entry.get("trainer", {}) else ("trainer", name)


def _check_starts(
    source: Source, spec: Mapping[str, Any], method: str, configs: Path, preset: str
) -> None:
    entry = spec["methods"][method]
    found = starts(entry)
    for number, start in enumerate(found):
        several = (number,) if isinstance(entry["starts_from"], list) else ()
        key: Key = ("methods", method, "starts_from", *several)
        _check_start(source, key, start, spec, method, configs, preset)


def _check_start(
    source: Source,
    key: Key,
    start: Mapping[str, Any],
    spec: Mapping[str, Any],
    method: str,
    configs: Path,
    preset: str,
) -> None:
    other: Mapping[str, Any] = spec
    if "experiment" in start:
        others = [name for name in experiments(configs) if name != source.layers[0].file.stem]
        source.known((*key, "experiment"), start["experiment"], others, "unknown experiment")
        _, other = layers.experiment(configs, start["experiment"], preset)
    elif start["method"] == method or method in _ancestors(spec, start["method"]):
        source.fail((*key, "method"), "a method can't start from itself")
    source.known((*key, "method"), start["method"], other["methods"], "unknown method")
    if "run_of" in other["methods"][start["method"]]:
        source.fail((*key, "method"), "is a borrowed run; name the experiment that makes it")
    needs = start.get("seed", method_spec(spec, method)["seeds"] - 1)
    has = other["methods"][start["method"]].get("seeds", other["seeds"])
    if needs >= has:
        source.fail(
            (*key, "seed"), f"{start['method']} has seeds 0 to {has - 1}, {needs} is needed"
        )


def _check_online(
    source: Source,
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


def _ancestors(spec: Mapping[str, Any], method: str) -> set[str]:
    """Return the methods of its experiment that a method starts from, in one step or several."""
    found: set[str] = set()
    waiting = [method]
    while waiting:
        for start in starts(spec["methods"].get(waiting.pop(), {})):
            if "experiment" not in start and start["method"] not in found:
                found.add(start["method"])
                waiting.append(start["method"])
    return found


KINDS = {  # of claims: what each compares with
    "ratio": "against",
    "value": None,
    "slope": None,
    "updates": "against",
    "r_squared": "explains",
    "rank_correlation": "explains",
}
OF_SCORES = ("ratio", "value", "slope")  # kinds whose scores a median may sum up


def _check_claims(source: Source, spec: Mapping[str, Any]) -> None:
    for name, claim in spec["claims"].items():
        key: Key = ("claims", name)
        kinds = [kind for kind in KINDS if kind in claim]
        if len(kinds) != 1:
            source.fail(key, f"allowed: {' or '.join(KINDS)}, exactly one")
        (kind,) = kinds
        _check_roles(source, key, claim, kind)
        for role in ("of", "against"):
            for method in named(claim, role):
                source.known((*key, role), method, spec["methods"], "unknown method")
        if kind == "updates":
            source.known((*key, "metric"), claim["metric"], spec["validation"], "unknown metric")
        else:
            for role in ("metric", "explains"):
                if role in claim:
                    _check_metric(source, spec, key, role, claim[role])
        if kind == "slope":
            _check_slope(source, spec, key, claim)
        for where in ("at", "against_at"):
            _check_place(source, spec, (*key, where), claim.get(where, {}))
    _check_main(source)


def _check_roles(source: Source, key: Key, claim: Mapping[str, Any], kind: str) -> None:
    """Refuse a claim that lacks what its kind needs, or has what changes nothing."""
    needed = KINDS[kind]
    if needed and needed not in claim:
        source.fail((*key, needed), f"is missing; {kind} needs it")
    useless = {role for role in ("against", "explains") if role != needed}
    if kind != "ratio":
        useless.add("against_at")
    if kind == "updates":
        useless.add("at")
    if kind not in OF_SCORES:
        useless.add("statistic")
    several = any(isinstance(claim.get(role), list) for role in ("of", "against"))
    if not several or kind == "slope":
        useless.add("over")
    elif "over" not in claim:
        source.fail((*key, "over"), "is missing; several methods need it")
    elif needed == "explains" and claim["over"] == "mean":
        source.fail((*key, "over"), f"must be min or max beside {kind}: scores are of one run")
    for role in sorted(useless & set(claim)):
        beside = "of one method" if role == "over" and not several else f"beside {kind}"
        source.fail((*key, role), f"has no effect {beside}")


def _check_slope(
    source: Source, spec: Mapping[str, Any], key: Key, claim: Mapping[str, Any]
) -> None:
    along, methods = claim["slope"]["along"], named(claim, "of")
    if along in spec["columns"]:
        if len(methods) > 1:
            source.fail((*key, "of"), f"must be one method, whose scores differ by {along}")
        if along in claim.get("at", {}):
            source.fail((*key, "at", along), f"has no effect beside a slope along {along}")
        return
    values = [option(spec, method, along, None) for method in methods]
    if not all(type(value) in (int, float) and value > 0 for value in values):
        source.fail(
            (*key, "slope", "along"),
            f"must be {', '.join(spec['columns'])} or an option with a positive number, is "
            f"{shown(along)}",
        )
    if len(set(values)) < 2:
        source.fail((*key, "of"), f"must be methods that differ in {along}")


def _check_place(source: Source, spec: Mapping[str, Any], key: Key, at: Mapping[str, Any]) -> None:
    evaluate = spec["evaluate"]
    steps = evaluate.get("steps")
    if steps is not None and at.get("step", 0) > steps:
        source.fail((*key, "step"), f"must be at most evaluate.steps ({steps})")
    scored = {
        "dataset": spec["test"],
        "nfe": evaluate.get("nfe"),
        "measured": [round(100 * fraction) for fraction in evaluate.get("measured", ())],
    }
    for name, value in at.items():
        source.known((*key, name), name, (*spec["columns"], "dataset"), "unknown key")
        if name in scored:
            source.known((*key, name), value, scored[name], f"unknown {name}")


def _check_main(source: Source) -> None:
    """Refuse none or several main claims in a file, whatever a preset drops of them."""
    claims = source.layers[0].content.get("claims") or {}
    main = [name for name, claim in claims.items() if claim and claim.get("main")]
    if claims and len(main) != 1:
        found = ", ".join(main) or "none"
        source.fail(("claims",), f"one claim must say main: true, found: {found}")


def _check_metric(
    source: Source, spec: Mapping[str, Any], key: Key, role: str, metric: str
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


def _check_sizes(
    source: Source, spec: Mapping[str, Any], configs: Path, preset: str, look: Look | None
) -> None:
    """Refuse windows and rollouts that the stored trajectories can't give."""
    evaluate = spec["evaluate"]
    stride, start = evaluate["stride"], evaluate.get("start", 0)
    if evaluate.get("keep", 0) > evaluate["trajectories"]:
        source.fail(
            ("evaluate", "keep"),
            f"must be at most evaluate.trajectories ({evaluate['trajectories']})",
        )

    def check(key: Key, name: str) -> None:
        if not is_dataset(configs, name):  # to list all takes longer
            source.known(key, name, datasets(configs), "unknown dataset")

    for role in ("train", "test"):
        for i, name in enumerate(spec[role]):
            check(("dataset",) if len(spec["train"]) == 1 else (role, i), name)
    for method, entry in spec["methods"].items():
        for i, name in enumerate(entry.get("train", [])):
            check(("methods", method, "train", i), name)
    trained = {method: method_spec(spec, method)["train"] for method in spec["methods"]}
    found = {
        name: dataset_sizes(configs, name, preset, look)
        for name in {*spec["test"], *(name for names in trained.values() for name in names)}
    }
    splits = {name: size["splits"] for name, size in found.items()}
    _check_equations(source, spec, trained, found)
    _check_grids(source, spec, trained, found)
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
    if evaluate.get("train_trajectories"):
        _check_gap(source, spec, splits)
    for method, names in trained.items():
        history = option(spec, method, "history", 1)
        key, horizon = _horizon(spec, method)
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
                    key,
                    f"a window of {history} + {horizon} frames {stride} apart needs {needs} "
                    f"frames of {name}, allowed: {frames}",
                )


def _horizon(spec: Mapping[str, Any], method: str) -> tuple[Key, int]:
    """Return the steps of a training window, and the key that says how many."""
    key: Key = ("methods", method)
    scheme = option(spec, method, "training", None)
    if scheme is None:
        return (*key, "unroll"), option(spec, method, "unroll", 1)
    takes = registry.arguments("training", scheme["name"])
    default = takes["unroll"].default if "unroll" in takes else 1
    return (*key, "training", "unroll"), scheme.get("unroll", default)


def _check_equations(
    source: Source,
    spec: Mapping[str, Any],
    trained: Mapping[str, Sequence[str]],
    found: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse a method that needs to know the equation of data that have none, or simulates them."""
    for method, names in trained.items():
        resolved = method_spec(spec, method)
        if resolved["trainer"].get("online") and found[names[0]]["read"]:
            key = _trainer_key(("methods", method), spec["methods"][method], "online")
            source.fail(key, f"needs data that are simulated, {names[0]} is read from files")
        argument = registry.arguments("methods", resolved["name"]).get("equation")
        if argument is None or not argument.required:
            continue
        for dataset in (*names, *spec["test"]):
            if found[dataset]["equation"] is None:
                source.fail(
                    ("methods", method),
                    f"needs the equation of {dataset}, which has none: give equation beside "
                    "source in its file, or leave the method out",
                )


def _check_grids(
    source: Source,
    spec: Mapping[str, Any],
    trained: Mapping[str, Sequence[str]],
    found: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse a grid that a method can't halve, or cut into patches, as often as it must."""
    for method, names in trained.items():
        resolved = method_spec(spec, method)
        multiple = registry.grid_multiple(resolved["name"], resolved["options"])
        for name in dict.fromkeys((*names, *spec["test"])):
            for side in found[name]["space"]:
                if side % multiple:
                    source.fail(
                        ("methods", method),
                        f"needs a grid whose sides are multiples of {multiple}, {name} has {side} "
                        f"points; change the dataset's, or the method's depth",
                    )


def _check_gap(
    source: Source, spec: Mapping[str, Any], splits: Mapping[str, Mapping[str, Any]]
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


def compose_dataset(configs: Path, dataset: str, preset: str) -> dict[str, Any]:
    """Compose and check one dataset at one preset: `datasets/d.yaml <- datasets/d.yaml:presets.p`.

    Raises
    ------
    ConfigError
        One line: file, key, what is allowed, nearest spelling.
    """
    return _composed(configs, dataset, preset)[1]


def dataset_sizes(
    configs: Path, dataset: str, preset: str, look: Look | None = None
) -> dict[str, Any]:
    """Return what an experiment must know of a dataset before it is made.

    Parameters
    ----------
    look
        Looks into the files that a dataset is read from.

    Returns
    -------
    dict
        `splits`: `trajectories` and `frames` of each, infinite where only files know them; `space`:
        points along each axis, none where they aren't known; `equation`: its name, or None;
        `read`: whether it is read from files.

    Raises
    ------
    ConfigError
        As `compose_dataset`, and for files that can't be used as the dataset says.
    """
    source, spec = _composed(configs, dataset, preset)
    name = spec.get("equation", {}).get("name")
    if "source" not in spec:
        takes = registry.arguments("equations", name)
        space: list[int] = []
        if "points" in takes:
            points = spec["equation"].get("points", takes["points"].default)
            space = [points * times for times in spec["equation"].get("aspect", (1,))]
        return {"splits": spec["splits"], "space": space, "equation": name, "read": False}
    if look is None:
        unknown = {"trajectories": math.inf, "frames": math.inf}
        splits = {split: unknown for split in ("train", "valid", "test")}
        return {"splits": splits, "space": [], "equation": name, "read": True}
    try:
        return {**look(spec), "equation": name, "read": True}
    except KeyProblem as error:
        source.fail(error.key, error.problem)
    except UserError as error:
        source.fail(("source", "path"), str(error))


def _composed(configs: Path, dataset: str, preset: str) -> tuple[Source, dict[str, Any]]:
    source, spec = layers.dataset(Path(configs), dataset, preset)
    if "equation" in spec:
        _check_equation(source, spec["equation"], "source" in spec)
    if "source" in spec:
        _check_source(source, spec)
    return source, spec


def _check_source(source: Source, spec: Mapping[str, Any]) -> None:
    """Refuse keys that a format doesn't have, and what contradicts another key."""
    given = spec["source"]
    kind = given["format"]
    for name in given:
        if name not in (*TAKES.get(kind, (name,)), "format", "path"):
            source.fail(("source", name), f"has no effect with format {kind}")
    dims = given.get("dims")
    if kind in ("xarray", "numpy"):
        if dims is None:
            source.fail(("source", "dims"), f"is missing; format {kind} needs it")
        wanted = list if kind == "numpy" else dict
        if not isinstance(dims, wanted):
            word = "a list of the axes in order" if kind == "numpy" else "names by axis"
            source.fail(("source", "dims"), f"must be {word}, is {shown(dims)}")
        named = list(dims.values()) if isinstance(dims, dict) else dims
        for name in named:
            if named.count(name) > 1:
                source.fail(("source", "dims"), f"{shown(name)} is named twice")
        space = [axis for axis in ("x", "y", "z") if axis in dims]
        if space != ["x", "y", "z"][: len(space)] or not space:
            source.fail(("source", "dims"), f"must name x, then y, then z, is {shown(dims)}")
    if "equation" in spec and "boundary" in given:
        source.fail(("source", "boundary"), "has no effect beside equation, which knows it")
    if "seed" in spec and "cut" in given:
        problem = "would draw pieces of one trajectory for train and for test beside source.cut"
        source.fail(("seed",), problem)
    splits = spec.get("splits", {})
    for split, size in splits.items():
        if "files" in size and kind == "store":
            source.fail(("splits", split, "files"), "has no effect with format store")
        if "files" in size and "seed" in spec:
            source.fail(("seed",), "has no effect: the files say which split is theirs")
        for other in splits.values():
            if "files" in size and "files" not in other:
                source.fail(("splits", split, "files"), "is given for some of the splits only")


def _check_equation(
    source: Source,
    equation: Mapping[str, Any],
    measured: bool = False,
    key: Key = ("equation",),
) -> None:
    """Check the options of an equation; data that aren't simulated may know some of them."""
    if "name" not in equation:
        source.fail((*key, "name"), "is missing")
    source.known((*key, "name"), equation["name"], registry.names("equations"), "unknown equation")
    takes = registry.arguments("equations", equation["name"])
    for name, argument in takes.items():
        if argument.required and name not in equation and not measured:
            source.fail((*key, name), "is missing")
    for name, value in equation.items():
        if name == "name":
            continue
        if name not in takes:
            source.fail((*key, name), f"unknown key; {allowed(takes, name)}")
        if isinstance(value, dict) and takes[name].annotation.startswith("dict"):
            _check_equation(source, value, key=(*key, name))  # of another equation
        elif isinstance(value, dict):
            _check_distribution(source, (*key, name), value)
        else:
            refusal = takes[name].refusal(value)
            if refusal:
                source.fail((*key, name), refusal)


def _check_distribution(source: Source, key: Key, value: Mapping[str, Any]) -> None:
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
