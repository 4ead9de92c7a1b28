"""Three-dimensional Navier-Stokes: exact solutions, budgets, symmetries and subgrid models."""

import logging
import math

import numpy as np
import pytest
import torch

from longrun.equations.navier_stokes_3d import NavierStokes3D
from longrun.runtime.cli import UserError
from longrun.solvers import incompressible_3d
from longrun.solvers.spectral import forward, indices, inverse

CLOSURES = ["none", "smagorinsky", "dynamic_smagorinsky"]


def build(points=16, **options):
    return NavierStokes3D(points=points, **{"viscosity": 0.05, "peak": 2.0} | options)


def draw(equation, count=1, seed=0):
    parameters, state = equation.sample([np.random.default_rng([seed, i]) for i in range(count)])
    return {name: torch.tensor(value) for name, value in parameters.items()}, torch.tensor(state)


def developed(equation, count=1, seed=0, frames=10):
    """Parameters and states after a while."""
    parameters, state = draw(equation, count, seed)
    with torch.no_grad():
        return parameters, equation.solver(parameters, stride=frames).step(state)


def coordinates(points):
    line = 2 * torch.pi * torch.arange(points, dtype=torch.float64) / points
    return torch.meshgrid(line, line, line, indexing="ij")


def mean(field):
    return field.mean((-3, -2, -1))


def energy(state):
    return 0.5 * mean(state.square().sum(1))


def divergence(state):
    """Coordinates of cubic cells; times the extent along x over 2 pi."""
    spectrum, grid = forward(state, 3), state.shape[2:]
    waves = [k * grid[0] / n for k, n in zip(indices(grid), grid, strict=True)]
    parts = [1j * k * spectrum[:, i] for i, k in enumerate(waves)]
    return inverse(sum(parts), state.shape[2:])


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_taylor_green_vortex_decays_exactly(axes):
    x = coordinates(16)
    a, b, _ = (x[i] for i in axes)
    state = torch.zeros(1, 3, 16, 16, 16, dtype=torch.float64)
    state[0, axes[0]], state[0, axes[1]] = a.sin() * b.cos(), -a.cos() * b.sin()
    equation = build(dt=0.5, substeps=8)
    parameters, _ = draw(equation)
    found = equation.solver(parameters).step(state)
    torch.testing.assert_close(found, state * math.exp(-2 * 0.05 * 0.5), rtol=0, atol=1e-13)


def test_beltrami_flow_decays_exactly_and_is_carried_by_a_mean_flow():
    """Arnold, Beltrami, Childress, with vorticity equal to velocity; shifted by whole cells."""
    x, y, z = coordinates(16)
    state = torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()])[None]
    equation = build(dt=0.5, substeps=24)
    parameters, _ = draw(equation)
    solver = equation.solver(parameters)
    exact = state * math.exp(-0.05 * 0.5)
    torch.testing.assert_close(solver.step(state), exact, rtol=0, atol=1e-13)
    drift = torch.tensor([2, -1, 1]) * (2 * torch.pi / 16) / 0.5
    drift = drift.double().reshape(1, 3, 1, 1, 1)
    carried = solver.step(state + drift) - drift
    shifted = exact.roll((2, -1, 1), (2, 3, 4))
    torch.testing.assert_close(carried, shifted, rtol=0, atol=1e-7)


def test_laminar_mixing_layer_diffuses():
    equation = build(
        flow="mixing_layer", noise=0.0, thickness=0.8, length=4 * math.pi, dt=1.0, substeps=12
    )
    parameters, state = draw(equation)
    assert state.shape == (1, 3, 16, 32, 32)
    found = equation.solver(parameters).step(state)
    (index,) = indices((32,))
    decay = torch.exp(-0.05 * (index / 4) ** 2) * (index < 32 / 3)
    profile = inverse(forward(state[0, 2, 0, :, 0], 1) * decay, (32,))
    torch.testing.assert_close(found[0, 2], profile[:, None].expand(16, 32, 32), rtol=0, atol=1e-13)
    assert found[:, :2].abs().max() < 1e-14


