"""Darcy, Poisson and Helmholtz: solutions known by hand, orders, balances, refusals."""

import numpy as np
import pytest
import torch

from longrun.equations.darcy import Darcy
from longrun.equations.helmholtz import Helmholtz
from longrun.equations.poisson import Poisson
from longrun.runtime.cli import UserError
from longrun.solvers import elliptic
from longrun.solvers.cells import blocks, interpolate
from longrun.solvers.elliptic import diffusion_matrix


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def centres(points, low=0.0, high=1.0):
    return low + (high - low) * (np.arange(points) + 0.5) / points


def draw(equation, count=2, seed=0):
    parameters, state = equation.sample([np.random.default_rng([seed, i]) for i in range(count)])
    return {name: torch.tensor(v) for name, v in parameters.items()}, torch.tensor(state)


def solved(equation, fields, **parameters):
    """Solution for given inputs, one trajectory."""
    columns = {name: torch.tensor([value]) for name, value in parameters.items()}
    state = torch.tensor(np.stack([*fields, np.full_like(fields[0], np.nan)]))[None]
    return equation.solver(columns, points=fields[0].shape[0]).step(state)[0, -1].numpy()


def test_darcy_is_of_second_order_where_the_coefficient_is_smooth():
    """With a manufactured source: -(a u_x)_x - (a u_y)_y by hand."""
    errors = []
    for points in (16, 32, 64):
        x = centres(points)
        x, y = x[:, None], x[None, :]
        a = 2 + np.sin(2 * np.pi * x) * np.cos(np.pi * y)
        sx, cx, sy, cy = np.sin(np.pi * x), np.cos(np.pi * x), np.sin(np.pi * y), np.cos(np.pi * y)
        gradient_x = 2 * np.pi * np.cos(2 * np.pi * x) * cy
        gradient_y = -np.pi * np.sin(2 * np.pi * x) * sy
        source = 2 * np.pi**2 * a * sx * sy - np.pi * (gradient_x * cx * sy + gradient_y * sx * cy)
        found = elliptic.solve(diffusion_matrix(a, 1 / points), source.ravel())
        errors.append(abs(found.reshape(points, points) - sx * sy).max())
    assert (order(errors) > 1.9).all() and errors[-1] < 1e-3


def test_layers_of_two_phases_are_exact_but_for_the_source():
    """Across layers that follow the grid the flux is that of resistances in series."""
    points, low, high = 32, 3.0, 12.0
    a = np.where(centres(points) < 0.5, low, high)[:, None] * np.ones(points)
    matrix = diffusion_matrix(a, 1 / points, "neumann")
    # no flux along y; at x = 0 a value of 1, at x = 1 of 0, through half a cell each
    matrix = matrix.tolil()
    right = np.zeros(points * points)
    for row, value in ((0, 1.0), (points - 1, 0.0)):
        for column in range(points):
            place = row * points + column
            matrix[place, place] += 2 * a[row, column] * points**2
            right[place] += 2 * a[row, column] * points**2 * value
    found = elliptic.solve(matrix.tocsr(), right).reshape(points, points)
    x, flux = centres(points), 1 / (0.5 / low + 0.5 / high)
    exact = np.where(x < 0.5, 1 - flux * x / low, flux * (1 - x) / high)
    np.testing.assert_allclose(found, exact[:, None] * np.ones(points), atol=1e-12)


def test_darcy_of_a_constant_medium_is_the_series():
    series = np.zeros((64, 64))
    x = centres(64)
    for i in range(1, 80, 2):
        for j in range(1, 80, 2):
            factor = 16 / (np.pi**4 * i * j * (i**2 + j**2))
            series += factor * np.outer(np.sin(i * np.pi * x), np.sin(j * np.pi * x))
    found = solved(Darcy(points=64), [np.full((64, 64), 4.0)], length=3.0, source=2.0)
    np.testing.assert_allclose(found, series * 2 * 9 / 4, rtol=0, atol=5e-4 * found.max())


@pytest.mark.parametrize("medium", ["two_phase", "log_normal", "multiscale"])
def test_darcy_balances_flux_and_is_positive(medium):
    equation = Darcy(points=24, coefficient=medium, modes=32, scales=3)
    parameters, state = draw(equation)
    found = equation.solver(parameters).step(state)
    assert torch.equal(found[:, 0], state[:, 0])
    a, p = found[0].numpy()
    assert p.min() > 0  # the maximum principle: no minimum inside where the source is positive
    walls = [(a[0], p[0]), (a[-1], p[-1]), (a[:, 0], p[:, 0]), (a[:, -1], p[:, -1])]
    assert sum((2 * a * p).sum() for a, p in walls) == pytest.approx(1.0, rel=1e-9)


