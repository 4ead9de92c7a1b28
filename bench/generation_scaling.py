"""Weak scaling of data generation: one part alone, then two parts of the same size side by side.

    python bench/generation_scaling.py [--dataset kuramoto_sivashinsky] [--preset cpu] [--jobs 2]

Every part is a process of its own, as on a cluster, start-up included. Perfect scaling of two
processes is 2; memory is the largest resident set of a part.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml


def run(configs: Path, folder: Path, arguments: argparse.Namespace, parts: list[int]) -> float:
    """Seconds until all of these parts are made."""
    command = [sys.executable, "-m", "longrun.generate", "--dataset", arguments.dataset]
    command += ["--preset", arguments.preset, "--configs", str(configs)]
    began = time.perf_counter()
    processes = [
        subprocess.Popen(
            [*command, "--part", str(part), "--output", str(folder / f"{len(parts)}_{part}")],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,
        )
        for part in parts
    ]
    if any([process.wait() for process in processes]):
        raise SystemExit("a part failed; run its command by hand to see why")
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="kuramoto_sivashinsky")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        configs = shutil.copytree("configs", folder / "configs")
        file = configs / "datasets" / f"{arguments.dataset}.yaml"
        content = yaml.safe_load(file.read_text("utf-8")) | {"jobs": arguments.jobs}
        # as many shards for every job, so that parts are equal
        section = content["presets"].setdefault(arguments.preset, {})
        splits = section.setdefault("splits", {})
        size = section.get("store", {}).get("trajectories_per_shard", 16)
        splits.setdefault("train", {})["trajectories"] = 4 * size * arguments.jobs
        for other in ("valid", "test"):
            splits.setdefault(other, {}).update(trajectories=1, frames=2)
        file.write_text(yaml.safe_dump(content), "utf-8")
        print(
            "| repetition | one process (s) | all side by side (s) | scaling |\n|---|---|---|---|"
        )
        for number in range(arguments.repeat):
            out = folder / str(number)
            alone = run(configs, out, arguments, [0])
            together = run(configs, out, arguments, list(range(arguments.jobs)))
            scaling = arguments.jobs * alone / together
            print(f"| {number} | {alone:.1f} | {together:.1f} | {scaling:.2f} |", flush=True)


if __name__ == "__main__":
    main()
