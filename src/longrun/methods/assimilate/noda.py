"""NODA: neural operator with data assimilation (Singh et al., 2024, arXiv:2402.15656).

A semilinear equation `u_t = A u + G(u)` with an observer has a mild solution that splits into a
step of the equation and a correction by the measurement; so does the network:

    forecast = z + W(z),    analysis = forecast + K(forecast) * mask * (y - E(forecast))

W is a Fourier neural operator, E maps a state to what sensors would show, and the gain K is a gate
between 0 and 1 at every point. Without a measurement the analysis is the forecast: one network
forecasts freely or follows any number of measurements. Trained through short windows of which a
random share is measured, with the loss

    |analysis - z|^2 / |z|^2 + weight |mask (E(forecast) - y)|^2 / |mask y|^2

The paper's own code could not be obtained; E and K are small, since its text doesn't specify them.
Our choices: the networks see normalised states; E is the identity plus a network; where sensors
leave gaps, two spectral layers spread the innovation over them before the gate.

A gate that sees the forecast alone can't know how far off it is: it is the best one for the average
error in training. `gate_sees: innovation`, an extension of ours, shows it `y - E(forecast)` too, so
that it may trust a measurement more after a long gap.
"""

import itertools
import math
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from longrun.nn.fno import FNOBackbone
from longrun.tasks._learner import over_devices
from longrun.tasks.assimilate import AbstractAssimilator


class NODA(AbstractAssimilator):
    """Residual Fourier neural operator with a learnt observer.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractAssimilator`, also for the options.
    width : int
        Channels of the hidden layers of the predictor.
    modes : int
        Wavenumbers that one of its layers mixes, per axis.
    layers : int
        Its Fourier layers.
    gain_width : int
        Channels of the hidden layers of gain and measurement map.
    gain : {"pointwise", "spectral"}
        Correct a point by the innovation at that point only, for sensors everywhere; or spread
        innovations with two Fourier layers first.
    gate_sees : {"forecast", "innovation"}
        What the gate depends on: the forecast, as published, or the innovation too.
    first_gain : float
        Gain before training: near 1 it would copy the noise.
    measurement_weight : float
        Weight of the loss of the measurement map.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 32,
        modes: int = 16,
        layers: int = 4,
        gain_width: int = 32,
        gain: Literal["pointwise", "spectral"] = "pointwise",
        gate_sees: Literal["forecast", "innovation"] = "forecast",
        first_gain: float = 0.1,
        measurement_weight: float = 0.1,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if not 0 < first_gain < 1:
            raise ValueError(f"first_gain must lie between 0 and 1, is {first_gain}")
        if gain == "pointwise" and self.spacing > 1:
            raise ValueError(f"spacing {self.spacing} needs gain: spectral, else gaps stay gaps")
        self.measurement_weight = measurement_weight
        self.network = FNOBackbone(dims, self.inputs, fields, width, modes, layers)
        self.measurement_map = _convolutions(dims, [fields, gain_width, fields])
        self.gate_sees = gate_sees
        seen = 2 * fields if gate_sees == "innovation" else fields
        self.gate = _convolutions(dims, [seen, gain_width, gain_width, fields])
        self.spread = (
            FNOBackbone(dims, 2 * fields, fields, gain_width, modes, layers=2)
            if gain == "spectral"
            else None
        )
        # begin near E(z) = z and near a constant gain
        _begin_near(self.measurement_map, 0.0)
        _begin_near(self.gate, math.log(first_gain / (1 - first_gain)))

    def predict(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next state, before any measurement."""
        increment = self.network(self.network_input(state, parameters))
        return state + self.keep_mean(self.per_channel(self.increment_std) * increment)

    def measured_state(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return E(state): what sensors everywhere would show, physical units."""
        difference = self.measurement_map(self.normalised(state))
        return state + self.per_channel(self.field_std) * difference

    def gain(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        innovation: Float[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the gate, between 0 (trust the forecast) and 1 (trust the measurement)."""
        seen = self.normalised(forecast)
        if self.gate_sees == "innovation":
            seen = torch.cat([seen, innovation / self.per_channel(self.field_std)], dim=1)
        return self.gate(seen).sigmoid()

    def correct(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the forecast plus the gated innovation."""
        innovation = torch.where(mask, measurement - self.measured_state(forecast), 0.0)
        if self.spread is not None:
            scale = self.per_channel(self.field_std)
            seen = torch.cat([self.normalised(forecast), innovation / scale], dim=1)
            anything = mask.flatten(1).any(1).reshape(-1, *(1,) * (mask.ndim - 1))
            innovation = innovation + torch.where(anything, scale * self.spread(seen), 0.0)
        return forecast + self.keep_mean(self.gain(forecast, innovation) * innovation)

    def loss(
        self,
        forecast: Float[Tensor, "batch channel *space"],
        analysis: Float[Tensor, "batch channel *space"],
        truth: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the loss of the analysis and, where there is a measurement, of the map E."""
        value = super().loss(forecast, analysis, truth, measurement, mask)
        error = torch.where(mask, self.measured_state(forecast) - measurement, 0.0)
        scale = over_devices(measurement.square().sum())  # of the whole batch
        scale = scale.clamp_min(torch.finfo(measurement.dtype).tiny)
        return value + self.measurement_weight * error.square().sum() / scale


def _convolutions(dims: int, widths: list[int]) -> nn.Sequential:
    """Return convolutions of kernel 3 on closed axes with GELUs between them."""
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [kind(inputs, outputs, 3, padding=1, padding_mode="circular"), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _begin_near(layers: nn.Sequential, value: float) -> None:
    """Make the last layer return a constant, plus a tenth of what it would have added."""
    last: Any = layers[-1]
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.fill_(value)
