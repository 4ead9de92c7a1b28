"""The base of all sections of the YAML files, their types, and what is said of a wrong value."""

import functools
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints
from pydantic_core import ErrorDetails, PydanticCustomError

from longrun.runtime.registry import allowed, shown

Key = tuple[str | int, ...]
Item = TypeVar("Item")


class Section(BaseModel):
    """Keys of a section. Others are refused, and so is a value of another type: 1e6 is no count."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _distinct(values: list[Item]) -> list[Item]:
    for value in values:
        if values.count(value) > 1:
            raise PydanticCustomError("distinct", f"{shown(value)} is listed twice")
    return values


OMITTED: Any = None  # default of a key that may be left out, but is not null

Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, StringConstraints(pattern="^[a-z][a-z0-9_]*$", max_length=60)]
Distinct = Annotated[list[Item], Field(min_length=1), AfterValidator(_distinct)]

ONE, SEVERAL = "(one)", "(several)"  # what pydantic calls alternatives, no part of a key
by_length = Discriminator(lambda value: SEVERAL if isinstance(value, list) else ONE)

WORDS = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array"}


def defaults(section: type[Section]) -> dict[str, Any]:
    """Return the keys of a section that have a default, and those."""
    fields = section.model_fields.items()
    return {name: field.default for name, field in fields if not field.is_required()}


def explain(error: ErrorDetails, section: type[Section]) -> tuple[Key, str]:
    """Return key and problem of a complaint of pydantic, in our words."""
    key: Key = tuple(part for part in error["loc"] if part not in (ONE, SEVERAL))
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return key, f"unknown key; {allowed(_keys(section, key[:-1]), key[-1])}"
        case "missing":
            return key, "is missing"
        case "greater_than_equal" | "less_than_equal":
            bound, limit = ("least", "ge") if kind.startswith("greater") else ("most", "le")
            return key, f"must be at {bound} {limits[limit]}, is {shown(value)}"
        case "greater_than":
            return key, f"must be more than {limits['gt']:g}, is {shown(value)}"
        case "too_short":
            return key, "must not be empty"
        case "distinct":
            return key, error["msg"]
        case "string_pattern_mismatch" if key[-1] == "[key]":
            rule = "lower-case letters, digits and _, a letter first"
            return key[:-1], f"{shown(value)} is not a valid name; allowed: {rule}"
        case "string_too_long" if key[-1] == "[key]":
            length = len(str(value))
            return key[:-2], f"{shown(value)} has {length} letters, allowed: {limits['max_length']}"
    key, annotation = _annotation(section, key)
    choices = list(_choices(annotation))
    if choices:
        return key, f"{shown(value)} is not allowed; {allowed(choices, value)}"
    words = " or ".join(dict.fromkeys(_words(annotation)))
    hint = " (quote it)" if words == "string" else ""
    return key, f"must be {words}{hint}, is {shown(value)}"


def _annotation(section: type[Section], key: Key) -> tuple[Key, Any]:
    """Return the annotation at a key, and the key without the names of alternatives."""
    found: Any = section
    for depth, part in enumerate(key):
        inner = _inner(found, part)
        if inner is None:
            return key[:depth], found
        found = inner
    return key, found


def _inner(annotation: Any, part: str | int) -> Any:
    """Return the annotation of what is below a key; None where nothing is."""
    for option in _options(annotation):
        fields = option.model_fields if _is_section(option) else {}
        if part in fields:
            return fields[str(part)].annotation
        arguments = typing.get_args(option)
        if typing.get_origin(option) is (list if isinstance(part, int) else dict):
            return arguments[-1]
    return None


def _options(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of an annotation, without its limits."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        yield from _options(typing.get_args(annotation)[0])
    elif origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _choices(annotation: Any) -> Iterator[object]:
    for option in _options(annotation):
        if typing.get_origin(option) is Literal:
            yield from typing.get_args(option)


def _words(annotation: Any) -> Iterator[str]:
    for option in _options(annotation):
        kind = typing.get_origin(option) or option
        yield "null" if kind is type(None) else WORDS.get(kind, "object")


def _keys(section: type[Section], key: Key) -> Iterable[str]:
    """Return the keys that the section at a key has."""
    _, annotation = _annotation(section, key)
    (found,) = (option for option in _options(annotation) if _is_section(option))
    return found.model_fields


@functools.cache
def _is_section(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, Section)
