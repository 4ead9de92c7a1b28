"""What every solver provides."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor


class AbstractSolver(ABC):
    """Advances a batch of states, each with its own parameters.

    Attributes
    ----------
    differentiable
        Whether gradients pass through a step.
    """

    differentiable: bool = True

    @abstractmethod
    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame.

        Parameters
        ----------
        state
            Physical units.

        Returns
        -------
        Tensor
            The state one frame later.
        """

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Advance by several frames.

        Parameters
        ----------
        state
            Physical units.
        frames
            Number of frames.

        Returns
        -------
        Tensor
            The frames, without the initial state.
        """
        states = []
        for _ in range(frames):
            state = self.step(state)
            states.append(state)
        return torch.stack(states, dim=1)
