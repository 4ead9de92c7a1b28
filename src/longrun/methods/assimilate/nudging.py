"""Nudging: pull the forecast towards the measurement by a constant share of their difference.

Newtonian relaxation (Hoke and Anthes, 1976), a Kalman filter whose gain neither learns nor forgets.
The model is that of the method named by `starts_from`, as it is; the gain is the one that follows
validation trajectories best. The baseline that NODA's gain must beat (arXiv:2402.15656).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.nn.fno import FNOBackbone
from longrun.tasks._estimation import relative_square
from longrun.tasks._learner import only
from longrun.tasks.assimilate import AbstractAssimilator


class Nudging(AbstractAssimilator):
    """Another method's predictor with a constant gain.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractAssimilator`, also for the options.
    width, modes, layers : int
        Those of the predictor of the method named by `starts_from`.
    gains : list of float
        Gains to choose from.
    measured : list of float
        Fractions of measured steps that the gain is chosen for.
    frames : int
        Frames of the validation trajectories that it is chosen on.
    """

    gain: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 32,
        modes: int = 16,
        layers: int = 4,
        gains: list[float] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0],  # noqa: B006
        measured: list[float] = [0.1, 0.3],  # noqa: B006 (read, never written)
        frames: int = 120,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if not gains or not all(0 < gain <= 1 for gain in gains):
            raise ValueError("gains must be numbers above 0 and up to 1")
        if not measured or not all(0 < fraction <= 1 for fraction in measured):
            raise ValueError("measured must be fractions above 0 and up to 1")
        self.gains, self.measured, self.frames = gains, measured, frames
        self.network = FNOBackbone(dims, self.inputs, fields, width, modes, layers)
        self.network.requires_grad_(False)  # trained elsewhere
        self.register_buffer("gain", torch.tensor(gains[0]))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take the predictor of `starts_from` and choose the gain on validation trajectories.

        Raises
        ------
        ValueError
            Without a source, or with one of another predictor.
        """
        source: Any = only(sources)
        if source is None or not isinstance(getattr(source, "network", None), FNOBackbone):
            raise ValueError("nudging needs starts_from: a method with an FNO as predictor")
        try:
            self.network.load_state_dict(source.network.state_dict())
        except RuntimeError as error:
            raise ValueError("nudging needs width, modes and layers of its starts_from") from error
        errors = []
        for gain in self.gains:
            self.gain.fill_(gain)
            errors.append(
                np.mean([self._error(store, data.train_windows.stride) for store in data.stores])
            )
        self.gain.fill_(self.gains[int(np.argmin(errors))])

    @torch.no_grad()
    def _error(self, store: Any, stride: int) -> float:
        """Return the mean relative squared error on validation trajectories."""
        split = store.split("valid")
        truth = torch.from_numpy(split.read(slice(None), slice(0, self.frames * stride, stride)))
        table = np.stack(list(split.parameters.values()), axis=1)
        parameters = torch.from_numpy(table).to(truth)
        errors = []
        for fraction in self.measured:
            generator = torch.Generator().manual_seed(0)  # the same noise for every gain
            measured = torch.rand(truth.shape[:2], generator=generator) < fraction
            measured[:, 0] = True
            measurement, mask = self.measure(truth, measured, generator)
            for k, found in enumerate(self.follow(measurement, mask, parameters, generator)):
                error = relative_square(found - truth[:, k], truth[:, k])
                errors.append(error.nan_to_num(torch.inf, torch.inf).mean())
        return float(torch.stack(errors).mean())

    def predict(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next state."""
        increment = self.network(self.network_input(state, parameters))
        return state + self.keep_mean(self.per_channel(self.increment_std) * increment)

    def correct(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the forecast, moved towards the measurement where there is one."""
        innovation = torch.where(mask, measurement - forecast, 0.0)
        return forecast + self.keep_mean(self.gain * innovation)
