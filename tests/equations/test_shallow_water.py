"""Shallow water: exact dam breaks, lakes at rest, orders, conservation, symmetries, refusals."""

import numpy as np
import pytest
import scipy.optimize
import torch

from longrun.equations.shallow_water import ShallowWater
from longrun.runtime.cli import UserError


def generators(count, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(count)]


def constants(count=1, **values):
    values = {"length": 1.0, "dt": 1.0, "gravity": 1.0, "coriolis": 0.0} | values
    return {
        name: torch.as_tensor(value, dtype=torch.float64).expand(count)
        for name, value in values.items()
    }


def advance(state, steps, time, frames=1, edges="periodic", bump=None, **values):
    """Advance a state (batch, channel, x, y) by `frames` frames of `time` and `steps`."""
    options = {} if bump is None else {"topography": "bump", "bump_height": bump}
    state = torch.as_tensor(state)
    equation = ShallowWater(points=state.shape[-1], edges=edges, **options)
    solver = equation.solver(constants(len(state), dt=time, **values), substeps=steps)
    with torch.no_grad():
        for _ in range(frames):
            state = solver.step(state)
    return state


def wall_of_water(points, left, right, axis=0):
    """Two depths that meet in the middle, at rest."""
    x = (np.arange(points) + 0.5) / points
    depth = np.broadcast_to(np.where(x < 0.5, left, right)[:, None], (points, points))
    depth = depth if axis == 0 else depth.T
    return np.stack([depth, 0 * depth, 0 * depth])[None]


def stoker(left, right, speeds):
    """Exact dam break on a wet bed at rest, gravity 1: rarefaction, plateau, bore."""

    def mismatch(depth):
        bore = (depth - right) * np.sqrt(0.5 * (depth + right) / (depth * right))
        return 2 * (np.sqrt(left) - np.sqrt(depth)) - bore

    plateau = scipy.optimize.brentq(mismatch, right, left)
    velocity = 2 * (np.sqrt(left) - np.sqrt(plateau))
    shock = plateau * velocity / (plateau - right)
    depth = np.where(speeds < shock, plateau, right)
    u = np.where(speeds < shock, velocity, 0.0)
    fan = (2 * np.sqrt(left) - speeds) / 3
    inside = speeds < velocity - np.sqrt(plateau)
    depth, u = np.where(inside, fan**2, depth), np.where(inside, 2 * np.sqrt(left) - 2 * fan, u)
    before = speeds < -np.sqrt(left)
    return np.where(before, left, depth), np.where(before, 0.0, u)


def ritter(left, speeds):
    """Exact dam break on a dry bed, gravity 1."""
    root = np.sqrt(left)
    fan = np.clip((2 * root - speeds) / 3, 0, root)
    return np.where(speeds < -root, left, fan**2)


