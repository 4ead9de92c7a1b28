"""Active fluids: the kinetic theory against a version in full tensors, growth rates, closures."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch

from longrun.equations.active_fluid import ActiveFluid
from longrun.equations.active_fluid_moments import ActiveFluidMoments
from longrun.runtime.cli import UserError
from longrun.solvers.bingham import bingham
from longrun.solvers.spectral import resample
from longrun.solvers.stokes import strained

BOTH = [ActiveFluid, ActiveFluidMoments]


def build(kind=ActiveFluid, points=16, **options):
    return kind(points=points, **{"length": 5.0, "modes": 2, "substeps": 5} | options)


def draw(equation, count=1, seed=0):
    parameters, state = equation.sample([np.random.default_rng([seed, i]) for i in range(count)])
    return {name: torch.tensor(value) for name, value in parameters.items()}, torch.tensor(state)


def waves(points, count, seed, highest=2):
    """Smooth random fields, (count, points, points)."""
    generator = np.random.default_rng(seed)
    x = 2 * np.pi * np.arange(points) / points
    fields = np.zeros((count, points, points))
    for field in fields:
        for i, j in itertools.product(range(-highest, highest + 1), range(1, highest + 1)):
            phase = generator.uniform(0, 2 * np.pi)
            field += generator.normal() * np.cos(i * x[:, None] + j * x + phase)
    return fields / np.abs(fields).max((1, 2), keepdims=True)


def ordered(equation, strength=0.6, seed=1, bend=2.0, highest=2):
    """A state of uneven concentration and strong order, like a Bingham distribution."""
    points, harmonics = equation.resolution, equation.harmonics
    b, angle, c = waves(points, 3, seed, highest)
    b, angle, c = strength * (2 + b), bend * angle, 1 + 0.2 * c
    moments = np.zeros((harmonics + 1, points, points), complex)
    for n in range(harmonics + 1):
        ratio = scipy.special.ive(n, b) / scipy.special.ive(0, b)
        moments[n] = c * ratio * np.exp(2j * n * angle)
    parts = [moments.real, moments.imag[1:], np.zeros((2, points, points))]
    return torch.tensor(np.concatenate(parts))[None]


def values(parameters):
    return {name: value.item() for name, value in parameters.items()}


# -- an independent right-hand side: psi on a grid in theta, tensors with all their indices


def derivative(field, axis, length):
    points = field.shape[axis]
    shape = [-1 if a == axis else 1 for a in range(field.ndim)]
    k = 2 * np.pi / length * np.fft.fftfreq(points, 1 / points).reshape(shape)
    k = np.where(np.abs(k) > 2 * np.pi / length * (points / 2 - 0.5), 0, k)
    return np.fft.ifft(1j * k * np.fft.fft(field, axis=axis), axis=axis).real


def truncate(field):
    """Cut at 2/3 along the last two axes."""
    n = np.abs(np.fft.fftfreq(field.shape[-1], 1 / field.shape[-1])) < field.shape[-1] / 3 - 1e-9
    return np.fft.ifft2(np.fft.fft2(field) * (n[:, None] & n)).real


def stokes_flow(stress, length):
    """Velocity (2, x, y) from the stress (2, 2, x, y), with (I - kk) i k . stress / k^2."""
    points = stress.shape[-1]
    k = 2 * np.pi / length * np.fft.fftfreq(points, 1 / points)
    wave = np.stack(np.meshgrid(k, k, indexing="ij"))
    squared = (wave**2).sum(0)
    over = np.where(squared > 0, 1 / np.where(squared > 0, squared, 1), 0)
    force = 1j * np.einsum("jxy,ijxy->ixy", wave, np.fft.fft2(stress))
    force -= wave * np.einsum("jxy,jxy->xy", wave, force) * over
    return np.fft.ifft2(force * over).real


def tensors(psi, theta):
    """c, D, S of psi (theta, x, y) by quadrature."""
    p = np.stack([np.cos(theta), np.sin(theta)])
    weight = 2 * np.pi / len(theta)
    return (
        weight * psi.sum(0),
        weight * np.einsum("it,jt,txy->ijxy", p, p, psi),
        weight * np.einsum("it,jt,kt,lt,txy->ijklxy", p, p, p, p, psi),
    )


def flow(c, d, s, given):
    """Velocity and its gradient, (grad u)_ij = du_i / dx_j."""
    alpha, beta, zeta, length = (given[n] for n in ("alpha", "beta", "zeta", "length"))
    identity = np.eye(2)[..., None, None]
    sd = np.einsum("ijklxy,klxy->ijxy", s, d)
    passive = alpha * (d - c * identity / 2)
    passive = passive - 2 * zeta * beta * (np.einsum("ikxy,kjxy->ijxy", d, d) - sd)
    strain = np.zeros_like(d)
    for _ in range(40):
        stress = truncate(passive + beta * np.einsum("ijklxy,klxy->ijxy", s, strain))
        u = stokes_flow(stress, length)
        gradient = np.stack([[derivative(u[i], j, length) for j in (0, 1)] for i in (0, 1)])
        strain = (gradient + gradient.transpose(1, 0, 2, 3)) / 2
    return u, gradient, strain


def kinetic_rate(psi, theta, given):
    length, zeta = given["length"], given["zeta"]
    c, d, s = tensors(psi, theta)
    u, gradient, _ = flow(c, d, s, given)
    p = np.stack([np.cos(theta), np.sin(theta)])
    across = np.stack([-np.sin(theta), np.cos(theta)])
    turning = np.einsum("it,ijxy,jt->txy", across, gradient + 2 * zeta * d, p)
    rate = -derivative(turning * psi, 0, 2 * np.pi)
    rate += given["rotational_diffusion"] * derivative(derivative(psi, 0, 2 * np.pi), 0, 2 * np.pi)
    for i in (0, 1):
        rate -= derivative(u[i] * psi, 1 + i, length)
        diffusion = derivative(derivative(psi, 1 + i, length), 1 + i, length)
        rate += given["translational_diffusion"] * diffusion
    return truncate(rate), u


def rate_of(solver, state, step=2e-4):
    """Rate of change of a state at t = 0, by two steps from it."""
    ends = [solver(n * step).step(state) for n in (1, 2)]
    start = solver(0 * step + 1e-12).step(state)
    return (4 * ends[0] - ends[1] - 3 * start) / (2 * step)


def test_kinetic_theory_against_full_tensors():
    equation = build(harmonics=12, alpha=-1.3, zeta=0.7)
    parameters, _ = draw(equation)
    state = ordered(equation)
    state[:, :-2] = torch.tensor(truncate(state[:, :-2].numpy()))
    theta = 2 * np.pi * np.arange(128) / 128
    real, imaginary = state[0, :13].numpy(), np.zeros((13, 16, 16))
    imaginary[1:] = state[0, 13:25].numpy()
    basis = np.exp(-2j * np.arange(13)[:, None] * theta)
    basis[1:] *= 2
    psi = np.einsum("nt,nxy->txy", basis, real + 1j * imaginary).real / (2 * np.pi)
    expected, velocity = kinetic_rate(psi, theta, values(parameters))

    found = rate_of(lambda dt: equation.solver(parameters | {"dt": torch.tensor([dt])}), state)[0]
    powers = np.exp(2j * np.arange(13)[:, None] * theta) * 2 * np.pi / 128
    moments = np.einsum("nt,txy->nxy", powers, expected)
    assert np.abs(moments).max() > 0.5
    # the last harmonics lack neighbours in one, not in the other
    np.testing.assert_allclose(found[:11], moments[:11].real, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[13:23], moments[1:11].imag, rtol=0, atol=2e-6)
    flowing = equation.solver(parameters | {"dt": torch.tensor([1e-12])}).step(state)[0, -2:]
    np.testing.assert_allclose(flowing, velocity, rtol=0, atol=1e-9)


def test_stored_moments_against_quadrature():
    equation = build(harmonics=8)
    _, state = draw(equation)
    theta = 2 * np.pi * np.arange(64) / 64
    psi = np.exp(0.8 * np.cos(2 * theta - 1.1) + 0.3 * np.sin(4 * theta))[:, None, None]
    psi = psi * np.ones((1, 16, 16))
    for n in range(9):
        m = 2 * np.pi / 64 * (psi[:, 0, 0] * np.exp(2j * n * theta)).sum()
        state[:, n] = m.real
        if n:
            state[:, 8 + n] = m.imag
    c, d, s = tensors(psi, theta)
    expected = [c, d[0, 0], d[0, 1], s[0, 0, 0, 0], s[0, 0, 0, 1]]
    np.testing.assert_allclose(equation.observe(state)[0, :5], expected, rtol=1e-12)
    # the trace of S:A is D:A, for any A without trace
    a1, a2 = waves(16, 2, 3)
    s1111, s1112 = expected[3:]
    s1122, s1222 = expected[1] - s1111, expected[2] - s1112
    s2222 = (c - expected[1]) - s1122
    trace = (s1111 + s1122) * a1 + 2 * (s1112 + s1222) * a2 - (s1122 + s2222) * a1
    np.testing.assert_allclose(
        trace, d[0, 0] * a1 + 2 * d[0, 1] * a2 - d[1, 1] * a1, rtol=0, atol=1e-13
    )
    full = np.einsum("ijklxy,klxy->ijxy", s, np.array([[a1, a2], [a2, -a1]]))
    pair = tuple(torch.tensor(a)[None, None] for a in (a1, a2))
    s1, s2 = strained(torch.tensor(c)[None, None], (state[:, 2:3], state[:, 10:11]), pair)
    np.testing.assert_allclose(s1[0, 0], (full[0, 0] - full[1, 1]) / 2, rtol=0, atol=1e-13)
    np.testing.assert_allclose(s2[0, 0], full[0, 1], rtol=0, atol=1e-13)


def test_moment_equations_against_full_tensors():
    equation = build(ActiveFluidMoments, alpha=-1.3, zeta=0.7)
    parameters, _ = draw(equation)
    given = values(parameters)
    c, d1, d2 = waves(16, 3, 5, highest=1)
    c, d1, d2 = 1 + 0.1 * c, 0.3 * d1, 0.25 * d2
    d = np.array([[c / 2 + d1, d2], [d2, c / 2 - d1]])
    # a Bingham distribution of these moments, by root finding and quadrature
    theta = 2 * np.pi * np.arange(64) / 64
    order, angle = 2 * np.hypot(d1, d2) / c, np.arctan2(d2, d1)
    b = np.vectorize(
        lambda q: scipy.optimize.brentq(
            lambda b: scipy.special.ive(1, b) / scipy.special.ive(0, b) - q, 0, 50, xtol=1e-14
        )
    )(order)
    psi = np.exp(b * np.cos(2 * theta[:, None, None] - angle)) / scipy.special.iv(0, b)
    psi *= c / (2 * np.pi)
    concentration, second, s = tensors(psi, theta)
    np.testing.assert_allclose(second, d, atol=1e-12)
    u, gradient, strain = flow(concentration, d, s, given)

    def contract(a):
        return np.einsum("ijklxy,klxy->ijxy", s, a)

    def product(a, b):
        return np.einsum("ikxy,kjxy->ijxy", a, b)

    length = given["length"]
    rate = product(gradient, d) + product(d, gradient.transpose(1, 0, 2, 3)) - 2 * contract(strain)
    rate += 4 * given["zeta"] * (product(d, d) - contract(d))
    rate -= 4 * given["rotational_diffusion"] * (d - c * np.eye(2)[..., None, None] / 2)
    rates = []
    for field, source in [(c, 0), (d[0, 0], rate[0, 0]), (d[0, 1], rate[0, 1])]:
        for axis in (0, 1):
            source = source - u[axis] * derivative(field, axis, length)
            again = derivative(derivative(field, axis, length), axis, length)
            source = source + given["translational_diffusion"] * again
        rates.append(truncate(source))
    state = torch.tensor(np.stack([c, d[0, 0], d[0, 1]]))[None]
    found = rate_of(lambda dt: equation.solver(parameters | {"dt": torch.tensor([dt])}), state)[0]
    assert np.abs(rates[1]).max() > 0.1
    np.testing.assert_allclose(found, rates, rtol=0, atol=2e-6)


def test_closure_is_exact_for_bingham_distributions():
    b = np.concatenate([[1e-6, 1e-3], np.geomspace(0.05, 2000, 200)])
    ratios = [scipy.special.ive(n, b) / scipy.special.ive(0, b) for n in (1, 2)]
    c, angle = torch.full((len(b),), 1.7, dtype=torch.float64), np.linspace(0, 6, len(b))
    m2, m4 = (1.7 * ratio * np.exp(2j * n * angle) for n, ratio in enumerate(ratios, start=1))
    p, q = bingham(c, torch.tensor(m2.real.copy()), torch.tensor(m2.imag.copy()))
    np.testing.assert_allclose(p.numpy() + 1j * q.numpy(), m4, rtol=2e-9)


def test_closure_against_quadrature():
    theta = 2 * np.pi * np.arange(256) / 256
    psi = np.exp(3.1 * np.cos(2 * (theta - 0.4)))
    c, m2, m4 = (torch.tensor((psi * np.exp(1j * n * theta)).mean()) for n in (0, 2, 4))
    p, q = bingham(c.real, m2.real, m2.imag)
    assert abs(p - m4.real) < 1e-9 and abs(q - m4.imag) < 1e-9


@pytest.mark.parametrize("size", [0.0, 1e-9, 0.2, 0.242, 0.5, 0.9, 0.999])
def test_closure_has_a_gradient(size):
    def closed(c, p, q):
        return torch.stack(bingham(c, p, q))

    inputs = [1.0, 0.8 * size, 0.6 * size]
    inputs = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in inputs]
    assert torch.autograd.gradcheck(closed, inputs, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("alpha", [-1.0, 0.7])
@pytest.mark.parametrize("across", [True, False])
def test_growth_from_isotropy(kind, alpha, across):
    """Order that bends along the wave drives a flow, order across it doesn't."""
    equation = build(kind, alpha=alpha, zeta=0.3, beta=0.6, dt=0.1, substeps=2)
    parameters, state = draw(equation)
    k, turn = 2 * math.pi / 5.0 * np.array([1, 2]), 2 * math.atan2(2, 1)
    x = torch.arange(16) / 16
    wave = 1e-6 * torch.cos(2 * torch.pi * (x[:, None] + 2 * x)).double()
    direction = (-math.sin(turn), math.cos(turn)) if across else (math.cos(turn), math.sin(turn))
    state = torch.zeros_like(state)
    state[:, 0] = 1.0
    if kind is ActiveFluid:
        second = 1, equation.harmonics + 1
        state[:, second[0]], state[:, second[1]] = direction[0] * wave, direction[1] * wave
    else:
        second = 1, 2
        state[:, 1], state[:, 2] = 0.5 + direction[0] * wave / 2, direction[1] * wave / 2
    # one wave of D drives e = -(stress across the wave) / 2, and the stress resists e
    flow = -0.5 * (alpha - 0.3 * 0.6 / 2) / (1 + 0.6 / 8) if across else 0.0
    rate = 0.5 * flow + 0.3 - 4 * 0.05 - 0.05 * (k @ k)
    with torch.no_grad():
        found = equation.solver(parameters, stride=5).step(state)
    change = found - state
    for channel in second:
        factor = (change[0, channel] * wave).sum() / (
            (state[0, channel] - state[0, channel].mean()) * wave
        ).sum()
        assert abs(math.log1p(factor) / 0.5 - rate) < 1e-7


