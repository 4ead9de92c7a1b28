"""L-BFGS: quasi-Newton with a line search (Liu and Nocedal, 1989)."""

from typing import Any, Literal

import torch

from longrun.optimisers._base import AbstractOptimiser


class LBFGS(AbstractOptimiser, torch.optim.LBFGS):
    """L-BFGS; an update is several iterations on one batch.

    Parameters
    ----------
    params, lr
        See `AbstractOptimiser`; one group. The learning rate is the first step of the search.
    max_iter : int
        Iterations of an update.
    history_size : int
        Earlier steps from which the curvature is estimated.
    line_search_fn : {"strong_wolfe"} or None
        None takes full steps.
    """

    searches = True

    def __init__(
        self,
        params: Any,
        lr: float,
        max_iter: int = 20,
        history_size: int = 100,
        line_search_fn: Literal["strong_wolfe"] | None = "strong_wolfe",
    ):
        super().__init__(
            params,
            lr=lr,
            max_iter=max_iter,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
