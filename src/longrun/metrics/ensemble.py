"""Scores of ensembles; members lie on the axis before the field: (..., member, channel, *space)."""

import numpy as np
import scoringrules
from jaxtyping import Float

from longrun.metrics.pointwise import rmse, unit


def crps(
    members: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """Continuous ranked probability score of the ensemble, mean over space and fields.

    Parameters
    ----------
    members
        Shape (..., member, channel, *space), finite, physical units.
    truth
        Shape (..., channel, *space).
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...), unit of the field. With one member it is the mean absolute error.
    """
    score = scoringrules.crps_ensemble(truth, members, m_axis=-dims - 2, backend="numpy")
    return np.asarray(np.asarray(score).mean(axis=tuple(range(-dims - 1, 0))))


def spread(members: Float[np.ndarray, "..."], dims: int) -> Float[np.ndarray, "..."]:
    """Compute the spread of members, root mean square over space, mean over fields.

    The variance is unbiased and multiplied by (M + 1) / M, so that a reliable ensemble of M members
    has a spread equal to the RMSE of its mean (Fortin et al., 2014, eq. 15).

    Parameters
    ----------
    members
        Shape (..., member, channel, *space), at least two members.
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...), unit of the field.
    """
    count = members.shape[-dims - 2]
    variance = members.var(axis=-dims - 2, ddof=1) * (count + 1) / count
    return np.asarray(np.sqrt(variance.mean(axis=tuple(range(-dims, 0)))).mean(axis=-1))


def ensemble_rmse(
    members: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """RMSE of the mean over members. Arguments as in `crps`."""
    return rmse(members.mean(axis=-dims - 2), truth, dims)


def member_correlation(members: Float[np.ndarray, "..."], dims: int) -> Float[np.ndarray, "..."]:
    """Pearson correlation over space between members, mean over all pairs and over fields.

    A member that is not finite, or is constant in space, correlates with none: its pairs count 0.
    The time at which this falls below a threshold is the horizon that the ensemble predicts for
    itself (PDE-Refiner: Lippe et al., 2023, section 4.1).

    Parameters
    ----------
    members
        Shape (..., member, channel, *space), at least two members.
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...).
    """
    count = members.shape[-dims - 2]
    units = unit(members, dims)
    # The sum over pairs of products is half of |sum of units|^2 - sum of |unit|^2.
    axes = tuple(range(-dims, 0))
    total = np.square(units.sum(axis=-dims - 2)).sum(axis=axes)
    own = np.square(units).sum(axis=(*axes, -dims - 2))
    return np.asarray(((total - own) / (count * (count - 1))).mean(axis=-1))
