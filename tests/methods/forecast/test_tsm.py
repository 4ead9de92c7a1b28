"""Temporal stencil modelling: its stencils, its memory, its period, beside what the paper says."""

import math
from dataclasses import replace

import numpy as np
import pytest
import synthetic
import torch
import xarray as xr

from longrun.equations.navier_stokes_mac import NavierStokesMAC
from longrun.figures.forecast.vorticity import _vorticity
from longrun.methods.forecast.tsm import FACES, FREE, TSM, hippo, null_space
from longrun.runtime import checkpoint, registry
from longrun.runtime.cli import UserError
from longrun.solvers.mac import limited, linear, stencil

POINTS = 16
EQUATION = {
    "points": POINTS,
    "length": math.pi,
    "dt": 0.02,
    "viscosity": 2e-3,
    "waves": 2,
    "peak": 2.0,
    "speed": 4.0,
    "refinement": 1,
    "substeps": 1,
}
SMALL = {"width": 8, "layers": 2, "order": 6, "bundle": 3, "history": 5}


def build(seed=0, stride=1, equation=None, **options):
    section = {"name": "navier_stokes_mac"} | EQUATION | (equation or {})
    sizes = {"fields": 2, "dims": 2, "conditions": 0, "points": [POINTS, POINTS]}
    arguments = sizes | {"stride": stride, "equation": section} | SMALL | options
    return checkpoint.build("tsm", arguments, seed)


def trajectories(frames=12, batch=2, dtype=torch.float32):
    """True frames, and the parameters as a store gives them."""
    equation = NavierStokesMAC(**EQUATION)
    given, state = equation.sample([np.random.default_rng(i) for i in range(batch)])
    solver = equation.solver({name: torch.tensor(value) for name, value in given.items()})
    state = torch.tensor(state)
    window = [state]
    for _ in range(frames - 1):
        window.append(solver.step(window[-1]))
    table = torch.tensor(np.stack(list(given.values()), axis=1))
    return torch.stack(window, dim=1).to(dtype), table.to(dtype)


def solver_of(module, parameters):
    return module._solver(parameters, parameters.dtype)


def rollout(module, history, parameters, steps):
    memory, frames = module.begin(history, parameters), []
    for _ in range(steps):
        frame, memory = module.advance(memory)
        frames.append(frame)
    return torch.stack(frames, dim=1)


