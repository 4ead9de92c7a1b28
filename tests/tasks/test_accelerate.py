"""The task `accelerate`: solvers that count, sequences of systems, an evaluation's protocol."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import eigvalsh

from longrun.data.describe import describe
from longrun.data.store import open_store
from longrun.equations.heated_square import HeatedSquare
from longrun.equations.shifted_laplacian import ShiftedLaplacian
from longrun.figures._inputs import Inputs
from longrun.figures.accelerate import iterations
from longrun.generate import generate
from longrun.methods.accelerate.fixed_relaxation import FixedRelaxation
from longrun.methods.accelerate.learning_to_relax import LearningToRelax
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.solvers import relaxation
from longrun.solvers.relaxation import (
    LinearSystem,
    Preconditioner,
    jacobi_radius,
    relative_residual,
    sor,
    ssor_cg,
    young_omega,
)

PROVENANCE = {"commit": "test", "dirty": False}
OMEGAS = (0.7, 1.0, 1.3, 1.6, 1.85)


def first(count, **options):
    sequence = ShiftedLaplacian(**options).systems({"sequence": 7})
    return list(itertools.islice(sequence, count))


def heat(count, points=20, every=1, **options):
    parameters = {"dt": 1e-3, "length": 1.0, "phase": 0.0} | options
    return list(itertools.islice(HeatedSquare(points).systems(parameters), 0, count * every, every))


def plain_sor(system, omega, tolerance):
    """Unknown by unknown, as in a textbook."""
    a, x = system.matrix.toarray(), system.guess.copy()
    start = np.linalg.norm(system.right - a @ x)
    iterates = []
    while True:
        for i in range(len(x)):
            others = a[i] @ x - a[i, i] * x[i]
            x[i] = (1 - omega) * x[i] + omega * (system.right[i] - others) / a[i, i]
        iterates.append(x.copy())
        if np.linalg.norm(system.right - a @ x) < tolerance * start:
            return len(iterates), iterates


def plain_cg(system, omega, tolerance):
    """With the dense inverse of the preconditioner."""
    a, x = system.matrix.toarray(), system.guess.copy()
    diagonal = np.diag(np.diag(a))
    lower = diagonal + omega * np.tril(a, -1)
    p = (
        lower @ np.linalg.inv(diagonal) @ lower.T / (omega * (2 - omega))
        if omega
        else np.eye(len(a))
    )
    inverse, r = np.linalg.inv(p), system.right - a @ x
    z = inverse @ r
    d, count = z, 0
    while np.linalg.norm(r) > tolerance * np.linalg.norm(system.right):
        step = (r @ z) / (d @ a @ d)
        x, following = x + step * d, r - step * a @ d
        new = inverse @ following
        d = new + (following @ new) / (r @ z) * d
        r, z, count = following, new, count + 1
    return count, x


# Solvers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [0, 10_000])
def test_sor_counts_as_a_textbook_does(monkeypatch, dense):
    monkeypatch.setattr(relaxation, "DENSE", dense)
    for system, omega in itertools.product(first(2, points=7), OMEGAS):
        found = sor(system, omega, 1e-8, 10_000)
        count, iterates = plain_sor(system, omega, 1e-8)
        assert found.converged and found.iterations == count
        np.testing.assert_allclose(found.solution, iterates[-1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dense", [0, 10_000])
def test_sor_at_one_is_gauss_seidel_step_for_step(monkeypatch, dense):
    monkeypatch.setattr(relaxation, "DENSE", dense)
    (system,) = first(1, points=7)
    a, x = system.matrix.toarray(), system.guess.copy()
    for steps in range(1, 8):
        for i in range(len(x)):  # each unknown from the newest values of the others
            x[i] += (system.right[i] - a[i] @ x) / a[i, i]
        found = sor(system, 1.0, 1e-8, steps)
        np.testing.assert_allclose(found.solution, x, rtol=1e-12, atol=1e-13)


def test_both_ways_of_sor_count_alike_at_the_paper_s_size(monkeypatch):
    systems = first(4)
    dense = [sor(s, omega, 1e-8, 10_000).iterations for s in systems for omega in OMEGAS]
    monkeypatch.setattr(relaxation, "DENSE", 0)
    assert dense == [sor(s, omega, 1e-8, 10_000).iterations for s in systems for omega in OMEGAS]


def test_conjugate_gradients_count_as_a_dense_program_does():
    for system, omega in itertools.product(heat(2, points=10, every=300), (0.0, *OMEGAS)):
        found = ssor_cg(system, omega, 1e-8, 1000)
        count, solution = plain_cg(system, omega, 1e-8)
        assert found.converged and found.iterations == count
        np.testing.assert_allclose(found.solution, solution, rtol=1e-6, atol=1e-9)
        assert relative_residual(system, "ssor_cg", found.solution) <= 1e-8 * (1 + 1e-6)


@pytest.mark.parametrize("omega", OMEGAS)
def test_the_preconditioner_is_symmetric_and_positive_definite(omega):
    (system,) = first(1, points=7)
    apply = Preconditioner(system.matrix, omega)
    inverse = np.stack([apply(unit) for unit in np.eye(36)], axis=1)
    np.testing.assert_allclose(inverse, inverse.T, atol=1e-14)
    assert eigvalsh(inverse).min() > 0
    a = system.matrix.toarray()
    diagonal = np.diag(np.diag(a))
    lower = diagonal + omega * np.tril(a, -1)
    p = lower @ np.linalg.inv(diagonal) @ lower.T / (omega * (2 - omega))
    np.testing.assert_allclose(inverse @ p, np.eye(36), atol=1e-12)


def test_young_s_omega_minimises_the_spectral_radius():
    for system in first(3, points=7):
        a = system.matrix.toarray()
        diagonal = np.diag(np.diag(a))
        beta = abs(np.linalg.eigvals(np.eye(36) - np.linalg.inv(diagonal) @ a)).max()
        assert jacobi_radius(system.matrix) == pytest.approx(beta, rel=1e-12)
        best = young_omega(beta)

        def radius(omega, a=a, diagonal=diagonal):
            inverse = np.linalg.inv(diagonal / omega + np.tril(a, -1))
            return abs(np.linalg.eigvals(np.eye(36) - inverse @ a)).max()

        assert radius(best) == pytest.approx(best - 1, rel=1e-4)  # a defective eigenvalue
        grid = np.linspace(1, 1.95, 60)
        assert min(map(radius, grid)) > radius(best) * (1 - 1e-4)
        counts = {omega: sor(system, omega, 1e-8, 10_000).iterations for omega in grid}
        optimum = min(counts, key=counts.get)
        # with few iterations the fewest are a little beyond it: powers of the matrix rise first
        assert (
            counts[optimum] <= sor(system, best, 1e-8, 10_000).iterations <= 1.2 * counts[optimum]
        )


def test_counts_are_those_of_the_paper_s_setting():
    """Another program's means over 4000 systems of low variance: omega 1, 1.6 and Young's."""
    counts = np.array(
        [
            [
                sor(system, omega, 1e-8, 10_000).iterations
                for omega in (1.0, 1.6, young_omega(jacobi_radius(system.matrix)))
            ]
            for system in first(200)
        ]
    ).mean(0)
    np.testing.assert_allclose(counts, [280, 64, 42], rtol=0.1)


def test_heat_needs_the_iterations_of_the_paper_s_setting():
    """Another program's means at 25 points to t = 1, without and with omega 1 and 1.75."""
    counts = [
        [ssor_cg(system, omega, 1e-8, 1000).iterations for omega in (0.0, 1.0, 1.75)]
        for system in heat(50, points=25, every=20)
    ]
    np.testing.assert_allclose(np.mean(counts, axis=0), [17.0, 6.5, 8.9], rtol=0.05)


