"""Share of the step time that training waits for data; goals: 3 % in memory, 10 % streamed.

    python bench/loader_share.py [--preset cpu] [--steps 100]

Trains the experiment's U-Net on a store of the preset's size, filled with noise, which costs a
loader what real frames cost. Also prints how much longer a streamed step takes: reading processes
compete with the training for cores, which waiting alone doesn't show.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import SimpleProfiler

from longrun import config
from longrun.data.describe import describe
from longrun.data.module import TrajectoryData
from longrun.data.store import Store, StoreWriter, create_store, open_store
from longrun.generate import build
from longrun.runtime import checkpoint

WARM_UP = 10  # steps: workers start, buffers fill
GOALS = {True: 0.03, False: 0.10}


class Clock(pl.Callback):
    """When the measured steps begin and end."""

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        """Begin after the warm-up."""
        if trainer.global_step == WARM_UP:
            self.began = self._now()

    def on_train_end(self, *_: object) -> None:
        """End with the work of the device."""
        self.seconds = self._now() - self.began

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def noise(path: Path, dataset: dict) -> Store:
    """Store of the dataset's shape, without simulating it."""
    equation = build(dataset["equation"])
    described = {"units": "1", "long_name": "noise"}
    create_store(
        path,
        fields={quantity.name: described for quantity in equation.fields},
        parameters={quantity.name: described for quantity in equation.parameters},
        boundary=equation.boundary,
        space=(equation.points,) * equation.dims,
        splits=dataset["splits"],
        layout=dataset["store"],
        attrs={"equation": dataset["equation"], "seed": 0},
    )
    writer, generator = StoreWriter(path), np.random.default_rng(0)
    for split, trajectories in list(writer.missing()):
        shape = (len(trajectories), dataset["splits"][split]["frames"], len(equation.fields))
        states = generator.standard_normal(
            (*shape, *(equation.points,) * equation.dims), dtype=np.float32
        )
        values = generator.uniform(1, 2, len(trajectories))
        writer.write(split, trajectories, {q.name: values for q in equation.parameters}, states)
    writer.finish(np.ones(1), np.ones(1), {})
    return open_store(path)


def measure(store: Store, experiment: dict, in_memory: bool, steps: int) -> tuple[float, float]:
    """Return seconds per step, and of those the seconds spent waiting for the next batch."""
    spec, stride = config.method_spec(experiment, "unet"), experiment["evaluate"]["stride"]
    description = describe([store], stride)
    module = checkpoint.build(
        spec["name"], checkpoint.sizes(spec["name"], description) | spec["options"], 0
    )
    module.fit_statistics(description["statistics"])
    data = TrajectoryData(
        [store],
        stride=stride,
        history=module.history,
        horizon=module.unroll,
        batch_size=spec["trainer"]["batch_size"],
        seed=0,
        batches=WARM_UP + steps,
        in_memory=in_memory,
        workers=spec["trainer"]["workers"],
    )
    clock, profiler = Clock(), SimpleProfiler()
    trainer = pl.Trainer(
        accelerator=spec["trainer"]["accelerator"],
        devices=1,
        precision=spec["trainer"]["precision"],
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=50,
        callbacks=[clock],
        profiler=profiler,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    return clock.seconds / steps, sum(waits[WARM_UP : WARM_UP + steps]) / steps


def main() -> None:
    """Print both shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--steps", type=int, default=100)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    experiment = config.compose(arguments.configs, "pde_refiner", arguments.preset)
    (name,) = experiment["train"]
    dataset = config.compose_dataset(arguments.configs, name, arguments.preset)
    with tempfile.TemporaryDirectory() as folder:
        store = noise(Path(folder) / "noise.zarr", dataset)
        step_times = []
        for in_memory, goal in GOALS.items():
            step, wait = measure(store, experiment, in_memory, arguments.steps)
            step_times.append(step)
            print(
                f"{'in memory' if in_memory else 'streamed':<9}  step {1e3 * step:8.2f} ms,"
                f" waiting for data {1e3 * wait:6.2f} ms: {wait / step:6.2%}"
                f" (goal at most {goal:.0%})"
            )
        print(f"a streamed step takes {step_times[1] / step_times[0]:.2f} times as long")


if __name__ == "__main__":
    main()
