"""Diffusion with reaction and with sorption: exact and independent solutions, balances."""

import math

import numpy as np
import pytest
import scipy.fft
import scipy.integrate
import torch

from longrun.equations.diffusion_reaction import DiffusionReaction
from longrun.equations.diffusion_sorption import DiffusionSorption
from longrun.runtime.cli import UserError
from longrun.solvers import cosine, tridiagonal


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def draw(equation, count=2, seed=0):
    parameters, state = equation.sample([np.random.default_rng([seed, i]) for i in range(count)])
    return {name: torch.tensor(v) for name, v in parameters.items()}, torch.tensor(state)


def small(**options):
    given = {"points": 24, "modes": 6, "diffusivity_u": 4e-3, "diffusivity_v": 2e-2, "substeps": 1}
    return DiffusionReaction(**{**given, **options})


@pytest.mark.parametrize("points", [4, 5, 8, 9, 32])
def test_cosine_transform(points):
    field = np.random.default_rng(0).normal(size=(2, points, points + 1))
    expected = scipy.fft.dctn(field, axes=(1, 2)) / (points * (points + 1))
    expected[:, 0] /= 2
    expected[:, :, 0] /= 2
    found = cosine.forward(torch.tensor(field), 2)
    np.testing.assert_allclose(found, expected, atol=1e-14)
    np.testing.assert_allclose(cosine.inverse(found, 2), field, atol=1e-13)


def test_cosines_move_to_other_grids():
    def waves(points):
        x = (torch.arange(points).double() + 0.5) / points * math.pi
        return (torch.cos(3 * x)[:, None] * torch.cos(5 * x) + 0.5)[None, None]

    for points in (8, 13, 40):
        found = cosine.resample(waves(16), (points, points))
        torch.testing.assert_close(found, waves(points), rtol=0, atol=1e-13)


