"""YAML as the configuration has it: the scalars of JSON, no tags, no key twice, bounded in size."""

import functools
import hashlib
import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.runtime.registry import shown

# more than any configuration needs: an accident, or an attack; an alias counts as all that it
# stands for
BYTES, VALUES, DEPTH = 2**20, 20_000, 30
LARGEST = 2**53  # JSON readers disagree about larger integers

Key = tuple[str | int, ...]
# options that name a unit and give it options of its own, and the folder of the unit
UNITS = {"optimiser": "optimisers", "training": "training"}


class ConfigError(UserError):
    """A YAML file that can't be used: file, key, what is allowed, nearest spelling."""

    def __str__(self) -> str:
        """Return one line; what YAML says has several."""
        return " ".join(super().__str__().split())


class KeyProblem(UserError):
    """What is wrong with a key of a section, said by what doesn't know which file it is in."""

    def __init__(self, key: Key, problem: str):
        super().__init__(f"{'.'.join(map(str, key))}: {problem}")
        self.key, self.problem = key, problem


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
    return _copy(_parse(path, _read(path)))


def load_section(path: Path, key: str) -> Any:
    """Read one section of a YAML file: an empty one, unparsed, where the file lacks the word."""
    text = _read(path)
    return _copy(_parse(path, text).get(key, {})) if key in text else {}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path}: is not text in UTF-8") from error


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


def value(text: str) -> Any:
    """Read one value as the YAML files would hold it."""
    try:
        _check_size(text)
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown(text)} can't be read: {error}") from error


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge dicts key by key; anything else of `over`, lists and null too, replaces.

    So does a section that names another unit: options of one optimiser are not those of the next.
    """
    merged = {key: None if key in over else _copy(value) for key, value in base.items()}
    for key, value in over.items():
        before = base.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            another = key in UNITS and value.get("name") not in (None, before.get("name"))
            merged[key] = _copy(value) if another else merge(before, value)
        else:
            merged[key] = _copy(value)
    return merged


def _copy(value: Any) -> Any:
    """Copy what YAML can hold, in a third of the time that `copy.deepcopy` takes."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def canonical(obj: object) -> str:
    """JSON with sorted keys: equal content, equal text."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(obj: object) -> str:
    """Twelve hexadecimal digits of a hash of `canonical(obj)`."""
    return hashlib.sha256(canonical(obj).encode()).hexdigest()[:12]
