"""Incompressible flow on the periodic staggered grid, and Kolmogorov flow."""

import math

import numpy as np
import pytest
import torch

from longrun.equations.navier_stokes_mac import NavierStokesMAC
from longrun.runtime.cli import UserError
from longrun.solvers.mac import (
    PeriodicMACSolver,
    coarsen,
    lax_wendroff,
    limited,
    linear,
    refine_periodic,
    stencil,
    van_leer,
)


def periodic(points, dt, steps=1, viscosity=0.0, drag=0.0, batch=1, **options):
    """Solver on a box of 2 pi."""
    spacing = torch.full((batch,), 2 * torch.pi / points, dtype=torch.float64)

    def each(value):
        return torch.full((batch,), value, dtype=torch.float64)

    return PeriodicMACSolver(
        (points, points),
        (spacing, spacing),
        each(dt),
        steps,
        each(viscosity),
        torch.zeros(batch, 2, 1, 1, dtype=torch.float64),
        each(drag),
        **options,
    )


def taylor_green(points, time=0.0, viscosity=0.0, highest=1, mean=0.0):
    """Averages over faces of the vortices, which drift with the mean and decay; and of the mean."""
    corner = 2 * np.pi * np.arange(points + 1) / points - mean * time
    stream = np.sin(highest * corner)[:, None] * np.sin(highest * corner) / highest
    stream = stream * np.exp(-2 * highest**2 * viscosity * time) * points / (2 * np.pi)
    field = np.stack([np.diff(stream[1:], axis=1), -np.diff(stream[:, 1:], axis=0)])
    return torch.tensor(field + mean)[None]


def flow(points=16, batch=2, seed=0):
    """Random smooth velocities without divergence."""
    equation = NavierStokesMAC(points=points, refinement=1, substeps=64, peak=2.0, speed=1.0)
    _, state = equation.sample([np.random.default_rng([seed, i]) for i in range(batch)])
    return torch.tensor(state)


