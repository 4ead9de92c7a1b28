"""The task `accelerate`: choose a solver's relaxation parameter, system after system.

A trajectory of the data is a trial: a sequence of linear systems, one per frame after the first,
which the equation gives (`longrun.equations._systems`). The protocol, for every method alike:

- The systems of a trial are numbered n = 1, 2, ..., `steps` in the order of time; system n is that
  of frame n of the trajectory. They are the same for all methods: right-hand side and first guess
  never depend on what was found for an earlier system.
- Before a system is solved the method is shown its context, a scalar (a shift, a diffusivity), and
  chooses omega. Its matrix is shown beside, for methods that know the optimum from its spectrum;
  those that learn don't look. The system is then solved to `tolerance` by `solver`, and the method
  is told how many iterations that took, and nothing of any other omega.
- A method learns while it is scored. It starts every trial anew, from its buffers alone.
- Its noise comes from a generator seeded by the run's seed and the number of the trajectory.
- Iterations are those carried out. The residual of every solution is computed anew and must meet
  the tolerance. Solves that reach `cap` count as `cap` and are marked as censored.
- `solution_error` compares with the stored frames, so it also says that the systems are theirs.

Scores of single systems are means over `block` consecutive ones, the last of which is their step.
"""

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sparse
import torch
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.data import schema
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.solvers.relaxation import LinearSystem, Solution, relative_residual, solve
from longrun.tasks._evaluation import Evaluation, check_size, field_coordinates, score_size, seeded
from longrun.tasks._learner import AbstractLearner, Batch

ROUNDING = 1e-3  # by which a residual computed anew may exceed the tolerance, relative to it


class AbstractRelaxation(AbstractLearner):
    """A method that chooses omega for each of a sequence of systems. See this module.

    Parameters
    ----------
    solver : {"sor", "ssor_cg"}
        Successive over-relaxation; or conjugate gradients with the symmetric sweep of it as their
        preconditioner, where omega = 0 is no preconditioner.
    tolerance : float
        Of the residual, relative to the first one (sor) or to the right-hand side (ssor_cg).
    cap : int
        Most iterations of a solve.
    **options
        Of `AbstractLearner`; without effect, since nothing is fitted.

    Raises
    ------
    ValueError
        A tolerance or cap that ends no solve.
    """

    def __init__(
        self,
        solver: Literal["sor", "ssor_cg"] = "sor",
        tolerance: float = 1e-8,
        cap: int = 10_000,
        **options: Any,
    ):
        super().__init__(**options)
        if not 0 < tolerance < 1 or cap < 1:
            raise ValueError(
                "tolerance must lie between 0 and 1 and cap be at least 1, are "
                f"{tolerance:g} and {cap}"
            )
        self.solver, self.tolerance, self.cap = solver, tolerance, cap

    # What a method gives -------------------------------------------------------------------------

    @abstractmethod
    def begin(self) -> None:
        """Forget what earlier trials taught."""

    @abstractmethod
    def choose(self, context: float, matrix: sparse.csr_array, generator: torch.Generator) -> float:
        """Return omega for the next system.

        Parameters
        ----------
        context
            What is known of the system beforehand.
        matrix
            Of the system; only methods that are told their optimum look at it.
        generator
            Source of a method's noise, on the CPU.
        """

    def learn(self, omega: float, cost: int, context: float) -> None:
        """Learn from the iterations that the chosen omega took."""

    # Solving -------------------------------------------------------------------------------------

    def solve(self, system: LinearSystem, omega: float) -> Solution:
        """Solve a system as the task says."""
        return solve(system, self.solver, omega, self.tolerance, self.cap)

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Refuse: there are no weights, and costs are seen while solving only."""
        raise NotImplementedError("a relaxation parameter is not learnt from windows")

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Solve the sequences of the store's test split, learning on the way, and score."""
        cases = _Cases(store, options)
        table = ScoreTable(store.path.stem)
        trials = [_trial(self, cases, number, seed) for number in range(cases.trajectories)]
        for number, trial in enumerate(trials):
            _score(trial, number, cases, table)
        score_size(self, table)
        return Evaluation(table.frame(), _predictions(trials, cases))


def systems(store: Any, split: str, trajectory: int) -> Iterator[LinearSystem]:
    """Yield the systems of a trajectory of a store, from the first on.

    Raises
    ------
    UserError
        The store's equation is no sequence of systems.
    """
    section = {key: value for key, value in store.equation.items() if key != "name"}
    name = store.equation["name"]
    kind: Any = registry.find("equations", name) if name in registry.names("equations") else None
    if not hasattr(kind, "systems"):
        raise UserError(f"{store.path}: {name} is no sequence of linear systems")
    parameters = store.split(split).parameters
    found: Iterator[LinearSystem] = kind(**section).systems(
        {key: float(values[trajectory]) for key, values in parameters.items()}
    )
    return found


# Evaluation --------------------------------------------------------------------------------------


