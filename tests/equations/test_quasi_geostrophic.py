"""Two-layer quasi-geostrophic turbulence, against exact and independent solutions and budgets."""

import functools

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch

from longrun.equations.quasi_geostrophic import QuasiGeostrophic
from longrun.runtime.cli import UserError
from longrun.solvers.spectral import resample

SMALL = {"points": 16, "length": 11.0, "length_y": 16.0, "jet_width": 2.0, "hyperviscosity": 1e-4}


@functools.cache
def developed(points):
    """States of a small channel after ten frames, when waves have grown."""
    equation = QuasiGeostrophic(**SMALL | {"points": points, "substeps": 8})
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(2)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        return equation.solver(parameters, stride=10).step(torch.tensor(state))


def problem(points=16, **options):
    """A small channel and developed states of it."""
    equation = QuasiGeostrophic(**SMALL | {"points": points, "substeps": 16} | options)
    parameters, _ = equation.sample([np.random.default_rng(i) for i in range(2)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    return equation, parameters, developed(points)


def unforced(parameters):
    """The same without forcing and damping."""
    names = ("relaxation", "friction", "hyperviscosity", "sponge")
    return parameters | {name: torch.zeros_like(parameters[name]) for name in names}


class Channel:
    """The equations of one trajectory by numpy: layers, advective form, full transforms."""

    def __init__(self, grid, **parameters):
        self.__dict__.update(parameters)
        self.grid = grid
        lengths = parameters["length"], parameters["length_y"]
        k, l = (  # noqa: E741
            2 * np.pi / length * np.fft.fftfreq(n, 1 / n)
            for n, length in zip(grid, lengths, strict=True)
        )
        self.k, self.l = k[:, None], l[None]
        self.squared = self.k**2 + self.l**2
        counts = [abs(np.fft.fftfreq(n, 1 / n)) < n / 3 for n in grid]
        self.keep = counts[0][:, None] & counts[1]
        y = np.arange(grid[1]) / grid[1] * self.length_y
        edge = np.minimum(y, self.length_y - y)
        self.damper = self.sponge / np.cosh(edge / self.jet_width) ** 2
        self.jet = self.shear * (
            np.cosh((y - self.length_y / 2) / self.jet_width) ** -2
            - np.cosh(edge / self.jet_width) ** -2
        )
        slope = np.fft.fft(self.jet)
        self.psi_r = -np.fft.ifft(np.where(l == 0, 0, slope / np.where(l == 0, 1, 1j * l))).real

    def dx(self, field):
        return np.fft.ifft2(1j * self.k * np.fft.fft2(field)).real

    def dy(self, field):
        return np.fft.ifft2(1j * self.l * np.fft.fft2(field)).real

    def laplacian(self, field):
        return np.fft.ifft2(-self.squared * np.fft.fft2(field)).real

    def cut(self, field):
        return np.fft.ifft2(self.keep * np.fft.fft2(field)).real

    def psi(self, q):
        """Solve both layers at once, wave by wave; the barotropic mean is zero."""
        a, b = np.fft.fft2(q)
        k2 = self.squared.copy()
        k2[0, 0] = 1
        determinant = (k2 + 1) ** 2 - 1
        psi = np.stack([-(k2 + 1) * a - b, -a - (k2 + 1) * b]) / determinant
        psi[:, 0, 0] = np.array([-1, 1]) * (a - b)[0, 0] / 4
        return np.fft.ifft2(psi).real

    def tendency(self, q):
        psi = self.psi(q)
        u, v = -self.dy(psi), self.dx(psi)
        relax = self.relaxation * (psi[0] - psi[1] - self.psi_r)
        rate = -self.advection * (u * self.dx(q) + v * self.dy(q)) - self.beta * v
        rate += np.stack([relax, -relax - self.friction * self.laplacian(psi[1])])
        rate -= self.damper * (q - q.mean(-2, keepdims=True))
        eighth = np.fft.ifft2((self.k**8 + self.l**8) * np.fft.fft2(q)).real
        return self.cut(rate - self.hyperviscosity * eighth)

    def energy(self, q):
        psi = self.psi(q)
        slopes = (self.dx(psi) ** 2 + self.dy(psi) ** 2).sum(0)
        return 0.5 * (slopes + (psi[0] - psi[1]) ** 2).mean()


def channel(parameters, grid, trajectory=0):
    return Channel(grid, **{key: value[trajectory].item() for key, value in parameters.items()})


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.mark.parametrize("options", [{}, {"advection": 0.5, "beta": 0.0, "relaxation": 0.3}])
def test_agrees_with_an_independent_solution(options):
    equation, parameters, state = problem(points=12, **options)
    own = channel(parameters, (12, 24))
    began = state[0].numpy()
    run = scipy.integrate.solve_ivp(
        lambda _, q: own.tendency(q.reshape(2, 12, 24)).ravel(),
        (0, 1),
        own.cut(began).ravel(),
        "DOP853",
        rtol=1e-11,
        atol=1e-12,
    )
    found = equation.solver(parameters, substeps=40).step(state)[0].numpy()
    expected = run.y[:, -1].reshape(2, 12, 24)
    assert np.abs(found - expected).max() < 1e-8 * np.abs(expected).max()
    assert np.abs(found - began).max() > 0.03 * np.abs(expected).max()


@pytest.mark.parametrize(("integrator", "expected"), [("etdrk2", 2), ("etdrk4", 4)])
def test_order_in_time(integrator, expected):
    equation, parameters, state = problem(integrator=integrator)
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=100).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (8, 16, 32)
        ]
    assert np.all(np.abs(order(errors) - expected) < 0.25), (errors, order(errors))


