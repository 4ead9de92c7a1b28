"""Lorenz' model (1996) of a quantity on a circle of latitude."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.runtime.cli import UserError
from longrun.solvers.runge_kutta import RungeKuttaSolver, tableau

LONGEST_STEP = 0.05  # Lorenz' own, with a method of order four


class Lorenz96(AbstractEquation):
    """u_i' = (u_{i+1} - u_{i-2}) u_{i-1} - u_i + forcing, on a ring of sites.

    Lorenz (1996), Predictability: a problem partly solved, Proc. ECMWF Seminar on Predictability.
    The products keep the sum of squares, the linear term damps it, the forcing feeds it: chaos at
    forcing 8, with about one unstable direction for every three sites.

    The sites are the system, not a discretisation: another number of them is another system, so
    states are never resampled and solvers have no other `points`. The initial state is the fixed
    point u_i = forcing with normal noise at every site, our choice.

    With `observed_every` n, sites 0, n, 2n, ... are stored and the others are hidden: what is
    stored is then no longer Markov, and a forecast can gain from what it has seen before. With a
    `disturbance` the sensors hum: every stored value has a sinusoid on top, from the first stored
    frame until a time, after which they tell the truth. The trajectories are the same without it.

    Parameters
    ----------
    points
        Sites that are stored; with `observed_every` at least 4 sites in all.
    dt
        Time between frames; the paper reads 1 as five days.
    forcing
        Forcing, the same at every site.
    observed_every
        Every n-th site is stored.
    disturbance
        Amplitude of the hum; 0 is none.
    disturbance_frequency
        Its periods per unit of time; it begins at zero, and is the same at every site.
    disturbed_until
        Time after the first stored frame at which it ends.
    perturbation
        Standard deviation of the noise in the initial state.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "rk4", "dopri5" or "dop853".

    Raises
    ------
    UserError
        Impossible parameters, or steps too long.
    """

    fields = (Quantity("u", "value at a site", "1"),)
    parameters = (
        Quantity("length", "number of sites", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("forcing", "forcing", "1"),
    )
    boundary = ("periodic",)

    def __init__(
        self,
        points: int = 40,
        dt: Varying = 0.05,
        forcing: Varying = 8.0,
        observed_every: int = 1,
        disturbance: float = 0.0,
        disturbance_frequency: float = 5.0,
        disturbed_until: float = 1e9,  # longer than any trajectory
        perturbation: float = 1.0,
        substeps: int = 1,
        burn_in: int = 400,  # 20 units of time
        integrator: Literal["rk4", "dopri5", "dop853"] = "dop853",
    ):
        if observed_every < 1:
            raise UserError(f"observed_every must be at least 1, is {observed_every}")
        super().__init__(points, substeps, burn_in, refinement=observed_every)
        sites = points * observed_every
        if sites < 4:
            raise UserError(f"points times observed_every must be at least 4, is {sites}")
        if min(disturbance, disturbed_until) < 0 or disturbance_frequency <= 0:
            raise UserError(
                "disturbance and disturbed_until must not be negative, disturbance_frequency must "
                f"be positive, are {disturbance:g}, {disturbed_until:g}, {disturbance_frequency:g}"
            )
        if perturbation <= 0:
            raise UserError(f"perturbation must be positive, is {perturbation:g}")
        self.perturbation = perturbation
        self.disturbance, self.disturbed_until = disturbance, disturbed_until
        self.disturbance_frequency = disturbance_frequency
        self.distributions = {
            "length": Distribution.of("length", float(sites)),
            "dt": Distribution.of("dt", dt),
            "forcing": Distribution.of("forcing", forcing, above=-np.inf),
        }
        self.method = tableau(integrator)
        longest, strongest = (self.distributions[name].high for name in ("dt", "forcing"))
        # values, and so rates, grow like the forcing; beyond 8 the step must shrink with it
        needed = int(np.ceil(longest * max(1.0, strongest / 8) / LONGEST_STEP - 1e-9))
        if substeps < needed:
            raise UserError(
                f"{substeps} steps per frame of {longest:g} are too few at forcing {strongest:g}: "
                f"at least {needed} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel site"]]:
        """Draw parameters and noise around the fixed point.

        With a disturbance, a second channel of the state is the time after the first stored frame.
        """
        parameters = self._draw(generators)
        sites = self.resolution
        noise = np.array([generator.normal(size=(1, sites)) for generator in generators])
        noise = noise.reshape(-1, 1, sites)
        state = parameters["forcing"][:, None, None] + self.perturbation * noise
        if self.disturbance:
            began = -self.burn_in * parameters["dt"][:, None, None]
            state = np.concatenate([state, np.broadcast_to(began, state.shape)], axis=1)
        return parameters, state

    def _solver(self, at: Discretisation) -> RungeKuttaSolver:
        """Build the Runge-Kutta solver of a batch of trajectories; `points` has no meaning."""
        _, dt, forcing = at.columns.values()
        forcing = forcing.to(at.dtype)

        def tendency(state: Tensor) -> Tensor:
            u = state[:, :1]
            slope = (u.roll(-1, -1) - u.roll(2, -1)) * u.roll(1, -1) - u + forcing
            return torch.cat([slope, torch.ones_like(state[:, 1:])], 1)

        return RungeKuttaSolver(tendency, at.stride * dt, at.steps, self.method, at.dtype)

    def observe(
        self, state: Float[Tensor, "batch channel site"]
    ) -> Float[Tensor, "batch field stored"]:
        """Return the sites that are stored, with the hum while it lasts."""
        seen = state[..., :: self.refinement]
        if not self.disturbance:
            return seen
        u, time = seen.split(1, dim=1)
        phase = 2 * math.pi * self.disturbance_frequency * time
        return u + self.disturbance * phase.sin() * (time < self.disturbed_until)

    def resample(
        self, state: Float[Tensor, "batch channel site"], points: int
    ) -> Float[Tensor, "batch channel site"]:
        """Return the state: sites are not a resolution.

        Raises
        ------
        UserError
            The state is what is stored of one, from which no solver can start.
        """
        if state.shape[-1] != self.resolution or (self.disturbance and state.shape[1] == 1):
            raise UserError(
                f"lorenz_96: {state.shape[-1]} stored of {self.resolution} sites are no state that "
                "a solver can start from"
            )
        return state
