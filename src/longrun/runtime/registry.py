"""The folders are the registry: find a unit by name, and read its options without importing it."""

import ast
import difflib
import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import longrun
from longrun.runtime.cli import UserError

ROOT = Path(longrun.__path__[0])
SHOWN = 100  # letters of a value in a message


class RegistryError(UserError):
    """A unit that is unknown, or a file that doesn't hold exactly one."""


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor, read from its source.

    `annotation` has aliases resolved ("" where there is none); `default` is None where the source
    gives none or no literal; `required` arguments are supplied by the data, not by YAML.
    """

    annotation: str
    default: Any
    required: bool

    def refusal(self, value: object) -> str | None:
        """Say what `value` would have to be, or None when it fits the annotation."""
        if not self.annotation:
            return None
        node = ast.parse(self.annotation, mode="eval").body
        if _fits(node, value):
            return None
        if type(value) is int and value < 0 and _fits(node, 0):
            return f"must not be negative, is {value}"
        choices = _literals(node)
        if choices:
            return f"{shown(value)} is not allowed; {allowed(choices, value)}"
        return f"must be {self.annotation}, is {shown(value)}"


def shown(value: object) -> str:
    """Return a value as a message shows it: a thousand numbers don't fit a line."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def allowed(choices: Iterable[object], value: object = None) -> str:
    """List what is allowed and, where one is close to `value`, the nearest spelling."""
    names = sorted(str(choice) for choice in choices)
    near = difflib.get_close_matches(str(value)[:SHOWN], names, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"allowed: {', '.join(names) or 'nothing'}{hint}"


def names(kind: str, task: str | None = None) -> list[str]:
    """Names of all units of a kind, or of those in the folder of a task, sorted.

    Files that begin with "_" are not units. A name is unique within its kind, whatever the folder.
    """
    return sorted(name for name, file in _files(kind).items() if task in (None, file.parent.name))


def _files(kind: str) -> dict[str, Path]:
    """Files of the units of a kind, by name."""
    return _found(ROOT / kind)


@functools.cache
def _found(folder: Path) -> dict[str, Path]:
    """Read a folder once: a large plan looks up thousands of units."""
    found: dict[str, Path] = {}
    for file in sorted([*folder.glob("[!_]*.py"), *folder.glob("[!_]*/[!_]*.py")]):
        other = found.setdefault(file.stem, file)
        if other != file:
            raise RegistryError(f"{file}: {other} has this name already; choose another")
    return found


def path(kind: str, name: str) -> Path:
    """File of a unit.

    Raises
    ------
    RegistryError
        No such unit.
    """
    files = _files(kind)
    if name not in files:
        raise RegistryError(f"{name!r} is not among {kind}; {allowed(files, name)}")
    return files[name]


def task(method: str) -> str:
    """Name of the task that a method is for: its folder."""
    return path("methods", method).parent.name


def figures(task: str, methods: Iterable[str]) -> list[str]:
    """Names of the figures that an experiment has.

    Parameters
    ----------
    task
        The experiment's. A figure in the folder of a task is for that task only.
    methods
        Names of the units among its methods. A figure for experiments with one of a few methods
        says so in `METHODS`.
    """
    named = set(methods)
    return [
        name
        for name, file in sorted(_files("figures").items())
        if file.parent.name in ("figures", task) and named & set(only_for(file) or named)
    ]


def only_for(figure: Path) -> tuple[str, ...]:
    """Methods that a figure is limited to, read without importing it; empty for no limit."""
    return tuple(_constant(_module(figure).body, "METHODS", ()))


def metrics(method: str) -> dict[str, tuple[str, str]]:
    """Metrics that a method brings along: heading and meaning by name, from its `METRICS`."""
    return dict(_constant(_module(path("methods", method)).body, "METRICS", {}))


def attribute(kind: str, name: str, wanted: str, absent: Any) -> Any:
    """Value of an attribute that a unit's class gives as a literal, read without importing it."""
    return _constant(_unit(path(kind, name), kind).body, wanted, absent)


def _constant(body: Iterable[ast.stmt], name: str, absent: Any) -> Any:
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    return absent


def grid_multiple(method: str, options: Mapping[str, Any]) -> int:
    """Return what every side of a method's grid must be a multiple of, without importing it.

    Its file has, or imports, a function `grid_multiple` of options of the method, in plain Python,
    where its network halves the grid or cuts it into patches.
    """
    multiple = _grid_multiple(method)
    if multiple is None:
        return 1
    takes = {name: a.default for name, a in arguments("methods", method).items() if not a.required}
    return multiple(**(takes | dict(options)))


@functools.cache
def _grid_multiple(method: str) -> Callable[..., int] | None:
    file = path("methods", method)
    home = _home(file, "grid_multiple")
    if home is None:
        return None
    (text,) = (ast.unparse(n) for n in _module(home).body if _named(n) == "grid_multiple")
    function = ast.parse(text)
    for node in ast.walk(function):  # drop types, which only an import knows
        for part in ("annotation", "returns"):
            if hasattr(node, part):
                setattr(node, part, None)
    scope: dict[str, Any] = {}
    exec(compile(function, str(home), "exec"), scope)
    found: Callable[..., int] = scope["grid_multiple"]
    return found


def _named(node: ast.stmt) -> str | None:
    return node.name if isinstance(node, ast.ClassDef | ast.FunctionDef) else None


def digest(kind: str, name: str) -> str:
    """Hash of a unit's source: a run made by other code must not be resumed."""
    return hashlib.sha256(path(kind, name).read_bytes()).hexdigest()[:12]


def sources(kind: str, name: str) -> list[Path]:
    """Files of this package that a unit consists of: its own, and all that it imports.

    Verbs and the basics of the command line (`cli`, `registry`, `config`) decide no number of a
    unit and are left out.
    """
    found: set[Path] = set()
    waiting = [path(kind, name)]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(_module(file)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("longrun."):
                parts = str(node.module).split(".")[1:]
                candidates = [[*parts, alias.name] for alias in node.names] + [parts]
                files = [ROOT.joinpath(*c).with_suffix(".py") for c in candidates if len(c) > 1]
                waiting += [f for f in files if f.exists()]
    return sorted(found)


def find(kind: str, name: str) -> Any:
    """Import a unit: its one concrete class, or for figures its function `draw`.

    Raises
    ------
    RegistryError
        No such unit, none or two concrete classes in its file, or a class left abstract.
    """
    file = path(kind, name)
    if kind == "figures":
        module = importlib.import_module(module_name(file))
        if not hasattr(module, "draw"):
            raise RegistryError(f"{file}: a figure is a module with a function draw")
        return module.draw
    unit = _unit(file, kind)
    found = getattr(importlib.import_module(module_name(file)), unit.name)
    if kind != "tasks" and inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise RegistryError(f"{file}: {unit.name} is abstract, it lacks {missing}")
    return found


def build(kind: str, section: Mapping[str, Any], **given: Any) -> Any:
    """Construct the unit that a section of a YAML file names, with the section's options.

    Parameters
    ----------
    kind
        Folder of the unit.
    section
        `name`, and options of the constructor.
    given
        Arguments that no YAML file has.
    """
    name, options = section["name"], {k: v for k, v in section.items() if k != "name"}
    for key, argument in arguments(kind, name).items():
        if key in options and argument.annotation.startswith("tuple"):  # YAML has only lists
            options[key] = tuple(options[key])
    return find(kind, name)(**given, **options)


def module_name(file: Path) -> str:
    """Name under which a file of this package is imported."""
    return ".".join(["longrun", *file.relative_to(ROOT).with_suffix("").parts])


@functools.cache
def arguments(kind: str, name: str) -> dict[str, Argument]:
    """Arguments of a unit's constructor, by its syntax tree, without importing it.

    A constructor that ends in `**options` also takes the arguments of its base class, unless the
    class defines its own of that name or passes a fixed value.
    """
    file = path(kind, name)
    return _signature(file, _unit(file, kind).name)


@functools.cache
def _tree(file: Path, _modified: int) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def _module(file: Path) -> ast.Module:
    return _tree(file, file.stat().st_mtime_ns)


def _classes(file: Path) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _module(file).body if isinstance(node, ast.ClassDef)}


def _unit(file: Path, kind: str) -> ast.ClassDef:
    """Return the one public class that descends from an `Abstract...`; of a task, that base."""
    if kind == "tasks":
        units = [c for c in _classes(file).values() if c.name.startswith("Abstract")]
    else:
        units = [
            c
            for c in _classes(file).values()
            if not c.name.startswith(("_", "Abstract")) and _descends(file, c)
        ]
    if len(units) != 1:
        found = ", ".join(unit.name for unit in units) or "none"
        what = "class Abstract..." if kind == "tasks" else "concrete class of an Abstract... base"
        raise RegistryError(f"{file}: must define one {what}, found: {found}")
    return units[0]


def _bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]


