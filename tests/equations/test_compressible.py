"""Compressible flow: exact Riemann solutions, orders, conservation, symmetries, refusals."""

import numpy as np
import pytest
import scipy.optimize
import torch

from longrun.equations.compressible_flow import CompressibleFlow
from longrun.runtime.cli import UserError
from longrun.solvers.finite_volume import coarsen, half_slope, resample, ssp_rk3

SOD = ((1.0, 0.0, 1.0), (0.125, 0.0, 0.1))


def generators(count, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(count)]


def constants(count=1, **values):
    values = {"length": 1.0, "dt": 1.0, "eta": 0.0, "zeta": 0.0, "mach": 1.0} | values
    return {
        name: torch.as_tensor(value, dtype=torch.float64).expand(count)
        for name, value in values.items()
    }


def advance(state, steps, time=1.0, frames=1, edges="periodic", gamma=1.4, **values):
    """Advance a state (batch, channel, *space) by `frames` frames of `time` and `steps`."""
    state = torch.as_tensor(state)
    equation = CompressibleFlow(
        points=state.shape[-1], dims=state.ndim - 2, edges=edges, gamma=gamma, initial="random"
    )
    solver = equation.solver(constants(len(state), dt=time, **values), substeps=steps)
    with torch.no_grad():
        for _ in range(frames):
            state = solver.step(state)
    return state


def tube(points, left, right, place=0.5):
    x = (np.arange(points) + 0.5) / points
    return np.where(x < place, np.array(left)[:, None], np.array(right)[:, None])[None]


def riemann(left, right, speeds, gamma=1.4):
    """Exact solution (density, velocity, pressure) at x / t, by the pressure of the star state."""

    def wave(p, state):
        density, _, pressure = state
        if p > pressure:  # a shock
            a, b = 2 / (gamma + 1) / density, (gamma - 1) / (gamma + 1) * pressure
            return (p - pressure) * np.sqrt(a / (p + b))
        sound = np.sqrt(gamma * pressure / density)
        return 2 * sound / (gamma - 1) * ((p / pressure) ** ((gamma - 1) / 2 / gamma) - 1)

    star = scipy.optimize.brentq(
        lambda p: wave(p, left) + wave(p, right) + right[1] - left[1], 1e-12, 1e5, xtol=1e-14
    )
    velocity = 0.5 * (left[1] + right[1] + wave(star, right) - wave(star, left))

    def side(state, xi, sign):
        """Solution on one side of the contact; the right one in the mirror."""
        density, u, p = state[0], sign * state[1], state[2]
        inner, xi, ratio = sign * velocity, sign * xi, (gamma - 1) / (gamma + 1)
        sound = np.sqrt(gamma * p / density)
        if star > p:
            shock = u - sound * np.sqrt(
                (gamma + 1) / 2 / gamma * star / p + (gamma - 1) / 2 / gamma
            )
            behind = density * (star / p + ratio) / (ratio * star / p + 1)
            return (density, sign * u, p) if xi < shock else (behind, sign * inner, star)
        behind = density * (star / p) ** (1 / gamma)
        if xi < u - sound:
            return density, sign * u, p
        if xi > inner - np.sqrt(gamma * star / behind):
            return behind, sign * inner, star
        c = 2 / (gamma + 1) * (sound + (gamma - 1) / 2 * (u - xi))
        fan = density * (c / sound) ** (2 / (gamma - 1))
        return fan, sign * (xi + c), p * (c / sound) ** (2 * gamma / (gamma - 1))

    values = [
        side(left, xi, 1) if xi < velocity else side(right, xi, -1) for xi in np.atleast_1d(speeds)
    ]
    return np.array(values).T


def test_the_exact_solver_knows_sod():
    density, u, p = riemann(*SOD, [0.5])[:, 0]
    np.testing.assert_allclose([density, u, p], [0.42631943, 0.92745262, 0.30313018], rtol=1e-7)


