"""Linear autoregression over the context, by ridge regression: the baseline of learnt forecasts.

A single linear layer on the history is hard to beat where long histories are said to help (Zeng et
al., 2023, arXiv:2205.13504). The best one has a closed form,

    W = (X^T X + a n I)^-1 X^T Y,

with a row of X for each of n windows: all normalised frames of its history; and of Y the scaled
target. a is the best of a few powers of ten on validation windows.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks.forecast import AbstractForecaster

PENALTIES = (1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)  # a
TOGETHER = 1024  # windows in memory at a time


class LinearAutoregression(AbstractForecaster):
    """The next frame as a linear function of the history.

    Parameters
    ----------
    fields, dims, conditions, points
        From the data; `points` are the grid's, per axis. Conditions are not used.
    windows : int
        Training windows of the fit, spread evenly over trajectories and time.
    options
        See `AbstractForecaster`.
    """

    translates = False
    weight: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        windows: int = 20_000,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if windows < 1:
            raise ValueError(f"windows must be at least 1, is {windows}")
        self.windows = windows
        cells = fields * math.prod(points)
        # after all frames a one, whose weight is the constant
        self.register_buffer("weight", torch.zeros(self.history * cells + 1, cells))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        return (_rows(history) @ self.weight).unflatten(1, history.shape[2:])

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Fit, and choose the penalty on validation windows.

        Raises
        ------
        ValueError
            A run to start from: there is nothing to take over.
        """
        if sources:
            raise ValueError("linear_autoregression is fitted anew and takes no starts_from")
        products, answers, count = 0.0, 0.0, 0
        for given, target in self._pairs(data.train_windows, self.windows):
            products, answers = products + given.T @ given, answers + given.T @ target
            count += len(given)
        kept = [*self._pairs(data.valid_windows, TOGETHER)]
        identity = torch.eye(len(self.weight), dtype=torch.float64)
        best = math.inf
        for penalty in PENALTIES:
            weight = torch.linalg.solve(products + penalty * count * identity, answers)
            error = sum(float((x @ weight - y).square().sum()) for x, y in kept)
            if error < best:
                best = error
                self.weight.copy_(weight)

    def _pairs(self, windows: Any, count: int) -> Any:
        """Yield rows and targets of windows, float64, some windows at a time."""
        chosen = windows.spread(count)
        for some in np.array_split(chosen, math.ceil(len(chosen) / TOGETHER)):
            frames = torch.from_numpy(windows.read(some)[0][:, : self.history + 1])
            target = self.scaled_target(frames[:, -2], frames[:, -1])
            yield _rows(self.normalised(frames[:, :-1])).double(), target.flatten(1).double()


def _rows(history: Float[Tensor, "batch frame channel *space"]) -> Float[Tensor, "batch input"]:
    flat = history.flatten(1)
    return torch.cat([flat, torch.ones_like(flat[:, :1])], 1)
