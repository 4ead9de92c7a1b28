"""Samplers that carry noise to data along the paths of a velocity."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.flow import flow_states
from longrun.tasks.sample import AbstractSampler


class AbstractFlow(AbstractSampler):
    """A sampler that solves dz/dt = velocity(z, t) from noise at t = 0 to data at t = 1.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSampler`, also for the options.
    fine_steps : int
        Runge-Kutta steps, four evaluations each, of an exact answer.
    """

    order = 1

    def __init__(
        self, fields: int, dims: int, conditions: int, fine_steps: int = 100, **options: Any
    ):
        super().__init__(fields, dims, conditions, **options)
        if fine_steps < 1:
            raise ValueError(f"fine_steps must be at least 1, is {fine_steps}")
        self.fine_steps = fine_steps

    @abstractmethod
    def velocity(
        self,
        state: Float[Tensor, "batch channel *space"],
        time: Float[Tensor, " batch"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return dz/dt at each sample's own time."""

    def solve(
        self,
        noise: Float[Tensor, "batch channel *space"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        nfe: int | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Carry noise to data: by so many steps of Euler's, or as exactly as the method can."""
        if nfe is None:
            *_, end = self._states(noise, context, conditions, self.fine_steps, "rk4")
        else:
            *_, end = self._states(noise, context, conditions, nfe, "euler")
        return end

    def sample(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        nfe: int | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Draw noise and carry it to data."""
        return self.solve(self._noise(context, generator), context, conditions, nfe)

    def paths(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, "time batch channel *space"]:
        """Return the states of the exact flow."""
        noise = self._noise(context, generator)
        return torch.stack([*self._states(noise, context, conditions, self.fine_steps, "rk4")])

    def _states(
        self,
        noise: Tensor,
        context: Tensor,
        conditions: Tensor,
        steps: int,
        scheme: Literal["euler", "rk4"],
    ) -> Iterator[Tensor]:
        def velocity(state: Tensor, time: float) -> Tensor:
            return self.velocity(state, state.new_full((len(state),), time), context, conditions)

        return flow_states(velocity, noise, steps, scheme)

    def _noise(self, context: Tensor, generator: torch.Generator) -> Tensor:
        noise = context.new_empty(len(context), self.fields, *context.shape[2:])
        return noise.normal_(generator=generator)