def test_mixing_layer_has_two_layers_of_the_given_thickness():
    equation = build(
        64, flow="mixing_layer", noise=0.0, thickness=0.5, length=4 * math.pi, speed=2.0
    )
    _, state = draw(equation)
    profile = state[0, 2, 0, :, 0]
    assert abs(profile[32] - 1) < 1e-4 and abs(profile[96] + 1) < 1e-4  # between the layers
    assert profile[0].abs() < 1e-9 and profile[64].abs() < 1e-9  # in them
    # of each layer, the integral of (1/4 - (w / speed)^2), by definition
    thickness = (0.25 - (profile / 2) ** 2).sum() * 8 * math.pi / 128
    assert abs(thickness - 2 * 0.5) < 1e-4


@pytest.mark.parametrize("closure", CLOSURES)
def test_mixing_layer_keeps_its_momentum_and_loses_energy(closure):
    equation = build(
        8,
        flow="mixing_layer",
        closure=closure,
        thickness=1.0,
        noise=0.05,
        length=4 * math.pi,
        dt=0.2,
        viscosity=0.02,
    )
    parameters, state = draw(equation)
    state = state + 0.1
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 10)[0]
    assert (mean(frames) - mean(state)).abs().max() < 1e-14
    assert (energy(frames).diff() < 0).all()
    assert divergence(frames).abs().max() < 1e-12


def test_order_in_time_is_four():
    equation = build(12, viscosity=0.02, dt=0.2, substeps=4)
    parameters, state = developed(equation)
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=64).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (4, 8, 16)
        ]
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(order - 4) < 0.3), order


def test_error_falls_faster_than_any_power_of_the_spacing():
    equation = build(8, viscosity=0.2, dt=0.5, substeps=10)
    parameters, _ = draw(equation)
    x, y, z = coordinates(8)
    rows = [y.sin() + z.cos(), z.sin() + (x + z).cos(), x.cos() + y.sin()]
    state = torch.stack(rows)[None]
    with torch.no_grad():
        results = [
            equation.resample(
                equation.solver(parameters, points=n).step(equation.resample(state, n)), 8
            )
            for n in (12, 18, 24, 36)
        ]
    errors = [(result - results[-1]).norm().item() for result in results[:-1]]
    orders = np.log(np.array(errors[:-1]) / errors[1:]) / np.log([18 / 12, 24 / 18])
    assert orders[0] > 5 and orders[1] > orders[0] + 2, (errors, orders)


def test_advection_conserves_energy_and_helicity_to_rounding():
    equation = build(16)
    parameters, state = developed(equation)
    solver = equation.solver(parameters)
    spectrum = solver.enter(state)
    tendency = inverse(solver._tendency(spectrum) * solver.keep, solver.grid)
    velocity = inverse(spectrum, solver.grid)
    vorticity = inverse(solver._curl(spectrum), solver.grid)
    for field in (velocity, vorticity):
        scale = (field * tendency).abs().mean()
        assert mean((field * tendency).sum(1)).abs() < 1e-15 + 1e-14 * scale
        assert scale > 0.01
    assert divergence(tendency).abs().max() < 1e-12


@pytest.mark.parametrize("closure", CLOSURES)
def test_energy_budget(closure):
    """dE/dt = -2 viscosity Z - C Delta^2 <|S|^3>, the rate of change by differences over time."""
    equation = build(16, closure=closure, dt=0.01, substeps=2, smagorinsky_constant=0.02)
    parameters, state = developed(equation)
    solver = equation.solver(parameters)
    with torch.no_grad():
        frames = torch.cat([state[:, None], solver.rollout(state, 4)], dim=1)[0]
        rate = energy(frames) @ torch.tensor([1.0, -8, 0, 8, -1]).double() / (12 * 0.01)
        middle = frames[2:3]
        spectrum = solver.enter(middle)
        enstrophy = 0.5 * mean(inverse(solver._curl(spectrum), solver.grid).square().sum(1))
        strain = inverse(solver._strain(spectrum), solver.grid)
        speed = incompressible_3d.norm(strain)
        subgrid = mean(solver.subgrid_viscosity(middle) * speed**3)[0]
    assert (subgrid == 0) == (closure == "none")
    assert closure == "none" or subgrid > 0.01 * rate.abs()
    torch.testing.assert_close(rate, -(2 * 0.05 * enstrophy + subgrid)[0], rtol=1e-7, atol=0)


def driven(points=16, **options):
    return build(points, **{"forcing": "constant_power", "power": 0.4, "speed": 0.8} | options)


