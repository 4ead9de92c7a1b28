"""Contract of every equation in the folder, as every dataset of preset smoke sets it up."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from longrun import config
from longrun.equations._base import Distribution, Quantity
from longrun.generate import build, measure
from longrun.runtime import registry

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = registry.names("equations")
DATASETS = {
    name: config.compose_dataset(CONFIGS, name, "smoke") for name in config.datasets(CONFIGS)
}


@functools.cache
def built(name):
    return build(DATASETS[name]["equation"])


def together(name):
    """Have the tests of a dataset share a process, and in it where they start from."""
    return pytest.param(name, marks=pytest.mark.xdist_group(f"equation {name}"))


@pytest.fixture(params=map(together, DATASETS))
def equation(request):
    return built(request.param)


@pytest.fixture
def moving(equation):
    if equation.steady:
        pytest.skip("a steady map has no time")
    return equation


def generators(count, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(count)]


def start(equation, count):
    """Parameters and states a little after the initial conditions, as tensors."""
    parameters, state = started(equation, count)
    return dict(parameters), state.clone()


@functools.cache
def started(equation, count):
    parameters, state = equation.sample(generators(count))
    parameters = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        solver = equation.solver(parameters)
        state = torch.tensor(state)
        for _ in range(min(4, max(1, equation.burn_in // 4))):
            state = solver.step(state)
    return parameters, state


def distance(found, expected):
    """Largest relative distance of the fields of a batch of states, each by its own size.

    A field that is small beside the others is measured by them.
    """
    space = (0, *range(2, expected.ndim))
    error = (found - expected).square().mean(space).sqrt()
    size = expected.square().mean(space).sqrt()
    return (error / size.clamp_min(0.02 * size.max())).max()


def test_every_equation_has_a_dataset():
    assert {spec["equation"]["name"] for spec in DATASETS.values()} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_possible(name):
    assert registry.find("equations", name)().points >= 1


def test_describes_itself(equation):
    for quantity in (*equation.fields, *equation.parameters):
        assert isinstance(quantity, Quantity)
        assert quantity.name.isidentifier() and quantity.long_name and quantity.units
    assert equation.dims == len(equation.boundary) <= 3
    names = [quantity.name for quantity in equation.parameters]
    assert list(equation.distributions) == names
    assert all(isinstance(d, Distribution) for d in equation.distributions.values())
    assert ("dt" in names) != equation.steady
    assert ("length" in names) == bool(equation.dims)
    assert type(equation).__doc__


def test_sample_depends_on_its_generator_alone(equation):
    parameters, state = equation.sample(generators(3))
    assert list(parameters) == [quantity.name for quantity in equation.parameters]
    assert state.dtype == np.float64 and np.isfinite(state).all()
    stored = equation.observe(torch.tensor(state))
    assert stored.shape == (3, len(equation.fields), *equation.grid())
    alone, lonely = equation.sample(generators(3)[1:2])
    assert np.array_equal(lonely[0], state[1])
    for name, value in parameters.items():
        assert value.shape == (3,) and value.dtype == np.float64 and value[1] == alone[name][0]
    varying = any(d.low < d.high for d in equation.distributions.values())
    assert varying or not np.array_equal(state[0], state[1])


def test_solver_keeps_invariants_and_bounds(moving):
    parameters, state = start(moving, 2)
    with torch.no_grad():
        frames = moving.solver(parameters).rollout(state, 10)
        stored = moving.observe(frames.flatten(0, 1)).unflatten(0, (2, 10)).numpy()
        initial = moving.observe(state).numpy()
    assert frames.shape == (2, 10, *state.shape[1:]) and frames.isfinite().all()
    values = {name: value.numpy() for name, value in parameters.items()}
    over_time = {name: value[:, None].repeat(10, 1) for name, value in values.items()}
    before = moving.invariants(initial, values)
    after = moving.invariants(stored, over_time)
    assert set(before) == set(after)
    size = np.abs(stored).max()
    for name in before:
        assert before[name].shape == (2,) and after[name].shape == (2, 10)
        expected = np.broadcast_to(before[name][:, None], (2, 10))
        np.testing.assert_allclose(after[name], expected, rtol=1e-11, atol=1e-12 * size)


def test_rollout_is_repeated_steps(moving):
    parameters, state = start(moving, 2)
    solver = moving.solver(parameters)
    with torch.no_grad():
        frames = solver.rollout(state, 3)
        for frame in frames.unbind(1):
            state = solver.step(state)
            torch.testing.assert_close(frame, state, rtol=1e-8, atol=1e-9)


def test_stride_and_substeps_count_steps(moving):
    parameters, state = start(moving, 2)
    steps = moving.substeps
    with torch.no_grad():
        each = moving.solver(parameters, substeps=steps).rollout(state, 4)
        fourth = moving.solver(parameters, substeps=steps, stride=4).rollout(state, 1)
        torch.testing.assert_close(fourth[:, 0], each[:, 3], rtol=1e-8, atol=1e-9)
        least = moving.solver({**parameters, "dt": parameters["dt"] / steps}, substeps=0.1)
        one = moving.solver({**parameters, "dt": parameters["dt"] / steps}, substeps=1)
        assert torch.equal(least.step(state), one.step(state))


def test_other_resolution_agrees(equation):
    parameters, state = start(equation, 2)
    fine = equation.solver(parameters, points=2 * equation.resolution)
    with torch.no_grad():
        expected = equation.solver(parameters).step(state)
        found = fine.step(equation.resample(state, 2 * equation.resolution))
        back = equation.resample(found, equation.resolution)
    assert distance(equation.observe(back), equation.observe(expected)) < 0.1


def test_resampling_up_and_down_changes_little(equation):
    _, state = start(equation, 2)
    up = equation.resample(state, 2 * equation.resolution)
    down = equation.resample(up, equation.resolution)
    assert down.shape == state.shape
    assert distance(down, state) < 0.05  # a grid of smoke has few points per wave


def test_float32_is_close_to_float64(equation):
    parameters, state = start(equation, 2)
    with torch.no_grad():
        double = equation.solver(parameters).step(state)
        single = equation.solver(parameters, dtype=torch.float32).step(state.float())
    assert single.dtype == torch.float32
    assert distance(single, double) < 1e-3


def test_bits_do_not_depend_on_the_batch(equation, one_thread):
    count = 5
    parameters, state = start(equation, count)

    def frame(lanes):
        of_lanes = {name: value[lanes] for name, value in parameters.items()}
        return equation.solver(of_lanes).step(state[lanes])

    with torch.no_grad():
        whole = frame(slice(None))
        for first, last in [(0, count), (1, 4), (3, 4)]:
            assert torch.equal(frame(slice(first, last)), whole[first:last])


def test_gradients_reach_the_state(equation):
    parameters, state = start(equation, 1)
    solver = equation.solver(parameters, substeps=1)
    if not solver.differentiable:
        pytest.skip("says that it isn't differentiable")
    state.requires_grad_()
    solver.step(state).square().sum().backward()
    assert state.grad.isfinite().all() and state.grad.abs().max() > 0


@pytest.mark.parametrize("name", DATASETS)
def test_measured_error_is_small(name):
    """A smoke dataset may be coarse, but it solves the equation that it says it does.

    Sharp layers on a few cells are off by some 20 %; another equation would be off by more.
    """
    spec = DATASETS[name]
    error = measure(build(spec["equation"]), spec["seed"], 2, "float64", 2)[1]
    assert 0 <= error[0] < 0.3


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        (2.0, 2.0, 2.0),
        ({"uniform": [1.0, 3.0]}, 1.0, 3.0),
        ({"log_uniform": [1e-4, 1.0]}, 1e-4, 1.0),
        ({"choice": [5.0, 1.0, 2.0]}, 1.0, 5.0),
    ],
)
def test_distributions_keep_to_their_bounds(value, low, high):
    distribution = Distribution.of("speed", value)
    assert (distribution.low, distribution.high) == (low, high)
    drawn = np.array([distribution.draw(np.random.default_rng(i)) for i in range(200)])
    assert low <= drawn.min() and drawn.max() <= high
    if low < high:
        assert len(np.unique(drawn)) == (3 if "choice" in value else 200)
    if low == 1e-4:
        assert 0.3 < (drawn < 1e-2).mean() < 0.7