def test_darcy_commutes_with_the_symmetries_of_the_square():
    parameters, state = draw(Darcy(points=24), 1)
    solver = Darcy(points=24).solver(parameters)
    found = solver.step(state)
    for move in (lambda s: s.flip(-1), lambda s: s.transpose(-1, -2), lambda s: s.rot90(1, (2, 3))):
        torch.testing.assert_close(solver.step(move(state)), move(found), rtol=0, atol=1e-13)


def test_media_are_as_described():
    two = draw(Darcy(points=32), 20)[1][:, 0]
    assert set(two.unique().tolist()) == {3.0, 12.0}
    assert 0.3 < (two == 12).double().mean() < 0.7
    log = draw(Darcy(points=24, coefficient="log_normal", smoothness=2.5, inverse_length=7.0), 40)
    index = np.arange(-64, 65)
    square = 4 * np.pi**2 * (index[:, None] ** 2 + index**2) + 49
    spectrum = 2 * 7**3 * square**-2.5
    variance = spectrum.sum() - spectrum[64, 64]
    assert log[1][:, 0].log().square().mean() == pytest.approx(variance, rel=0.2)
    coarse = Darcy(points=15, coefficient="multiscale")
    fine = Darcy(points=45, coefficient="multiscale")
    taken = blocks(draw(fine)[1], 15, middle=True)
    torch.testing.assert_close(taken, draw(coarse)[1])


def test_what_is_stored_of_a_finer_medium():
    equation = Darcy(points=16, refinement=3)
    parameters, state = draw(equation)
    assert state.shape == (2, 2, 48, 48)
    found = equation.solver(parameters).step(state)
    stored = equation.observe(found)
    assert torch.equal(stored[:, 0], state[:, 0, 1::3, 1::3])
    torch.testing.assert_close(stored[:, 1].mean(), found[:, 1].mean())


def test_multigrid_agrees_with_factors(monkeypatch):
    equation = Darcy(points=48)
    parameters, state = draw(equation)
    direct = equation.solver(parameters).step(state)
    monkeypatch.setattr(elliptic, "DIRECT", 100)
    multigrid = equation.solver(parameters).step(state)
    assert not torch.equal(multigrid, direct)
    torch.testing.assert_close(multigrid, direct, rtol=0, atol=1e-10 * direct.max().item())


def test_systems_are_those_that_are_solved():
    equation = Darcy(points=12)
    parameters, state = draw(equation, 3)
    solver = equation.solver(parameters)
    systems = list(solver.systems(state))
    for (matrix, right), found in zip(systems, solver.step(state), strict=True):
        assert abs(matrix - matrix.T).max() == 0
        np.testing.assert_allclose(matrix @ found[1].numpy().ravel(), right, rtol=1e-9)


def test_steps_alone_and_in_company_are_the_same():
    for equation in (Darcy(points=16), Poisson(points=24), Helmholtz(points=46)):
        parameters, state = draw(equation, 3)
        whole = equation.solver(parameters).step(state)
        one = {name: value[1:2] for name, value in parameters.items()}
        state[:, -1] = 7.0  # the old solution is ignored
        assert torch.equal(equation.solver(one).step(state[1:2]), whole[1:2])
        assert equation.solver(parameters).differentiable is False


def poisson_errors(wall, function, source):
    errors = []
    for points in (16, 32, 64):
        x = centres(points) * 2
        right = source(x[:, None], x[None, :])
        found = solved(Poisson(points=20, wall=wall), [right], length=2.0)
        errors.append(abs(found - function(x[:, None], x[None, :])).max())
    return errors


def test_poisson_eigenfunctions():
    k, m = np.pi, np.pi / 2  # of a side of 2
    errors = poisson_errors(
        "dirichlet",
        lambda x, y: np.sin(k * x) * np.sin(m * y),
        lambda x, y: (k**2 + m**2) * np.sin(k * x) * np.sin(m * y),
    )
    assert (order(errors) > 1.9).all() and errors[-1] < 2e-3
    errors = poisson_errors(
        "neumann",
        lambda x, y: np.cos(k * x) * np.cos(m * y),
        lambda x, y: (k**2 + m**2) * np.cos(k * x) * np.cos(m * y),
    )
    assert (order(errors) > 1.9).all() and errors[-1] < 2e-3
    # a discrete eigenvector, to rounding: every cosine is one
    x, points = centres(16), 16
    wave = np.cos(3 * np.pi * x)[:, None] * np.ones(points)
    value = 4 * points**2 * np.sin(3 * np.pi / (2 * points)) ** 2
    found = solved(Poisson(points=20, wall="neumann"), [wave], length=1.0)
    np.testing.assert_allclose(found, wave / value, atol=1e-14)


