"""Several steps, each from the last prediction, with the gradient through all of them."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.training._base import AbstractUnrolling, Parameters, Window, rollout_loss


class Unrolled(AbstractUnrolling):
    """The mean loss over a rollout.

    Parameters
    ----------
    unroll : int
        Steps of the rollout.
    after : int
        Updates of one-step training before it.
    """

    def __init__(self, unroll: int = 2, after: int = 0):
        super().__init__(unroll)
        self.after = after

    def loss(
        self, method: Any, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the steps of each window."""
        steps = self.unroll if method.global_step >= self.after else 1
        return rollout_loss(method, window, parameters, generator, steps, free=steps)
