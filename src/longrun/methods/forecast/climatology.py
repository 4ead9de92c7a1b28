"""Climatology: the mean of all training frames at every point, whatever the present is.

The forecast that no other one should lose to at long lead times, and what a score of skill is
measured against (Murphy, 1988; as in WeatherBench, Rasp et al., 2020, arXiv:2002.00469).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.data.windows import time_mean
from longrun.tasks.forecast import AbstractForecaster


class Climatology(AbstractForecaster):
    """The mean over training frames; see `AbstractForecaster` for the options.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`.
    points : list of int
        Of the grid along each axis; from the data.
    """

    classical = True
    translates = False
    mean: Tensor

    def __init__(self, fields: int, dims: int, conditions: int, points: list[int], **options: Any):
        super().__init__(fields, dims, conditions, target="state", normalise=False, **options)
        self.register_buffer("mean", torch.zeros(fields, *points))

    def prepare(self, data: Any, sources: Any) -> None:
        """Take the mean over training frames."""
        self.mean.copy_(torch.from_numpy(time_mean(data.train_windows)[0]))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the mean."""
        return self.mean.expand_as(history[:, -1])
