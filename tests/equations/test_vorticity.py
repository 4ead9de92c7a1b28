"""Two-dimensional Navier-Stokes and smoke, against exact and independent solutions and budgets."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch

from longrun.equations import _initial_vorticity as initial
from longrun.equations.navier_stokes_2d import NavierStokes2D
from longrun.equations.smoke import Smoke
from longrun.runtime.cli import UserError
from longrun.solvers.spectral import forward, indices, inverse, resample, retained
from longrun.solvers.vorticity import advection, to_velocity

LENGTH = 2 * math.pi


def begin(equation, count=2, **parameters):
    """Parameters, some of them given, and initial states, as tensors."""
    drawn, state = equation.sample([np.random.default_rng(i) for i in range(count)])
    drawn = {name: torch.tensor(value) for name, value in drawn.items()}
    drawn |= {name: torch.full_like(drawn[name], value) for name, value in parameters.items()}
    return drawn, torch.tensor(state)


def flow(points=24, **options):
    """A Navier-Stokes problem that 24 points resolve."""
    given = {"viscosity": 0.1, "initial": "vortices", "length": LENGTH, "dt": 0.5, "substeps": 10}
    equation = NavierStokes2D(points=points, **given | options)
    return equation, *begin(equation)


def plume(points=24, **options):
    """The same for smoke."""
    given = {"viscosity": 0.1, "diffusivity": 0.08, "buoyancy": 0.5, "initial": "vortices"}
    given |= {"length": LENGTH, "dt": 0.5, "substeps": 20}
    equation = Smoke(points=points, **given | options)
    return equation, *begin(equation)


def coordinates(points, length=LENGTH):
    """Coordinates of the grid, x along the first axis."""
    return torch.meshgrid(*[length * torch.arange(points).double() / points] * 2, indexing="ij")


def derivatives(field, length=LENGTH):
    """Derivatives along x and y, by full complex transforms of numpy."""
    k = 2 * np.pi / length * np.fft.fftfreq(field.shape[-1], 1 / field.shape[-1])
    spectrum = np.fft.fft2(field)
    return [np.fft.ifft2(1j * axis * spectrum).real for axis in (k[:, None], k)]


def velocity(vorticity, length=LENGTH):
    """Velocity by the stream function, by numpy."""
    k = 2 * np.pi / length * np.fft.fftfreq(vorticity.shape[-1], 1 / vorticity.shape[-1])
    squared = k[:, None] ** 2 + k**2
    squared[0, 0] = np.inf
    slopes = derivatives(np.fft.ifft2(np.fft.fft2(vorticity) / squared).real, length)
    return np.stack([slopes[1], -slopes[0]], axis=-3)


def mean(field):
    return field.mean((-2, -1))


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def close(left, right, atol):
    torch.testing.assert_close(left, right, rtol=0, atol=atol)


@pytest.mark.parametrize("points", [16, 18])
def test_advection_agrees_with_its_advective_form(points):
    x, y = (index[None, None] for index in indices((points, points)))
    keep = retained((points, points))
    noise = torch.randn(2, 1, points, points, generator=torch.Generator().manual_seed(0)).double()
    vorticity = forward(noise, 2) * keep
    u, v = inverse(to_velocity(x, y) * vorticity, (points, points)).split(1, 1)
    slopes = [inverse(1j * index * vorticity, (points, points)) for index in (x, y)]
    expected = forward(-u * slopes[0] - v * slopes[1], 2)
    found = advection(x, y, (points, points))(vorticity)
    close(found * keep, expected * keep, 1e-15)


@pytest.mark.parametrize("fields", ["vorticity", "velocity"])
def test_taylor_green_vortex_decays_exactly(fields):
    """Its advection vanishes, so any step is exact; drag adds to the viscous decay."""
    equation, parameters, _ = flow(16, viscosity=0.05, drag=0.1, dt=0.7, fields=fields)
    x, y = coordinates(16)
    state = 2 * torch.cos(2 * x) * torch.cos(y)
    if fields == "velocity":  # (psi_y, -psi_x) of psi = vorticity / 5
        u, v = -torch.cos(2 * x) * torch.sin(y), 2 * torch.sin(2 * x) * torch.cos(y)
        state = 2 / 5 * torch.stack([u, v])
    state = state.reshape(1, -1, 16, 16).repeat(2, 1, 1, 1)
    found = equation.solver(parameters, substeps=1).rollout(state, 3)[:, -1]
    close(found, state * math.exp(-(5 * 0.05 + 0.1) * 0.7 * 3), 1e-14)


@pytest.mark.parametrize(
    ("forcing", "wavenumber", "curl"),
    [
        ("kolmogorov", 3, lambda x, y: -3 * torch.cos(3 * y)),
        ("cells", 2, lambda x, y: 2 * (torch.cos(2 * x) + torch.cos(2 * y))),
        ("fno", 1, lambda x, y: torch.sin(x + y) + torch.cos(x + y)),
    ],
)
def test_forced_flow_from_rest_is_laminar(forcing, wavenumber, curl):
    """Its advection vanishes: amplitude curl / rate (1 - exp(-rate t)), by any step."""
    equation, parameters, state = flow(
        16, forcing=forcing, wavenumber=wavenumber, amplitude=0.7, drag=0.2, length=2 * LENGTH
    )
    rate = 0.1 * (wavenumber / 2) ** 2 * (2 if forcing == "fno" else 1) + 0.2
    expected = 0.7 / rate * (1 - math.exp(-rate * 0.5)) * curl(*coordinates(16))
    if forcing != "fno":  # a force of the velocity: its curl is shallower in a longer box
        expected = expected / 2
    found = equation.solver(parameters, substeps=1).step(torch.zeros_like(state))
    close(found, expected.expand_as(found), 1e-14)


def test_rossby_waves_are_exact():
    """One wave: omega = -beta k / (k^2 + l^2), damped by viscosity and drag, by any step."""
    equation, parameters, _ = flow(16, beta=3.0, drag=0.1, viscosity=0.01)
    x, y = coordinates(16)
    for k, l in [(1, 0), (2, -3), (4, 1)]:  # noqa: E741
        omega, damping = -3.0 * k / (k**2 + l**2), 0.01 * (k**2 + l**2) + 0.1
        state, found = torch.cos(k * x + l * y).expand(2, 1, 16, 16), None
        found = equation.solver(parameters, substeps=2).step(state)
        expected = torch.cos(k * x + l * y - 0.5 * omega) * math.exp(-0.5 * damping)
        close(found, expected.expand_as(found), 1e-13)


def independent(equation, parameters, state, time):
    """Vorticity and smoke by DOP853, advective form, full complex transforms of numpy."""
    length = parameters["length"][0].item()
    one = {name: value[0].item() for name, value in parameters.items()}
    points = state.shape[-1]
    x, y = (axis.numpy() for axis in coordinates(points, length))
    index = abs(np.fft.fftfreq(points, 1 / points))
    keep = (index[:, None] < points / 3) & (index < points / 3)
    force = np.zeros((2, points, points))
    k = 2 * np.pi / length * getattr(equation, "wavenumber", 0)
    if getattr(equation, "forcing", "none") == "kolmogorov":
        force[0] = one["amplitude"] * np.sin(k * y)
    if getattr(equation, "forcing", "none") == "cells":
        force = one["amplitude"] * np.stack([-np.sin(k * y), np.sin(k * x)])
    diffusivities = np.array([one.get("diffusivity", 0), one["viscosity"]])[:, None, None]

    def tendency(_, flat):
        fields = flat.reshape(2, points, points)
        s_x, s_y = derivatives(fields, length)
        u, v = velocity(fields[1], length)
        second = derivatives(s_x, length)[0] + derivatives(s_y, length)[1]
        rate = diffusivities * second - u * s_x - v * s_y
        rate[1] += derivatives(force[1], length)[0] - derivatives(force[0], length)[1]
        rate[1] += one.get("buoyancy", 0) * s_x[0]
        rate[1] -= one.get("beta", 0) * v + one.get("drag", 0) * fields[1]
        return np.fft.ifft2(keep * np.fft.fft2(rate)).real.ravel()

    s = state[0, 0].numpy() if len(equation.fields) == 3 else np.zeros((points, points))
    slopes = derivatives(state[0].numpy(), length)
    vorticity = slopes[0][-1] - slopes[1][-2] if len(slopes[0]) > 1 else state[0, 0].numpy()
    began = np.fft.ifft2(keep * np.fft.fft2(np.stack([s, vorticity]))).real
    run = scipy.integrate.solve_ivp(
        tendency, (0, time), began.ravel(), "DOP853", rtol=1e-11, atol=1e-12
    )
    s, vorticity = run.y[:, -1].reshape(2, points, points)
    return s, vorticity, velocity(vorticity, length)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"forcing": "kolmogorov", "wavenumber": 2, "drag": 0.1, "amplitude": 0.5},
        {"forcing": "cells", "wavenumber": 2, "beta": 2.0, "fields": "velocity", "length": 5.0},
    ],
)
def test_flow_agrees_with_an_independent_solution(options):
    equation, parameters, state = flow(18, **options)
    _, vorticity, uv = independent(equation, parameters, state, 1.0)
    found = equation.solver(parameters, substeps=40, stride=2).step(state)[0].numpy()
    expected = uv if "fields" in options else vorticity[None]
    assert np.abs(found - expected).max() < 2e-9 * np.abs(expected).max()


@pytest.mark.parametrize("buoyancy", [0.0, 0.5])
def test_smoke_agrees_with_an_independent_solution(buoyancy):
    equation, parameters, state = plume(18, buoyancy=buoyancy)
    smoke, _, uv = independent(equation, parameters, state, 1.0)
    found = equation.solver(parameters, substeps=40, stride=2).step(state)[0].numpy()
    assert np.abs(found - np.concatenate([smoke[None], uv])).max() < 2e-9


@pytest.mark.parametrize(("integrator", "expected"), [("etdrk2", 2), ("etdrk4", 4)])
@pytest.mark.parametrize("problem", [flow, plume])
def test_order_in_time(problem, integrator, expected):
    equation, parameters, state = problem(integrator=integrator)
    with torch.no_grad():
        state = equation.solver(parameters).step(state)
        reference = equation.solver(parameters, substeps=100).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (8, 16, 32)
        ]
    assert np.all(np.abs(order(errors) - expected) < 0.25), (errors, order(errors))


@pytest.mark.parametrize("problem", [flow, plume])
def test_convergence_in_space_is_spectral(problem):
    """Each six points more divide the error by more than the last ones did any power law."""
    fine, parameters, state = problem(64)
    with torch.no_grad():
        expected = fine.solver(parameters, stride=2).step(state)
        errors = []
        for points in (12, 24, 36):
            coarse = fine.solver(parameters, points=points, stride=2).step(resample(state, points))
            errors.append((resample(coarse, 64) - expected).norm() / expected.norm())
    # of a method of order p they would fall by 2^p, then by 1.5^p
    assert errors[1] < errors[0] / 2**4 and errors[2] < errors[1] / 1.5**10, errors


def simpson(values, spacing):
    return (
        spacing
        / 3
        * (values[0] + 4 * values[1:-1:2].sum(0) + 2 * values[2:-1:2].sum(0) + values[-1])
    )


def moments(field):
    """Mean square of a field and of its gradient."""
    return (field**2).mean((-2, -1)), sum((d**2).mean((-2, -1)) for d in derivatives(field))


@pytest.mark.parametrize("forcing", ["none", "kolmogorov"])
def test_budgets_of_energy_and_enstrophy(forcing):
    """Changes equal input minus drag minus dissipation, summed over time by Simpson's rule."""
    equation, parameters, state = flow(
        forcing=forcing, wavenumber=2, drag=0.3, beta=1.0, dt=0.02, substeps=1
    )
    with torch.no_grad():
        w = equation.solver(parameters).rollout(state, 41)[:, :, 0].numpy()
    _, y = coordinates(24)
    u = velocity(w)
    enstrophy, palinstrophy = moments(w)
    energy = (u**2).sum(-3).mean((-2, -1))
    force, curl = np.sin(2 * y.numpy()), -2 * np.cos(2 * y.numpy())
    on = float(forcing == "kolmogorov")
    # the dissipation of energy is viscosity times the mean square of vorticity
    rates = [
        (energy, on * (force * u[:, :, 0]).mean((-2, -1)) - 0.1 * enstrophy - 0.3 * energy),
        (enstrophy, on * (curl * w).mean((-2, -1)) - 0.1 * palinstrophy - 0.3 * enstrophy),
    ]
    for quantity, rate in rates:
        change = 0.5 * (quantity[:, -1] - quantity[:, 0])
        np.testing.assert_allclose(change, simpson(rate.T, 0.02), rtol=1e-5)


