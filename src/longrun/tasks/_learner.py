"""What methods of all tasks share: optimiser, schedule, training step, seeded noise."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import Evaluation

_log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


class Diverged(UserError):
    """A training whose loss is not finite."""


class AbstractLearner(pl.LightningModule, ABC):
    """A method of any task: what its paper trains, and how it is scored.

    A task's own abstract class gives `batch_loss` and `evaluate`; methods without weights are not
    fitted, and keep what they learn in buffers.

    Parameters
    ----------
    learning_rate, final_learning_rate : float
        Peak of the schedule; where the cosine and the one-cycle schedule end.
    warmup_steps : int
        Updates of linear growth before any schedule but `one_cycle`, whose growth it is too.
    schedule : {"cosine", "constant", "exponential", "one_cycle"}
        How the learning rate falls after the warm-up. `one_cycle` is that of Smith and Topin
        (2018) with cosines: from `learning_rate / 25` up over `warmup_steps` and down to the end.
    decay, decay_every : float, int
        Of the exponential schedule: the factor, and the updates after which it is reached.
    staircase : bool
        Let the exponential schedule fall in steps instead of at every update.
    optimiser : dict
        `name`, of a file in `longrun.optimisers`, and its options.
    ema_decay : float
        Decay of the exponential moving average of the weights that validation and tests use; 0 is
        none. After n updates it is at most (1 + n) / (10 + n), so that a short training soon
        forgets the weights it began with.

    Attributes
    ----------
    history, unroll
        Frames that a training window gives, and frames that it asks for.
    stochastic
        Whether a prediction depends on the generator.
    shares_batches
        Whether a device trains on its share of a batch; else on what it draws itself.
    preview
        Figure that tracking shows of a validation; None for none.
    keeps_finite
        Whether every loss of a training is looked at, not only those that are logged.
    diverged_at
        Update whose loss was not finite, where training has ended there.
    description
        Of the training data, see `longrun.data.describe`.
    """

    history: int = 1
    unroll: int = 0
    stochastic: bool = False
    shares_batches: bool = True
    preview: str | None = None
    keeps_finite: bool = False
    diverged_at: int | None = None
    description: dict[str, Any]

    def __init__(
        self,
        learning_rate: float = 1e-3,
        final_learning_rate: float = 1e-6,
        warmup_steps: int = 0,
        schedule: Literal["cosine", "constant", "exponential", "one_cycle"] = "cosine",
        decay: float = 0.5,
        decay_every: int = 1000,
        staircase: bool = False,
        optimiser: dict[str, Any] = {"name": "adamw"},  # noqa: B006 (read, never written)
        ema_decay: float = 0.0,
    ):
        super().__init__()
        if schedule == "exponential" and decay_every < 1:
            raise ValueError(f"decay_every must be at least 1, is {decay_every}")
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.decay, self.decay_every, self.staircase = decay, decay_every, staircase
        self.optimiser, self.ema_decay = optimiser, ema_decay

    # What a task or a method gives ---------------------------------------------------------------

    @abstractmethod
    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the training loss of a batch, whose noise comes from the generator alone."""

    @abstractmethod
    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Score the method on the test split of a store (`options["split"]`, where given)."""

    def own_scores(self, store: Any, options: dict[str, Any]) -> ScoreTable:
        """Return the scores of metrics that a method's file brings along, in its `METRICS`.

        Parameters
        ----------
        store : longrun.data.store.Store
            The test data.
        options : dict
            The composed `evaluate` section.
        """
        raise NotImplementedError(f"{type(self).__name__} has METRICS, and no own_scores")

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return what to log of a validation batch, by name."""
        return {}

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store what a method needs of the training data's statistics as buffers."""

    def fit_data(self, description: dict[str, Any]) -> None:
        """Take in what else a network must know of its data: walls, fields that don't move."""

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Learn what needs no gradient, before training.

        The default begins with the weights and statistics of the one source that there may be.

        Parameters
        ----------
        data
            The data module.
        sources
            The trained methods of `starts_from`.

        Raises
        ------
        ValueError
            Sources that the method can't start from.
        """
        source = only(sources)
        if source is not None:
            self.take_over(source)

    def take_over(self, source: Any) -> None:
        """Take the weights and statistics of another method that have equal names and shapes."""
        mine, weights = self.state_dict(), {name for name, _ in self.named_parameters()}
        same = {
            name: tensor
            for name, tensor in source.state_dict().items()
            if name in mine and tensor.shape == mine[name].shape
        }
        new = sorted(weights - same.keys())
        if len(new) == len(weights):
            raise ValueError("no weights of its starts_from have a name and shape of its own")
        if new:
            number = f"{len(new)} of {len(weights)}"
            _log.warning("%s weights are not from starts_from: %s", number, ", ".join(new))
        self.load_state_dict(mine | same)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return groups of `params`, each with the `factor` of its learning rate."""
        return [{"params": list(self.parameters()), "factor": 1.0}]

    # Training ------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; its noise depends on the seed, the batch and the share."""
        accumulate = self.trainer.accumulate_grad_batches
        generator = self._generator(self.global_step * accumulate + batch_idx % accumulate)
        loss = self.batch_loss(batch, generator)
        if self.keeps_finite or self._logs_now():
            mean = self.trainer.strategy.reduce(loss.detach().clone(), reduce_op="mean")
            if not torch.isfinite(mean):
                self._diverge(mean)
            if self._logs_now():
                self.log("train/loss", mean)
                self.log("learning_rate", self._current_learning_rate())
        return loss

    def _diverge(self, loss: Float[Tensor, ""]) -> NoReturn:
        if self.global_rank and not self.keeps_finite:  # the first process speaks for all
            raise SystemExit
        self.diverged_at = self.global_step
        raise Diverged(
            f"the loss is {loss.item()} at epoch {self.trainer.current_epoch}, step "
            f"{self.global_step}, learning rate {self._current_learning_rate():.3g}: lower "
            "learning_rate, or set trainer.clip"
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log what `validate` returns."""
        size = len(batch["window"])
        for name, value in self.validate(batch, self._generator(batch_idx)).items():
            self.log(f"valid/{name}", value, batch_size=size, sync_dist=True)

    def log_training(self, name: str, value: Tensor) -> None:
        """Log a number of the training, when it is time to; outside a trainer nothing happens."""
        if self._trainer is not None and self._logs_now():
            self.log(f"train/{name}", value, sync_dist=True)

    def _logs_now(self) -> bool:
        trainer: Any = self.trainer
        return bool(self.global_step % trainer.log_every_n_steps == 0)

    def _generator(self, number: int) -> torch.Generator:
        """Return a generator of the seed, the rank and a number: nothing to restore.

        A device draws the noise of its share of a batch, so the noise of a whole batch depends on
        the number of devices. Methods without noise learn the same weights on any number.
        """
        trainer: Any = self.trainer
        key = np.random.SeedSequence((trainer.datamodule.seed, self.global_rank, number))
        seed = int(key.generate_state(1, np.uint64)[0])
        return torch.Generator(device=self.device).manual_seed(seed)

    def _current_learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    @property
    def total_updates(self) -> int:
        """Updates of the whole training; 1 outside a trainer."""
        return 1 if self._trainer is None else int(self.trainer.max_steps)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule."""
        groups = [
            {"params": group["params"], "lr": self.learning_rate * group["factor"]}
            for group in self.parameter_groups()
        ]
        name = self.optimiser["name"]
        hooks = {"module": self} if "module" in registry.arguments("optimisers", name) else {}
        try:
            optimiser = registry.build(
                "optimisers", self.optimiser, params=groups, lr=self.learning_rate, **hooks
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"optimiser {name}: {error}") from error
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": self._warmed_up(optimiser), "interval": "step"},
        }

    def _warmed_up(self, optimiser: torch.optim.Optimizer) -> LRScheduler:
        """Return the schedule, after its warm-up unless that is part of it."""
        first, total = self.warmup_steps, self.total_updates
        if self.schedule == "one_cycle":
            return self._one_cycle(optimiser)
        later = self._falling(optimiser, max(total - first, 1))
        if not first:
            return later
        growth = LinearLR(optimiser, start_factor=1 / first, total_iters=first - 1)
        return SequentialLR(optimiser, [growth, later], milestones=[first])

    def _falling(self, optimiser: torch.optim.Optimizer, updates: int) -> LRScheduler:
        match self.schedule:
            case "cosine":
                return CosineAnnealingLR(optimiser, updates, self.final_learning_rate)
            case "exponential" if self.staircase:
                return StepLR(optimiser, self.decay_every, self.decay)
            case "exponential":
                return ExponentialLR(optimiser, self.decay ** (1 / self.decay_every))
        return ConstantLR(optimiser, factor=1.0)

    def _one_cycle(self, optimiser: torch.optim.Optimizer) -> LRScheduler:
        first, total = self.warmup_steps, self.total_updates
        if first > total - 2:
            raise UserError(
                f"warmup_steps must be at most {total - 2} in a cycle of {total} updates, "
                f"is {first}"
            )
        return OneCycleLR(
            optimiser,
            [group["lr"] for group in optimiser.param_groups],
            total_steps=total,
            pct_start=(first + 1) / total if first else 0.0,  # its peak is the update before
            final_div_factor=self.learning_rate / 25 / self.final_learning_rate,
            cycle_momentum=False,
        )


def only(sources: Sequence[Any]) -> Any:
    """Return the one source, or None without any.

    Raises
    ------
    ValueError
        Several.
    """
    if len(sources) > 1:
        raise ValueError(f"starts_from must be one run, {len(sources)} are given")
    return sources[0] if sources else None


# Losses of a batch that several devices share ----------------------------------------------------
#
# The gradient of an update is the mean of the devices' gradients. A loss that is a mean over the
# samples needs nothing more. One that isn't says so with these; with one device they do nothing.


def sharing() -> int:
    """Return the number of devices that share a batch: the factor of a loss that is a sum."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def over_devices(value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the mean of a value over the devices that share a batch, for a norm to divide by.

    No gradient goes through it, so the value must be one of the data alone. Every device must call
    it as often as the others.
    """
    if sharing() == 1:
        return value
    total = value.detach().clone()  # what it is given is overwritten
    torch.distributed.all_reduce(total)
    return total / sharing()
