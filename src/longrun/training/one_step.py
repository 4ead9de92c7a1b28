"""One step from true frames."""

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.training._base import AbstractTraining, Parameters, Window, rollout_loss


class OneStep(AbstractTraining):
    """The loss of the first step."""

    def loss(
        self, method: object, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the loss of the first step of each window."""
        return rollout_loss(method, window, parameters, generator, steps=1, free=1)