@pytest.mark.parametrize("kind", BOTH)
def test_isotropy_is_steady(kind):
    equation = build(kind, amplitude=0.0)
    parameters, state = draw(equation)
    with torch.no_grad():
        torch.testing.assert_close(equation.solver(parameters).step(state), state)


@pytest.mark.parametrize("kind", BOTH)
def test_without_alignment_and_stress_everything_diffuses(kind):
    """D relaxes as exp(-4 d_R t), moment 2n as exp(-4 n^2 d_R t), waves as exp(-d_T k^2 t)."""
    equation = build(kind, alpha=0.0, beta=0.0, zeta=0.0, dt=1.0, modes=1)
    parameters, state = draw(equation)
    found = equation.solver(parameters).step(state)
    count = state.shape[1]
    if kind is ActiveFluid:
        n = torch.arange(equation.harmonics + 1).double()
        n = torch.cat([n, n[1:], n[:2]])
        offset = torch.zeros(count).double()
        offset[0] = 1
    else:
        n, offset = torch.tensor([0.0, 1, 1]).double(), torch.tensor([1.0, 0.5, 0]).double()
        state[:, 1] -= state[:, 0] / 2 - 0.5
        found[:, 1] -= found[:, 0] / 2 - 0.5
    decay = torch.exp(-4 * 0.05 * n**2 - 0.05 * 2 * (2 * torch.pi / 5) ** 2)
    expected = (state - offset.reshape(-1, 1, 1)) * decay.reshape(-1, 1, 1)
    expected += offset.reshape(-1, 1, 1)
    if kind is ActiveFluid:
        expected[:, -2:] = 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_kinetic_and_moment_equations_agree_while_psi_is_bingham():
    """The rates of the closed moments agree at once, so the difference grows as t^2."""
    kinetic, closed = build(harmonics=16, points=24), build(ActiveFluidMoments, 24)
    parameters, _ = draw(kinetic)
    state = ordered(kinetic, bend=0.5, highest=1)
    difference = []
    with torch.no_grad():
        for dt in (0.02, 0.04, 0.08):
            now = parameters | {"dt": torch.tensor([dt])}
            full = kinetic.observe(kinetic.solver(now, substeps=2).step(state))[:, :3]
            model = closed.solver(now, substeps=2).step(kinetic.observe(state)[:, :3])
            moved = (model - kinetic.observe(state)[:, :3]).norm()
            difference.append((full - model).norm().item())
    assert difference[-1] < 0.05 * moved
    assert np.all(np.abs(np.log2(np.array(difference[1:]) / difference[:-1]) - 2) < 0.2)


