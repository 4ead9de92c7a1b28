"""Check this machine and this folder, and say what to mend.

Every line begins with `ok`, `mend` (something is worth doing) or `STOP` (nothing will run before it
is done). The exit code is 1 where a line says STOP. Keys are looked for, never shown.
"""

import argparse
import base64
import binascii
import contextlib
import importlib.metadata
import importlib.util
import netrc
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun.runtime import cli

PYTHONS = ((3, 11), (3, 14))  # the first, and the first that is too new
MALWARE = {"pytorch-lightning": ("2.6.2", "2.6.3"), "lightning": ("2.6.2", "2.6.3")}
PIN = re.compile(r"([\w.-]+)==([\w.]+)(?:; *python_version *(<|>=) *'(\d+)\.(\d+)')?")
FREE = 10  # GB: the data and results of preset cpu, and room for logs and checkpoints
MEMORY = 8  # GB for one run, as the rules ask
HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # under which wandb keeps keys
SHOWN = 3  # names of a long list
WAIT = 10  # seconds for another program


@dataclass(frozen=True)
class Line:
    """One line of the answer.

    Attributes
    ----------
    subject
        What was looked at.
    found
        What there is.
    remedy
        What to do; nothing where all is well.
    stops
        Whether nothing runs before that is done.
    """

    subject: str
    found: str
    remedy: str = ""
    stops: bool = False

    def text(self) -> str:
        """Return the line as printed, with the remedy below."""
        mark = "STOP" if self.stops else "mend" if self.remedy else "ok"
        text = f"{mark:<4}  {self.subject:<10}  {self.found}"
        return text + (f"\n{'':18}-> {self.remedy}" if self.remedy else "")


def python(version: tuple[int, ...]) -> Line:
    """Judge the version of Python."""
    found = ".".join(map(str, version[:3]))
    if PYTHONS[0] <= version[:2] < PYTHONS[1]:
        return Line("python", f"{found}, {sys.executable}")
    remedy = "name Python 3.11, 3.12 or 3.13: remove .venv, then make PYTHON=python3.12"
    return Line("python", found, remedy, stops=True)


def pins(requirements: Iterable[str], version: tuple[int, ...]) -> dict[str, str]:
    """Return the pinned version by package, for this version of Python."""
    found = {}
    for requirement in requirements:
        match = PIN.fullmatch(requirement)
        if match is None:
            continue
        name, pinned, sign, major, minor = match.groups()
        older = sign is not None and version[:2] < (int(major), int(minor))
        if sign is None or older == (sign == "<"):
            found[name] = pinned
    return found


def installed(names: Iterable[str]) -> dict[str, str]:
    """Return the version by package, of those that are installed."""
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def packages(pinned: Mapping[str, str], found: Mapping[str, str]) -> list[Line]:
    """Compare packages with the pins; torch's build (`+cpu`, `+cu130`) is free."""
    lines = []
    for name, versions in MALWARE.items():
        if found.get(name) in versions:
            remedy = "it steals credentials: pip uninstall it, and change every key you had here"
            lines.append(Line("packages", f"{name} {found[name]}", remedy, stops=True))
    again = "rm .venv/installed, then any make target; or pip install -e . by hand"
    missing = [name for name in pinned if name not in found]
    if missing:
        lines.append(Line("packages", f"missing: {', '.join(missing)}", again, stops=True))
    other = [
        f"{name} {found[name]} (pinned {version})"
        for name, version in pinned.items()
        if name in found and found[name].partition("+")[0] != version
    ]
    if other:
        lines.append(Line("packages", f"not as pinned: {', '.join(other)}", again))
    return lines or [Line("packages", f"all {len(pinned)} as pinned")]


def devices(torch: Any, has_driver: bool) -> list[Line]:
    """List the devices that torch can use.

    Parameters
    ----------
    torch
        The module, or a stand-in.
    has_driver
        Whether `nvidia-smi` is there.
    """
    if torch.cuda.is_available():
        lines = []
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            memory = f"{total / 1e9:.0f} GB, {free / 1e9:.0f} GB of it free"
            lines.append(Line("device", f"cuda:{number} {name}, {memory}"))
        return lines
    if has_driver:
        found = f"no GPU for torch {torch.__version__}, though nvidia-smi is there"
        remedy = "install a build of torch for your CUDA driver: pytorch.org says which"
        return [Line("device", found, remedy)]
    if torch.backends.mps.is_available():
        return [Line("device", "mps, which the presets don't use; cpu")]
    return [Line("device", "cpu alone; presets gpu and paper need a GPU")]


