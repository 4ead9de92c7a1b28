"""Values at scattered points of the plane: neighbours, and interpolation between them.

Along axes that close the points are repeated beyond the ends, so there is no seam.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.interpolate import (
    CloughTocher2DInterpolator,
    LinearNDInterpolator,
    NearestNDInterpolator,
)
from scipy.spatial import Delaunay

MARGIN = 0.5  # of the domain, that is repeated beyond an end


def neighbours(
    points: Float[np.ndarray, "point 2"], periodic: Sequence[bool]
) -> tuple[Int[np.ndarray, "2 edge"], Float[np.ndarray, "edge 2"]]:
    """Return the edges of the Delaunay triangulation, both ways.

    Parameters
    ----------
    points
        Between 0 and 1 along each axis; at least four, not all on a line.
    periodic
        Which axes close.

    Returns
    -------
    edges
        Numbers of the point that an edge leaves and of the point that it reaches.
    displacements
        From there to the former, the short way where an axis closes.
    """
    images, origin = _images(points, periodic)
    triangles = Delaunay(images).simplices
    pairs = np.concatenate([triangles[:, [a, b]] for a, b in itertools.permutations(range(3), 2)])
    pairs = pairs[pairs[:, 1] < len(points)]  # those that reach a point, no image of one
    pairs = np.unique(pairs, axis=0)
    away = images[pairs[:, 0]] - images[pairs[:, 1]]
    edges = np.stack([origin[pairs[:, 0]], pairs[:, 1]])
    return edges, away


def cubic(
    points: Float[np.ndarray, "point 2"],
    at: Float[np.ndarray, "place 2"],
    periodic: Sequence[bool],
) -> Float[np.ndarray, "place point"]:
    """Return the weights of piecewise cubic interpolation, once differentiable (Clough-Tocher).

    It is linear in the values, so the weights are those of unit values. Beyond the outermost
    points the nearest one stands in.

    Parameters
    ----------
    points, periodic
        See `neighbours`.
    at
        Where values are sought.
    """
    images, origin = _images(points, periodic)
    unit = np.eye(len(points))[origin]
    found = CloughTocher2DInterpolator(images, unit)(at)
    outside = np.isnan(found).any(1)
    if outside.any():
        found[outside] = NearestNDInterpolator(images, unit)(at[outside])
    return np.asarray(found, dtype=np.float32)


def linear(
    points: Float[np.ndarray, "point 2"],
    values: Float[np.ndarray, "point channel"],
    at: Float[np.ndarray, "place 2"],
    periodic: Sequence[bool],
) -> Float[np.ndarray, "place channel"]:
    """Return values interpolated linearly on triangles; NaN beyond the outermost points.

    Parameters
    ----------
    points, at, periodic
        See `cubic`.
    values
        At the points.
    """
    images, origin = _images(points, periodic)
    return np.asarray(LinearNDInterpolator(images, values[origin])(at))


def _images(
    points: Float[np.ndarray, "point 2"], periodic: Sequence[bool]
) -> tuple[Float[np.ndarray, "image 2"], Int[np.ndarray, " image"]]:
    """Return the points, after them their images beyond closed ends, and whose images they are."""
    shifts = itertools.product(*((0, -1, 1) if closed else (0,) for closed in periodic))
    images = [points + np.array(shift) for shift in shifts]
    origin = np.tile(np.arange(len(points)), len(images))
    together = np.concatenate(images)
    near = ((together > -MARGIN) & (together < 1 + MARGIN)).all(1)
    return together[near], origin[near]
