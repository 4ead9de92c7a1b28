"""The task `forecast`: given the last frames of a trajectory, predict the next, and so on.

The base class owns how a rollout is trained and in which variables the network works. A method
gives `step`, and `loss` only where its paper has its own.

    history (physical) --normalise--> step --target--> next frame (physical)

Sources of the options: one-step, pushforward and input noise as compared by Lippe et al. (2023,
arXiv:2308.05732, section 4.1); pushforward of Brandstetter et al. (2022, arXiv:2202.03376); Sobolev
losses of Li et al. (2022, arXiv:2106.06898).
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.cli import UserError
from longrun.tasks._rollout import Evaluation, evaluate_forecast


class AbstractForecaster(pl.LightningModule, ABC):
    """A model of one step of a trajectory, trained on windows of frames.

    Parameters
    ----------
    fields, dims, conditions : int
        Channels of a frame, space dimensions, and parameters that differ between trajectories;
        from the data.
    history : int
        Frames that the method sees.
    target : {"residual", "state"}
        Predict the scaled increment `(u_next - u_last) / scale`, or the normalised next frame.
    target_scale : float or None
        Scale of the increment, in units of the field; None is the increment's standard deviation in
        the training data.
    normalise : bool
        Show the network frames of zero mean and unit variance and conditions between 0 and 10;
        False leaves both in physical units.
    training : {"one_step", "pushforward", "unrolled"}
        Loss on the first step from true frames; on the last of `unroll` steps, with no gradient
        through the others; or on all of them, with the gradient.
    unroll : int
        Steps of a training window; more than one only for pushforward and unrolled training.
    unroll_after : int
        Updates of one-step training before the unrolling starts.
    input_noise : float
        Standard deviation of Gaussian noise on the input frames while training, relative to the
        field's; the target corrects it.
    sobolev_order : int
        Order s of the loss `sum_{j<=s} | |k|^j error_k |^2` over wavenumber indices k; 0 is the
        MSE.
    ema_decay : float
        Decay of the exponential moving average of the weights that validation and tests use; 0 is
        none.
    learning_rate, final_learning_rate, weight_decay : float
        AdamW's settings. The rate falls to the final one along a cosine.
    warmup_steps : int
        Updates over which the learning rate rises linearly.
    schedule : {"cosine", "constant"}
        How the learning rate falls after the warm-up.
    """

    field_mean: Tensor
    field_std: Tensor
    increment_std: Tensor
    condition_index: Tensor
    condition_low: Tensor
    condition_scale: Tensor

    #: Whether two calls of `predict` with different generators differ.
    stochastic = False

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        history: int = 1,
        target: Literal["residual", "state"] = "residual",
        target_scale: float | None = None,
        normalise: bool = True,
        training: Literal["one_step", "pushforward", "unrolled"] = "one_step",
        unroll: int = 1,
        unroll_after: int = 0,
        input_noise: float = 0.0,
        sobolev_order: int = 0,
        ema_decay: float = 0.995,
        learning_rate: float = 1e-4,
        final_learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        schedule: Literal["cosine", "constant"] = "cosine",
    ):
        super().__init__()
        if history < 1 or unroll < 1:
            raise ValueError("history and unroll must be at least 1")
        if (unroll > 1) == (training == "one_step"):
            raise ValueError("training: pushforward and unrolled need unroll > 1; one_step needs 1")
        self.fields, self.dims, self.conditions = fields, dims, conditions
        self.history, self.target, self.normalise = history, target, normalise
        self.given_target_scale = target_scale
        self.training_mode, self.unroll, self.unroll_after = training, unroll, unroll_after
        self.input_noise, self.sobolev_order = input_noise, sobolev_order
        self.ema_decay = ema_decay
        self.learning_rate, self.final_learning_rate = learning_rate, final_learning_rate
        self.weight_decay, self.warmup_steps, self.schedule = weight_decay, warmup_steps, schedule
        self.register_buffer("field_mean", torch.zeros(fields))
        self.register_buffer("field_std", torch.ones(fields))
        self.register_buffer("increment_std", torch.ones(fields))
        self.register_buffer("condition_index", torch.arange(conditions))
        self.register_buffer("condition_low", torch.zeros(conditions))
        self.register_buffer("condition_scale", torch.ones(conditions))

    # What a method gives -----------------------------------------------------------------------

    @abstractmethod
    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame, from normalised frames and conditions."""

    def loss(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        target: Float[Tensor, "batch channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the loss of one step against its scaled target; a paper may have its own."""
        return self.distance(self.step(history, conditions, generator), target)

    def step_stages(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "stage batch channel *space"]:
        """Return the scaled target after every stage of a step, the final one last."""
        return self.step(history, conditions, generator)[None]

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Standard deviations of the noise on the scaled target that each stage starts from."""
        return ()

    def prepare(self, data: Any, source: "AbstractForecaster | None") -> None:
        """Learn what needs no gradient, before training, from the data module and `starts_from`."""

    # Variables ---------------------------------------------------------------------------------

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the training data's statistics (`longrun.data.describe`) as buffers."""
        low = torch.tensor(statistics["condition_low"])
        high = torch.tensor(statistics["condition_high"])
        varying = torch.nonzero(high > low).flatten()
        if len(varying) == self.conditions:  # else the method takes all parameters
            self.condition_index.copy_(varying)
        if not self.normalise:
            return
        self.field_mean.copy_(torch.tensor(statistics["mean"]))
        self.field_std.copy_(torch.tensor(statistics["std"]))
        self.increment_std.copy_(torch.tensor(statistics["increment_std"]))
        low, high = low[self.condition_index], high[self.condition_index]
        self.condition_low.copy_(low)
        # The span of 10 suits the sinusoids of an embedding; what is constant becomes zero.
        self.condition_scale.copy_(torch.where(high > low, 10 / (high - low), torch.zeros(())))

    @property
    def target_scale(self) -> Float[Tensor, " channel"]:
        """Factor from a scaled target to the units of the field."""
        if self.target == "state":
            return self.field_std
        if self.given_target_scale is not None:
            return torch.full_like(self.increment_std, self.given_target_scale)
        return self.increment_std

    def _per_channel(self, statistic: Float[Tensor, " channel"]) -> Tensor:
        return statistic.reshape(-1, *(1,) * self.dims)

    def normalised(
        self, frames: Float[Tensor, "batch frame channel *space"]
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Return frames of zero mean and unit variance."""
        return (frames - self._per_channel(self.field_mean)) / self._per_channel(self.field_std)

    def scaled_conditions(
        self, parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch condition"]:
        """Return the parameters that vary, mapped from their training range to [0, 10]."""
        chosen = parameters.index_select(1, self.condition_index)
        return (chosen - self.condition_low) * self.condition_scale

    def _target_origin(self, last: Float[Tensor, "batch channel *space"]) -> Tensor:
        return last if self.target == "residual" else self._per_channel(self.field_mean)

    def scaled_target(
        self,
        last: Float[Tensor, "batch channel *space"],
        following: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return what the method should predict for a pair of physical frames."""
        return (following - self._target_origin(last)) / self._per_channel(self.target_scale)

    def next_frame(self, last: Float[Tensor, "batch channel *space"], target: Tensor) -> Tensor:
        """Return the physical frame of a scaled target (or of one per stage)."""
        return self._target_origin(last) + target * self._per_channel(self.target_scale)

    # Forecasts ---------------------------------------------------------------------------------

    def predict(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next frame, physical units in and out.

        Parameters
        ----------
        history : Tensor
            The last frames, oldest first.
        parameters : Tensor
            The trajectory's parameters in the order of the store.
        generator : torch.Generator, optional
            Source of a stochastic method's noise, on the device of `history`.
        """
        conditions = self.scaled_conditions(parameters)
        target = self.step(self.normalised(history), conditions, generator)
        return self.next_frame(history[:, -1], target)

    def stages(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "stage batch channel *space"]:
        """Return the next frame after every stage of a step; the last equals `predict`."""
        conditions = self.scaled_conditions(parameters)
        targets = self.step_stages(self.normalised(history), conditions, generator)
        return self.next_frame(history[:, -1], targets)

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Roll out over the store's test split and score; see `longrun.tasks._rollout`."""
        return evaluate_forecast(self, store, options, seed)

    # Training ----------------------------------------------------------------------------------

    def distance(
        self,
        prediction: Float[Tensor, "batch channel *space"],
        target: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the mean squared error or its Sobolev form, summed over channels.

        By Parseval's theorem the Sobolev loss of order 0 is the mean squared error, so only the
        terms of order one and more visit Fourier space. |k| is the length of the vector of
        wavenumber indices.
        """
        error = prediction - target
        value = error.square().sum(1).mean()
        if self.sobolev_order:
            axes = tuple(range(2, error.ndim))
            weight = _wavenumber_squared(error.shape[2:], error.device, error.dtype)
            modes = torch.fft.fftn(error, dim=axes, norm="forward").abs().square()
            # norm="forward" divides by the points: the sum over modes is the mean over space.
            energy = modes.sum(1).mean(0)
            value = value + sum(
                (weight**j * energy).sum() for j in range(1, self.sobolev_order + 1)
            )
        return value

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the training loss of windows of `history + unroll` true frames, physical units."""
        conditions = self.scaled_conditions(parameters)
        history = window[:, : self.history]
        if self.input_noise:
            noise = torch.empty_like(history).normal_(generator=generator)
            history = history + self.input_noise * self._per_channel(self.field_std) * noise
        steps = self.unroll if self.global_step >= self.unroll_after else 1

        def step_loss(history: Tensor, following: Tensor) -> Tensor:
            target = self.scaled_target(history[:, -1], following)
            return self.loss(self.normalised(history), target, conditions, generator)

        losses = []
        for i in range(steps):
            following = window[:, self.history + i]
            is_last = i == steps - 1
            if is_last or self.training_mode == "unrolled":
                losses.append(step_loss(history, following))
            if not is_last:
                with torch.set_grad_enabled(self.training_mode == "unrolled"):
                    frame = self.predict(history, parameters, generator)
                history = torch.cat([history[:, 1:], frame[:, None]], dim=1)
        return torch.stack(losses).mean()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch; its noise depends on the seed and the batch alone."""
        accumulate = self.trainer.accumulate_grad_batches
        generator = self._generator(self.global_step * accumulate + batch_idx % accumulate)
        loss = self.window_loss(batch["window"], batch["parameters"], generator)
        trainer: Any = self.trainer
        if self.global_step % trainer.log_every_n_steps == 0:
            if not torch.isfinite(loss):
                raise UserError(
                    f"the loss is {loss.item()} at epoch {self.trainer.current_epoch}, step "
                    f"{self.global_step}, learning rate {self._current_learning_rate():.3g}: lower "
                    "learning_rate, or set trainer.clip"
                )
            self.log("train/loss", loss)
            self.log("learning_rate", self._current_learning_rate())
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the one-step error relative to the increment, of the prediction as it is used."""
        window, parameters = batch["window"], batch["parameters"]
        history, following = window[:, : self.history], window[:, self.history]
        generator = self._generator(batch_idx)
        error = self.predict(history, parameters, generator) - following
        increment = following - history[:, -1]
        ratio = error.square().mean() / increment.square().mean()
        self.log("valid/increment_error", ratio.sqrt(), batch_size=len(window))

    def _generator(self, number: int) -> torch.Generator:
        """Return a generator of the seed, the rank and a number: nothing to restore."""
        trainer: Any = self.trainer
        key = np.random.SeedSequence((trainer.datamodule.seed, self.global_rank, number))
        seed = int(key.generate_state(1, np.uint64)[0])
        return torch.Generator(device=self.device).manual_seed(seed)

    def _current_learning_rate(self) -> float:
        return self.trainer.optimizers[0].param_groups[0]["lr"]

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, a pure function of the update."""
        parameters = list(self.parameters())
        # One kernel for all weights, unless they are complex, which it can't, or gradients are
        # scaled: Lightning can't clip those before it. Else one call per operation.
        fused = self.trainer.precision != "16-mixed" and not any(p.is_complex() for p in parameters)
        optimiser = torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=fused,
            foreach=not fused,
        )
        total = self.trainer.max_steps
        final = self.final_learning_rate / self.learning_rate

        def factor(update: int) -> float:
            if update < self.warmup_steps:
                return (update + 1) / self.warmup_steps
            if self.schedule == "constant":
                return 1.0
            progress = (update - self.warmup_steps) / max(total - self.warmup_steps, 1)
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _wavenumber_squared(
    shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "*space"]:
    """Return |k|^2 of the wavenumber indices of a full Fourier transform."""
    axes = [torch.fft.fftfreq(n, 1 / n, device=device, dtype=dtype) for n in shape]
    return torch.stack([k.square() for k in torch.meshgrid(*axes, indexing="ij")]).sum(0)
