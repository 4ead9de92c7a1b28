"""The wave equation: standing and travelling waves, layers, walls, energy, refusals."""

import math

import numpy as np
import pytest
import torch

from longrun.equations.wave import STABLE, STIFFEST, Wave
from longrun.runtime.cli import UserError


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def centres(points):
    x = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    return x[:, None], x[None, :]


def advance(equation, u, v, speed, time, substeps, points):
    parameters = {
        "length": torch.ones(1, dtype=torch.float64),
        "dt": torch.tensor([time], dtype=torch.float64),
    }
    state = torch.stack([u, v, speed])[None]
    solver = equation.solver(parameters, points=points, substeps=substeps)
    return solver.step(state)[0]


def draw(equation, count=2, seed=0):
    parameters, state = equation.sample([np.random.default_rng([seed, i]) for i in range(count)])
    return {name: torch.tensor(v) for name, v in parameters.items()}, torch.tensor(state)


def standing_error(walls, points, substeps, integrator="rk4"):
    """Error after about a period of a standing wave, at speed 1.3."""
    x, y = centres(points)
    kx, ky = (2 * math.pi, 4 * math.pi) if walls == "periodic" else (math.pi, 3 * math.pi)
    shape = torch.cos(kx * x) * torch.cos(ky * y)
    frequency, time = 1.3 * math.hypot(kx, ky), 0.4
    equation = Wave(points=16, walls=walls, integrator=integrator)
    speed = torch.full_like(shape, 1.3)
    found = advance(equation, shape, 0 * shape, speed, time, substeps, points)
    return (found[0] - shape * math.cos(frequency * time)).abs().max().item()


@pytest.mark.parametrize("walls", ["periodic", "reflecting"])
def test_fourth_order_in_space(walls):
    errors = [standing_error(walls, points, 96) for points in (16, 32, 64)]
    assert (order(errors) > 3.8).all() and errors[-1] < 1e-3


@pytest.mark.parametrize(("integrator", "expected"), [("verlet", 2), ("rk4", 4)])
def test_order_in_time(integrator, expected):
    x, y = centres(16)
    u = torch.exp(-30 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))
    speed = 1 + 0.3 * torch.cos(math.pi * x) * torch.cos(math.pi * y)
    equation = Wave(points=16, walls="reflecting", integrator=integrator)
    exact = advance(equation, u, 0 * u, speed, 0.4, 512, 16)
    errors = [
        (advance(equation, u, 0 * u, speed, 0.4, steps, 16) - exact).norm().item()
        for steps in (32, 64, 128)
    ]
    assert (abs(order(errors) - expected) < 0.15).all()


def test_stable_up_to_the_limit_and_not_beyond():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 16, 16, generator=generator, dtype=torch.float64)
    for integrator, limit in STABLE.items():
        equation = Wave(points=16, walls="periodic", integrator=integrator)
        step = limit / (16 * math.sqrt(2 * STIFFEST))
        ones = torch.ones(16, 16, dtype=torch.float64)
        for factor, stable in ((0.99, True), (1.02, False)):
            state = advance(equation, *noise, ones, 300 * factor * step, 300, 16)
            assert bool(state[:2].abs().max() < 1e3) is stable  # NaN is not below anything


def test_dalembert():
    """Half a pulse each way, through the periodic edge."""
    points, time = 128, 0.7
    x, _ = centres(points)

    def pulse(x):
        return sum(torch.exp(-(((x - 0.5 + image) / 0.08) ** 2)) for image in (-1, 0, 1))

    equation = Wave(points=16, walls="periodic")
    ones = torch.ones(points, points, dtype=torch.float64)
    found = advance(equation, pulse(x) * ones, 0 * ones, ones, time, 200, points)[0]
    exact = (pulse((x - time) % 1) + pulse((x + time) % 1)) / 2 * ones
    assert (found - exact).abs().max() < 2e-3
    # and one way alone, with the velocity that goes with it
    slope = 2 * (x - 0.5) / 0.08**2 * torch.exp(-(((x - 0.5) / 0.08) ** 2))
    found = advance(equation, pulse(x) * ones, slope * ones, ones, 0.25, 72, points)[0]
    assert (found - pulse((x - 0.25) % 1) * ones).abs().max() < 2e-3


