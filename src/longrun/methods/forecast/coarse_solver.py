"""The classical baseline: the data's own solver on a coarser grid or with larger steps.

A surrogate is only worth its training if it beats this at the same cost or at the same error
(McGreivy and Hakim, 2024, arXiv:2407.07218). Grid and step are chosen by measurement on validation
data against the method named by `starts_from`, not by hand.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver
from longrun.tasks._evaluation import seconds_per_call
from longrun.tasks._learner import only
from longrun.tasks._solvers import SolverMemory
from longrun.tasks.forecast import AbstractForecaster


class CoarseSolver(AbstractForecaster):
    """The reference solver, coarsened until its cost or its error equals another method's.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`.
    equation : dict
        The `equation` section of the dataset; from the data.
    stride : int
        Frames of the dataset per model step; from the data.
    match : {"cost", "error"}
        Of all coarsenings, take the most accurate that costs no more per step than the other
        method, or the cheapest whose one-step error is no larger. Where none qualifies, the
        cheapest or the most accurate one stands in.
    coarsest : int
        Fewest points per axis to try.
    changes : dict
        Options of the equation that differ from the data's, such as `closure`; its parameters must
        stay the same.
    """

    classical = True
    points: Tensor
    steps: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        stride: int,
        match: Literal["cost", "error"] = "cost",
        coarsest: int = 16,
        changes: dict[str, Any] = {},  # noqa: B006 (read, never written)
        **options: Any,
    ):
        known = registry.arguments("equations", equation["name"])
        if unknown := [name for name in changes if name not in known]:
            raise ValueError(f"changes: {equation['name']} has no option {', '.join(unknown)}")
        reference = registry.build("equations", equation | changes)
        as_stored = registry.build("equations", equation)
        if [q.name for q in reference.parameters] != [q.name for q in as_stored.parameters]:
            raise ValueError(f"changes: {changes} change the parameters of {equation['name']}")
        # A solver needs all parameters of a trajectory, not only those that vary.
        count = len(reference.parameters)
        super().__init__(fields, dims, count, target="state", normalise=False, **options)
        self.equation = reference
        self.stride, self.match, self.coarsest = stride, match, coarsest
        self.register_buffer("points", torch.tensor(self.equation.points))
        self.register_buffer("steps", torch.tensor(self.equation.substeps * stride))
        self._solvers = SolverMemory(reference)

    def candidates(self) -> list[tuple[int, int]]:
        """Return the (points, solver steps per model step) to choose from, the reference first."""
        points, steps = self.equation.points, self.equation.substeps * self.stride
        halvings = [points >> i for i in range(points.bit_length()) if (points >> i) % 2 == 0]
        grids = [n for n in halvings if n >= self.coarsest] or [points]
        return list(itertools.product(grids, [steps >> i for i in range(steps.bit_length())]))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Choose the grid and step on validation data, against `starts_from`.

        Raises
        ------
        ValueError
            Without a method to compare with.
        """
        source: Any = only(sources)
        if source is None:
            raise ValueError(
                "coarse_solver needs starts_from: the method whose cost or error it matches"
            )
        if self.history != source.history:
            raise UserError(
                f"coarse_solver sees {self.history} frames, the method that it is matched with "
                f"{source.history}: set history to {source.history}"
            )
        batch = next(iter(data.val_dataloader()))
        window, parameters = batch["window"], batch["parameters"]
        following = window[:, source.history]

        def measure(model: AbstractForecaster) -> tuple[float, float]:
            # All predict the same frame, each from as much history as it has.
            history = window[:, source.history - model.history : source.history]
            generator = torch.Generator(window.device).manual_seed(0)
            with torch.inference_mode():
                error = (model.predict(history, parameters, generator) - following).square().mean()
                cost = seconds_per_call(lambda: model.predict(history, parameters, generator))
            return cost, float(error)

        measured = {}
        for points, steps in self.candidates():
            self._set(points, steps)
            measured[points, steps] = measure(self)
        goal = measure(source)
        kept, rank = (0, 1) if self.match == "cost" else (1, 0)
        fits = [c for c, values in measured.items() if values[kept] <= goal[kept]]
        if fits:
            chosen = min(fits, key=lambda c: measured[c][rank])
        else:
            chosen = min(measured, key=lambda c: measured[c][kept])
        self._set(*chosen)

    def _set(self, points: int, steps: int) -> None:
        self.points.fill_(points)
        self.steps.fill_(steps)

    def _solver(
        self, parameters: Float[Tensor, "batch condition"], dtype: torch.dtype
    ) -> AbstractSolver:
        """Return the solver of these parameters."""
        substeps = int(self.steps) / self.stride
        options = {"points": int(self.points), "substeps": substeps, "stride": self.stride}
        solver: AbstractSolver = self._solvers(parameters, dtype, **options)
        return solver

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the next frame, computed on the coarse grid and interpolated back."""
        state = history[:, -1]
        solver = self._solver(conditions, state.dtype)
        coarse = solver.step(self.equation.resample(state, int(self.points)))
        return self.equation.resample(coarse, self.equation.points)
