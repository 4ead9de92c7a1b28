"""The layers of a composition, merged, with what says which file and key an error is in."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from longrun.config import models
from longrun.config.section import Key, Section, defaults, explain
from longrun.config.yaml import ConfigError, load, load_section, merge
from longrun.runtime import registry
from longrun.runtime.registry import allowed, shown

NAME = re.compile(r"[a-z][a-z0-9_]*")
SUFFIX = re.compile(r"[a-z0-9_]+")  # what a variant adds to the name of its file
CHANGES = Path("changes")  # named as the file of an error that is in none


@dataclass(frozen=True)
class Layer:
    """Part of a composition: the file it is in, and the keys that lead to it there."""

    file: Path
    prefix: Key
    content: dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Layers of a composition, lowest first, to say which file and key an error is in."""

    layers: list[Layer]

    def merged(self) -> dict[str, Any]:
        """Merge all layers."""
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

    def check(self, content: Mapping[str, Any], section: type[Section], prefix: Key = ()) -> None:
        """Refuse content that a section can't hold."""
        try:
            section.model_validate(content)
        except ValidationError as error:
            first = min(error.errors(include_url=False), key=lambda e: [str(k) for k in e["loc"]])
            key, problem = explain(first, section)
            self.fail((*prefix, *key), problem)

    def known(self, key: Key, name: object, names: Iterable[object], what: str) -> None:
        """Refuse an unknown name."""
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


def experiments(configs: Path) -> list[str]:
    """Names of the experiments, sorted."""
    return listing(configs, "experiments")


def datasets(configs: Path) -> list[str]:
    """Names of the datasets, by file: its own, then those of its variants."""
    found = []
    for stem in listing(configs, "datasets"):
        found += [stem, *(f"{stem}_{suffix}" for suffix in _variants(configs, stem))]
    return found


def is_dataset(configs: Path, name: str) -> bool:
    """Whether there is a dataset of this name; looks into those files alone that may hold it."""
    return bool(_homes(configs, name))


def _homes(configs: Path, name: str) -> list[tuple[Path, str]]:
    """Return the files that have a dataset of this name, and the suffix of a variant in each."""
    found = []
    for stem in listing(configs, "datasets"):
        suffix = name.removeprefix(stem).removeprefix("_")
        if name == stem or (name == f"{stem}_{suffix}" and suffix in _variants(configs, stem)):
            found.append((configs / "datasets" / f"{stem}.yaml", suffix))
    return found


def _home(configs: Path, name: str) -> tuple[Path, str]:
    """Return the one file that has a dataset of this name, and the suffix of a variant in it."""
    homes = _homes(configs, name) if NAME.fullmatch(str(name)) else []
    if not homes:
        _fail_unknown(configs, "datasets", name, datasets(configs))
    (file, suffix), *others = homes
    if others:
        raise ConfigError(f"{file}: variants.{suffix}: {name} is in {others[0][0].name} already")
    return file, suffix


def _variants(configs: Path, stem: str) -> dict[str, dict[str, Any]]:
    """Return the variants in a dataset's file, by what they add to its name."""
    file = Path(configs) / "datasets" / f"{stem}.yaml"
    found = load_section(file, "variants")
    source = Source([Layer(file, (), {"variants": found})])
    if not isinstance(found, dict):
        source.fail(("variants",), f"must be a mapping of suffixes to sections, is {shown(found)}")
    for suffix, section in found.items():
        if not SUFFIX.fullmatch(suffix):
            rule = "lower-case letters, digits and _"
            source.fail(("variants",), f"{shown(suffix)} is not a valid suffix; allowed: {rule}")
        if not isinstance(section, dict):
            source.fail(("variants", suffix), f"must be a mapping, is {shown(section)}")
    return found


def presets(configs: Path) -> list[str]:
    """Names of the presets, sorted."""
    return listing(configs, "presets")


def sweeps(configs: Path) -> list[str]:
    """Names of the sweeps, sorted."""
    return listing(configs, "sweeps")


def listing(configs: Path, folder: str) -> list[str]:
    """Names of the files in a folder, sorted."""
    return sorted(file.stem for file in (Path(configs) / folder).glob("*.yaml"))


def file_of(configs: Path, folder: str, name: str) -> Path:
    """File of a name; only names that are listed, so none leads out of the folder."""
    if not NAME.fullmatch(str(name)) or name not in listing(configs, folder):
        _fail_unknown(configs, folder, name, listing(configs, folder))
    return configs / folder / f"{name}.yaml"


