"""Incompressible flow between walls: transforms, cavity, channel, cylinder."""

import itertools

import numpy as np
import pytest
import torch

from longrun.equations.confined_flow import ConfinedFlow
from longrun.metrics.pointwise import imbalance
from longrun.runtime.cli import UserError
from longrun.solvers.confined import ConfinedMACSolver, Reflection, refine_confined
from longrun.solvers.mac import coarsen

FLOWS = {
    "cavity": {"points": 16, "substeps": 4, "perturbation": 0.3},
    "channel": {"points": 8, "aspect": (3, 2), "length": 3.0, "perturbation": 0.3, "substeps": 8},
    "cylinder": {
        "points": 12,
        "aspect": (2, 1),
        "length": 2.0,
        "radius": 0.25,
        "dt": 0.05,
        "perturbation": 0.2,
        "substeps": 6,
    },
}


def begin(flow, count=2, **options):
    equation = ConfinedFlow(flow, **(FLOWS[flow] | options))
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(count)])
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    return equation, parameters, torch.tensor(state)


def order(errors):
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


@pytest.mark.parametrize("points", [8, 9])
@pytest.mark.parametrize(
    ("faces", "lower", "upper"),
    [(False, *pair) for pair in itertools.product(("value", "slope"), repeat=2)]
    + [(True, "value", "value"), (True, "value", "slope")],
)
def test_reflections_diagonalise_the_second_difference(points, faces, lower, upper):
    transform = Reflection(points, faces, lower, upper, torch.float64, torch.device("cpu"))
    values = torch.tensor(np.random.default_rng(0).normal(size=(2, points)))
    if faces and upper == "value":
        values[:, -1] = 0
    coefficients = transform.forward(values)
    torch.testing.assert_close(transform.backward(coefficients), values, rtol=0, atol=1e-14)
    signs = [-1 if kind == "value" else 1 for kind in (lower, upper)]
    if faces:
        below, above = torch.zeros_like(values[:, :1]), signs[1] * values[:, -2:-1]
    else:
        below, above = signs[0] * values[:, :1], signs[1] * values[:, -1:]
    expected = torch.cat([below, values, above], 1).diff(n=2, dim=1)
    found = transform.backward(coefficients * transform.eigenvalues)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_diffusion_solves_its_equation_to_rounding():
    """Backward Euler between walls, one of which slides, cells of another shape each."""
    points, rate = (10, 8), 0.01
    spacing = torch.tensor([0.1, 0.1], dtype=torch.float64), torch.tensor([0.1, 0.07]).double()
    lid = torch.tensor([1.0, 0.5], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    solver = ConfinedMACSolver(points, spacing, 0.5 * one, 1, 2 * rate * one, lid)
    before = torch.tensor(np.random.default_rng(0).normal(size=(2, 2, *points))) * solver.inside
    after = solver.diffuse(before)
    padded = solver.pad(after)
    along = [
        padded.diff(n=2, dim=2)[:, :, 1:-1, 2:-2] / spacing[0].reshape(-1, 1, 1, 1) ** 2,
        padded.diff(n=2, dim=3)[:, :, 2:-2, 1:-1] / spacing[1].reshape(-1, 1, 1, 1) ** 2,
    ]
    residual = (after - rate * (along[0] + along[1])) * solver.inside - before
    assert residual.abs().max() < 1e-13
    assert (after * (1 - solver.inside)).abs().max() < 1e-15


@pytest.mark.parametrize("flow", FLOWS)
def test_no_divergence_after_any_step_nor_on_other_grids(flow):
    equation, parameters, state = begin(flow)
    solver = equation.solver(parameters)
    with torch.no_grad():
        for _ in range(5):
            state = solver.step(state)
            assert solver.divergence(state).abs().max() < 1e-12
    coarser = equation.solver(parameters, points=equation.points // 2 * 2)
    assert coarser.divergence(state).abs().max() < 1e-12
    fine = equation.resample(state, 2 * equation.points)
    finer = equation.solver(parameters, points=2 * equation.points)
    assert finer.divergence(fine).abs().max() < 1e-11
    torch.testing.assert_close(equation.resample(fine, equation.points), state, rtol=0, atol=1e-13)
    walls = fine[:, 1, :, -1] if flow != "cavity" else fine[:, 0, -1]
    assert walls.abs().max() < 1e-14


@pytest.mark.parametrize("flow", FLOWS)
def test_what_enters_leaves(flow):
    equation, parameters, state = begin(flow)
    with torch.no_grad():
        found = equation.solver(parameters).step(state)
    through = found[:, 0].mean(-1)  # every cross-section
    expected = 0.0 if flow == "cavity" else 1.0
    assert (through - expected).abs().max() < 1e-13
    assert (found - state).abs().max() > 1e-3
    (rate,) = equation.invariants(found.numpy(), {}).values()
    assert abs(rate - expected).max() < 1e-13


def test_first_order_in_time():
    equation, parameters, state = begin("cavity", dt=0.1)
    with torch.no_grad():
        reference = equation.solver(parameters, substeps=128).step(state)
        errors = [
            (equation.solver(parameters, substeps=n).step(state) - reference).norm().item()
            for n in (4, 8, 16)
        ]
    assert (abs(order(errors) - 1) < 0.25).all(), order(errors)


def test_fluid_between_walls_comes_to_rest_as_it_should():
    """Slow flow u(y) in a long channel: the parabola, second order in the cell."""
    errors = []
    for points in (8, 16):
        equation, parameters, state = begin(
            "channel",
            1,
            points=points,
            aspect=(2, 1),
            length=4.0,
            viscosity=0.2,
            perturbation=0.0,
            dt=1.0,
            substeps=3 * points,
        )
        solver = equation.solver(parameters)
        with torch.no_grad():
            for _ in range(3):
                state = solver.step(state)
        y = (np.arange(points) + 0.5) / points
        edges = np.arange(points + 1) / points
        exact = np.diff(3 * edges**2 - 2 * edges**3) * points
        assert abs(exact - 6 * y * (1 - y)).max() < 0.05
        errors.append(abs(state[0, 0, -1].numpy() - exact).max())
        assert state[0, 1, -1].abs().max() < 2e-3
    assert errors[1] < 0.02 and order(errors)[0] > 1.6, (errors, order(errors))


# Ghia, Ghia and Shin (1982), J. Comput. Phys. 48, tables I and II, Reynolds number 100
GHIA_U = {0.9531: 0.68717, 0.7344: 0.00332, 0.5: -0.20581, 0.4531: -0.21090, 0.1719: -0.10150}
GHIA_V = {0.9531: -0.08864, 0.8047: -0.24533, 0.5: 0.05454, 0.2344: 0.17527, 0.0781: 0.10890}


@pytest.mark.parametrize(
    ("points", "time", "tolerance"),
    [(16, 12, 0.035), pytest.param(32, 25, 0.01, marks=pytest.mark.slow)],
)
def test_cavity_agrees_with_ghia(points, time, tolerance):
    """Their values of v are off by up to 0.008, according to later, finer computations."""
    equation, parameters, state = begin(
        "cavity", 1, points=points, perturbation=0.0, dt=1.0, substeps=2 * points + 1
    )
    with torch.no_grad():
        for frame in equation.solver(parameters).rollout(state, time).unbind(1):
            change, state = (frame - state).abs().max(), frame
    assert change < 3e-3
    centres = np.r_[0, (np.arange(points) + 0.5) / points, 1]
    middle = points // 2 - 1
    along_y = np.r_[0, state[0, 0, middle].numpy(), 1]
    along_x = np.r_[0, state[0, 1, :, middle].numpy(), 0]
    for table, found in ((GHIA_U, along_y), (GHIA_V, along_x)):
        at = np.interp(list(table), centres, found)
        assert abs(at - list(table.values())).max() < tolerance, at


@pytest.mark.slow
def test_cylinder_sheds_vortices_at_its_frequency():
    """Strouhal number 0.16 to 0.2 at Reynolds number 100, a little more between near walls."""
    points, dt, height = 32, 0.2, 8.0
    equation, parameters, state = begin(
        "cylinder",
        1,
        points=points,
        length=2 * height,
        length_y=height,
        radius=0.75,
        centre_x=3.2,
        centre_y=4.0,
        viscosity=0.015,
        dt=dt,
        perturbation=0.3,
        substeps=4,
    )
    probe = []
    with torch.no_grad():
        for frame in equation.solver(parameters).rollout(state, 600).unbind(1):
            probe.append(frame[0, 1, int(6.5 / 16 * 2 * points), points // 2].item())
    signal = np.array(probe[250:])
    assert np.ptp(signal) > 0.3
    above = signal > signal.mean()
    rises = np.flatnonzero(~above[:-1] & above[1:])
    frequency = (len(rises) - 1) / ((rises[-1] - rises[0]) * dt)
    assert 0.16 < frequency * 1.5 < 0.22, frequency * 1.5


def test_fluid_stands_still_in_the_cylinder():
    equation, parameters, state = begin("cylinder", dt=0.5, substeps=60)
    with torch.no_grad():
        found = equation.solver(parameters).step(state)
    inside = found[:, :, 5:7, 5:7]
    assert inside.abs().max() < 0.1 < 1.2 < found.abs().max()


def test_energy_falls_between_walls_at_rest():
    one = torch.ones(2, dtype=torch.float64)
    solver = ConfinedMACSolver((16, 16), (one / 16, one / 16), 0.02 * one, 1, 0.001 * one, 0 * one)
    state = solver.project(torch.tensor(np.random.default_rng(0).normal(size=(2, 2, 16, 16))))
    energies = []
    with torch.no_grad():
        for _ in range(40):
            energies.append(state.square().sum((1, 2, 3)))
            state = solver.step(state)
    assert (torch.stack(energies).diff(dim=0) < 0).all()


def test_channel_is_symmetric():
    equation, parameters, state = begin("channel")

    def mirror(w):
        return torch.stack([w[:, 0].flip(2), -w[:, 1].flip(2).roll(-1, 2)], 1)

    solver = equation.solver(parameters)
    with torch.no_grad():
        torch.testing.assert_close(
            solver.step(mirror(state)), mirror(solver.step(state)), rtol=0, atol=1e-12
        )


def test_turned_cavity_gives_the_same():
    """Without a lid, x and y can change places."""
    one = torch.ones(1, dtype=torch.float64)
    solver = ConfinedMACSolver((12, 12), (one / 12, one / 12), 0.02 * one, 3, 0.01 * one, 0 * one)
    state = solver.project(torch.tensor(np.random.default_rng(0).normal(size=(1, 2, 12, 12))))

    def turn(w):
        return w.flip(1).transpose(2, 3)

    torch.testing.assert_close(solver.step(turn(state)), turn(solver.step(state)))


def test_refining_is_accurate():
    errors = []
    for points in (16, 32):
        coarse, fine = (begin("cavity", points=n, substeps=16)[2] for n in (points, 2 * points))
        torch.testing.assert_close(coarsen(fine, 2), coarse, rtol=0, atol=1e-14)
        errors.append((refine_confined(coarse, 2) - fine).abs().max().item())
    assert order(errors)[0] > 2, errors


def test_start():
    for flow in FLOWS:
        _, _, state = begin(flow, perturbation=0.0)
        assert state[:, 1].abs().max() == 0
        assert (state[:, 0] == (0.0 if flow == "cavity" else 1.0)).all()
    _, _, state = begin("cavity", perturbation=0.3)
    assert 0.2 < state.square().sum(1).sqrt().max() < 0.32


@pytest.mark.parametrize("flow", FLOWS)
def test_gradients_agree_with_finite_differences(flow):
    options = {"points": 12} if flow == "cylinder" else {"points": 8, "aspect": (1, 1)}
    equation, parameters, state = begin(flow, 1, substeps=8, **options)
    solver = equation.solver(parameters, substeps=1)
    state = solver.step(state)

    def step(free):  # upwinding has a kink where walls let nothing through
        return solver.step(free * solver.inside)

    assert torch.autograd.gradcheck(step, state.requires_grad_(), fast_mode=True)


def test_parameters_vary_over_the_batch():
    varied = {
        "length": {"uniform": [2.0, 2.5]},
        "length_y": {"uniform": [1.0, 1.2]},
        "dt": {"uniform": [0.02, 0.05]},
        "speed": {"uniform": [0.5, 1.0]},
        "density": {"choice": [1.0, 2.0]},
        "viscosity": {"log_uniform": [0.01, 0.1]},
        "radius": {"uniform": [0.32, 0.36]},
        "centre_x": {"uniform": [0.5, 0.6]},
    }
    equation, parameters, state = begin("cylinder", 3, substeps=8, **varied)
    with torch.no_grad():
        whole = equation.solver(parameters).step(state)
        for i in range(3):
            one = {name: value[i : i + 1] for name, value in parameters.items()}
            assert torch.equal(equation.solver(one).step(state[i : i + 1])[0], whole[i])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 6}, "each axis needs at least 8 cells, the grid has 6 x 6"),
        ({"aspect": (1, 0)}, "aspect must be two positive numbers"),
        ({"viscosity": -1.0}, "viscosity must be positive"),
        ({"density": 0.0}, "density must be positive"),
        ({"perturbation": -1.0}, "perturbation must be at least 0"),
        ({"points": 64, "substeps": 12}, "12 substeps carry .*: take at least 13"),
        ({"flow": "cylinder", "centre_y": 0.95, "substeps": 40}, "centre_y must be between 0.1"),
        (
            {"flow": "cylinder", "points": 16, "substeps": 40},
            "16 points are too few for a cylinder of radius 0.1: at least 30",
        ),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        ConfinedFlow(**options)
    assert "\n" not in str(error.value)


def test_boundary_layers_too_thin_for_the_grid_are_warned_of(caplog):
    ConfinedFlow(points=16, substeps=4, viscosity=1e-3)
    assert "16 points leave boundary layers at viscosity 0.001 unresolved: 20" in caplog.text


@pytest.mark.parametrize("flow", FLOWS)
def test_the_flow_has_what_its_walls_prescribe(flow):
    equation, parameters, state = begin(flow, speed={"uniform": [0.8, 1.0]})
    with torch.no_grad():
        state = equation.solver(parameters).step(state)
    walls = equation.prescribed(parameters)
    (left, right), (below, above) = equation.rim
    nx, ny = equation.grid()
    assert walls.free.shape == (2, 2, left + nx + right, below + ny + above)
    inner = walls.free[..., left : left + nx, below : below + ny]
    edge = torch.zeros_like(inner)  # faces of stored cells that lie on a wall
    edge[:, 1, :, -1] = True
    edge[:, 0, -1] = flow == "cavity"
    assert (state[edge] == 0).all() and not inner[edge].any()
    body = ~inner & ~edge
    assert body.any() == (flow == "cylinder")
    if body.any():
        assert state[body].square().mean().sqrt() < 0.1 * state.square().mean().sqrt()
    speed = parameters["speed"][:, None]
    if flow == "cavity":
        assert (walls.values[:, 0, :, -1] == speed).all()
        assert walls.values.count_nonzero() == 2 * (left + nx + right)
    else:  # no slip at the ends of the inlet
        assert (walls.values[:, 0, 0, below : below + ny] == speed).all()
        assert walls.values.count_nonzero() == 2 * ny
    rim = walls.free.clone()
    rim[..., left : left + nx, below : below + ny] = False
    assert not rim.any()


@pytest.mark.parametrize("flow", FLOWS)
def test_outflows_are_those_of_the_solver(flow):
    equation, parameters, state = begin(flow)
    solver = equation.solver(parameters)
    given = {name: value.numpy() for name, value in parameters.items()}
    rough = torch.tensor(np.random.default_rng(3).normal(size=tuple(state.shape)))
    with torch.no_grad():
        expected = solver.divergence(rough)
        flowing = solver.step(state)
    parts = equation.outflows(rough.numpy(), given)
    assert np.allclose(parts["x"] + parts["y"], expected.numpy(), atol=1e-10)
    assert imbalance(list(parts.values()), 2).min() > 0.5
    parts = equation.outflows(flowing.numpy(), given)
    assert imbalance(list(parts.values()), 2).max() < 1e-12
