"""Flows that carry noise (time 0) to data (time 1): the network of a velocity, and steps along it.

Points get a multilayer perceptron of (z, observation, conditions, t), fields the U-Net with the
time as a condition.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.nn.unet import UNetBackbone

FIRST = 1e-3  # time of the earliest training sample; Liu et al. (2022)
TIME_SCALE = 999.0  # of the time that sinusoids embed; Liu et al. (2022)

Velocity = Callable[[Tensor, float], Tensor]
"""dz/dt of states (batch, channel, *space) at a time."""


def flow_states(
    velocity: Velocity,
    start: Float[Tensor, "batch channel *space"],
    steps: int,
    scheme: Literal["euler", "rk4"] = "rk4",
) -> Iterator[Float[Tensor, "batch channel *space"]]:
    """Yield the states of a flow at the times 0, 1/steps, ..., 1.

    Parameters
    ----------
    velocity
        Of the flow.
    start
        States at time 0.
    steps
        Steps of equal length.
    scheme
        Euler's, one evaluation of the velocity per step, or the classical one of order four.
    """
    state, h = start, 1 / steps
    yield state
    for step in range(steps):
        now = step * h
        slope = velocity(state, now)
        if scheme == "rk4":
            second = velocity(state + h / 2 * slope, now + h / 2)
            third = velocity(state + h / 2 * second, now + h / 2)
            fourth = velocity(state + h * third, min(now + h, 1.0))
            slope = (slope + 2 * second + 2 * third + fourth) / 6
        state = state + h * slope
        yield state


def velocity_network(
    dims: int,
    fields: int,
    observed: int,
    conditions: int,
    width: int,
    layers: int,
    multipliers: Sequence[int],
) -> nn.Module:
    """Make the network that `network_velocity` asks.

    Parameters
    ----------
    dims
        Axes of a frame.
    fields, observed, conditions
        Channels of a frame, of an observation, and numbers besides the time.
    width, layers
        Of the perceptron's hidden layers, their number; or channels of the U-Net after its stem.
    multipliers
        Growth of the U-Net's width from level to level, cumulative.
    """
    inputs = fields + observed
    if dims:
        return UNetBackbone(dims, inputs, fields, conditions + 1, width, list(multipliers))
    return _perceptron(inputs + conditions + 1, width, layers, fields)


def network_velocity(
    network: nn.Module,
    state: Float[Tensor, "batch channel *space"],
    time: Float[Tensor, " batch"],
    context: Float[Tensor, "batch observed *space"],
    conditions: Float[Tensor, "batch condition"],
) -> Float[Tensor, "batch channel *space"]:
    """Return dz/dt at each sample's own time, none of which is before `FIRST`."""
    time = time.clamp_min(FIRST)
    given = torch.cat([state, context], dim=1)
    if state.ndim == 2:
        return network(torch.cat([given, conditions, time[:, None]], dim=1))
    return network(given, torch.cat([conditions, TIME_SCALE * time[:, None]], dim=1))


def _perceptron(inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
    """Return a network of rectified units: smooth ones separate narrow clusters far later."""
    sizes = [inputs] + [width] * layers
    hidden = [
        layer
        for before, after in itertools.pairwise(sizes)
        for layer in (nn.Linear(before, after), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))
