"""The last of several steps, without gradient through the others.

Brandstetter et al. (2022, arXiv:2202.03376): the network learns to correct its own errors.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.training._base import AbstractUnrolling, Parameters, Window


class Pushforward(AbstractUnrolling):
    """The loss of the last step of a rollout.

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
        """Return the loss of the last step of each window."""
        last = self.unroll - 1 if method.global_step >= self.after else 0
        history = method.noisy(window[:, : method.history], generator)
        memory = method.begin(history, parameters)
        with torch.no_grad():
            for _ in range(last):
                _, memory = method.advance(memory, generator)
        following = window[:, method.history + last]
        loss: Tensor = method.step_loss(memory, following, generator, onward=False)[0]
        return loss