def test_a_layer_reflects_and_transmits_what_it_should():
    """u and u_x go on across an interface: r = (c2 - c1) / (c1 + c2), t = 1 + r."""
    points, slow, fast = 256, 0.5, 1.5
    x = centres(points)[0]
    one = torch.ones(1, 4, dtype=torch.float64)
    speed = torch.where(x < 0.5, slow, fast) * one
    width, start = 0.04, 0.25
    u = torch.exp(-(((x - start) / width) ** 2)) * one
    v = slow * 2 * (x - start) / width**2 * u
    # a strip: its short axis is periodic, and so is the long one, far from the pulse
    parameters = {"length": torch.ones(1).double(), "dt": torch.tensor([0.62]).double()}
    equation = Wave(points=16, walls="periodic")
    solver = equation.solver(parameters, points=points, substeps=400)
    found = solver.step(torch.stack([u, v, speed])[None])[0, 0, :, 0]
    reflected, transmitted = found[x[:, 0] < 0.5], found[x[:, 0] >= 0.5]
    r = (fast - slow) / (fast + slow)
    assert reflected.max().item() == pytest.approx(r, abs=0.01)
    assert transmitted.max().item() == pytest.approx(1 + r, abs=0.01)
    time_in_slow = (0.5 - start) / slow
    arrives = 0.5 + fast * (0.62 - time_in_slow)
    assert x[found.argmax(), 0].item() == pytest.approx(arrives, abs=0.01)


def energy(state, spacing):
    """Kinetic energy, and potential energy of the same differences as the solver's."""
    u, v, speed = state.unbind(1)
    wide = torch.cat([u.flip(1)[:, -2:], u, u.flip(1)[:, :2]], 1)
    total = 0
    for axis in (1, 2):
        turned = u.movedim(axis, 1)
        wide = torch.cat([turned[:, :2].flip(1), turned, turned[:, -2:].flip(1)], 1)
        second = 4 / 3 * (wide[:, 1:-3] + wide[:, 3:-1]) - (wide[:, :-4] + wide[:, 4:]) / 12
        total = total - (turned * (second - 5 / 2 * turned)).sum((1, 2)) / spacing**2
    return (((v / speed) ** 2).sum((1, 2)) + total) / 2 * spacing**2


@pytest.mark.parametrize(("integrator", "tolerance"), [("rk4", 1e-3), ("verlet", 2e-2)])
def test_energy_between_reflecting_walls(integrator, tolerance):
    equation = Wave(points=32, walls="reflecting", integrator=integrator, substeps=8)
    parameters, state = draw(equation)
    frames = equation.solver(parameters).rollout(state, 100)
    initial = energy(state, 1 / 32)
    change = torch.stack([energy(frame, 1 / 32) for frame in frames.unbind(1)]) / initial - 1
    assert change.abs().max() < tolerance
    if integrator == "rk4":
        assert (change.diff(dim=0) < 0).all()
    else:  # no drift: late oscillations are about where early ones were
        assert (change[80:].mean(0) - change[:20].mean(0)).abs().max() < tolerance / 5


def test_absorbing_walls_take_energy():
    equation = Wave(points=32, walls="absorbing", substeps=8)
    parameters, state = draw(equation)
    frames = equation.solver(parameters).rollout(state, 100)
    energies = torch.stack([energy(frame, 1 / 32) for frame in (state, *frames.unbind(1))])
    assert (energies[-1] < 1e-2 * energies[0]).all()


def test_absorbing_walls_are_as_open_space():
    """A ring that leaves, against the same in a box too large to reflect in time."""
    results = []
    for points, length in ((48, 1.0), (144, 3.0)):
        x, y = (length * (side - 0.5) for side in centres(points))
        u = torch.exp(-(x**2 + y**2) / 0.1**2)
        equation = Wave(points=16, walls="absorbing")
        parameters = {"length": torch.tensor([length]), "dt": torch.tensor([0.7])}
        solver = equation.solver(parameters, points=points, substeps=48)
        results.append(solver.step(torch.stack([u, 0 * u, 0 * u + 1])[None])[0, 0])
    near, far = results[0], results[1][48:96, 48:96]
    # the ring was 0.16 high at the walls; in the corners, met at 45 degrees, most of it stays
    assert (near - far).abs().max() < 0.04
    assert (near - far)[20:28].abs().max() < 0.01


def test_momentum_is_kept():
    for walls in ("periodic", "reflecting"):
        equation = Wave(points=24, walls=walls, substeps=6)
        parameters, state = draw(equation)
        state[:, 1] += 0.3
        after = equation.solver(parameters).rollout(state, 20)[:, -1]
        before = equation.invariants(state.numpy(), {})["momentum"]
        np.testing.assert_allclose(equation.invariants(after.numpy(), {})["momentum"], before)
        torch.testing.assert_close(after[:, 2], state[:, 2], rtol=0, atol=0)
    assert Wave().invariants(state.numpy(), {}) == {}


