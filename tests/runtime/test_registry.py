"""The folders as registry, and constructors read from their source."""

import ast
import importlib
import inspect
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.runtime import registry
from longrun.runtime.cli import UserError

BASE = """
from abc import ABC, abstractmethod
from typing import Literal
Varying = float | dict[str, float]
class AbstractThing(ABC):
    def __init__(self, fields: int, rate: float = 1e-3, mode: Literal["a", "b"] = "a",
                 varying: Varying = 1.0, *, steps: int | None = None):
        pass
    @abstractmethod
    def step(self): ...
"""
HEAD = "from longrun.tasks.thing import AbstractThing\n"
GOOD = (
    HEAD
    + """
class _Block:
    pass
class Layer:
    pass
class Method(AbstractThing):
    def __init__(self, fields: int, width: int = -8, rate: float = 2e-3, **options):
        super().__init__(fields, mode="b", rate=rate, **options)
    def step(self): ...
"""
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty registry with the task `thing`; `folder(name, text)` writes a method."""
    (tmp_path / "methods/thing").mkdir(parents=True)
    (tmp_path / "tasks").mkdir()
    for kind in ("methods", "tasks"):
        package = importlib.import_module(f"longrun.{kind}")
        monkeypatch.setattr(package, "__path__", [str(tmp_path / kind)])
    (tmp_path / "tasks/thing.py").write_text(BASE)
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    registry.arguments.cache_clear()

    def write(name, text):
        file = tmp_path / "methods" / "thing" / f"{name}.py"
        file.write_text(text)
        registry._found.cache_clear()
        return file

    yield write
    registry.arguments.cache_clear()
    for module in [m for m in sys.modules if re.fullmatch(r"longrun\.[\w.]+\.(thing|test_\w+)", m)]:
        del sys.modules[module]


def refused(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_a_unit_is_the_one_concrete_class_of_its_file(folder):
    file = folder("test_good", GOOD)
    folder("_private", "x = 1")
    assert registry.names("methods") == ["test_good"]
    assert registry.names("methods", "thing") == ["test_good"]
    assert registry.names("methods", "other") == []
    assert registry.task("test_good") == "thing"
    assert registry.path("methods", "test_good") == file
    assert registry.find("methods", "test_good").__name__ == "Method"
    assert registry.find("tasks", "thing").__name__ == "AbstractThing"


def test_a_name_is_given_once_whatever_the_folder(folder, tmp_path):
    first = folder("test_good", GOOD)
    second = tmp_path / "methods" / "z" / "test_good.py"
    second.parent.mkdir()
    second.write_text(GOOD)
    registry._found.cache_clear()
    said = refused(registry.names, "methods")
    assert said == f"{second}: {first} has this name already; choose another"


def test_arguments_are_merged_with_those_of_the_base(folder):
    folder("test_good", GOOD)
    found = registry.arguments("methods", "test_good")
    argument = registry.Argument
    assert found == {
        "fields": argument("int", None, True),
        "varying": argument("float | dict[str, float]", 1.0, False),
        "steps": argument("int | None", None, False),
        "width": argument("int", -8, False),
        "rate": argument("float", 2e-3, False),  # its own; `mode` is fixed by the method
    }
    assert "test_good" not in "".join(sys.modules)  # read, not imported


def test_a_constructor_without_options_takes_its_own_only(folder):
    folder("test_own", HEAD + "class M(AbstractThing):\n    def __init__(self, a: int = 1): ...\n")
    folder("test_none", HEAD + "class M(AbstractThing):\n    pass\n")
    assert list(registry.arguments("methods", "test_own")) == ["a"]
    assert next(iter(registry.arguments("methods", "test_none"))) == "fields"


def test_a_base_in_between_is_followed(folder):
    folder("test_good", GOOD)
    folder(
        "test_child",
        "from longrun.methods.thing.test_good import Method\n"
        "class Child(Method):\n    def __init__(self, depth: int = 2, **options): ...\n",
    )
    assert {"depth", "width", "steps"} <= set(registry.arguments("methods", "test_child"))
    assert registry.find("methods", "test_child").__name__ == "Child"


@pytest.mark.parametrize(
    ("text", "found"),
    [("x = 1\n", "none"), (GOOD + "class Second(Method):\n    pass\n", "Method, Second")],
)
def test_none_or_two_classes_name_the_file(folder, text, found):
    file = folder("test_bad", text)
    line = f"{file}: must define one concrete class of an Abstract... base, found: {found}"
    assert refused(registry.find, "methods", "test_bad") == line
    assert refused(registry.arguments, "methods", "test_bad") == line


def test_an_abstract_class_names_what_it_lacks(folder):
    file = folder("test_abstract", HEAD + "class M(AbstractThing):\n    pass\n")
    said = refused(registry.find, "methods", "test_abstract")
    assert said == f"{file}: M is abstract, it lacks step"


def test_unknown_units_get_the_nearest_spelling(folder):
    folder("test_good", GOOD)
    line = "is not among methods; allowed: test_good; did you mean test_good?"
    assert refused(registry.find, "methods", "test_god") == f"'test_god' {line}"
    assert "is not among methods" in refused(registry.find, "methods", "../tasks/thing")


def test_digest_follows_the_source(folder):
    folder("test_good", GOOD)
    before = registry.digest("methods", "test_good")
    assert registry.digest("methods", "test_good") == before
    folder("test_good", GOOD + "# changed\n")
    assert registry.digest("methods", "test_good") != before


@pytest.mark.parametrize(
    ("annotation", "fits", "misfits"),
    [
        ("int", [0, 3], [-1, 1.0, True, "1", None]),
        ("float", [0, -1.5, 3], [True, "1", None]),
        ("bool", [True], [0, "true"]),
        ("str", ["a"], [1, None]),
        ("int | None", [None, 2], [-2, "a"]),
        ("Optional[float]", [None, 2.0], ["a"]),
        ("Literal['a', 'b'] | float", ["a", 1.0], ["c", None]),
        ("Literal[1]", [1], [True, 1.0]),
        ("list[int]", [[], [1, 2]], [[1, -2], 3, [1.5]]),
        ("typing.Sequence[float]", [[1, 2.5]], ["ab", ["a"]]),
        ("tuple[int, ...]", [[1, 2, 3]], [[1, "a"]]),
        ("tuple[int, str]", [[1, "a"]], [[1], ["a", 1]]),
        ("dict[str, float]", [{"a": 1}], [{"a": "b"}, [1]]),
        ("dict", [{}], [[]]),
        ("torch.Tensor", [1, "a", None], []),
        ("", [1, "a", None], []),
    ],
)
def test_values_fit_annotations(annotation, fits, misfits):
    argument = registry.Argument(annotation, None, False)
    assert [argument.refusal(value) for value in fits] == [None] * len(fits)
    assert all(argument.refusal(value) for value in misfits)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("abcdef", min_size=1), min_size=1, unique=True), st.text("abcdef"))
def test_allowed_lists_every_choice_once(choices, value):
    listed = registry.allowed(choices, value).removeprefix("allowed: ").split("; did you mean ")
    assert listed[0].split(", ") == sorted(choices)
    assert all(near.rstrip("?") in choices for near in listed[1:])


@pytest.mark.parametrize("kind", ["equations", "methods", "tasks"])
def test_what_is_read_is_what_python_sees(kind):
    assert registry.names(kind)
    for name in registry.names(kind):
        unit = registry.find(kind, name)
        seen = [p for p in inspect.signature(unit).parameters.values() if p.kind != p.VAR_KEYWORD]
        read = registry.arguments(kind, name)
        assert {p.name for p in seen} <= set(read)
        for p in seen:
            assert read[p.name].required == (p.default is p.empty), f"{name}: {p.name}"
            ast.parse(read[p.name].annotation, mode="eval")


def test_figures_are_modules_with_a_function_draw():
    assert registry.names("figures")
    assert all(callable(registry.find("figures", name)) for name in registry.names("figures"))