def test_convergence_in_space_is_faster_than_fourth_order():
    equation, parameters, state = problem(points=16)
    fine = resample(state, (64, 128))
    with torch.no_grad():
        expected = equation.solver(parameters, points=64, substeps=20).step(fine)
        errors = []
        for points in (16, 32):
            solver = equation.solver(parameters, points=points, substeps=20)
            found = resample(solver.step(resample(state, (points, 2 * points))), (64, 128))
            errors.append((found - expected).norm() / expected.norm())
    assert errors[0] < 0.1 and order(errors) > 4, errors


@pytest.mark.parametrize("mode", ["barotropic", "baroclinic"])
def test_rossby_waves_are_exact(mode):
    """omega = -beta k / (k^2 + l^2), + 2 in the baroclinic mode; one wave, so by any step."""
    equation, parameters, _ = problem()
    parameters = unforced(parameters) | {"beta": torch.full((2,), 0.7, dtype=torch.float64)}
    x = (torch.arange(16).double() / 16)[:, None]
    y = torch.arange(32).double() / 32
    for m, n in [(1, 0), (2, -3), (4, 5)]:
        k, l = 2 * np.pi * m / 11, 2 * np.pi * n / 16  # noqa: E741
        omega = -0.7 * k / (k**2 + l**2 + (2 if mode == "baroclinic" else 0))
        phase = 2 * np.pi * (m * x + n * y)
        sign = torch.tensor([1.0, 1.0 if mode == "barotropic" else -1.0]).reshape(1, 2, 1, 1)
        found = equation.solver(parameters, substeps=1, stride=3).step(
            (sign * torch.cos(phase)).expand(2, -1, -1, -1)
        )
        expected = sign * torch.cos(phase - 3 * omega)
        torch.testing.assert_close(found, expected.expand_as(found), rtol=0, atol=1e-13)


