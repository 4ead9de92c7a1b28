"""Adam (Kingma and Ba, 2015, arXiv:1412.6980)."""

from typing import Any

import torch

from longrun.optimisers._base import AbstractOptimiser


class Adam(AbstractOptimiser, torch.optim.Adam):
    """Adam (Kingma and Ba, 2015, arXiv:1412.6980).

    Parameters
    ----------
    params, lr
        See `AbstractOptimiser`.
    betas : tuple of float
        Decay of the first and of the second moment.
    eps : float
        Added to the root of the second moment.
    weight_decay : float
        Times the weights, added to the gradient.
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
