"""The task `solve`: residuals of exact solutions, points, the problem, the evaluation."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import solve as contract_solve

from longrun.equations.allen_cahn import AllenCahn
from longrun.equations.chaotic_system import ChaoticSystem
from longrun.equations.heat import Heat
from longrun.equations.helmholtz import Helmholtz
from longrun.generate import simulate
from longrun.methods.solve.causal_pinn import CausalPINN
from longrun.methods.solve.pig import PIG
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks.solve import AbstractFieldSolver

SOLVERS = [
    name
    for name in registry.names("methods")
    if issubclass(registry.find("methods", name), AbstractFieldSolver)
]


def build(kind, seed=0, equation=None, points=None, values=None, **options):
    """Return a small method that knows the parameters of its problem."""
    about = contract_solve.description(kind)
    if "periodic" not in kind.boundaries:
        options = {"collocation": [32]} | options
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = kind(points or about["points"], equation or about["equation"], **options)
    values = values or about["statistics"]["condition_low"]
    module.fit_statistics({"condition_low": values})
    return module.eval()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Store:
    """Trajectories in memory, as a store shows them."""

    def __init__(self, equation, frames, trajectories=1, **parameters):
        self.values, self.states = simulate(equation, 0, "test", range(trajectories), frames)
        self.values |= parameters
        self.fields = tuple(quantity.name for quantity in equation.fields)
        self.path = SimpleNamespace(stem="store")

    def split(self, name):
        def read(rows, frames):
            return self.states[rows][:, frames].astype(np.float32)

        return SimpleNamespace(
            parameters=self.values,
            parameter_names=tuple(self.values),
            fields=self.fields,
            frames=self.states.shape[1],
            space=self.states.shape[3:],
            path=SimpleNamespace(name=name),
            read=read,
        )


def allen_cahn_store(frames=5):
    options = {k: v for k, v in contract_solve.ALLEN_CAHN.items() if k != "name"}
    return Store(AllenCahn(**options), frames)


def helmholtz_store():
    options = {k: v for k, v in contract_solve.HELMHOLTZ.items() if k != "name"}
    return Store(Helmholtz(**options), 1)


def as_data(store):
    return SimpleNamespace(stores=[store])


# Equations -------------------------------------------------------------------------------------


def spectral(values, length, order):
    """Derivative along the last axis of a periodic function."""
    waves = 2j * np.pi / length * np.fft.fftfreq(values.shape[-1], 1 / values.shape[-1])
    return np.fft.ifft(waves**order * np.fft.fft(values)).real


def test_residual_of_the_reference_solution_vanishes():
    equation = AllenCahn(points=256, diffusivity=1e-2, dt=1e-3, initial="waves", substeps=2)
    values, states = simulate(equation, 0, "test", [0], 5)
    u = states[0, :, 0]
    rate = (8 * (u[3] - u[1]) - (u[4] - u[0])) / (12 * 1e-3)
    table = {"": u[2], "t": rate, "xx": spectral(u[2], 2.0, 2)}
    tensors = {name: torch.tensor(value)[:, None] for name, value in table.items()}
    parameters = {name: torch.tensor(value[0]) for name, value in values.items()}
    residual = equation.residual(tensors, {}, parameters)
    assert residual.abs().max() < 1e-6 * abs(rate).max()
    assert equation.derivatives == ("t", "xx")
    assert AllenCahn(points=64, dims=2, diffusivity=1e-2).derivatives == ("t", "xx", "yy")


def test_residual_of_lorenz_is_its_right_hand_side():
    equation = ChaoticSystem(varied="rho", values=28.0)
    state = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    rate = torch.tensor([[10.0, 28.0 - 3.0 - 2.0, 2.0 - 8.0]], dtype=torch.float64)
    coefficients = {"dt": torch.tensor(0.01), "rho": torch.tensor(28.0)}
    assert equation.coefficients["sigma"] == 10 and equation.coefficients["beta"] < 3
    rate[0, 2] = 2.0 - equation.coefficients["beta"] * 3.0
    residual = equation.residual({"": state, "t": rate}, {}, coefficients)
    assert residual.abs().max() < 1e-12


def test_manufactured_helmholtz():
    """The store's solution is sin(pi r) sin(4 pi s), and its residual vanishes."""
    equation = Helmholtz(
        points=128, length=2.0, wavenumber=1.0, contrast=0.0, given="sines", modes=(1, 4)
    )
    values, states = simulate(equation, 0, "test", [0], 1)
    r = 2 * (np.arange(128) + 0.5) / 128 - 1
    exact = np.outer(np.sin(np.pi * r), np.sin(4 * np.pi * r))
    assert abs(states[0, 0, 2] - exact).max() < 5e-5
    np.testing.assert_allclose(states[0, 0, 1], (1 - 17 * np.pi**2) * exact, atol=1e-10)
    assert (states[0, 0, 0] == 1).all()
    x = torch.tensor(r + 1)
    at = dict(zip("xy", torch.meshgrid(x, x, indexing="ij"), strict=True))
    u = torch.tensor(exact)[..., None]
    table = {"": u, "xx": -(math.pi**2) * u, "yy": -16 * math.pi**2 * u}
    parameters = {name: torch.tensor(value[0]) for name, value in values.items()}
    assert equation.residual(table, at, parameters).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Helmholtz(given="sines"), "contrast 0, it is 1"),
        (lambda: Helmholtz(given="sines", contrast=0.0, modes=(1, 0)), "at least 1"),
        (lambda: Helmholtz(given="sines", contrast=0.0, modes=(1, 20)), "at least 200"),
        (lambda: Heat().residual({}, {}, {}), "Heat gives no residual"),
        (lambda: Helmholtz().residual({}, {}, {}), "sines only"),
    ],
)
def test_equations_refuse(make, message):
    with pytest.raises(UserError, match=message):
        make()


