"""Statistics of the long run, where no forecast can follow the truth point by point."""

import numpy as np
from jaxtyping import Float
from scipy import stats

from longrun.metrics.pointwise import UNBOUNDED


def kinetic_energy(velocity: Float[np.ndarray, "..."], dims: int) -> Float[np.ndarray, "..."]:
    """Half the mean square over space of a velocity, summed over its components.

    Parameters
    ----------
    velocity
        Shape (..., component, *space).
    dims
        Number of space dimensions.

    Returns
    -------
    Shape (...), square of the velocity's unit.
    """
    space = tuple(range(-dims, 0))
    return np.asarray(0.5 * np.square(velocity).mean(axis=space).sum(axis=-1))


class Histograms:
    """One-point distributions of many streams, in memory independent of their length.

    Values are counted in standard deviations from the climate's mean, in bins that are even in
    asinh: fine (0.5 % of a standard deviation) at the centre, wide at the tails, and reaching to
    `UNBOUNDED` standard deviations. What lies beyond is counted in the outermost bins.

    Parameters
    ----------
    streams
        Number of distributions.
    mean, std
        Per field, over the training set.
    dims
        Number of space dimensions.
    """

    bins = 2048

    def __init__(
        self,
        streams: int,
        mean: Float[np.ndarray, " channel"],
        std: Float[np.ndarray, " channel"],
        dims: int,
    ):
        shape = (-1,) + (1,) * dims
        self.mean, self.std, self.dims = mean.reshape(shape), std.reshape(shape), dims
        self.counts = np.zeros((streams, len(mean), self.bins), dtype=np.int64)

    def add(self, values: Float[np.ndarray, "stream *frames"]) -> None:
        """Count values into every stream.

        Parameters
        ----------
        values
            Shape (stream, ..., channel, *space), finite, physical units.
        """
        reach = np.arcsinh(UNBOUNDED)
        place = np.arcsinh((values - self.mean) / self.std) / reach
        index = np.clip((place + 1) * (self.bins / 2), 0, self.bins - 1).astype(np.int64)
        cells = np.arange(self.counts[..., 0].size).reshape(*self.counts.shape[:2], 1) * self.bins
        index = np.moveaxis(index, -self.dims - 1, 1).reshape(*self.counts.shape[:2], -1) + cells
        counts = np.bincount(index.ravel(), minlength=self.counts.size)
        self.counts += counts.reshape(self.counts.shape)

    def wasserstein(self, other: "Histograms") -> Float[np.ndarray, " stream"]:
        """Wasserstein-1 distance to the streams of another, mean over fields.

        Parameters
        ----------
        other
            With as many streams, or with one for every n consecutive streams of this one.

        Returns
        -------
        Shape (stream,), in standard deviations of the climate.
        """
        edges = np.sinh(np.linspace(-1, 1, self.bins + 1) * np.arcsinh(UNBOUNDED))
        centres = (edges[1:] + edges[:-1]) / 2
        distance = np.empty(self.counts.shape[:2])
        repeats = len(self.counts) // len(other.counts)
        for stream, channel in np.ndindex(distance.shape):
            ours, theirs = self.counts[stream, channel], other.counts[stream // repeats, channel]
            distance[stream, channel] = stats.wasserstein_distance(
                centres[ours > 0], centres[theirs > 0], ours[ours > 0], theirs[theirs > 0]
            )
        return distance.mean(axis=-1)
