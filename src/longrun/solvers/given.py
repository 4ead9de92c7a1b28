"""Data that are drawn, not solved for."""

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.solvers._base import AbstractSolver


class Given(AbstractSolver):
    """Nothing to solve: the state that was drawn is the datum.

    Parameters
    ----------
    dtype
        Of the states.
    """

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def step(
        self, state: Float[Tensor, "batch field *space"]
    ) -> Float[Tensor, "batch field *space"]:
        """Return the state."""
        return state.to(self.dtype, copy=True)
