"""Pairs of frames as samples of any lead time: Herde et al. (2024, arXiv:2405.19101)."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longrun.training._base import AbstractUnrolling, Parameters, Window

Rows = tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]


class AbstractPairs(AbstractUnrolling):
    """The loss of one direct step between two random frames of each window.

    Parameters
    ----------
    unroll : int
        Longest lead time in steps; a window has one frame more.
    """

    leads = True

    @abstractmethod
    def choose(self, count: int, generator: torch.Generator, device: torch.device) -> Rows:
        """Return the numbers of an earlier frame and of a later one for each window."""

    def loss(
        self, method: Any, window: Window, parameters: Parameters, generator: torch.Generator
    ) -> Float[Tensor, ""]:
        """Return the loss of one pair of frames of each window."""
        rows = torch.arange(len(window), device=window.device)
        first, later = self.choose(len(window), generator, window.device)
        history = method.noisy(window[rows, first][:, None], generator)
        following, lead = window[rows, later], later - first
        loss: Tensor = method.frame_loss(history, following, parameters, generator, lead)[0]
        return loss
