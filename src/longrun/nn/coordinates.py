"""Where the points of a grid are, and vectors that turn with a place."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def coordinates(
    grid: Sequence[int], like: Tensor, low: float = -0.5, high: float = 0.5
) -> Float[Tensor, "axis *grid"]:
    """Return the place of every point; along each axis the first is at `low`, the last at `high`.

    Parameters
    ----------
    grid
        Points per axis.
    like
        Whose type and device the places have.
    low, high
        Ends of every axis.
    """
    axes = [torch.linspace(low, high, n, dtype=like.dtype, device=like.device) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def turned(
    x: Float[Tensor, "*batch place part"], angle: Float[Tensor, "place half"]
) -> Float[Tensor, "*batch place part"]:
    """Turn component i against component i + half: products of two see the difference of angles."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)