def accelerator(preset: str, wanted: str, may_have_gpu: bool, cluster: bool) -> Line:
    """Judge whether the settings' preset finds the device that it asks for.

    Parameters
    ----------
    preset
        Its name.
    wanted
        Its `trainer.accelerator`.
    may_have_gpu
        See `longrun.runtime.cli`.
    cluster
        Whether there is one to run jobs on.
    """
    if wanted != "gpu" or may_have_gpu:
        return Line("device", f"preset {preset} runs here")
    found = f"preset {preset} asks for a GPU, and there is none here"
    if cluster:
        return Line("device", found, "send the jobs to the cluster: docs/cluster.md")
    remedy = "set preset: cpu in configs/config.yaml, or start on a machine with a GPU"
    return Line("device", found, remedy, stops=True)


def cache(environment: Mapping[str, str]) -> Line:
    """Judge the folder in which Snakemake and other programs keep their files."""
    home = environment.get("HOME") or str(Path("~").expanduser())
    folder = Path(environment.get("XDG_CACHE_HOME") or Path(home, ".cache"))
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return Line("cache", str(folder))
    remedy = "export XDG_CACHE_HOME=$PWD/.cache, or Snakemake won't start"
    return Line("cache", f"{folder} can't be written to", remedy, stops=True)


def processor(environment: Mapping[str, str]) -> Line:
    """Cores, and what limits the threads of a program that is started by hand."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    limits = ", ".join(f"{name}={environment[name]}" for name in names if name in environment)
    return Line("cores", f"{count}; {limits or 'no limit of threads'} (the rules set their own)")


def memory(total: float | None) -> Line:
    """Judge the memory, in bytes; None where the system doesn't say."""
    if total is None:
        return Line("memory", "unknown")
    found = f"{total / 1e9:.0f} GB"
    if total < MEMORY * 1e9:
        return Line("memory", found, f"a run may need {MEMORY} GB: use preset smoke, or CORES=1")
    return Line("memory", found)


def disk(folder: Path, free: float, writable: bool) -> Line:
    """Judge the room for a folder, in bytes."""
    found = f"{folder}/ has {free / 1e9:.1f} GB free"
    if not writable:
        return Line(
            "disk", f"{folder}/ can't be written to", "change its owner or mode", stops=True
        )
    if free < FREE * 1e9:
        return Line("disk", found, f"free {FREE} GB, or put a link to a larger disk in its place")
    return Line("disk", found)


def git(commit: str | None, changed: Sequence[str]) -> Line:
    """Say which commit results will name, see `longrun.runtime.cli.revision`."""
    if commit is None:
        return Line("git", "doesn't track this code: results will not name a commit")
    if changed:
        found = f"{commit[:10]}, {len(changed)} changed files: results will say so"
        return Line("git", found, "commit before a run that you will publish")
    return Line("git", f"{commit[:10]}, nothing changed")


def wandb(mode: str, has_key: bool, waiting: list[Path]) -> list[Line]:
    """Judge the mode, and whether it can work; count offline runs that were never sent."""
    lines = []
    if mode not in ("disabled", "offline", "online"):
        allowed = "set tracking or WANDB_MODE to disabled, offline or online"
        lines.append(Line("wandb", f"mode {mode!r} is unknown", allowed, stops=True))
    elif mode == "online" and not has_key:
        remedy = "wandb login; until then runs are tracked offline"
        lines.append(Line("wandb", "online, but there is no key", remedy))
    else:
        lines.append(Line("wandb", f"{mode}; a key is {'there' if has_key else 'not set'}"))
    if waiting:
        found = f"offline runs never sent: {len(waiting)}, the first is {waiting[0]}"
        lines.append(Line("wandb", found, "wandb sync FOLDER for each, in order of time"))
    return lines


def has_wandb_key(environment: Mapping[str, str]) -> bool:
    """Whether wandb would find a key, in the environment or in the file of passwords."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    own = re.sub(r"^https?://|/.*", "", environment.get("WANDB_BASE_URL", ""))
    file = environment.get("NETRC") or Path.home() / ".netrc"
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        known = netrc.netrc(str(file)).hosts
        return any(host in known for host in (own, *HOSTS))
    return False


def offline_runs(folder: Path) -> list[Path]:
    """Folders of offline runs that were not sent, in order of time."""
    found = folder.glob("**/wandb/offline-run-*")
    waiting = (run for run in found if not any(run.glob("*.wandb.synced")))
    return sorted(waiting, key=lambda run: run.name)


def slurm(sinfo: str | None, run: Callable[..., str | None], plugin: str | None) -> Line:
    """Judge whether the Slurm profile can work here.

    Parameters
    ----------
    sinfo
        Path of the program, None where there is none.
    run
        Runs a program, see `output_of`.
    plugin
        Version of Snakemake's plugin for it.
    """
    if sinfo is None:
        return Line("slurm", "none here")
    answer = run("sinfo", "--noheader", "--format=%P")
    if answer is None:
        return Line("slurm", "sinfo doesn't answer", "ask your cluster, or log in elsewhere")
    partitions = ", ".join(answer.split()[:SHOWN])
    if plugin is None:
        remedy = ".venv/bin/pip install -e '.[slurm]'"
        return Line("slurm", f"partitions {partitions}; no plugin for Snakemake", remedy)
    return Line("slurm", f"partitions {partitions}; plugin {plugin}")


def snakemake(folder: Path) -> list[Line]:
    """Look for locks and unfinished jobs that a killed Snakemake left."""
    if not folder.exists():
        return [Line("snakemake", "has not run here yet")]
    lines = []
    if any((folder / "locks").glob("*")):
        remedy = "if none is running: snakemake --unlock"
        lines.append(Line("snakemake", "the folder is locked", remedy))
    markers = folder / "incomplete"
    cut = sorted(
        _marked(file.relative_to(markers)) for file in markers.rglob("*") if file.is_file()
    )
    if cut:
        more = f" and {len(cut) - SHOWN} more" if len(cut) > SHOWN else ""
        remedy = "if none is running: snakemake --rerun-incomplete, or make reproduce"
        lines.append(Line("snakemake", f"cut short: {', '.join(cut[:SHOWN])}{more}", remedy))
    return lines or [Line("snakemake", "no lock, nothing cut short")]


def _marked(marker: Path) -> str:
    """Return the output that Snakemake's marker names in base 64, in folders where long."""
    encoded = "".join(part.removeprefix("@") for part in marker.parts)
    try:
        return base64.urlsafe_b64decode(encoded).decode()
    except (binascii.Error, UnicodeDecodeError):
        return str(marker)


