"""What all optimisers share: complex weights look real to them."""

from abc import ABC
from typing import Any

import torch
from torch import Tensor


class AbstractOptimiser(torch.optim.Optimizer, ABC):
    """A torch optimiser whose arguments with defaults are options in YAML.

    `params` and `lr` come from the learner: groups of weights, each with its learning rate. An
    optimiser that hooks into layers also takes the argument `module`, and gets the method.

    Complex weights are shown as real views with a last axis of length 2, and so are their
    gradients. Hence an optimiser written for real numbers works for all networks, and its state is
    real. Put this class before torch's among the bases.

    Attributes
    ----------
    searches
        Whether an update evaluates the loss more than once: then it can be neither clipped nor
        shared by several devices. A literal in the class's own file, which is read without import.
    """

    searches: bool = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of weights, the complex ones as real views."""
        weights = [self._real(weight) for weight in param_group["params"]]
        super().add_param_group(param_group | {"params": weights})

    def _real(self, weight: Tensor) -> Tensor:
        if not weight.is_complex():
            return weight
        view = torch.nn.Parameter(torch.view_as_real(weight.detach()))

        def show_gradient(weight: Tensor) -> None:
            assert weight.grad is not None  # it was accumulated just now
            view.grad = torch.view_as_real(weight.grad)

        weight.register_post_accumulate_grad_hook(show_gradient)
        self.__dict__.setdefault("_complex", []).append(weight)
        return view

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, those of complex weights too."""
        super().zero_grad(set_to_none)
        if set_to_none:  # else the views have zeroed what they share
            for weight in self.__dict__.get("_complex", ()):
                weight.grad = None
