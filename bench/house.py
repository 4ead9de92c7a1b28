"""What the workflow costs when it holds many papers: seconds, rules and jobs before any job runs.

    python bench/house.py [--papers 130] [--preset smoke] [--repeat 3]

The experiments are copied under new names, up to the requested number, into a new folder where
nothing has run. There `snakemake --dry-run` plans one file and every experiment, each in turn with
an empty workflow. Seconds are CPU time, user and system, which other load on the machine doesn't
lengthen much; wall time stands beside them. An empty workflow takes Snakemake's own start, which is
subtracted where it says "beyond".

Then each of Snakemake's schedulers runs 123 jobs that take no time, on two cores.

Goals, with 130 papers: one file at most 1 s beyond an empty workflow, everything at most 8 s.
"""

import argparse
import itertools
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOALS = {"one file": 1.0, "everything": 8.0}
EMPTY = "rule all:\n    input: []\n"
SHORT_JOBS = """
rule all:
    input: expand("{number}.txt", number=range(123))
rule short:
    output: "{number}.txt"
    shell: "touch {output}"
"""
FILE = "results/{preset}/pde_refiner/unet/seed0/scores.parquet"


def copy_house(folder: Path, papers: int) -> None:
    """Copy the workflow and fill it up with copies of its experiments."""
    for part in ("configs", "profiles", "src", "workflow"):
        shutil.copytree(part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for part in ("Snakefile", "environment.yml"):
        shutil.copy(part, folder)
    experiments = folder / "configs" / "experiments"
    originals = sorted(experiments.glob("*.yaml"))
    for number, original in zip(
        range(papers - len(originals)), itertools.cycle(originals), strict=False
    ):
        shutil.copy(original, experiments / f"{original.stem}_copy_{number}.yaml")


def snakemake(folder: Path, *words: str) -> tuple[float, float, str]:
    """CPU seconds, wall seconds and output of a call of Snakemake."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return processor, wall, done.stdout


def compare_schedulers(folder: Path) -> None:
    """Print what short jobs take with Snakemake's default scheduler and with ours."""
    print("\n| scheduler | processor, s | wall, s |\n|---|---:|---:|")
    for scheduler in ("ilp", "greedy"):
        home = folder / scheduler
        home.mkdir()
        (home / "Snakefile").write_text(SHORT_JOBS, "utf-8")
        processor, wall, _ = snakemake(home, "--scheduler", scheduler)
        print(f"| {scheduler} | {processor:.1f} | {wall:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--papers", type=int, default=130)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    config = ["--config", f"preset={arguments.preset}"]
    asked = {
        "empty workflow": [],
        "one file": [*config, "--", FILE.format(preset=arguments.preset)],
        "everything": [*config, "--", "all_papers"],
    }
    with tempfile.TemporaryDirectory() as temporary:
        empty, house = Path(temporary, "empty"), Path(temporary, "house")
        empty.mkdir()
        (empty / "Snakefile").write_text(EMPTY, "utf-8")
        copy_house(house, arguments.papers)
        rules = len(snakemake(house, *config, "--list-rules")[2].split())  # compiles the modules
        measured: dict[str, list[tuple[float, float]]] = {what: [] for what in asked}
        jobs = dict.fromkeys(asked, "1")
        for _ in range(arguments.repeat):
            for what, words in asked.items():
                folder = house if words else empty
                processor, wall, output = snakemake(folder, "--dry-run", *words)
                measured[what].append((processor, wall))
                if found := re.search(r"^total +(\d+)$", output, re.M):
                    jobs[what] = found[1]
        report(arguments, rules, jobs, measured)
        compare_schedulers(Path(temporary))


def report(
    arguments: argparse.Namespace,
    rules: int,
    jobs: dict[str, str],
    measured: dict[str, list[tuple[float, float]]],
) -> None:
    """Print the medians beside the goals."""
    middle = {
        what: [statistics.median(column) for column in zip(*rows, strict=True)]
        for what, rows in measured.items()
    }
    alone = middle["empty workflow"][0]
    print(f"{arguments.papers} papers at preset {arguments.preset}: {rules} rules\n")
    print("| asked for | jobs | processor, s | beyond an empty workflow, s | wall, s | goal, s |")
    print("|---|---:|---:|---:|---:|---|")
    for what, (processor, wall) in middle.items():
        beyond = processor - alone
        against = beyond if what == "one file" else processor
        met = {True: "met", False: "missed"}[against <= GOALS.get(what, 0)]
        goal = f"{GOALS[what]:g}, {met}" if what in GOALS else ""
        print(f"| {what} | {jobs[what]} | {processor:.2f} | {beyond:.2f} | {wall:.2f} | {goal} |")


if __name__ == "__main__":
    main()