def test_budgets_of_smoke():
    """Variance falls by diffusion alone; what buoyancy does is the kinetic energy's source."""
    equation, parameters, state = plume(dt=0.02, substeps=1)
    with torch.no_grad():
        s, u, v = equation.solver(parameters).rollout(state, 41).numpy().swapaxes(0, 2)[:, :]
    variance, gradient = moments(s)
    _, slopes = moments(u)
    _, others = moments(v)
    energy = (u**2 + v**2).mean((-2, -1))
    work = 0.5 * (v * s).mean((-2, -1)) - 0.1 * (slopes + others)
    for quantity, rate in [(variance, -0.08 * gradient), (energy, work)]:
        change = 0.5 * (quantity[-1] - quantity[0])
        np.testing.assert_allclose(change, simpson(rate, 0.02), rtol=1e-6)


def test_without_viscosity_energy_and_enstrophy_are_conserved():
    """To the error of the steps, which falls by 2^5 or so when they are halved."""
    equation, parameters, state = flow()
    parameters["viscosity"] = torch.zeros(2).double()
    state = inverse(forward(state, 2) * retained((24, 24)), (24, 24)) * 2
    drifts = []
    for substeps in (8, 16, 32):
        with torch.no_grad():
            after = equation.solver(parameters, substeps=substeps, stride=4).step(state)
        drift = [
            abs(quantity(after) / quantity(state) - 1).max()
            for quantity in (
                lambda w: (velocity(w[:, 0]) ** 2).mean((1, 2, 3)),
                lambda w: (w.numpy() ** 2).mean((1, 2, 3)),
            )
        ]
        drifts.append(drift)
        assert (after - state).norm() > 0.5 * state.norm()  # something happened
    drifts = np.array(drifts)
    assert drifts[-1].max() < 1e-6 and (drifts[:-1] / drifts[1:]).min() > 16, drifts