class _Cases:
    """What is evaluated."""

    def __init__(self, store: Any, options: Mapping[str, Any]):
        self.store, self.name = store, options.get("split", "test")
        self.split = store.split(self.name)
        self.steps, self.trajectories = options["steps"], options["trajectories"]
        self.block, self.late = options.get("block", 1), options.get("late", 0.125)
        self.keep = min(options.get("keep", 0), self.trajectories)
        check_size(store, self.split, self.trajectories, self.steps + 1)
        if self.steps % self.block:
            raise UserError(
                f"evaluate.block must divide evaluate.steps, are {self.block} and {self.steps}"
            )

    @property
    def ends(self) -> ndarray:
        """Number of the last system of each block."""
        return np.arange(self.block, self.steps + 1, self.block)

    @property
    def seconds(self) -> float:
        """Time between systems, mean over trajectories."""
        dt = self.split.parameters.get(schema.DT, np.ones(self.trajectories))
        return float(dt[: self.trajectories].mean())


_COLUMNS = ("iterations", "omega", "context", "censored", "error", "seconds")


class _Trial(NamedTuple):
    """What one trial left, one value per system; fields at the end of each block."""

    iterations: Float[ndarray, " system"]
    omega: Float[ndarray, " system"]
    context: Float[ndarray, " system"]
    censored: Float[ndarray, " system"]
    error: Float[ndarray, " system"]
    seconds: Float[ndarray, " system"]
    truth: Float[ndarray, "block x y"]
    solution: Float[ndarray, "block x y"]


def _trial(module: AbstractRelaxation, cases: _Cases, number: int, seed: int) -> _Trial:
    """Solve the systems of one trajectory."""
    truth = cases.split.read(np.array([number]), slice(1, cases.steps + 1))[0, :, -1]
    generator = seeded(torch.device("cpu"), seed, number)
    rows, solutions = [], []
    module.begin()
    sequence = itertools.islice(systems(cases.store, cases.name, number), cases.steps)
    for frame, system in zip(truth, sequence, strict=True):
        began = time.perf_counter()
        omega = module.choose(system.context, system.matrix, generator)
        iterations, solution, converged = module.solve(system, omega)
        module.learn(omega, iterations, system.context)
        seconds = time.perf_counter() - began
        _check(module, system, solution, converged)
        inner = frame[1:, 1:].ravel()
        size = float(np.linalg.norm(inner))
        error = float(np.linalg.norm(solution - inner)) / size if size else 0.0
        rows.append((iterations, omega, system.context, not converged, error, seconds))
        if len(rows) % cases.block == 0:
            side = len(frame) - 1
            solutions.append(np.pad(solution.reshape(side, side), ((1, 0), (1, 0))))
    columns = dict(zip(_COLUMNS, np.array(rows, dtype=np.float64).T, strict=True))
    return _Trial(truth=truth[cases.ends - 1], solution=np.array(solutions), **columns)


def _check(
    module: AbstractRelaxation, system: LinearSystem, solution: ndarray, converged: bool
) -> None:
    """Refuse a solution whose true residual is not what its solver said."""
    residual = relative_residual(system, module.solver, solution)
    if converged and residual > module.tolerance * (1 + ROUNDING):
        raise RuntimeError(
            f"{module.solver} stopped at a relative residual of {residual:.3g}, not at "
            f"{module.tolerance:g}"
        )


def _score(trial: _Trial, number: int, cases: _Cases, table: ScoreTable) -> None:
    blocks = (-1, cases.block)
    capped = trial.censored.reshape(blocks).any(1)
    rows: dict[str, Any] = {
        "trajectory": number,
        "step": cases.ends,
        "lead_time": cases.ends * cases.seconds,
    }
    table.add("iterations", trial.iterations.reshape(blocks).mean(1), censored=capped, **rows)
    table.add("omega", trial.omega.reshape(blocks).mean(1), **rows)
    late = slice(-max(1, round(cases.late * cases.steps)), None)
    for name, part in (("iterations_mean", slice(None)), ("iterations_late", late)):
        censored = bool(trial.censored[part].any())
        table.add(name, trial.iterations[part].mean(), censored=censored, trajectory=number)
    table.add("solution_error", trial.error.mean(), trajectory=number)
    table.add("wall_time", trial.seconds.mean(), trajectory=number)


def _predictions(trials: list[_Trial], cases: _Cases) -> xr.Dataset:
    """Solutions at the end of each block; context, omega and iterations of every system."""
    kept = trials[: cases.keep]
    field = cases.store.fields[-1]
    space = cases.split.space
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *schema.AXES[: len(space)])
    shape = (len(kept), len(cases.ends), 1, *space)
    length = cases.split.parameters.get(schema.LENGTH, np.ones(cases.trajectories))
    side = float(length[: cases.trajectories].mean())
    variables: dict[str, Any] = {
        "truth": (dims, _stack([t.truth for t in kept], shape)),
        "prediction": (dims, _stack([t.solution for t in kept], shape)),
    }
    for name in ("context", "omega", "iterations"):
        values = _stack([getattr(t, name) for t in kept], (len(kept), cases.steps))
        variables[name] = ((schema.TRAJECTORY, "system"), values)
    coordinates = field_coordinates([field], len(kept), cases.ends * cases.seconds, space, side)
    seconds = np.full(len(kept), cases.block * cases.seconds)
    coordinates["system"] = np.arange(1, cases.steps + 1)
    coordinates["seconds_per_step"] = (schema.TRAJECTORY, seconds, {"units": "s"})
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length[: len(kept)])
    return xr.Dataset(variables, coords=coordinates)


def _stack(parts: list[ndarray], shape: tuple[int, ...]) -> Float[ndarray, "..."]:
    return np.array(parts, dtype=np.float32).reshape(shape)
