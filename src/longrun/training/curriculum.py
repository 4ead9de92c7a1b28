"""From true frames to rollouts while training.

Takamoto et al. (2023, arXiv:2304.14118).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.training._base import AbstractUnrolling, Parameters, Window, rollout_loss


class Curriculum(AbstractUnrolling):
    """The mean loss over the steps of a window, an increasing number of which follow one another.

    After the share q of the updates, the part (1 + tanh((q - 1/2) / width)) / 2 of a window is
    rolled out; each of the other steps starts from true frames.

    Parameters
    ----------
    unroll : int
        Steps of a window.
    after : int
        Updates with true frames before it starts.
    width : float
        Share of the training that the transition takes.
    """

    def __init__(self, unroll: int = 2, after: int = 0, width: float = 0.2):
        super().__init__(unroll)
        if width <= 0:
            raise ValueError(f"training.width must be positive, is {width}")
        self.after, self.width = after, width

    def loss(
        self, method: Any, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the steps of each window."""
        free = self.free(method.global_step, method.total_updates)
        return rollout_loss(method, window, parameters, generator, self.unroll, free)

    def free(self, update: int, total: int) -> int:
        """Return how many steps follow one another at an update of a training."""
        progress = (update - self.after) / max(total - self.after, 1)
        part = 0.5 * (1 + math.tanh((progress - 0.5) / self.width))
        return min(max(int(self.unroll * part), 1), self.unroll)
