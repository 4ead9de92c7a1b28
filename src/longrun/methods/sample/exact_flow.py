"""The exact rectified flow of a mixture of Gaussians (after Liu et al., 2022, arXiv:2209.03003).

With data from sum_k w_k N(mu_k, S_k) and normal noise, every law between is a mixture too, and
v*(x, t) = E[z1 - z0 | z_t = x] is known: with r_k the posterior weights of the components,

    v*(x, t) = sum_k r_k(x, t) (mu_k + (t S_k - (1 - t)) / (t^2 S_k + (1 - t)^2) (x - t mu_k))

This is the limit of a perfect 1-rectified flow: what is left of its curvature and its errors in few
steps is the method's, not the network's. Equal to (D - x) / (1 - t) with the denoiser D, without
its singularity at t = 1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.nn.flow import flow_states
from longrun.runtime import registry
from longrun.tasks.sample import AbstractSampler


def mixture_velocity(
    state: Float[Tensor, "batch value"],
    time: float,
    means: Float[Tensor, "component value"],
    variances: Float[Tensor, "component value"],
) -> Float[Tensor, "batch value"]:
    """Return v* of a mixture of equally likely Gaussians with diagonal covariances.

    Parameters
    ----------
    state
        Where.
    time
        When, 0 is noise and 1 is data.
    means, variances
        Of the components.
    """
    between = time**2 * variances + (1 - time) ** 2
    deviation = state[:, None] - time * means
    log_weight = -0.5 * (deviation.square() / between + between.log()).sum(-1)
    gain = (time * variances - (1 - time)) / between
    return (log_weight.softmax(-1)[..., None] * (means + gain * deviation)).sum(1)


class ExactFlow(AbstractSampler):
    """The flow that rectified flow would learn from infinitely much data; learns nothing.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSampler`, also for the options.
    equation : dict
        The `equation` section of the dataset, whose law has `centres` and a `spread`; from the
        data.
    fine_steps : int
        Runge-Kutta steps, four evaluations each, of an exact answer.

    Raises
    ------
    ValueError
        Data whose law is not known.
    """

    supported_dims = (0,)
    equations = ("gaussian_mixture",)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        fine_steps: int = 100,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if equation["name"] not in self.equations or self.conditional:
            raise ValueError(
                f"the law of {equation['name']} is not known, or not without condition"
            )
        arguments = {key: value for key, value in equation.items() if key != "name"}
        law = registry.find("equations", equation["name"])(**arguments)
        self.fine_steps = fine_steps
        self._centres = torch.from_numpy(law.centres)
        self._spread = float(law.spread)

    def _states(self, noise: Tensor, steps: int, scheme: Any):
        std, mean = self.field_std.to(noise), self.field_mean.to(noise)
        means = (self._centres.to(noise) - mean) / std
        variances = ((self._spread / std) ** 2).expand_as(means)

        def velocity(state: Tensor, time: float) -> Tensor:
            return mixture_velocity(state, time, means, variances)

        return flow_states(velocity, noise, steps, scheme)

    def solve(
        self,
        noise: Float[Tensor, "batch channel"],
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
        evaluations: int | None = None,
    ) -> Float[Tensor, "batch channel"]:
        """Carry noise to data: by so many steps of Euler's, or as exactly as the method can."""
        scheme = ("rk4", self.fine_steps) if evaluations is None else ("euler", evaluations)
        *_, end = self._states(noise, scheme[1], scheme[0])
        return end

    def sample(
        self,
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        evaluations: int | None,
    ) -> Float[Tensor, "batch channel"]:
        """Draw noise and carry it to data."""
        noise = context.new_empty(len(context), self.fields).normal_(generator=generator)
        return self.solve(noise, context, conditions, evaluations)

    def paths(
        self,
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, "time batch channel"]:
        """Return the states of the exact flow."""
        noise = context.new_empty(len(context), self.fields).normal_(generator=generator)
        return torch.stack([*self._states(noise, self.fine_steps, "rk4")])

    def loss(
        self,
        data: Float[Tensor, "batch channel"],
        context: Float[Tensor, "batch observed"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return zero: there is nothing to learn."""
        return data.new_zeros(())
