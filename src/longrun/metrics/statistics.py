"""Intervals over seeds and trajectories, and the verdict that an interval allows.

Scores of one method form a table (seed, trajectory). Seeds of different methods have nothing in
common, unless their runs start from the same checkpoint; all methods share the test set. So the
variance of a statistic is the sum of one part for the seeds of each method and one part for the
trajectories, and each part has its own degrees of freedom:

- seeds: the jackknife, which for a mean is Welch's s^2 / n with n - 1 degrees of freedom;
- trajectories: a bootstrap over the trajectories alone, seeds kept, times T / (T - 1);
- noise that a single score has of its own is in both, so it is taken off once: a jackknife over
  both at a time estimates it, for a mean as the two-way analysis of variance does;
- together: Student's t with Satterthwaite's degrees of freedom.

A ratio is measured on the logarithm, a correlation after Fisher's transform: there the distribution
is closer to normal, and the interval stays within its bounds. A method with one seed is taken as
known: it has no variance over seeds.

Coverage of the 95 % interval of a ratio, in a simulation with spreads over seeds of 10 and 10, 2
and 20, 0 and 10 %, with 1, 8 and 64 trajectories, with and without noise of a score's own: 92 to
98 % with 3, 5 and 8 seeds, 90 to 99 % with 2. One case is left out, which no interval can know: a
method of one seed, on one trajectory, whose score is noisy. A test holds those of 3, 5 and 8 seeds.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

Verdict = Literal["holds", "weaker", "contradicted", "open"]
Direction = Literal["above", "below"]
Centre = Literal["mean", "median"]
Table = Float[np.ndarray, "*draw _ _"]
Values = np.ndarray | np.floating  # one for each draw, or one
Statistic = Callable[[Sequence[Table]], Values]

DRAWS = 1000
LEVEL = 0.95
LARGEST = 1 - 1e-12  # a correlation of which Fisher's transform is finite
PARTS = 16  # of the trajectories, at most, left out one by one
BLOCK = 2**22  # values that are resampled at once


class Scale(NamedTuple):
    """The scale on which a statistic is measured, and the way back."""

    there: Callable[[Values], Values]
    back: Callable[[np.ndarray], np.ndarray]


def _arctanh(x: Values) -> Values:
    return np.arctanh(np.clip(x, -LARGEST, LARGEST))


LINEAR = Scale(lambda x: x, lambda x: x)
LOG = Scale(np.log, np.exp)
FISHER = Scale(_arctanh, np.tanh)
SHARE = Scale(lambda x: _arctanh(np.sqrt(x)), lambda x: np.square(np.tanh(np.maximum(x, 0))))


class Interval(NamedTuple):
    """A value and its 95 % interval; not finite where there is none."""

    value: float
    low: float
    high: float


def interval(
    statistic: Statistic,
    tables: Sequence[Float[np.ndarray, "_ trajectory"]],
    rng: np.random.Generator,
    scale: Scale = LINEAR,
    paired: Sequence[Sequence[int]] = (),
) -> Interval:
    """Measure a statistic of score tables, with its interval.

    Parameters
    ----------
    statistic
        Of tables whose last axes are (seed, trajectory); further axes in front are kept.
    tables
        One for each method, on the same trajectories in the same order.
    rng
        Source of the draws.
    scale
        On which the statistic is close to normal.
    paired
        Groups of tables, by their place, in which seed n of one belongs to seed n of the others.
    """
    alone = set(range(len(tables))).difference(*paired)
    groups = [*paired, *([place] for place in sorted(alone))]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(tables))
        centre = float(scale.there(np.asarray(value)))
        if not np.isfinite(centre):
            return Interval(value, np.nan, np.nan)
        seeds = [_over_seeds(statistic, tables, group, scale) for group in groups]
        trajectories = _over_trajectories(statistic, tables, rng, scale)
        twice = [_over_both(statistic, tables, group, scale) for group in groups]
    nothing = [(0.0, 1)]
    variances, freedoms = np.array([p for p in (*seeds, trajectories) if p[1]] or nothing).T
    noise, of_noise = np.array([part for part in twice if part[1]] or nothing).T
    # an estimate: it can't be more than either of the two parts that hold it
    most = min(variances.sum() - trajectories[0], trajectories[0])
    noise *= min(1.0, most / noise.sum()) if noise.any() else 0.0
    total = variances.sum() - noise.sum()
    if total == 0:
        return Interval(value, value, value)
    spread = (variances**2 / freedoms).sum() + (noise**2 / of_noise).sum()
    half = np.sqrt(total) * stats.t.ppf(0.5 + LEVEL / 2, total**2 / spread)
    low, high = scale.back(centre + np.array([-half, half]))
    return Interval(value, float(low), float(high))


def _over_seeds(
    statistic: Statistic, tables: Sequence[np.ndarray], group: Sequence[int], scale: Scale
) -> tuple[float, int]:
    """Return the jackknife's variance over the seeds of some tables, and its degrees of freedom."""
    seeds = len(tables[group[0]])
    if seeds == 1:
        return 0.0, 0
    left = [scale.there(statistic(_without(tables, group, seed))) for seed in range(seeds)]
    return float((seeds - 1) * np.var(left)), seeds - 1


