"""Fidelity of the bandits of "Learning to Relax" to their formulas."""

import math

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from scipy.optimize import brentq, lsq_linear

from longrun.methods.accelerate.learning_to_relax import (
    ChebCB,
    LearningToRelax,
    TsallisINF,
    least_squares,
    tsallis,
)

NO_MATRIX = sparse.csr_array((1, 1))  # a bandit doesn't look


@pytest.mark.parametrize("eta", [2.0, 0.1, 2 / math.sqrt(5000)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0, 1e5])
def test_probabilities_are_the_root_of_their_equation(eta, scale):
    losses = scale * np.random.default_rng(0).random(20) + 40
    p = tsallis(losses, eta)

    def excess(x):
        return (4 / (eta * (losses - x)) ** 2).sum() - 1

    low = losses.min() - 2 * math.sqrt(20) / eta - 1  # there the sum is below 1
    root = brentq(excess, low, losses.min() - 2 / eta + 1e-9 / eta, xtol=1e-14, rtol=1e-15)
    assert p.sum() == pytest.approx(1, abs=1e-12) and (p > 0).all()
    np.testing.assert_allclose(p, 4 / (eta * (losses - root)) ** 2, rtol=1e-6)
    assert p.argmax() == losses.argmin() or scale == 0


def test_tsallis_starts_uniform_and_weighs_costs_by_their_rarity():
    bandit = TsallisINF(4)
    np.testing.assert_allclose(bandit.probabilities(0.0), 0.25)
    bandit.learn(2, 41, 0.0)
    np.testing.assert_allclose(bandit.losses, [0, 0, 160, 0])
    expected = tsallis(np.array([0, 0, 160, 0]) / 40, 2 / math.sqrt(2))  # s = 40, t = 2
    p = bandit.probabilities(0.0)
    np.testing.assert_allclose(p, expected)
    bandit.learn(0, 21, 0.0)
    np.testing.assert_allclose(bandit.losses, [20 / p[0], 0, 160, 0])
    np.testing.assert_allclose(
        bandit.probabilities(0.0), tsallis(bandit.losses / 30, 2 / math.sqrt(3))
    )


