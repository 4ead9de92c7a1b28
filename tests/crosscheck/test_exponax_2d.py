"""Our two-dimensional Navier-Stokes solver against exponax, from the same states, in float64.

    pytest -m crosscheck tests/crosscheck      python tests/crosscheck/test_exponax_2d.py

Both need the extra `bench`; the second prints the tables. The state of exponax 0.2.0 is minus the
vorticity of the velocity that carries it, so a factor of -1 before its convection makes its
equation ours. The schemes are the same, Cox and Matthews' of fourth order, except for the form of
the advection, which makes no difference without aliasing: roundoff alone must explain any.
"""

import math

import numpy as np
import pytest
from compare import agrees, compare, perturb, show
from test_exponax import ETDRK4, Case, exponax, our_run, start, their_run

from longrun.equations.navier_stokes_2d import NavierStokes2D

pytestmark = pytest.mark.crosscheck
LENGTH = 2 * math.pi

CASES = {
    "decaying turbulence": Case(
        NavierStokes2D(points=48, dt=0.25, viscosity=0.02, initial="mcwilliams", substeps=25),
        lambda step: exponax.stepper.NavierStokesVorticity(
            2, LENGTH, 48, step, diffusivity=0.02, vorticity_convection_scale=-1.0, **ETDRK4
        ),
        frames=40,
    ),
    "Kolmogorov flow": Case(
        NavierStokes2D(
            points=48,
            dt=0.25,
            viscosity=0.02,
            drag=0.1,
            forcing="kolmogorov",
            initial="vortices",
            substeps=25,
        ),
        lambda step: exponax.stepper.KolmogorovFlowVorticity(
            2,
            LENGTH,
            48,
            step,
            diffusivity=0.02,
            drag=-0.1,
            convection_scale=-1.0,
            injection_mode=4,
            injection_scale=1.0,
            **ETDRK4,
        ),
        frames=80,
        lead_in=20,
    ),
}


def crosscheck(name: str, batch: int = 2) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Compare all runs of a case; return the times and the table."""
    case = CASES[name]
    state = start(case, batch)
    table = compare(
        our_run(case, state),
        their_run(case, state),
        our_run(case, state, finer=2),
        their_run(case, state, finer=2),
        our_run(case, perturb(state)),
    )
    return case.equation.distributions["dt"].low * np.arange(1, case.frames + 1), table


@pytest.mark.parametrize("name", CASES)
def test_agrees_to_the_solvers_own_error(name):
    times, table = crosscheck(name)
    assert agrees(table), show(name, times, table)
    assert (table["difference"] <= table["roundoff"]).all(), show(name, times, table)


if __name__ == "__main__":
    for case_name in CASES:
        print(show(case_name, *crosscheck(case_name)), end="\n\n")
