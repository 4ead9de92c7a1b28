"""Move values between grids of square cells that fill the same box."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.runtime.cli import UserError

Parity = Literal["periodic", "even", "odd"]


def blocks(
    state: Float[Tensor, "batch channel *space"], points: int, middle: bool = False
) -> Float[Tensor, "batch channel *other"]:
    """Repeat cells, or merge blocks of them.

    Averages of a repeated state are the state, so both directions conserve sums over the box.

    Parameters
    ----------
    state
        Values in cells.
    points
        New number of cells along each axis, a multiple or a divisor of the old.
    middle
        Take the value of the middle cell of a block instead of the average.

    Raises
    ------
    UserError
        `points` is neither a multiple nor a divisor.
    """
    for axis in range(2, state.ndim):
        old = state.shape[axis]
        if points % old == 0:
            state = state.repeat_interleave(points // old, dim=axis)
        elif old % points == 0:
            state = state.unflatten(axis, (points, old // points))
            state = state.select(axis + 1, old // points // 2) if middle else state.mean(axis + 1)
        else:
            raise UserError(
                f"{old} cells can't become {points} along an axis; take a multiple or a divisor"
            )
    return state


def interpolate(
    state: Float[Tensor, "batch channel *space"], points: int, parity: Parity
) -> Float[Tensor, "batch channel *other"]:
    """Interpolate smooth fields at the centres of other cells, by cubics: fourth order.

    Parameters
    ----------
    state
        Values at the centres of at least four cells along each axis.
    points
        New number of cells along each axis.
    parity
        How the field continues beyond the box: "periodic", mirrored at the walls ("even", where its
        normal derivative vanishes there), or with the other sign ("odd", where it vanishes).
    """
    for axis in range(2, state.ndim):
        old = state.shape[axis]
        if old == points:
            continue
        place = (torch.arange(points, dtype=torch.float64) + 0.5) * old / points - 0.5
        first = place.floor().long() - 1
        t = (place - place.floor()).to(state)
        weights = (
            -t * (t - 1) * (t - 2) / 6,
            (t + 1) * (t - 1) * (t - 2) / 2,
            -(t + 1) * t * (t - 2) / 2,
            (t + 1) * t * (t - 1) / 6,
        )
        shape = (-1,) + (1,) * (state.ndim - 1 - axis)
        result = torch.zeros(())
        for offset, weight in enumerate(weights):
            index = first + offset
            outside = (index < 0) | (index >= old)
            mirrored = torch.where(index < 0, -1 - index, 2 * old - 1 - index)
            inside = index % old if parity == "periodic" else torch.where(outside, mirrored, index)
            if parity == "odd":
                weight = torch.where(outside.to(weight.device), -weight, weight)
            taken = state.index_select(axis, inside.to(state.device))
            result = result.to(state) + weight.reshape(shape) * taken
        state = result
    return state