def test_a_capped_solve_says_so():
    (system,) = first(1)
    assert sor(system, 1.0, 1e-8, 5)[::2] == (5, False)
    assert ssor_cg(system, 1.0, 1e-8, 2)[::2] == (2, False)
    solved = system._replace(guess=sor(system, 1.6, 1e-15, 1000).solution)
    assert ssor_cg(solved, 1.0, 1e-8, 10)[::2] == (0, True)
    nothing = LinearSystem(system.matrix, np.zeros(100), np.zeros(100), 0.0)
    assert sor(nothing, 1.5, 1e-8, 10)[::2] == (0, True)


@pytest.mark.parametrize("omega", [-0.1, 2.0, 2.5])
def test_an_omega_that_cannot_converge_is_refused(omega):
    (system,) = first(1)
    for solver in (sor, ssor_cg):
        with pytest.raises(ValueError, match="between 0 and 2"):
            solver(system, omega, 1e-8, 10)
    with pytest.raises(ValueError, match="between 0 and 2"):
        sor(system, 0.0, 1e-8, 10)


# Sequences ----------------------------------------------------------------------------------------


def test_shifts_and_sources_are_those_of_the_paper():
    systems = first(400, alpha=0.5, beta=1.5)
    shifts = np.array([system.context for system in systems])
    assert shifts.min() >= -0.15 and shifts.max() <= 0.45
    assert shifts.mean() == pytest.approx(-0.15 + 0.6 * 0.25, abs=0.03)
    assert shifts.std() == pytest.approx(0.6 * 0.25, abs=0.02)  # sqrt(.25 * .75 / 3) is a quarter
    norms = np.array([np.linalg.norm(system.right) for system in systems])
    assert norms.max() <= 10
    a = systems[0].matrix.toarray()
    assert a.shape == (100, 100) and np.allclose(np.diag(a), 4 + shifts[0])
    assert (np.sort(a, axis=1)[:, :4].sum(1) >= -4).all() and (a == a.T).all()
    assert eigvalsh(a).min() > 0