def test_linear_modes_of_the_reaction():
    """Small waves about rest obey u_t = -d_u k^2 u + u - v, v_t = -d_v k^2 v + u - v."""
    equation = small(threshold=0.0, dt=1.0, substeps=40)
    parameters, _ = draw(equation, 1)
    x = (torch.arange(24).double() + 0.5) / 24
    wave = torch.cos(3 * math.pi * x)[:, None] * torch.cos(2 * math.pi * x)
    square = 13 * (math.pi / 2) ** 2
    matrix = torch.tensor([[1 - 4e-3 * square, -1.0], [1.0, -1 - 2e-2 * square]]).double()
    start = torch.tensor([1.0, 0.3]).double()
    state = 1e-5 * start[:, None, None] * wave
    found = equation.solver(parameters).step(state[None])[0]
    expected = 1e-5 * (torch.matrix_exp(matrix) @ start)[:, None, None] * wave
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [1, 2])
def test_agrees_with_radau(axes):
    """The same cosines, with a matrix for the Laplacian, by scipy's implicit method."""
    equation = small(points=12, axes=axes, modes=4, diffusivity_u=2e-2, dt=1.0, substeps=160)
    parameters, state = draw(equation, 1)
    index = np.arange(12)
    cosines = np.cos(np.pi * (index[:, None] + 0.5) / 12 * index)
    line = cosines @ np.diag(-((np.pi * index / 2) ** 2)) @ np.linalg.inv(cosines)
    laplacian = line if axes == 1 else np.kron(line, np.eye(12)) + np.kron(np.eye(12), line)

    def slope(t, y):
        u, v = y.reshape(2, -1)
        return np.concatenate(
            [2e-2 * laplacian @ u + u - u**3 - 5e-3 - v, 2e-2 * laplacian @ v + u - v]
        )

    found = equation.solver(parameters).step(state)[0].numpy().ravel()
    y = state[0].numpy().ravel()
    exact = scipy.integrate.solve_ivp(slope, (0, 1), y, "Radau", rtol=1e-8, atol=1e-10).y[:, -1]
    np.testing.assert_allclose(found, exact, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(("integrator", "expected"), [("etdrk2", 2), ("etdrk4", 4)])
def test_reaction_order_in_time(integrator, expected):
    equation = small(integrator=integrator, dt=0.5)
    parameters, state = draw(equation)
    state = equation.solver(parameters, substeps=100).step(state)
    exact = equation.solver(parameters, substeps=256).step(state)
    errors = [
        (equation.solver(parameters, substeps=steps).step(state) - exact).norm().item()
        for steps in (2, 4, 8)
    ]
    assert (order(errors) > expected - 0.3).all()


def test_reaction_converges_spectrally_in_space():
    equation = small(dt=0.5, substeps=10)
    parameters, state = draw(equation)
    solver = equation.solver(parameters, points=64)
    state = solver.step(equation.resample(state, 64))
    fine = solver.step(state)
    errors = []
    for points in (24, 48):
        found = equation.solver(parameters, points=points).step(equation.resample(state, points))
        errors.append((equation.resample(found, 64) - fine).abs().max().item())
    assert order(errors)[0] > 6 and errors[-1] < 1e-3


def test_mean_of_the_reaction_changes_by_the_reaction_alone():
    equation = small(dt=1e-5)
    parameters, state = draw(equation)
    after = equation.solver(parameters).step(state)
    u, v = state.unbind(1)
    change = (after - state).mean((2, 3)) / 1e-5
    expected = torch.stack([u - u**3 - 5e-3 - v, u - v], 1).mean((2, 3))
    torch.testing.assert_close(change, expected, rtol=0, atol=5e-4)
    flipped = equation.solver(parameters).step(state.flip(2).transpose(2, 3))
    torch.testing.assert_close(flipped, after.flip(2).transpose(2, 3))


def gradient_agrees(equation, state, parameters):
    solver = equation.solver(parameters)
    generator = torch.Generator().manual_seed(0)
    weight, way = torch.randn(2, *state.shape, generator=generator, dtype=torch.float64)
    state.requires_grad_()
    (gradient,) = torch.autograd.grad((weight * solver.step(state)).sum(), state)
    with torch.no_grad():
        up, down = (weight * solver.step(state + s * 1e-6 * way) for s in (1, -1))
    difference = (up - down).sum().item() / 2e-6
    assert (gradient * way).sum().item() == pytest.approx(difference, rel=1e-5)


def test_gradients_of_a_step():
    equation = small()
    parameters, state = draw(equation, 1)
    gradient_agrees(equation, state, parameters)
    equation = DiffusionSorption(points=32, lowest=0.05, substeps=2, dt=10.0)
    parameters, state = draw(equation, 1)
    gradient_agrees(equation, equation.solver(parameters).step(state), parameters)


def test_tridiagonal_systems():
    generator = np.random.default_rng(0)
    for count in (4, 7, 32):
        lower, diagonal, upper, right = generator.normal(size=(4, 3, count))
        diagonal += 4 * np.sign(diagonal)
        lower[:, 0] = upper[:, -1] = 0
        found = tridiagonal.solve(*map(torch.tensor, (lower, diagonal, upper, right))).numpy()
        for row in range(3):
            matrix = np.diag(diagonal[row])
            matrix += np.diag(lower[row, 1:], -1) + np.diag(upper[row, :-1], 1)
            np.testing.assert_allclose(matrix @ found[row], right[row], atol=1e-13)


def sorption(points=48, **options):
    return DiffusionSorption(points=points, **{"lowest": 0.02, "dt": 20.0, **options})


def test_sorption_agrees_with_radau():
    equation = sorption(points=32)
    parameters, state = draw(equation, 1)
    solver = equation.solver(parameters, substeps=48)

    def slope(t, y):
        u = torch.tensor(y)[None, None]
        return (solver.inflow(u) / solver.retardation(u))[0, 0].numpy()

    y = state[0, 0].numpy()
    exact = scipy.integrate.solve_ivp(slope, (0, 20), y, "Radau", rtol=1e-8, atol=1e-11).y[:, -1]
    np.testing.assert_allclose(solver.step(state)[0, 0], exact, atol=1e-4)


def test_sorption_is_of_second_order_in_time():
    equation = sorption(points=32)
    parameters, state = draw(equation, 1)
    state = equation.solver(parameters, substeps=8).step(state)
    exact = equation.solver(parameters, substeps=64).step(state)
    errors = [
        (equation.solver(parameters, substeps=steps).step(state) - exact).abs().max().item()
        for steps in (2, 4, 8)
    ]
    assert (order(errors) > 1.85).all()


def test_sorption_is_of_second_order_in_space():
    """Without sorption and far from the outlet: the error function is the answer."""
    errors = []
    for points in (16, 32, 64):
        equation = sorption(points, burn_in=4, coefficient=0.0, lowest=0.0, highest=0.0, dt=30.0)
        parameters, state = draw(equation, 1)
        found = equation.solver(parameters, substeps=24).step(state)[0, 0]
        x = (torch.arange(points).double() + 0.5) / points
        exact = torch.erfc(x / (2 * math.sqrt(5e-4 * 30)))
        errors.append((found - exact)[: points // 2].abs().max().item())
    assert (order(errors) > 1.8).all() and errors[-1] < 2e-3


def test_sorption_balances_mass():
    """What is stored changes by what flows through the inlet and the outlet, step by step."""
    equation = sorption()
    parameters, state = draw(equation, 3)
    solver = equation.solver(parameters, substeps=1)
    weight = solver.time_step * (1 - math.sqrt(0.5))
    middle = solver._implicit(state, solver.storage(state) + weight * solver.inflow(state), weight)
    after = solver.step(state)
    change = (solver.storage(after) - solver.storage(state)).sum(-1)

    def walls(u):
        return 2 * solver.conductance[..., 0] * (1 - u[..., 0]) - solver.outlet[..., 0] * u[..., -1]

    root = math.sqrt(2) / 4 * solver.time_step[..., 0]  # weights of the method's stages
    flow = root * (walls(state) + walls(middle)) + weight[..., 0] * walls(after)
    torch.testing.assert_close(change, flow, rtol=1e-12, atol=1e-12)


def test_sorption_goes_to_its_steady_state():
    """Then the flux is constant: u falls along a straight line to the outlet."""
    equation = sorption(points=32, dt=1e6, substeps=20)
    parameters, state = draw(equation, 1)
    found = equation.solver(parameters).step(state)[0, 0]
    x = (torch.arange(32).double() + 0.5) / 32
    torch.testing.assert_close(found, 1 - x / (1 + 5e-4), rtol=0, atol=1e-6)


def test_sorption_keeps_order_and_splits_cells_without_loss():
    equation = sorption(lowest=0.0)
    parameters, state = draw(equation, 3)
    frames = equation.solver(parameters).rollout(state, 10)
    assert frames.min() >= 0 and frames.max() <= 1
    assert (frames.diff(dim=-1) < 1e-6).all()
    assert (frames[:, 1:].sum(-1) > frames[:, :-1].sum(-1)).all()
    finer = equation.resample(frames[:, -1], 96)
    torch.testing.assert_close(equation.resample(finer, 48), frames[:, -1])
    assert finer.min() >= 0 and finer.max() <= 1


@pytest.mark.parametrize(
    "equation",
    [small(dt={"uniform": [0.02, 0.05]}), sorption(diffusivity={"uniform": [4e-4, 6e-4]})],
)
def test_each_trajectory_has_its_own_parameters(equation):
    parameters, state = draw(equation, 3)
    whole = equation.solver(parameters).rollout(state, 2)
    for row in range(3):
        own = {name: value[row : row + 1] for name, value in parameters.items()}
        assert torch.equal(equation.solver(own).rollout(state[row : row + 1], 2)[0], whole[row])


def test_noise_is_a_function_of_unit_variance():
    _, fine = draw(small(points=72), 30)
    _, coarse = draw(small(points=24), 30)
    torch.testing.assert_close(fine[:, :, 1::3, 1::3], coarse, rtol=0, atol=1e-12)
    assert fine.square().mean().item() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DiffusionReaction(points=32), "at least 45 are needed"),
        (lambda: DiffusionReaction(points=46, modes=48), "at least 48 are needed"),
        (lambda: DiffusionReaction(diffusivity_v=-1.0), "must be positive, is -1"),
        (lambda: DiffusionReaction(modes=1), "at least 2, is 1"),
        (lambda: DiffusionSorption(points=16), "at least 36 are needed, or a longer burn_in"),
        (lambda: DiffusionSorption(porosity=1.0), "between 0 and 1, is 1"),
        (lambda: DiffusionSorption(exponent=1.5), "at most 1, is 1.5"),
        (lambda: DiffusionSorption(lowest=0.5), "are 0.5 and 0.2"),
        (lambda: DiffusionSorption(density=-1.0), "must not be negative, are -1"),
    ],
)
def test_refusals_name_the_number(make, message):
    with pytest.raises(UserError, match=message):
        make()
