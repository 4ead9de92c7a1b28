"""Direct surrogate of Melissa's online training (Meyer et al., 2023, arXiv:2306.16133).

A fully connected network from the parameters of a simulation and a time to the whole field at that
time. It sees no frame, only the parameters that differ between simulations, so those must determine
everything, including the initial condition. The paper trains it on time steps that solvers stream
(`trainer.online`), and compares with epochs over stored simulations.

Decisions:

- Inputs are mapped from their range in training to [-1, 1], the time from [0, `horizon` steps].
- The output is the normalised frame.
- Samples are single frames: the second of a window of two neighbours.
"""

import itertools
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.tasks._learner import Batch
from longrun.tasks.forecast import AbstractForecaster, Memory


class DirectMLP(AbstractForecaster):
    """Fully connected network from parameters and time to a frame.

    Parameters
    ----------
    fields, dims, conditions, points
        From the data; `points` are the grid's, per axis.
    width : int
        Units of a hidden layer.
    layers : int
        Hidden layers.
    horizon : int
        Model steps of a trajectory, over which the time goes from -1 to 1.
    options
        See `AbstractForecaster`; the method fixes history, target, training and normalisation.
    """

    direct = True
    translates = False

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 256,
        layers: int = 2,
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
        if horizon < 1 or layers < 1:
            raise ValueError("horizon and layers must be at least 1")
        self.horizon, self.points = horizon, points
        sizes = [conditions + 1, *[width] * layers]
        hidden = [
            module
            for inputs, outputs in itertools.pairwise(sizes)
            for module in (nn.Linear(inputs, outputs), nn.ReLU())
        ]
        cells = fields * int(torch.tensor(points).prod())
        self.network = nn.Sequential(*hidden, nn.Linear(width, cells))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame of conditions and time, both from 0 to 10."""
        return self._field(conditions)

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
        frame = self._frame(memory["parameters"], elapsed)
        return frame, memory | {"elapsed": elapsed}

    def _frame(
        self, parameters: Float[Tensor, "batch parameter"], elapsed: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channel *space"]:
        target = self._target(parameters, elapsed)
        return self.physical(target)

    def _target(self, parameters: Tensor, elapsed: Tensor) -> Tensor:
        time = (10 / self.horizon * elapsed).to(self.field_mean)[:, None]
        inputs = torch.cat([self.scaled_conditions(parameters), time], dim=1)
        return self._field(inputs)

    def _field(self, inputs: Float[Tensor, "batch input"]) -> Tensor:
        return self.network(inputs / 5 - 1).unflatten(1, (self.fields, *self.points))

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the error of the second frame of each window."""
        target = self._target(batch["parameters"], batch["elapsed"] + 1)
        normalised = self.normalised(batch["window"])
        return self.step_error(target, normalised[:, 1], normalised[:, :1])

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the error relative to the field's spread, of frames over the whole horizon."""
        error = self._frame(batch["parameters"], batch["elapsed"] + 1) - batch["window"][:, 1]
        scaled = error / self.per_channel(self.field_std)
        return {"field_error": scaled.square().mean().sqrt()}