def test_every_frame_solves_its_system():
    for equation, parameters in (
        (ShiftedLaplacian(), {"sequence": 5.0, "length": 1.0, "dt": 1.0}),
        (HeatedSquare(20), {"length": 1.0, "dt": 1e-3, "phase": 0.3}),
    ):
        names = [quantity.name for quantity in equation.parameters]
        given = {name: torch.tensor([parameters[name]], dtype=torch.float64) for name in names}
        _, state = equation.sample([np.random.default_rng(0)])
        frames = equation.solver(given).rollout(torch.tensor(state), 5)[0]
        for frame, system in zip(frames, equation.systems(parameters), strict=False):
            inner = frame[-1, 1:, 1:].numpy().ravel()
            np.testing.assert_allclose(system.matrix @ inner, system.right, atol=1e-11)


def test_heat_is_of_second_order_in_time():
    equation = HeatedSquare(16)
    parameters, state = equation.sample([np.random.default_rng(0)])
    given = {name: torch.tensor(value) for name, value in parameters.items()} | {
        "dt": torch.tensor([0.4], dtype=torch.float64)
    }
    runs = [equation.solver(given, substeps=n).step(torch.tensor(state)) for n in (800, 1600, 3200)]
    errors = [(runs[i] - runs[i + 1]).norm() for i in (0, 1)]
    assert np.log2(float(errors[0] / errors[1])) == pytest.approx(2, abs=0.2)


def test_systems_depend_on_their_numbers_alone():
    equation = ShiftedLaplacian()
    ahead = [s.context for s in itertools.islice(equation.systems({"sequence": 3}), 5)]
    assert ahead == [s.context for s in itertools.islice(equation.systems({"sequence": 3}), 5)]
    assert ahead != [s.context for s in itertools.islice(equation.systems({"sequence": 4}), 5)]
    assert equation.draw(3, 5)[0] == ahead[4]


# Evaluation ---------------------------------------------------------------------------------------

SPLITS = {
    "train": {"trajectories": 1, "frames": 31},
    "valid": {"trajectories": 1, "frames": 2},
    "test": {"trajectories": 2, "frames": 41},
}