def test_energy_changes_by_power_less_dissipation():
    equation = driven(dt=0.01, substeps=2)
    parameters, state = developed(equation)
    solver = equation.solver(parameters)
    with torch.no_grad():
        frames = torch.cat([state[:, None], solver.rollout(state, 4)], dim=1)[0]
        rate = energy(frames) @ torch.tensor([1.0, -8, 0, 8, -1]).double() / (12 * 0.01)
        vorticity = inverse(solver._curl(solver.enter(frames[2:3])), solver.grid)
        dissipation = 0.05 * mean(vorticity.square().sum(1))[0]
    assert dissipation > 0.05
    torch.testing.assert_close(rate, 0.4 - dissipation, rtol=1e-7, atol=0)


def test_the_force_is_on_long_waves_alone_and_does_its_work_at_every_instant():
    equation = driven(12, driven=math.sqrt(2))
    parameters, _ = draw(equation)
    anything = torch.randn(1, 3, 12, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    solver, free = equation.solver(parameters), build(12).solver(draw(build(12))[0])
    velocity = solver.enter(anything)
    force = (solver._driven_tendency(velocity) - free._tendency(velocity)) * solver.keep
    squared = sum(index**2 for index in indices(solver.grid))
    assert force[..., squared > 2].abs().max() < 1e-12
    assert force[..., squared == 2].abs().min() > 0 and force[..., 0, 0, 0].abs().max() == 0
    field = inverse(force, solver.grid)
    work = mean((field * inverse(velocity, solver.grid)).sum(1))
    assert abs(work.item() - 0.4) < 1e-12
    assert divergence(field).abs().max() < 1e-12


def test_driven_flow_forgets_its_energy():
    """From too much and from too little, energy comes to what the power keeps up."""
    energies = []
    for speed in (0.3, 1.2):
        equation = driven(12, viscosity=0.2, speed=speed, dt=0.5, substeps=8, peak=1.0)
        parameters, state = draw(equation)
        with torch.no_grad():
            energies.append(energy(equation.solver(parameters).rollout(state, 24)[0]))
    assert (energies[0][0] - energies[1][0]).abs() > 0.3
    assert (energies[0][-8:].mean() - energies[1][-8:].mean()).abs() < 0.1


def test_order_in_time_is_four_with_a_force():
    equation = driven(12, viscosity=0.02, dt=0.2, substeps=4)
    parameters, state = developed(equation)
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=64).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (4, 8, 16)
        ]
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    assert np.all(np.abs(order - 4) < 0.3), order


def test_vorticity_of_a_beltrami_flow_is_its_speed():
    x, y, z = coordinates(8)
    state = torch.stack([z.sin() + y.cos(), x.sin() + z.cos(), y.sin() + x.cos()]).numpy()
    found = build(8).derived(state[None, None], {"length": np.full((1, 1), 2 * np.pi)})
    np.testing.assert_allclose(found["vorticity"][0, 0], np.linalg.norm(state, axis=0), atol=1e-13)


