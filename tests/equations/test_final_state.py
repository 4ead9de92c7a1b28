"""The end of a run as a map of its start, or of what drives it."""

import numpy as np
import pytest
import torch

from longrun.equations.burgers import Burgers
from longrun.equations.final_state import FinalState
from longrun.equations.navier_stokes_2d import NavierStokes2D
from longrun.runtime.cli import UserError

FLOW = {
    "name": "navier_stokes_2d",
    "viscosity": 0.02,
    "dt": 0.5,
    "substeps": 8,
    "forcing": "random",
    "initial": "rest",
}


def draw(equation, count=2):
    parameters, state = equation.sample([np.random.default_rng([7, i]) for i in range(count)])
    return {name: torch.tensor(value) for name, value in parameters.items()}, torch.tensor(state)


def test_the_end_is_that_of_a_run_from_the_start():
    inner = Burgers(points=64, dt=0.1, viscosity={"uniform": [0.05, 0.1]})
    options = {"name": "burgers", "dt": 0.1, "viscosity": {"uniform": [0.05, 0.1]}}
    equation = FinalState(points=64, of=options, frames=3)
    assert [q.name for q in equation.fields] == ["initial_u", "u"]
    assert "dt" not in equation.distributions and equation.steady
    parameters, state = draw(equation)
    assert not state[:, 1].any() and state[:, 0].any()
    found = equation.solver(parameters).step(state)
    whole = parameters | {"dt": torch.full((2,), 0.1, dtype=torch.float64)}
    frames = inner.solver(whole).rollout(state[:, :1], 3)
    torch.testing.assert_close(found[:, :1], state[:, :1], rtol=0, atol=0)
    torch.testing.assert_close(found[:, 1:], frames[:, -1], rtol=1e-10, atol=1e-12)
    again = equation.solver(parameters).step(found)  # what is sought is not looked at
    torch.testing.assert_close(again, found, rtol=0, atol=0)


def test_the_end_of_a_flow_under_a_drawn_force():
    equation = FinalState(points=16, of=FLOW, given=["force"], sought=["vorticity"])
    assert [q.name for q in equation.fields] == ["force", "vorticity"]
    parameters, state = draw(equation)
    found = equation.solver(parameters).step(state)
    torch.testing.assert_close(found[:, 0], state[:, 0], rtol=0, atol=1e-14)
    # soon after the start a flow at rest has the force times the time
    early = FinalState(points=16, of=FLOW | {"dt": 1e-3}, given=["force"], sought=["vorticity"])
    first = early.solver(parameters).step(state)[:, 1]
    torch.testing.assert_close(first, 1e-3 * state[:, 0], rtol=1e-3, atol=1e-6)


def test_a_drawn_force_acts_as_a_known_one():
    """A force drawn by hand: that of Kolmogorov's flow, from a flow that isn't at rest."""
    options = {"points": 24, "viscosity": 0.1, "dt": 0.2, "substeps": 8, "initial": "random_field"}
    known = NavierStokes2D(forcing="kolmogorov", wavenumber=2, **options)
    drawn = NavierStokes2D(forcing="random", **options)
    parameters, vorticity = draw(known)
    y = 2 * np.pi * torch.arange(24, dtype=torch.float64) / 24
    force = (-2 * torch.cos(2 * y)).expand(2, 1, 24, 24)
    with torch.no_grad():
        expected = known.solver(parameters).rollout(vorticity, 4)
        found = drawn.solver(parameters).rollout(torch.cat([force, vorticity], dim=1), 4)
    torch.testing.assert_close(found[:, :, 1:], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[:, -1, :1], force, rtol=0, atol=1e-12)


def test_the_force_has_its_covariance():
    equation = NavierStokes2D(points=32, forcing="random", initial="rest", amplitude=2.0)
    _, state = draw(equation, 400)
    assert not state[:, 1].any()
    modes = torch.fft.rfft2(state[:, 0], norm="forward").abs().square().mean(0)
    for x, y in ((1, 0), (0, 1), (2, 1), (3, 3)):
        variance = 4 * 27 / (x**2 + y**2 + 9) ** 4
        assert abs(modes[x, y] / variance - 1) < 0.25
    assert modes[0, 0] < 1e-30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"of": {"name": "darcy"}}, "darcy must have time, space and no burn_in"),
        ({"of": {"name": "burgers", "points": 32}}, "points stand beside `of`"),
        ({"of": {"name": "burgers", "dt": {"uniform": [0.1, 0.2]}}}, "dt must be one number"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"sought": ["v"]}, "sought must be some of u"),
        ({"given": []}, "given must be some of u"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message):
        FinalState(**{"points": 32} | options)


def test_a_start_that_is_not_given_is_refused():
    flow = FLOW | {"initial": "random_field"}
    equation = FinalState(points=32, of=flow, given=["force"], sought=["vorticity"])
    with pytest.raises(UserError, match="given lacks vorticity"):
        draw(equation)


def test_a_drawn_force_needs_vorticity():
    with pytest.raises(UserError, match="forcing random needs fields: vorticity"):
        NavierStokes2D(forcing="random", fields="velocity")