def test_linear_growth_is_that_of_the_eigenvalue_problem():
    """The fastest wave on the jet grows and turns at the rate of a dense eigenvalue problem."""
    equation = QuasiGeostrophic(points=32, length=18.0, length_y=40.0, relaxation=0.0)
    parameters, _ = equation.sample([np.random.default_rng(0)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    own = channel(parameters, (32, 64))
    base = np.stack([np.broadcast_to(own.psi_r, (32, 64)), np.zeros((32, 64))])
    q = own.laplacian(base) + np.stack([base[1] - base[0], base[0] - base[1]])
    # operators in y for waves exp(i k x), on the waves that are retained
    k = 2 * np.pi * 2 / 18.0
    l = own.l[0]  # noqa: E741
    kept = own.keep[0]
    to_y, from_y = np.fft.ifft(np.eye(64), axis=0)[:, kept], np.fft.fft(np.eye(64), axis=0)[kept]
    squared = np.diag(k**2 + l[kept] ** 2)
    one = np.eye(kept.sum())
    to_q = np.block([[-squared - one, one], [one, -squared - one]])
    multiply = [
        from_y @ np.diag(field) @ to_y
        for field in (own.jet, own.dy(q[0])[0], own.dy(q[1])[0], own.damper)
    ]
    nothing = 0 * one
    carry = 1j * k * np.block([[multiply[0], nothing], [nothing, nothing]])
    gradient = (
        1j
        * k
        * np.block(
            [[multiply[1] + own.beta * one, nothing], [nothing, multiply[2] + own.beta * one]]
        )
    )
    drag = np.block([[nothing, nothing], [nothing, -own.friction * squared]])
    damp = np.block([[multiply[3], nothing], [nothing, multiply[3]]])
    damp = damp + own.hyperviscosity * np.kron(np.eye(2), np.diag(k**8 + l[kept] ** 8))
    rates, waves = scipy.linalg.eig(-(carry + damp) @ to_q - gradient - drag, to_q)
    fastest = rates.real.argmax()
    rate = rates[fastest]
    assert rate.real > 0.05
    wave = (to_q @ waves[:, fastest]).reshape(2, -1) @ to_y.T
    x = np.arange(32)[:, None] / 32 * 18.0

    def perturbation(time):
        return 1e-6 * (wave[:, None] * np.exp(1j * k * x + rate * time)).real

    # friction acts on the lower layer alone, which is at rest, and hyperviscosity on the jet:
    # what becomes of the jet itself is subtracted
    solver = equation.solver(parameters, substeps=20, stride=4)
    with torch.no_grad():
        after = [solver.step(torch.tensor(q + p)[None])[0] for p in (0, perturbation(0))]
    found, expected = (after[1] - after[0]).numpy(), perturbation(4)
    assert np.abs(found - expected).max() < 2e-4 * np.abs(expected).max()
    assert np.abs(expected).max() > 1.2 * np.abs(perturbation(0)).max()


def test_energy_budget():
    """Change of energy equals the work of jet, friction, sponge and hyperviscosity."""
    equation, parameters, state = problem(dt=0.02, substeps=1)
    parameters = parameters | {"relaxation": torch.full((2,), 0.1, dtype=torch.float64)}
    state = equation.solver(parameters, stride=50).step(state)
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 41)[0].numpy()
    own = channel(parameters, (16, 32))
    work = {name: [] for name in ("relaxation", "friction", "sponge", "hyperviscosity")}
    for q in frames:
        psi = own.psi(q)
        thickness = psi[0] - psi[1]
        slopes = own.dx(psi[1]) ** 2 + own.dy(psi[1]) ** 2
        eighth = np.fft.ifft2((own.k**8 + own.l**8) * np.fft.fft2(q)).real
        work["relaxation"].append(-0.1 * (thickness * (thickness - own.psi_r)).mean())
        work["friction"].append(-0.07 * slopes.mean())
        eddies = own.damper * (q - q.mean(-2, keepdims=True))
        work["sponge"].append((psi * eddies).sum(0).mean())
        work["hyperviscosity"].append(1e-4 * (psi * eighth).sum(0).mean())
    total = scipy.integrate.simpson(sum(np.array(rate) for rate in work.values()), dx=0.02)
    change = own.energy(frames[-1]) - own.energy(frames[0])
    assert change == pytest.approx(total, rel=1e-5)
    largest = max(np.abs(rate).max() for rate in work.values())
    assert all(np.abs(rate).max() > 1e-4 * largest for rate in work.values())


def test_unforced_flow_conserves_energy_and_potential_enstrophies():
    """To the error of the steps, which falls by 2^4 at least when they are halved."""
    equation, parameters, state = problem()
    parameters = unforced(parameters) | {"beta": torch.zeros(2).double()}
    own = channel(parameters, (16, 32))
    began = own.cut(state[0].numpy())
    drifts = []
    for substeps in (4, 8, 16):
        with torch.no_grad():
            after = equation.solver(parameters, substeps=substeps, stride=4).step(state)[0].numpy()
        drifts.append([abs(own.energy(after) / own.energy(began) - 1)])
        drifts[-1] += list(abs((after**2).mean((1, 2)) / (began**2).mean((1, 2)) - 1))
        assert np.abs(after - began).max() > 0.1 * np.abs(began).max()
    drifts = np.array(drifts)
    assert drifts[-1].max() < 1e-8 and (drifts[:-1] / drifts[1:]).min() > 15, drifts


def test_mean_of_both_layers_is_conserved():
    equation, parameters, state = problem()
    state = state + torch.tensor([0.3, 0.1], dtype=torch.float64).reshape(2, 1, 1)
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 5)
    sums = frames.sum(2).mean((-2, -1))
    torch.testing.assert_close(sums, torch.full_like(sums, 0.4), rtol=0, atol=1e-14)
    assert (frames[:, -1, 0].mean((-2, -1)) - 0.3).abs().min() > 1e-3  # but not of either


