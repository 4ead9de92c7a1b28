"""The task `forecast`: given the last frames of a trajectory, predict the next, and so on.

The base class owns in which variables the network works; `longrun.training` has the ways in which a
rollout is trained. A method gives `step`, and `loss` only where its paper has its own.

    history (physical) --normalise--> step --target--> next frame (physical)

Sources of the options: input noise as in Lippe et al. (2023, arXiv:2308.05732, section 4.1);
Sobolev losses of Li et al. (2022, arXiv:2106.06898).
"""

from abc import abstractmethod
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longrun.nn.walls import pad_as
from longrun.runtime import registry
from longrun.tasks._evaluation import Evaluation
from longrun.tasks._learner import Batch
from longrun.tasks._rollout import evaluate_forecast
from longrun.tasks._scaling import ScaledLearner

Memory = dict[str, Tensor]
"""What a rollout carries from step to step, batch first in every tensor."""


class AbstractForecaster(ScaledLearner):
    """A model of one step of a trajectory, trained on windows of frames.

    Parameters
    ----------
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
    criterion : {"mse", "relative_l1", "relative_l2"}
        Of the scaled target, the mean squared error summed over channels (or its Sobolev form);
        or the norm of the error of the normalised next frame over the norm of the true one, over
        all channels and points, mean over samples.
    training : dict
        `name`, of a file in `longrun.training`, and its options.
    input_noise : float
        Standard deviation of Gaussian noise on the input frames while training, relative to the
        field's; the target corrects it.
    sobolev_order : int
        Order s of the loss `sum_{j<=s} | |k|^j error_k |^2` over wavenumber indices k; 0 is the
        MSE.
    options
        Of `ScaledLearner`, whose `ema_decay` is 0.995 here and whose `learning_rate` is 1e-4.

    Attributes
    ----------
    scalars
        Numbers that condition a step: the parameters that vary, and the lead time where it does.
    direct
        Whether a frame comes from parameters and time alone: a rollout begins at the first frame
        of a trajectory, and there is no single step from a true frame to score.
    static
        Channels that are the same in every frame, such as masks: a forecast keeps them.
    period
        Steps after which the cost of a step repeats: a network may serve several with one call.
    """

    translates: bool = True
    scales_increments = True
    direct: bool = False
    period: int = 1
    static: tuple[int, ...] = ()
    preview = "space_time"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        history: int = 1,
        target: Literal["residual", "state"] = "residual",
        target_scale: float | None = None,
        normalise: bool = True,
        criterion: Literal["mse", "relative_l1", "relative_l2"] = "mse",
        training: dict[str, Any] = {"name": "one_step"},  # noqa: B006 (read, never written)
        input_noise: float = 0.0,
        sobolev_order: int = 0,
        ema_decay: float = 0.995,
        learning_rate: float = 1e-4,
        **options: Any,
    ):
        super().__init__(
            fields, dims, conditions, learning_rate=learning_rate, ema_decay=ema_decay, **options
        )
        if history < 1:
            raise ValueError(f"history must be at least 1, is {history}")
        self.scheme = registry.build("training", training)
        self.unroll, self.leads = self.scheme.unroll, self.scheme.leads
        if self.leads and history > 1:
            raise ValueError(f"training: {training['name']} needs history 1, is {history}")
        if self.leads and self.remembers:
            raise ValueError(f"training: {training['name']} needs a method that sees frames alone")
        if sobolev_order and criterion != "mse":
            raise ValueError("sobolev_order needs criterion mse")
        self.scalars = conditions + self.leads
        self.history, self.target, self.normalise = history, target, normalise
        self.given_target_scale = target_scale
        self.criterion, self.sobolev_order = criterion, sobolev_order
        self.input_noise = input_noise

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
        return self.step_error(self.step(history, conditions, generator), target, history)

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

    def begin(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Return what a rollout starts with: the last true frames, physical units, and parameters.

        A method that remembers more than frames gives its own `begin` and `advance`.
        """
        memory = {"history": history, "parameters": parameters}
        if self.leads:
            memory["elapsed"] = torch.zeros(len(history), dtype=torch.long, device=history.device)
        return memory

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channel *space"], Memory]:
        """Return the next frame, physical units, and what the step after it needs.

        With any lead time, frames up to `unroll` steps ahead come directly from the same frame.
        """
        history, parameters = memory["history"], memory["parameters"]
        if not self.leads:
            frame = self.predict(history, parameters, generator)
            return frame, memory | {"history": torch.cat([history[:, 1:], frame[:, None]], dim=1)}
        lead = memory["elapsed"] + 1
        frame = self.predict(history, parameters, generator, lead)
        restarts = lead == self.unroll
        shape = (-1, *(1,) * (history.ndim - 1))
        origin = torch.where(restarts.reshape(shape), frame[:, None], history)
        elapsed = torch.where(restarts, torch.zeros_like(lead), lead)
        return frame, memory | {"history": origin, "elapsed": elapsed}

    # Variables ---------------------------------------------------------------------------------

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the training data's statistics, where they are used, as buffers."""
        if self.normalise:
            super().fit_statistics(statistics)
        else:
            self._choose_conditions(statistics)

    def fit_data(self, description: dict[str, Any]) -> None:
        """Pad periodically where the data is periodic, else with zeros; note what doesn't move."""
        pad_as(self, description.get("boundary", ()))
        self.static = tuple(description.get("static", ()))

    @property
    def target_scale(self) -> Float[Tensor, " channel"]:
        """Factor from a scaled target to the units of the field."""
        if self.target == "state":
            return self.field_std
        if self.given_target_scale is not None:
            return torch.full_like(self.increment_std, self.given_target_scale)
        return self.increment_std

    def _target_origin(self, last: Float[Tensor, "batch channel *space"]) -> Tensor:
        return last if self.target == "residual" else self.per_channel(self.field_mean)

    def scaled_target(
        self,
        last: Float[Tensor, "batch channel *space"],
        following: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return what the method should predict for a pair of physical frames."""
        return (following - self._target_origin(last)) / self.per_channel(self.target_scale)

    def next_frame(self, last: Float[Tensor, "batch channel *space"], target: Tensor) -> Tensor:
        """Return the physical frame of a scaled target (or of one per stage)."""
        return self._target_origin(last) + target * self.per_channel(self.target_scale)

    # Forecasts ---------------------------------------------------------------------------------

    def predict(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
        lead: Int[Tensor, " batch"] | None = None,
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
        lead : Tensor, optional
            Steps ahead, for a method of any lead time; one by default.
        """
        conditions = self._scalars(parameters, lead)
        target = self.step(self.normalised(history), conditions, generator)
        return self.kept(history[:, -1], self.next_frame(history[:, -1], target))

    def kept(
        self,
        last: Float[Tensor, "batch channel *space"],
        frame: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return a frame with those channels of the last one that don't move."""
        if not self.static:
            return frame
        still = [channel in self.static for channel in range(frame.shape[1])]
        mask = torch.tensor(still, device=frame.device).reshape(-1, *(1,) * self.dims)
        return torch.where(mask, last, frame)

    def stages(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "stage batch channel *space"]:
        """Return the next frame after every stage of a step; the last is the next of a rollout."""
        if self.remembers:
            return self.advance(self.begin(history, parameters), generator)[0][None]
        conditions = self._scalars(parameters)
        targets = self.step_stages(self.normalised(history), conditions, generator)
        return self.next_frame(history[:, -1], targets)

    @property
    def remembers(self) -> bool:
        """Whether a rollout carries more than frames."""
        return type(self).advance is not AbstractForecaster.advance

    def _scalars(
        self, parameters: Float[Tensor, "batch parameter"], lead: Tensor | None = None
    ) -> Float[Tensor, "batch scalar"]:
        """Return the scaled conditions, and after them the lead time, from 0 to 10."""
        conditions = self.scaled_conditions(parameters)
        if not self.leads:
            return conditions
        lead = torch.ones_like(parameters[:, 0]) if lead is None else lead
        return torch.cat([conditions, 10 / self.unroll * lead.to(conditions)[:, None]], dim=1)

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

    def step_error(
        self,
        prediction: Float[Tensor, "batch channel *space"],
        target: Float[Tensor, "batch channel *space"],
        history: Float[Tensor, "batch frame channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the criterion of a predicted scaled target, after normalised frames."""
        if self.criterion == "mse":
            return self.distance(prediction, target)
        scale = self.per_channel(self.target_scale / self.field_std)
        truth = scale * target + (history[:, -1] if self.target == "residual" else 0)
        return self._relative_error(scale * (prediction - target), truth)

    def frame_error(
        self,
        frame: Float[Tensor, "batch channel *space"],
        following: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the criterion of a predicted frame, physical units, in normalised units."""
        error = (frame - following) / self.per_channel(self.field_std)
        if self.criterion == "mse":
            return self.distance(error, torch.zeros_like(error))
        return self._relative_error(error, self.normalised(following))

    def _relative_error(self, error: Tensor, truth: Tensor) -> Float[Tensor, ""]:
        order = 1 if self.criterion == "relative_l1" else 2
        norms = (value.flatten(1).norm(order, dim=1) for value in (error, truth))
        return torch.div(*norms).mean()

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the training loss of windows of `history + unroll` true frames, physical units."""
        loss: Tensor = self.scheme.loss(self, window, parameters, generator)
        return loss

    def noisy(
        self, frames: Float[Tensor, "batch frame channel *space"], generator: torch.Generator
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Return true frames with the noise that they have while training."""
        if not self.input_noise:
            return frames
        noise = torch.empty_like(frames).normal_(generator=generator)
        return frames + self.input_noise * self.per_channel(self.field_std) * noise

    def step_loss(
        self,
        memory: Memory,
        following: Float[Tensor, "batch channel *space"],
        generator: torch.Generator,
        onward: bool,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch channel *space"], Memory]:
        """Advance as `advance` does, and compare with the true frame.

        Parameters
        ----------
        memory
            From `begin` or the step before.
        following
            The true next frame.
        generator
            Source of noise.
        onward
            Whether another step follows: else a prediction that takes a call of its own is spared.

        Returns
        -------
        loss, frame, memory
            Without `onward`, the loss alone is of use.
        """
        if self.remembers:
            frame, memory = self.advance(memory, generator)
            return self.frame_error(frame, following), frame, memory
        history, parameters = memory["history"], memory["parameters"]
        loss, predicted = self.frame_loss(history, following, parameters, generator)
        if not onward:
            return loss, following, memory
        if predicted is None:
            predicted = self.predict(history, parameters, generator)
        history = torch.cat([history[:, 1:], predicted[:, None]], dim=1)
        return loss, predicted, memory | {"history": history}

    def frame_loss(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        following: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
        lead: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch channel *space"] | None]:
        """Return the loss of one step from frames, and what it predicts where that costs no more.

        Parameters
        ----------
        history, following
            Last frames and the true one after them, physical units.
        parameters, generator, lead
            See `predict`.
        """
        conditions, frames = self._scalars(parameters, lead), self.normalised(history)
        target = self.scaled_target(history[:, -1], following)
        if type(self).loss is not AbstractForecaster.loss:  # the paper's own
            return self.loss(frames, target, conditions, generator), None
        prediction = self.step(frames, conditions, generator)
        loss = self.step_error(prediction, target, frames)
        return loss, self.kept(history[:, -1], self.next_frame(history[:, -1], prediction))

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the training loss of a batch of windows."""
        return self.window_loss(batch["window"], batch["parameters"], generator)

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the one-step error relative to the increment, of the prediction as it is used."""
        window, parameters = batch["window"], batch["parameters"]
        history, following = window[:, : self.history], window[:, self.history]
        error = self.stages(history, parameters, generator)[-1] - following
        increment = (following - history[:, -1]).square().mean()
        smallest = torch.finfo(increment.dtype).tiny  # frames that are all the same have none
        ratio = error.square().mean() / increment.clamp_min(smallest)
        return {"increment_error": ratio.sqrt()}


def _wavenumber_squared(
    shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "*space"]:
    """Return |k|^2 of the wavenumber indices of a full Fourier transform."""
    axes = [torch.fft.fftfreq(n, 1 / n, device=device, dtype=dtype) for n in shape]
    return torch.stack([k.square() for k in torch.meshgrid(*axes, indexing="ij")]).sum(0)
