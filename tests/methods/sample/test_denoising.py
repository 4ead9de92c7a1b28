"""Samplers that borrow a denoiser: levels, exact noise, and steps against known answers."""

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from scipy import integrate, stats

from longrun.equations._base import Law
from longrun.equations.gaussian_field import GaussianField
from longrun.methods.sample import dpm_solver_pp
from longrun.methods.sample.deis import DEIS, coefficients, growth
from longrun.methods.sample.dpm_solver_pp import DPMSolverPP
from longrun.methods.sample.momentum import Momentum, mixed
from longrun.methods.sample.rectified_flow import RectifiedFlow
from longrun.methods.sample.rho_runge_kutta import RhoRungeKutta
from longrun.nn.mixture import ExactNoise
from longrun.runtime.cli import UserError
from longrun.tasks._denoising import carried_exactly, level_of, levels, time_of

GRIDS = ["time", "quadratic", "log", "karras"]
SAMPLERS = [
    (DEIS, {"degree": 0}),
    (DEIS, {"degree": 3}),
    (DEIS, {"degree": 2, "variable": "level"}),
    (RhoRungeKutta, {"scheme": "heun"}),
    (RhoRungeKutta, {"scheme": "classical"}),
    (DPMSolverPP, {}),
    (Momentum, {"depth": 2, "damping": 0.8}),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def points(kind=DEIS, **options):
    """A sampler of the mixture on a circle, normalised as it is."""
    given = {
        "fields": 2,
        "dims": 0,
        "conditions": 0,
        "equation": {"name": "gaussian_mixture"},
        "parameter_names": ["radius", "spread"],
        "denoiser": "law",
    }
    return kind(**(given | options)).double()


def field(kind=DEIS, laws=4, **options):
    """A sampler of fields, each of a law of its own."""
    module = kind(
        fields=1,
        dims=1,
        conditions=1,
        equation={"name": "gaussian_field", "laws": laws},
        parameter_names=["length", "law"],
        denoiser="law",
        **options,
    )
    module.fit_statistics(
        {
            "mean": [0.05],
            "std": [0.9],
            "condition_low": [1.0, 0.0],
            "condition_high": [1.0, float(laws - 1)],
        }
    )
    return module.double()


# Levels ------------------------------------------------------------------------------------------


def test_levels_and_times_are_inverse():
    time = np.linspace(1e-4, 1, 50)
    np.testing.assert_allclose(time_of(level_of(time)), time, rtol=1e-9)
    a = np.exp(-(time**2) * (20 - 0.1) / 4 - time * 0.1 / 2)  # Song et al. (2021)
    np.testing.assert_allclose(level_of(time), np.sqrt(1 - a**2) / a, rtol=1e-9)
    slope = (level_of(time + 1e-6) - level_of(time - 1e-6)) / 2e-6
    np.testing.assert_allclose(growth(time), slope, rtol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_all_grids_fall_between_the_same_ends(grid):
    rho = levels(grid, 12, 1e-3)
    assert len(rho) == 13 and (np.diff(rho) < 0).all()
    np.testing.assert_allclose(rho[[0, -1]], [152.17, 0.010486], rtol=1e-4)


# The exact noise ---------------------------------------------------------------------------------


def test_the_noise_of_a_field_is_minus_the_score_of_its_density():
    """On the basis; what the basis doesn't span is all noise."""
    equation, level = GaussianField(points=16, highest=5, laws=2), 0.7
    law = equation.law({"law": np.array([1.0])})
    offset, scale = 0.2, 1.3  # by which frames are normalised
    frame = normal(3, 1, 16)
    noise = ExactNoise(
        law,
        torch.tensor([offset], dtype=torch.float64),
        torch.tensor([scale], dtype=torch.float64),
        frame,
    )(frame, level)
    values = law.basis @ (scale * (frame[:, 0].numpy() + offset / scale)).T
    variances, step = law.variances[0, 0] + (level * scale) ** 2, 1e-5

    def log_density(c):
        parts = [stats.norm(m, np.sqrt(variances)).logpdf(c.T).sum(1) for m in law.means[0]]
        return np.logaddexp.reduce(parts, axis=0)

    for j in range(len(law.basis)):
        moved = np.zeros_like(values)
        moved[j] = step
        slope = (log_density(values + moved) - log_density(values - moved)) / (2 * step)
        found = noise[:, 0].numpy() @ law.basis[j]
        np.testing.assert_allclose(found, -level * scale * slope, rtol=1e-5, atol=1e-8)
    rest = np.eye(16) - law.basis.T @ law.basis
    expected = rest @ (frame[:, 0].numpy() + offset / scale).T / level
    np.testing.assert_allclose(rest @ noise[:, 0].numpy().T, expected, atol=1e-10)


def test_each_trajectory_has_the_law_that_its_parameter_names():
    module, frame = field(laws=4), normal(4, 1, 64)
    parameters = torch.tensor([[1.0, n] for n in (0.0, 3.0, 1.0, 2.0)], dtype=torch.float64)
    together = module.noise(frame[:, :0], module.scaled_conditions(parameters))(frame, 0.5)
    for row in range(4):
        one = slice(row, row + 1)
        alone = module.noise(frame[one, :0], module.scaled_conditions(parameters[one]))
        torch.testing.assert_close(alone(frame[one], 0.5), together[one])
    other = module.noise(frame[:, :0], module.scaled_conditions(parameters.flip(0)))
    assert not torch.allclose(other(frame, 0.5), together)


def test_fields_are_drawn_from_their_law_and_laws_differ():
    equation = GaussianField(laws=3)
    parameters, frames = equation.sample([np.random.default_rng(i) for i in range(3000)])
    assert set(parameters["law"]) == {0, 1, 2}
    law = equation.law(parameters)
    values = frames[:, 0] @ law.basis.T
    np.testing.assert_allclose(values @ law.basis, frames[:, 0], atol=1e-12)
    distance = (np.square(values[:, None] - law.means) / law.variances).sum(-1).min(1)
    assert distance.mean() == pytest.approx(62, rel=0.02)  # chi squared of the nearest
    assert frames.std() == pytest.approx(1, rel=0.1)
    assert np.abs(equation.centres[0] - equation.centres[1]).max() > 0.5
    np.testing.assert_array_equal(equation.centres[1], GaussianField(laws=9).centres[1])


# Steps -------------------------------------------------------------------------------------------


def gaussian(mean=0.4, variance=0.25):
    """Return the noise of one Gaussian, whose paths are known."""
    law = Law(np.full((1, 1, 2), mean), np.full((1, 1, 2), variance))
    return ExactNoise(law, torch.zeros(2), torch.ones(2), normal(1))


def known(start, rho, mean=0.4, variance=0.25):
    """Between two levels a deviation keeps its share of the standard deviation."""
    return mean + (start - mean) * np.sqrt((variance + rho[-1] ** 2) / (variance + rho[0] ** 2))


def test_the_exact_answer_is_that_of_one_gaussian():
    start = normal(20, 2)
    rho = levels("log", 400, 1e-3)
    found = carried_exactly(gaussian(), start, 400, 1e-3)
    torch.testing.assert_close(found, known(rho[0] * start, rho), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("kind", "options"), SAMPLERS)
def test_steps_end_where_one_gaussian_says(kind, options):
    module, start = points(kind, **options), normal(20, 2)
    errors = []
    for steps in (20, 40):
        rho = levels(module.grid, steps, 1e-3)
        state = rho[0] * start
        errors.append((module.carry(state, rho, gaussian()) - known(state, rho)).abs().max())
    assert errors[1] < errors[0] / 1.7
    assert errors[1] < (0.1 if module.order == 1 else 0.02)


@pytest.mark.parametrize(("kind", "options"), SAMPLERS)
@pytest.mark.parametrize("calls", [1, 5, 12])
def test_a_draw_makes_no_more_calls_than_it_is_allowed(kind, options, calls, monkeypatch):
    module, made = points(kind, **options), []
    noise = module.noise

    def counted(*given):
        exact = noise(*given)

        def call(state, level):
            made.append(level)
            return exact(state, level)

        return call

    monkeypatch.setattr(module, "noise", counted)
    module.draw(normal(2, 0), normal(2, 2), generator(), calls)
    assert len(made) <= max(calls, module.stages)
    assert len(made) > calls - module.stages


@pytest.mark.parametrize("variable", ["time", "level"])
def test_coefficients_integrate_polynomials_of_their_degree_exactly(variable):
    rho = levels("quadratic", 10, 1e-3)[3:8]  # four noises, and the end of the step
    u = time_of(rho) if variable == "time" else rho
    for power in range(4):
        found = coefficients(rho, variable) @ (u[-2::-1] ** power)

        def integrand(at, power=power):
            return (time_of(np.array([at]))[0] if variable == "time" else at) ** power

        expected = integrate.quad(integrand, rho[-2], rho[-1], epsabs=1e-13)[0]
        assert found == pytest.approx(expected, rel=1e-10)


def test_degree_zero_is_ddim():
    """x' = a' D + s' eps, on a path whose a and s are those of the variance-preserving one."""
    module, exact, start = points(degree=0), gaussian(), normal(5, 2)
    rho = levels("time", 7, 1e-3)
    a = 1 / np.sqrt(1 + rho**2)
    x, s = a[0] * rho[0] * start, a * rho
    for i in range(7):
        eps = exact(x / a[i], float(rho[i]))
        x = a[i + 1] * (x - s[i] * eps) / a[i] + s[i + 1] * eps
    torch.testing.assert_close(module.carry(rho[0] * start, rho, exact), x / a[-1])


def test_two_steps_of_the_denoised_data_are_those_of_diffusers():
    steps, start = 20, normal(6, 2)
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver++",
        solver_order=2,
        lower_order_final=False,
        use_lu_lambdas=False,
        final_sigmas_type="sigma_min",
    )
    scheduler.set_timesteps(steps + 1)
    rho = scheduler.sigmas[: steps + 1].double().numpy()  # s / a there
    exact, a = gaussian(), 1 / np.sqrt(1 + rho**2)
    x = a[0] * rho[0] * start
    for i, time in enumerate(scheduler.timesteps[:steps]):
        eps = exact(x / a[i], float(rho[i]))
        x = scheduler.step(eps, time, x).prev_sample
    found = points(DPMSolverPP).carry(rho[0] * start, rho, exact)
    torch.testing.assert_close(found, (x / a[-1]).double(), rtol=1e-4, atol=1e-5)


# Momentum ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_without_momentum_the_weights_are_those_of_adams_and_bashforth(depth):
    """The integral over the next step of the polynomial through the last values."""
    at = -np.arange(depth)
    expected = [
        integrate.quad(
            lambda x, j=j: np.prod([(x - k) / (at[j] - k) for k in np.delete(at, j)]), 0, 1
        )[0]
        for j in range(depth)
    ]
    np.testing.assert_allclose(mixed(depth, 1.0), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "depth", "low", "high"),
    [
        ("hb", 3, 0.8, 1.2),
        ("ghvb", 1, 0.8, 1.2),
        ("ghvb", 2, 1.8, 2.2),
        ("ghvb", 3, 2.3, 3.2),  # the first steps, of lower degree, leave an error of second order
    ],
)
def test_on_equal_steps_the_correction_brings_the_order_back(form, depth, low, high):
    module = points(Momentum, form=form, depth=depth, damping=0.7)
    start, exact, errors = normal(20, 2), gaussian(), []
    for steps in (64, 128, 256):
        rho = np.linspace(2.0, 0.5, steps + 1)
        state = module.carry(start, rho, exact)
        errors.append((state - known(start, rho)).abs().max().item())
    slope = -np.polyfit(np.log([64, 128, 256]), np.log(errors), 1)[0]
    assert low < slope < high