class TestSymmetries:
    def check(self, move):
        equation, parameters, state = problem()
        with torch.no_grad():
            after = equation.solver(parameters).step(state)
            found = equation.solver(parameters).step(move(state))
        torch.testing.assert_close(found, move(after), rtol=0, atol=1e-11)
        assert (move(after) - after).norm() > 0.1 * after.norm()

    def test_translation_along_the_channel(self):
        self.check(lambda q: q.roll(5, -2))

    def test_mirror_across_the_channel(self):
        """y to -y changes the sign of vorticity and keeps the jet, the sponge and beta."""
        self.check(lambda q: -q.flip(-1).roll(1, -1))


def test_initial_condition_is_the_jet_with_the_same_noise_on_every_grid():
    states, jets = [], []
    for points in (48, 96):
        equation = QuasiGeostrophic(points=points)
        parameters, state = equation.sample([np.random.default_rng(i) for i in range(2)])
        assert state.shape == (2, 2, points, 2 * points)
        own = channel({n: torch.tensor(v) for n, v in parameters.items()}, (points, 2 * points))
        psi = own.psi(state[0])
        jets.append(-own.dy(psi[0] - psi[1])[:, points])  # at the middle of the channel
        states.append(torch.tensor(state))
        assert np.std(psi[1]) == pytest.approx(0.09, rel=0.1)
    torch.testing.assert_close(resample(states[1], (48, 96)), states[0], rtol=0, atol=1e-6)
    assert jets[0].mean() == pytest.approx(1, abs=0.1)
    assert not np.array_equal(states[0][0], states[0][1])


def test_parameters_vary_over_the_batch():
    equation, parameters, state = problem()
    factors = torch.tensor([1.0, 1.1], dtype=torch.float64)
    parameters = {name: value * factors for name, value in parameters.items()}
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(2):
            own = {name: value[i : i + 1] for name, value in parameters.items()}
            alone = equation.solver(own).step(state[i : i + 1])[0]
            torch.testing.assert_close(alone, whole[i], rtol=0, atol=1e-13)


def test_gradients_agree_with_finite_differences():
    equation = QuasiGeostrophic(points=8, length=2.0, length_y=3.0, jet_width=0.5, substeps=30)
    parameters, state = equation.sample([np.random.default_rng(0)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    solver = equation.solver(parameters, substeps=10, stride=1)
    assert torch.autograd.gradcheck(
        solver.step, torch.tensor(state).requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 49}, "points must be even and at least 8, is 49; take 50"),
        ({"points": 24}, "24 points don't resolve .* at least 34 are needed"),
        ({"hyperviscosity": -1.0}, "hyperviscosity must be at least 0"),
        ({"jet_width": 0.0}, "jet_width must be positive"),
        ({"substeps": 2}, "2 substeps are too few .* at least 7 are needed"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        QuasiGeostrophic(**options)
    assert "\n" not in str(error.value)