def random_logits(batch=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(batch, FACES * FREE, POINTS, POINTS, generator=generator, dtype=dtype)


# Stencils ----------------------------------------------------------------------------------------


def centred(padded, component, axis, courant):
    _, below, above, _ = stencil(padded, component, axis)
    return 0.5 * (below + above)


def test_zero_logits_are_centred_interpolation_under_the_limiter():
    module = build()
    window, parameters = trajectories(1)
    solver = solver_of(module, parameters)
    found = module.interpolate_and_advance(window[:, 0], torch.zeros_like(random_logits()), solver)
    expected = solver.advance(window[:, 0], limited(centred), linear)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_unlearned_is_the_solver_of_the_data_on_the_stored_grid():
    module = build(learned=False)
    assert not list(module.parameters())
    window, parameters = trajectories(6)
    found = rollout(module, window[:, :1], parameters, 5)
    torch.testing.assert_close(found, window[:, 1:], rtol=0, atol=1e-4)


def test_the_null_space_is_orthonormal_and_leaves_the_sum_of_weights():
    basis = null_space()
    assert basis.shape == (15, 16)
    torch.testing.assert_close(
        basis @ basis.T, torch.eye(15, dtype=torch.float64), rtol=0, atol=1e-14
    )
    assert basis.sum(1).abs().max() < 1e-14


def test_any_weights_of_sum_one_can_be_learned_and_no_others():
    """Values at faces are those of w = w0 + N^T z, from cells -1..2 around each along both axes."""
    module = build().double()
    basis = null_space()
    module.null_space.copy_(basis)
    window, parameters = trajectories(1, dtype=torch.float64)
    frame, solver = window[:, 0], solver_of(module, parameters)
    logits = random_logits(dtype=torch.float64)
    values = module._face_values(frame, solver.pad(frame), logits)
    z = logits.reshape(2, 2, 2, 2, 15, POINTS, POINTS)
    for role, found in enumerate(values):
        for component in (0, 1):
            for axis in (0, 1):
                across, velocity = (component, axis) if role == 0 else (axis, component)
                base = torch.zeros(4, 4, dtype=torch.float64)
                base[1, 1] = 0.5
                base[(2, 1) if across == 0 else (1, 2)] = 0.5
                free = torch.einsum("ks,bkxy->bsxy", basis, z[:, component, axis, role])
                weights = base.reshape(1, 16, 1, 1) + free
                assert (weights.sum(1) - 1).abs().max() < 1e-12
                expected = sum(
                    weights[:, 4 * i + j] * frame[:, velocity].roll((1 - i, 1 - j), (1, 2))
                    for i in range(4)
                    for j in range(4)
                )
                torch.testing.assert_close(found[:, component, axis], expected)


def test_uniform_flow_stays_as_it_is_whatever_the_logits():
    module = build(equation={"amplitude": 0.0, "drag": 0.0})
    _, parameters = trajectories(1)
    parameters[:, 3:] = 0.0  # amplitude and drag
    flow = torch.tensor([0.7, -0.4]).reshape(1, 2, 1, 1).expand(2, -1, POINTS, POINTS)
    found = module.interpolate_and_advance(flow, random_logits(), solver_of(module, parameters))
    torch.testing.assert_close(found, flow, rtol=0, atol=1e-5)


def test_learned_steps_have_no_divergence_and_conserve_momentum():
    module = build().double()
    window, parameters = trajectories(1, dtype=torch.float64)
    solver, frame = solver_of(module, parameters), window[:, 0]
    found = module.interpolate_and_advance(frame, 0.3 * random_logits().double(), solver)
    classical = solver.advance(frame)
    assert (found - classical).abs().max() > 1e-2
    assert solver.divergence(found).abs().max() < 1e-12
    mean = frame.mean((2, 3))
    torch.testing.assert_close(found.mean((2, 3)), mean, rtol=0, atol=1e-13)


def test_the_learned_scheme_moves_with_the_flow():
    """All layers are periodic; the force depends only on y."""
    module = build()
    window, parameters = trajectories(6)
    whole = rollout(module, window[:, :5], parameters, 4)
    moved = rollout(module, window[:, :5].roll(3, 3), parameters, 4)
    torch.testing.assert_close(moved, whole.roll(3, 3), rtol=0, atol=1e-5)


# Memory ------------------------------------------------------------------------------------------


def test_hippo_matrices_are_those_of_the_paper():
    transition, entry = hippo(5)
    rate = -(torch.ones(5, 5).tril() - 0.5 * torch.eye(5)).double()
    past, value = torch.randn(5, generator=torch.Generator().manual_seed(0)).double(), 0.7
    following = transition @ past + entry * value
    left = following - 0.5 * rate @ following
    right = past + 0.5 * rate @ past + value
    torch.testing.assert_close(left, right, rtol=0, atol=1e-13)


def test_hippo_coefficients_are_projections_on_orthonormal_sequences():
    """At step 1 the bilinear rule's responses are orthonormal, discrete Laguerre functions."""
    order, length = 12, 400
    transition, entry = hippo(order)
    responses = [entry]
    for _ in range(length - 1):
        responses.append(transition @ responses[-1])
    basis = torch.stack(responses, dim=1)  # (coefficient, steps ago)
    torch.testing.assert_close(
        basis @ basis.T, torch.eye(order, dtype=torch.float64), rtol=0, atol=1e-10
    )
    # the first of them is exponential: 0.8 * 0.6 ** steps ago
    expected = 0.8 * 0.6 ** torch.arange(20, dtype=torch.float64)
    torch.testing.assert_close(basis[0, :20], expected, rtol=1e-12, atol=0)


def test_the_past_can_be_read_from_its_coefficients():
    """A signal is the sum of its coefficients times the basis; the more, the better."""
    time = torch.arange(200, dtype=torch.float64)
    fading = torch.exp(-(((time - 199) / 40) ** 2))  # what a short memory has lost is not tested
    signal = fading * (torch.sin(0.2 * time) + 0.3 * torch.cos(0.43 * time))
    errors = []
    for order in (4, 16, 64):
        transition, entry = hippo(order)
        past, basis = torch.zeros(order, dtype=torch.float64), [entry]
        for value in signal:
            past = transition @ past + entry * value
            basis.append(transition @ basis[-1])
        last = signal.flip(0)[:12]  # steps ago
        errors.append((torch.stack(basis[:12]) @ past - last).abs().max().item())
    assert errors[0] > 5 * errors[1] and errors[2] < 1e-6, errors


def test_the_module_remembers_by_that_recurrence_every_cell_for_itself():
    module = build(history=5)
    window, parameters = trajectories(5)
    past = module.begin(window, parameters)["past"]
    transition, entry = hippo(SMALL["order"])
    cell = torch.zeros(SMALL["order"], dtype=torch.float64)
    for frame in range(4):  # the fifth enters with the first step
        cell = transition @ cell + entry * window[1, frame, 0, 3, 7].double()
    torch.testing.assert_close(past[1, 0, :, 3, 7], cell.float(), rtol=1e-5, atol=1e-6)
    following = module.advance(module.begin(window, parameters))[1]["past"]
    cell = transition @ cell + entry * window[1, 4, 0, 3, 7].double()
    torch.testing.assert_close(following[1, 0, :, 3, 7], cell.float(), rtol=1e-5, atol=1e-6)


def test_raw_memory_is_the_last_frames():
    module = build(memory="frames", order=3, history=5)
    window, parameters = trajectories(5)
    begin = module.begin(window, parameters)
    assert torch.equal(begin["past"].transpose(1, 2), window[:, 1:4])
    after = module.advance(begin)[1]["past"]
    assert torch.equal(after.transpose(1, 2), window[:, 2:5])


@pytest.mark.parametrize("memory", ["hippo", "frames"])
def test_the_network_reads_a_tenth_of_its_memory(memory):
    module = build(memory=memory, order=3, bundle=1)
    window, parameters = trajectories(5)
    read = []
    module.network.register_forward_pre_hook(lambda _, given: read.append(given[0]))
    begin = module.begin(window, parameters)
    past = module.advance(begin)[1]["past"]
    torch.testing.assert_close(read[0], 0.1 * past.flatten(1, 2))


def test_learned_interpolation_sees_one_frame():
    module = build(memory="frames", order=1, bundle=1)
    window, parameters = trajectories(5)
    found = rollout(module, window, parameters, 3)
    alone = rollout(module, window[:, -1:], parameters, 3)
    assert torch.equal(found, alone)


def test_temporal_modelling_depends_on_the_frames_before():
    module = build()
    window, parameters = trajectories(5)
    found = rollout(module, window, parameters, 1)
    other = torch.cat([1.1 * window[:, :4], window[:, 4:]], dim=1)
    assert (rollout(module, other, parameters, 1) - found).abs().max() > 1e-6


# Bundles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", [1, 2, 3])
def test_the_network_is_called_once_per_bundle_and_each_part_used_once(bundle, monkeypatch):
    module = build(bundle=bundle)
    window, parameters = trajectories(5)
    calls, used = [], []
    module.network.register_forward_hook(lambda *given: calls.append(given[2]))
    advance = module.interpolate_and_advance

    def record(frame, logits, solver):
        used.append(logits)
        return advance(frame, logits, solver)

    monkeypatch.setattr(module, "interpolate_and_advance", record)
    with torch.no_grad():
        rollout(module, window, parameters, 3 * bundle)
    assert len(calls) == 3 and calls[0].shape[1] == 120 * bundle
    parts = [part for call in calls for part in call.split(120, dim=1)]
    assert all(torch.equal(a, b) for a, b in zip(parts, used, strict=True))


def test_a_frozen_trajectory_does_not_disturb_the_period_of_others():
    """Evaluation freezes the memory of a diverged trajectory."""
    module = build(bundle=3)
    window, parameters = trajectories(5)
    memory = module.begin(window, parameters)
    with torch.no_grad():
        first = module.advance(memory)[1]
        mixed = {name: torch.stack([memory[name][0], first[name][1]]) for name in memory}
        found = module.advance(mixed)[0]
        expected = [module.advance(memory)[0][0], module.advance(first)[0][1]]
    torch.testing.assert_close(found, torch.stack(expected), rtol=0, atol=1e-6)


# Sizes, steps, training --------------------------------------------------------------------------


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_at_the_size_of_the_paper():
    """6 hidden layers of 256 channels, between 512 coefficients and 4 times 120 logits."""
    hidden = 5 * (9 * 256 * 256 + 256)
    module = build(width=256, layers=6, order=256, bundle=4)
    assert count(module) == (9 * 512 * 256 + 256) + hidden + (9 * 256 * 480 + 480) == 5_236_704
    module = build(width=256, layers=6, memory="frames", order=1, bundle=1)
    assert count(module) == (9 * 2 * 256 + 256) + hidden + (9 * 256 * 120 + 120) == 3_231_864


def test_its_defaults_are_the_paper_s():
    sizes = {"fields": 2, "dims": 2, "conditions": 0, "points": [64, 64], "stride": 1}
    with torch.device("meta"):
        module = TSM(**sizes, equation={"name": "navier_stokes_mac"})
    assert count(module) == 5_236_704 and module.steps == 1


@pytest.mark.parametrize(("stride", "steps"), [(1, 1), (2, 2), (4, 4)])
def test_a_step_is_as_many_of_the_solver_as_its_speed_asks_for(stride, steps):
    module = build(stride=stride)
    assert module.steps == steps
    window, parameters = trajectories(5)
    assert solver_of(module, parameters).steps == steps
    memory = module.advance(module.begin(window, parameters))[1]
    assert memory["used"].tolist() == [steps % 3] * 2


def test_loss_is_half_the_squared_error_of_both_components():
    module = build(training={"name": "unrolled"})
    window, parameters = trajectories(7)
    found = rollout(module, window[:, :5], parameters, 2)
    error = (found - window[:, 5:]).square().mean((0, 1, 3, 4))
    loss = module.window_loss(window, parameters, torch.Generator())
    torch.testing.assert_close(loss, 0.5 * error[0] + 0.5 * error[1])


def test_checkpointing_changes_no_gradient():
    window, parameters = trajectories(9)
    gradients = []
    for checkpointing in (False, True):
        scheme = {"name": "unrolled", "unroll": 4}
        module = build(training=scheme, checkpointing=checkpointing).train()
        module.window_loss(window, parameters, torch.Generator()).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_gradients_agree_with_finite_differences():
    module = build(bundle=2).double()
    window, parameters = trajectories(5, batch=1, dtype=torch.float64)

    def loss():
        return rollout(module, window, parameters, 3).square().mean()

    weight = module.network[0].weight
    (gradient,) = torch.autograd.grad(loss(), weight)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight.add_(sign * 1e-5 * direction)
            values.append(loss())
            weight.sub_(sign * 1e-5 * direction)
    slope = (values[0] - values[1]) / 2e-5
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-4, atol=1e-10)


