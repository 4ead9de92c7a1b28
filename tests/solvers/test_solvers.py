"""The spectral core and its integrators, on Kuramoto-Sivashinsky and on problems with answers."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky
from longrun.equations.navier_stokes_2d import NavierStokes2D
from longrun.runtime.cli import UserError
from longrun.solvers import spectral
from longrun.solvers.etdrk import ETDRK2, ETDRK4, ETDRK4B, Lawson5, etdrk, phi
from longrun.solvers.spectral import SpectralSolver, forward, indices, inverse, resample

ORDERS = [("etdrk2", 2), ("etdrk4", 4), ("etdrk4b", 4), ("lawson5", 5)]


def waves(points, dims, seed=0, highest=3):
    """Smooth random fields, the same whatever the resolution."""
    generator = np.random.default_rng(seed)
    grid = np.meshgrid(*[2 * np.pi * np.arange(points) / points] * dims, indexing="ij")
    field = np.zeros((2, 1, *grid[0].shape))
    for row in field:
        for _ in range(6):
            index = generator.integers(-highest, highest + 1, dims)
            phase = sum(k * x for k, x in zip(index, grid, strict=True))
            row += generator.normal() * np.cos(phase + generator.uniform(0, 2 * np.pi))
    return torch.tensor(field)


def chaotic(points=64, viscosity=1.0, **options):
    """Kuramoto-Sivashinsky on a small interval, with developed states of three trajectories."""
    equation = KuramotoSivashinsky(
        points=points, length=32.0, dt=0.5, viscosity=viscosity, substeps=8, **options
    )
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(3)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        return (
            equation,
            parameters,
            equation.solver(parameters, stride=200).step(torch.tensor(state)),
        )


def order(errors):
    """Measured order from errors at steps that halve."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.mark.parametrize("z", [0.0, 1e-9, -1e-3, 0.5, -1.0, -1.99, -2.01, -30.0, -1e4, 1j, -1 + 5j])
def test_phi_to_rounding(z):
    if abs(z) < 3:
        expected = [sum(z**i / math.factorial(i + j) for i in range(40)) for j in range(4)]
    else:
        expected = [np.exp(z)]
        for j in range(3):
            expected.append((expected[-1] - 1 / math.factorial(j)) / z)
    found = phi(
        torch.tensor([z], dtype=torch.complex128 if isinstance(z, complex) else torch.float64), 3
    )
    np.testing.assert_allclose([value.item() for value in found], expected, rtol=2e-14)


@pytest.mark.parametrize(("name", "expected"), ORDERS)
def test_order_on_a_linear_problem(name, expected):
    """Advection, diffusion and growth, the growth treated as N: the answer is known."""
    growth, time = 0.7, 1.0
    (wavenumber,) = indices((32,))
    linear = (-0.05 * wavenumber**2 - 1j * wavenumber).expand(2, 1, -1)
    state = waves(32, 1)
    exact = inverse(forward(state, 1) * torch.exp((linear + growth) * time), (32,))
    errors = []
    for steps in (4, 8, 16, 32):
        solver = SpectralSolver(
            linear,
            torch.full_like(linear, growth),
            torch.clone,
            32,
            torch.full((2,), time),
            steps,
            etdrk(name),
        )
        errors.append((solver.step(state) - exact).norm().item())
    assert np.all(np.abs(order(errors)[1:] - expected) < 0.15), order(errors)


@pytest.mark.parametrize(("name", "expected"), ORDERS[:3])
def test_order_on_kuramoto_sivashinsky(name, expected):
    equation, parameters, state = chaotic(points=48, integrator=name)
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=800).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (50, 100, 200)
        ]
    assert np.all(np.abs(order(errors) - expected) < 0.2), order(errors)


def test_krogstads_coefficients_halve_the_error():
    """On a stiff problem, at the same steps."""
    errors = []
    for name in ("etdrk4", "etdrk4b"):
        equation, parameters, state = chaotic(points=48, integrator=name)
        with torch.no_grad():
            reference = equation.solver(parameters, substeps=800).step(state)
            found = equation.solver(parameters, substeps=10).step(state)
        errors.append((found - reference).norm().item())
    assert errors[1] < 0.6 * errors[0], errors


