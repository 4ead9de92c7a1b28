"""Persistence: tomorrow is as today. The forecast that every other one must beat."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks.forecast import AbstractForecaster


class Persistence(AbstractForecaster):
    """Repeat the last frame; learns nothing. See `AbstractForecaster` for the options."""

    def __init__(self, fields: int, dims: int, conditions: int, **options: Any):
        super().__init__(fields, dims, conditions, target="residual", **options)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return an increment of zero."""
        return torch.zeros_like(history[:, -1])