def test_neumann_walls_let_nothing_pass():
    equation = Poisson(points=24, wall="neumann")
    parameters, state = draw(equation)
    assert state[:, 0].mean((1, 2)).abs().max() < 1e-15
    found = equation.solver(parameters).step(state)[:, 1]
    assert found.mean((1, 2)).abs().max() < 1e-16 and found.abs().max() > 1e-3
    # the singular system itself, which one cell was pinned to solve
    matrix = diffusion_matrix(np.ones((24, 24)), 1 / 24, "neumann")
    left = matrix @ found[0].numpy().ravel()
    np.testing.assert_allclose(left, state[0, 0].numpy().ravel(), atol=1e-10)
    assert abs(matrix @ np.ones(576)).max() < 1e-10
    # a constant in the source changes nothing
    shifted = state.clone()
    shifted[:, 0] += 3
    torch.testing.assert_close(equation.solver(parameters).step(shifted)[:, 1], found)


@pytest.mark.parametrize("wall", ["dirichlet", "neumann"])
def test_sources_are_averages_of_one_function(wall):
    coarse, fine = Poisson(points=24, wall=wall), Poisson(points=48, wall=wall)
    torch.testing.assert_close(blocks(draw(fine)[1], 24), draw(coarse)[1], rtol=0, atol=1e-12)


def test_helmholtz_exact_solution_of_pig():
    """sin(pi x) sin(4 pi y) on [-1, 1]^2 with wavenumber 1: of fourth order."""
    errors = []
    for points in (32, 64, 128):
        x = centres(points, -1, 1)
        exact = np.outer(np.sin(np.pi * x), np.sin(4 * np.pi * x))
        source = (1 - 17 * np.pi**2) * exact
        fields = [np.ones_like(exact), source]
        found = solved(Helmholtz(points=64), fields, length=2.0, wavenumber=1.0, contrast=0.0)
        errors.append(abs(found - exact).max())
    assert (order(errors) > 3.8).all() and errors[-1] < 5e-5


def test_helmholtz_in_a_medium_is_of_fourth_order():
    errors = []
    for points in (32, 64, 128):
        x = centres(points)
        exact = np.outer(np.sin(np.pi * x), np.sin(2 * np.pi * x))
        medium = 1 + 0.5 * np.outer(np.cos(np.pi * x), np.cos(3 * np.pi * x))
        fields = [medium, (100 * medium - 5 * np.pi**2) * exact]
        found = solved(Helmholtz(points=64), fields, length=1.0, wavenumber=10.0, contrast=0.5)
        errors.append(abs(found - exact).max())
    assert (order(errors) > 3.8).all() and errors[-1] < 1e-5


def test_helmholtz_keeps_away_from_resonance():
    equation = Helmholtz(points=46, contrast=0.0, detuning=0.2)
    parameters, _ = draw(equation, 20)
    index = np.arange(1, 30)
    modes = (np.pi**2 * (index[:, None] ** 2 + index**2)).ravel()
    distance = abs(parameters["wavenumber"].numpy()[:, None] ** 2 - modes).min(1)
    assert (distance > 0.19 * 4 * np.pi).all()
    free = draw(Helmholtz(points=46, contrast=0.0, detuning=0.0), 60)[0]["wavenumber"].numpy()
    assert abs(free[:, None] ** 2 - modes).min(1).min() < 0.19 * 4 * np.pi
    with pytest.raises(UserError, match=r"take 0\.1 or less"):  # the first mode itself
        draw(Helmholtz(points=46, contrast=0.0, wavenumber=float(np.pi * 2**0.5), detuning=0.2))


def test_interpolation_is_of_fourth_order_at_walls_and_across_them():
    functions = {
        "even": lambda x: np.cos(np.pi * x),
        "odd": lambda x: np.sin(2 * np.pi * x),
        "periodic": lambda x: np.sin(2 * np.pi * x + 1),
    }
    for parity, function in functions.items():
        for target in (2, 0.5):
            errors = []
            for points in (16, 32, 64):
                other = int(target * points)
                given, wanted = function(centres(points)), function(centres(other))
                state = torch.tensor(np.outer(given, given))[None, None]
                found = interpolate(state, other, parity)[0, 0].numpy()
                errors.append(abs(found - np.outer(wanted, wanted)).max())
            assert (order(errors) > 3.7).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Darcy(refinement=2), "take 3"),
        (lambda: Darcy(low=0.0), "low must be positive and high no less, are 0 and 12"),
        (lambda: Darcy(smoothness=1.0), "above 1, .* is 1"),
        (lambda: Darcy(source=-1.0), "source must be positive, is -1"),
        (lambda: Poisson(points=10), "at least 20 are needed"),
        (lambda: Poisson(narrowest=0.2), "widest no less, are 0.2 and 0.1"),
        (lambda: Helmholtz(points=40), "at least 46 are needed, 10 per wavelength"),
        (lambda: Helmholtz(detuning=0.5), "from 0 to 0.25"),
        (lambda: blocks(torch.zeros(1, 1, 6), 4), "6 cells can't become 4"),
    ],
)
def test_refusals_name_the_number(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_states_of_another_grid_are_refused():
    equation = Darcy(points=16)
    parameters, state = draw(equation)
    with pytest.raises(UserError, match="the solver has 32"):
        equation.solver(parameters, points=32).step(state)
