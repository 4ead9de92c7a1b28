"""Learning to relax (Khodak, Chow, Balcan and Talwalkar, 2024, arXiv:2310.02246).

A bandit chooses omega from a grid of d values for each of a sequence of systems and sees only the
iterations that it took. Its total tends to that of the best fixed omega; with a context, to that of
the best omega per context.

    tsallis_inf     k_i: cumulative cost of arm i, (cost - 1) / p_i added when it is played
                    s: running mean of cost - 1;  eta = 2 / sqrt(t)
                    p_i = 4 (eta (k_i / s - x))^-2,  x such that sum_i p_i = 1
    tsallis_inf_cb  one of them for each of `bins` equal bins of the context
    cheb_cb         cost of arm i: a Chebyshev series of m = `terms` terms in the context, scaled
                    to u in [-1, 1]:
                    theta_i = argmin sum over its rounds of (theta . T(u) - (cost - 1) / S)^2,
                    |theta_0| <= 1 / N,  |theta_j| <= 2 C L / (S j)
                    K = max cost, L = (max - min) / C, C the context's range,
                    N = 2 + 4 C L / K (1 + log m), S = K N
                    yhat = theta . T(u);  p_i = 1 / (d + eta (yhat_i - min yhat)), rest to the best
                    eta = 2 t sqrt(d t / (R + 2 alpha^2 t)), R = sum (yhat of the played - target)^2
                    alpha = (pi + 2 / pi log(2 m + 1)) C L / (2 S (m + 1))

The formulas are those of the authors' public programs, which differ from the theory in their
normalisation and in eta, which grows with time. Our three decisions:

- Newton's iteration for x starts left of all k_i / s, at min k / s - 2 / eta, where sum p >= 1. The
  function is convex and rises to the right, so it falls to the root without overshooting. The
  programs start at -1, can miss the root, and then draw uniformly.
- The target of ChebCB's errors R is the one that is fitted, (cost - 1) / S with the current S; the
  programs use cost / S there and deduct the residual of a bounded fit.
- The extremes of costs are those seen so far; in the programs, which know the number of rounds
  beforehand, the minimum is 0 until the last.
"""

import math
from typing import Any, Literal

import numpy as np
import scipy.sparse as sparse
import torch
from jaxtyping import Float
from numpy import ndarray
from scipy.optimize import lsq_linear
from torch import Tensor

from longrun.tasks.accelerate import AbstractRelaxation

NEWTON = 50  # most iterations; from the left it takes 4 to 7
RANK = 1e-12  # of a matrix of squares: smaller eigenvalues are rounding


class LearningToRelax(AbstractRelaxation):
    """Choose omega by a bandit.

    Parameters
    ----------
    learner : {"tsallis_inf", "tsallis_inf_cb", "cheb_cb"}
        Kind of bandit; the last two see the context.
    smallest, largest : float
        Ends of the grid.
    arms : int
        d, values of the grid, evenly spaced.
    context : list of float
        Smallest and largest value that the context can have.
    bins : int
        Of tsallis_inf_cb.
    terms : int
        m of cheb_cb.
    **options
        See `AbstractRelaxation`.

    Raises
    ------
    ValueError
        No grid, a grid beyond (0, 2), a context of no extent, no bins or terms.
    """

    stochastic = True
    grid: Tensor

    def __init__(
        self,
        learner: Literal["tsallis_inf", "tsallis_inf_cb", "cheb_cb"] = "tsallis_inf",
        smallest: float = 1.0,
        largest: float = 1.95,
        arms: int = 20,
        context: list[float] = [-0.15, 0.65],  # noqa: B006 (read, never written)
        bins: int = 5,
        terms: int = 6,
        **options: Any,
    ):
        super().__init__(**options)
        if not 0 < smallest < largest < 2 or arms < 2:
            raise ValueError(
                "a grid of at least 2 arms must lie between 0 and 2, smallest before largest; is "
                f"{arms} from {smallest:g} to {largest:g}"
            )
        if len(context) != 2 or not context[0] < context[1]:
            raise ValueError(f"context must be [low, high], is {context}")
        if bins < 1 or terms < 1:
            raise ValueError(f"bins and terms must be at least 1, are {bins} and {terms}")
        self.learner, self.bins, self.terms = learner, bins, terms
        self.low, self.high = context
        grid = torch.linspace(smallest, largest, arms, dtype=torch.float64)
        self.register_buffer("grid", grid)
        self.begin()

    def begin(self) -> None:
        """Start with no costs seen."""
        arms, self._arm = len(self.grid), -1
        self._bandits: list[TsallisINF] | ChebCB
        if self.learner == "cheb_cb":
            self._bandits = ChebCB(arms, self.terms, self.low, self.high)
        else:
            count = self.bins if self.learner == "tsallis_inf_cb" else 1
            self._bandits = [TsallisINF(arms) for _ in range(count)]

    def choose(self, context: float, matrix: sparse.csr_array, generator: torch.Generator) -> float:
        """Draw an arm; the matrix is ignored."""
        probabilities = self.probabilities(context)
        drawn = float(torch.rand((), dtype=torch.float64, generator=generator))
        last = len(probabilities) - 1
        sums = probabilities.cumsum()
        self._arm = min(int(np.searchsorted(sums, drawn * sums[-1], side="right")), last)
        return float(self.grid[self._arm])

    def probabilities(self, context: float) -> Float[ndarray, " arm"]:
        """Return how likely each arm is to be drawn next."""
        return self._bandit(context).probabilities(context)

    def learn(self, omega: float, cost: int, context: float) -> None:
        """Tell the bandit what the arm that it drew has cost."""
        self._bandit(context).learn(self._arm, cost, context)

    def _bandit(self, context: float) -> "TsallisINF | ChebCB":
        if isinstance(self._bandits, ChebCB):
            return self._bandits
        share = (context - self.low) / (self.high - self.low)
        count = len(self._bandits)
        return self._bandits[min(max(int(share * count), 0), count - 1)]


