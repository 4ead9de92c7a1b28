"""A calibrated single forecast: the conditional mean with Gaussian noise like its own errors.

The mean is that of the method named by `starts_from`, as it is. Its errors on validation data give
the noise: a normal vector with their second moments, the same whatever is seen. Samples of a
rectified flow (Liu et al., 2022, arXiv:2209.03003) must beat it to have learnt more than how large
errors are.

With errors r_i on N validation windows a sample is mean + sum_i e_i r_i / sqrt(N), e_i ~ N(0, 1).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.unet import UNetBackbone, grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._learner import only
from longrun.tasks.sample import AbstractSampler

MADE_AT_ONCE = 512  # residuals in one call of the network


class ConditionalGaussian(AbstractSampler):
    """Another method's conditional mean, with the Gaussian of its errors around it.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSampler`, also for the options.
    points : list of int
        Grid points along each axis; from the data.
    conditional : bool
        See `AbstractSampler`; without a condition there is no forecast.
    width, multipliers
        Those of the method named by `starts_from`.
    residuals : int
        Windows of the validation split whose errors give the noise.

    Raises
    ------
    ValueError
        Without a condition, or without residuals.
    """

    supported_dims = (1, 2)
    errors: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        conditional: bool = True,
        width: int = 64,
        multipliers: list[int] = [1, 2, 2, 2],  # noqa: B006 (read, never written)
        residuals: int = 512,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, conditional, **options)
        if not conditional:
            raise ValueError("conditional_gaussian needs conditional: true")
        if residuals < 1:
            raise ValueError(f"residuals must be at least 1, is {residuals}")
        self.network = UNetBackbone(dims, fields, fields, conditions, width, multipliers)
        self.network.requires_grad_(False)  # trained elsewhere
        self.register_buffer("errors", torch.ones(residuals, fields, *points))

    @torch.no_grad()
    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take the mean of `starts_from` and keep its errors on validation windows.

        Raises
        ------
        ValueError
            Without a source, or with one of another network or another view.
        """
        source: Any = only(sources)
        if source is None or source.stochastic or not hasattr(source, "network"):
            raise ValueError("conditional_gaussian needs starts_from: a conditional_mean")
        if self.view != source.view:
            raise ValueError("conditional_gaussian must see what its starts_from sees")
        try:
            self.network.load_state_dict(source.network.state_dict())
        except RuntimeError as error:
            message = "conditional_gaussian needs width and multipliers of its starts_from"
            raise ValueError(message) from error
        windows, generator = data.valid_windows, torch.Generator().manual_seed(0)
        chosen = torch.as_tensor(windows.spread(len(self.errors)))
        # a short split gives each of its windows several times, with other noise of observation
        chosen = chosen.repeat(math.ceil(len(self.errors) / len(chosen)))[: len(self.errors)]
        for some in torch.arange(len(chosen)).split(MADE_AT_ONCE):
            frames, parameters = map(torch.from_numpy, windows.read(chosen[some].numpy()))
            context = self.context_of(self.observe(frames[:, 0], generator))
            mean = self.network(context, self.scaled_conditions(parameters.to(context)))
            self.errors[some] = self.normalised(frames[:, -1]) - mean

    def sample(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        nfe: int | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the mean with noise, always by one evaluation."""
        shape = len(context), len(self.errors)
        weights = torch.empty(shape, device=context.device, dtype=context.dtype)
        noise = torch.tensordot(weights.normal_(generator=generator), self.errors, 1)
        return self.network(context, conditions) + noise / math.sqrt(len(self.errors))