def _descends(file: Path, node: ast.ClassDef) -> bool:
    for base in _bases(node):
        if base.startswith("Abstract"):
            return True
        home = _home(file, base)
        if home and base in _classes(home) and _descends(home, _classes(home)[base]):
            return True
    return False


def _home(file: Path, name: str) -> Path | None:
    """File of this package in which `name`, as seen in `file`, is defined."""
    for node in _module(file).body:
        if _named(node) == name:
            return file
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return file
        if isinstance(node, ast.ImportFrom) and any(a.name == name for a in node.names):
            source = (node.module or "").split(".")
            target_file = ROOT.joinpath(*source[1:]).with_suffix(".py")
            if source[0] == "longrun" and target_file.exists():
                return _home(target_file, name)
    return None


def _signature(file: Path, name: str) -> dict[str, Argument]:
    node = _classes(file)[name]
    init = next(
        (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
    )
    own: dict[str, Argument] = {}
    fixed: set[str] = set()
    if init:
        given = init.args.posonlyargs + init.args.args
        defaults = [None] * (len(given) - len(init.args.defaults)) + init.args.defaults
        pairs = [*zip(given, defaults, strict=True)][1:]
        pairs += zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
        own = {a.arg: _argument(file, a.annotation, default) for a, default in pairs}
        if init.args.kwarg is None:
            return own
        fixed = _fixed(init)
    for base in _bases(node):
        home = _home(file, base)
        if home and base in _classes(home):
            inherited = _signature(home, base)
            return {k: v for k, v in inherited.items() if k not in fixed} | own
    return own


def _fixed(init: ast.FunctionDef) -> set[str]:
    """Keywords of `super().__init__(..., key=value, **options)`, which options may not repeat."""
    return {
        keyword.arg
        for call in ast.walk(init)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__"
        for keyword in call.keywords
        if keyword.arg
    }


def _argument(file: Path, annotation: ast.expr | None, default: ast.expr | None) -> Argument:
    value = None
    if default is not None:
        try:
            value = ast.literal_eval(default)
        except ValueError:  # an expression: only an import knows this default
            value = None
    text = ast.unparse(_resolve(file, annotation)) if annotation else ""
    return Argument(text, value, default is None)


def _resolve(file: Path, annotation: ast.expr) -> ast.expr:
    """Replace aliases of types by the types."""

    class Resolve(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.AST:
            home = _home(file, node.id)
            for line in _module(home).body if home else ():
                if isinstance(line, ast.Assign | ast.AnnAssign) and line.value is not None:
                    targets = line.targets if isinstance(line, ast.Assign) else [line.target]
                    if any(isinstance(t, ast.Name) and t.id == node.id for t in targets):
                        assert home is not None
                        return _resolve(home, line.value)
            return node

    # a copy via text: the tree of the file is cached and must not change
    return Resolve().visit(ast.parse(ast.unparse(annotation), mode="eval").body)


def _literals(node: ast.expr) -> list[object]:
    """All values of the `Literal[...]` parts of an annotation."""
    if isinstance(node, ast.BinOp):
        return _literals(node.left) + _literals(node.right)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("Literal"):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return [ast.literal_eval(element) for element in inner]
    return []


def _fits(node: ast.expr, value: object) -> bool:
    """Whether a value read from YAML fits an annotation; what we can't read, fits."""
    if isinstance(node, ast.BinOp):
        return _fits(node.left, value) or _fits(node.right, value)
    if isinstance(node, ast.Constant):
        return value is None if node.value is None else True
    if isinstance(node, ast.Name):
        match node.id:
            case "int":  # a count is not negative
                return type(value) is int and value >= 0
            case "float":
                return type(value) in (int, float)
            case "bool" | "str":
                return type(value).__name__ == node.id
            case "list" | "tuple" | "Sequence":
                return isinstance(value, list)
            case "dict" | "Mapping":
                return isinstance(value, dict)
        return True
    if not isinstance(node, ast.Subscript):
        return True
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    match ast.unparse(node.value).split(".")[-1]:
        case "Literal":
            return any(type(v) is type(value) and v == value for v in _literals(node))
        case "Optional":
            return value is None or _fits(inner[0], value)
        case "list" | "Sequence":
            return isinstance(value, list) and all(_fits(inner[0], v) for v in value)
        case "tuple":
            if not isinstance(value, list):
                return False
            if len(inner) == 2 and ast.unparse(inner[1]) in ("...", "Ellipsis"):
                return all(_fits(inner[0], v) for v in value)
            return len(value) == len(inner) and all(map(_fits, inner, value))
        case "dict" | "Mapping":
            return isinstance(value, dict) and all(_fits(inner[-1], v) for v in value.values())
    return True
