"""Grids between walls: what networks see beyond them, and sizes that the data doesn't have."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def pad_as(network: nn.Module, boundary: Sequence[str]) -> None:
    """Tell the layers of a network which axes are periodic; beyond the ends of others are zeros.

    Parameters
    ----------
    network
        Layers that depend on it have an attribute `periodic`: of each axis, or None where all are.
    boundary
        Boundary condition of each axis, as in the data.
    """
    joined = tuple(kind == "periodic" for kind in boundary)
    for layer in network.modules():
        if hasattr(layer, "periodic"):
            layer.periodic = joined  # type: ignore[assignment]


def pad_to_multiple(
    x: Float[Tensor, "batch channel *space"], multiple: int
) -> Float[Tensor, "batch channel *larger"]:
    """Append zeros beyond the far walls until every side is a multiple of a number."""
    missing = [-side % multiple for side in reversed(x.shape[2:])]  # torch begins with the last
    return functional.pad(x, [n for side in missing for n in (0, side)])


def pad_far(
    x: Float[Tensor, "batch channel *space"], cells: int | Sequence[int]
) -> Float[Tensor, "batch channel *larger"]:
    """Append this many zeros beyond the far walls, of all axes or of each."""
    each = [cells] * (x.ndim - 2) if isinstance(cells, int) else list(cells)
    return functional.pad(x, [n for count in reversed(each) for n in (0, count)])


def pad_sides(
    x: Float[Tensor, "*any"], sides: Sequence[tuple[int, int]]
) -> Float[Tensor, "*larger"]:
    """Add zeros before and after each of the last axes, or cut off what is negative."""
    return functional.pad(x, [cells for pair in reversed(sides) for cells in pair])


def crop(
    x: Float[Tensor, "batch channel *larger"], space: Sequence[int]
) -> Float[Tensor, "batch channel *space"]:
    """Cut off what was appended."""
    for axis, side in enumerate(space, start=x.ndim - len(space)):
        x = x.narrow(axis, 0, side)
    return x