@pytest.mark.parametrize("closure", CLOSURES)
def test_stays_without_divergence(closure):
    equation = build(12, closure=closure)
    parameters, _ = draw(equation)
    anything = torch.randn(1, 3, 12, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        found = equation.solver(parameters).step(anything)
    assert divergence(found).abs().max() < 1e-13


@pytest.mark.parametrize("closure", CLOSURES)
def test_commutes_with_a_rotation_of_the_axes(closure):
    equation = build(12, closure=closure)
    parameters, state = developed(equation, frames=5)
    solver = equation.solver(parameters)

    def rotate(u):
        return u.permute(0, 1, 4, 2, 3).roll(1, 1)  # component and axis i become i + 1

    with torch.no_grad():
        torch.testing.assert_close(
            solver.step(rotate(state)), rotate(solver.step(state)), rtol=0, atol=1e-13
        )


def test_smagorinsky_stress_of_a_shear_flow():
    """u = sin y has S_12 = cos(y) / 2 and |S| = |cos y|, so -tau_12 = C Delta^2 |cos y| cos y."""
    equation = build(16, closure="smagorinsky", smagorinsky_constant=0.02, filter_width=2.0)
    parameters, _ = draw(equation)
    solver = equation.solver(parameters)
    _, y, _ = coordinates(16)
    state = torch.stack([y.sin(), 0 * y, 0 * y])[None]
    tendency = inverse(solver._tendency(solver.enter(state)) * solver.keep, solver.grid)
    line = y[0, :, 0]
    viscosity = 0.02 * (2 * 2 * math.pi / 16) ** 2
    (index,) = indices((16,))
    stress = forward(viscosity * line.cos().abs() * line.cos(), 1)
    expected = inverse(1j * index * stress * (index < 16 / 3), (16,))
    torch.testing.assert_close(
        tendency[0, 0], expected[:, None].expand(16, 16, 16), rtol=0, atol=1e-15
    )
    assert tendency[:, 1:].abs().max() < 1e-15


def test_norm_of_a_uniform_strain():
    strain = torch.zeros(1, 5, 1, 1, 1, dtype=torch.float64)
    strain[0, :, 0, 0, 0] = torch.tensor([1.0, -0.5, 0.3, -0.2, 0.4], dtype=torch.float64)
    tensor = np.array([[1, 0.3, -0.2], [0.3, -0.5, 0.4], [-0.2, 0.4, -0.5]])
    assert abs(incompressible_3d.norm(strain).item() - np.sqrt(2 * (tensor**2).sum())) < 1e-14


@pytest.mark.parametrize("closure", CLOSURES)
def test_rest_stays_at_rest(closure):
    equation = build(8, closure=closure)
    parameters, _ = draw(equation)
    still = torch.zeros(1, 3, 8, 8, 8, dtype=torch.float64)
    forced = driven(8, closure=closure, driven=1)
    assert (forced.solver(draw(forced)[0]).step(still) == 0).all()
    state = torch.zeros(1, 3, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    found = equation.solver(parameters).step(state)
    assert (found == 0).all()
    (gradient,) = torch.autograd.grad(found.sum(), state)
    assert gradient.isfinite().all()


def test_dynamic_constant():
    """It knows neither units nor frame, is near Lilly's, and changes sign with the velocity."""
    equation = build(16, closure="dynamic_smagorinsky", viscosity=0.02)
    parameters, state = developed(equation)
    solver = equation.solver(parameters)
    found = solver.subgrid_viscosity(state)
    constant = found.item() / (2 * math.pi / 16) ** 2
    assert 0.01 < constant < 0.06  # Lilly's 0.17^2 is 0.029
    for other in (3.7 * state, state + 2.0):
        torch.testing.assert_close(solver.subgrid_viscosity(other), found, rtol=1e-10, atol=0)
    assert solver.subgrid_viscosity(-state) == 0  # negative, so it is cut off
    large = build(16, closure="dynamic_smagorinsky", viscosity=0.02, length=5.0)
    scaled = large.solver(draw(large)[0]).subgrid_viscosity(state)
    torch.testing.assert_close(scaled / 5.0**2, found / (2 * math.pi) ** 2, rtol=1e-10, atol=0)


def test_filter_belongs_to_the_stored_grid():
    """The model stays the same on a finer grid, and so does its solution."""
    options = {"dt": 0.1, "viscosity": 0.1, "peak": 1.0}
    equation = build(16, closure="smagorinsky", **options)
    parameters, state = developed(equation)
    with torch.no_grad():
        coarse = equation.solver(parameters).step(state)
        fine = equation.solver(parameters, points=32).step(equation.resample(state, 32))
    assert (equation.resample(fine, 16) - coarse).norm() < 6e-3 * coarse.norm()
    other = build(16, closure="smagorinsky", refinement=2)
    width = other.solver(draw(other)[0]).smagorinsky
    torch.testing.assert_close(width, equation.solver(parameters).smagorinsky)


def test_direct_simulation_is_stored_filtered():
    equation = build(8, refinement=3, peak=1.0)
    _, state = draw(equation)
    assert state.shape == (1, 3, 24, 24, 24)
    x, y, z = coordinates(24)
    stored = equation.observe(state + 0.5 * (4 * x).cos() + 0.5 * (y - 5 * z).sin())
    assert stored.shape == (1, 3, 8, 8, 8)
    torch.testing.assert_close(stored, state[..., ::3, ::3, ::3], rtol=0, atol=1e-13)
    assert divergence(stored).abs().max() < 1e-13


def test_isotropic_initial_condition():
    coarse, fine = build(24, peak=3.0), build(48, peak=3.0)
    _, state = draw(coarse, 2)
    _, same = draw(fine, 2)
    assert (state - same[..., ::2, ::2, ::2]).abs().max() < 1e-13
    assert divergence(same).abs().max() < 1e-12
    torch.testing.assert_close(
        2 * energy(same), torch.full((2,), 3.0, dtype=torch.float64), rtol=1e-12, atol=0
    )
    spectrum = torch.fft.fftn(same, dim=(2, 3, 4), norm="forward").abs().square().sum(1)
    k = torch.fft.fftfreq(48, 1 / 48, dtype=torch.float64)
    squared = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    held = (squared > 0) & (squared <= 81)
    shape = squared * torch.exp(-2 * squared / 9)
    ratio = spectrum[:, held] / shape[held]
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio), rtol=1e-7, atol=0)
    assert spectrum[:, ~held].max() < 1e-30


