"""Distances between two sets of samples, and from samples to a truth; arrays of vectors."""

import numpy as np
from jaxtyping import Float


class SlicedTruth:
    """Truths that sets of samples are compared with by the sliced Wasserstein distance of order 2.

    SW2^2 = mean over directions of W2^2 between the projections, which is the mean square of the
    differences of the sorted values. The directions are uniform on the sphere and always the same.

    Parameters
    ----------
    truth
        One vector per row.
    projections
        Number of directions.
    """

    def __init__(self, truth: Float[np.ndarray, "truth value"], projections: int = 128):
        directions = np.random.default_rng(0).normal(size=(truth.shape[1], projections))
        self._directions = directions / np.linalg.norm(directions, axis=0)
        self._sorted = self._lines(truth)

    def squared(self, samples: Float[np.ndarray, "sample value"]) -> float:
        """Return SW2^2 from samples; the number of truths must be a multiple of theirs.

        Unit of the values, squared. Two sets of n samples of one distribution are not at distance
        0: the square falls like 1/n, or like n^(-1/2) for separate clusters, whose shares differ.
        """
        groups = self._sorted.reshape(len(self._sorted), len(samples), -1)
        mean = groups.mean(-1)
        within = np.square(self._sorted).mean() - np.square(mean).mean()
        return float(np.square(self._lines(samples) - mean).mean() + within)

    def _lines(
        self, points: Float[np.ndarray, "point value"]
    ) -> Float[np.ndarray, "direction point"]:
        return np.sort(np.ascontiguousarray((points @ self._directions).T), axis=1)


def sliced_w2(
    samples: Float[np.ndarray, "sample value"],
    truth: Float[np.ndarray, "truth value"],
    projections: int = 128,
) -> float:
    """Sliced Wasserstein distance of order 2, in the unit of the values; see `SlicedTruth`."""
    return float(np.sqrt(SlicedTruth(truth, projections).squared(samples)))


def energy_score(
    members: Float[np.ndarray, "... member value"], truth: Float[np.ndarray, "... value"]
) -> Float[np.ndarray, "..."]:
    """Energy score E|X - y| - E|X - X'| / 2, the CRPS of vectors; proper, smaller is better.

    The norm is the root mean square of the components, so that the score doesn't grow with their
    number. The second mean is over distinct pairs of members (the fair score: Ferro, 2014); with
    one member it is left out, and the score is the distance to the truth.

    Parameters
    ----------
    members
        Members on the axis before the last.
    truth
        Without that axis.

    Returns
    -------
    Shape (...), unit of the values.
    """
    count = members.shape[-2]
    distance = np.sqrt(np.square(members - truth[..., None, :]).mean(-1)).mean(-1)
    if count == 1:
        return np.asarray(distance)
    # one member against all others at a time: the whole table of differences may not fit
    within = sum(
        np.sqrt(np.square(members - members[..., i : i + 1, :]).mean(-1)).sum(-1)
        for i in range(count)
    )
    return np.asarray(distance - within / (2 * count * (count - 1)))


def mixture_scores(
    points: Float[np.ndarray, "batch value"],
    means: Float[np.ndarray, "#batch #component value"],
    variances: Float[np.ndarray, "#batch #component value"],
) -> dict[str, Float[np.ndarray, " batch"]]:
    """Compare points with equally likely Gaussians, one law for each point or one for all.

    Returns
    -------
    dict
        `log_density`, nats, and `distance` to the nearest component, 1 being its deviation.
    """
    squares = (np.square(points[:, None] - means) / variances).sum(-1)
    scale = np.log(2 * np.pi * variances).sum(-1)
    density = np.logaddexp.reduce(-0.5 * (squares + scale), axis=1) - np.log(means.shape[1])
    return {"log_density": density, "distance": np.sqrt(squares.min(axis=1))}