@pytest.fixture(scope="module", params=["shifted_laplacian", "heated_square"])
def store(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("accelerate") / f"{request.param}.zarr"
    spec = {
        "equation": {"name": request.param} | ({"points": 12} if "heat" in request.param else {}),
        "seed": 3,
        "splits": SPLITS,
        "store": {"frames_per_chunk": 16, "trajectories_per_shard": 2, "dtype": "float32"},
        "measure": {"trajectories": 2, "frames": 4},
    }
    generate(spec, path, PROVENANCE)
    return open_store(path)


def solver_of(store):
    return "sor" if "shifted" in store.path.stem else "ssor_cg"


OPTIONS = {"steps": 40, "trajectories": 2, "block": 10, "late": 0.25, "keep": 1}


def rows(scores, metric, trajectory):
    found = scores[(scores["metric"] == metric) & (scores["trajectory"] == trajectory)]
    return found["value"].to_numpy()


def test_scores_are_the_counts_of_single_solves(store):
    module = FixedRelaxation(omega=1.4, solver=solver_of(store))
    scores = module.evaluate(store, OPTIONS, 0).scores
    for trajectory in (0, 1):
        equation = registry.find("equations", store.equation["name"])
        equation = equation(**{k: v for k, v in store.equation.items() if k != "name"})
        given = {k: float(v[trajectory]) for k, v in store.split("test").parameters.items()}
        counts = np.array(
            [
                module.solve(system, 1.4).iterations
                for system in itertools.islice(equation.systems(given), 40)
            ]
        )
        assert np.array_equal(rows(scores, "iterations", trajectory), counts.reshape(4, 10).mean(1))
        assert rows(scores, "iterations_mean", trajectory) == counts.mean()
        assert rows(scores, "iterations_late", trajectory) == counts[-10:].mean()
        assert (rows(scores, "omega", trajectory) == 1.4).all()
        assert rows(scores, "solution_error", trajectory) < 2e-6  # of storing float32
    blocks = scores[(scores["metric"] == "iterations") & (scores["trajectory"] == 0)]
    assert blocks["step"].tolist() == [10, 20, 30, 40]
    assert not scores["censored"].any() and np.isfinite(scores["value"]).all()


def test_predictions_hold_solutions_and_choices(store):
    module = LearningToRelax(solver=solver_of(store))
    found = module.evaluate(store, OPTIONS, 0).predictions
    assert found["truth"].dims == ("trajectory", "lead_time", "field", "x", "y")
    assert found.sizes["trajectory"] == 1 and found.sizes["lead_time"] == 4
    np.testing.assert_allclose(found["prediction"], found["truth"], rtol=1e-4, atol=1e-5)
    assert found["omega"].shape == (1, 40)
    places = (found["omega"].values - 1) / 0.05  # in a grid of 20 values
    np.testing.assert_allclose(places, places.round(), atol=1e-4)


def test_every_trial_starts_anew_and_has_its_own_noise(store):
    module = LearningToRelax(solver=solver_of(store))

    def omegas(**options):
        return module.evaluate(store, OPTIONS | {"block": 1, "keep": 0} | options, 5).scores

    both, one = omegas(), omegas(trajectories=1)
    assert np.array_equal(rows(both, "omega", 0), rows(one, "omega", 0))
    assert np.array_equal(rows(both, "omega", 0), rows(omegas(), "omega", 0))
    assert not np.array_equal(rows(both, "omega", 0), rows(both, "omega", 1))
    other = module.evaluate(store, OPTIONS | {"block": 1}, 6).scores
    assert not np.array_equal(rows(both, "omega", 0), rows(other, "omega", 0))


def test_the_figure_shows_what_was_measured(store):
    methods = {
        "bandit": LearningToRelax(solver=solver_of(store)),
        "fixed": FixedRelaxation(omega=1.4, solver=solver_of(store)),
    }
    runs = {name: module.evaluate(store, OPTIONS, 0) for name, module in methods.items()}
    scores = pd.concat([r.scores.assign(method=name, seed=0) for name, r in runs.items()])
    inputs = Inputs(
        spec={"methods": methods, "test": [store.path.stem], "evaluate": OPTIONS},
        preset="smoke",
        experiment="test",
        scores=scores,
        claims={},
        curves=pd.DataFrame(),
        predictions={name: r.predictions for name, r in runs.items()},
    )
    figure = iterations.draw(inputs)
    left, middle, right = figure.axes
    late = scores[scores["metric"] == "iterations_late"].groupby("method")["value"].mean()
    assert late.idxmin() in figure.get_suptitle()
    blocks = scores[(scores["metric"] == "iterations") & (scores["method"] == "fixed")]
    ends = {line.get_label(): line.get_ydata()[-1] for line in left.get_lines()}
    assert ends["fixed"] == pytest.approx(blocks["value"].mean())
    texts = {text.get_text() for text in middle.texts}
    assert texts == {f"{value:.3g}" for value in late}
    assert any((line.get_ydata() == np.float32(1.4)).all() for line in right.get_lines())


def test_a_cost_is_learnt_only_after_its_system(store):
    """The method hears of each solve once, in order, with what it had chosen."""
    heard = []

    class Listener(FixedRelaxation):
        def choose(self, context, matrix, generator):
            heard.append(("choose", context))
            return 1.2

        def learn(self, omega, cost, context):
            heard.append(("learn", context))
            assert omega == 1.2 and isinstance(cost, int)

    Listener(solver=solver_of(store)).evaluate(store, OPTIONS | {"trajectories": 1}, 0)
    assert [kind for kind, _ in heard] == ["choose", "learn"] * 40
    assert all(a[1] == b[1] for a, b in zip(heard[::2], heard[1::2], strict=True))


def test_capped_solves_are_marked(store):
    scores = (
        FixedRelaxation(solver=solver_of(store), cap=1, omega=1.0)
        .evaluate(store, OPTIONS, 0)
        .scores
    )
    late = scores[scores["metric"] == "iterations_late"]
    assert late["censored"].all() and (late["value"] <= 1).all()


def test_the_best_candidate_is_chosen_on_training_systems(store):
    module = FixedRelaxation(
        rule="best", candidates=[1.0, 1.5, 1.9], train_systems=10, solver=solver_of(store)
    )

    class Data:
        stores = (store,)

    module.prepare(Data, [])
    equation = registry.find("equations", store.equation["name"])
    equation = equation(**{k: v for k, v in store.equation.items() if k != "name"})
    given = {k: float(v[0]) for k, v in store.split("train").parameters.items()}
    systems = list(itertools.islice(equation.systems(given), 0, 30, 3))
    costs = [
        sum(module.solve(system, omega).iterations for system in systems)
        for omega in module.candidates
    ]
    chosen = module.choose(0.0, systems[0].matrix, torch.Generator())
    assert chosen == module.candidates[int(np.argmin(costs))]


def test_descriptions_are_json(store):
    assert json.loads(json.dumps(describe([store], 1)))["points"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 41}, "needs 42 frames"),
        ({"trajectories": 3}, "has 2 trajectories"),
        ({"block": 7}, "must divide"),
    ],
)
def test_impossible_evaluations_are_refused(store, options, message):
    with pytest.raises(UserError, match=message):
        FixedRelaxation().evaluate(store, OPTIONS | options, 0)


def test_other_data_is_refused(store, monkeypatch):
    monkeypatch.setitem(store.attrs, "equation", {"name": "heat"})
    with pytest.raises(UserError, match="no sequence of linear systems"):
        FixedRelaxation().evaluate(store, OPTIONS, 0)


@pytest.mark.parametrize(
    "options",
    [
        {"tolerance": 0.0},
        {"cap": 0},
        {"omega": 2.0},
        {"omega": 0.0},
        {"candidates": []},
        {"train_systems": 0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        FixedRelaxation(**options)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ShiftedLaplacian, {"lowest": -0.5}),
        (ShiftedLaplacian, {"alpha": 0.0}),
        (ShiftedLaplacian, {"points": 2}),
        (HeatedSquare, {"points": 4}),
        (HeatedSquare, {"dt": -1.0}),
    ],
)
def test_impossible_equations_are_refused(kind, options):
    with pytest.raises(UserError):
        kind(**options)


def test_nothing_is_learnt_from_windows():
    with pytest.raises(NotImplementedError):
        FixedRelaxation().batch_loss({}, torch.Generator())