def output_of(*command: str) -> str | None:
    """Return what a program prints, None where it fails or doesn't answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAIT)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def configuration(folder: Path) -> tuple[Line, str]:
    """Check the settings, and every experiment and dataset at their preset.

    Returns
    -------
    line
        What there is, or the first thing that is wrong.
    tracking
        The mode that the settings ask for.
    """
    from longrun import config  # needs packages that may be missing

    try:
        settings = config.settings(folder)
        config.validate_all(folder, settings["experiments"], settings["preset"])
    except cli.UserError as error:
        return Line("configs", str(error), "correct it", stops=True), "disabled"
    count = len(settings["experiments"])
    found = f"preset {settings['preset']}, {count} experiments, tracking {settings['tracking']}"
    return Line("configs", found), settings["tracking"]


def _wanted(folder: Path) -> tuple[str, str]:
    """Return the preset of the settings, and the accelerator that it asks for."""
    from longrun import config

    preset = config.settings(folder)["preset"]
    trainer = config.load(folder / "presets" / f"{preset}.yaml").get("trainer", {})
    return preset, trainer.get("accelerator", "auto")


def examine(configs: Path, environment: Mapping[str, str]) -> Iterator[Line]:
    """Look at everything, the most fundamental first."""
    version = tuple(sys.version_info[:3])
    yield python(version)
    project = Path("pyproject.toml")
    if not project.exists() or not Path("Snakefile").exists():
        yield Line("folder", str(Path.cwd()), "start it in the repository's folder", stops=True)
        return
    table = tomllib.loads(project.read_text("utf-8"))["project"]
    pinned = pins(table["dependencies"], version)
    yield from packages(pinned, installed({*pinned, *MALWARE}))
    if importlib.util.find_spec("torch"):
        import torch

        yield from devices(torch, shutil.which("nvidia-smi") is not None)
    yield processor(environment)
    yield memory(_memory())
    for name in ("data", "results", "runs"):
        there = next(path for path in (Path(name), Path()) if path.exists())
        yield disk(Path(name), shutil.disk_usage(there).free, os.access(there, os.W_OK))
    yield cache(environment)
    yield git(*cli.revision())
    mode = "disabled"
    sinfo = shutil.which("sinfo")
    if not {"pydantic", "pyyaml"} - set(installed(pinned)):
        line, mode = configuration(configs)
        yield line
        if not line.stops:
            yield accelerator(*_wanted(configs), cli.may_have_gpu(), sinfo is not None)
    mode = environment.get("WANDB_MODE", mode)
    yield from wandb(mode, has_wandb_key(environment), offline_runs(Path("runs")))
    plugin = "snakemake-executor-plugin-slurm"
    yield slurm(sinfo, output_of, installed([plugin]).get(plugin))
    yield from snakemake(Path(".snakemake"))


def _memory() -> float | None:
    with contextlib.suppress(ValueError, OSError):
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return None


EXAMPLES = """
python -m longrun.doctor
WANDB_MODE=online python -m longrun.doctor
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    return cli.parser("doctor", __doc__, EXAMPLES, "configs")


def main() -> None:
    """Print one line per finding."""
    arguments = parser().parse_args()
    stops, count = False, 0
    for line in examine(arguments.configs, os.environ):
        print(line.text(), flush=True)
        stops, count = stops or line.stops, count + bool(line.remedy)
    print(f"\n{count or 'nothing'} to mend" + ("; until then nothing will run" if stops else ""))
    sys.exit(int(stops))


if __name__ == "__main__":
    cli.run(main)
