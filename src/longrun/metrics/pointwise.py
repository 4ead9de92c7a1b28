"""Errors of a forecast frame by frame: RMSE and its normalised forms, Pearson correlation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

UNBOUNDED = 100.0
"""Standard deviations from the climate's mean beyond which a forecast has left the physics."""

_CONSTANT = 1e-12  # a field varies when its deviations exceed rounding of its largest value


def rmse(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """Root mean squared error over space, mean over fields.

    Parameters
    ----------
    prediction, truth
        Shapes (..., channel, *space) that broadcast, physical units.
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...), unit of the field.
    """
    return np.asarray(_rms(prediction - truth, dims).mean(axis=-1))


def nrmse(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """RMSE over the root mean square of the true frame, mean over fields, dimensionless.

    Arguments as in `rmse`. The normalisation is PDEBench's (Takamoto et al., 2022, appendix B).
    """
    return np.asarray(ratio(_rms(prediction - truth, dims), _rms(truth, dims)).mean(axis=-1))


def vrmse(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """RMSE over the standard deviation in space of the true frame, mean over fields.

    Arguments as in `rmse`. A forecast of the frame's mean scores 1 (Ohana et al., 2024, The Well).
    """
    deviation = truth - truth.mean(axis=_space(dims), keepdims=True)
    return np.asarray(ratio(_rms(prediction - truth, dims), _rms(deviation, dims)).mean(axis=-1))


def relative_l1(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """Mean absolute error over the mean absolute value of the true frame, of all fields together.

    Arguments as in `rmse`. So the public code of Poseidon (Herde et al., 2024) takes the components
    of a velocity; it takes density and pressure apart, so this is for fields of one unit.
    """
    axes = (-dims - 1, *_space(dims))
    sizes = (np.asarray(np.abs(field).mean(axis=axes)) for field in (prediction - truth, truth))
    return ratio(*sizes)


def beside(
    prediction: Float[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    where: Bool[np.ndarray, "..."],
    dims: int,
) -> Float[np.ndarray, "..."]:
    """RMSE over some points over the root mean square of the true frame, mean over fields.

    Parameters
    ----------
    prediction, truth, dims
        As in `rmse`.
    where
        Points that count, at least one of each field; it broadcasts against the frames.
    """
    axes = _space(dims)
    error = np.square(prediction - truth).mean(axis=axes, where=where)
    return np.asarray(ratio(np.sqrt(error), _rms(truth, dims)).mean(axis=-1))


def imbalance(outflows: Sequence[Float[np.ndarray, "..."]], dims: int) -> Float[np.ndarray, "..."]:
    """Net outflow of cells over its parts along each axis, root mean squares; 0 where they balance.

    Parameters
    ----------
    outflows
        Along each axis, shape (..., *space).
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...); 1 where the parts are not related.
    """
    parts = np.stack(outflows)
    size = np.sqrt(np.square(parts).sum(0).mean(axis=_space(dims)))
    return ratio(_rms(parts.sum(0), dims), size)


def unit(field: Float[np.ndarray, "..."], dims: int) -> Float[np.ndarray, "..."]:
    """Deviation from the mean over space, scaled to norm 1 over space: correlation is its product.

    A frame that is not finite, or is constant in space, becomes 0, so it correlates with nothing.

    Parameters
    ----------
    field
        Shape (..., channel, *space).
    dims
        Number of space dimensions.

    Returns
    -------
    Same shape, float64.
    """
    axes = _space(dims)
    finite = np.isfinite(field).all(axis=axes, keepdims=True)
    values = np.where(finite, field, 0.0).astype(np.float64)
    size = np.abs(values).max(axis=axes, keepdims=True)
    values /= np.where(size > 0, size, 1.0)  # no overflow in the squares
    values -= values.mean(axis=axes, keepdims=True)
    norm = np.sqrt(np.square(values).sum(axis=axes, keepdims=True))
    varies = norm > _CONSTANT * np.sqrt(np.prod(values.shape[-dims:]))
    return np.where(varies, values / np.where(varies, norm, 1.0), 0.0)


def correlation(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """Pearson correlation over space, mean over fields; 0 for a non-finite or constant frame.

    Arguments as in `rmse`; never NaN, so that a comparison with a threshold never lies.
    """
    product = (unit(prediction, dims) * unit(truth, dims)).sum(axis=_space(dims))
    return np.asarray(product.mean(axis=-1))


def ratio(
    numerator: Float[np.ndarray, "..."], denominator: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Quotient of two non-negative arrays in which 0 / 0 is 0 and x / 0 is infinite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.divide(numerator, denominator)
    return np.where(np.equal(numerator, 0), 0.0, quotient)


def _rms(field: np.ndarray, dims: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.sqrt(np.square(field).mean(axis=_space(dims)))


def _space(dims: int) -> tuple[int, ...]:
    return tuple(range(-dims, 0))
