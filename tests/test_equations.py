"""Contract of every equation in the folder."""

import numpy as np
import pytest
import torch

from longrun import registry
from longrun.equations._base import Quantity
from longrun.solvers.spectral import resample

NAMES = registry.names("equations")


@pytest.fixture(params=NAMES)
def equation(request):
    return registry.find("equations", request.param)()


def generators(count, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(count)]


def start(equation, count, seed=0):
    """Parameters and states a little on from the initial conditions, as tensors."""
    parameters, state = equation.sample(generators(count, seed))
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        solver = equation.solver(parameters, stride=equation.burn_in // 4)
        return parameters, solver.step(torch.tensor(state))


def test_there_are_equations():
    assert "kuramoto_sivashinsky" in NAMES


def test_describes_itself(equation):
    for quantity in (*equation.fields, *equation.parameters):
        assert isinstance(quantity, Quantity)
        assert quantity.name.isidentifier() and quantity.long_name and quantity.units
    assert equation.dims == len(equation.boundary) in (1, 2, 3)
    assert "dt" in [quantity.name for quantity in equation.parameters]


def test_sample_depends_on_its_generator_alone(equation):
    parameters, state = equation.sample(generators(3))
    assert list(parameters) == [quantity.name for quantity in equation.parameters]
    assert state.shape == (3, len(equation.fields)) + (equation.points,) * equation.dims
    assert state.dtype == np.float64 and np.isfinite(state).all()
    assert not np.array_equal(state[0], state[1])
    alone, lonely = equation.sample(generators(3)[1:2])
    assert np.array_equal(lonely[0], state[1])
    for name, value in parameters.items():
        assert value.dtype == np.float64 and value[1] == alone[name][0]


def test_solver_keeps_invariants_and_bounds(equation):
    parameters, state = start(equation, 2)
    with torch.no_grad():
        frames = equation.solver(parameters).rollout(state, 100)
    assert frames.shape == (2, 100, *state.shape[1:]) and frames.isfinite().all()
    values = {name: value.numpy() for name, value in parameters.items()}
    over_time = {name: value[:, None].repeat(100, 1) for name, value in values.items()}
    before = equation.invariants(state.numpy(), values)
    after = equation.invariants(frames.numpy(), over_time)
    assert before and set(before) == set(after)
    for name in before:
        assert before[name].shape == (2,) and after[name].shape == (2, 100)
        expected = np.broadcast_to(before[name][:, None], (2, 100))
        np.testing.assert_allclose(after[name], expected, rtol=1e-12, atol=1e-13)


def test_rollout_is_repeated_steps(equation):
    parameters, state = start(equation, 2)
    solver = equation.solver(parameters)
    with torch.no_grad():
        frames = solver.rollout(state, 3)
        for frame in frames.unbind(1):
            state = solver.step(state)
            torch.testing.assert_close(frame, state, rtol=1e-9, atol=1e-11)


def test_stride_and_substeps_count_steps(equation):
    parameters, state = start(equation, 2)
    with torch.no_grad():
        each = equation.solver(parameters, substeps=3).rollout(state, 4)
        fourth = equation.solver(parameters, substeps=3, stride=4).rollout(state, 1)
        torch.testing.assert_close(fourth[:, 0], each[:, 3], rtol=1e-9, atol=1e-11)
        half = equation.solver(parameters, substeps=0.5, stride=4)
        two = equation.solver({**parameters, "dt": 2 * parameters["dt"]}, substeps=1)
        torch.testing.assert_close(half.step(state), two.rollout(state, 2)[:, 1])
        least = equation.solver(parameters, substeps=0.1)
        one = equation.solver(parameters, substeps=1)
        assert torch.equal(least.step(state), one.step(state))


def test_other_resolution_agrees(equation):
    parameters, state = start(equation, 2)
    fine = equation.solver(parameters, points=2 * equation.points)
    with torch.no_grad():
        expected = equation.solver(parameters).step(state)
        found = fine.step(resample(state, 2 * equation.points))
    torch.testing.assert_close(resample(found, equation.points), expected, rtol=0, atol=1e-6)


def test_float32_is_close_to_float64(equation):
    parameters, state = start(equation, 2)
    with torch.no_grad():
        double = equation.solver(parameters).rollout(state, 10)
        single = equation.solver(parameters, dtype=torch.float32).rollout(state.float(), 10)
    assert single.dtype == torch.float32
    assert (single - double).norm() < 1e-5 * double.norm()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_bits_depend_on_neither_batch_nor_threads(equation, dtype):
    count = 70
    parameters, state = start(equation, count)
    state = state.to(dtype)

    def rollout(lanes):
        of_lanes = {name: value[lanes] for name, value in parameters.items()}
        return equation.solver(of_lanes, dtype=dtype).rollout(state[lanes], 5)

    threads = torch.get_num_threads()
    with torch.no_grad():
        whole = rollout(slice(None))
        try:
            for number, first, last in [(1, 0, count), (2, 0, count), (2, 3, 40), (1, 7, 8)]:
                torch.set_num_threads(number)
                assert torch.equal(rollout(slice(first, last)), whole[first:last])
        finally:
            torch.set_num_threads(threads)


def test_gradients_reach_the_state(equation):
    parameters, state = start(equation, 2)
    state.requires_grad_()
    equation.solver(parameters).rollout(state, 2).square().sum().backward()
    assert state.grad.isfinite().all() and state.grad.abs().max() > 0