def test_kinetic_and_moment_equations_start_alike_and_stay_close_in_weak_order():
    kinetic, closed = build(), build(ActiveFluidMoments)
    parameters, state = draw(kinetic)
    same, moments = draw(closed)
    assert {k: v.item() for k, v in same.items()} == {k: v.item() for k, v in parameters.items()}
    torch.testing.assert_close(kinetic.observe(state)[:, :3], moments, rtol=0, atol=1e-14)
    with torch.no_grad():
        full = kinetic.observe(kinetic.solver(parameters, stride=3).step(state))[:, 1:3]
        model = closed.solver(parameters, stride=3).step(moments)[:, 1:3]
    anisotropy = full - torch.tensor([0.5, 0.0]).double().reshape(2, 1, 1)
    assert (full - model).norm() < 0.02 * anisotropy.norm()


@pytest.mark.parametrize("kind", BOTH)
def test_order_in_time_is_four(kind):
    equation = build(kind, dt=0.4, substeps=8, zeta=0.8, length=4.0)
    parameters, _ = draw(equation)
    start = ordered(build(zeta=0.8, length=4.0), 0.4)
    state = start if kind is ActiveFluid else build().observe(start)[:, :3]
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=32).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (2, 4, 8)
        ]
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(order - 4) < 0.4), (errors, order)


