"""Lorenz' model (1996) of a quantity on a circle of latitude."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
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

    Parameters
    ----------
    points
        Sites, at least 4.
    dt
        Time between frames; the paper reads 1 as five days.
    forcing
        Forcing, the same at every site.
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
        perturbation: float = 1.0,
        substeps: int = 1,
        burn_in: int = 400,  # 20 units of time
        integrator: Literal["rk4", "dopri5", "dop853"] = "dop853",
    ):
        super().__init__(points, substeps, burn_in)
        if points < 4:
            raise UserError(f"points must be at least 4, is {points}")
        if perturbation <= 0:
            raise UserError(f"perturbation must be positive, is {perturbation:g}")
        self.perturbation = perturbation
        self.distributions = {
            "length": Distribution.of("length", float(points)),
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
        """Draw parameters and noise around the fixed point."""
        parameters = self._draw(generators)
        noise = np.array([generator.normal(size=(1, self.points)) for generator in generators])
        noise = noise.reshape(-1, 1, self.points)
        return parameters, parameters["forcing"][:, None, None] + self.perturbation * noise

    def _solver(self, at: Discretisation) -> RungeKuttaSolver:
        """Build the Runge-Kutta solver of a batch of trajectories; `points` has no meaning."""
        _, dt, forcing = at.columns.values()
        forcing = forcing.to(at.dtype)

        def tendency(u: Tensor) -> Tensor:
            return (u.roll(-1, -1) - u.roll(2, -1)) * u.roll(1, -1) - u + forcing

        return RungeKuttaSolver(tendency, at.stride * dt, at.steps, self.method, at.dtype)

    def resample(
        self, state: Float[Tensor, "batch channel site"], points: int
    ) -> Float[Tensor, "batch channel site"]:
        """Return the state: sites are not a resolution."""
        return state
