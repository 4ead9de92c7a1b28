"""Chaotic systems of ODEs: integrators, right-hand sides, symmetries, Lyapunov exponents."""

import typing

import numpy as np
import pytest
import scipy.integrate
import torch

from longrun.equations.chaotic_system import ChaoticSystem
from longrun.equations.lorenz_96 import Lorenz96
from longrun.generate import simulate
from longrun.runtime.cli import UserError
from longrun.solvers.lyapunov import lyapunov_spectrum
from longrun.solvers.runge_kutta import TABLEAUX, RungeKuttaSolver, tableau

SYSTEMS = typing.get_args(typing.get_type_hints(ChaoticSystem.__init__)["system"])
CARD = (
    "Lorenz Rossler Thomas Chua Halvorsen Chen Aizawa Dadras HyperRossler SprottB Sakarya Rucklidge"
)


def begin(equation, count=3, frames=0):
    """Parameters and states as tensors, some frames on."""
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(count)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    state = torch.tensor(state)
    with torch.no_grad():
        if frames:
            state = equation.solver(parameters, stride=frames).step(state)
    return parameters, state


def tendency(equation, state):
    """Right-hand side by dysts itself, in numpy."""
    return np.stack([np.array(equation._system.rhs(row, 0.0)) for row in state])


@pytest.mark.parametrize("name", TABLEAUX)
def test_order_of_every_method(name):
    """A pendulum with large swings; the order is also what the tableau claims."""
    start = torch.tensor([[2.0, 0.3]], dtype=torch.float64)

    def pendulum(state):
        return torch.stack([state[:, 1], -state[:, 0].sin()], dim=1)

    exact = scipy.integrate.solve_ivp(
        lambda _, u: [u[1], -np.sin(u[0])], (0, 4), start[0], "DOP853", rtol=1e-13, atol=1e-14
    ).y[:, -1]
    method = tableau(name)
    counts = {4: (40, 80, 160), 5: (20, 40, 80), 8: (6, 12, 24)}[method.order]
    errors = []
    for steps in counts:
        solver = RungeKuttaSolver(pendulum, torch.tensor([[4.0]]), steps, method)
        errors.append(np.abs(solver.step(start)[0].numpy() - exact).max())
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(rates > method.order - 0.4) and rates[-1] < method.order + 1, rates


@pytest.mark.parametrize("name", TABLEAUX)
def test_tableaux_are_consistent(name):
    method = tableau(name)
    assert sum(method.weights) == pytest.approx(1, abs=1e-14)
    nodes = [0.0] + [sum(row) for row in method.stages]
    for power in range(1, method.order):  # quadrature conditions
        moment = sum(w * c**power for w, c in zip(method.weights, nodes, strict=True))
        assert moment == pytest.approx(1 / (power + 1), abs=1e-13)


def test_the_systems_of_the_papers_are_there():
    assert len(SYSTEMS) >= 20 and set(CARD.split()) <= set(SYSTEMS)


@pytest.mark.parametrize("system", SYSTEMS)
def test_right_hand_side_is_that_of_dysts(system):
    """The rebound code in torch against dysts in numpy, on states of the attractor's size."""
    equation = ChaoticSystem(system)
    parameters, state = begin(equation)
    size = torch.tensor(equation._system.std)
    state = state + size * torch.randn(state.shape, generator=torch.Generator().manual_seed(0))
    solver = equation.solver(parameters)
    found = solver.tendency(state.T.contiguous()).T.numpy()
    expected = tendency(equation, state.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_stays_on_a_bounded_attractor(system):
    equation = ChaoticSystem(system, integrator="rk4")
    parameters, state = begin(equation, 4)
    with torch.no_grad():
        frames = equation.solver(parameters, substeps=0.5, stride=10).rollout(state, 60)
    assert frames.isfinite().all()
    away = (frames - torch.tensor(equation._system.mean)) / torch.tensor(equation._system.std)
    assert away.abs().max() < 25  # HyperRossler's and Rossler's spikes are the longest
    assert frames[:, :, 0].std() > 0.05 * equation._system.std[0]


@pytest.mark.parametrize(
    ("system", "method", "frames"),
    [("Lorenz", "Radau", 10), ("LorenzStenflo", "DOP853", 50), ("Thomas", "DOP853", 30)],
)
def test_agrees_with_scipy(system, method, frames):
    """Adaptive steps, tolerances of 1e-12, dysts' own right-hand side in numpy."""
    equation = ChaoticSystem(system, substeps=4)
    parameters, state = begin(equation, 1)
    options = {}
    if method == "Radau":
        options["jac"] = lambda t, u: np.array(equation._system.jac(u, t), dtype=float)
    reference = scipy.integrate.solve_ivp(
        lambda t, u: equation._system.rhs(u, t),
        (0, frames * float(parameters["dt"])),
        state[0].numpy(),
        method,
        rtol=1e-12,
        atol=1e-12,
        **options,
    ).y[:, -1]
    with torch.no_grad():
        found = equation.solver(parameters, stride=frames).step(state)[0].numpy()
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-9 * np.abs(reference).max())