def test_passive_smoke_does_not_act_on_the_flow():
    equation, parameters, state = plume(buoyancy=0.0)
    alone = NavierStokes2D(points=24, viscosity=0.1, initial="vortices", fields="velocity")
    own = {name: parameters[name] for name in ("length", "dt", "viscosity")}
    own |= {name: torch.zeros(2).double() for name in ("drag", "beta")}
    with torch.no_grad():
        expected = alone.solver(own, substeps=20).step(state[:, 1:])
        close(equation.solver(parameters).step(state)[:, 1:], expected, 1e-13)


def test_velocity_and_vorticity_are_the_same_solution():
    options = {"forcing": "kolmogorov", "beta": 1.0, "length": 5.0, "wavenumber": 2}
    equation, parameters, state = flow(**options)
    other, _, uv = flow(fields="velocity", **options)
    w = equation.solver(parameters).step(state).numpy()
    found = other.solver(parameters).step(uv).numpy()
    np.testing.assert_allclose(found, velocity(w[:, 0], 5.0), rtol=0, atol=1e-13)


def test_means_stay_zero_and_that_of_smoke_what_it_was():
    for equation, parameters, state in (
        flow(forcing="cells", beta=1.0),
        flow(fields="velocity"),
        plume(),
    ):
        with torch.no_grad():
            means = mean(equation.solver(parameters).rollout(state, 10))
        close(means, mean(state)[:, None].expand_as(means), 1e-15)


