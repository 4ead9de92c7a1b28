"""What pages know of the data of an experiment."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrun import config


def equations(configs: Path, spec: Mapping[str, Any], preset: str) -> list[str]:
    """Return the names of the equations of an experiment's data; of some data none is known."""
    stores = dict.fromkeys([*spec["train"], *spec["test"]])
    found = [config.compose_dataset(configs, name, preset).get("equation") for name in stores]
    return list(dict.fromkeys(equation["name"] for equation in found if equation))


def dimensions(page: Path) -> dict[str, int]:
    """Read the number of spatial axes of each dataset from the table of datasets, if there."""
    text = page.read_text("utf-8") if page.exists() else ""
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| [")]
    return {
        row[0][3:].partition("](")[0]: 0 if row[2] == "none" else len(row[2].split(" × "))
        for row in rows
    }


def dimensions_of(spec: Mapping[str, Any], sides: Mapping[str, int]) -> list[str]:
    """Return the numbers of spatial axes of an experiment's data, in words of the gallery."""
    stores = [*spec["train"], *spec["test"]]
    return sorted({f"{sides[name]}D" for name in stores if name in sides})
