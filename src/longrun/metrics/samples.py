"""Distances between two sets of samples, and from samples to a truth; arrays of vectors."""

import numpy as np
from jaxtyping import Float


def sliced_w2(
    samples: Float[np.ndarray, "sample value"],
    truth: Float[np.ndarray, "sample value"],
    projections: int = 128,
) -> float:
    """Sliced Wasserstein distance of order 2 between two sets of equal size.

    SW2^2 = mean over directions of W2^2 between the projections, which is the mean square of the
    differences of the sorted values. The directions are uniform on the sphere and always the same.

    Parameters
    ----------
    samples, truth
        One vector per row.
    projections
        Number of directions.

    Returns
    -------
    Unit of the values. Two sets of n samples of one distribution are not at distance 0: it falls
    like n^(-1/2), or like n^(-1/4) for separate clusters, whose shares differ.
    """
    directions = np.random.default_rng(0).normal(size=(samples.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    lines = [np.sort(points @ directions, axis=0) for points in (samples, truth)]
    return float(np.sqrt(np.square(lines[0] - lines[1]).mean()))


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
