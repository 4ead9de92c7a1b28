"""Chaotic systems of three or four ordinary differential equations, from the package dysts."""

import types
import warnings
from collections.abc import Callable, Mapping, Sequence
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
from longrun.runtime.registry import allowed
from longrun.solvers.runge_kutta import RungeKuttaSolver, tableau

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # dysts warns that numba is missing; we don't need it
    from dysts import flows

LEAST_STEPS = 100  # per period: from here on no system's error exceeds 2e-3 after one period


class ChaoticSystem(AbstractEquation):
    """state' = f(state), a system of the catalogue of Gilpin (2021), arXiv:2110.05266.

    The right-hand side, its coefficients, the dominant period and a state on the attractor are
    those of the package `dysts`; its code runs on tensors, see `_tendency`. That state, perturbed
    by a fraction of the attractor's size, is advanced by a random fraction of a period, because the
    phases of some systems hardly spread, and then for `burn_in` frames, until trajectories have
    forgotten each other.

    Sakarya's trajectories diverge after some 10^4 periods, whatever the step: long datasets of it
    end in an error that names the trajectory.

    `LEAST_STEPS` and the default steps are our choice; so is the fixed step: dysts itself uses
    scipy's Radau with tolerances of 1e-12, see `reference_error` of a store.

    Parameters
    ----------
    system
        Name in dysts. `Lorenz` is x' = sigma (y - x), y' = rho x - x z - y, z' = x y - beta z.
    varied
        Coefficient, by its name in dysts, that becomes a parameter of a trajectory with these
        `values`; the others keep dysts' values.
    points_per_period
        Frames per dominant period, 100 and 15 in the paper; sets the time between frames.
    dt
        Time between frames, instead of `points_per_period`.
    perturbation
        Standard deviation of the initial perturbation, in those of the attractor.
    substeps
        Steps of the integrator per frame.
    burn_in
        Frames to discard before the first frame that is kept.
    integrator
        "dop853", of order 8, where the right-hand side is smooth; "dopri5" or "rk4".

    Raises
    ------
    UserError
        Impossible parameters, an unknown coefficient, or steps too long for the system's period.
    """

    boundary = ()
    derivatives = ("t",)

    def __init__(
        self,
        system: Literal[
            "Aizawa",
            "Arneodo",
            "Blasius",
            "BurkeShaw",
            "Chen",
            "Chua",
            "Dadras",
            "GenesioTesi",
            "Halvorsen",
            "HyperRossler",
            "Lorenz",
            "Lorenz84",
            "LorenzStenflo",
            "RikitakeDynamo",
            "Rossler",
            "Rucklidge",
            "Sakarya",
            "ShimizuMorioka",
            "SprottB",
            "Thomas",
        ] = "Lorenz",
        varied: str | None = None,
        values: Varying | None = None,
        points_per_period: float = 100.0,
        dt: Varying | None = None,
        perturbation: float = 0.02,  # at 0.1 some of HyperRossler's escape
        substeps: int = 1,
        burn_in: int = 3000,  # 30 periods
        integrator: Literal["rk4", "dopri5", "dop853"] = "dop853",
    ):
        super().__init__(1, substeps, burn_in)
        self._system = getattr(flows, system)()
        if points_per_period <= 0:
            raise UserError(f"points_per_period must be positive, is {points_per_period:g}")
        if perturbation < 0:
            raise UserError(f"perturbation must not be negative, is {perturbation:g}")
        self.period = float(self._system.period)
        self.perturbation = perturbation
        self.method = tableau(integrator)
        self.coefficients = {name: float(value) for name, value in self._system.params.items()}
        if (varied is None) != (values is None):
            raise UserError("varied and values are given together or not at all")
        frame = self.period / points_per_period if dt is None else dt
        self.distributions = {"dt": Distribution.of("dt", frame)}
        self.parameters = (Quantity("dt", "time between frames", "1"),)
        if varied is not None and values is not None:
            if varied not in self.coefficients:
                raise UserError(
                    f"{system} has no coefficient {varied!r}; {allowed(self.coefficients, varied)}"
                )
            self.distributions[varied] = Distribution.of(varied, values, above=-np.inf)
            self.parameters += (Quantity(varied, f"coefficient {varied}", "1"),)
        self.fields = tuple(
            Quantity(name, name, "1") for name in ("x", "y", "z", "w")[: len(self._system.ic)]
        )
        longest = self.distributions["dt"].high
        needed = int(np.ceil(LEAST_STEPS * longest / self.period - 1e-9))
        if substeps < needed:
            raise UserError(
                f"{substeps} steps per frame of {longest:g} are too few for {system}, whose period "
                f"is {self.period:g}: at least {needed} are needed"
            )

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel"]]:
        """Draw parameters, states near dysts' own and how far into a period they start."""
        parameters = self._draw(generators)
        size = self.perturbation * np.asarray(self._system.std, dtype=np.float64)
        states = [self._system.ic + size * g.normal(size=len(self.fields)) for g in generators]
        ages = self.period * np.array([generator.uniform() for generator in generators])
        tensors = {name: torch.from_numpy(value) for name, value in parameters.items()}
        with torch.no_grad():
            solver = self.solver(tensors | {"dt": torch.from_numpy(ages)}, substeps=LEAST_STEPS)
            state = torch.from_numpy(np.array(states).reshape(-1, len(self.fields)))
            return parameters, solver.step(state).numpy()

    def _solver(self, at: Discretisation) -> RungeKuttaSolver:
        """Build the Runge-Kutta solver of a batch of trajectories; `points` has no meaning."""
        varied = {name: v.to(at.dtype) for name, v in at.parameters.items() if name != "dt"}
        derivatives = _tendency(type(self._system))
        coefficients = self.coefficients | varied

        def tendency(state: Tensor) -> Tensor:
            return torch.stack(derivatives(*state, 0.0, **coefficients))  # none depends on time

        return _ComponentsFirst(tendency, at.frame[None], at.steps, self.method, at.dtype)

    def resample(
        self, state: Float[Tensor, "batch channel"], points: int
    ) -> Float[Tensor, "batch channel"]:
        """Return the state: there is no grid."""
        return state

    def residual(
        self,
        u: Mapping[str, Float[Tensor, "*point field"]],
        at: Mapping[str, Float[Tensor, "*point"]],
        parameters: Mapping[str, Float[Tensor, ""]],
    ) -> Float[Tensor, "*point field"]:
        """Return state' - f(state)."""
        varied = {name: value for name, value in parameters.items() if name != "dt"}
        rates = _tendency(type(self._system))(
            *u[""].unbind(-1), 0.0, **(self.coefficients | varied)
        )
        return u["t"] - torch.stack(rates, -1)


class _ComponentsFirst(RungeKuttaSolver):
    """Advances states whose components lie apart in memory.

    On strided memory torch evaluates sines by another routine than on contiguous memory, with other
    last bits: then a trajectory's bits would depend on the size of its batch.
    """

    def step(self, state: Float[Tensor, "batch channel"]) -> Float[Tensor, "batch channel"]:
        """Advance by one frame."""
        return super().step(state.T.contiguous()).T.contiguous()


def _tendency(system: type[flows.DynSys]) -> Callable[..., tuple[Tensor, ...]]:
    """Rebind the right-hand side of a system of dysts from numpy to torch.

    It is a static function of the components, the time and the coefficients that uses one global
    name, numpy's. A copy in which that name means torch runs the same code on tensors.
    """
    function = system._rhs
    function = getattr(function, "py_func", function)  # unwrapped, where numba is installed
    return types.FunctionType(function.__code__, {"np": torch})
