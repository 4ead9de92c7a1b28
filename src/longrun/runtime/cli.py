"""What every verb shares: errors of the user, outputs written whole, provenance."""

import argparse
import contextlib
import errno
import importlib.metadata
import json
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import longrun

try:
    import fcntl
except ImportError:  # not POSIX: there are no locks
    fcntl = None  # type: ignore[assignment]

# errors for which the system is to blame when a file can't be written
REFUSED = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EIO", "ENAMETOOLONG")
    if hasattr(errno, name)
}
NO_MEMORY = re.compile("can't allocate memory|out of memory")  # in what torch says
GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, AMD, and Windows' Linux
BUSY, NO_LOCKS = -1, -2
# options that several verbs have
SHARED: dict[str, dict[str, Any]] = {
    "dataset": {"required": True, "help": "a file in configs/datasets, or a variant in one"},
    "experiment": {"required": True, "help": "a file in configs/experiments"},
    "method": {"required": True, "help": "one of the experiment's methods"},
    "seed": {"type": int, "required": True, "help": "number of the run: 0, 1, ..."},
    "preset": {"required": True, "help": "smoke, cpu, gpu or paper"},
    "configs": {"type": Path, "default": Path("configs"), "help": "folder of the YAML files"},
    "results": {"type": Path, "default": Path("results"), "help": "folder above all presets"},
}
# variables that point git to another repository than the folder's
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
VERSIONED = ("longrun", "torch", "pytorch-lightning", "numpy", "scipy", "zarr", "xarray")


class UserError(Exception):
    """An error that the user can put right, said in one line."""


def run(main: Callable[[], object]) -> None:
    """Call `main` with logging to stderr; an error of the user is one line and exit code 2.

    So is what the machine refuses: a file that is gone, a full disk, no memory.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    verb = spec.name.removesuffix(".__main__") if spec else Path(sys.argv[0]).stem
    try:
        main()
    except UserError as error:
        problem = str(error)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not NO_MEMORY.search(str(error)):
            raise
        problem = f"not enough memory: {error}"
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise
        problem = str(error)
    else:
        return
    print(f"{verb}: error: {_one_line(problem)}", file=sys.stderr)
    sys.exit(2)


def _one_line(text: str) -> str:
    """Join lines, and escape what a terminal would obey; names in a file can hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file where the system refuses to write: its own errors often don't.

    Raises
    ------
    UserError
        A full disk, a quota, a folder that may not be written to, a broken disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise UserError(f"{path}: can't be written: {error.strerror or error}") from error


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only process that writes to a path, for as long as the block lasts.

    It locks a hidden file beside the path. The system releases the lock when the process ends,
    however it ends. On file systems without locks, such as some network file systems, nothing is
    locked.

    Raises
    ------
    UserError
        Another process holds it.
    """
    target = Path(path)
    lock = target.with_name(f".{target.name}.lock")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(lock)
    if held == BUSY:
        raise UserError(f"{target}: another process is writing there; wait for it, or end it")
    try:
        yield
    finally:
        if held != NO_LOCKS:
            lock.unlink(missing_ok=True)  # while held: others that have it open will notice
            os.close(held)


def _lock(file: Path) -> int:
    """Return a descriptor that holds the lock, or why there is none."""
    if fcntl is None:
        return NO_LOCKS
    while True:
        held = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(held)
            return BUSY if error.errno in (errno.EAGAIN, errno.EACCES) else NO_LOCKS
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), os.stat(file)):
                return held
        os.close(held)  # whoever held it before has removed the file: that lock guards nothing


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a path, see `locked`."""
    lock = path.with_name(f".{path.name}.lock")
    if fcntl is None or not lock.exists():
        return False
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