def test_shock_tubes_converge_at_first_order():
    tubes = [  # with the time and the largest mean error at 100 cells
        (*SOD, 0.2, 0.008),
        ((0.9, 0.4, 0.3), (0.2, -0.5, 0.9), 0.15, 0.02),  # two shocks
        ((1.0, -0.6, 0.4), (0.6, 0.6, 0.5), 0.15, 0.01),  # two rarefactions
    ]
    times = torch.tensor([time for _, _, time, _ in tubes], dtype=torch.float64)
    errors = []
    for points in (50, 100, 200):
        x = (np.arange(8 * points) + 0.5) / (8 * points)
        exact = [
            riemann(left, right, (x - 0.5) / time).reshape(3, points, 8).mean(2)
            for left, right, time, _ in tubes
        ]
        state = np.concatenate([tube(points, left, right) for left, right, _, _ in tubes])
        found = advance(state, points, times, edges="outflow").numpy()
        errors.append(np.abs(found - np.array(exact)).mean((1, 2)))
    orders = np.log2(errors[0] / errors[2]) / 2
    assert np.all(errors[1] < [largest for _, _, _, largest in tubes]), errors
    assert np.all(orders > 0.8), orders


def density_wave(points, dims, shift=0.0):
    """Cell averages of a density wave that moves with velocity 1 (along the diagonal)."""
    edges = np.arange(points + 1) / points - shift
    mean = -np.diff(np.cos(2 * np.pi * edges)) / (2 * np.pi) * points
    ones = np.ones((points,) * dims)
    density = ones + 0.3 * mean.reshape(points, *[1] * (dims - 1))
    if dims == 2:
        density = ones + 0.3 * mean[:, None] * mean
    return np.stack([density, *[ones] * dims, ones])[None]


@pytest.mark.parametrize(("dims", "grids"), [(1, (32, 64, 128)), (2, (16, 32, 64))])
def test_second_order_in_space(dims, grids):
    errors = []
    for points in grids:
        found = advance(density_wave(points, dims), points, 0.25, gamma=5 / 3)
        errors.append((found - torch.tensor(density_wave(points, dims, 0.25))).abs().mean().item())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(orders > 1.75), (errors, orders)


def vortex(points, gamma=1.4):
    """Point values of an isentropic vortex at rest, periodic to 1e-7 on a box of length 10."""
    x = 10 * ((np.arange(points) + 0.5) / points - 0.5)
    x, y = np.meshgrid(x, x, indexing="ij")
    radius = np.exp(1 - x**2 - y**2)
    swirl = 5 / (2 * np.pi) * np.sqrt(radius)
    temperature = 1 - (gamma - 1) * 25 / (8 * gamma * np.pi**2) * radius
    density = temperature ** (1 / (gamma - 1))
    return np.stack([density, -y * swirl, x * swirl, density * temperature])[None]


@pytest.mark.slow
def test_a_vortex_keeps_its_shape_to_second_order():
    errors = []
    for points in (32, 64):
        state = vortex(8 * points)[0]
        state = state.reshape(4, points, 8, points, 8).mean((2, 4))[None]
        found = advance(state, points, 1.0, length=10.0)
        errors.append((found - torch.tensor(state)).abs().mean().item())
    assert np.log2(errors[0] / errors[1]) > 1.7, errors


@pytest.mark.slow
def test_third_order_in_time():
    """On an equation with an answer, and on a smooth flow against a run with many steps."""
    errors = []
    for steps in (10, 20, 40):
        state, step = torch.ones(1, dtype=torch.float64), 1 / steps
        for _ in range(steps):
            state = ssp_rk3(state, lambda s, step=step: s - step * s * s)
        errors.append(abs(state.item() - 0.5))
    assert np.all(np.abs(np.log2(np.array(errors[:-1]) / errors[1:]) - 3) < 0.1)

    x = 2 * np.pi * (np.arange(16) + 0.5) / 16
    state = np.stack([1 + 0.2 * np.sin(x), 3 + 0.2 * np.cos(x), 1 + 0.2 * np.cos(x)])[None]
    found = {steps: advance(state, steps, 0.2, eta=1e-3) for steps in (15, 30, 60, 240)}
    errors = [(found[steps] - found[240]).norm().item() for steps in (15, 30, 60)]
    assert np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 2.6), errors


