"""A project of small sizes to break, verbs that cost no start, and the table of what was lost."""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import toy

from faults.rows import ABOUT, HEADINGS, ROWS
from longrun import config
from longrun.metrics.table import read_scores
from longrun.runtime import checkpoint, cli

FULL = os.environ.get("FAULTS") == "full"  # as `make faults` does; else a tenth of the cases
SEED = 20260117
PAGE = Path("docs/reliability.md")
SECONDS = 1800  # how long a verb may take on the slowest machine

DATASET = {
    "equation": {
        "name": "kuramoto_sivashinsky",
        "points": 16,
        "length": {"uniform": [7.0, 8.0]},
        "dt": 0.2,
        "viscosity": 1.0,
        "substeps": 1,
        "burn_in": 20,
        "integrator": "etdrk4",
    },
    "seed": 1,
    "splits": {
        "train": {"trajectories": 12, "frames": 30},
        "valid": {"trajectories": 2, "frames": 20},
        "test": {"trajectories": 4, "frames": 40},
    },
    "store": {"frames_per_chunk": 10, "trajectories_per_shard": 1, "dtype": "float32"},
    "measure": {"trajectories": 4, "frames": 10},
}
NETWORK = {"name": "unet", "width": 4, "multipliers": [1, 2]}
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast", "learning_rate": 1e-3, "ema_decay": 0.9, "warmup_steps": 3},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 8, "stride": 2, "trajectories": 4, "start": 2, "keep": 1},
    "methods": {"net": NETWORK, "still": {"name": "persistence"}},
    "trainer": {
        "max_steps": 24,
        "batch_size": 4,
        "accumulate": 2,
        "clip": 1.0,
        "accelerator": "cpu",
        "validate_every": 4,
        "checkpoint_every": 4,
        "log_every": 1,
        "valid_windows": 4,
    },
    "claims": {
        "better": {
            "main": True,
            "says": "A network forecasts better than nothing.",
            "metric": "one_step_nrmse",
            "of": "net",
            "against": "still",
            "ratio": {"holds": 1.0, "direction": "below"},
        }
    },
}
RUN = "results/smoke/test"
VERBS = ("generate", "train", "evaluate", "judge", "tabulate")


