"""Our MAC-grid step beside that of jax-cfd, an independent code.

Its `implicit_diffusion_navier_stokes` is the scheme that ours follows: the same interpolations,
limiter, projection and implicit diffusion. So a step agrees to rounding, and a trajectory for as
long as rounding takes to grow. (torch-cfd has the same fluxes but other integrators in time:
explicit Runge-Kutta for diffusion too.)
"""

import math

import numpy as np
import pytest
import torch
from compare import agrees, compare, distance, perturb, show

from longrun.equations.navier_stokes_mac import NavierStokesMAC

jax = pytest.importorskip("jax")
pytest.importorskip("jax_cfd")
pytestmark = pytest.mark.crosscheck

POINTS, FRAMES = 64, 200
VISCOSITY, DRAG, WAVES = 1e-3, 0.1, 4


@pytest.fixture(scope="module")
def equation():
    return NavierStokesMAC(
        points=POINTS, refinement=1, substeps=1, viscosity=VISCOSITY, drag=DRAG, waves=WAVES
    )


@pytest.fixture(scope="module")
def begun(equation):
    """Parameters and states a little after the initial conditions."""
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(2)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        return parameters, equation.solver(parameters, stride=100).step(torch.tensor(state)).numpy()


@pytest.fixture
def theirs(monkeypatch):
    """Rollout of jax-cfd in double precision, from a state (2, x, y)."""
    monkeypatch.setattr(jax, "tree_map", jax.tree_util.tree_map, raising=False)  # gone since 0.4.26
    from jax_cfd.base import boundaries, equations, forcings, grids

    def rollout(state, frames, steps):
        with jax.enable_x64(True):
            grid = grids.Grid((POINTS, POINTS), domain=((0, 2 * math.pi), (0, 2 * math.pi)))
            periodic = boundaries.periodic_boundary_conditions(2)
            half = math.pi * WAVES / POINTS
            force = forcings.sum_forcings(
                # theirs are values in the middle of faces, ours averages over them
                forcings.kolmogorov_forcing(grid, scale=math.sin(half) / half, k=WAVES),
                forcings.linear_forcing(grid, -DRAG),
            )
            time_step = 0.007012483601762931 / steps
            advance = jax.jit(
                equations.implicit_diffusion_navier_stokes(
                    1.0, VISCOSITY, time_step, grid, forcing=force
                )
            )
            velocity = tuple(
                grids.GridVariable(grids.GridArray(jax.numpy.asarray(part), offset, grid), periodic)
                for part, offset in zip(state, ((1.0, 0.5), (0.5, 1.0)), strict=True)
            )
            found = []
            for _ in range(frames):
                for _ in range(steps):
                    velocity = advance(velocity)
                found.append(np.stack([np.asarray(part.data) for part in velocity]))
            return np.array(found)

    return rollout


def ours(equation, parameters, state, frames, steps=1):
    with torch.no_grad():
        return (
            equation.solver(parameters, substeps=steps).rollout(torch.tensor(state), frames).numpy()
        )


def test_one_step_agrees_to_rounding(equation, begun, theirs):
    parameters, state = begun
    found = ours(equation, parameters, state, 1)
    expected = np.stack([theirs(row, 1, 1) for row in state])
    assert np.abs(expected[:, 0] - state).max() > 1e-3 * np.abs(state).max()
    assert distance(found, expected).max() < 1e-14


def test_trajectories_agree_until_rounding_has_grown(equation, begun, theirs):
    parameters, state = begun
    runs = [
        ours(equation, parameters, state, FRAMES),
        np.stack([theirs(row, FRAMES, 1) for row in state]),
        ours(equation, parameters, state, FRAMES, 2),
        np.stack([theirs(row, FRAMES, 2) for row in state]),
        ours(equation, parameters, perturb(state), FRAMES),
    ]
    table = compare(*runs, order=1)
    print(show("Kolmogorov flow, jax-cfd", 0.0070125 * np.arange(1, FRAMES + 1), table))
    assert agrees(table)
    # the scheme being the same, roundoff alone must explain the difference; both round at each step
    assert (table["difference"] < 10 * table["roundoff"]).all()
