"""Training steps per second through our Trainer against a bare PyTorch loop; goal: at least 0.95.

    python bench/trainer_vs_loop.py [--preset cpu] [--steps 100] [--rounds 3]

Both train the same network on the same windows in memory with the same AdamW, clipping, schedule
and moving average. The loop has nothing else: no Lightning, no logs, no checkpoints, no check of
the loss.
"""

import argparse
import logging
import statistics
import tempfile
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from loader_share import Clock, noise
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from longrun import config, train
from longrun.data.describe import describe
from longrun.data.module import TrajectoryData
from longrun.data.store import Store
from longrun.runtime import checkpoint, tracking

WARM_UP = 10  # as in loader_share's clock
GOAL = 0.95


def setting(store: Store, experiment: dict, method: str, steps: int) -> tuple:
    """Build the module and the data, both anew, so that either side starts alike."""
    spec, stride = config.method_spec(experiment, method), experiment["evaluate"]["stride"]
    description = describe([store], stride)
    arguments = checkpoint.sizes(spec["name"], description) | spec["options"]
    module = checkpoint.build(spec["name"], arguments, 0)
    module.fit_statistics(description["statistics"])
    options = spec["trainer"]
    data = TrajectoryData(
        [store],
        stride=stride,
        history=module.history,
        horizon=module.unroll,
        batch_size=options["batch_size"],
        seed=0,
        batches=WARM_UP + steps,
        valid_windows=options["batch_size"],
    )
    return module, data, options


def trainer_seconds(store: Store, experiment: dict, method: str, steps: int) -> float:
    """Seconds per step of `longrun.train.fit`, with its logs, checkpoints and checks."""
    module, data, options = setting(store, experiment, method, steps)
    clock = Clock()
    make = pl.Trainer.__init__

    def with_clock(self: pl.Trainer, *arguments: object, callbacks: list, **rest: object) -> None:
        make(self, *arguments, callbacks=[*callbacks, clock], **rest)

    pl.Trainer.__init__ = with_clock  # the trainer is made inside `fit`
    try:
        with tempfile.TemporaryDirectory() as folder:
            loggers = [tracking.CurveLogger(Path(folder))]
            train.fit(
                module, data, options | {"validate_every": 10**9}, Path(folder), loggers, False
            )
    finally:
        pl.Trainer.__init__ = make
    return clock.seconds / steps


def loop_seconds(store: Store, experiment: dict, method: str, steps: int) -> float:
    """Seconds per step of the loop."""
    module, data, options = setting(store, experiment, method, steps)
    device = "cuda" if torch.cuda.is_available() and options["accelerator"] != "cpu" else "cpu"
    module.to(device).train()
    section = {key: value for key, value in module.optimiser.items() if key != "name"}
    optimiser = torch.optim.AdamW(module.parameters(), lr=module.learning_rate, **section)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 / (1 + step))
    average = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(module.ema_decay))
    for number, batch in enumerate(data.train_dataloader()):
        if number == WARM_UP:
            began = Clock._now()
        window, parameters = batch["window"].to(device), batch["parameters"].to(device)
        history, following = window[:, : module.history], window[:, module.history]
        target = module.scaled_target(history[:, -1], following)
        prediction = module.step(module.normalised(history), module.scaled_conditions(parameters))
        loss = (prediction - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        if options["clip"]:
            torch.nn.utils.clip_grad_norm_(module.parameters(), options["clip"])
        optimiser.step()
        schedule.step()
        average.update_parameters(module)
    return (Clock._now() - began) / steps


def main() -> None:
    """Print the ratio of both for each method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--configs", type=Path, default=Path("configs"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "longrun"):
        logging.getLogger(name).setLevel(logging.ERROR)
    experiment = config.compose(arguments.configs, "pde_refiner", arguments.preset)
    (name,) = experiment["train"]
    dataset = config.compose_dataset(arguments.configs, name, arguments.preset)
    dataset["splits"] = {key: {"trajectories": 32, "frames": 140} for key in dataset["splits"]}
    with tempfile.TemporaryDirectory() as folder:
        store = noise(Path(folder) / "noise.zarr", dataset)
        for method in ("unet", "fno"):
            pairs = []
            for _ in range(arguments.rounds):  # in turn: the machine's speed drifts
                sides = (loop_seconds, trainer_seconds)
                pairs.append([side(store, experiment, method, arguments.steps) for side in sides])
            ratio = statistics.median(loop / ours for loop, ours in pairs)
            loop, ours = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"{method:<5} loop {loop:7.2f} ms per step, Trainer {ours:7.2f} ms: "
                f"{ratio:.3f} of its speed (goal at least {GOAL})"
            )


if __name__ == "__main__":
    main()