@pytest.mark.parametrize("kind", BOTH)
def test_error_falls_faster_than_any_power_of_the_spacing(kind):
    equation = build(kind, dt=0.5)
    parameters, _ = draw(equation)
    start = ordered(build(), 0.4)
    state = start if kind is ActiveFluid else build().observe(start)[:, :3]
    with torch.no_grad():
        results = []
        for n in (16, 24, 32, 48):
            own = build(kind, n, dt=0.5)
            results.append(resample(own.solver(parameters).step(own.resample(state, n)), 16))
    errors = [(result - results[-1]).norm().item() for result in results[:-1]]
    orders = np.log(np.array(errors[:-1]) / errors[1:]) / np.log([24 / 16, 32 / 24])
    assert np.all(orders > 8), (errors, orders)


def test_error_falls_with_the_harmonics():
    results = []
    for harmonics in (8, 10, 12, 20):
        equation = build(harmonics=harmonics, dt=0.5, substeps=8)
        parameters, _ = draw(equation)
        with torch.no_grad():
            found = equation.solver(parameters).step(ordered(equation, 4.0))
        results.append(equation.observe(found))
    errors = np.array([(result - results[-1]).norm().item() for result in results[:-1]])
    assert np.all(errors[1:] < 0.05 * errors[:-1]), errors


