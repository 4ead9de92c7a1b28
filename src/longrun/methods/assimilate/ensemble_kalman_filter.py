"""Ensemble transform Kalman filter (Bishop et al., 2001; Hunt et al., 2007, arXiv:physics/0511236).

The reference that knows everything except the state: the data's own solver, the noise of the
measurements and their place. An ensemble carries the uncertainty; with M members, anomalies A and
what sensors see of them, Y, both in standard deviations of the noise,

    P = ((M - 1) / inflation + Y Y^T)^-1,    mean += A^T P Y d,    A <- (M - 1)^(1/2) P^(1/2) A

where d is the innovation of the mean.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.runtime import registry
from longrun.solvers._base import AbstractSolver
from longrun.tasks._solvers import SolverMemory
from longrun.tasks.assimilate import AbstractAssimilator


class EnsembleKalmanFilter(AbstractAssimilator):
    """The data's own solver, corrected by an ensemble transform Kalman filter without localisation.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractAssimilator`, also for the options; `snr` is the one that the filter assumes.
    equation : dict
        The `equation` section of the dataset; from the data.
    stride : int
        Frames of the dataset per model step; from the data.
    members : int
        Size of the ensemble.
    inflation : float
        Factor on the ensemble's covariance before a correction, to make up for the spread that a
        small ensemble loses.
    substeps : int or None
        Steps of the solver per frame; None takes the data's own.
    """

    stochastic = True  # the first ensemble is drawn

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        stride: int,
        members: int = 30,
        inflation: float = 1.02,
        substeps: int | None = None,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if members < 2 or inflation < 1:
            raise ValueError("members must be at least 2, inflation at least 1")
        if self.snr is None:
            raise ValueError("ensemble_kalman_filter needs snr: the noise that it assumes")
        self.equation = registry.build("equations", equation)
        if self.equation.refinement != 1:
            raise ValueError("ensemble_kalman_filter needs a store of the solver's whole state")
        self.stride, self.members, self.inflation = stride, members, inflation
        self.substeps = substeps
        self._solvers = SolverMemory(self.equation)

    def _solver(
        self, parameters: Float[Tensor, "batch parameter"], dtype: torch.dtype
    ) -> AbstractSolver:
        """Return the solver of every member."""
        each = parameters.repeat_interleave(self.members, 0)
        options = {"substeps": self.substeps, "stride": self.stride}
        solver: AbstractSolver = self._solvers(each, dtype, **options)
        return solver

    def begin(
        self,
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch member channel *space"]:
        """Return an ensemble around the first measurement; between sensors it spans the climate."""
        centre = super().begin(measurement, mask, generator)
        spread = torch.where(mask, self.noise_std(self.snr), self.per_channel(self.field_std))
        shape = (len(centre), self.members, *centre.shape[1:])
        noise = torch.empty(shape, dtype=centre.dtype, device=centre.device)
        return centre[:, None] + self.keep_mean(
            spread[:, None] * noise.normal_(generator=generator)
        )

    def estimate(
        self, state: Float[Tensor, "batch member channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the ensemble's mean."""
        return state.mean(1)

    def predict(
        self,
        state: Float[Tensor, "batch member channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch member channel *space"]:
        """Return every member one model step later."""
        solver = self._solver(parameters, state.dtype)
        return solver.step(state.flatten(0, 1)).unflatten(0, (-1, self.members))

    def correct(
        self,
        forecast: Float[Tensor, "batch member channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch member channel *space"]:
        """Return the ensemble of the analysis."""
        mean = forecast.mean(1, keepdim=True)
        anomalies = (forecast - mean).flatten(2)
        seen = mask / self.noise_std(self.snr)
        observed = anomalies * seen.flatten(1)[:, None]
        innovation = ((measurement - mean[:, 0]) * seen).flatten(1)
        precision = observed @ observed.mT
        precision.diagonal(dim1=1, dim2=2).add_((self.members - 1) / self.inflation)
        values, vectors = torch.linalg.eigh(precision)
        pulled = vectors.mT @ (observed @ innovation[:, :, None])
        weights = vectors @ (pulled / values[:, :, None])
        spread = ((self.members - 1) / values).sqrt()[:, :, None]
        transform = weights.mT + vectors @ (spread * vectors.mT)  # one row per new member
        analysis = mean + (transform @ anomalies).reshape(forecast.shape)
        anything = mask.flatten(1).any(1).reshape(-1, *(1,) * (forecast.ndim - 1))
        return torch.where(anything, analysis, forecast)