def kolmogorov(points=16, **options):
    options = {"refinement": 1, "substeps": 2, "dt": 0.05, "speed": 2.0, "peak": 2.0} | options
    equation = NavierStokesMAC(points=points, **options)
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(3)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    return equation, parameters, torch.tensor(state)


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def test_second_order_in_space():
    """Vortices that drift through the grid; the step falls with the square of the cells."""
    viscosity, time, errors = 0.05, 0.5, []
    for points in (16, 32, 64):
        solver = periodic(points, time, 4 * (points // 16) ** 2, viscosity)
        with torch.no_grad():
            found = solver.step(taylor_green(points, mean=1.0))
        exact = taylor_green(points, time, viscosity, mean=1.0)
        errors.append((found - exact).square().mean().sqrt().item())
    assert (order(errors) > 1.7).all() and errors[-1] < 5e-3, (errors, order(errors))


def test_first_order_in_time():
    state = flow(24)
    with torch.no_grad():
        reference = periodic(24, 0.4, 160, 0.01).step(state)
        errors = [
            (periodic(24, 0.4, steps, 0.01).step(state) - reference).norm().item()
            for steps in (5, 10, 20)
        ]
    assert (abs(order(errors) - 1) < 0.2).all(), order(errors)


def test_standing_vortices_decay_as_they_should():
    """Convection of Taylor and Green's vortices is a gradient, which the projection takes away."""
    viscosity, time = 0.1, 0.5
    with torch.no_grad():
        found = periodic(48, time, 100, viscosity).step(taylor_green(48))
    exact = taylor_green(48, time, viscosity)
    assert (found - exact).abs().max() < 6e-3 * exact.abs().max()


def test_laminar_flow_stands_still():
    """Force, drag and discrete diffusion balance exactly in u = a sin(4 y)."""
    equation, parameters, _ = kolmogorov(32, viscosity=0.01, drag=0.2, substeps=4)
    y = 2 * np.pi * (np.arange(32) + 0.5) / 32
    average = np.sin(np.pi * 4 / 32) / (np.pi * 4 / 32)
    rate = 0.01 * (2 - 2 * np.cos(2 * np.pi * 4 / 32)) * (32 / (2 * np.pi)) ** 2 + 0.2
    state = torch.zeros(3, 2, 32, 32, dtype=torch.float64)
    state[:, 0] = torch.tensor(average / rate * np.sin(4 * y))
    with torch.no_grad():
        found = equation.solver(parameters, stride=3).step(state)
    torch.testing.assert_close(found, state, rtol=0, atol=1e-13)


@pytest.mark.parametrize("points", [16, 24])
def test_no_divergence_after_any_step_nor_on_other_grids(points):
    solver = periodic(points, 0.02, viscosity=1e-3, drag=0.1, batch=2)
    noise = torch.tensor(np.random.default_rng(0).normal(size=(2, 2, points, points)))
    scale = noise.abs().max() * points
    state = solver.project(noise)
    for _ in range(5):
        state = solver.step(state)
        assert solver.divergence(state).abs().max() < 1e-15 * scale
    assert solver.divergence(noise).abs().max() > 1
    for factor in (2, 4):
        coarse = periodic(points // factor, 0.02, batch=2)
        assert coarse.divergence(coarsen(state, factor)).abs().max() < 1e-15 * scale
        fine = refine_periodic(state, factor)
        finer = periodic(points * factor, 0.02, batch=2)
        assert finer.divergence(fine).abs().max() < 1e-14 * scale
        torch.testing.assert_close(coarsen(fine, factor), state, rtol=0, atol=1e-13)


def test_refining_is_exact_for_smooth_flow():
    torch.testing.assert_close(
        refine_periodic(taylor_green(16, highest=3), 3),
        taylor_green(48, highest=3),
        rtol=0,
        atol=1e-13,
    )


def test_vorticity_is_that_of_the_flow():
    points, length = 64, 4 * math.pi
    faces = (np.arange(points) + 1) * length / points
    centres = faces - length / points / 2
    u = np.sin(faces)[:, None] * np.cos(centres)  # on right faces
    v = -np.cos(centres)[:, None] * np.sin(faces)  # on upper faces
    state = np.stack([u, v])[None, None]
    equation = NavierStokesMAC(points=points, length=length, burn_in=0)
    vorticity = equation.derived(state, {"length": np.full((1, 1), length)})["vorticity"]
    exact = 2 * np.sin(faces)[:, None] * np.sin(faces)
    assert vorticity.shape == (1, 1, points, points)
    assert np.abs(vorticity - exact).max() < 2 * (length / points) ** 2 / 24 * 1.01


def test_momentum_is_conserved():
    solver = periodic(16, 0.5, 20, viscosity=1e-3, batch=2)
    state = flow() + torch.tensor([0.3, -0.2]).reshape(2, 1, 1)
    with torch.no_grad():
        found = solver.step(state)
    assert (found - state).abs().max() > 0.1
    assert (found.mean((2, 3)) - state.mean((2, 3))).abs().max() < 1e-15


def test_projection_is_orthogonal():
    solver = periodic(16, 0.1, viscosity=0.3, batch=2)
    one, other = (
        torch.tensor(np.random.default_rng(i).normal(size=(2, 2, 16, 16))) for i in (0, 1)
    )
    once = solver.project(one)
    torch.testing.assert_close(solver.project(once), once, rtol=0, atol=1e-13)
    assert abs((once * (other - solver.project(other))).sum()) < 1e-11
    settled = solver.settle(one, torch.zeros_like(one))
    torch.testing.assert_close(solver.diffuse(once), settled, rtol=0, atol=1e-13)


@pytest.mark.parametrize("viscosity", [0.0, 1e-2])
def test_energy_falls_without_force(viscosity):
    solver = periodic(24, 0.05, 1, viscosity, batch=2)
    state = flow(24)
    energies = []
    with torch.no_grad():
        for _ in range(60):
            energies.append(state.square().mean((1, 2, 3)))
            state = solver.step(state)
    assert (torch.stack(energies).diff(dim=0) < 0).all()


def test_energy_budget():
    """Change of energy = work of the force - drag - viscosity times enstrophy, where resolved."""
    equation, parameters, state = kolmogorov(
        96, substeps=20, viscosity=0.02, drag=0.1, waves=2, dt=0.05
    )
    solver = equation.solver(parameters)
    force = equation._force(parameters["amplitude"], 96)
    cell = 2 * np.pi / 96
    with torch.no_grad():
        states = torch.stack([state, *solver.rollout(state, 2).unbind(1)])
    energy = 0.5 * states.square().sum(2).mean((-1, -2))
    middle = states[1]
    u, v = middle.unbind(1)
    vorticity = (v.roll(-1, 1) - v - u.roll(-1, 2) + u) / cell
    work = (force * middle).sum(1).mean((-1, -2)) - 0.1 * 2 * energy[1]
    dissipation = 0.02 * vorticity.square().mean((-1, -2))
    lost = work - dissipation - (energy[2] - energy[0]) / (2 * 0.05)
    assert (lost > 0).all() and (lost < 0.05 * dissipation).all(), (lost, dissipation)


class TestLimiter:
    """u(y) that a uniform v carries is carried as a scalar."""

    points, steps = 64, 50

    def carried(self, profile, advected, courant):
        solver = periodic(self.points, courant * 2 * np.pi / self.points)
        state = torch.ones(1, 2, self.points, self.points, dtype=torch.float64)
        state[:, 0] = torch.as_tensor(profile)
        with torch.no_grad():
            for _ in range(self.steps):
                state = solver.advance(state, advected=advected)
        return state[0, 0, 0].numpy()

    @pytest.mark.parametrize("courant", [0.1, 0.5, 0.9])
    def test_no_new_extrema_at_a_shock(self, courant):
        profile = np.where(np.arange(self.points) < 20, 1.0, 0.0)
        profile[40] = 0.7
        found = self.carried(profile, van_leer, courant)
        assert found.min() > -1e-12 and found.max() < 1 + 1e-12
        variation = [abs(np.diff(np.append(f, f[0]))).sum() for f in (profile, found)]
        assert variation[1] <= variation[0] + 1e-12
        assert abs(found.sum() - profile.sum()) < 1e-11
        overshoot = self.carried(profile, lax_wendroff, courant)
        assert overshoot.min() < -0.05

    def test_beats_upwind_on_a_smooth_wave(self):
        def upwind(padded, component, axis, courant):
            _, below, above, _ = stencil(padded, component, axis)
            return torch.where(courant > 0, below, above)

        y = 2 * np.pi * (np.arange(self.points) + 0.5) / self.points
        exact = np.sin(y - self.steps * 0.5 * 2 * np.pi / self.points)
        errors = [
            abs(self.carried(np.sin(y), advected, 0.5) - exact).mean()
            for advected in (lax_wendroff, van_leer, upwind)
        ]
        assert max(errors[:2]) < 0.1 * errors[2]


def test_limited_interpolation_keeps_between_its_neighbours():
    padded = torch.tensor(np.random.default_rng(0).normal(size=(2, 2, 12, 12)))
    for component in (0, 1):
        for axis in (0, 1):
            _, below, above, _ = stencil(padded, component, axis)
            for courant in (0.4, -0.4):
                found = van_leer(padded, component, axis, torch.full_like(below, courant))
                assert (found >= torch.minimum(below, above) - 1e-14).all()
                assert (found <= torch.maximum(below, above) + 1e-14).all()
    assert linear(padded, 0, 0).shape == stencil(padded, 0, 0)[0].shape == (2, 9, 8)
    assert linear(padded, 0, 1).shape == stencil(padded, 0, 1)[0].shape == (2, 8, 9)


def test_interpolations_can_be_replaced():
    """What a learned scheme replaces: with the classical ones the step is the same."""
    solver, state = periodic(16, 0.05, 1, 1e-3, batch=2), flow()
    calls = []

    def advecting(padded, component, axis):
        calls.append((component, axis))
        return linear(padded, component, axis)

    given = solver.advance(state, advected=limited(lax_wendroff), advecting=advecting)
    assert torch.equal(given, solver.step(state)) and len(calls) == 4
    parts = solver.settle(state, solver.convection(state) + solver.force(state))
    torch.testing.assert_close(parts, given, rtol=0, atol=1e-15)
    assert (solver.advance(state, advected=lax_wendroff) - given).abs().max() > 1e-6


SYMMETRIES = {
    "translation": lambda w: w.roll((3, -5), (2, 3)),
    "transposition": lambda w: w.flip(1).transpose(2, 3),
    "reflection": lambda w: torch.stack([-w[:, 0].flip(1).roll(-1, 1), w[:, 1].flip(1)], 1),
}
SYMMETRIES["rotation"] = lambda w: SYMMETRIES["reflection"](SYMMETRIES["transposition"](w))


@pytest.mark.parametrize("name", SYMMETRIES)
def test_symmetries(name):
    move, state = SYMMETRIES[name], flow()
    solver = periodic(16, 0.4, 10, 1e-3, drag=0.1, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(
            solver.step(move(state)), move(solver.step(state)), rtol=0, atol=1e-13
        )
    assert (move(state) - state).abs().max() > 0.1


def test_force_acts_along_x_by_averages_over_faces():
    equation, parameters, _ = kolmogorov(16)
    coarse = equation._force(parameters["amplitude"], 16)
    fine = equation._force(parameters["amplitude"], 64).expand(-1, -1, 64, -1)
    torch.testing.assert_close(coarsen(fine, 4)[:, :, :1], coarse, rtol=0, atol=1e-15)
    assert coarse[:, 1].abs().max() == 0 and 0.6 < coarse[:, 0].max() < 0.7


def test_initial_states():
    """No divergence, largest speed 7, most energy near the peak, the same on every grid."""
    coarse = NavierStokesMAC(points=32, refinement=2, substeps=4)
    fine = NavierStokesMAC(points=32, refinement=4, substeps=8)
    states = [
        torch.tensor(equation.sample([np.random.default_rng(i) for i in range(4)])[1])
        for equation in (coarse, fine)
    ]
    torch.testing.assert_close(coarsen(states[1], 2), states[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(fine.observe(states[1]), coarse.observe(states[0]))
    assert periodic(128, 0.1).divergence(states[1]).abs().max() < 1e-11
    speed = states[1].square().sum(1).sqrt().amax((1, 2))
    assert (abs(speed - 7) < 0.3).all()
    power = torch.fft.fft2(states[1]).abs().square().sum((0, 1))
    index = torch.fft.fftfreq(128, 1 / 128)
    shell = torch.hypot(index[:, None], index[None]).round()
    energy = [power[shell == k].sum().item() for k in range(20)]
    assert (
        3 <= int(np.argmax(energy)) <= 5 and energy[0] < 1e-20 and energy[15] < 0.02 * max(energy)
    )


def test_decaying_flow_and_finer_reference():
    equation, parameters, state = kolmogorov(
        16, refinement=2, substeps=4, amplitude=0.0, drag=0.0, viscosity=0.05
    )
    assert state.shape == (3, 2, 32, 32)
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 5)
    stored = equation.observe(frames[:, -1])
    assert stored.shape == (3, 2, 16, 16)
    assert periodic(16, 0.1).divergence(stored).abs().max() < 1e-13
    mean = equation.invariants(stored.numpy(), {})
    assert all(np.abs(values).max() < 1e-15 for values in mean.values())
    assert (frames[:, -1].square().sum((1, 2, 3)) < state.square().sum((1, 2, 3))).all()


def test_gradients_agree_with_finite_differences():
    equation, parameters, state = kolmogorov(8, viscosity=0.1, substeps=2)
    solver = equation.solver({name: value[:1] for name, value in parameters.items()})
    assert torch.autograd.gradcheck(solver.step, state[:1].requires_grad_(), fast_mode=True)


def test_parameters_vary_over_the_batch():
    varied = {
        "length": {"uniform": [5.0, 7.0]},
        "dt": {"uniform": [0.02, 0.05]},
        "viscosity": {"log_uniform": [1e-3, 1e-2]},
        "amplitude": {"uniform": [0.5, 1.0]},
        "drag": {"choice": [0.0, 0.1]},
    }
    equation, parameters, state = kolmogorov(16, substeps=4, **varied)
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(3):
            one = {name: value[i : i + 1] for name, value in parameters.items()}
            assert torch.equal(equation.solver(one).step(state[i : i + 1])[0], whole[i])
    assert not math.isclose(parameters["viscosity"][0], parameters["viscosity"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 31}, "points must be even and at least 8, is 31; take 32"),
        ({"viscosity": -1e-3}, "viscosity must be at least 0"),
        ({"drag": -0.1}, "drag must be at least 0"),
        ({"peak": 0.0}, "peak must be positive"),
        ({"length": 0.0}, "length must be positive"),
        ({"refinement": 0}, "refinement must be at least 1"),
        ({"substeps": 31}, "31 substeps carry .* take at least 32"),
        ({"speed": 14.0}, "32 substeps carry the largest speed 14 .* take at least 64"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        NavierStokesMAC(**options)
    assert "\n" not in str(error.value)


def test_a_grid_too_coarse_for_the_viscosity_is_warned_of(caplog):
    kolmogorov(16, viscosity=1e-3)
    assert "16 cells leave viscosity 0.001 to the scheme's own dissipation: 126" in caplog.text
    caplog.clear()
    kolmogorov(16, viscosity=0.1)
    assert not caplog.text


def test_grids_that_do_not_divide_are_refused():
    equation, _, state = kolmogorov(16)
    with pytest.raises(UserError, match="points must divide 16 or be a multiple of it, is 24"):
        equation.resample(state, 24)
