"""Strong scaling: the same data, training and evaluation by one process and by several.

    python bench/scaling.py [--experiment pde_refiner] [--method unet] [--devices 2]

Every process has one thread. A dataset is timed as a whole, start-up included; a training by its
speed in steps, and an evaluation from its first rollout on. All are the same numbers to the last
bit (data, scores) or to rounding (weights), whatever the number of processes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from longrun import config


def run(folder: Path, verb: str, **options: Any) -> tuple[float, str]:
    """Run a verb; return its wall seconds and its log."""
    words = [word for k, v in options.items() for word in (f"--{k.replace('_', '-')}", str(v))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"longrun.{verb}", "--configs", str(folder / "configs"), *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{verb} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stderr


def prepare(folder: Path, arguments: argparse.Namespace, devices: int) -> str:
    """Write configs for this many processes; return the name of the dataset."""
    configs = folder / "configs"
    shutil.copytree("configs", configs)
    file = configs / "experiments" / f"{arguments.experiment}.yaml"
    content = yaml.safe_load(file.read_text("utf-8"))
    steps = arguments.steps
    content["presets"][arguments.preset] = config.merge(
        content["presets"].get(arguments.preset) or {},
        {
            "trainer": {
                "accelerator": "cpu",
                "devices": devices,
                "max_steps": steps,
                "batch_size": arguments.batch_size,
                "validate_every": steps,
                "checkpoint_every": steps,
                "log_every": steps,
                "valid_windows": devices,
            },
            # as many batches for every process
            "evaluate": {"trajectories": arguments.trajectories, "batch_size": 8, "keep": 1},
        },
    )
    file.write_text(yaml.safe_dump(content), "utf-8")
    dataset = content["dataset"]
    file = configs / "datasets" / f"{dataset}.yaml"
    content = yaml.safe_load(file.read_text("utf-8"))
    section = content["presets"].setdefault(arguments.preset, {})
    splits = section.setdefault("splits", {})
    for split in ("train", "test"):
        splits.setdefault(split, {})["trajectories"] = arguments.trajectories
    section.setdefault("store", {})["trajectories_per_shard"] = 8
    section["jobs"] = 1
    file.write_text(yaml.safe_dump(content), "utf-8")
    return dataset


def seconds(folder: Path, arguments: argparse.Namespace, processes: int) -> dict[str, float]:
    """Time all three by this many processes."""
    dataset = prepare(folder, arguments, processes)
    store, model = folder / f"{dataset}.zarr", folder / "model" / "model.ckpt"
    common = {"preset": arguments.preset}
    whole, _ = run(folder, "generate", dataset=dataset, output=store, workers=processes, **common)
    common |= {"experiment": arguments.experiment, "method": arguments.method, "seed": 0}
    _, log = run(folder, "train", data=store, output=model, run_dir=folder / "run", **common)
    speeds = re.findall(r"([\d.]+) steps/s", log)
    scores = folder / "scores"
    run(folder, "evaluate", data=store, checkpoint=model, output=scores, **common)
    return {
        "data, seconds": whole,
        "training, ms per step": 1000 / float(speeds[-1]),
        "evaluation, seconds": json.loads((scores / "evaluation.json").read_text("utf-8"))[
            "wall_seconds"
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment", default="pde_refiner")
    parser.add_argument("--method", default="unet")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--trajectories", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        one, several = (
            seconds(Path(temporary) / str(number), arguments, number)
            for number in (1, arguments.devices)
        )
    print(f"| | 1 process | {arguments.devices} processes | speed-up | efficiency |")
    print("|---|---:|---:|---:|---:|")
    for what, alone in one.items():
        gain = alone / several[what]
        share = gain / arguments.devices
        print(f"| {what} | {alone:.3g} | {several[what]:.3g} | {gain:.2f} | {share:.0%} |")


if __name__ == "__main__":
    main()
