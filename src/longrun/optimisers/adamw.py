"""Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101)."""

from typing import Any

import torch

from longrun.optimisers._base import AbstractOptimiser


class AdamW(AbstractOptimiser, torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, arXiv:1711.05101).

    Parameters
    ----------
    params, lr
        See `AbstractOptimiser`.
    betas : tuple of float
        Decay of the first and of the second moment.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        Decoupled from the gradient: a share of the weights, times the learning rate.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        # The one kernel for all weights could undo the scaling of half-precision gradients, but
        # then they would be clipped before it.
        self._step_supports_amp_scaling = False