def test_training_lowers_the_error():
    module = build(training={"name": "unrolled", "unroll": 4}, bundle=2)
    window, parameters = trajectories(9)
    optimiser = torch.optim.Adam(module.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        loss = module.window_loss(window, parameters, torch.Generator())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bundle": 0}, "must be at least 1"),
        ({"training": {"name": "all2all"}, "history": 1}, "needs a method that sees frames alone"),
        ({"dims": 1}, "dims must be 2"),
        ({"equation": {"name": "burgers"}}, "equation must be navier_stokes_mac, is burgers"),
    ],
)
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        build(**options)
    assert "\n" not in str(error.value)


# Figure ------------------------------------------------------------------------------------------


def kept(prediction, truth):
    dims = ("trajectory", "lead_time", "field", "x", "y")
    coordinates = {"field": ["u", "v"], "lead_time": [0.1, 0.2, 0.3, 0.4]}
    coordinates |= {axis: np.arange(POINTS) * math.pi / POINTS for axis in "xy"}
    fields = {"truth": (dims, truth[:1].numpy()), "prediction": (dims, prediction[:1].numpy())}
    return xr.Dataset(fields, coordinates | {"length": ("trajectory", [math.pi])})


def test_the_figure_tells_when_vorticity_is_lost():
    truth, _ = trajectories(5)
    lost = truth[:, 1:].clone()
    lost[:, 2:] = lost[:, 2:].flip(3)
    inputs = synthetic.inputs(("persistence",))
    predictions = {"persistence": kept(lost, truth[:, 1:])}
    figure = registry.find("figures", "vorticity")(replace(inputs, predictions=predictions))
    assert "persistence until 0.3 time units" in figure.get_suptitle().replace("\n", " ")
    empty = registry.find("figures", "vorticity")(replace(inputs, predictions={}))
    assert len(empty.axes) <= 1


def test_the_figure_s_vorticity_is_that_of_the_stream_function():
    """On the staggered grid curl of curl is the Laplacian of five points, exactly."""
    corners = torch.randn(POINTS, POINTS, generator=torch.Generator().manual_seed(0)).double()
    cell = math.pi / POINTS
    u = (corners - corners.roll(1, 1)) / cell
    v = -(corners - corners.roll(1, 0)) / cell
    frame = torch.stack([u, v])[None, None].expand(1, 4, -1, -1, -1)
    sample = kept(frame, frame).isel(trajectory=0)
    found = _vorticity(sample, "truth").values[0]
    neighbours = sum(corners.roll(step, axis) for step in (1, -1) for axis in (0, 1))
    expected = (4 * corners - neighbours) / cell**2
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-9)
