"""Causal PINN: the weights, the encoding, the stages, and known pitfalls."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.solve import ALLEN_CAHN, HELMHOLTZ
from tasks.test_solve import as_data, build, generator

from longrun.equations.chaotic_system import ChaoticSystem
from longrun.figures._inputs import Inputs
from longrun.figures.solve import causal_weights
from longrun.methods.solve.causal_pinn import CausalPINN, _product, _tanh
from longrun.tasks.solve import AbstractFieldSolver

LORENZ = {"name": "chaotic_system", "system": "Lorenz", "dt": 0.01, "burn_in": 0}


def lorenz(**options):
    module = CausalPINN([], LORENZ, layers=2, width=16, collocation=[20, 1], **options)
    module.fit_statistics({"condition_low": [0.01]})
    return module


def test_weights_are_those_of_strictly_earlier_slices():
    module = build(CausalPINN, epsilons=[2.0])
    slices = torch.tensor([0.3, 0.1, 0.4, 0.2])
    given = torch.tensor(0.05)
    matrix = np.tril(np.ones((4, 4)), -1)
    expected = np.exp(-2.0 * (matrix @ slices.numpy() + 0.05))
    np.testing.assert_allclose(module.weights(slices, given), expected, rtol=1e-6)
    module = build(CausalPINN, epsilons=[2.0], initial_in_weights=False)
    assert module.weights(slices, given)[0] == 1


def test_weights_are_constants_for_the_gradient():
    module = build(CausalPINN, epsilons=[2.0])
    slices = torch.tensor([0.3, 0.1, 0.4], requires_grad=True)
    given = torch.tensor(0.05, requires_grad=True)
    loss = module.weigh(slices, given)
    loss.backward()
    torch.testing.assert_close(slices.grad, module.weights(slices, given) / 3)
    assert given.grad is None


def test_a_loss_is_that_of_the_paper():
    module = build(CausalPINN, epsilons=[3.0], collocation=[6, 8], initial_weight=7.0)
    module.initial.copy_(torch.sin(torch.arange(64) / 64 * 2 * torch.pi)[None])
    loss = module.batch_loss({}, generator())
    points = module.collocate(generator())
    slices = [float(module.residual(row).detach().square().mean()) for row in points]
    x = torch.arange(64) / 32
    start = module(torch.stack([torch.zeros(64), x], 1))[:, 0]
    given = 7.0 * float((start.detach() - module.initial[0]).square().mean())
    weights = [np.exp(-3.0 * (sum(slices[:i]) + given)) for i in range(6)]
    expected = np.mean(np.array(weights) * slices) + given
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_without_epsilons_all_slices_are_equal():
    module = build(CausalPINN, epsilons=[])
    slices = torch.tensor([0.3, 0.1, 0.8])
    assert float(module.weigh(slices, torch.tensor(9.0))) == pytest.approx(0.4)


@pytest.mark.parametrize("modified", [False, True])
def test_the_field_is_exactly_periodic(modified):
    module = build(CausalPINN, modified=modified).double()
    t = torch.rand(5, 1, generator=generator(), dtype=torch.float64)
    ends = [torch.cat([t, torch.full_like(t, x)], 1) for x in (0.0, 2.0)]
    left, right = (AbstractFieldSolver.differentiate(module, p, ("x", "xx", "xxx")) for p in ends)
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-9, atol=1e-9)


def test_the_encoding_is_the_paper_s():
    module = build(CausalPINN, harmonics=3).double()
    points = torch.tensor([[0.3, 0.7]], dtype=torch.float64)
    k = np.arange(1, 4) * np.pi * 0.7  # w = 2 pi / 2
    expected = np.concatenate([[0.3, 1.0], np.cos(k), np.sin(k)])
    np.testing.assert_allclose(module._encode(points, (0, 0))[0][0], expected, rtol=1e-12)


def test_two_periodic_axes_enter_as_products():
    equation = ALLEN_CAHN | {"dims": 2}
    module = build(CausalPINN, equation=equation, points=[64, 64], harmonics=2, width=8).double()
    points = torch.rand(5, 3, generator=generator(), dtype=torch.float64) * module.extent
    names = module.equation.derivatives
    assert names == ("t", "xx", "yy") and module.hidden[0].in_features == 1 + 5**2
    found = module.differentiate(points, names)
    expected = AbstractFieldSolver.differentiate(module, points, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


def test_taylor_coefficients_of_tanh_and_of_products_up_to_the_fourth_order():
    generator_ = generator()
    z = [torch.randn(6, 2, generator=generator_, dtype=torch.float64) for _ in range(6)]
    orders = (4, 1)
    s = torch.zeros((), dtype=torch.float64)

    def along(start, order, outer):
        def path(h):
            line = z[0] + sum(z[start + n] * h ** (n + 1) for n in range(order))
            return outer(line)

        found, factor = [path], 1.0
        values = [path(s)]
        for n in range(1, order + 1):
            before = found[-1]
            found.append(lambda h, f=before: torch.func.jvp(f, (h,), (torch.ones_like(h),))[1])
            factor *= n
            values.append(found[-1](s) / factor)
        return values

    for outer, jets in (
        (torch.tanh, _tanh(z, orders)),
        (torch.square, _product(z, z, orders)),
    ):
        expected = along(1, 4, outer) + along(5, 1, outer)[1:]
        for value, wanted in zip(jets, expected, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-10, atol=1e-10)


def test_gates_of_the_modified_network():
    module = build(CausalPINN, modified=True, layers=2, width=8).double()
    points = torch.rand(4, 2, generator=generator(), dtype=torch.float64)
    inputs = torch.cat(module._encode(points, (0, 0)))
    u, v = (torch.tanh(gate(inputs)) for gate in module.gates)
    hidden = inputs
    for layer in module.hidden:
        hidden = torch.tanh(layer(hidden))
        hidden = hidden * u + (1 - hidden) * v
    torch.testing.assert_close(module(points), module.last(hidden), rtol=1e-12, atol=1e-12)


def test_the_network_of_allen_cahn_has_the_paper_s_size():
    module = build(CausalPINN, layers=4, width=128, harmonics=10)
    widths = [22, 128, 128, 128, 128, 1]  # t, 1, ten cosines and ten sines
    expected = sum(a * b + b for a, b in itertools.pairwise(widths))
    assert sum(p.numel() for p in module.parameters()) == expected == 52609


def test_a_stage_ends_when_solved_or_at_its_cap():
    module = build(CausalPINN, epsilons=[1.0, 10.0, 100.0], stage_steps=5)
    step = SimpleNamespace(global_step=0, max_steps=100)
    kind = type("Stepping", (CausalPINN,), {"global_step": property(lambda self: step.global_step)})
    module.__class__ = kind
    module._trainer = step

    def advance(smallest):
        step.global_step += 1
        module._smallest = torch.tensor(smallest)
        module.on_train_batch_end(None, {}, 0)
        return int(module.stage)

    assert [advance(0.5) for _ in range(5)] == [0, 0, 0, 0, 1]
    assert advance(0.98) == 1 and advance(0.995) == 2 and module.epsilon == 100.0
    assert [advance(0.999) for _ in range(9)] == [2] * 9  # the last stage stays


def test_hard_initial_states_are_exact():
    module = lorenz(hard_initial=True)
    states = torch.tensor([1.0, -2.0, 3.0])
    module.initial.copy_(states)
    assert torch.equal(module(torch.zeros(1, 1))[0], states)
    points = torch.rand(4, 1, generator=generator(), dtype=torch.float64)
    module = module.double()
    found = module.differentiate(points, ("t",))
    expected = AbstractFieldSolver.differentiate(module, points, ("t",))
    torch.testing.assert_close(found["t"], expected["t"], rtol=1e-10, atol=1e-10)


def test_lorenz_is_trained_and_scored():
    from test_solve import Store

    module = lorenz(hard_initial=True, epsilons=[1e-2])
    store = Store(ChaoticSystem(system="Lorenz", dt=0.01, burn_in=0), 6)
    module.prepare(as_data(store), [])
    module.batch_loss({}, generator()).backward()
    assert all(p.grad.abs().max() > 0 for p in module.parameters())
    scores = module.evaluate(store, {}, 0).scores.set_index("metric")["value"]
    first = scores["relative_l2_over_time"].iloc[0]
    assert first < 1e-6 and scores["relative_l2"] > first


def test_causal_training_solves_early_times_first():
    """A short training: early times are solved far better than late ones, only with weights."""
    ratio = {}
    for name, epsilons in (("causal", [10.0]), ("plain", [])):
        module = build(
            CausalPINN,
            layers=2,
            width=16,
            harmonics=3,
            epsilons=epsilons,
            collocation=[10, 16],
            sampling="grid",
            initial_weight=100.0,
        ).train()
        x = torch.arange(64) / 32 - 1
        module.initial.copy_((x**2 * torch.cos(torch.pi * x))[None])
        optimiser = torch.optim.Adam(module.parameters(), 3e-3)
        for _ in range(300):
            optimiser.zero_grad()
            module.batch_loss({}, generator()).backward()
            optimiser.step()
        slices = module.residual(module.collocate(generator())).detach().square().mean((1, 2))
        ratio[name] = float(slices[-1] / slices[0])
    assert ratio["causal"] > 3 * ratio["plain"]


def test_figure_says_how_far_the_weights_are_open():
    steps, times = np.arange(0, 1000, 100), np.linspace(0, 1, 11)
    curves = [
        {
            "method": "causal",
            "seed": 0,
            "step": step,
            "metric": metric,
            "value": float(number / 20 <= 0.5 * step / 900),  # to half of the time
        }
        for step in steps
        for number, metric in enumerate(causal_weights.CURVES)
    ]
    scores = pd.DataFrame(
        {
            "dataset": "d",
            "metric": "relative_l2_over_time",
            "method": np.repeat(["plain", "causal"], 11),
            "seed": 0,
            "trajectory": 0,
            "step": np.tile(np.arange(11), 2),
            "lead_time": np.tile(times, 2),
            "value": 0.1 + np.tile(times, 2),
        }
    )
    methods = {"plain": {}, "causal": {}}
    spec = {"methods": methods, "test": ["d"]}
    figure = causal_weights.draw(Inputs(spec, "cpu", "e", scores, {}, pd.DataFrame(curves), {}))
    assert "up to t = 0.50 count at the end" in figure.get_suptitle()
    labels = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert {"plain", "causal"} <= set(labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(CausalPINN, epsilons=[-1.0]), "epsilons must be positive"),
        (lambda: build(CausalPINN, hard_initial=True), "without axes of space"),
        (
            lambda: build(CausalPINN, equation=HELMHOLTZ, points=[40, 40], collocation=[5]),
            "causal weights need time",
        ),
        (lambda: build(CausalPINN, harmonics=0), "at least 1"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
