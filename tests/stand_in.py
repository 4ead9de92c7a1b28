"""Stand-ins for the verbs, which write the outputs at once, and edits of a tree."""

import sys
from pathlib import Path

import yaml

from longrun import config
from longrun.runtime import registry

STAND_IN = """#!{python} -IS
import pathlib, sys

words = sys.argv[1:]
verb = words[1].removeprefix("longrun.")
output = pathlib.Path(words[words.index("--output-dir" if verb == "tabulate" else "--output") + 1])
whole = [] if "--measure" in words else [output]
folders = {{"generate": whole, "evaluate": [output / "predictions.zarr"],
            "tabulate": [output / "pages"]}}.get(verb, [])
files = {{
    "generate": [output] if "--measure" in words else [],
    "train": [output, output.parent / "curves.csv"],
    "evaluate": [output / "scores.parquet", output / "evaluation.json"],
    "judge": [output],
    "plot": [output / f"{{figure}}.svg" for figure in {figures}],
    "publish": [output],
    "tabulate": [output / f"{{name}}" for name in ("results.csv", "results.html", "claims.html")],
}}.get(verb, [])
for folder in folders:
    folder.mkdir(parents=True)
for file in files:
    file.parent.mkdir(exist_ok=True)
    file.write_text(" ".join(words))
print(*words)
"""


def write(folder: Path) -> Path:
    """Write the `python` that Snakemake's jobs call, and return its folder."""
    program = folder / "python"
    program.write_text(STAND_IN.format(python=sys.executable, figures=figures()))
    program.chmod(0o755)
    return folder


def figures():
    """What the experiment has."""
    return registry.figures("forecast", ["unet", "fno", "pde_refiner"])


def edit(path, change):
    """Change the content of a YAML file, and lose its comments."""
    content = config.load(path)
    change(content)
    path.write_text(yaml.safe_dump(content))


def comment(path, mark="#"):
    path.write_text(f"{mark} a remark\n{path.read_text()}")
