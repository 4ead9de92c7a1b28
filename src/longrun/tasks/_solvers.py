"""The data's own solver inside a method."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import AbstractEquation
from longrun.solvers._base import AbstractSolver


class SolverMemory:
    """Builds an equation's solver, and keeps it as long as the same one is asked for.

    Every step of a rollout needs the solver of the same parameters, and to build one may take
    longer than a step.

    Parameters
    ----------
    equation
        Whose solver.
    """

    def __init__(self, equation: AbstractEquation):
        self.equation = equation
        self._kept: tuple[Any, Tensor, AbstractSolver] | None = None

    def __call__(
        self, parameters: Float[Tensor, "batch parameter"], dtype: torch.dtype, **options: Any
    ) -> Any:
        """Return the solver of a batch of trajectories, on the device of their parameters.

        Parameters
        ----------
        parameters
            Of each trajectory, all of them, in the order of the equation.
        dtype
            Of the states.
        options
            Of `AbstractEquation.solver`: `points`, `substeps`, `stride`.
        """
        key = (dtype, parameters.device, options)
        if self._kept and self._kept[0] == key and torch.equal(self._kept[1], parameters):
            return self._kept[2]
        names = [quantity.name for quantity in self.equation.parameters]
        values = dict(zip(names, parameters.T, strict=True))
        solver = self.equation.solver(values, dtype=dtype, device=parameters.device, **options)
        self._kept = (key, parameters.clone(), solver)
        return solver
