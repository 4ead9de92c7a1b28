"""Several steps, each from true frames."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.training._base import AbstractUnrolling, Parameters, Window, rollout_loss


class TeacherForcing(AbstractUnrolling):
    """The mean loss over the steps of a window, each from true frames.

    Parameters
    ----------
    unroll : int
        Steps of a window.
    """

    def loss(
        self, method: Any, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the mean loss over the steps of each window."""
        return rollout_loss(method, window, parameters, generator, self.unroll, free=1)