# Points ----------------------------------------------------------------------------------------


def test_times_are_sorted_and_positions_do_not_depend_on_them():
    module = build(CausalPINN, collocation=[16, 9])
    points = module.collocate(generator())
    assert points.shape == (16, 9, 2)
    assert (points[1:, :, 0] >= points[:-1, :, 0]).all()
    assert (points[:, :, 0] == points[:, :1, 0]).all()
    assert torch.equal(points[:, :, 1], points[:1, :, 1].expand(16, -1))
    assert points.min() >= 0 and (points.amax((0, 1)) <= module.extent).all()
    assert torch.equal(points, module.collocate(generator()))
    assert not torch.equal(points, module.collocate(generator(1)))


def test_a_grid_of_points_stays_and_spans_the_problem():
    module = build(CausalPINN, collocation=[5, 8], sampling="grid")
    points = module.collocate(generator())
    assert torch.equal(points, module.collocate(generator(1)))
    torch.testing.assert_close(points[:, 0, 0], torch.linspace(0, 1, 5))
    torch.testing.assert_close(points[0, :, 1], torch.arange(8) / 4)


def test_walls_are_hit():
    module = build(PIG, gaussians=3, wall_points=7)
    points = module.walls(generator())
    assert points.shape == (4 * 7, 2)
    sides = points.reshape(4, 7, 2)
    for side, axis, place in zip(sides, (0, 0, 1, 1), (0.0, 2.0, 0.0, 2.0), strict=True):
        assert (side[:, axis] == place).all()
        assert side[:, 1 - axis].unique().numel() > 1


@pytest.mark.parametrize("name", SOLVERS)
def test_derivatives_agree_with_automatic_ones(name):
    kind = registry.find("methods", name)
    module = build(kind).double()
    points = torch.rand(9, len(module.variables), generator=generator(), dtype=torch.float64)
    points = points * module.extent
    names = module.equation.derivatives
    with torch.no_grad():
        found = module.differentiate(points, names)
        expected = AbstractFieldSolver.differentiate(module, points, names)
    assert set(found) == {"", *names}
    for key in found:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-9)


# The problem and its evaluation ----------------------------------------------------------------


def test_only_the_first_frame_is_read():
    store = allen_cahn_store()
    module = build(CausalPINN)
    store.states[:, 1:] = np.nan
    module.prepare(as_data(store), [])
    assert module.initial.isfinite().all() and module.initial.abs().max() == pytest.approx(1.0)
    assert float(module.duration) == pytest.approx(0.1)
    steady = helmholtz_store()
    steady.states[:] = np.nan
    module = build(PIG, gaussians=3)
    module.prepare(as_data(steady), [])
    assert module.initial.numel() == 1 and module.batch_loss({}, generator()).isfinite()


class Exact(CausalPINN):
    """Returns the reference, interpolated by its nearest frame and node."""

    store = None

    def forward(self, points):
        states = torch.from_numpy(self.store.states[0, :, 0])
        frame = (points[:, 0] / 0.025).round().long()
        node = (points[:, 1] / 2 * states.shape[-1]).round().long()
        return states[frame, node][:, None]

    def residual(self, points):
        return torch.full((*points.shape[:-1], 1), 3.0)


