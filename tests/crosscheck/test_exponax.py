"""Our spectral solvers against exponax (Koehler et al., 2024), from the same states, in float64.

    pytest -m crosscheck tests/crosscheck      python tests/crosscheck/test_exponax.py

Both need the extra `bench`; the second prints the tables. The grids have a multiple of three
points, for which both solvers cut off the same waves.

Exponax 0.2.0 keeps only the real parts of the phi functions. Where L is real that is right, and
both solvers are the same scheme: roundoff alone must explain their difference. Where it is
imaginary, in the dispersion of Korteweg-de Vries, it makes exponax first-order in the step; there
it takes 32 steps for one of ours. Gray-Scott has its linear reactions in L here and in N there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from compare import agrees, compare, perturb, show

from longrun.equations._base import AbstractEquation
from longrun.equations.burgers import Burgers
from longrun.equations.gray_scott import GrayScott
from longrun.equations.korteweg_de_vries import KortewegDeVries
from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky

exponax = pytest.importorskip("exponax")
jax = pytest.importorskip("jax")

pytestmark = pytest.mark.crosscheck
ETDRK4 = {"order": 4, "num_circle_points": 64}  # its default of 16 is good to 1e-13 or so only


@dataclass(frozen=True)
class Case:
    """An equation here and there; `theirs` builds a stepper from the length of a step."""

    equation: AbstractEquation
    theirs: Callable[[float], Callable]
    frames: int
    lead_in: int = 0  # frames before the comparison begins
    same_scheme: bool = True
    their_order: int = 4
    their_steps: int = 1  # for each of ours


CASES = {
    "kuramoto_sivashinsky": Case(
        KuramotoSivashinsky(points=192, length=64.0, dt=0.5, substeps=8),
        lambda step: exponax.stepper.KuramotoSivashinskyConservative(
            1, 64.0, 192, step, single_channel=True, **ETDRK4
        ),
        frames=200,
        lead_in=200,
    ),
    "korteweg_de_vries": Case(
        KortewegDeVries(points=192, length=128.0, dt=0.5, substeps=20),
        lambda step: exponax.stepper.KortewegDeVries(
            1,
            128.0,
            192,
            step,
            convection_scale=1.0,
            hyper_diffusivity=0.0,
            conservative=True,
            single_channel=True,
            **ETDRK4,
        ),
        frames=20,
        same_scheme=False,
        their_order=1,
        their_steps=32,
    ),
    "burgers": Case(
        Burgers(points=384, length=1.0, dt=0.05, viscosity=0.01, windowed=0.0, substeps=20),
        lambda step: exponax.stepper.Burgers(
            1, 1.0, 384, step, diffusivity=0.01, conservative=True, single_channel=True, **ETDRK4
        ),
        frames=40,
    ),
    "gray_scott": Case(
        GrayScott(points=48, length=0.36, dt=10.0, feed=0.03, kill=0.06, seeds=2, substeps=16),
        lambda step: exponax.stepper.reaction.GrayScott(
            2, 0.36, 48, step, feed_rate=0.03, kill_rate=0.06, **ETDRK4
        ),
        frames=50,
        same_scheme=False,
    ),
}


def start(case: Case, batch: int) -> np.ndarray:
    """Draw states of the waves that both solvers advance."""
    _, state = case.equation.sample([np.random.default_rng(i) for i in range(batch)])
    with torch.no_grad():
        solver = case.equation.solver(values(case, batch), stride=max(1, case.lead_in))
        spectrum = solver.enter(torch.tensor(state))
        return solver.leave(solver._advance(spectrum) if case.lead_in else spectrum).numpy()


def values(case: Case, batch: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.full((batch,), distribution.low, dtype=torch.float64)
        for name, distribution in case.equation.distributions.items()
    }


def our_run(case: Case, state: np.ndarray, finer: int = 1) -> np.ndarray:
    solver = case.equation.solver(values(case, len(state)), substeps=finer * case.equation.substeps)
    with torch.no_grad():
        return solver.rollout(torch.tensor(state), case.frames).numpy()


def their_run(case: Case, state: np.ndarray, finer: int = 1) -> np.ndarray:
    steps = finer * case.their_steps * case.equation.substeps
    dt = case.equation.distributions["dt"].low
    with jax.enable_x64(True):
        stepper = exponax.RepeatedStepper(case.theirs(dt / steps), steps)
        run = jax.jit(jax.vmap(exponax.rollout(stepper, case.frames)))
        return np.asarray(run(jax.numpy.asarray(state)))


def crosscheck(name: str, batch: int = 3) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Compare all runs of a case; return the times and the table."""
    case = CASES[name]
    state = start(case, batch)
    table = compare(
        our_run(case, state),
        their_run(case, state),
        our_run(case, state, finer=2),
        their_run(case, state, finer=2),
        our_run(case, perturb(state)),
        their_order=case.their_order,
    )
    return case.equation.distributions["dt"].low * np.arange(1, case.frames + 1), table


@pytest.mark.parametrize("name", CASES)
def test_agrees_to_the_solvers_own_error(name):
    times, table = crosscheck(name)
    assert agrees(table), show(name, times, table)
    if CASES[name].same_scheme:
        assert (table["difference"] <= table["roundoff"]).all(), show(name, times, table)


if __name__ == "__main__":
    for case_name in CASES:
        print(show(case_name, *crosscheck(case_name)), end="\n\n")