class TsallisINF:
    """Bandit with the Tsallis entropy of power 1/2 as its regulariser."""

    def __init__(self, arms: int):
        self.losses = np.zeros(arms)  # k
        self.rounds, self.total = 0, 0.0

    def probabilities(self, context: float) -> Float[ndarray, " arm"]:
        """Return the distribution of the next arm, and keep it for `learn`."""
        mean = self.total / self.rounds if self.total > 0 else 1.0
        self._last = tsallis(self.losses / mean, 2 / math.sqrt(self.rounds + 1))
        return self._last

    def learn(self, arm: int, cost: int, context: float) -> None:
        """Add the cost of an arm over its probability."""
        self.losses[arm] += (cost - 1) / self._last[arm]
        self.total += cost - 1
        self.rounds += 1


def tsallis(losses: Float[ndarray, " arm"], eta: float) -> Float[ndarray, " arm"]:
    """Return p_i = 4 (eta (losses_i - x))^-2 that sum to 1, by Newton's iteration for x."""
    x = losses.min() - 2 / eta
    for _ in range(NEWTON):
        p = 4 / (eta * (losses - x)) ** 2
        excess = p.sum() - 1
        if excess < 1e-12:
            break
        x -= excess / (eta * (p**1.5).sum())
    return np.asarray(p / p.sum())


class ChebCB:
    """Contextual bandit: a Chebyshev series of the cost per arm, and inverse gap weighting.

    Least squares need only the sums of products, so a round costs the same however many came
    before.
    """

    def __init__(self, arms: int, terms: int, low: float, high: float):
        self.terms, self.low, self.extent = terms, low, high - low
        self.theta = np.zeros((arms, terms))
        self.squares = np.zeros((arms, terms, terms))  # of features, per arm
        self.products = np.zeros((arms, terms))  # of features and cost - 1
        self.rounds, self.scale, self.eta = 0, 0.0, 0.0
        self.largest, self.smallest = -math.inf, math.inf
        self.sums = np.zeros(3)  # of yhat^2, yhat (cost - 1) and (cost - 1)^2

    def probabilities(self, context: float) -> Float[ndarray, " arm"]:
        """Return the distribution of the next arm, and keep its prediction for `learn`."""
        place = np.clip(2 * (context - self.low) / self.extent - 1, -1, 1)
        self._feature = np.cos(np.arange(self.terms) * np.arccos(place))
        self._predicted = self.theta @ self._feature
        best = int(self._predicted.argmin())
        gap = self._predicted - self._predicted[best]
        p = 1 / (len(self.theta) + self.eta * gap)
        p[best] = 0
        p[best] = 1 - p.sum()
        return np.asarray(p)

    def learn(self, arm: int, cost: int, context: float) -> None:
        """Fit the arm's series again, or all of them where the scale of costs has changed."""
        feature, predicted, excess = self._feature, self._predicted[arm], cost - 1
        self.squares[arm] += np.outer(feature, feature)
        self.products[arm] += feature * excess
        self.sums += predicted**2, predicted * excess, excess**2
        self.rounds += 1
        self.largest, self.smallest = max(self.largest, cost), min(self.smallest, cost)
        spread, before = self.largest - self.smallest, self.scale  # C L
        norm = 2 + 4 * spread / self.largest * (1 + math.log(self.terms))  # N
        self.scale = self.largest * norm
        bounds = np.full(self.terms, 1 / norm)
        bounds[1:] = 2 * spread / (self.scale * np.arange(1, self.terms))
        for other in range(len(self.theta)) if self.scale != before else [arm]:
            products = self.products[other] / self.scale
            self.theta[other] = least_squares(self.squares[other], products, bounds)
        self.eta = self._eta(spread)

    def _eta(self, spread: float) -> float:
        arms, rounds, m = len(self.theta), self.rounds, self.terms
        alpha = (math.pi + 2 / math.pi * math.log(2 * m + 1)) * spread / (2 * self.scale * (m + 1))
        error = float(self.sums @ (1, -2 / self.scale, 1 / self.scale**2))
        known = max(error, 0.0) + 2 * alpha**2 * rounds
        # where all costs were 1 nothing is known, and all arms are equally likely
        return 2 * rounds * math.sqrt(arms * rounds / known) if known else 0.0


def least_squares(
    squares: Float[ndarray, "term term"],
    products: Float[ndarray, " term"],
    bounds: Float[ndarray, " term"],
) -> Float[ndarray, " term"]:
    """Return argmin |F theta - y|, given F^T F and F^T y.

    The shortest one if it satisfies |theta_j| <= bounds_j, otherwise the best that does.
    """
    values, vectors = np.linalg.eigh(squares)
    kept = values > RANK * max(values[-1], 1e-300)
    root = np.sqrt(values[kept])
    matrix = root[:, None] * vectors[:, kept].T  # has the same F^T F, in as many rows as its rank
    right = vectors[:, kept].T @ products / root
    theta = vectors[:, kept] @ (right / root)
    if (np.abs(theta) <= bounds).all():
        return np.asarray(theta)
    room = np.maximum(bounds, 1e-300)  # lsq_linear needs an interval
    # active sets: exact, and on 6 unknowns six times faster than the interior method
    return np.asarray(lsq_linear(matrix, right, (-room, room), method="bvls").x)