class TestSymmetries:
    """Each maps solutions onto solutions, and nodes of the grid onto nodes."""

    def check(self, problem, move, moved_parameters=None, atol=1e-12):
        equation, parameters, state = problem
        with torch.no_grad():
            after = equation.solver(parameters).step(state)
            found = equation.solver(moved_parameters or parameters).step(move(state))
        close(found, move(after), atol)
        assert (after - move(after)).norm() > 0.1 * after.norm()

    def test_translation(self):
        for problem in (flow(beta=1.0), plume()):
            self.check(problem, lambda state: state.roll((3, -5), (-2, -1)))

    def test_rotation_by_a_right_angle(self):
        self.check(flow(), lambda w: w.rot90(1, (-2, -1)).roll(1, -2))
        self.check(
            flow(fields="velocity"),
            # rot90 turns the axis of y towards that of -x, so (u, v) becomes (-v, u)
            lambda uv: torch.stack([-uv[:, 1], uv[:, 0]], 1).rot90(1, (-2, -1)).roll(1, -2),
        )

    def test_parity(self):
        """y to -y changes the sign of vorticity, also on a beta plane; x to -x without it."""
        self.check(flow(beta=2.0), lambda w: -w.flip(-1).roll(1, -1))
        self.check(flow(), lambda w: -w.flip(-2).roll(1, -2))

    def test_smoke_in_a_mirror(self):
        signs = torch.tensor([1.0, -1.0, 1.0]).reshape(-1, 1, 1)
        self.check(plume(), lambda state: signs * state.flip(-2).roll(1, -2))

    def test_scaling(self):
        """Lengths and times twice as large, viscosity too: vorticity is half as large."""
        problem = flow()
        parameters = problem[1]
        scaled = {name: 2 * value for name, value in parameters.items()}
        self.check(problem, lambda w: w / 2, scaled)