@pytest.mark.parametrize("walls", ["periodic", "reflecting", "absorbing"])
def test_symmetries_of_the_square(walls):
    equation = Wave(points=24, walls=walls, substeps=6)
    parameters, state = draw(equation)
    solver = equation.solver(parameters)
    found = solver.rollout(state, 5)[:, -1]
    for move in (lambda s: s.flip(2), lambda s: s.transpose(2, 3)):
        torch.testing.assert_close(solver.rollout(move(state), 5)[:, -1], move(found))


def test_media_are_functions_within_their_bounds():
    for medium in ("layers", "gaussians", "uniform"):
        for walls in ("periodic", "absorbing"):
            options = {"medium": medium, "walls": walls, "substeps": 40}
            _, fine = draw(Wave(points=120, **options), 3)
            _, coarse = draw(Wave(points=40, **options), 3)
            torch.testing.assert_close(fine[:, :, 1::3, 1::3], coarse, rtol=0, atol=1e-12)
            assert fine[:, 2].min() >= 0.5 and fine[:, 2].max() <= 1.5
    sharp = Wave(points=32, transition=0.0)
    _, state = draw(sharp)
    speeds = state[:, 2].unique()
    assert len(speeds) <= 12
    assert set(sharp.resample(state, 64)[:, 2].unique().tolist()) == set(speeds.tolist())


def test_periodic_layers_go_on_across_the_edge():
    _, state = draw(Wave(points=128, walls="periodic"), 4)
    speed = state[:, 2]
    inside = speed.diff(dim=2).abs().amax((1, 2))
    across = (speed[..., 0] - speed[..., -1]).abs().amax(1)
    assert (across <= 1.05 * inside).all()


def test_twice_the_resolution_agrees():
    for medium, tolerance in (("layers", 2e-2), ("gaussians", 5e-3)):
        equation = Wave(points=48, medium=medium, walls="reflecting", substeps=8)
        parameters, state = draw(equation)
        found = equation.solver(parameters).rollout(state, 8)[:, -1, 0]
        finer = equation.solver(parameters, points=96, substeps=16)
        expected = equation.resample(finer.rollout(equation.resample(state, 96), 8)[:, -1], 48)[
            :, 0
        ]
        assert (found - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("walls", ["reflecting", "absorbing"])
def test_gradient_of_a_step(walls):
    equation = Wave(points=16, walls=walls, substeps=4, dt=0.03)
    parameters, state = draw(equation, 1)
    solver = equation.solver(parameters)
    generator = torch.Generator().manual_seed(0)
    weight, way = torch.randn(2, *state.shape, generator=generator, dtype=torch.float64)
    state.requires_grad_()
    (gradient,) = torch.autograd.grad((weight * solver.step(state)).sum(), state)
    with torch.no_grad():
        up, down = (weight * solver.step(state + s * 1e-5 * way) for s in (1, -1))
        difference = (up - down).sum() / 2e-5
    assert (gradient * way).sum().item() == pytest.approx(difference.item(), rel=1e-6)


def test_each_trajectory_has_its_own_box_and_step():
    equation = Wave(points=24, length={"uniform": [1, 2]}, dt={"uniform": [0.02, 0.05]}, substeps=6)
    parameters, state = draw(equation, 3)
    whole = equation.solver(parameters).rollout(state, 3)
    for row in range(3):
        own = {name: value[row : row + 1] for name, value in parameters.items()}
        assert torch.equal(equation.solver(own).rollout(state[row : row + 1], 3)[0], whole[row])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"substeps": 4}, "at least 12 are needed"),
        ({"substeps": 12, "refinement": 2}, "256 points: at least 23 are needed"),
        ({"points": 8}, "at least 16"),
        ({"slowest": 0.0}, "slowest must be positive and fastest no less, are 0 and 1.5"),
        ({"transition": -0.1}, "transition must not be negative, is -0.1"),
        ({"walls": "absorbing", "integrator": "verlet"}, "take integrator rk4"),
        ({"length": -1.0}, "length must be positive, is -1"),
    ],
)
def test_refusals_name_the_number(options, message):
    with pytest.raises(UserError, match=message):
        Wave(**options)