def test_without_nonlinear_term_any_step_is_exact():
    (wavenumber,) = indices((32,))
    linear = (-(wavenumber**2) + 3j * wavenumber**3).expand(2, 1, -1)
    state = waves(32, 1)
    exact = inverse(forward(state, 1) * torch.exp(linear * 0.3), (32,))
    for integrator in (ETDRK2, ETDRK4, ETDRK4B, Lawson5):
        zero = torch.zeros_like(linear)
        solver = SpectralSolver(
            linear, zero, torch.clone, 32, torch.full((2,), 0.3, dtype=torch.float64), 1, integrator
        )
        torch.testing.assert_close(solver.step(state), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [2, 3])
def test_more_dimensions(dims):
    """Diffusion with growth as N in two and three dimensions, against the exact answer."""
    points = 16
    squares = sum(index**2 for index in indices((points,) * dims))
    linear = -0.1 * squares.expand(2, 1, *squares.shape)
    state = waves(points, dims)
    solver = SpectralSolver(
        linear, torch.full_like(linear, 0.5), torch.clone, points, torch.ones(2), 20
    )
    exact = inverse(forward(state, dims) * torch.exp(linear + 0.5), (points,) * dims)
    torch.testing.assert_close(solver.step(state), exact, rtol=0, atol=1e-7)


def test_agrees_with_implicit_runge_kutta():
    """Radau IIA of scipy, tight tolerances, on the same dealiased semi-discretisation."""
    equation, parameters, state = chaotic(points=48)
    state = state[:1]
    first = {name: value[:1] for name, value in parameters.items()}
    length, viscosity = (first[name].item() for name in ("length", "viscosity"))
    index = np.fft.rfftfreq(48, 1 / 48)
    k, keep = 2 * np.pi * index / length, index * 3 < 48

    def tendency(_, u):
        spectrum = np.fft.rfft(u) * keep
        square = np.fft.rfft(np.fft.irfft(spectrum) ** 2)
        return np.fft.irfft(keep * ((k**2 - viscosity * k**4) * spectrum - 0.5j * k * square))

    def jacobian(_, u):
        identity = np.eye(48)
        spectra = np.fft.rfft(identity) * keep
        field = np.fft.irfft(np.fft.rfft(u) * keep)
        products = np.fft.rfft(field * np.fft.irfft(spectra))
        rows = np.fft.irfft(keep * ((k**2 - viscosity * k**4) * spectra - 1j * k * products))
        return rows.T

    u = (inverse(forward(state, 1) * torch.tensor(keep), (48,)))[0, 0].numpy()
    radau = scipy.integrate.solve_ivp(
        tendency, (0, 5), u, "Radau", t_eval=[5.0], jac=jacobian, rtol=1e-11, atol=1e-11
    )
    with torch.no_grad():
        found = equation.solver(first, substeps=200, stride=10).step(state)[0, 0].numpy()
    assert np.abs(found - radau.y[:, 0]).max() < 1e-8


def test_mean_is_conserved_to_rounding():
    equation, parameters, state = chaotic()
    state = state + 0.3
    with torch.no_grad():
        for dtype, bound in [(torch.float64, 1e-15), (torch.float32, 1e-6)]:
            frames = equation.solver(parameters, dtype=dtype).rollout(state.to(dtype), 50)
            assert (frames.double().mean(-1) - 0.3).abs().max() < bound