def ends(form, depth, damping, rate):
    """The size of y after 2000 steps of dy/dt = -y from 1, each of this length."""
    module = points(Momentum, form=form, depth=depth, damping=damping)
    state = torch.ones(1, 1, dtype=torch.float64)
    last = module.carry(state, np.arange(2001.0), lambda y, _: -rate * y).abs().item()
    return last if np.isfinite(last) else np.inf


@pytest.mark.parametrize(
    ("form", "depth", "damping", "longest"),
    [
        ("ghvb", 1, 1.0, 2.0),  # Euler's
        ("ghvb", 2, 1.0, 1.0),  # Adams and Bashforth's, as textbooks have them
        ("ghvb", 4, 1.0, 0.3),
        ("hb", 2, 0.8, 1.5),  # and further with momentum, by the roots of the recurrence
        ("hb", 2, 0.6, 7 / 3),
        ("ghvb", 2, 0.8, 1.2),
        ("ghvb", 2, 0.6, 1.4),
        ("hb", 4, 0.8, 0.45),
    ],
)
def test_momentum_is_stable_for_longer_steps(form, depth, damping, longest):
    assert ends(form, depth, damping, 0.96 * longest) < 1e-3
    assert ends(form, depth, damping, 1.04 * longest) > 1e3


def test_guidance_is_a_weighted_step_to_the_condition():
    frame, nothing = normal(4, 1, 64), normal(4, 0, 64)
    conditions = torch.zeros(4, 1, dtype=torch.float64)
    free, whole, twice = (
        field(guidance=w).noise(nothing.reshape(4, 0, 64), conditions)(frame, 0.4)
        for w in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(twice - free, 2 * (whole - free))
    equation = GaussianField(laws=4)
    law = equation.law({"law": np.zeros(4)})
    one = Law(law.means[:, :1], law.variances / 4, law.basis)
    mean, std = torch.tensor([[0.05], [0.9]])  # as the statistics of a module are kept
    alone = ExactNoise(one, mean, std, frame)(frame, 0.4)
    torch.testing.assert_close(whole, alone)


def test_guidance_without_a_law_is_refused():
    with pytest.raises(ValueError, match="guidance needs denoiser: law"):
        points(denoiser="network", guidance=2.0)


def test_the_last_of_few_steps_does_not_extrapolate(monkeypatch):
    module, exact, start = points(DPMSolverPP), gaussian(), normal(6, 2)
    rho = levels("time", 8, 1e-3)
    found = module.carry(rho[0] * start, rho, exact)
    monkeypatch.setattr(dpm_solver_pp, "FEW", 0)
    before, other = (module.carry(rho[0] * start, at, exact) for at in (rho[:-1], rho))
    kept = float(rho[-1] / rho[-2])
    data = before - rho[-2] * exact(before, float(rho[-2]))
    torch.testing.assert_close(found, kept * before + (1 - kept) * data)
    error, extrapolated = ((x - known(rho[0] * start, rho)).abs().max() for x in (found, other))
    assert error < extrapolated


# A trained network -------------------------------------------------------------------------------


def test_a_networks_noise_is_that_of_its_flow():
    """Carried along the levels, noise ends where the flow's own equation brings it."""
    torch.manual_seed(0)
    options = {"width": 16, "layers": 2}
    flow = RectifiedFlow(fields=2, dims=0, conditions=0, fine_steps=4000, **options).double()
    module = points(denoiser="network", last=1e-5, fine_steps=2000, **options)
    module.prepare(None, [flow])
    nothing, start = normal(4, 0), normal(4, 2)
    noise = module.noise(nothing, nothing)
    found = carried_exactly(noise, start, 2000, 1e-5)
    first = float(levels("log", 1, 1e-5)[0])
    begun = 1 / (1 + first)  # the time at which draws begin
    state, steps = first * start * begun, 4000
    for n in range(steps):  # Euler's method on dz/dt = v
        time = begun + (1 - begun) * n / steps
        slope = flow.velocity(state, torch.full((4,), time).double(), nothing, nothing)
        state = state + (1 - begun) / steps * slope
    torch.testing.assert_close(found, state, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "sources", "message"),
    [
        ({}, ["flow"], "denoiser: law takes none"),
        ({"denoiser": "network", "width": 16, "layers": 2}, [], "needs starts_from"),
        ({"denoiser": "network", "width": 8, "layers": 2}, ["flow"], "width, layers"),
    ],
)
def test_a_denoiser_that_does_not_fit_is_refused(options, sources, message):
    flow = RectifiedFlow(fields=2, dims=0, conditions=0, width=16, layers=2)
    with pytest.raises(ValueError, match=message):
        points(**options).prepare(None, [flow for _ in sources])


def test_a_law_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="kuramoto_sivashinsky is not"):
        points(
            fields=1,
            dims=1,
            equation={"name": "kuramoto_sivashinsky", "points": 16, "length": 8.0, "dt": 1.0},
            parameter_names=["length", "dt", "viscosity"],
        )


@pytest.mark.parametrize(
    "options", [{"points": 10, "highest": 5}, {"laws": 0}, {"components": 0}, {"spread": -1.0}]
)
def test_impossible_fields_are_refused(options):
    with pytest.raises(UserError):
        GaussianField(**options)
