"""Stochastic gradient descent with momentum."""

from typing import Any

import torch

from longrun.optimisers._base import AbstractOptimiser


class SGD(AbstractOptimiser, torch.optim.SGD):
    """Stochastic gradient descent, with momentum as in Sutskever et al. (2013).

    Parameters
    ----------
    params, lr
        See `AbstractOptimiser`.
    momentum : float
        Share of the last update that the next one repeats.
    nesterov : bool
        Look ahead along the momentum.
    weight_decay : float
        Times the weights, added to the gradient.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ):
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            foreach=True,
        )
