"""Errors of a steady field: in the H1 norm, at the worst point, along the walls."""

import numpy as np
from jaxtyping import Float

from longrun.metrics.pointwise import ratio


def relative_h1(
    prediction: Float[np.ndarray, "..."],
    truth: Float[np.ndarray, "..."],
    dims: int,
    truncation: int | None = None,
) -> Float[np.ndarray, "..."]:
    """Norm in H1 of the error over that of the truth, mean over fields.

    The squared norm is the sum over Fourier modes of 1 + |k|^2 times their squared modulus, with k
    the vector of wavenumber indices (He et al., 2024, arXiv:2310.19809).

    Parameters
    ----------
    prediction, truth
        Shapes (..., channel, *space) that broadcast, physical units.
    dims
        Number of space dimensions.
    truncation
        Index from which on a component of k counts as zero, as in that paper's code; None is none.

    Returns
    -------
    Shape (...), dimensionless.
    """
    axes = [np.fft.fftfreq(n, 1 / n) for n in truth.shape[-dims:]]
    if truncation is not None:
        axes = [np.where(np.abs(k) < truncation, k, 0.0) for k in axes]
    weight = 1 + sum(np.square(k) for k in np.meshgrid(*axes, indexing="ij", sparse=True))

    def norm(field: np.ndarray) -> np.ndarray:
        modes = np.fft.fftn(field, axes=range(-dims, 0))
        energy = weight * (modes.real**2 + modes.imag**2)
        return np.sqrt(energy.sum(axis=tuple(range(-dims, 0))))

    return np.asarray(ratio(norm(prediction - truth), norm(truth)).mean(axis=-1))


def max_error(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """Largest absolute error over the largest absolute value of the truth, mean over fields.

    Arguments as in `relative_h1`.
    """
    axes = tuple(range(-dims, 0))
    error, size = np.abs(prediction - truth).max(axis=axes), np.abs(truth).max(axis=axes)
    return np.asarray(ratio(error, size).mean(axis=-1))


def wall_error(
    prediction: Float[np.ndarray, "..."], truth: Float[np.ndarray, "..."], dims: int
) -> Float[np.ndarray, "..."]:
    """RMS error in the outermost points over the RMS of the truth in all, mean over fields.

    The truth in the denominator is that of the whole field, because it may vanish at a wall.
    Arguments as in `relative_h1`.
    """
    axes = tuple(range(-dims, 0))
    space = truth.shape[-dims:]
    outermost = np.ones(space, dtype=bool)
    outermost[(slice(1, -1),) * dims] = False
    error = np.square(prediction - truth)[..., outermost].mean(axis=-1)
    return np.asarray(ratio(np.sqrt(error), np.sqrt(np.square(truth).mean(axis=axes))).mean(-1))