def _over_both(
    statistic: Statistic, tables: Sequence[np.ndarray], group: Sequence[int], scale: Scale
) -> tuple[float, int]:
    """Return the variance of single scores' own noise, which seeds and trajectories both hold.

    Left out are a seed, a part of the trajectories, and both; what the last changes beyond the
    first two is the noise of those scores. The parts are of equal size.
    """
    seeds, trajectories = tables[group[0]].shape
    parts = max(part for part in range(1, PARTS + 1) if trajectories % part == 0)
    if seeds == 1 or parts == 1:
        return 0.0, 0
    numbers = np.arange(trajectories)
    kept = np.array([numbers[numbers % parts != part] for part in range(parts)])

    def left(seed: int | None) -> np.ndarray:
        these = _without(tables, group, seed)
        some = [
            np.moveaxis(table[:, kept], 0, 1)
            if place in group
            else np.broadcast_to(table, (parts, *table.shape))
            for place, table in enumerate(these)
        ]
        return np.asarray(scale.there(statistic(some)) - scale.there(statistic(these)))

    own = np.array([left(seed) for seed in range(seeds)]) - left(None)
    freedom = (seeds - 1) * (parts - 1)
    return float(np.nan_to_num(np.square(own).sum() * freedom / own.size)), freedom


def _without(
    tables: Sequence[np.ndarray], group: Sequence[int], seed: int | None
) -> list[np.ndarray]:
    """Leave a seed of some tables out; None is no seed."""
    return [
        np.delete(table, seed, axis=0) if seed is not None and place in group else table
        for place, table in enumerate(tables)
    ]


def _over_trajectories(
    statistic: Statistic, tables: Sequence[np.ndarray], rng: np.random.Generator, scale: Scale
) -> tuple[float, int]:
    """Return the bootstrap's variance over the trajectories, and its degrees of freedom."""
    count = tables[0].shape[1]
    if count == 1:
        return 0.0, 0
    size = max(1, BLOCK // sum(table.size for table in tables))
    drawn = []
    for first in range(0, DRAWS, size):
        chosen = rng.integers(count, size=(min(size, DRAWS - first), count))
        drawn.append(statistic([np.moveaxis(table[:, chosen], 0, 1) for table in tables]))
    values = np.asarray(scale.there(np.concatenate(drawn)))
    values = values[np.isfinite(values)]  # a draw of one trajectory alone has no correlation
    return float(np.var(values) * count / (count - 1)) if len(values) else np.nan, count - 1


# Statistics --------------------------------------------------------------------------------------


def centre(table: Table, of: Centre = "mean") -> Values:
    """Mean over seeds of the mean or median over trajectories."""
    middle = table.mean(-1) if of == "mean" else np.median(table, axis=-1)
    return middle.mean(-1)


def value(of: Centre = "mean") -> Statistic:
    """Mean of the centres of all tables."""
    return lambda tables: np.mean([centre(table, of) for table in tables], axis=0)


def ratio(of: Centre = "mean", first: int = 1) -> Statistic:
    """Mean of the centres of the first tables over that of the others."""
    mean = value(of)
    return lambda tables: mean(tables[:first]) / mean(tables[first:])


def squared_pearson(tables: Sequence[Table]) -> Values:
    """Squared Pearson correlation of two scores over trajectories, mean over seeds.

    It is 0 where nothing varies.
    """
    return np.square(_correlation(*tables)).mean(-1)


def spearman(tables: Sequence[Table]) -> Values:
    """Spearman's rank correlation of two scores over trajectories, mean over seeds."""
    return _correlation(*(stats.rankdata(table, axis=-1) for table in tables)).mean(-1)


def slope(at: Sequence[float], of: Centre = "mean") -> Statistic:
    """Slope of the log of the centres over the log of the tables' positions."""
    x = np.log(at) - np.log(at).mean()

    def statistic(tables: Sequence[Table]) -> Values:
        y = np.log([centre(table, of) for table in tables])
        return np.tensordot(x, y, 1) / np.square(x).sum()

    return statistic


def _correlation(first: Table, second: Table) -> Float[np.ndarray, "*draw seed"]:
    x, y = (table - table.mean(-1, keepdims=True) for table in (first, second))
    xx, yy, xy = ((a * b).mean(-1) for a, b in ((x, x), (y, y), (x, y)))
    # a score that varies by rounding only correlates with nothing
    sizes = (np.square(table).mean(-1) for table in (first, second))
    varies = xx * yy > 1e-24 * np.multiply(*sizes)
    return np.where(varies, xy / np.sqrt(np.where(varies, xx * yy, 1.0)), 0.0)


# Verdicts ----------------------------------------------------------------------------------------


def verdict(
    measured: Interval,
    threshold: float,
    direction: Direction = "above",
    equality: float | None = None,
) -> Verdict:
    """Judge by its interval the claim that a value lies above (below) a threshold.

    Parameters
    ----------
    measured
        The value and its interval.
    threshold
        The claim holds when the whole interval reaches it.
    direction
        Side of the threshold that the claim is about.
    equality
        Value at which there is no effect; None where there is no such value.

    Returns
    -------
    "holds" when the whole interval reaches the threshold; "open" when the threshold lies inside, or
    the interval is not finite; else "contradicted" when it lies wholly on the wrong side of
    equality, and "weaker" when it doesn't: the effect is smaller than claimed. Without equality
    what falls short is contradicted.
    """
    if not np.isfinite(measured).all():
        return "open"
    sign = 1 if direction == "above" else -1
    worst, best = sorted((sign * measured.low, sign * measured.high))
    if worst >= sign * threshold:
        return "holds"
    if best >= sign * threshold:
        return "open"
    return "contradicted" if equality is None or best < sign * equality else "weaker"
