"""Samplers that learn nothing: steps from noise to data by a denoiser that is given.

A path mixes data x and noise z, x_t = a x + s z. Papers differ in a and s, and in which end is
time 0. Divided by a, all their paths are the same one,

    y = x + rho z,   rho = s / a,        dy/drho = eps(y, rho),   eps(y, rho) = E[z | y]

so samplers here know levels rho, states y, the noise eps and the denoised D = y - rho eps, which is
E[x | y], alone. What is left of a path is where along it steps lie (`grid`).

The denoiser is one of two:

- exact, where the equation of the data has a `law`, a mixture of Gaussians;
- that of a trained flow, which `starts_from` names and whose network has the same sizes: with its
  velocity v at t = 1 / (1 + rho), at the state y / (1 + rho), D = y / (1 + rho) + (1 - t) v.

What is compared is fair:

- All begin with rho z at the level of time 1 of the variance-preserving path with linear rates
  (Song et al., 2021: rates from 0.1 to 20 a time, so rho = 152), and end at that of time `last`.
- A draw is the state y at the last level; the exact answer solves the equation over the same
  levels by the classical Runge-Kutta method in log rho, with `fine_steps` steps of four calls.
- The number of calls N counts every one: a step of several stages takes several.

At `last: 1e-3` a hundredth of a deviation of noise is left in every draw, in the exact answer too.
Errors to that answer don't see it; the density of data does, where they are smoother than that.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.equations._base import Law
from longrun.nn.flow import flow_states, network_velocity, velocity_network
from longrun.nn.mixture import ExactNoise
from longrun.runtime import registry
from longrun.tasks._learner import only
from longrun.tasks.sample import AbstractSampler

RATE_FIRST, RATE_LAST = 0.1, 20.0  # of the variance-preserving path at its times 0 and 1
KARRAS = 7.0  # Karras et al. (2022): steps are equal in rho^(1/7)

Noise = Callable[[Tensor, float], Tensor]
"""eps of states y (batch, channel, *space) at a level rho."""
Grid = Literal["time", "quadratic", "log", "karras"]


def level_of(time: Float[ndarray, " time"]) -> Float[ndarray, " time"]:
    """Return rho at times of the variance-preserving path."""
    exponent = 0.5 * (RATE_LAST - RATE_FIRST) * time**2 + RATE_FIRST * time
    return np.sqrt(np.expm1(exponent))


def time_of(level: Float[ndarray, " level"]) -> Float[ndarray, " level"]:
    """Return the time at which the variance-preserving path has a level: inverse of `level_of`."""
    exponent, growth = np.log1p(np.square(level)), RATE_LAST - RATE_FIRST
    return 2 * exponent / (RATE_FIRST + np.sqrt(RATE_FIRST**2 + 2 * growth * exponent))


def levels(grid: Grid, steps: int, last: float) -> Float[ndarray, " level"]:
    """Return the levels between steps, falling.

    Parameters
    ----------
    grid
        In what steps are equal: `time` of the variance-preserving path, the square root of it
        (`quadratic`), log rho, or rho^(1/7) (`karras`).
    steps
        Their number.
    last
        Time of the last level.
    """
    share = np.linspace(0, 1, steps + 1)
    first, end = level_of(np.array([1.0, last]))
    match grid:
        case "time":
            return level_of(1 + share * (last - 1))
        case "quadratic":
            return level_of((1 + share * (math.sqrt(last) - 1)) ** 2)
        case "log":
            return np.geomspace(first, end, steps + 1)
    power = 1 / KARRAS
    return (first**power + share * (end**power - first**power)) ** KARRAS


class AbstractDenoising(AbstractSampler):
    """A sampler that takes steps along a denoiser which it does not train. See this module.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSampler`, also for the options.
    equation, parameter_names
        The `equation` section of the dataset, and the names of its parameters; from the data.
    denoiser : {"law", "network"}
        The exact one, or that of the flow which `starts_from` names.
    grid : {"time", "quadratic", "log", "karras"}, optional
        Where steps lie, see `levels`; by default where the method's paper has them.
    last : float
        Time of the variance-preserving path at which draws end.
    fine_steps : int
        Of an exact answer; on a mixture of 62 values 100 err by 2e-6 of a deviation.
    guidance : float
        Weight w of a condition, of the exact denoiser: eps + w (eps_c - eps), where eps_c is that
        of the law's first component alone, with a quarter of its variance. 0 is without. The exact
        answer is that of the guided equation; a guided call counts as one.
    width, layers, multipliers
        Of the network that is taken over, see `longrun.nn.flow.velocity_network`.

    Attributes
    ----------
    stages
        Calls of the denoiser that a step takes.
    usual_grid
        Where the method's paper places steps.

    Raises
    ------
    ValueError
        A law that is not known, or impossible options.
    """

    supported_dims = (0, 1, 2)
    stages = 1
    usual_grid: Grid = "time"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        parameter_names: list[str],
        denoiser: Literal["law", "network"] = "network",
        grid: Grid | None = None,
        last: float = 1e-3,
        fine_steps: int = 100,
        guidance: float = 0.0,
        width: int = 128,
        layers: int = 4,
        multipliers: list[int] = [1, 2, 2, 2],  # noqa: B006 (read, never written)
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if not 0 < last < 1 or fine_steps < 1:
            raise ValueError(
                f"last must be between 0 and 1 and fine_steps at least 1, are {last} and "
                f"{fine_steps}"
            )
        if guidance and denoiser != "law":
            raise ValueError("guidance needs denoiser: law, which knows what a condition changes")
        self.guidance = guidance
        self.grid: Grid = grid or self.usual_grid
        self.last, self.fine_steps, self.parameter_names = last, fine_steps, parameter_names
        self._law = None
        if denoiser == "network":
            self.network = velocity_network(
                dims, fields, self.observed_fields, conditions, width, layers, multipliers
            )
            self.network.requires_grad_(False)  # trained elsewhere
            return
        known = registry.build("equations", equation)
        sample = {name: np.zeros(1) for name in parameter_names}
        if self.conditional or known.law(sample) is None:
            raise ValueError(
                f"denoiser: law needs data whose law is known, without condition; that of "
                f"{equation['name']} is not"
            )
        self._law = known

    # What a method gives -------------------------------------------------------------------------

    @abstractmethod
    def carry(
        self,
        state: Float[Tensor, "batch channel *space"],
        rho: Float[ndarray, " level"],
        noise: Noise,
    ) -> Float[Tensor, "batch channel *space"]:
        """Carry states from the first level to the last.

        Parameters
        ----------
        state
            y at the first level.
        rho
            The levels between steps, falling.
        noise
            eps(y, rho), to be called at most `stages` times a step.
        """

    # Draws ---------------------------------------------------------------------------------------

    def sample(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        nfe: int | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Draw noise and carry it to data; without `nfe` as exactly as the equation is solved."""
        normal = context.new_empty(len(context), self.fields, *context.shape[2:])
        normal.normal_(generator=generator)
        noise = self.noise(context, conditions)
        if nfe is None:
            return carried_exactly(noise, normal, self.fine_steps, self.last)
        rho = levels(self.grid, max(1, nfe // self.stages), self.last)
        return self.carry(rho[0] * normal, rho, noise)

    def noise(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Noise:
        """Return eps(y, rho) of these samples."""
        if self._law is None:
            return partial(self._network_noise, context=context, conditions=conditions)
        law = self._law.law(self._unscaled(conditions))
        exact = ExactNoise(law, self.field_mean, self.field_std, context)
        if not self.guidance:
            return exact
        part = Law(law.means[:, :1], law.variances[:, :1] / 4, law.basis)
        return partial(
            _guided,
            self.guidance,
            exact,
            ExactNoise(part, self.field_mean, self.field_std, context),
        )

    def _network_noise(
        self, state: Tensor, level: float, context: Tensor, conditions: Tensor
    ) -> Tensor:
        time = 1 / (1 + level)
        between = time * state
        at = between.new_full((len(between),), time)
        # z = x_t - t v, with x_t = t x + (1 - t) z
        return between - time * network_velocity(self.network, between, at, context, conditions)

    def _unscaled(self, conditions: Float[Tensor, "batch condition"]) -> dict[str, ndarray]:
        """Return the parameters of trajectories; those that don't vary are 0: no law needs them."""
        given = {name: np.zeros(len(conditions)) for name in self.parameter_names}
        scale = self.condition_scale.masked_fill(self.condition_scale == 0, 1.0)
        physical = (self.condition_low + conditions / scale).double().cpu().numpy()
        for column, index in enumerate(self.condition_index.tolist()):
            given[self.parameter_names[index]] = physical[:, column]
        return given

    # Training ------------------------------------------------------------------------------------

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take over the network of `starts_from`, as it is.

        Raises
        ------
        ValueError
            Without a source for a network, with one for a law, or with one of another view.
        """
        source: Any = only(sources)
        if (source is None) != (self._law is not None):
            raise ValueError("denoiser: network needs starts_from, denoiser: law takes none")
        if source is None:
            return
        if not isinstance(source, AbstractSampler) or self.view != source.view:
            raise ValueError("a sampler must see what the flow that it starts from sees")
        try:  # with the statistics by which its inputs are scaled
            self.load_state_dict(source.state_dict())
        except RuntimeError as error:
            raise ValueError(
                "a sampler needs width, layers and multipliers of the flow that it starts from"
            ) from error


def _guided(weight: float, exact: Noise, part: Noise, state: Tensor, level: float) -> Tensor:
    free = exact(state, level)
    return free + weight * (part(state, level) - free)


def carried_exactly(
    noise: Noise, normal: Float[Tensor, "batch channel *space"], steps: int, last: float
) -> Float[Tensor, "batch channel *space"]:
    """Return what normal noise is carried to by the classical Runge-Kutta method in log rho.

    Parameters
    ----------
    noise
        eps(y, rho).
    normal
        What y is at the first level, over rho.
    steps
        Of equal length in log rho.
    last
        See `levels`.
    """
    first, end = levels("log", 1, last).tolist()
    fall = math.log(end / first)

    def velocity(state: Tensor, time: float) -> Tensor:
        level = first * math.exp(fall * time)
        return fall * level * noise(state, level)

    *_, found = flow_states(velocity, first * normal, steps)
    return found
