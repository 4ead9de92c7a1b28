"""Ordinary differential equations that carry noise (time 0) to data (time 1), step by step."""

from collections.abc import Callable, Iterator
from typing import Literal

from jaxtyping import Float
from torch import Tensor

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