def test_same_turbulence_in_a_grid_too_coarse_for_it():
    """Waves that don't fit are left out; the rest is as on a fine grid."""
    coarse, fine = build(12, peak=3.0), build(24, peak=3.0)
    _, state = draw(coarse)
    _, other = draw(fine)
    torch.testing.assert_close(coarse.resample(other, 12), coarse.resample(state, 12).clone())


@pytest.mark.parametrize("closure", CLOSURES)
def test_parameters_vary_over_the_batch(closure, one_thread):
    equation = build(
        8,
        closure=closure,
        viscosity={"uniform": [0.05, 0.1]},
        length={"uniform": [6.0, 7.0]},
        smagorinsky_constant={"uniform": [0.01, 0.03]},
    )
    parameters, state = draw(equation, 3)
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(3):
            alone = equation.solver({k: v[i : i + 1] for k, v in parameters.items()})
            assert torch.equal(alone.step(state[i : i + 1])[0], whole[i])


def test_box_of_the_mixing_layer_follows_its_length():
    equation = build(8, flow="mixing_layer", thickness=1.0, length={"uniform": [8.0, 9.0]})
    parameters, _ = draw(equation, 3)
    assert [q.name for q in equation.parameters] == list(parameters)
    for name in ("length_y", "length_z"):
        assert torch.equal(parameters[name], 2 * parameters["length"])


@pytest.mark.parametrize("closure", CLOSURES)
def test_gradient_agrees_with_finite_differences(closure):
    equation = build(8, closure=closure, substeps=1, dt=0.05, peak=1.0)
    parameters, state = developed(equation)
    solver = equation.solver(parameters)
    generator = torch.Generator().manual_seed(1)
    direction, weight = torch.randn(2, *state.shape, generator=generator).double()
    (gradient,) = torch.autograd.grad((weight * solver.step(state.requires_grad_())).sum(), state)
    step = 1e-5
    with torch.no_grad():
        ends = [(weight * solver.step(state + s * direction)).sum() for s in (step, -step)]
    expected = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"viscosity": -1.0}, "viscosity must be positive"),
        ({"points": 15}, "points must be even and at least 8, is 15; take 16"),
        ({"speed": 0.0}, "speed must be positive"),
        ({"filter_width": -1.0}, "filter_width must be positive"),
        ({"noise": -0.1}, "noise must not be negative"),
        ({"forcing": "constant_power", "driven": 6}, "driven must be from 1 to 5"),
        ({"forcing": "constant_power", "flow": "mixing_layer"}, "forcing needs flow isotropic"),
        ({"smagorinsky_constant": -0.1, "closure": "smagorinsky"}, "must be at least 0"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)


def test_steps_too_long_are_refused_with_the_number_to_use():
    with pytest.raises(UserError, match=r"substeps must be at least \d+ .*, is 1") as error:
        draw(build(12, dt=1.0, substeps=1))
    enough = int(str(error.value).split("at least ")[1].split()[0])
    equation = build(12, dt=1.0, substeps=enough)
    parameters, state = draw(equation)
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 3)
    assert energy(frames[0]).max() < energy(state)


def test_grids_too_coarse_for_the_viscosity_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        build(16, viscosity=0.01)
        build(16, viscosity=0.01, closure="smagorinsky")
    (record,) = caplog.records
    needed = int(record.getMessage().split("take about ")[1].split(",")[0])
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        build(needed, viscosity=0.01)
    assert not caplog.records