@pytest.mark.parametrize("kind", BOTH)
def test_commutes_with_a_quarter_turn(kind):
    equation = build(kind, dt=0.5)
    parameters, _ = draw(equation)
    start = ordered(build(), 0.5)
    state = start if kind is ActiveFluid else build().observe(start)[:, :3]

    def turn(fields):
        """Put what is at (x, y) to (-y, x)."""
        moved = fields.transpose(2, 3).flip(2).roll(1, 2).clone()
        if kind is ActiveFluidMoments:
            c, d11, d12 = moved.split(1, dim=1)
            return torch.cat([c, c - d11, -d12], dim=1)
        n = torch.arange(equation.harmonics + 1)
        moved[:, :-2] *= ((-1.0) ** torch.cat([n, n[1:]])).double().reshape(-1, 1, 1)
        u, v = moved[:, -2:-1], moved[:, -1:]
        return torch.cat([moved[:, :-2], -v, u], dim=1)

    with torch.no_grad():
        solver = equation.solver(parameters)
        torch.testing.assert_close(
            solver.step(turn(state)), turn(solver.step(state)), rtol=0, atol=1e-12
        )


def test_velocity_has_no_divergence_and_concentration_is_conserved():
    equation = build()
    parameters, _ = draw(equation)
    state = ordered(equation)
    with torch.no_grad():
        stored = equation.observe(equation.solver(parameters).rollout(state, 4)[0])
    mean = stored[:, 0].mean((1, 2))
    assert (mean - state[0, 0].mean()).abs().max() < 1e-14
    u, v = stored[:, -2].numpy(), stored[:, -1].numpy()
    assert np.abs(u).max() > 0.01
    assert np.abs(derivative(u, 1, 5.0) + derivative(v, 2, 5.0)).max() < 1e-14