def check_folder(configs: Path) -> None:
    """Refuse a folder of YAML files that isn't there."""
    if not configs.is_dir():
        raise ConfigError(
            f"{configs}: no such folder; the repository has one, a folder of your own is named "
            "with --configs"
        )


def _fail_unknown(configs: Path, folder: str, name: str, names: Iterable[str]) -> NoReturn:
    check_folder(configs)
    raise ConfigError(
        f"{configs / folder}: {str(name)[: registry.SHOWN]}: no such {folder[:-1]}; "
        f"{allowed(names, name)}"
    )


def _with_preset(configs: Path, layer: Layer, preset: str) -> list[Layer]:
    """Return a layer and what it says of a preset; the names of its sections must be presets."""
    sections = layer.content.get("presets") or {}
    source = Source([layer])
    if not isinstance(sections, dict):
        source.fail(("presets",), "must be a mapping of presets to sections")
    for name, section in sections.items():
        source.known(("presets", name), name, presets(configs), "unknown preset")
        if section is not None and not isinstance(section, dict):
            source.fail(("presets", name), f"must be a mapping, is {shown(section)}")
    section = sections.get(preset) or {}
    return [layer, Layer(layer.file, (*layer.prefix, "presets", preset), section)]


def _drop(source: Source, spec: dict[str, Any]) -> None:
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
        if isinstance(claim, dict) and any(
            ("methods", method) in dropped
            for role in ("of", "against")
            for method in named(claim, role)
        ):
            del claims[name]


def named(claim: Mapping[str, Any], role: str) -> list[str]:
    """Return the methods that a claim is about, or compares with."""
    given = claim.get(role, [])
    return [str(method) for method in given] if isinstance(given, list) else [str(given)]


def experiment(
    configs: Path, name: str, preset: str, changes: Mapping[str, Any] | None = None
) -> tuple[Source, dict[str, Any]]:
    """Merge the layers of an experiment, of the right types but for what its task defines."""
    file, cap_file = file_of(configs, "experiments", name), file_of(configs, "presets", preset)
    base, caps = load(file), load(cap_file)
    Source([Layer(cap_file, (), caps)]).check(caps, models.Preset)
    whole, section = _with_preset(configs, Layer(file, (), base), preset)
    changed = [Layer(CHANGES, (), dict(changes))] if changes else []
    source = Source([whole, Layer(cap_file, (), caps), section, *changed])
    spec = source.merged()
    _drop(source, spec)
    source.check(spec, models.Experiment)
    spec["trainer"] = defaults(models.Trainer) | spec["trainer"]
    return source, spec


def dataset(configs: Path, name: str, preset: str) -> tuple[Source, dict[str, Any]]:
    """Merge the layers of a dataset, of the right types but for the options of its equation.

    A variant is what its file says at the same preset, with changes: those of the variant, then
    those of the variant at this preset.
    """
    file, suffix = _home(configs, name)
    file_of(configs, "presets", preset)
    base = load(file)
    variants = base.pop("variants", {})
    layers = _with_preset(configs, Layer(file, (), base), preset)
    if suffix:
        variant = Layer(file, ("variants", suffix), variants[suffix])
        layers += _with_preset(configs, variant, preset)
    source = Source(layers)
    spec = source.merged()
    source.check(spec, models.Dataset)
    _check_origin(source, spec)
    for key, model in (("store", models.Storage), ("measure", models.Measure)):
        if key == "store" or "source" not in spec:
            spec[key] = defaults(model) | spec.get(key, {})
    if spec["store"]["compression"] is None:  # a dataset without depends on nothing new
        del spec["store"]["compression"]
    return source, {"jobs": 1} | spec


def _check_origin(source: Source, spec: Mapping[str, Any]) -> None:
    """Refuse a dataset that lacks what its origin needs, or says what changes nothing there."""
    if "source" in spec:
        for key in ("measure", "jobs"):
            if key in spec:
                source.fail((key,), "has no effect beside source")
        return
    if "equation" not in spec:
        source.fail(("equation",), "is missing; a dataset needs it, or a source")
    for key in ("seed", "splits"):
        if key not in spec:
            source.fail((key,), "is missing")
    for split in models.Splits.model_fields:
        size = spec["splits"].get(split)
        if size is None:
            source.fail(("splits", split), "is missing")
        for key in ("trajectories", "frames"):
            if key not in size:
                source.fail(("splits", split, key), "is missing")
        if "files" in size:
            source.fail(("splits", split, "files"), "has no effect without source")
        if isinstance(size["trajectories"], float):
            problem = "must be a count without source, is"
            source.fail(("splits", split, "trajectories"), f"{problem} {size['trajectories']}")
