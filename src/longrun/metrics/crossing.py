"""When a forecast loses the truth: the first time that its score falls below a threshold."""

import numpy as np
from jaxtyping import Bool, Float


def crossing_time(
    score: Float[np.ndarray, "*batch step"],
    times: Float[np.ndarray, "*#batch step"],
    threshold: float,
) -> tuple[Float[np.ndarray, "*batch"], Bool[np.ndarray, "*batch"]]:
    """First time at which a score falls below a threshold, by linear interpolation.

    The score is 1 at time 0, where the forecast starts from the truth. A non-finite score counts as
    0: compared as it is, NaN would never cross and a diverged forecast would look perfect.

    Parameters
    ----------
    score
        For example the correlation with the truth, at each lead time.
    times
        Lead times in seconds, positive and increasing.
    threshold
        Below 1.

    Returns
    -------
    time
        Seconds, between 0 and the last lead time.
    censored
        True where the score never crosses; `time` is then the last lead time, a lower bound.
    """
    times = np.broadcast_to(times, score.shape)
    score = np.where(np.isfinite(score), score, 0.0)
    start = np.zeros((*score.shape[:-1], 1))
    score = np.concatenate([start + 1.0, score], axis=-1)
    times = np.concatenate([start, times], axis=-1)
    below = score < threshold
    censored = np.asarray(~below.any(axis=-1))
    after = np.maximum(below.argmax(axis=-1), 1)[..., None]

    def at(values: np.ndarray, index: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values, index, axis=-1)[..., 0]

    high, low = at(score, after - 1), at(score, after)
    share = (high - threshold) / np.where(censored, 1.0, high - low)
    crossing = at(times, after - 1) + share * (at(times, after) - at(times, after - 1))
    return np.where(censored, times[..., -1], crossing), censored