def test_isolated_contacts_stay():
    at_rest = tube(32, (1.0, 0.0, 0.7), (0.01, 0.0, 0.7))
    found = advance(at_rest, 20, 0.1, frames=5, edges="outflow")
    torch.testing.assert_close(found, torch.tensor(at_rest), rtol=1e-14, atol=1e-15)
    # while one moves, velocity and pressure stay what they were
    found = advance(tube(64, (1.0, 0.5, 0.7), (0.1, 0.5, 0.7)), 60, 0.4, edges="outflow")
    assert (found[0, 1] - 0.5).abs().max() < 1e-12 and (found[0, 2] - 0.7).abs().max() < 1e-12
    shear = np.ones((1, 4, 16, 16))
    shear[0, 1], shear[0, 2, :, 8:] = 0.0, 3.0
    shear[0, 2] = np.where(np.arange(16)[:, None] < 8, 1.0, -1.0)
    torch.testing.assert_close(advance(shear, 20, 0.1), torch.tensor(shear), rtol=0, atol=1e-13)


@pytest.mark.parametrize("edges", ["periodic", "reflecting"])
@pytest.mark.parametrize("dims", [1, 2])
def test_conserves_to_rounding(dims, edges):
    equation = CompressibleFlow(
        points=24, dims=dims, edges=edges, eta=0.01, zeta=0.02, mach=0.7, dt=0.01, substeps=10
    )
    parameters, state = equation.sample(generators(3))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        after = equation.solver(tensors).rollout(torch.tensor(state), 2)[:, -1].numpy()
    before, after = (equation.invariants(part, parameters) for part in (state, after))
    assert set(before) == {"mass", "energy"} | (
        {"momentum_x", "momentum_y"} if (edges, dims) == ("periodic", 2) else set()
    ) | ({"momentum_x"} if (edges, dims) == ("periodic", 1) else set())
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-13, atol=1e-14)


def test_stays_positive_at_strong_shocks():
    cases = [
        ((1.0, 0.0, 1000.0), (1.0, 0.0, 0.01)),  # pressure ratio 1e5
        ((1.0, -2.0, 0.4), (1.0, 2.0, 0.4)),  # near vacuum in the middle (Toro's second test)
        ((1.0, 20.0, 1e-3), (1.0, -20.0, 1e-3)),  # colliding streams of Mach 500
        ((1.0, -20.0, 1e-3), (1.0, 20.0, 1e-3)),  # a vacuum: no smaller density is left to lose
    ]
    speeds = [
        max(abs(u) + np.sqrt(1.4 * p / density) for density, u, p in sides) for sides in cases
    ]
    state = np.concatenate([tube(100, *sides) for sides in cases])
    found = advance(state, 60, 0.2 / torch.tensor(speeds), edges="outflow")
    assert found.isfinite().all() and found[:, 0].min() > 0 and found[:, 2].min() > 0
    random = np.random.default_rng(0)
    state = random.uniform(-1, 1, (4, 4, 16, 16)) * np.array([0, 1, 1, 0])[:, None, None]
    state[:, [0, 3]] = 10 ** random.uniform(-4, 0, (4, 2, 16, 16))
    found = advance(state, 30, 0.002)
    assert found.isfinite().all() and found[:, 0].min() > 0 and found[:, 3].min() > 0


def test_first_order_where_a_cell_would_fail():
    """A step that only the fallback survives is conservative and touches no other trajectory."""
    random = np.random.default_rng(3)
    state = random.uniform(-8, 8, (2, 4, 16, 16)) * np.array([0, 1, 1, 0])[:, None, None]
    state[:, [0, 3]] = 10 ** random.uniform(-3, 0, (2, 2, 16, 16))
    state[1] = vortex(16)[0]
    equation = CompressibleFlow(points=16, length=1.0)
    solver = equation.solver(constants(2, dt=0.001), substeps=1)
    called = []
    away = solver._away_from
    solver._away_from = lambda bad: called.append(bad) or away(bad)
    found = solver.step(torch.tensor(state))
    assert called and called[0][0].any() and not called[0][1].any()
    assert found[:, 0].min() > 0 and found[:, 3].min() > 0
    alone = equation.solver(constants(1, dt=0.001), substeps=1).step(torch.tensor(state[1:]))
    assert torch.equal(alone[0], found[1])
    before, after = (equation.invariants(part, {}) for part in (state, found.numpy()))
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-13, atol=1e-13)


