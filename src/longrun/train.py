"""Train one method of one experiment with one seed.

Outputs
-------
`model.ckpt`: weights (averaged, where the method averages), options, data description, provenance.
`curves.csv` beside it: step, metric, value.

`--run-dir` holds what a killed run needs to resume, in a folder named after all that the run
depends on.
"""

if __name__ == "__main__":  # before the imports below, which take seconds
    from longrun.runtime import cli, early

    cli.run(early.check)

import argparse
import contextlib
import hashlib
import logging
import math
import os
import pickle
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar, WeightAveraging
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import ModelParallelStrategy
from pytorch_lightning.utilities.exceptions import SIGTERMException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from longrun import config
from longrun.data.describe import describe
from longrun.data.module import TrajectoryData
from longrun.data.store import Store, View, open_store
from longrun.figures._inputs import Inputs
from longrun.runtime import checkpoint, cli, devices, registry, tracking
from longrun.runtime.cli import UserError, atomic, locked, provenance, replace, run, writing
from longrun.tasks._learner import Diverged

log = logging.getLogger(__name__)

PREVIEW = 8  # validation trajectories in the summary that is tracked


class ResumeCheckpoint(pl.Callback):
    """Keep one whole checkpoint of the trainer, replaced every `every` updates and on SIGTERM.

    It is saved between updates alone, since it holds no accumulated gradients. It replaces the last
    one once the curves hold all that was logged before, so that a resumed run misses no row.
    """

    def __init__(self, path: Path, every: int):
        self.path, self.every = path, every
        self.trains = False  # a run that was killed after its last update has nothing left to learn
        self._part = path.with_suffix(".part")
        self._saved = 0
        self._between_updates = True
        self._to_end = False

    def on_train_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Count the step of a resumed run as saved."""
        self.trains = True
        self._saved = trainer.global_step
        if trainer.world_size > 1:
            # Lightning's own handler would broadcast in the middle of another exchange.
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._to_end = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, _: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Publish what the last update saved."""
        self._publish(trainer)

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Publish the last one."""
        self._publish(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, _: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save when it is due."""
        self._between_updates = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not self._between_updates:
            return
        if trainer.global_step % self.every == 0:
            self._save(trainer)
        # all processes end after the same update, one at which they exchange the loss anyway
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.world_size > 1 and trainer.global_step % every == 0:
            ends = trainer.strategy.reduce_boolean_decision(self._to_end, all=False)
            trainer._signal_connector.received_sigterm |= ends

    def on_exception(
        self, trainer: pl.Trainer, _: pl.LightningModule, error: BaseException
    ) -> None:
        """Save when the scheduler ends the job."""
        if isinstance(error, SIGTERMException) and self._between_updates:
            self._save(trainer)
            self._publish(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.global_step == self._saved:
            return
        with writing(self.path):
            # with optimiser and counters
            trainer.save_checkpoint(self._part, weights_only=False)
        self._saved = trainer.global_step

    def _publish(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self._part.exists():
            with writing(self.path):
                checkpoint.seal(self._part)
            replace(self._part, self.path)


class WholeWeights(pl.Callback):
    """Gather the weights that fsdp has spread over the devices, before the trainer lets go."""

    state: dict[str, torch.Tensor]

    def on_train_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Gather them in the first process."""
        self.state = trainer.strategy.lightning_module_state_dict()


class LastFinite(pl.Callback):
    """Keep the weights of the last finite loss, averaged where the method averages."""

    def __init__(self, average: WeightAveraging | None):
        self.average = average
        self.state: dict[str, torch.Tensor] = {}

    def on_before_backward(
        self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor
    ) -> None:
        """Copy the weights; their loss is finite, or `training_step` would have raised."""
        averaged: Any = self.average and self.average._average_model
        found = averaged.module if averaged else module
        for name, tensor in found.state_dict().items():
            if name in self.state:
                self.state[name].copy_(tensor)
            else:
                self.state[name] = tensor.clone()


class LogLines(pl.Callback):
    """One plain line per validation, for log files."""

    def on_fit_start(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Start the clock."""
        self._started, self._first = time.monotonic(), trainer.global_step

    def on_validation_end(self, trainer: pl.Trainer, _: pl.LightningModule) -> None:
        """Log the step, what was measured, and the speed."""
        step, seconds = trainer.global_step, time.monotonic() - self._started
        values = {k: float(v) for k, v in trainer.logged_metrics.items() if k != "epoch"}
        line = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        speed = (step - self._first) / seconds
        log.info("step %d/%d  %s  %.1f steps/s", step, trainer.max_steps, line, speed)


def updates(trainer: dict[str, Any], windows: int) -> int:
    """Return how many updates a budget in steps or epochs amounts to."""
    if trainer.get("max_steps") is not None:
        return trainer["max_steps"]
    return math.ceil(
        trainer["max_epochs"] * windows / (trainer["batch_size"] * trainer["accumulate"])
    )


def moving_average(decay: float) -> Callable[[Any, Any, Tensor], None]:
    """Return how the average of all weights follows them.

    Parameters
    ----------
    decay
        At most; after n updates it is no more than (1 + n) / (10 + n).
    """

    def follow(averages: Any, weights: Any, count: Tensor) -> None:
        kept = torch.clamp((1 + count) / (10 + count), max=decay)  # not read: a GPU needn't wait
        ahead = torch._foreach_sub(weights, averages)  # exactly 0 where nothing moves
        torch._foreach_mul_(ahead, 1 - kept)
        torch._foreach_add_(averages, ahead)

    return follow


def fit(
    module: Any,
    data: TrajectoryData,
    options: dict[str, Any],
    folder: Path,
    loggers: Sequence[Logger],
    progress: bool,
) -> dict[str, torch.Tensor] | None:
    """Train until `data.batches` are used up, from the checkpoint in `folder` if there is one.

    Parameters
    ----------
    module, data
        What is trained, and on what.
    options
        The composed `trainer` section.
    folder
        Where the resumable state is kept.
    loggers
        Where metrics go.
    progress
        Draw a progress bar instead of logging lines.

    Returns
    -------
    dict or None
        The weights where the module does not hold them: they were spread over devices and are now
        in the first process; the run was killed after its last update; or it diverged.

    Raises
    ------
    SystemExit
        After SIGTERM, with code 143 in the first of several processes; the next call resumes.
    RuntimeError
        The trainer stopped before its last update.
    """
    if config.devices(options) > 1 and not module.shares_batches:
        raise UserError("trainer.devices must be 1: this method draws its own points, no batches")
    place, strategy = devices.environment(options), devices.strategy(options)
    devices.join(options, place)
    on_gpus = torch.cuda.is_available() and options["accelerator"] != "cpu"
    accumulate = options["accumulate"]
    last = folder / "last.ckpt"
    callbacks: list[pl.Callback] = [TQDMProgressBar() if progress else LogLines()]
    average = None
    if module.ema_decay:
        average = WeightAveraging(use_buffers=False, multi_avg_fn=moving_average(module.ema_decay))
        callbacks.append(average)
    finite = LastFinite(average)
    module.keeps_finite = options["diverged"] == "keep"
    if module.keeps_finite:
        callbacks.append(finite)
    whole = WholeWeights() if isinstance(strategy, ModelParallelStrategy) else None
    if whole:
        callbacks.append(whole)
        module.configure_model = lambda: devices.shard(module, module.device_mesh["data_parallel"])
    # last, so that what it saves includes the average after the same update
    keeper = ResumeCheckpoint(last, options["checkpoint_every"])
    callbacks.append(keeper)
    trainer = pl.Trainer(
        accelerator=options["accelerator"],
        devices=options["devices"],
        num_nodes=options["num_nodes"],
        strategy=strategy,
        sync_batchnorm=strategy != "auto" and on_gpus,  # written for GPUs alone
        precision=options["precision"],
        max_steps=data.batches // accumulate,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=options["clip"],
        val_check_interval=min(options["validate_every"] * accumulate, data.batches),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=options["log_every"],
        logger=list(loggers),
        callbacks=callbacks,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        use_distributed_sampler=False,
        plugins=[place],
        default_root_dir=folder,
    )
    # before the average copies it: else the copy would be in single precision
    trainer.precision_plugin.convert_module(module)
    last.with_suffix(".part").unlink(missing_ok=True)  # left by a run killed while saving
    if last.exists():
        try:
            checkpoint.check(last)
        except UserError as error:
            raise UserError(f"{error}; delete it to train from the start") from error
    resume = str(last) if last.exists() else None
    try:
        # After SIGTERM Lightning would end with exit code 0, which a scheduler takes for success.
        with contextlib.suppress(SIGTERMException), devices.in_one_line():
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{last}: holds more than a state; delete it") from error
    except Diverged as error:
        if not finite.state:
            raise
        log.warning("%s; trainer.diverged: the last weights with a finite loss are kept", error)
        leave_group()
        return finite.state
    if trainer.received_sigterm:
        # Only the first process says so: a failure of another would end it before it could.
        raise SystemExit(143 if trainer.is_global_zero else 0)
    if not trainer.state.finished or trainer.global_step < trainer.max_steps:
        raise RuntimeError(f"training stopped at {trainer.global_step} of {trainer.max_steps}")
    leave_group()
    if not keeper.trains:  # then nothing has put in place the averaged weights, which it holds
        return torch.load(last, weights_only=True)["state_dict"]
    return whole.state if whole else None


def leave_group() -> None:
    """Leave the processes of the other devices: the first goes on alone."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train(
    experiment: dict[str, Any],
    method: str,
    seed: int,
    stores: Sequence[Store],
    folder: Path,
    loggers: Sequence[Logger],
    starts_from: Sequence[Path] = (),
    progress: bool = False,
) -> tuple[Any, dict[str, Any]]:
    """Build and train a method.

    Parameters
    ----------
    experiment
        Composed experiment.
    method
        Entry of its `methods`.
    seed
        Seed of the initial weights, the order of windows and the noise.
    stores
        The training data.
    folder
        Where the resumable state is kept.
    loggers
        Where metrics go.
    starts_from
        Other runs' checkpoints.
    progress
        Draw a progress bar.

    Returns
    -------
    module
        With the weights that a forecast uses.
    content
        What else a checkpoint needs: `method`, `arguments`, `description`, `updates`, and
        `diverged`: whether training ended because the loss was not finite.
    """
    spec = config.method_spec(experiment, method)
    options, stride = spec["trainer"], experiment["evaluate"]["stride"]
    description = describe(stores, stride) | {"stride": stride}
    multiple = registry.grid_multiple(spec["name"], spec["options"])
    if multiple > 1 and any(side % multiple for side in description["points"]):  # not of a YAML
        raise UserError(
            f"{stores[0].path}: {spec['name']} needs a grid whose sides are multiples of "
            f"{multiple}, this one has {description['points']}"
        )
    arguments = checkpoint.sizes(spec["name"], description) | spec["options"]
    module = checkpoint.build(spec["name"], arguments, seed)
    module.fit_statistics(description["statistics"])
    module.fit_data(description)
    data = source_of_data(options, folder)(
        stores,
        stride=stride,
        history=module.history,
        horizon=module.unroll,
        batch_size=options["batch_size"],
        seed=seed,
        batches=1,
        in_memory=options["in_memory"],
        valid_windows=options["valid_windows"],
        workers=options["workers"],
    )
    data.batches = updates(options, len(data.train_windows)) * options["accumulate"]
    sources = [checkpoint.load(path) for path in starts_from]
    try:
        module.prepare(data, sources)
    except ValueError as error:
        raise UserError(f"method {spec['name']}: {error}") from error
    done = diverged_at = None
    if data.batches and any(parameter.requires_grad for parameter in module.parameters()):
        weights = fit(module, data, options, folder, loggers, progress)
        diverged_at = module.diverged_at
        done = data.batches // options["accumulate"] if diverged_at is None else diverged_at
        if weights:  # else the module has them
            module = checkpoint.build(spec["name"], arguments, seed)
            module.load_state_dict(weights)
            module.fit_data(description)
    check_finite(module)
    module.description = description
    return module, {
        "method": spec["name"],
        "arguments": arguments,
        "description": description,
        "updates": done or 0,
        "diverged": diverged_at is not None,
    }


def source_of_data(trainer: Mapping[str, Any], folder: Path) -> Callable[..., TrajectoryData]:
    """Return what makes the data module; that of a stream is imported only where there is one."""
    if not trainer.get("online"):
        return TrajectoryData
    from longrun.online.stream import source

    return source(trainer["online"], folder)


def check_finite(module: torch.nn.Module) -> None:
    """Refuse weights that are not finite: the last update follows the last check of the loss.

    Raises
    ------
    UserError
        A weight is not finite.
    """
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(
                f"the weights {name} are not finite: lower learning_rate, or set trainer.clip"
            )


def log_preview(
    loggers: Sequence[Logger],
    module: Any,
    experiment: dict[str, Any],
    store: Store,
    method: str,
    preset: str,
    step: int,
) -> None:
    """Track the final scores and a picture, on validation data."""
    if module.preview is None:
        return
    split = store.split("valid")
    options = experiment["evaluate"] | {"split": "valid", "keep": 1}
    options["trajectories"] = min(PREVIEW, split.trajectories, options["trajectories"])
    if "steps" in options:
        room = (split.frames - 1 - options.get("start", 0)) // options["stride"]
        options["steps"] = min(options["steps"], room)
    if "members" in options:
        options["members"] = 1
    evaluation = module.eval().evaluate(store, options, seed=0)
    means = evaluation.scores.groupby("metric", observed=True)["value"].mean()
    tracking.log_summary(loggers, {f"valid/{name}": float(means[name]) for name in means.index})
    inputs = Inputs(
        spec=experiment,
        preset=preset,
        experiment=method,
        scores=evaluation.scores.assign(method=method, seed=0),
        claims={},
        curves=pd.DataFrame(),
        predictions={method: evaluation.predictions},
    )
    picture = registry.find("figures", module.preview)(inputs)
    tracking.log_image(loggers, f"valid/{module.preview}", picture, step)


def _digest(file: Path) -> str:
    """Hash of a file: what started from another checkpoint must not be resumed."""
    if not file.exists():
        raise UserError(f"{file}: no such checkpoint to start from; longrun.train writes it")
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def _sources(spec: Mapping[str, Any]) -> dict[str, str]:
    """Hashes of the files of the method, and of what its options name."""
    named = {kind: spec["options"].get(option) for option, kind in config.UNITS.items()}
    named["methods"] = spec
    return {kind: registry.digest(kind, part["name"]) for kind, part in named.items() if part}


def fill_paths(
    arguments: argparse.Namespace, spec: Mapping[str, Any], changes: Mapping[str, Any]
) -> None:
    """Fill in the paths that the command line leaves out, as the workflow has them."""
    run = arguments.preset, arguments.experiment, arguments.method
    folder = config.run_folder(*run, arguments.seed, changes)
    arguments.data = arguments.data or config.stores(arguments.preset, spec["train"])
    arguments.output = arguments.output or Path("results") / folder / "model.ckpt"
    arguments.run_dir = arguments.run_dir or Path("runs") / folder
    if not arguments.starts_from:
        folders = config.origins(spec, arguments.preset, arguments.experiment, arguments.seed)
        arguments.starts_from = [Path("results") / folder / "model.ckpt" for folder in folders]


EXAMPLES = """
python -m longrun.train --experiment pde_refiner --method unet --seed 0 --preset cpu
python -m longrun.train --experiment pde_refiner --method unet --seed 0 --preset cpu \\
    --set width=32 learning_rate=1e-3 trainer.max_steps=2000
python -m longrun.train --experiment cape --method cape --seed 1 --preset gpu \\
    --data advection.zarr --output by_hand/model.ckpt --run-dir by_hand/state
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser(
        "train", __doc__, EXAMPLES, "experiment", "method", "seed", "preset", "configs"
    )
    made.add_argument(
        "--data", type=Path, nargs="+", help="stores; default: those of the method in data/"
    )
    made.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="change options of the method, or of its trainer; results get a folder of their own",
    )
    made.add_argument(
        "--output", type=Path, help="model.ckpt, with curves.csv beside it; default: in results/"
    )
    made.add_argument("--run-dir", type=Path, help="what resuming needs; default: in runs/")
    made.add_argument(
        "--starts-from",
        type=Path,
        nargs="+",
        help="checkpoints of other runs",
    )
    return made


def main() -> None:
    """Read the command line, train, write the checkpoint and the curves."""
    arguments = parser().parse_args()
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        logging.getLogger().setLevel(logging.WARNING)  # the first process speaks for all

    changes = config.changes(arguments.set)
    experiment = config.compose_run(
        arguments.configs, arguments.experiment, arguments.preset, arguments.method, changes
    )
    spec = config.method_spec(experiment, arguments.method)
    fill_paths(arguments, spec, changes)
    devices.device_of(spec["trainer"]["accelerator"])
    seen = View(**config.view(experiment), trajectories=spec["trainer"]["trajectories"])
    stores = [open_store(path).view(seen) for path in arguments.data]
    identity = config.fingerprint(
        {
            "spec": config.train_spec(experiment, arguments.method),
            "data": [config.fingerprint(store.attrs) for store in stores],
            "source": _sources(spec),
            "starts_from": [_digest(file) for file in arguments.starts_from],
        }
    )
    folder = arguments.run_dir / identity
    # the processes of the other devices are part of this run
    alone = locked(folder) if rank_zero_only.rank == 0 else contextlib.nullcontext()  # type: ignore[attr-defined]
    with alone:
        _run(arguments, experiment, spec, stores, folder, identity)


def _run(
    arguments: argparse.Namespace,
    experiment: dict[str, Any],
    spec: dict[str, Any],
    stores: Sequence[Store],
    folder: Path,
    identity: str,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{arguments.experiment}/{arguments.method}/seed{arguments.seed}"
    loggers = tracking.loggers(
        config.tracking_mode(experiment["tracking"], os.environ),
        folder,
        tracking.run_id(arguments.experiment, arguments.method, arguments.seed, identity),
        group=arguments.experiment,
        name=name,
        tags=[arguments.preset, arguments.method],
        config=experiment
        | {"run": spec, "seed": arguments.seed, "preset": arguments.preset}
        | {"changes": config.changes(arguments.set)},
    )
    log.info("train %s at %s, state in %s", name, arguments.preset, folder)
    for library in ("pytorch_lightning", "lightning_fabric"):  # no devices, no tips
        logging.getLogger(library).setLevel(logging.WARNING)
    started = time.monotonic()
    module, content = train(
        experiment,
        arguments.method,
        arguments.seed,
        stores,
        folder,
        loggers,
        arguments.starts_from,
        progress=sys.stderr.isatty(),
    )
    if rank_zero_only.rank:  # type: ignore[attr-defined]
        return
    checkpoint.save(
        arguments.output,
        module,
        spec=spec,
        seed=arguments.seed,
        settings=config.fingerprint(config.train_spec(experiment, arguments.method)),
        provenance=provenance(),
        train_seconds=time.monotonic() - started,
        **content,
    )
    with atomic(arguments.output.with_name("curves.csv")) as part:
        curves = folder / "curves.csv"
        if curves.exists():
            shutil.copy(curves, part)
        else:
            part.write_text(",".join(tracking.COLUMNS) + "\n", "utf-8")
    if len(loggers) > 1:
        log_preview(
            loggers,
            module,
            experiment,
            stores[0],
            arguments.method,
            arguments.preset,
            content["updates"],
        )
    tracking.finish(loggers)


if __name__ == "__main__":
    run(main)