@pytest.mark.parametrize("problem", [flow, plume])
def test_parameters_vary_over_the_batch(problem):
    equation, parameters, state = problem()
    factors = torch.tensor([1.0, 1.3], dtype=torch.float64)
    parameters = {name: value * factors for name, value in parameters.items()}
    parameters |= {"beta": factors} if "beta" in parameters else {}
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(2):
            own = {name: value[i : i + 1] for name, value in parameters.items()}
            close(equation.solver(own).step(state[i : i + 1])[0], whole[i], 1e-13)


@pytest.mark.parametrize(
    "equation",
    [
        NavierStokes2D(points=8, forcing="kolmogorov", wavenumber=1, beta=1.0),
        NavierStokes2D(points=8, fields="velocity"),
        Smoke(points=8),
    ],
)
def test_gradients_agree_with_finite_differences(equation):
    parameters = {name: torch.ones(1).double() for name in equation.distributions}
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(1, len(equation.fields), 8, 8, generator=generator).double()
    solver = equation.solver(parameters, substeps=1)
    assert torch.autograd.gradcheck(solver.step, state.requires_grad_(), fast_mode=True)


class TestInitialConditions:
    def draw(self, name, count=1):
        return [initial.FLOWS[name](np.random.default_rng(i)) for i in range(count)]

    def test_they_are_the_same_functions_on_every_grid(self):
        for name in initial.FLOWS:
            for fields in ("vorticity", "velocity"):
                coarse, fine = (
                    NavierStokes2D(points=n, initial=name, fields=fields, dt=1e-3, viscosity=1.0)
                    for n in (24, 240)
                )
                few, many = begin(coarse)[1], begin(fine)[1]
                held = inverse(forward(few, 2) * retained((24, 24)), (24, 24))
                close(held, few, 1e-13)  # they hold nothing that the solver cuts off
                many = resample(many, 24)
                many = inverse(forward(many, 2) * retained((24, 24)), (24, 24))
                close(few, many, 1e-11)

    def test_random_field_has_the_stated_covariance(self):
        fields = np.stack(self.draw("random_field", 400)) * 2 * np.pi
        k = 2 * np.pi * np.hypot(3, 2)
        expected = 7**3 * (k**2 + 49) ** -2.5
        centre = initial.MODES
        for mode in (fields[:, centre + 3, 2], fields[:, centre - 2, 3]):
            np.testing.assert_allclose(np.mean(np.abs(mode) ** 2), expected, rtol=0.15)

    def test_mcwilliams_has_unit_energy(self):
        for modes in self.draw("mcwilliams", 3):
            u, v = (initial.on_grid(c, 200) for c in initial.velocity(modes))
            assert 0.5 * np.mean(u**2 + v**2) == pytest.approx(1, rel=1e-12)

    @pytest.mark.parametrize(
        ("name", "largest"),
        [("filtered_velocity", 7), ("sines", 1), ("vortices", 1), ("piecewise_constant", 1)],
    )
    def test_largest_speed(self, name, largest):
        (modes,) = self.draw(name)
        u, v = (initial.on_grid(c, 400) for c in initial.velocity(modes))
        assert np.hypot(u, v).max() == pytest.approx(largest, rel=5e-3)

    def test_vorticity_is_the_curl_of_the_velocity(self):
        for name in initial.FLOWS:
            (modes,) = self.draw(name)
            u, v = (initial.on_grid(c, 200) for c in initial.velocity(modes))
            curl = derivatives(v)[0] - derivatives(u)[1]
            np.testing.assert_allclose(curl, initial.on_grid(modes, 200), rtol=0, atol=1e-10)

    def test_vortices_and_squares_look_like_themselves(self):
        (modes,) = self.draw("vortices")
        generator = np.random.default_rng(0)
        peak = generator.uniform(-1, 1, 30)
        radius = generator.uniform(0.04, 0.1, (30, 1))[:, 0]
        cx, cy = generator.uniform(0, 1, (2, 30, 1))[..., 0]
        x = np.arange(96) / 96
        expected = np.zeros((96, 96))
        for p, r, a, b in zip(peak, radius, cx, cy, strict=True):
            along = [
                sum(np.exp(-0.5 * ((x - c + n) / r) ** 2) for n in range(-2, 3)) for c in (a, b)
            ]
            expected += p * np.outer(*along)
        expected -= expected.mean()
        field = initial.on_grid(modes, 96)
        np.testing.assert_allclose(field / field.std(), expected / expected.std(), atol=1e-6)
        (modes,) = self.draw("piecewise_constant")
        values = np.random.default_rng(0).uniform(-1, 1, (10, 10))
        middles = initial.on_grid(modes, 200)[10::20, 10::20]
        assert np.corrcoef(middles.ravel(), values.ravel())[0, 1] > 0.999

    def test_smoke_fills_the_interval(self):
        smoke = begin(Smoke(points=64, viscosity=1.0, substeps=99))[1][:, 0]
        assert smoke.amin((1, 2)) == pytest.approx([0, 0], abs=0.02)
        assert smoke.amax((1, 2)) == pytest.approx([1, 1], abs=0.02)


