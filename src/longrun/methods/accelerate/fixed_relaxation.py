"""Relaxation parameters that are not learnt, to compare with arXiv:2310.02246.

Rules:

    fixed  one omega for all systems: 1 is Gauss-Seidel; 0 with `ssor_cg` is conjugate gradients
    best   the omega of a list that took the fewest iterations on training systems
    young  per system, omega = 1 + (beta / (1 + sqrt(1 - beta^2)))^2, beta the spectral radius of
           I - D^-1 A: what minimises the spectral radius of SOR (Young, 1950)

The last costs an eigenvalue problem per system: not a competitor, but it shows what is attainable.
"""

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import scipy.sparse as sparse
import torch
from torch import Tensor

from longrun.solvers.relaxation import jacobi_radius, young_omega
from longrun.tasks.accelerate import AbstractRelaxation, systems


class FixedRelaxation(AbstractRelaxation):
    """Choose omega by a rule that ignores costs.

    Parameters
    ----------
    rule : {"fixed", "best", "young"}
        See this module.
    omega : float
        Of the rule `fixed`.
    candidates : list of float
        Of the rule `best`.
    train_systems : int
        Of each training trajectory, evenly spread over it, on which `best` is chosen.
    **options
        See `AbstractRelaxation`.

    Raises
    ------
    ValueError
        An omega beyond [0, 2), no candidates or no systems.
    """

    chosen: Tensor

    def __init__(
        self,
        rule: Literal["fixed", "best", "young"] = "fixed",
        omega: float = 1.0,
        candidates: list[float] = [1.0, 1.2, 1.4, 1.6, 1.8],  # noqa: B006 (read, never written)
        train_systems: int = 200,
        **options: Any,
    ):
        super().__init__(**options)
        if not candidates or not all(0 <= value < 2 for value in [omega, *candidates]):
            raise ValueError(f"omega and candidates must lie in [0, 2), are {omega}, {candidates}")
        if self.solver == "sor" and not all(value > 0 for value in [omega, *candidates]):
            raise ValueError("omega must be positive: at 0 SOR stands still")
        if train_systems < 1:
            raise ValueError(f"train_systems must be at least 1, is {train_systems}")
        self.rule, self.candidates, self.train_systems = rule, candidates, train_systems
        self.register_buffer("chosen", torch.tensor(omega, dtype=torch.float64))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Choose the best candidate on training systems."""
        super().prepare(data, sources)
        if self.rule != "best":
            return
        costs = dict.fromkeys(self.candidates, 0)
        for store in data.stores:
            split = store.split("train")
            every = max(1, (split.frames - 1) // self.train_systems)
            for trajectory in range(split.trajectories):
                sequence = systems(store, "train", trajectory)
                for system in itertools.islice(sequence, 0, split.frames - 1, every):
                    for omega in self.candidates:
                        costs[omega] += self.solve(system, omega).iterations
        self.chosen.fill_(min(costs, key=lambda omega: costs[omega]))

    def begin(self) -> None:
        """Do nothing: there is nothing to forget."""

    def choose(self, context: float, matrix: sparse.csr_array, generator: torch.Generator) -> float:
        """Return the omega of the rule."""
        if self.rule == "young":
            return young_omega(jacobi_radius(matrix))
        return float(self.chosen)
