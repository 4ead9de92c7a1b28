"""Direct surrogate of Melissa's online training (Meyer et al., 2023, arXiv:2306.16133).

A fully connected network from the parameters of a simulation and a time to the whole field at that
time. It sees no frame, only the parameters that differ between simulations, so those must determine
everything, including the initial condition. The paper trains it on time steps that solvers stream
(`trainer.online`), and compares with epochs over stored simulations.

Decisions:

- Inputs are mapped from their range in training to [-1, 1], the time from [0, `horizon` steps].
- The output is the normalised frame.
"""

import itertools
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.tasks._direct import AbstractDirectForecaster
from longrun.tasks._learner import Batch


class DirectMLP(AbstractDirectForecaster):
    """Fully connected network from parameters and time to a frame.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractDirectForecaster`, also for the options.
    width : int
        Units of a hidden layer.
    layers : int
        Hidden layers.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 256,
        layers: int = 2,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        if layers < 1:
            raise ValueError(f"layers must be at least 1, is {layers}")
        sizes = [conditions + 1, *[width] * layers]
        hidden = [
            module
            for inputs, outputs in itertools.pairwise(sizes)
            for module in (nn.Linear(inputs, outputs), nn.ReLU())
        ]
        self.network = nn.Sequential(*hidden, nn.Linear(width, fields * math.prod(points)))

    def field(self, given: Float[Tensor, "batch input"]) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame."""
        return self.network(given / 5 - 1).unflatten(1, (self.fields, *self.points))

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the error of the second frame of each window."""
        target = self.field(self.case(batch["parameters"], batch["elapsed"] + 1))
        normalised = self.normalised(batch["window"])
        return self.step_error(target, normalised[:, 1], normalised[:, :1])