def test_lorenz_96_agrees_with_scipy_and_the_formula():
    equation = Lorenz96(points=12, substeps=4)
    parameters, state = begin(equation, 1, 100)

    def formula(_, u):
        count = len(u)
        return [(u[(i + 1) % count] - u[i - 2]) * u[i - 1] - u[i] + 8.0 for i in range(count)]

    reference = scipy.integrate.solve_ivp(
        formula, (0, 0.5), state[0, 0].numpy(), "DOP853", rtol=1e-12, atol=1e-12
    ).y[:, -1]
    with torch.no_grad():
        found = equation.solver(parameters, stride=10).step(state)[0, 0].numpy()
    np.testing.assert_allclose(found, reference, rtol=0, atol=1e-9)


def test_symmetries():
    equation = ChaoticSystem("Lorenz")
    parameters, state = begin(equation)
    mirror = torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64)
    solver = equation.solver(parameters)
    assert torch.equal(solver.step(state * mirror), solver.step(state) * mirror)
    halvorsen = ChaoticSystem("Halvorsen")
    parameters, state = begin(halvorsen)
    solver = halvorsen.solver(parameters)
    torch.testing.assert_close(
        solver.step(state.roll(1, 1)), solver.step(state).roll(1, 1), rtol=0, atol=1e-12
    )
    ring = Lorenz96(points=9)
    parameters, state = begin(ring)
    solver = ring.solver(parameters)
    assert torch.equal(solver.step(state.roll(4, -1)), solver.step(state).roll(4, -1))


def test_energy_budget_of_lorenz_96():
    """The products conserve the sum of squares: what is left is damping and forcing."""
    equation = Lorenz96()
    parameters, state = begin(equation, 2, 100)
    slope = equation.solver(parameters).tendency(state)
    budget = (state * slope).sum(-1)
    torch.testing.assert_close(budget, (8 * state - state.square()).sum(-1), rtol=1e-12, atol=1e-11)


def test_sum_of_exponents_is_the_contraction_of_volume():
    """Lorenz' flow contracts every volume at the rate sigma + 1 + beta, wherever it is."""
    equation = ChaoticSystem("Lorenz")
    parameters, state = begin(equation, 8, 300)
    with torch.no_grad():
        found = lyapunov_spectrum(equation.solver, parameters, state, 3, 30, 0, stride=5)
    contraction = torch.full((8,), -(10 + 1 + 2.667), dtype=torch.float64)
    torch.testing.assert_close(found.sum(1), contraction, rtol=1e-5, atol=0)


def test_exponents_of_a_linear_system_are_its_rates():
    rates = torch.tensor([[0.3, -0.2, -1.0]], dtype=torch.float64)

    def build(parameters, stride):
        frame = stride * parameters["dt"][:, None]
        return RungeKuttaSolver(lambda u: rates * u, frame, 2, tableau("dop853"))

    parameters = {"dt": torch.tensor([0.1], dtype=torch.float64)}
    state = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    found = lyapunov_spectrum(build, parameters, state, 3, 10, 0, stride=2)
    torch.testing.assert_close(found, rates, rtol=0, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("equation", "count", "frames", "expected", "tolerance"),
    [
        # as they are commonly quoted; bench/lyapunov.py measures them more closely
        (ChaoticSystem("Lorenz"), 384, 100, 0.906, 0.02),
        (ChaoticSystem("Rossler"), 384, 150, 0.0714, 0.004),
        (Lorenz96(), 256, 300, 1.68, 0.05),
    ],
    ids=["lorenz", "rossler", "lorenz_96"],
)
def test_largest_exponents_are_those_of_the_literature(
    equation, count, frames, expected, tolerance
):
    stride = 10 if equation.dims == 0 else 1
    parameters, state = begin(equation, count, 500)
    with torch.no_grad():
        found = lyapunov_spectrum(equation.solver, parameters, state, 1, frames, 100, stride=stride)
    error = float(found.std() / len(found) ** 0.5)
    assert 3 * error < tolerance
    assert abs(float(found.mean()) - expected) < tolerance


@pytest.mark.parametrize("system", ["Lorenz", "Thomas", "HyperRossler", "Blasius"])
def test_gradients_agree_with_finite_differences(system):
    equation = ChaoticSystem(system)
    parameters, state = begin(equation, 2)
    solver = equation.solver(parameters)
    assert torch.autograd.gradcheck(solver.step, state.requires_grad_())


def test_gradients_of_lorenz_96():
    equation = Lorenz96(points=6)
    parameters, state = begin(equation, 2)
    assert torch.autograd.gradcheck(equation.solver(parameters).step, state.requires_grad_())


