"""Write the pages on data: a table of all datasets, and a page for each equation.

Outputs
-------
`--output`: a table with the measured numbers of every dataset.
`equations/{equation}.md` beside it: what is solved; fields, parameters, a picture of each dataset.
`datasets/`: the pictures.

Datasets that were made at another time, at the same preset, keep their row and their part.
"""

import argparse
import ast
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from longrun import config
from longrun.runtime import cli, registry

HEADING = """# Datasets

Written by the workflow (`make datasets`), preset `{preset}`. Each dataset is a file in
`configs/datasets/`, or a variant in one, which stands below it; each was generated, measured and
drawn by the code of this repository. A name leads to the page of its equation, with fields,
parameters and a picture.

- **error**: relative RMSE of what is stored against a run from the same state at half the step and
  twice the resolution, after one frame and at the last frame that was followed. In a chaotic
  system the latter grows until nothing is left in common.
- **predictability**: how long two runs that differ by 1e-6 stay correlated above 0.8; ≥ where some
  still were when the clock ran out. A steady map has none.

| dataset | equation | grid | trajectories × frames | error, first | last | predictability | size |
|---|---|---|---|---|---|---|---|
"""

NOT_MADE = "Not made at this preset yet:"


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
        f"[{name}](equations/{facts['equation']['name']}.md#{name})",
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
    """Return a dataset's part of its equation's page: fields, parameters, origin, picture."""
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
        f"- fields: {fields}\n- parameters: {parameters or 'none'}"
        + (f"\n- boundary: {boundary}" if boundary else "")
        + f"\n- made: at commit {str(made['commit'])[:12]} on {made['hardware']['cpu']}, with "
        f"Python {versions['python']} and torch {versions['torch']}",
        f"![{name}](../datasets/{name}.png)",
    ]
    return "\n\n".join(lines) + "\n"


def table(
    preset: str, found: Mapping[str, Mapping[str, Any]], old: str, known: Iterable[str]
) -> str:
    """Return the page with the table.

    Parameters
    ----------
    found
        The facts of the datasets that were made here, by name.
    old
        The page as it is: the other datasets keep their rows, where the preset is the same.
    known
        Names of all datasets.

    Returns
    -------
    str
        A row for each dataset that was made; a line names those that were not, at this preset.
    """
    rows = {}
    if f"preset `{preset}`" in old:
        rows = {line.split("](")[0][3:]: line for line in old.splitlines() if line[:3] == "| ["}
    rows |= {name: row(name, facts) for name, facts in found.items()}
    names = list(known)
    text = "".join(f"{rows[name]}\n" for name in names if name in rows)
    missing = [f"`{name}`" for name in names if name not in rows]
    if missing:
        text += f"\n{NOT_MADE} {', '.join(missing)}.\n"
    return HEADING.format(preset=preset) + text


def equation_page(
    equation: str, found: Mapping[str, Mapping[str, Any]], old: str, known: Iterable[str]
) -> str:
    """Return the page of an equation, with a part for each of its datasets.

    Parameters
    ----------
    found
        The facts of the datasets that were made here, by name.
    old
        The page as it is, empty where it is of another preset: other datasets keep their parts.
    known
        Names of the equation's datasets.
    """
    parts = {part.split("\n")[0]: f"## {part}" for part in old.split("\n## ")[1:]}
    parts |= {name: section(name, found[name]) for name in known if name in found}
    texts = "\n".join(parts[name].rstrip() + "\n" for name in known if name in parts)
    file = registry.path("equations", equation).relative_to(registry.ROOT)
    return f"# {equation}\n\n{about(equation)}\n\nCode: `{file}`. Datasets:\n\n{texts}"


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
    made.add_argument("--output", type=Path, required=True, help="page of the table")
    return made


def main() -> None:
    """Read the command line and write the pages, with the pictures in a folder beside them."""
    arguments = parser().parse_args()
    preset, output = arguments.preset, arguments.output
    every = config.datasets(arguments.configs)
    composed = {name: config.compose_dataset(arguments.configs, name, preset) for name in every}
    # files of one's own are nobody else's
    simulated = {name: spec for name, spec in composed.items() if "source" not in spec}
    of = {name: spec["equation"]["name"] for name, spec in simulated.items()}
    names = list(of)
    files = {name: arguments.facts / f"{name}.json" for name in names}
    found = {name: cli.read_json(file, "inspect") for name, file in files.items() if file.exists()}
    old = output.read_text("utf-8") if output.exists() else ""
    whole = table(preset, found, old, names)
    kept = f"preset `{preset}`" in old
    for equation in sorted(set(of.values())):
        file = output.parent / "equations" / f"{equation}.md"
        before = file.read_text("utf-8") if kept and file.exists() else ""
        own = [name for name in names if of[name] == equation]
        with cli.atomic(file) as part:
            part.write_text(equation_page(equation, found, before, own), "utf-8")
    pictures = output.parent / "datasets"
    for name in found if pictures != arguments.facts else ():
        with cli.atomic(pictures / f"{name}.png") as part:
            shutil.copyfile(arguments.facts / f"{name}.png", part)
    with cli.atomic(output) as part:
        part.write_text(whole, "utf-8")


if __name__ == "__main__":
    cli.run(main)