def test_velocity_of_a_state_is_a_result_alone():
    equation = build()
    parameters, state = draw(equation)
    other = state.clone()
    other[:, -2:] = 7.0
    solver = equation.solver(parameters)
    assert torch.equal(solver.step(state), solver.step(other))
    here = equation.solver(parameters | {"dt": torch.tensor([1e-12])}).step(state)
    np.testing.assert_allclose(here[:, -2:], state[:, -2:], rtol=0, atol=1e-12)


def test_finer_grids_have_more_harmonics():
    equation = build(harmonics=8, refinement=2, points=8)
    _, state = draw(equation)
    assert state.shape == (1, 8 + 9 + 2, 16, 16)
    assert equation.observe(state).shape == (1, 7, 8, 8)
    fine = equation.resample(state, 32)
    assert fine.shape == (1, 16 + 17 + 2, 32, 32)
    assert (fine[:, 9:17] == 0).all() and (fine[:, 17 + 8 : 33] == 0).all()
    torch.testing.assert_close(equation.resample(fine, 16), state, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", BOTH)
def test_parameters_vary_over_the_batch(kind):
    equation = build(
        kind,
        alpha={"choice": [-1.0, -2.0, 0.5]},
        zeta={"uniform": [0.1, 0.5]},
        length={"uniform": [4.0, 5.0]},
    )
    parameters, state = draw(equation, 3)
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(3):
            alone = equation.solver({k: v[i : i + 1] for k, v in parameters.items()})
            assert torch.equal(alone.step(state[i : i + 1])[0], whole[i])


@pytest.mark.parametrize("kind", BOTH)
def test_gradient_agrees_with_finite_differences(kind):
    equation = build(kind, points=8, length=1.5, dt=0.1)
    parameters, _ = draw(equation)
    start = ordered(build(points=8, length=1.5), 0.3)
    state = start if kind is ActiveFluid else build().observe(resample(start, 16))[:, :3, ::2, ::2]
    solver = equation.solver(parameters)
    generator = torch.Generator().manual_seed(1)
    direction, weight = torch.randn(2, *state.shape, generator=generator).double()
    (gradient,) = torch.autograd.grad((weight * solver.step(state.requires_grad_())).sum(), state)
    step = 1e-6
    with torch.no_grad():
        ends = [(weight * solver.step(state + s * direction)).sum() for s in (step, -step)]
    expected = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zeta": -1.0}, "zeta must be at least 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"translational_diffusion": 0.0}, "translational_diffusion must be positive"),
        ({"points": 15}, "points must be even and at least 8, is 15; take 16"),
        ({"length": 20.0}, "points must be at least 34 to hold all waves that grow, is 16"),
        ({"harmonics": 4}, "harmonics must be at least 7 to resolve"),
        ({"substeps": 1, "dt": 1.0}, "substeps must be at least 6 for a stable step, is 1"),
        ({"modes": 0}, "modes must be at least 1"),
        ({"amplitude": 0.5}, r"amplitude must lie in \[0, 0.2\]"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)
