"""Write the page that lists every dataset: its equation, its numbers and a picture."""

import argparse
import ast
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun import config
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError

HEADING = """# Datasets

Written by the workflow (`make datasets`), preset `{preset}`. Each dataset is a file in
`configs/datasets/`; each was generated, measured and drawn by the code of this repository.

- **error**: relative RMSE of what is stored against a run from the same state at half the step and
  twice the resolution, after one frame and at the last frame that was followed. In a chaotic
  system the latter grows until nothing is left in common.
- **predictability**: how long two runs that differ by 1e-6 stay correlated above 0.8; ≥ where some
  still were when the clock ran out. A steady map has none.

| dataset | equation | grid | trajectories × frames | error, first | last | predictability | size |
|---|---|---|---|---|---|---|---|
"""


def about(equation: str) -> str:
    """Return the first paragraphs of an equation's docstring, up to its parameters.

    Read from the source without importing it.
    """
    tree = ast.parse(registry.path("equations", equation).read_text("utf-8"))
    classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    text = ast.get_docstring(classes[-1]) or ast.get_docstring(tree) or ""
    return text.split("\nParameters\n")[0].strip()


def row(name: str, facts: Mapping[str, Any]) -> str:
    """Return a dataset's line of the table."""
    train = facts["splits"]["train"]
    others = [facts["splits"][split]["trajectories"] for split in ("valid", "test")]
    numbers = [train["trajectories"], *others]
    cells = [
        f"[{name}](#{name})",
        facts["equation"]["name"],
        " × ".join(map(str, facts["space"])) or "none",
        f"{' + '.join(map(str, numbers))} × {train['frames']}",
        _number(facts["reference_error"]),
        _number(facts["last_reference_error"]),
        _predictability(facts),
        f"{facts['bytes'] / 1e6:.1f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def section(name: str, facts: Mapping[str, Any]) -> str:
    """Return a dataset's part of the page: equation, fields, parameters, picture."""
    fields = ", ".join(f"{key} ({field['long_name']})" for key, field in facts["fields"].items())
    parameters = ", ".join(
        f"{key} {value['low']:.4g}"
        + (f" to {value['high']:.4g}" if value["high"] > value["low"] else "")
        for key, value in facts["parameters"].items()
    )
    boundary = ", ".join(f"{axis} {kind}" for axis, kind in facts["boundary"].items())
    made = facts["provenance"]
    versions = made["versions"]
    lines = [
        f"## {name}",
        about(facts["equation"]["name"]),
        f"- fields: {fields}\n- parameters: {parameters or 'none'}"
        + (f"\n- boundary: {boundary}" if boundary else "")
        + f"\n- made: at commit {str(made['commit'])[:12]} on {made['hardware']['cpu']}, with "
        f"Python {versions['python']} and torch {versions['torch']}",
        f"![{name}](datasets/{name}.png)",
    ]
    return "\n\n".join(lines) + "\n"


def page(preset: str, found: Mapping[str, Mapping[str, Any]], old: str, known: list[str]) -> str:
    """Return the whole page.

    Parameters
    ----------
    found
        The facts of the datasets that were made here, by name.
    old
        The page as it is: of the other datasets it keeps its word, where the preset is the same.
    known
        Names of all datasets.

    Raises
    ------
    UserError
        A dataset that was not made, and of which the old page says nothing.
    """
    rows, sections = {}, {}
    if f"preset `{preset}`" in old:
        rows = {line.split("](#")[0][3:]: line for line in old.splitlines() if "](#" in line}
        sections = {part.split("\n")[0]: f"## {part}" for part in old.split("\n## ")[1:]}
    rows |= {name: row(name, facts) for name, facts in found.items()}
    sections |= {name: section(name, facts) for name, facts in found.items()}
    for name in known:
        if name not in rows or name not in sections:
            raise UserError(
                f"{name}: was not made; snakemake -- results/{preset}/datasets/{name}.json"
            )
    table = "\n".join(rows[name] for name in known)
    texts = "\n".join(sections[name].rstrip() + "\n" for name in known)
    return f"{HEADING.format(preset=preset)}{table}\n\n{texts}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1e}"


def _predictability(facts: Mapping[str, Any]) -> str:
    limit = facts["predictability"]
    if limit is None:
        return "none"
    return f"{'≥ ' if facts['predictability_censored'] else ''}{limit:.4g}"


EXAMPLES = """
python -m longrun.catalogue --preset cpu --facts results/cpu/datasets --output docs/datasets.md
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("catalogue", __doc__, EXAMPLES, "preset", "configs")
    made.add_argument("--facts", type=Path, required=True, help="folder of JSON and PNG files")
    made.add_argument("--output", type=Path, required=True, help="page to write")
    return made


def main() -> None:
    """Read the command line and write the page, with the pictures in a folder beside it."""
    arguments = parser().parse_args()
    names = config.datasets(arguments.configs)
    files = {name: arguments.facts / f"{name}.json" for name in names}
    found = {name: cli.read_json(file, "inspect") for name, file in files.items() if file.exists()}
    pictures = arguments.output.parent / "datasets"
    for name in found if pictures != arguments.facts else ():
        with cli.atomic(pictures / f"{name}.png") as part:
            shutil.copyfile(arguments.facts / f"{name}.png", part)
    with cli.atomic(arguments.output) as part:
        old = arguments.output.read_text("utf-8") if arguments.output.exists() else ""
        part.write_text(page(arguments.preset, found, old, names), "utf-8")


if __name__ == "__main__":
    cli.run(main)
