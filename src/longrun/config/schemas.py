"""JSON schemas of the YAML files, for editors: `python -m longrun.config.schemas workflow/schemas`.

They are for the files as they are written. What a preset's section leaves to the rest of a file, or
gives in its place, no schema can tell: only the composition knows whether a key is missing.
"""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from longrun.config.models import Dataset, Experiment, Preset, Settings
from longrun.config.section import Section
from longrun.runtime import registry
from longrun.runtime.cli import atomic

FILES: dict[str, type[Section]] = {
    "config": Settings,
    "dataset": Dataset,
    "experiment": Experiment,
    "preset": Preset,
}
VARIANTS = (
    "datasets that differ from this one in what is said here, by what their names add to the file's"
)


def schemas() -> dict[str, dict[str, Any]]:
    """Return the schemas by name."""
    found = {}
    for name, section in FILES.items():
        schema = section.model_json_schema()
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        if name in ("dataset", "experiment"):
            schema["properties"]["presets"] = {"type": "object"}
            schema.pop("required", None)  # a preset may give the rest
        if name == "dataset":
            schema["properties"]["variants"] = {"type": "object", "description": VARIANTS}
        if name == "experiment":
            schema["allOf"] = [_of_task(task) for task in registry.names("config/tasks")]
        found[name] = _lenient(schema)
    return found


def _of_task(task: str) -> dict[str, Any]:
    """Say what `evaluate` may hold where the task is this one."""
    evaluate = importlib.import_module(f"longrun.config.tasks.{task}").Evaluate.model_json_schema()
    evaluate.pop("required", None)
    named = {"required": ["name"], "properties": {"name": {"const": task}}}
    return {
        "if": {"required": ["task"], "properties": {"task": named}},
        "then": {"properties": {"evaluate": evaluate}},
    }


def _lenient(schema: Any) -> Any:
    """Drop titles, and null as default of a key that may be left out but is not null."""
    if isinstance(schema, list):
        return [_lenient(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    nullable = any(part.get("type") == "null" for part in schema.get("anyOf", []))
    return {
        key: _lenient(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
        and not (key == "default" and value is None and not nullable)
    }


def main() -> None:
    """Write the schemas into a folder."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("folder", type=Path)
    folder = made.parse_args().folder
    for name, schema in schemas().items():
        with atomic(folder / f"{name}.json") as part:
            part.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
