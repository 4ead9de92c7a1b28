"""The task `forecast`: given the last frames of a trajectory, predict the next, and so on.

The base class owns in which variables the network works; `longrun.training` has the ways in which a
rollout is trained. A method gives `step`, and `loss` only where its paper has its own.

    history (physical) --normalise--> step --target--> next frame (physical)

Sources of the options: input noise as in Lippe et al. (2023, arXiv:2308.05732, section 4.1);
Sobolev losses of Li et al. (2022, arXiv:2106.06898).
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longrun.equations._base import Walls
from longrun.nn.walls import pad_as, pad_sides
from longrun.runtime import registry
from longrun.runtime.cli import UserError
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
    boundary : {"unseen", "imposed", "predicted", "masked"}
        Whether a network sees frames in a rim that holds what is prescribed at walls and inlets,
        and masks of where nothing is. In a rollout these values are imposed again at every step,
        or are what the network itself predicted there, as it was trained to, or zero: of what a
        network predicts there a mask leaves nothing, in its loss neither. Only where a method's
        networks take frames in a rim.
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
        Channels that are the same in every frame, such as masks: a forecast keeps them, and no
        loss is about them.
    in_rim
        Whether its networks take frames in a rim: `inputs` channels, of any size.
    period
        Steps after which the cost of a step repeats: a network may serve several with one call.
    """

    translates: bool = True
    scales_increments = True
    direct: bool = False
    period: int = 1
    static: tuple[int, ...] = ()
    in_rim: bool = False
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
        boundary: Literal["unseen", "imposed", "predicted", "masked"] = "unseen",
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
        if boundary != "unseen" and (self.leads or not self.in_rim):
            raise ValueError(
                f"boundary: {boundary} needs a method that takes frames in a rim, and training "
                "step by step"
            )
        if sobolev_order and criterion != "mse":
            raise ValueError("sobolev_order needs criterion mse")
        self.scalars = conditions + self.leads
        self.history, self.target, self.normalise = history, target, normalise
        self.given_target_scale = target_scale
        self.criterion, self.sobolev_order = criterion, sobolev_order
        self.input_noise, self.boundary = input_noise, boundary

    # What a method gives -----------------------------------------------------------------------

    @abstractmethod
    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame, from normalised frames and conditions.

        With a `boundary`, masks come before the frames, one for each field.
        """

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
        memory = {"history": self.framed(history, parameters), "parameters": parameters}
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
            frame = self._next(history, parameters, generator)
            following = torch.cat([history[:, 1:], frame[:, None]], dim=1)
            return self._unframed(frame), memory | {"history": following}
        lead = memory["elapsed"] + 1
        frame = self._next(history, parameters, generator, lead)
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
        """Pad periodically where the data is periodic, else with zeros; note what doesn't move.

        Raises
        ------
        UserError
            A `boundary` to see where the equation prescribes nothing, or not all parameters.
        """
        pad_as(self, description.get("boundary", ()))
        self.static = tuple(description.get("static", ()))
        if self.boundary == "unseen":
            return
        self._equation = registry.build("equations", description["equation"])
        self._names = list(description["parameter_names"])
        needed = [quantity.name for quantity in self._equation.parameters]
        if self._equation.rim is None or self._names != needed:
            raise UserError(
                f"boundary: {self.boundary} needs an equation that prescribes values at walls, "
                f"and all its parameters; {description['equation']['name']} with "
                f"{', '.join(self._names)} is not enough"
            )

    @property
    def inputs(self) -> int:
        """Channels that a network sees: of the frames, and the masks where it sees a boundary."""
        return (self.history + (self.boundary != "unseen")) * self.fields

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
            The last true frames, oldest first.
        parameters : Tensor
            The trajectory's parameters in the order of the store.
        generator : torch.Generator, optional
            Source of a stochastic method's noise, on the device of `history`.
        lead : Tensor, optional
            Steps ahead, for a method of any lead time; one by default.
        """
        framed = self.framed(history, parameters)
        return self._unframed(self._next(framed, parameters, generator, lead))

    def _next(
        self,
        framed: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
        lead: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next frame in its rim, from frames in theirs."""
        conditions = self._scalars(parameters, lead)
        target = self.step(self._shown(framed, parameters), conditions, generator)
        return self._following(framed[:, -1], target, parameters)

    def _shown(self, framed: Tensor, parameters: Tensor) -> Tensor:
        """Return what a network sees: normalised frames, after the masks of their walls."""
        frames = self.normalised(framed)
        if self.boundary == "unseen":
            return frames
        return torch.cat([self._walls(parameters).free.to(frames)[:, None], frames], dim=1)

    # Walls -------------------------------------------------------------------------------------

    def _walls(self, parameters: Float[Tensor, "batch parameter"]) -> Walls:
        return self._equation.prescribed(dict(zip(self._names, parameters.T, strict=True)))

    def framed(
        self,
        frames: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch frame channel *framed"]:
        """Return true frames with what their boundary prescribes, in a rim and in bodies."""
        if self.boundary == "unseen":
            return frames
        walls = self._walls(parameters)
        rimmed = pad_sides(frames, self._equation.rim)
        return torch.where(walls.free[:, None], rimmed, walls.values.to(frames)[:, None])

    def _unframed(self, frames: Float[Tensor, "*framed"]) -> Float[Tensor, "*stored"]:
        if self.boundary == "unseen":
            return frames
        return pad_sides(frames, [(-before, -after) for before, after in self._equation.rim])

    def kept(
        self,
        last: Float[Tensor, "batch channel *space"],
        frame: Float[Tensor, "..."],
    ) -> Float[Tensor, "..."]:
        """Return a frame with those channels of the last one that don't move."""
        return torch.where(self._still(frame), last, frame) if self.static else frame

    def _following(self, last: Tensor, target: Tensor, parameters: Tensor) -> Tensor:
        """Return the frame of a scaled target, in the rim that rollouts give it."""
        frame = self.kept(last, self.next_frame(last, target))
        if self.boundary in ("unseen", "predicted"):
            return frame
        walls = self._walls(parameters)
        values = walls.values.to(frame)
        return torch.where(walls.free, frame, values if self.boundary == "imposed" else 0)

    def _still(self, frame: Tensor) -> Tensor:
        """Which channels don't move, so that it broadcasts against frames."""
        still = [channel in self.static for channel in range(self.fields)]
        return torch.tensor(still, device=frame.device).reshape(-1, *(1,) * self.dims)

    def _sought(self, prediction: Tensor, target: Tensor, parameters: Tensor) -> Tensor:
        """Return the prediction of a scaled target, and the target where nothing is predicted."""
        if self.static:
            prediction = torch.where(self._still(target), target, prediction)
        if self.boundary in ("imposed", "masked"):
            prediction = torch.where(self._walls(parameters).free, prediction, target)
        return prediction

    def stages(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "stage batch channel *space"]:
        """Return the next frame after every stage of a step; the last is the next of a rollout."""
        if self.remembers:
            return self.advance(self.begin(history, parameters), generator)[0][None]
        framed = self.framed(history, parameters)
        shown = self._shown(framed, parameters)
        targets = self.step_stages(shown, self._scalars(parameters), generator)
        return self._unframed(self._following(framed[:, -1], targets, parameters))

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
        truth = self.framed(following[:, None], parameters)[:, 0]
        loss, predicted = self.frame_loss(history, truth, parameters, generator)
        if not onward:
            return loss, following, memory
        if predicted is None:
            predicted = self._next(history, parameters, generator)
        history = torch.cat([history[:, 1:], predicted[:, None]], dim=1)
        return loss, self._unframed(predicted), memory | {"history": history}

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
            Last frames and the true one after them, physical units, in their rims.
        parameters, generator, lead
            See `predict`.
        """
        conditions, frames = self._scalars(parameters, lead), self._shown(history, parameters)
        target = self.scaled_target(history[:, -1], following)
        if type(self).loss is not AbstractForecaster.loss:  # the paper's own
            return self.loss(frames, target, conditions, generator), None
        prediction = self.step(frames, conditions, generator)
        loss = self.step_error(self._sought(prediction, target, parameters), target, frames)
        return loss, self._following(history[:, -1], prediction, parameters)

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


def framed_points(points: Sequence[int], equation: dict[str, Any], boundary: str) -> list[int]:
    """Return the points per axis of the frames that a network sees.

    Parameters
    ----------
    points, equation
        Of the data.
    boundary
        See `AbstractForecaster`.
    """
    rim = None if boundary == "unseen" else registry.build("equations", equation).rim
    sides = rim or [(0, 0)] * len(points)
    return [before + n + after for n, (before, after) in zip(points, sides, strict=True)]


def _wavenumber_squared(
    shape: torch.Size, device: torch.device, dtype: torch.dtype
) -> Float[Tensor, "*space"]:
    """Return |k|^2 of the wavenumber indices of a full Fourier transform."""
    axes = [torch.fft.fftfreq(n, 1 / n, device=device, dtype=dtype) for n in shape]
    return torch.stack([k.square() for k in torch.meshgrid(*axes, indexing="ij")]).sum(0)