def test_dam_break_on_a_wet_bed_converges_to_stokers_solution():
    errors, time = [], 0.2
    for points in (40, 80):
        x = (np.arange(16 * points) + 0.5) / (16 * points)
        exact = np.array(stoker(2.0, 1.0, (x - 0.5) / time)).reshape(2, points, 16).mean(2)
        state = wall_of_water(points, 2.0, 1.0)
        found = advance(state, points // 2, time, edges="outflow")[0].numpy()
        assert np.ptp(found, axis=2).max() < 1e-12 and np.abs(found[2]).max() < 1e-12
        errors.append(np.abs(found[:2, :, 3] - exact).mean())
    assert errors[1] < 0.012 and np.log2(errors[0] / errors[1]) > 0.8, errors


def test_dam_break_on_a_nearly_dry_bed_is_ritters_solution():
    x, time = (np.arange(64) + 0.5) / 64, 0.15
    found = advance(wall_of_water(64, 1.0, 1e-6, axis=1), 60, time, edges="outflow")[0].numpy()
    assert found[0].min() > 0
    assert np.abs(found[0, 5] - ritter(1.0, (x - 0.5) / time)).mean() < 0.01


def test_a_lake_stays_at_rest():
    equation = ShallowWater(
        points=24, initial="rest", topography="bump", bump_height=0.5, dt=0.5, substeps=10
    )
    parameters, state = equation.sample(generators(1))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    np.testing.assert_allclose(state[0, 0] + equation.bottom(24), 1.0, rtol=1e-3)
    state[0, 0] = 1.0 - equation.bottom(24)
    for edges in ("periodic", "reflecting", "outflow"):
        found = advance(state, 10, 0.5, frames=2, edges=edges, bump=0.5, length=5.0)
        torch.testing.assert_close(found, torch.tensor(state), rtol=0, atol=1e-13)
    # with a current the bump is felt
    state[0, 1] = 0.2
    moved = equation.solver(tensors).step(torch.tensor(state))
    assert (moved - torch.tensor(state)).abs().max() > 1e-3


def test_the_bottom_is_averaged_exactly():
    equation = ShallowWater(topography="bump", bump_height=0.4)
    fine, coarse = equation.bottom(96), equation.bottom(12)
    np.testing.assert_allclose(fine.reshape(12, 8, 12, 8).mean((1, 3)), coarse, rtol=1e-12)
    x = (np.arange(4000) + 0.5) / 4000 - 0.5
    mean = 0.4 * np.exp(-(x**2) / 2 / 0.1**2).mean() ** 2
    np.testing.assert_allclose(fine.mean(), mean, rtol=1e-6)


def test_second_order_in_space_over_a_bump():
    found = {}
    for points in (16, 32, 64):
        equation = ShallowWater(
            points=points, initial="waves", topography="bump", length=1.0, dt=0.08, substeps=30
        )
        parameters, state = equation.sample(generators(1))
        tensors = {name: torch.tensor(value) for name, value in parameters.items()}
        with torch.no_grad():
            after = equation.solver(tensors, substeps=points // 4).step(torch.tensor(state))
        found[points] = equation.resample(after, 16)
    errors = [(found[n] - found[2 * n]).abs().mean().item() for n in (16, 32)]
    assert np.log2(errors[0] / errors[1]) > 1.6, errors


def test_a_shear_flow_stays():
    """A wave of the velocity along the crests is a contact: still where the water is still."""
    y = np.sin(2 * np.pi * (np.arange(16) + 0.5) / 16)
    state = np.ones((1, 3, 16, 16))
    state[0, 1], state[0, 2] = 3 * y, 0.0
    torch.testing.assert_close(advance(state, 20, 0.1), torch.tensor(state), rtol=0, atol=1e-12)


def test_inertial_oscillation_to_third_order_in_time():
    """A uniform flow turns with the Coriolis parameter, on either hemisphere."""
    state = np.ones((2, 3, 4, 4))
    state[:, 1], state[:, 2] = 0.3, 0.0
    coriolis = torch.tensor([2.0, -2.0]).double()
    expected = [[0.3 * np.cos(2.0), -0.3 * np.sin(2.0)], [0.3 * np.cos(2.0), 0.3 * np.sin(2.0)]]
    errors = []
    for steps in (15, 30, 60):
        found = advance(state, steps, 1.0, coriolis=coriolis)[:, 1:, 2, 3].numpy()
        errors.append(np.abs(found - expected).max())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert errors[-1] < 2e-6 and np.all(np.abs(orders - 3) < 0.2), (errors, orders)


def test_linear_waves_have_their_speed():
    k, x = 2 * np.pi, (np.arange(48) + 0.5) / 48
    wave = 1e-5 * np.sin(k * x)[:, None] * np.ones((48, 48))
    state = np.stack([1 + wave, 1.5 * wave, 0 * wave])[None]  # to the right: u = c h', c = 1.5
    found = advance(state, 60, 0.5 / 1.5, gravity=2.25)[0, 0, :, 0].numpy() - 1
    np.testing.assert_allclose(found, -wave[:, 0], atol=4e-7)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, {"mass", "momentum_x", "momentum_y"}),
        ({"coriolis": 1.0}, {"mass"}),
        ({"topography": "bump"}, {"mass"}),
        ({"edges": "reflecting"}, {"mass"}),
        ({"edges": "outflow"}, set()),
    ],
)
def test_conserves_to_rounding(options, names):
    equation = ShallowWater(points=16, length=1.0, dt=0.02, substeps=4, **options)
    parameters, state = equation.sample(generators(2))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        after = equation.solver(tensors).rollout(torch.tensor(state), 4)[:, -1].numpy()
    before, after = (equation.invariants(part, parameters) for part in (state, after))
    assert set(before) == set(after) == names
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-13, atol=1e-14)


def test_energy_does_not_grow():
    equation = ShallowWater(points=24, initial="dam", edges="reflecting", dt=0.2, substeps=8)
    parameters, state = equation.sample(generators(2))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        frames = equation.solver(tensors).rollout(torch.tensor(state), 8)
    frames = torch.cat([torch.tensor(state)[:, None], frames], 1)
    depth, u, v = frames.unbind(2)
    energy = (0.5 * depth * (u**2 + v**2) + 0.5 * depth**2).mean((-2, -1))
    assert (energy.diff(dim=1) < 0).all()


def turned(state):
    """Turn a state by 90 degrees."""
    state = torch.as_tensor(state).rot90(1, (-2, -1))
    return torch.stack([state[:, 0], -state[:, 2], state[:, 1]], 1)


