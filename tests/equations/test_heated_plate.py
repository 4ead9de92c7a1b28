"""The heated plate: against matrices, a series, its steady state; orders of convergence."""

import math

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from scipy.sparse.linalg import spsolve

from longrun.equations.heated_plate import SIDES, HeatedPlate
from longrun.runtime.cli import UserError


def draw(equation, count=2, **given):
    parameters, state = equation.sample([np.random.default_rng([0, i]) for i in range(count)])
    parameters = {name: torch.tensor(v) for name, v in parameters.items()}
    return parameters | {k: torch.full((count,), v).double() for k, v in given.items()}, state


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def test_steps_solve_the_system_of_the_implicit_euler_scheme():
    """Assembled cell by cell, with sides half a cell away."""
    n, substeps = 5, 3
    equation = HeatedPlate(points=n, length=2.0, dt=0.3, diffusivity=0.7, substeps=substeps)
    parameters, _ = draw(equation, 1)
    state = np.random.default_rng(1).uniform(100, 500, (1, 1, n, n))
    rate = 0.7 * (n / 2.0) ** 2
    line = sparse.diags_array([1.0, -2.0, 1.0], offsets=(-1, 0, 1), shape=(n, n)).tolil()
    line[0, 0] = line[-1, -1] = -3
    one = sparse.eye_array(n)
    matrix = rate * (sparse.kron(line, one) + sparse.kron(one, line))
    left, right, bottom, top = (float(parameters[name][0]) for name in SIDES)
    source = np.zeros((n, n))
    source[0] += left
    source[-1] += right
    source[:, 0] += bottom
    source[:, -1] += top
    u = state.ravel()
    frames = []
    for _ in range(2):
        for _ in range(substeps):
            step = 0.3 / substeps
            system = sparse.csr_array(sparse.eye_array(n * n) - step * matrix)
            u = spsolve(system, u + step * 2 * rate * source.ravel())
        frames.append(u.reshape(n, n))
    found = equation.solver(parameters).rollout(torch.tensor(state), 2)[0, :, 0]
    np.testing.assert_allclose(found, frames, rtol=1e-11)


def test_goes_to_the_series_of_the_steady_state():
    """One hot side: u(x, y) = cold + sum over odd k of sines times hyperbolic sines."""
    errors = []
    for points in (8, 16, 32):
        equation = HeatedPlate(points=points, dt=1e6)  # far beyond the slowest decay
        parameters, state = draw(
            equation, 1, left=400.0, right=100.0, bottom=100.0, top=100.0, initial=250.0
        )
        found = equation.solver(parameters).rollout(torch.tensor(state), 3)[0, -1, 0]
        # where four cells meet, of any even number of points
        middle = found[points // 2 - 1 : points // 2 + 1, points // 2 - 1 : points // 2 + 1]
        quarter = found[points // 4 - 1 : points // 4 + 1, points // 2 - 1 : points // 2 + 1]
        assert float(middle.mean()) == pytest.approx(175, abs=1e-9)  # a quarter of each side
        k = np.arange(1, 200, 2)
        decayed = np.sinh(k * math.pi * 0.75) / np.sinh(k * math.pi)
        series = 4 / (k * math.pi) * decayed * np.sin(k * math.pi / 2)
        errors.append(abs(float(quarter.mean()) - 100 - 300 * series.sum()))
    assert (order(errors) > 1.8).all() and errors[-1] < 0.5


def test_second_order_in_space_and_first_in_time():
    """Of a wave that vanishes on the sides, which decays by one known exponential."""

    def error(points, substeps):
        equation = HeatedPlate(points=points, dt=0.05, substeps=substeps)
        cold = dict.fromkeys(SIDES, 0.0)
        parameters, _ = draw(equation, 1, **cold)
        x = (torch.arange(points).double() + 0.5) / points
        wave = torch.sin(math.pi * x)[:, None] * torch.sin(2 * math.pi * x)
        found = equation.solver(parameters).step(wave[None, None])[0, 0]
        return float((found - math.exp(-5 * math.pi**2 * 0.05) * wave).abs().max())

    in_space = [error(points, 20_000) for points in (8, 16, 32)]
    in_time = [error(512, steps) for steps in (8, 16, 32)]
    assert (abs(order(in_space) - 2) < 0.1).all()
    assert (abs(order(in_time) - 1) < 0.15).all()


def test_keeps_between_the_coldest_and_the_hottest():
    equation = HeatedPlate(points=12, dt=0.004)
    parameters, state = draw(equation, 20)
    frames = equation.solver(parameters).rollout(torch.tensor(state), 30).flatten(1)
    given = torch.stack([parameters[name] for name in ("initial", *SIDES)])
    assert (frames >= given.amin(0)[:, None] - 1e-9).all()
    assert (frames <= given.amax(0)[:, None] + 1e-9).all()


def test_turns_with_its_sides():
    equation = HeatedPlate(points=9)
    parameters, state = draw(equation, 2)
    found = equation.solver(parameters).rollout(torch.tensor(state), 4)
    swapped = parameters | {
        "left": parameters["bottom"], "bottom": parameters["left"],
        "right": parameters["top"], "top": parameters["right"],
    }  # fmt: skip
    turned = equation.solver(swapped).rollout(torch.tensor(state), 4)
    torch.testing.assert_close(turned, found.transpose(-1, -2))
    mirrored = parameters | {"left": parameters["right"], "right": parameters["left"]}
    flipped = equation.solver(mirrored).rollout(torch.tensor(state), 4)
    torch.testing.assert_close(flipped, found.flip(-2))


@pytest.mark.parametrize("wrong", [{"dt": 0.0}, {"left": -3.0}, {"initial": {"uniform": [2, 1]}}])
def test_refusals_name_the_parameter(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        HeatedPlate(**wrong)
