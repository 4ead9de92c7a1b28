"""Scaled variables: fields of zero mean and unit variance, parameters between 0 and 10.

The statistics are those of the training data and lie in buffers, so a checkpoint carries them.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks._learner import AbstractLearner

SPAN = 10.0  # of a scaled parameter: it suits the sinusoids of an embedding


class ScaledLearner(AbstractLearner):
    """A method whose networks work in scaled variables.

    Parameters
    ----------
    fields, dims, conditions : int
        Channels of a frame, space dimensions, and parameters that differ between trajectories;
        from the data.
    shape : tuple of int, optional
        Of the statistics of the fields; by default one number for each field.
    options
        Of `AbstractLearner`.

    Attributes
    ----------
    supported_dims
        Space dimensions that the method is written for.
    equations
        Equations that it is written for; empty for all.
    scales_increments
        Whether it also needs the standard deviation of an increment from frame to frame.

    Raises
    ------
    ValueError
        A number of dimensions that the method is not written for.
    """

    supported_dims: tuple[int, ...] = (1, 2, 3)
    equations: tuple[str, ...] = ()
    scales_increments: bool = False
    field_mean: Tensor
    field_std: Tensor
    increment_std: Tensor
    condition_index: Tensor
    condition_low: Tensor
    condition_scale: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        shape: tuple[int, ...] | None = None,
        **options: Any,
    ):
        super().__init__(**options)
        if dims not in self.supported_dims:
            allowed = " or ".join(map(str, self.supported_dims))
            raise ValueError(f"dims must be {allowed}, is {dims}")
        self.fields, self.dims, self.conditions = fields, dims, conditions
        shape = shape or (fields,)
        self.register_buffer("field_mean", torch.zeros(shape))
        self.register_buffer("field_std", torch.ones(shape))
        if self.scales_increments:
            self.register_buffer("increment_std", torch.ones(shape))
        self.register_buffer("condition_index", torch.arange(conditions))
        self.register_buffer("condition_low", torch.zeros(conditions))
        self.register_buffer("condition_scale", torch.ones(conditions))

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the training data's statistics (`longrun.data.describe`) as buffers."""
        self._fit_fields(statistics)
        self._choose_conditions(statistics)
        low, high = (
            torch.tensor(statistics[name])[self.condition_index]
            for name in ("condition_low", "condition_high")
        )
        self.condition_low.copy_(low)
        # a parameter that doesn't vary becomes zero
        self.condition_scale.copy_(torch.where(high > low, SPAN / (high - low), torch.zeros(())))

    def _fit_fields(self, statistics: dict[str, list[float]]) -> None:
        names = {"mean": "field_mean", "std": "field_std"}
        if self.scales_increments:
            names["increment_std"] = "increment_std"
        for name, buffer in names.items():
            per_field = torch.tensor(statistics[name])
            mine = getattr(self, buffer)
            mine.copy_(per_field.reshape(-1, *(1,) * (mine.ndim - 1)).expand_as(mine))

    def _choose_conditions(self, statistics: dict[str, list[float]]) -> None:
        """Remember which parameters vary, unless the method takes all of them."""
        low = torch.tensor(statistics["condition_low"])
        varying = torch.nonzero(torch.tensor(statistics["condition_high"]) > low).flatten()
        if len(varying) == self.conditions:
            self.condition_index.copy_(varying)

    def per_channel(self, statistic: Float[Tensor, "channel *point"]) -> Tensor:
        """Return a statistic that broadcasts against frames (channel, *space)."""
        return statistic.reshape(*statistic.shape, *(1,) * (self.dims + 1 - statistic.ndim))

    def normalised(
        self, frames: Float[Tensor, "batch ..."], channels: slice = slice(None)
    ) -> Float[Tensor, "batch ..."]:
        """Return frames (..., channel, *space) of zero mean and unit variance.

        Parameters
        ----------
        frames
            Physical units; any axes may come before the channels.
        channels
            Which of the fields the frames hold.
        """
        mean, std = self.field_mean[channels], self.field_std[channels]
        return (frames - self.per_channel(mean)) / self.per_channel(std)

    def physical(
        self, frames: Float[Tensor, "batch ..."], channels: slice = slice(None)
    ) -> Float[Tensor, "batch ..."]:
        """Return normalised frames in physical units: the inverse of `normalised`."""
        mean, std = self.field_mean[channels], self.field_std[channels]
        return self.per_channel(mean) + self.per_channel(std) * frames

    def scaled_conditions(
        self, parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch condition"]:
        """Return the parameters that vary, mapped from their training range to [0, 10]."""
        chosen = parameters.index_select(1, self.condition_index)
        return (chosen - self.condition_low) * self.condition_scale
