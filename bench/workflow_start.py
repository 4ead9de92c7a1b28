"""Time from `snakemake -n` to its answer with every experiment, beyond that of an empty workflow.

    python bench/workflow_start.py [--preset cpu] [--repeat 5] [--target all_papers]

Both are timed in turns in new folders, where nothing has run. Seconds are those of the processor,
user and system, which a machine that does other things too doesn't lengthen much; wall time is
shown beside them. Goal: at most 5 s.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOAL = 5.0
EMPTY = "rule all:\n    input: []\n"


def dry_run(folder: Path, *words: str) -> tuple[float, float]:
    """Processor seconds and wall seconds of a dry run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "2", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "src"), "WANDB_MODE": "disabled"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--target", default="all_papers")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        empty, whole = Path(temporary, "empty"), Path(temporary, "whole")
        empty.mkdir()
        (empty / "Snakefile").write_text(EMPTY, "utf-8")
        for part in ("configs", "src", "workflow"):
            shutil.copytree(part, whole / part)
        for part in ("Snakefile", "environment.yml"):
            shutil.copy(part, whole)
        words = ["--config", f"preset={arguments.preset}", "--", arguments.target]
        dry_run(whole, *words)  # compiles the modules
        turns = [(dry_run(empty), dry_run(whole, *words)) for _ in range(arguments.repeat)]
    count = len([*Path("configs/experiments").glob("*.yaml")])
    print(f"{count} experiments at preset {arguments.preset}, target {arguments.target}")
    for name, which in (("processor", 0), ("wall", 1)):
        alone, all_of_it = (statistics.median(t[i][which] for t in turns) for i in (0, 1))
        beyond = f"beyond it {all_of_it - alone:.2f} s"
        print(f"{name:>9}: {all_of_it:.2f} s, empty {alone:.2f} s, {beyond}")
    seconds = statistics.median(whole[0] - empty[0] for empty, whole in turns)
    print(f"goal {GOAL} s: {'met' if seconds <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