def check_checkout() -> None:
    """Refuse to do what needs the repository: the workflow is no part of the package.

    Raises
    ------
    UserError
        This folder is another.
    """
    if not Path("Snakefile").exists():
        raise UserError(
            f"{Path.cwd()}: no Snakefile; this needs the repository's folder, which pip does not "
            "install"
        )


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
    """Write a file or folder whole or not at all, even if the power fails.

    Parameters
    ----------
    path
        Where the output belongs; its folder is created.

    Yields
    ------
    Path
        A path beside it, same suffix, to write to. It replaces `path` when the block ends and is
        removed when the block raises; what a killed process left is removed by the next.

    Raises
    ------
    UserError
        The system refuses to write, or another process is writing the same.
    """
    target = Path(path)
    with locked(target), writing(target):
        discard_parts(target)
        part = beside(target)
        try:
            yield part
            replace(part, target)
        finally:
            _remove(part)


def replace(part: Path, target: Path) -> None:
    """Move a finished file or folder to its place, and what was there out of the way.

    Raises
    ------
    FileNotFoundError
        Nothing was written.
    """
    _flush(part)
    if part.is_dir() and target.is_dir():  # os.replace refuses a folder that is not empty
        old = beside(target)
        os.replace(target, old)  # a half-removed folder would pass as complete
        os.replace(part, target)
        _remove(old)
    else:
        os.replace(part, target)
    _flush_one(target.parent)


def discard_parts(target: Path) -> None:
    """Remove what processes killed while writing `target` left beside it."""
    name = re.compile(rf"\.{re.escape(target.stem)}\.[0-9a-f]{{8}}{re.escape(target.suffix)}")
    for entry in os.scandir(target.parent):
        if name.fullmatch(entry.name):
            _remove(Path(entry.path))


def beside(target: Path) -> Path:
    """Make up a hidden name beside a path, which `discard_parts` knows."""
    return target.with_name(f".{target.stem}.{uuid.uuid4().hex[:8]}{target.suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or everything in a folder, is on the disk."""
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            _flush_one(Path(folder, name))
        _flush_one(Path(folder))
    if not path.is_dir():
        _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that can't, which is no reason to stop
            raise
    finally:
        os.close(descriptor)


def memory() -> float:
    """Bytes of memory of this machine; infinite where the system doesn't say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError, AttributeError):
        return math.inf


def may_have_gpu() -> bool:
    """Whether torch could find a GPU here, without the seconds that asking torch takes."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(os.path.exists(file) for file in GPU_FILES)


def read_json(path: Path, verb: str) -> Any:
    """Read a JSON file that a verb wrote.

    Raises
    ------
    UserError
        No such file, or one that was cut short or written by something else.
    """
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; longrun.{verb} writes it") from error
    except (ValueError, RecursionError) as error:  # of the encoding too
        raise UserError(f"{path}: is damaged; run longrun.{verb} again") from error


def last_line(file: Path) -> str:
    """Return the last line of a log that is not blank."""
    lines = file.read_text("utf-8", "replace").splitlines() if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing was logged")


def provenance() -> dict[str, Any]:
    """Describe the code and the machine of this run, as plain JSON.

    Returns
    -------
    dict
        `commit` (None where git doesn't track this package), `dirty`, `versions` of the packages
        that decide numbers, and `hardware`: platform, cpu, cores, gpu (None without one).
    """
    commit, changed = revision()
    return {
        "commit": commit,
        "dirty": bool(changed),
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


def revision() -> tuple[str | None, list[str]]:
    """Return the commit of this package's source, and the files that differ from it.

    None where git doesn't track the source: a package that is installed below somebody's project
    lies in their repository, whose commit says nothing about it.
    """
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None, []
    changed = _git("diff", "--name-only", "HEAD") or ""
    return _git("rev-parse", "HEAD"), changed.splitlines()


def _git(*arguments: str) -> str | None:
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    try:
        done = subprocess.run(
            ["git", "-C", longrun.__path__[0], *arguments],
            env=environment,
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
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu() -> str | None:
    torch = sys.modules.get("torch")  # a verb without torch uses no GPU: don't pay for the import
    return torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