def test_entropy_does_not_fall():
    equation = CompressibleFlow(points=24, initial="quadrants", dt=0.05, substeps=20)
    parameters, state = equation.sample(generators(3))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        frames = equation.solver(tensors).rollout(torch.tensor(state), 4)
    frames = torch.cat([torch.tensor(state)[:, None], frames], 1)
    density, pressure = frames[:, :, 0], frames[:, :, 3]
    entropy = (density * (pressure / density**1.4).log()).mean((-2, -1))
    assert (entropy.diff(dim=1) > 0).all()


def test_a_flow_along_one_axis_is_one_dimensional():
    x = (np.arange(32) + 0.5) / 32
    line = np.stack([1 + 0.5 * (x < 0.5), np.sin(2 * np.pi * x), 1 + 0.2 * np.cos(2 * np.pi * x)])
    alone = advance(line[None], 10, 0.05, eta=0.01, zeta=0.03)[0]
    zero = np.zeros_like(x)
    for axis in (0, 1):
        speeds = [line[1], zero] if axis == 0 else [zero, line[1]]
        wide = np.stack([line[0], *speeds, line[2]])
        wide = np.broadcast_to(np.expand_dims(wide, 2 - axis), (4, 32, 32))[None]
        found = advance(wide.copy(), 10, 0.05, eta=0.01, zeta=0.03)[0]
        found = found[[0, 1 + axis, 3]].select(2 - axis, 5)
        torch.testing.assert_close(found, alone, rtol=1e-13, atol=1e-13)


def turned(state):
    """Turn a state of two dimensions by 90 degrees."""
    state = torch.as_tensor(state).rot90(1, (-2, -1))
    return torch.stack([state[:, 0], -state[:, 2], state[:, 1], state[:, 3]], 1)


@pytest.mark.parametrize("edges", ["periodic", "reflecting", "outflow"])
def test_symmetries(edges):
    equation = CompressibleFlow(points=24, initial="curved", substeps=40)
    _, state = equation.sample(generators(1))
    options = {"edges": edges, "eta": 2e-3}
    found = advance(state, 10, 0.05, **options)
    rotated = advance(turned(state).numpy(), 10, 0.05, **options)
    torch.testing.assert_close(rotated, turned(found), rtol=1e-10, atol=1e-11)
    sign = torch.tensor([1.0, -1.0, 1.0, 1.0]).double()[:, None, None]
    mirrored = advance(torch.tensor(state).flip(2) * sign, 10, 0.05, **options)
    torch.testing.assert_close(mirrored, found.flip(2) * sign, rtol=1e-10, atol=1e-11)


def test_a_wall_is_a_mirror():
    """Walls give what a box of twice the size with a mirrored flow gives."""
    state = tube(32, (1.0, 0.3, 1.0), (0.3, -0.2, 0.4), 0.4)
    image = state[..., ::-1] * np.array([1.0, -1.0, 1.0])[:, None]
    both = np.concatenate([state, image], -1)
    walled = advance(state, 40, 0.5, edges="reflecting", eta=0.005)
    twice = advance(both, 40, 0.5, length=2.0, eta=0.005)
    torch.testing.assert_close(walled, twice[..., :32], rtol=1e-11, atol=1e-12)