def play(module, cost, rounds, seed=0):
    """Share of each arm among the last quarter of the rounds."""
    generator, drawn = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    module.begin()
    chosen = []
    for _ in range(rounds):
        context = float(drawn.uniform(module.low, module.high))
        omega = module.choose(context, NO_MATRIX, generator)
        module.learn(omega, cost(omega, context, drawn), context)
        chosen.append((context, omega))
    return chosen[-rounds // 4 :]


@pytest.mark.parametrize("learner", ["tsallis_inf", "tsallis_inf_cb", "cheb_cb"])
def test_a_better_arm_is_found(learner):
    module = LearningToRelax(learner, smallest=1.0, largest=1.5, arms=2)
    late = play(module, lambda omega, c, rng: int((60 if omega == 1 else 40) + rng.normal()), 2000)
    # bins share the rounds, so each has seen a fifth of them
    least = {"tsallis_inf": 0.85, "tsallis_inf_cb": 0.75, "cheb_cb": 0.9}[learner]
    assert np.mean([omega == 1.5 for _, omega in late]) > least


@pytest.mark.parametrize("learner", ["tsallis_inf_cb", "cheb_cb"])
def test_a_contextual_bandit_finds_the_better_arm_of_each_context(learner):
    module = LearningToRelax(learner, smallest=1.0, largest=1.5, arms=2, context=[0, 1], bins=2)
    late = play(
        module,
        lambda omega, c, rng: int((80 if (omega == 1) == (c < 0.5) else 40) + rng.normal()),
        3000,
    )
    away = [(c < 0.5) == (omega == 1.5) for c, omega in late if abs(c - 0.5) > 0.1]
    assert np.mean(away) > 0.85


def test_bins_are_equal_and_apart():
    module = LearningToRelax("tsallis_inf_cb", bins=5, context=[-0.15, 0.65])
    centres = np.linspace(-0.15, 0.65, 11)[1::2]
    bandits = [module._bandit(c) for c in (*centres, -1.0, 2.0)]
    assert [module._bandits.index(b) for b in bandits] == [0, 1, 2, 3, 4, 0, 4]
    generator = torch.Generator().manual_seed(0)
    module.choose(0.1, NO_MATRIX, generator)
    module.learn(1.0, 50, 0.1)
    assert [b.rounds for b in module._bandits] == [0, 1, 0, 0, 0]


def test_least_squares_are_those_of_all_rounds():
    rng = np.random.default_rng(0)
    for rows, size in ((3, 0.1), (50, 0.1), (400, 10.0), (50, 10.0)):
        features = np.cos(np.arange(6) * np.arccos(rng.uniform(-1, 1, (rows, 1))))
        targets = size * rng.normal(size=rows)
        squares, products = features.T @ features, features.T @ targets
        wide = np.full(6, 1e3)
        expected = np.linalg.lstsq(features, targets)[0]
        np.testing.assert_allclose(
            least_squares(squares, products, wide), expected, rtol=1e-5, atol=1e-6
        )
        narrow = 0.3 * np.abs(expected).max() / np.arange(1, 7)
        bounded = least_squares(squares, products, narrow)
        assert (np.abs(bounded) <= narrow * (1 + 1e-12)).all()
        reference = lsq_linear(features, targets, (-narrow, narrow), tol=1e-14)
        cost = 0.5 * np.square(features @ bounded - targets).sum()
        assert cost <= reference.cost * (1 + 1e-6)
    assert (least_squares(np.zeros((6, 6)), np.zeros(6), wide) == 0).all()


def test_cheb_cb_follows_its_formulas():
    """Every quantity recomputed from the whole history of each round, as the paper writes them."""
    rng, bandit = np.random.default_rng(1), ChebCB(4, 3, 0.0, 2.0)
    history = []
    for _ in range(60):
        context = rng.uniform(0, 2)
        feature = np.polynomial.chebyshev.chebvander(context - 1, 2).ravel()
        p = bandit.probabilities(context)
        yhat = bandit.theta @ feature
        gap = np.delete(yhat - yhat.min(), yhat.argmin())
        np.testing.assert_allclose(np.delete(p, yhat.argmin()), 1 / (4 + bandit.eta * gap))
        assert p.sum() == pytest.approx(1) and (p > 0).all() and p.argmax() == yhat.argmin()
        arm = int(rng.integers(4))
        cost = 20 + int(30 * rng.random()) + 10 * arm
        history.append((feature, arm, cost, yhat[arm]))
        bandit.learn(arm, cost, context)
        features, arms, costs, predicted = map(np.array, zip(*history, strict=True))
        extent = costs.max() - costs.min()
        norm = 2 + 4 * extent / costs.max() * (1 + math.log(3))
        scale = costs.max() * norm
        bounds = np.array([1 / norm, 2 * extent / scale, extent / scale])
        for i in range(4):
            if (arms == i).any():
                f, y = features[arms == i], (costs[arms == i] - 1) / scale
                theta = np.linalg.lstsq(f, y)[0]
                if (np.abs(theta) > bounds).any():
                    best = lsq_linear(f, y, (-bounds - 1e-300, bounds + 1e-300), tol=1e-14)
                    # with few rounds there are many solutions
                    left = np.linalg.norm(f @ bandit.theta[i] - y)
                    assert left <= np.linalg.norm(f @ best.x - y) + 1e-6
                    assert (np.abs(bandit.theta[i]) <= bounds * (1 + 1e-9) + 1e-300).all()
                else:
                    np.testing.assert_allclose(bandit.theta[i], theta, rtol=1e-5, atol=1e-8)
        t = len(history)
        error = np.square(predicted - (costs - 1) / scale).sum()
        alpha = (math.pi + 2 / math.pi * math.log(7)) / (2 * scale * 4) * extent
        eta = 2 * t * math.sqrt(4 * t / (error + 2 * alpha**2 * t))
        assert bandit.eta == pytest.approx(eta, rel=1e-6)


def test_all_costs_alike_leave_the_draws_alike():
    for learner in ("tsallis_inf", "cheb_cb"):
        module = LearningToRelax(learner, arms=4)
        generator = torch.Generator().manual_seed(0)
        for cost in (1, 1, 0, 1, 1):
            omega = module.choose(0.1, NO_MATRIX, generator)
            module.learn(omega, cost, 0.1)
            p = module.probabilities(0.1)
            assert np.isfinite(p).all() and p.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "options",
    [
        {"smallest": 0.0},
        {"largest": 2.0},
        {"smallest": 1.5, "largest": 1.2},
        {"arms": 1},
        {"context": [1.0, 1.0]},
        {"context": [1.0]},
        {"bins": 0},
        {"terms": 0},
    ],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError):
        LearningToRelax(**options)


def test_the_grid_is_the_paper_s():
    grid = LearningToRelax().grid.numpy()
    np.testing.assert_allclose(grid, np.linspace(1, 1.95, 20))