def times(full: int) -> int:
    """How often: as often as `make faults` says, a tenth of that elsewhere, at least once."""
    return full if FULL else max(1, full // 10)


def few(cases, least: int = 1) -> list:
    """All cases in a full run, a tenth of them elsewhere: always the same ones."""
    cases = list(cases)
    few = max(least, len(cases) // 10)
    return cases if FULL else random.Random(f"{SEED} {cases}").sample(cases, few)


def some(chance: random.Random, cases: dict) -> list[tuple]:
    """All cases in a full run; elsewhere a tenth of them, at least three."""
    chosen = cases if FULL else chance.sample(sorted(cases), max(3, len(cases) // 10))
    return [(what, cases[what]) for what in chosen]


# The table ---------------------------------------------------------------------------------------


@dataclass
class Row:
    """What was done, how often, and what was lost each time."""

    key: str
    lost: Counter = field(default_factory=Counter)

    def add(self, lost: str, count: int = 1) -> None:
        self.lost[lost] += count


def page() -> str:
    """The text of the page."""
    lines = [
        "# Reliability",
        "",
        ABOUT,
    ]
    for group, heading in HEADINGS.items():
        lines += ["", f"## {heading}", "", "| what was done | how often | what was lost |"]
        lines.append("|---|---|---|")
        for key, what in ROWS.items():
            if key.startswith(f"{group}_"):
                lost = RECORDED[key].lost
                many = len(lost) > 1
                parts = [f"{text} ({n})" if many else text for text, n in lost.most_common()]
                lines.append(f"| {what} | {lost.total()} | {'; '.join(parts)} |")
    return "\n".join(lines) + "\n"


RECORDED: dict[str, Row] = {}


# Verbs -------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A verb that runs in a separate process."""

    server: "Server"
    pid: int
    log: Path

    def wait(self, seconds=SECONDS):
        """Wait for its end; `code`, `cpu` and `peak` become attributes, code None if killed."""
        answer = self.server.ask(wait={"pid": self.pid, "seconds": seconds})
        self.code, self.cpu, self.peak = answer["code"], answer["cpu"], answer["peak"]
        return self

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def refusal(self) -> str:
        """The one line that it ended with."""
        assert self.code == 2, f"code {self.code}\n{self.text[-3000:]}"
        assert "Traceback" not in self.text
        said = [line for line in self.text.splitlines() if ": error: " in line]
        assert len(said) == 1 and said[0] == self.text.splitlines()[-1], self.text
        return said[0]


class Server:
    """The other end of server.py."""

    def __init__(self, root: Path, logs: Path):
        self.logs, self.count = logs, 0
        self.environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "WANDB_MODE": "disabled",
            "PYTHONPATH": str(root / "src"),
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py")],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert json.loads(self.process.stdout.readline())["ready"]

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, verb, arguments, cwd, **how) -> Child:
        log, words = self.log(), [str(word) for word in arguments]
        request = {"verb": verb, "arguments": words, "cwd": str(cwd), "log": str(log), **how}
        return Child(self, self.ask(start=request)["pid"], log)

    def run(self, verb, arguments, cwd, **how) -> Child:
        return self.start(verb, arguments, cwd, **how).wait()

    def fresh(self, verb, arguments, cwd) -> Child:
        """Run a verb as a user starts it, in a Python that has imported nothing."""
        log = self.log()
        with log.open("w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", f"longrun.{verb}", *map(str, arguments)],
                cwd=cwd,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
            _, status, usage = os.wait4(process.pid, 0)
        child = Child(self, process.pid, log)
        child.code = process.returncode = os.waitstatus_to_exitcode(status)
        child.cpu = usage.ru_utime + usage.ru_stime
        return child

    def log(self) -> Path:
        """A new file for a verb's output."""
        self.count += 1
        return self.logs / f"{self.count}.log"


# A project ---------------------------------------------------------------------------------------


@dataclass
class Project:
    """A folder with configurations, and what the verbs have made in it so far."""

    folder: Path
    server: Server
    seconds: dict[str, float] = field(default_factory=dict)  # that each verb took

    def configure(self, dataset=DATASET, experiment=EXPERIMENT) -> "Project":
        toy.configure(self.folder, dataset, experiment)
        return self

    def copy(self, folder: Path) -> "Project":
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, self.server)

    def start(self, verb, method="net", more=(), **how) -> Child:
        return self.server.start(verb, [*self.arguments(verb, method), *more], self.folder, **how)

    def run(self, verb, method="net", more=(), **how) -> Child:
        return self.start(verb, method, more, **how).wait()

    def fresh(self, verb) -> Child:
        return self.server.fresh(verb, self.arguments(verb), self.folder)

    def made(self, verb, method="net", **how) -> "Project":
        """Run a verb that must succeed."""
        began = time.monotonic()
        done = self.run(verb, method, **how)
        self.seconds.setdefault(verb, time.monotonic() - began)
        assert done.code == 0, done.text[-3000:]
        return self

    def everything(self, last="tabulate") -> "Project":
        """Run all verbs up to one."""
        for verb in VERBS[: VERBS.index(last) + 1]:
            for method in ("net", "still") if verb in ("train", "evaluate") else ("net",):
                self.made(verb, method)
        return self

    @staticmethod
    def arguments(verb, method="net") -> list[str]:
        run = f"{RUN}/{method}/seed0"
        one = ["--experiment", "test", "--method", method, "--seed", "0", "--data", "toy.zarr"]
        words = {
            "generate": ["--dataset", "toy", "--output", "toy.zarr"],
            "train": [*one, "--output", f"{run}/model.ckpt", "--run-dir", f"runs/{method}"],
            "evaluate": [*one, "--checkpoint", f"{run}/model.ckpt", "--output", run],
            "judge": ["--experiment", "test", "--output", f"{RUN}/claims.json"],
            "tabulate": ["--output-dir", "results/smoke"],
        }[verb]
        return ["--preset", "smoke", *words]

    def output(self, verb, method="net") -> Path:
        """The folder that a verb writes to, which holds nothing before."""
        return {
            "generate": self.folder / "toy.zarr",
            "train": self.folder / RUN / method / "seed0",
            "evaluate": self.folder / RUN / method / "seed0",
            "judge": self.folder / RUN,
            "tabulate": self.folder / "results/smoke",
        }[verb]

    def without(self, verb, method="net") -> "Project":
        """Delete what a verb has made."""
        for name in FILES[verb]:
            cli._remove(self.output(verb, method) / name)
        if verb == "generate":
            cli._remove(self.output(verb))
        if verb == "train":
            shutil.rmtree(self.folder / f"runs/{method}", ignore_errors=True)
        return self

    def content(self, verb, method="net") -> dict:
        """What a verb has made, by name, without what differs between two runs of the same."""
        folder = self.output(verb, method)
        names = FILES[verb] or ["."]
        return {n: _content(folder / n) for n in names if (folder / n).exists()}

    def leftovers(self) -> list[str]:
        """Files that only a process that was killed leaves."""
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.name.startswith(".") or path.suffix in (".part", ".partial")
        )


FILES = {
    "generate": [],
    "train": ["model.ckpt", "curves.csv"],
    "evaluate": ["scores.parquet", "predictions.zarr", "evaluation.json"],
    "judge": ["claims.json"],
    "tabulate": ["results.csv", "results.html", "claims.html", "pages"],
}
TIMED = ("train_seconds", "wall_time_per_second", "peak_memory_mb")  # of the machine


def _content(path: Path):
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}
    if path.suffix == ".ckpt":
        content = checkpoint.read(path)
        del content["train_seconds"]
        state = content.pop("state_dict")
        weights = {name: tensor.numpy().tobytes() for name, tensor in state.items()}
        return weights | {"rest": json.dumps(content, sort_keys=True)}
    if path.suffix == ".parquet":
        scores = read_scores(path)
        kept = scores[~scores["metric"].isin(TIMED)]
        return kept.to_csv(index=False)
    if path.name == "evaluation.json":
        return {k: v for k, v in json.loads(path.read_text()).items() if k != "wall_seconds"}
    return path.read_bytes()


# Disks -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """Mount something at a folder, or skip where that is not allowed."""
    done = subprocess.run(["mount", *options, folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def resize(folder: Path, kilobytes: int) -> None:
    """Give a tmpfs another size."""
    options = f"remount,size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def until(there, child: Child | None = None) -> None:
    """Wait for a condition, as long as it may take."""
    limit = time.monotonic() + SECONDS
    while not there():
        assert time.monotonic() < limit, child and child.text
        time.sleep(0.002)


def saved(content: dict) -> bytes:
    """Bytes of a checkpoint."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def compose(folder: Path) -> dict:
    return config.compose(folder / "configs", "test", "smoke")