@pytest.mark.parametrize(
    ("equation", "options", "message"),
    [
        (NavierStokes2D, {"points": 33}, "points must be even and at least 8, is 33; take 34"),
        (NavierStokes2D, {"viscosity": -1.0}, "viscosity must be positive"),
        (NavierStokes2D, {"drag": -1.0}, "drag must be at least 0"),
        (
            NavierStokes2D,
            {"points": 16, "forcing": "kolmogorov", "wavenumber": 6},
            "wavenumber of the forcing must be from 1 to 5",
        ),
        (NavierStokes2D, {"substeps": 1, "dt": 0.5}, "1 substeps are too few .* at least [0-9]+"),
        (
            NavierStokes2D,
            {"viscosity": 1e-5, "substeps": 9},
            "64 points are too few for viscosity 1e-05",
        ),
        (Smoke, {"buoyancy": 0.0}, "at buoyancy 0 nothing moves from rest"),
        (Smoke, {"diffusivity": 0.0}, "diffusivity must be positive"),
        (Smoke, {"substeps": 10}, "10 substeps are too few .* at least [0-9]+ are needed"),
    ],
)
def test_bad_options_are_refused_in_one_line(equation, options, message):
    with pytest.raises(UserError, match=message) as error:
        equation(**options).sample([np.random.default_rng(0)])
    assert "\n" not in str(error.value)


def test_a_grid_that_is_rather_coarse_gets_a_warning(caplog):
    NavierStokes2D(viscosity=5e-3, substeps=8).sample([np.random.default_rng(0)])
    assert "64 points are few for viscosity 0.005" in caplog.text
