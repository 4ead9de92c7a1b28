"""What every verb shares: errors of the user, outputs written whole, provenance."""

import argparse
import contextlib
import importlib.metadata
import logging
import os
import platform
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import longrun

# options that several verbs have
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"required": True, "help": "name of a file in configs/datasets"},
    "experiment": {"required": True, "help": "name of a file in configs/experiments"},
    "method": {"required": True, "help": "one of the experiment's methods"},
    "seed": {"type": int, "required": True, "help": "number of the run: 0, 1, ..."},
    "preset": {"required": True, "help": "smoke, cpu, gpu or paper"},
    "configs": {"type": Path, "default": Path("configs"), "help": "folder of the YAML files"},
    "results": {"type": Path, "default": Path("results"), "help": "folder above all presets"},
}
VERSIONED = ("longrun", "torch", "pytorch-lightning", "numpy", "scipy", "zarr", "xarray")


class UserError(Exception):
    """Something that whoever started the program can put right, said in one line."""


def run(main: Callable[[], object]) -> None:
    """Call `main` with logging to stderr; a `UserError` is one line and exit code 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    verb = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    try:
        main()
    except UserError as error:
        print(f"{verb}: error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def parser(verb: str, about: str | None, examples: str, *shared: str) -> argparse.ArgumentParser:
    """Make the parser of a verb's command line.

    Parameters
    ----------
    verb
        Name of its module.
    about
        The module's docstring (None where Python drops them), shown above the options.
    examples
        Commands to copy, shown below the options as they stand.
    shared
        Names of the options in `SHARED` that it has.
    """
    made = argparse.ArgumentParser(
        prog=f"python -m longrun.{verb}",
        description=about,
        epilog=f"Examples:\n{textwrap.indent(examples.strip(), '  ')}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in shared:
        made.add_argument(f"--{name}", **SHARED[name])
    return made


@contextlib.contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file or folder whole or not at all.

    Parameters
    ----------
    path
        Where the output belongs; its folder is created.

    Yields
    ------
    Path
        A path beside it, same suffix, to write to. It replaces `path` when the block ends and is
        removed when the block raises.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")
    try:
        yield part
        if part.is_dir() and target.is_dir():  # os.replace refuses a folder that is not empty
            shutil.rmtree(target)
        os.replace(part, target)
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        part.unlink(missing_ok=True)


def provenance() -> dict[str, Any]:
    """Describe the code and the machine of this run, as plain JSON.

    Returns
    -------
    dict
        `commit` (None outside git), `dirty`, `versions` of the packages that decide numbers,
        and `hardware`: platform, cpu, cores, gpu (None without one).
    """
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "platform": platform.platform(),
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count(),
            "gpu": _gpu(),
        },
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", longrun.__path__[0], *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for package in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # a verb without torch uses no GPU: don't pay for the import
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
