"""Grids between walls, for networks that need other sizes than the data has."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def pad_to_multiple(
    x: Float[Tensor, "batch channel *space"], multiple: int
) -> Float[Tensor, "batch channel *larger"]:
    """Append zeros beyond the far walls until every side is a multiple of a number."""
    missing = [-side % multiple for side in reversed(x.shape[2:])]  # torch begins with the last
    return functional.pad(x, [n for side in missing for n in (0, side)])


def pad_far(
    x: Float[Tensor, "batch channel *space"], cells: int
) -> Float[Tensor, "batch channel *larger"]:
    """Append this many zeros beyond the far walls."""
    return functional.pad(x, [0, cells] * (x.ndim - 2))


def crop(
    x: Float[Tensor, "batch channel *larger"], space: Sequence[int]
) -> Float[Tensor, "batch channel *space"]:
    """Cut off what was appended."""
    for axis, side in enumerate(space, start=x.ndim - len(space)):
        x = x.narrow(axis, 0, side)
    return x