def test_the_reference_scores_zero():
    store = allen_cahn_store()
    module = build(Exact)
    module.store = store
    module.prepare(as_data(store), [])
    module.description = {}
    evaluation = module.evaluate(store, {"keep": 1}, 0)
    scores = evaluation.scores.set_index("metric")["value"]
    for metric in ("relative_l2", "relative_l2_final", "max_error"):
        assert scores[metric] < 1e-6
    assert scores["residual_rms"] == pytest.approx(3.0)
    over_time = evaluation.scores[evaluation.scores["metric"] == "relative_l2_over_time"]
    assert over_time["step"].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(over_time["lead_time"], 0.025 * np.arange(5), rtol=1e-6)
    kept = evaluation.predictions
    assert dict(kept.sizes) == {"trajectory": 1, "lead_time": 4, "field": 1, "x": 64}
    np.testing.assert_allclose(kept["truth"], kept["prediction"], atol=1e-6)


def test_errors_are_those_of_numpy():
    store = allen_cahn_store()
    module = build(CausalPINN)
    module.prepare(as_data(store), [])
    evaluation = module.evaluate(store, {"stride": 2, "batch_size": 50}, 0)
    scores = evaluation.scores
    x = torch.arange(64) / 32
    points = torch.cartesian_prod(torch.tensor([0.0, 0.05, 0.1]), x)
    with torch.no_grad():
        error = module(points).reshape(3, 64).double().numpy() - store.states[0, ::2, 0]
    truth = store.states[0, ::2, 0]
    expected = np.sqrt((error**2).sum() / (truth**2).sum())
    found = scores[scores["metric"] == "relative_l2"]["value"].item()
    assert found == pytest.approx(expected, rel=1e-5)
    over_time = scores[scores["metric"] == "relative_l2_over_time"]
    expected = np.sqrt((error**2).sum(1) / (truth**2).sum(1))
    np.testing.assert_allclose(over_time["value"], expected, rtol=1e-5)
    assert over_time["step"].tolist() == [0, 2, 4]
    largest = scores[scores["metric"] == "max_error"]["value"].item()
    assert largest == pytest.approx(abs(error).max(), rel=1e-5)


def test_a_steady_field_has_one_lead_time():
    store = helmholtz_store()
    module = build(PIG, gaussians=5)
    module.prepare(as_data(store), [])
    evaluation = module.evaluate(store, {}, 0)
    assert set(evaluation.scores["metric"]) == {
        "relative_l2",
        "max_error",
        "residual_rms",
        "parameters",
        "peak_memory_mb",
    }
    kept = evaluation.predictions
    assert kept["truth"].dims == ("trajectory", "lead_time", "field", "x", "y")
    assert kept["lead_time"].values.tolist() == [0.0] and kept["field"].values == ["solution"]
    np.testing.assert_allclose(kept["x"], 2 * (np.arange(40) + 0.5) / 40, rtol=1e-6)
    assert kept["centre"].shape == kept["width"].shape == (20, 2)


def test_scores_are_finite_for_a_field_that_is_not():
    store = allen_cahn_store()
    module = build(CausalPINN)
    module.prepare(as_data(store), [])
    with torch.no_grad():
        module.last.bias.fill_(math.nan)
    scores = module.evaluate(store, {}, 0).scores.set_index("metric")
    assert scores.loc["relative_l2", "value"] == 100 and scores.loc["relative_l2", "censored"]
    assert np.isfinite(scores["value"]).all()


def test_the_solution_of_another_problem_is_refused():
    store, module = allen_cahn_store(), build(CausalPINN)
    module.prepare(as_data(store), [])
    module.conditions[2] = 0.02
    with pytest.raises(UserError, match=r"for diffusivity 0.01; the method solved for 0.02"):
        module.evaluate(store, {}, 0)
    module.prepare(as_data(store), [])
    module.initial.mul_(-1)
    with pytest.raises(UserError, match="begins with another state"):
        module.evaluate(store, {}, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CausalPINN([32], {"name": "heat"}), "heat gives no residual in strong form"),
        (lambda: build(PIG, equation=contract_solve.ALLEN_CAHN, points=[64]), "meets dirichlet"),
        (lambda: build(CausalPINN, collocation=[5]), "must be 2 positive numbers"),
        (lambda: build(PIG, collocation=[50], sampling="grid"), "50 is no power"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