def test_viscosity_damps_shear_and_sound():
    """A weak shear wave as exp(-eta k^2 t); a weak sound wave as half of 4/3 eta + zeta does."""
    points, eta, zeta, small, k = 16, 0.02, 0.03, 1e-5, 2 * np.pi
    x = (np.arange(points) + 0.5) / points
    shear = np.ones((1, 4, points, points))
    shear[:, 1], shear[:, 2] = 0.0, (small * np.sin(k * x))[:, None]
    found = advance(shear, 40, 0.5, eta=eta, zeta=zeta)[0, 2, :, 3].numpy()
    amplitude = 2 * (found * np.sin(k * x)).mean() / small
    seen = 2 * points * np.sin(k / 2 / points)  # by differences of second order
    np.testing.assert_allclose(amplitude, np.exp(-eta * seen**2 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(amplitude, np.exp(-eta * k**2 * 0.5), rtol=6e-3)

    points, sound, eta, zeta = 36, np.sqrt(1.4), 0.01, 0.015
    x, period = (np.arange(points) + 0.5) / points, 1 / sound
    wave = small * np.sin(k * x)
    line = np.stack([1 + wave / sound, wave, 1 + 1.4 * wave / sound])
    which = torch.tensor([1.0, 0.0])  # damped, free
    line = np.stack([line, line])
    found = advance(line, 200, period, eta=eta * which, zeta=zeta * which)[:, 1].numpy()
    damped, free = np.abs(np.fft.rfft(found)[:, 1])
    expected = np.exp(-0.5 * (4 / 3 * eta + zeta) * k**2 * period)
    np.testing.assert_allclose(damped / free, expected, rtol=1e-2)


def test_gradients_against_finite_differences():
    random = np.random.default_rng(5)
    for state, options in [
        (tube(12, *SOD), {"edges": "outflow"}),
        (vortex(8) * (1 + 0.1 * random.uniform(size=(1, 4, 8, 8))), {"eta": 0.05, "length": 10.0}),
    ]:
        state = torch.tensor(state + 1e-3 * random.normal(size=state.shape))
        direction, weight = (torch.tensor(random.normal(size=state.shape)) for _ in range(2))
        equation = CompressibleFlow(
            points=12, dims=state.ndim - 2, edges=options.pop("edges", "periodic")
        )
        eta = torch.tensor([options.pop("eta", 0.01)]).double().requires_grad_()
        values = constants(1, dt=0.02, **options) | {"eta": eta}

        def value(at, equation=equation, values=values, weight=weight, **changed):
            solver = equation.solver(values | changed, points=at.shape[-1], substeps=2)
            return (solver.step(at) * weight).sum()

        state.requires_grad_()
        to_state, to_eta = torch.autograd.grad(value(state), [state, eta])
        with torch.no_grad():
            h = 1e-6
            slope = (value(state + h * direction) - value(state - h * direction)) / (2 * h)
            torch.testing.assert_close((to_state * direction).sum(), slope, rtol=1e-4, atol=1e-7)
            slope = (value(state, eta=eta + h) - value(state, eta=eta - h)) / (2 * h)
            torch.testing.assert_close(to_eta[0], slope, rtol=1e-4, atol=1e-7)


def test_gradients_are_finite_where_nothing_varies():
    state = torch.ones(1, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    solver = CompressibleFlow(points=8).solver(constants(1, dt=0.01), substeps=1)
    (gradient,) = torch.autograd.grad(solver.step(state).square().sum(), state)
    assert gradient.isfinite().all()


def test_each_trajectory_has_its_own_parameters():
    equation = CompressibleFlow(
        points=16,
        length={"uniform": [1.0, 2.0]},
        eta={"choice": [0.0, 0.01, 0.04]},
        zeta={"log_uniform": [1e-3, 1e-2]},
        mach={"uniform": [0.3, 1.0]},
        dt={"uniform": [0.002, 0.004]},
        substeps=4,
    )
    parameters, state = equation.sample(generators(4, seed=1))
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    state = torch.tensor(state)
    together = equation.solver(tensors).step(state)
    for i in range(4):
        alone = equation.solver({name: value[i : i + 1] for name, value in tensors.items()})
        assert torch.equal(alone.step(state[i : i + 1])[0], together[i])


def test_bulk_viscosity_follows_shear_unless_given():
    equation = CompressibleFlow(points=16, eta={"choice": [1e-8, 0.001, 0.01]}, substeps=200)
    parameters, _ = equation.sample(generators(20))
    assert np.array_equal(parameters["eta"], parameters["zeta"])
    assert len(np.unique(parameters["eta"])) == 3


def test_initial_states():
    """The random fields have the Mach number; every family is the same function on finer grids."""
    equation = CompressibleFlow(points=64, mach={"choice": [0.1, 0.5]}, gamma=5 / 3, substeps=500)
    parameters, state = equation.sample(generators(6))
    rms = np.sqrt((state[:, 1:3] ** 2).sum(1).mean((1, 2)))
    sound = np.sqrt(5 / 3 * state[:, 3].mean((1, 2)) / state[:, 0].mean((1, 2)))
    np.testing.assert_allclose(rms / sound, parameters["mach"], rtol=0.03)
    for dims, family in [
        *[(1, name) for name in ("sod", "riemann", "random")],
        *[(2, n) for n in ("quadrants", "curved", "kelvin_helmholtz", "gaussians", "random")],
    ]:
        coarse, fine = (
            CompressibleFlow(points=n, dims=dims, initial=family, substeps=500).sample(
                generators(2)
            )[1]
            for n in (32, 64)
        )
        down = CompressibleFlow(points=32, dims=dims, initial=family).resample(
            torch.tensor(fine), 32
        )
        assert np.abs(down.numpy() - coarse).mean() < 3e-3
        assert coarse[:, [0, -1]].min() > 0
    assert (np.abs(fine).max((2, 3)) < 1e3).all()


def test_refinement_averages_conserved_quantities():
    equation = CompressibleFlow(points=16, refinement=2, substeps=100)
    parameters, state = equation.sample(generators(2))
    stored = equation.observe(torch.tensor(state)).numpy()
    assert state.shape[2:] == (32, 32) and stored.shape[2:] == (16, 16)
    fine, coarse = equation.invariants(state, parameters), equation.invariants(stored, parameters)
    for name in fine:
        np.testing.assert_allclose(coarse[name], fine[name], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("edges", ["periodic", "outflow"])
@pytest.mark.parametrize("points", [12, 16, 24, 36, 48])
def test_resampling_conserves_and_stays_positive(points, edges):
    equation = CompressibleFlow(points=24, edges=edges)
    random = np.random.default_rng(0)
    state = random.uniform(-3, 3, (2, 4, 24, 24))
    state[:, [0, 3]] = 10 ** random.uniform(-3, 0, (2, 2, 24, 24))
    found = equation.resample(torch.tensor(state), points)
    assert found.shape == (2, 4, points, points) and found[:, [0, 3]].min() > 0
    periodic = CompressibleFlow(points=24)
    before, after = (periodic.invariants(part, {}) for part in (state, found.numpy()))
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-13, atol=1e-13)


def test_resampling_is_of_second_order():
    errors = []
    for points in (16, 32, 64):
        exact = torch.tensor(density_wave(2 * points, 2))
        coarse = coarsen(coarsen(exact, 2, 0), 2, 1)
        found = resample(coarse, (2 * points,) * 2, ("periodic",) * 2)
        errors.append((found - exact).abs().mean().item())
    assert np.all(np.log2(np.array(errors[:-1]) / errors[1:]) > 1.8), errors
    flat = torch.full((1, 1, 6), 0.3, dtype=torch.float64)
    torch.testing.assert_close(
        resample(flat, (9,), ("outflow",)), torch.full((1, 1, 9), 0.3).double()
    )


def test_the_limiter_makes_no_new_extremum():
    a, b = torch.randn(2, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    half = half_slope(a, b)
    assert (half.abs() <= torch.minimum(a.abs(), b.abs()) + 1e-15).all()
    assert (half[a * b <= 0] == 0).all() and (half * a >= 0).all()
    torch.testing.assert_close(half_slope(a, a), a / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": -0.01}, "eta must be at least 0, is -0.01"),
        ({"zeta": -1.0}, "zeta must be at least 0"),
        ({"gamma": 1.0}, "gamma must be above 1"),
        ({"points": 2}, "points must be at least 4"),
        ({"initial": "sod"}, "take one of quadrants"),
        ({"initial": "curved", "dims": 1}, "take one of sod, riemann, random"),
        ({"substeps": 0}, "substeps must be at least 1"),
        ({"mach": 0.0}, "mach must be positive"),
        ({"length": -1.0}, "length must be positive"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UserError, match=message):
        CompressibleFlow(**options)


@pytest.mark.parametrize("options", [{"dims": 1, "initial": "sod"}, {"eta": 0.5}, {"mach": 0.1}])
def test_refuses_steps_too_long_with_the_number_to_use(options):
    with pytest.raises(UserError, match="substeps must be at least") as caught:
        CompressibleFlow(points=32, substeps=1, **options).sample(generators(1))
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert CompressibleFlow(points=32, substeps=needed, **options).sample(generators(1))
    with pytest.raises(UserError, match=f"at least {needed} "):
        CompressibleFlow(points=32, substeps=needed - 1, **options).sample(generators(1))
