"""What all training schemes share. They use a method only as a rollout does."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

Window = Float[Tensor, "batch frame channel *space"]
Parameters = Float[Tensor, "batch parameter"]


class AbstractTraining(ABC):
    """A loss over windows of true frames; arguments with defaults are options in YAML.

    A scheme asks a method to `begin` from true frames, to `advance`, and for the `step_loss` of a
    step, which is an advance compared with the true frame. So it works for every method, whatever
    its rollout carries from step to step.

    Attributes
    ----------
    unroll : int
        Frames of a window after the history.
    leads : bool
        Whether a step may span any lead time, which the method then sees.
    """

    unroll: int = 1
    leads: bool = False

    @abstractmethod
    def loss(
        self, method: Any, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the training loss of windows of `history + unroll` true frames, physical units.

        Parameters
        ----------
        method
            An `AbstractForecaster`.
        window
            True frames.
        parameters
            Of each window, in the order of the store.
        generator
            Source of all noise.
        """


class AbstractUnrolling(AbstractTraining):
    """A scheme that goes through several steps of a window.

    Parameters
    ----------
    unroll : int
        Steps of a window, at least 2.
    """

    def __init__(self, unroll: int = 2):
        if unroll < 2:
            raise ValueError(f"training.unroll must be at least 2, is {unroll}")
        self.unroll = unroll


def rollout_loss(
    method: Any,
    window: Window,
    parameters: Parameters,
    generator: torch.Generator,
    steps: int,
    free: int,
) -> Float[Tensor, ""]:
    """Return the mean loss over the first steps of a window.

    Parameters
    ----------
    method, window, parameters, generator
        See `AbstractTraining.loss`.
    steps
        How many steps.
    free
        How many of the first steps follow one another, each from the prediction of the last. Later
        steps start from true frames.
    """
    history = method.noisy(window[:, : method.history], generator)
    memory, losses = method.begin(history, parameters), []
    for i in range(steps):
        following, onward = window[:, method.history + i], i + 1 < steps
        loss, frame, memory = method.step_loss(memory, following, generator, onward)
        losses.append(loss)
        if onward and free < steps:
            forced = i + 1 >= free
            if forced:
                frame = method.noisy(following[:, None], generator)[:, 0]
            history = torch.cat([history[:, 1:], frame[:, None]], dim=1)
            if forced:
                memory = method.begin(history, parameters)
    return torch.stack(losses).mean()
