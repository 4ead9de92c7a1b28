"""The layers of a composition, merged, with what says which file and key an error is in."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from longrun.config import models
from longrun.config.section import Key, Section, defaults, explain
from longrun.config.yaml import ConfigError, load, merge
from longrun.runtime import registry
from longrun.runtime.registry import allowed, shown

NAME = re.compile(r"[a-z][a-z0-9_]*")
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

    def known(self, key: Key, name: object, names: Iterable[str], what: str) -> None:
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
    """Names of the datasets, sorted."""
    return listing(configs, "datasets")


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
        raise ConfigError(
            f"{configs / folder}: {str(name)[: registry.SHOWN]}: no such {folder[:-1]}; "
            f"{allowed(listing(configs, folder), name)}"
        )
    return configs / folder / f"{name}.yaml"


def _sections(configs: Path, file: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """Preset sections of a file, whose names must be presets."""
    sections = base.get("presets") or {}
    source = Source([Layer(file, (), dict(base))])
    if not isinstance(sections, dict):
        source.fail(("presets",), "must be a mapping of presets to sections")
    for name, section in sections.items():
        source.known(("presets", name), name, presets(configs), "unknown preset")
        if section is not None and not isinstance(section, dict):
            source.fail(("presets", name), f"must be a mapping, is {shown(section)}")
    return sections


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
    source = Source(
        [
            Layer(file, (), base),
            Layer(cap_file, (), caps),
            Layer(file, ("presets", preset), _sections(configs, file, base).get(preset) or {}),
            *([Layer(CHANGES, (), dict(changes))] if changes else []),
        ]
    )
    spec = source.merged()
    _drop(source, spec)
    source.check(spec, models.Experiment)
    spec["trainer"] = defaults(models.Trainer) | spec["trainer"]
    return source, spec


def dataset(configs: Path, name: str, preset: str) -> tuple[Source, dict[str, Any]]:
    """Merge the layers of a dataset, of the right types but for the options of its equation."""
    file, _ = file_of(configs, "datasets", name), file_of(configs, "presets", preset)
    base = load(file)
    section = _sections(configs, file, base).get(preset) or {}
    source = Source([Layer(file, (), base), Layer(file, ("presets", preset), section)])
    spec = source.merged()
    source.check(spec, models.Dataset)
    for key, model in (("store", models.Storage), ("measure", models.Measure)):
        spec[key] = defaults(model) | spec.get(key, {})
    return source, {"jobs": 1} | spec