@pytest.mark.parametrize("name", ["etdrk2", "etdrk4", "etdrk4b"])
def test_gradients_agree_with_finite_differences(name):
    equation = KuramotoSivashinsky(points=16, length=12.0, dt=0.3, substeps=1, integrator=name)
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(2)])
    solver = equation.solver({key: torch.tensor(value) for key, value in parameters.items()})
    assert torch.autograd.gradcheck(solver.step, torch.tensor(state).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_do_not_depend_on_the_batch(dtype, one_thread):
    count = 70  # not a multiple of a vector's length
    equation = KuramotoSivashinsky(points=64, length={"uniform": [30.0, 34.0]}, burn_in=0)
    parameters, state = equation.sample([np.random.default_rng([0, i]) for i in range(count)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    state = torch.tensor(state, dtype=dtype)

    def rollout(lanes):
        of_lanes = {name: value[lanes] for name, value in parameters.items()}
        return equation.solver(of_lanes, dtype=dtype).rollout(state[lanes], 5)

    with torch.no_grad():
        whole = rollout(slice(None))
        for first, last in [(0, count), (3, 40), (7, 8)]:
            assert torch.equal(rollout(slice(first, last)), whole[first:last])


def test_gradients_of_a_flow_agree_with_finite_differences():
    equation = NavierStokes2D(points=8, dt=0.1, viscosity=0.5, substeps=1, integrator="lawson5")
    solver = equation.solver({n: torch.tensor([d.low]) for n, d in equation.distributions.items()})
    state = waves(8, 2, highest=2)[:1].requires_grad_()
    assert torch.autograd.gradcheck(solver.step, state)


def test_gradients_do_not_change_the_values():
    equation, parameters, state = chaotic()
    solver = equation.solver(parameters)
    with torch.no_grad():
        plain = solver.rollout(state, 3)
    assert torch.equal(solver.rollout(state.requires_grad_(), 3).detach(), plain)


def test_parameters_vary_over_the_batch(one_thread):
    equation, _, state = chaotic()
    varied = {
        "length": torch.tensor([30.0, 32.0, 35.0]),
        "dt": torch.tensor([0.4, 0.5, 0.6]),
        "viscosity": torch.tensor([1.0, 1.5, 0.9]),
    }
    with torch.no_grad():
        whole = equation.solver(varied).step(state)
        for i in range(3):
            alone = equation.solver({key: value[i : i + 1] for key, value in varied.items()})
            assert torch.equal(alone.step(state[i : i + 1])[0], whole[i])
            shared = equation.solver({key: value[i].expand(3) for key, value in varied.items()})
            assert torch.equal(shared.step(state)[i], whole[i])


class TestSymmetries:
    """Each maps solutions onto solutions; the solver keeps it to rounding."""

    equation, parameters, state = chaotic()
    solver = equation.solver(parameters)
    few = settings(max_examples=10, deadline=None)

    def close(self, left, right):
        torch.testing.assert_close(left, right, rtol=0, atol=1e-9)

    @given(shift=st.integers(0, 63))
    @few
    def test_translation(self, shift):
        moved = self.solver.step(self.state.roll(shift, -1))
        self.close(moved, self.solver.step(self.state).roll(shift, -1))

    def test_reflection(self):
        def reflect(u):
            return -u.flip(-1).roll(1, -1)

        self.close(self.solver.step(reflect(self.state)), reflect(self.solver.step(self.state)))

    @pytest.mark.parametrize("cells", [-2, 1])
    def test_galilean(self, cells):
        """A mean of c carries the solution along by c t: here by whole cells in one frame."""
        speed = cells * (32.0 / 64) / 0.5
        fine = self.equation.solver(self.parameters, substeps=64)
        carried = fine.step(self.state + speed) - speed
        torch.testing.assert_close(
            carried, fine.step(self.state).roll(cells, -1), rtol=0, atol=1e-6
        )

    @given(factor=st.floats(0.5, 2.0))
    @few
    def test_scaling(self, factor):
        """Lengths times s, times and viscosity times s^2, u over s."""
        powers = {"length": 1, "dt": 2, "viscosity": 2}
        scaled = {name: value * factor ** powers[name] for name, value in self.parameters.items()}
        found = factor * self.equation.solver(scaled).step(self.state / factor)
        self.close(found, self.solver.step(self.state))

    def test_repetition(self):
        """On twice the interval, a state beside its copy stays so."""
        parameters = self.parameters | {"length": 2 * self.parameters["length"]}
        solver = self.equation.solver(parameters, points=128)
        self.close(
            solver.step(self.state.repeat(1, 1, 2)), self.solver.step(self.state).repeat(1, 1, 2)
        )


@given(
    points=st.integers(9, 40),
    other=st.integers(9, 40),
    dims=st.integers(1, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=30, deadline=None)
def test_resample_is_exact_for_what_both_grids_hold(points, other, dims, seed):
    found = resample(waves(points, dims, seed), other)
    torch.testing.assert_close(found, waves(other, dims, seed), rtol=0, atol=1e-12)


def test_resample_to_the_same_grid_changes_nothing():
    state = torch.randn(2, 1, 16, generator=torch.Generator().manual_seed(0))
    assert resample(state, 16) is state


def test_resample_cuts_off_what_the_coarse_grid_cannot_hold():
    x = 2 * math.pi * torch.arange(64, dtype=torch.float64).reshape(1, 1, -1) / 64
    assert resample(torch.cos(8 * x), 16).abs().max() < 1e-14
    assert resample(torch.cos(7 * x), 16).abs().max() > 0.9


@pytest.mark.parametrize(("points", "dims"), [(48, 1), (12, 2), (12, 3)])
def test_products_of_retained_modes_have_no_aliasing(points, dims):
    keep = spectral.retained((points,) * dims)
    field = torch.randn(1, 1, *[points] * dims, dtype=torch.float64)
    spectrum = forward(field, dims) * keep
    coarse = forward(inverse(spectrum, (points,) * dims) ** 2, dims) * keep
    fine = resample(inverse(spectrum, (points,) * dims), 2 * points) ** 2
    exact = forward(resample(fine, points), dims) * keep
    torch.testing.assert_close(coarse, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"viscosity": -1.0}, "viscosity must be positive"),
        ({"length": 0.0}, "length must be positive"),
        ({"length": {"uniform": [70.0, 60.0]}}, "length must be finite, low before"),
        ({"length": {"normal": [70.0, 60.0]}}, "length must be a number, "),
        ({"dt": float("nan")}, "dt must be finite"),
        ({"points": 255}, "points must be even"),
        ({"points": 4}, "points must be even and at least 8"),
        ({"points": 32}, "32 points are too few for length 70.4 at viscosity 1: at least"),
        ({"substeps": 0}, "substeps must be at least 1"),
        ({"burn_in": -1}, "burn_in must not be negative"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        KuramotoSivashinsky(**options)
    assert "\n" not in str(error.value)


def test_unknown_integrators_are_refused():
    with pytest.raises(UserError, match="must be one of etdrk2, etdrk4, etdrk4b, lawson5, is rk4"):
        etdrk("rk4")


def test_bad_points_of_a_solver_are_refused():
    equation, parameters, _ = chaotic()
    with pytest.raises(UserError, match="points must be even"):
        equation.solver(parameters, points=31)


def test_initial_condition_of_the_paper():
    """One or two periods, amplitudes below ten halves, the same waves on every grid."""
    coarse, fine = KuramotoSivashinsky(points=128), KuramotoSivashinsky(points=256)
    generators = [[np.random.default_rng(i) for i in range(50)] for _ in range(2)]
    parameters, state = coarse.sample(generators[0])
    others, same = fine.sample(generators[1])
    assert np.abs(state - same[..., ::2]).max() < 1e-13
    amplitudes = np.abs(np.fft.rfft(state, norm="forward"))[:, 0]
    assert amplitudes[:, [0, *range(3, 65)]].max() < 1e-14
    assert (amplitudes[:, 1:3].mean(0) > 0.1).all() and np.abs(state).max() < 5
    for name, low, high in [("length", 57.6, 70.4), ("dt", 0.18, 0.22), ("viscosity", 1, 1)]:
        value = parameters[name]
        assert np.array_equal(value, others[name])
        assert value.min() >= low and value.max() <= high and np.ptp(value) >= (high - low) / 2