def test_coefficients_vary_over_the_batch():
    varied = ChaoticSystem("Lorenz", varied="rho", values={"uniform": [26.0, 32.0]})
    assert [quantity.name for quantity in varied.parameters] == ["dt", "rho"]
    parameters, state = begin(varied)
    assert len(parameters["rho"].unique()) == 3
    together = varied.solver(parameters).step(state)
    for i in range(3):
        alone = ChaoticSystem("Lorenz", varied="rho", values=float(parameters["rho"][i]))
        one = {name: value[i : i + 1] for name, value in parameters.items()}
        assert torch.equal(alone.solver(one).step(state[i : i + 1])[0], together[i])
    dysts = ChaoticSystem("Lorenz")
    at_28 = {"dt": parameters["dt"], "rho": torch.full((3,), 28.0, dtype=torch.float64)}
    torch.testing.assert_close(
        varied.solver(at_28).step(state), dysts.solver({"dt": parameters["dt"]}).step(state)
    )


@pytest.mark.parametrize("system", ["Thomas", "Blasius", "Chua"])
def test_bits_depend_on_neither_batch_nor_companions(system):
    """Sines, quotients and absolute values, in batches that fill vector registers or don't."""
    equation = ChaoticSystem(system)
    parameters, state = begin(equation, 19)
    with torch.no_grad():
        together = equation.solver(parameters, stride=3).step(state)
        for first, last in [(0, 1), (3, 8), (7, 19)]:
            some = {name: value[first:last] for name, value in parameters.items()}
            found = equation.solver(some, stride=3).step(state[first:last])
            assert torch.equal(found, together[first:last])


def test_frames_per_period():
    assert ChaoticSystem("Lorenz").distributions["dt"].high == pytest.approx(0.015008)
    coarse = ChaoticSystem("Rossler", points_per_period=15, substeps=7)
    assert coarse.distributions["dt"].high == pytest.approx(5.9086 / 15)
    assert ChaoticSystem("Lorenz", dt=0.01).distributions["dt"].high == 0.01


@pytest.mark.parametrize(
    ("equation", "options", "message"),
    [
        (ChaoticSystem, {"points_per_period": 15}, "too few for Lorenz, .* at least 7 are needed"),
        (ChaoticSystem, {"dt": 0.1}, "at least 7 are needed"),
        (ChaoticSystem, {"dt": -0.1}, "dt must be positive"),
        (ChaoticSystem, {"points_per_period": 0}, "points_per_period must be positive, is 0"),
        (ChaoticSystem, {"perturbation": -1.0}, "perturbation must not be negative, is -1"),
        (ChaoticSystem, {"varied": "rho"}, "given together"),
        (ChaoticSystem, {"varied": "roh", "values": 1.0}, "'roh'; allowed: beta, rho, sigma; did"),
        (Lorenz96, {"points": 3}, "points times observed_every must be at least 4, is 3"),
        (Lorenz96, {"observed_every": 0}, "observed_every must be at least 1, is 0"),
        (Lorenz96, {"disturbance": -1.0}, "must not be negative"),
        (Lorenz96, {"dt": 0.2}, "too few at forcing 8: at least 4 are needed"),
        (Lorenz96, {"forcing": {"uniform": [8.0, 16.0]}}, "at forcing 16: at least 2 are needed"),
        (Lorenz96, {"perturbation": 0.0}, "perturbation must be positive"),
    ],
)
def test_bad_options_are_refused_in_one_line(equation, options, message):
    with pytest.raises(UserError, match=message) as error:
        equation(**options)
    assert "\n" not in str(error.value)


def test_unknown_methods_are_refused():
    with pytest.raises(UserError, match="must be one of rk4, dopri5, dop853, is euler"):
        tableau("euler")


def store_of(frames=40, **options):
    """Frames of two trajectories, as a store has them."""
    equation = Lorenz96(**{"points": 4, "observed_every": 4, "burn_in": 30} | options)
    return simulate(equation, 3, "test", range(2), frames)[1]


def test_lorenz_96_stores_every_nth_site_of_the_same_system():
    whole, seen = store_of(points=16, observed_every=1), store_of()
    assert seen.shape == (2, 40, 1, 4)
    np.testing.assert_array_equal(seen, whole[..., ::4])


def test_sensors_of_lorenz_96_hum_until_a_time_on_the_same_trajectories():
    quiet = store_of()
    hum = {"disturbance": 0.5, "disturbance_frequency": 3.0, "disturbed_until": 0.05 * 20.5}
    found = store_of(**hum) - quiet
    time = 0.05 * np.arange(40)
    expected = np.where(time < hum["disturbed_until"], 0.5 * np.sin(6 * np.pi * time), 0.0)
    np.testing.assert_allclose(
        found, np.broadcast_to(expected[:, None, None], found.shape), atol=1e-9
    )
    assert not found[:, 21:].any() and np.abs(found[:, :21]).max() > 0.4


@pytest.mark.parametrize("options", [{"observed_every": 4}, {"disturbance": 0.1}])
def test_no_solver_starts_from_what_is_stored_of_lorenz_96(options):
    equation = Lorenz96(points=16, **options)
    _, state = begin(equation)
    assert equation.resample(state, 16) is state
    with pytest.raises(UserError, match="no state that a solver can start from"):
        equation.resample(equation.observe(state), 16)