@pytest.mark.parametrize("edges", ["periodic", "reflecting", "outflow"])
def test_symmetries(edges):
    equation = ShallowWater(points=16, topography="bump", length=1.0, substeps=10)
    _, state = equation.sample(generators(1))
    options = {"edges": edges, "bump": 0.3}
    found = advance(state, 5, 0.05, **options)
    again = advance(turned(state), 5, 0.05, **options)
    torch.testing.assert_close(again, turned(found), rtol=1e-12, atol=1e-12)
    sign = torch.tensor([1.0, -1.0, 1.0]).double()[:, None, None]
    mirrored = advance(torch.tensor(state).flip(2) * sign, 5, 0.05, **options)
    torch.testing.assert_close(mirrored, found.flip(2) * sign, rtol=1e-12, atol=1e-12)


def test_resampling_keeps_mass_and_a_level_surface():
    equation = ShallowWater(points=24, initial="waves", topography="bump")
    _, state = equation.sample(generators(2))
    level = np.zeros((1, 3, 24, 24))
    level[:, 0] = 1 - equation.bottom(24)
    for points in (12, 36, 48):
        found = equation.resample(torch.tensor(state), points).numpy()
        np.testing.assert_allclose(found[:, 0].mean(), state[:, 0].mean(), rtol=1e-13)
        np.testing.assert_allclose(
            (found[:, :1] * found[:, 1:]).mean((2, 3)),
            (state[:, :1] * state[:, 1:]).mean((2, 3)),
            rtol=1e-11,
            atol=1e-14,
        )
        flat = equation.resample(torch.tensor(level), points)[0, 0].numpy()
        np.testing.assert_allclose(flat + equation.bottom(points), 1.0, rtol=1e-12)


@pytest.mark.parametrize("bump", [None, 0.3])
def test_gradients_against_finite_differences(bump):
    random = np.random.default_rng(5)
    state = 1 + 0.1 * random.normal(size=(1, 3, 8, 8))
    state[:, 1:] -= 1
    state = torch.tensor(state, requires_grad=True)
    direction, weight = (torch.tensor(random.normal(size=state.shape)) for _ in range(2))
    options = {} if bump is None else {"topography": "bump", "bump_height": bump}
    equation = ShallowWater(points=8, edges="reflecting", **options)
    coriolis = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    values = constants(1, dt=0.02) | {"coriolis": coriolis}

    def value(at, **changed):
        return (equation.solver(values | changed, substeps=2).step(at) * weight).sum()

    to_state, to_coriolis = torch.autograd.grad(value(state), [state, coriolis])
    with torch.no_grad():
        h = 1e-6
        slope = (value(state + h * direction) - value(state - h * direction)) / (2 * h)
        torch.testing.assert_close((to_state * direction).sum(), slope, rtol=1e-4, atol=1e-7)
        slope = value(state, coriolis=coriolis + h) - value(state, coriolis=coriolis - h)
        torch.testing.assert_close(to_coriolis[0], slope / (2 * h), rtol=1e-4, atol=1e-7)


def test_each_trajectory_has_its_own_parameters():
    equation = ShallowWater(
        points=16,
        length={"uniform": [1.0, 2.0]},
        gravity={"uniform": [1.0, 2.0]},
        coriolis={"uniform": [-1.0, 1.0]},
        dt={"uniform": [0.005, 0.01]},
    )
    parameters, state = equation.sample(generators(3))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    state = torch.tensor(state)
    together = equation.solver(tensors).step(state)
    for i in range(3):
        alone = equation.solver({name: value[i : i + 1] for name, value in tensors.items()})
        assert torch.equal(alone.step(state[i : i + 1])[0], together[i])


@pytest.mark.parametrize("initial", ["dam", "waves", "rest"])
def test_the_start_does_not_depend_on_the_grid(initial):
    coarse, fine = (
        ShallowWater(points=n, initial=initial, substeps=9).sample(generators(2))[1]
        for n in (24, 48)
    )
    down = ShallowWater(points=24).resample(torch.tensor(fine), 24)
    assert np.abs(down.numpy() - coarse).mean() < 2e-3 and coarse[:, 0].min() > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gravity": -1.0}, "gravity must be positive"),
        ({"bump_height": 0.9}, "take 0.3"),
        ({"points": 3}, "points must be at least 4"),
        ({"dt": 0.0}, "dt must be positive"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UserError, match=message):
        ShallowWater(**options)


def test_refuses_steps_too_long_with_the_number_to_use():
    with pytest.raises(UserError, match="substeps must be at least") as caught:
        ShallowWater(points=32, dt=0.5, substeps=1).sample(generators(1))
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    ShallowWater(points=32, dt=0.5, substeps=needed).sample(generators(1))
    with pytest.raises(UserError, match=f"at least {needed} "):
        ShallowWater(points=32, dt=0.5, substeps=needed - 1).sample(generators(1))
