"""The task `assimilate`: follow a trajectory with a model and with noisy, incomplete measurements.

    state --predict--> forecast --correct, where measured--> analysis = next state

What is measured, and the protocol of a test, is in `longrun.tasks._estimation`.
"""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.nn.fno import as_channels
from longrun.tasks._estimation import AbstractEstimator, relative_square
from longrun.tasks._evaluation import seconds_per_call
from longrun.tasks._learner import Batch


class AbstractAssimilator(AbstractEstimator):
    """A model of one step, and a correction by measurements.

    Parameters
    ----------
    unroll : int
        Steps of a training window that the loss is of, and through which the gradient goes.
    spin_up : int
        Steps before those, measured as they are, that the gradient stops at: with them the error of
        a state in training is one that assimilation leaves, not that of a first measurement.
    least_measured, most_measured : float
        The fraction of measured steps is drawn uniformly between these.
    share_of : {"batch", "sample"}
        Whether it is drawn anew for each batch, as in the paper, or for each of its samples.
    fixed_mean : bool
        The mean over space of every field is always that of the climate, as where the equation
        conserves it and all trajectories share it: neither step nor correction changes it.
    coordinates : bool
        Show networks where they are: the sine and cosine of each coordinate, because axes close.
    options
        Of `AbstractEstimator`.
    """

    scales_increments = True
    preview = "assimilation"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        unroll: int = 8,
        spin_up: int = 0,
        least_measured: float = 0.0,
        most_measured: float = 1.0,
        share_of: Literal["batch", "sample"] = "batch",
        fixed_mean: bool = False,
        coordinates: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if unroll < 1 or spin_up < 0:
            raise ValueError("unroll must be at least 1, spin_up not negative")
        if not 0 <= least_measured <= most_measured <= 1:
            raise ValueError("least_measured and most_measured must lie in order between 0 and 1")
        self.spin_up, self.unroll = spin_up, spin_up + unroll  # all frames of a window after one
        self.least_measured, self.most_measured = least_measured, most_measured
        self.share_of = share_of
        self.fixed_mean, self.coordinates = fixed_mean, coordinates

    # What a method gives -------------------------------------------------------------------------

    @abstractmethod
    def predict(
        self, state: Float[Tensor, "batch *state"], parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch *state"]:
        """Return the forecast of the next state, physical units in and out."""

    @abstractmethod
    def correct(
        self,
        forecast: Float[Tensor, "batch *state"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch *state"]:
        """Return the analysis: the forecast, corrected by what was measured.

        Parameters
        ----------
        forecast
            As `predict` returns it.
        measurement
            Physical units; 0 where nothing was measured.
        mask
            What was measured. A sample in which nothing was keeps its forecast.
        """

    def begin(
        self,
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch *state"]:
        """Return the first state: the first measurement, and the climate's mean between sensors."""
        mean = self.per_channel(self.field_mean)
        state = torch.where(mask, measurement, mean)
        return mean + self.keep_mean(state - mean)

    def estimate(
        self, state: Float[Tensor, "batch *state"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the best guess of the truth that a state holds: by default, it is the guess."""
        return state

    def loss(
        self,
        forecast: Float[Tensor, "batch *state"],
        analysis: Float[Tensor, "batch *state"],
        truth: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the training loss of one step: the relative squared error of the analysis."""
        return relative_square(self.estimate(analysis) - truth, truth).mean()

    # Variables -----------------------------------------------------------------------------------

    @property
    def inputs(self) -> int:
        """Channels of `network_input`."""
        return self.fields + self.conditions + 2 * self.dims * self.coordinates

    def network_input(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch input *space"]:
        """Return the normalised state, the parameters that vary, and the coordinates if wanted."""
        conditions = self.scaled_conditions(parameters)
        parts = [self.normalised(state), as_channels(conditions, state)]
        if self.coordinates:
            parts.append(_coordinates(state).expand(len(state), *[-1] * (state.ndim - 1)))
        return torch.cat(parts, dim=1)

    def keep_mean(self, change: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        """Return a change of a state without its mean over space, where that is fixed."""
        if not self.fixed_mean:
            return change
        return change - change.mean(dim=tuple(range(-self.dims, 0)), keepdim=True)

    # Steps -----------------------------------------------------------------------------------

    def follow(
        self,
        measurement: Float[Tensor, "batch frame channel *space"],
        mask: Bool[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Iterator[Float[Tensor, "batch channel *space"]]:
        """Predict and correct, frame by frame; see `AbstractEstimator.follow`."""
        state = self.begin(measurement[:, 0], mask[:, 0], generator)
        alive = torch.ones(len(state), dtype=torch.bool, device=state.device)
        yield self.estimate(state)
        for k in range(1, measurement.shape[1]):
            ahead = self.correct(self.predict(state, parameters), measurement[:, k], mask[:, k])
            alive = alive & self.bounded(ahead)
            state = torch.where(alive.reshape(-1, *(1,) * (state.ndim - 1)), ahead, state)
            frame = self.estimate(state)
            yield torch.where(alive.reshape(-1, *(1,) * (frame.ndim - 1)), frame, torch.nan)

    def seconds_per_step(
        self,
        measurement: Float[Tensor, "batch frame channel *space"],
        mask: Bool[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> float:
        """Return the wall time of a step of a batch with its correction; all cost the same."""
        state = self.begin(measurement[:, 0], mask[:, 0], generator)
        return seconds_per_call(
            lambda: self.correct(self.predict(state, parameters), measurement[:, 1], mask[:, 1])
        )

    # Training ------------------------------------------------------------------------------------

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean loss over the steps of windows of which a random share is measured."""
        window, parameters = batch["window"], batch["parameters"]
        shares = (len(window), 1) if self.share_of == "sample" else ()
        share = torch.rand(shares, generator=generator, device=window.device)
        share = self.least_measured + (self.most_measured - self.least_measured) * share
        drawn = torch.rand(window.shape[:2], generator=generator, device=window.device)
        measured = drawn < share
        measured[:, 0] = True
        measurement, mask = self.measure(window, measured, generator)
        state = self.begin(measurement[:, 0], mask[:, 0], generator)
        losses = []
        for k in range(1, window.shape[1]):
            learns = k > self.spin_up
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                forecast = self.predict(state, parameters)
                state = self.correct(forecast, measurement[:, k], mask[:, k])
            if learns:
                truth = window[:, k]
                losses.append(self.loss(forecast, state, truth, measurement[:, k], mask[:, k]))
        return torch.stack(losses).mean()

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the relative squared error at the end of windows, without and with measurements.

        The fraction of measured steps is then the largest of training.
        """
        window, parameters = batch["window"], batch["parameters"]
        errors = {}
        for name, share in (("free", 0.0), ("measured", self.most_measured)):
            drawn = torch.rand(window.shape[:2], generator=generator, device=window.device)
            measured = drawn < share
            measured[:, 0] = True
            measurement, mask = self.measure(window, measured, generator)
            *_, last = self.follow(measurement, mask, parameters, generator)
            errors[f"{name}_relative_mse"] = relative_square(last - window[:, -1], window[:, -1])
        return {name: error.mean() for name, error in errors.items()}


def _coordinates(
    state: Float[Tensor, "batch channel *space"],
) -> Float[Tensor, "1 coordinate *space"]:
    """Return the sine and the cosine of each coordinate, one period over the domain."""
    axes = [
        2 * torch.pi / points * torch.arange(points, dtype=state.dtype, device=state.device)
        for points in state.shape[2:]
    ]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([wave(x) for x in grid for wave in (torch.sin, torch.cos)])[None]
