"""What needs no learning: interpolate between the sensors, then wait, or solve the equation.

A forecast from scattered sensors (Janny et al., 2024, arXiv:2401.09198) that loses to the first, or
to the mean over all training frames, has learnt nothing; the second knows the equation, and what it
errs is what the gaps between the sensors hide. The interpolation is that of Clough and Tocher,
piecewise cubic on triangles.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.data.windows import time_mean
from longrun.nn import scattered
from longrun.runtime import registry
from longrun.solvers._base import AbstractSolver
from longrun.tasks._sensors import grid_positions
from longrun.tasks._solvers import SolverMemory
from longrun.tasks.assimilate import AbstractAssimilator


class Interpolation(AbstractAssimilator):
    """Piecewise cubic interpolation of a measurement, and the data's own solver or none.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractAssimilator`, also for the options.
    equation : dict
        The `equation` section of the dataset; from the data.
    stride : int
        Frames of the dataset per model step; from the data.
    points : list of int
        Of the grid along each axis; from the data.
    then : {"persistence", "solver", "climatology"}
        What follows a measurement; the solver works on the stored grid, the climatology is the mean
        over training frames at each point, with a sensor or without.
    """

    supported_dims = (2,)
    classical = True
    mean: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        stride: int,
        points: list[int],
        then: Literal["persistence", "solver", "climatology"] = "persistence",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        self.equation = registry.build("equations", equation)
        self._solvers = SolverMemory(self.equation)
        self.stride, self.then = stride, then
        self.register_buffer("mean", torch.zeros(fields, *points))
        self.periodic = (True,) * dims
        self._weights: tuple[bytes, Tensor] | None = None

    def fit_data(self, description: dict[str, Any]) -> None:
        """Note which axes close."""
        self.periodic = tuple(kind == "periodic" for kind in description["boundary"])

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take the mean over training frames, where that is what follows."""
        if self.then == "climatology":
            self.mean.copy_(torch.from_numpy(time_mean(data.train_windows)[0]))

    def predict(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the same state, the climatology, or what the solver makes of the state."""
        if self.then == "persistence":
            return state
        if self.then == "climatology":
            return self.mean.expand_as(state)
        solver: AbstractSolver = self._solvers(
            parameters, state.dtype, points=state.shape[2], stride=self.stride
        )
        return solver.step(state)

    def begin(
        self,
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the first measurement, interpolated."""
        return self._interpolate(measurement, mask[0, 0])

    def correct(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the interpolated measurement where there is one, else the forecast."""
        measured = mask.flatten(1).any(1)
        if not measured.any():
            return forecast
        found = self._interpolate(measurement, mask[measured][0, 0])
        return torch.where(measured.reshape(-1, *(1,) * (forecast.ndim - 1)), found, forecast)

    def _interpolate(
        self, measurement: Float[Tensor, "batch channel *space"], places: Bool[Tensor, "*space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Interpolate what the sensors at these places measure."""
        if places.all():
            return measurement
        numbers, space = np.flatnonzero(places.cpu().numpy()), measurement.shape[2:]
        if self._weights is None or self._weights[0] != numbers.tobytes():
            positions = grid_positions(space)
            weights = scattered.cubic(positions[numbers], positions, self.periodic)
            self._weights = (numbers.tobytes(), torch.from_numpy(weights).to(measurement))
        values = measurement.flatten(2)[..., torch.from_numpy(numbers).to(measurement.device)]
        return (values @ self._weights[1].T).unflatten(2, space)
