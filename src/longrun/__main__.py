"""Programs of Longrun, one per step: `python -m longrun` lists them.

`python -m longrun VERB ...` is `python -m longrun.VERB ...`.
"""

import ast
import runpy
import sys

from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError


def verbs() -> dict[str, str]:
    """Read what each program does, by name, from the top of its file; none is imported."""
    found = {}
    for file in sorted(registry.ROOT.glob("[!_]*.py")):
        tree = ast.parse(file.read_text("utf-8"), str(file))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if {"parser", "main"} <= functions:
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n\n")[0]
    return found


def listing() -> str:
    """Return the list of programs, and what to type next."""
    known = verbs()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {' '.join(about.split())}" for name, about in known.items()]
    return "\n".join(
        [
            "usage: python -m longrun VERB ...\n",
            *lines,
            "\n`python -m longrun VERB --help` says more, with examples. The workflow calls these",
            "programs for you: `make` says how.",
        ]
    )


def main() -> None:
    """List the programs, or run one."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return
    if words[0] not in verbs():
        raise UserError(f"{words[0]}: no such verb; {registry.allowed(verbs(), words[0])}")
    sys.argv[1:] = words[1:]
    runpy.run_module(f"longrun.{words[0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    cli.run(main)
