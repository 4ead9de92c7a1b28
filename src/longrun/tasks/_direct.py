"""Forecasters that see no frame: from parameters and a time to the field then."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks._learner import Batch
from longrun.tasks.forecast import AbstractForecaster, Memory


class AbstractDirectForecaster(AbstractForecaster):
    """A method that gives `field` and `batch_loss`, without a frame to start from.

    The parameters must determine the flow, also how it starts. Samples are single frames: the
    second of a window of two neighbours.

    Parameters
    ----------
    fields, dims, conditions, points
        From the data; `points` are the grid's, per axis.
    horizon : int
        Model steps of a trajectory, over which the time goes from 0 to 10.
    options
        See `AbstractForecaster`; history, target, training and normalisation are fixed.
    """

    direct = True
    translates = False

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        horizon: int = 50,
        **options: Any,
    ):
        super().__init__(
            fields,
            dims,
            conditions,
            history=1,
            target="state",
            training={"name": "one_step"},
            normalise=True,
            input_noise=0.0,
            **options,
        )
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1, is {horizon}")
        self.horizon, self.points = horizon, points

    @abstractmethod
    def field(self, given: Float[Tensor, "batch input"]) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame of conditions and, last, the time, both from 0 to 10."""

    @abstractmethod
    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the error of the second frame of each window."""

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame of conditions and time."""
        return self.field(conditions)

    def begin(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Return the parameters, at the first frame of the trajectory."""
        return {"parameters": parameters, "elapsed": torch.zeros_like(parameters[:, 0])}

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channel *space"], Memory]:
        """Return the next frame."""
        elapsed = memory["elapsed"] + 1
        return self._frame(memory["parameters"], elapsed), memory | {"elapsed": elapsed}

    def case(
        self, parameters: Float[Tensor, "batch parameter"], elapsed: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch input"]:
        """Return conditions and, last, the time: both from 0 to 10."""
        time = (10 / self.horizon * elapsed).to(self.field_mean)[:, None]
        return torch.cat([self.scaled_conditions(parameters), time], dim=1)

    def _frame(
        self, parameters: Float[Tensor, "batch parameter"], elapsed: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channel *space"]:
        return self.physical(self.field(self.case(parameters, elapsed)))

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the error relative to the field's spread, of frames over the whole horizon."""
        error = self._frame(batch["parameters"], batch["elapsed"] + 1) - batch["window"][:, 1]
        scaled = error / self.per_channel(self.field_std)
        return {"field_error": scaled.square().mean().sqrt()}
