"""Batches of tridiagonal systems."""

import torch
from jaxtyping import Float
from torch import Tensor


def solve(
    lower: Float[Tensor, "*batch x"],
    diagonal: Float[Tensor, "*batch x"],
    upper: Float[Tensor, "*batch x"],
    right: Float[Tensor, "*batch x"],
) -> Float[Tensor, "*batch x"]:
    """Solve tridiagonal systems by cyclic reduction of all rows at once; differentiable.

    The number of operations on whole tensors is logarithmic in the size, where Gaussian elimination
    needs one for every row. Stable for diagonally dominant matrices. Source: Hockney (1965), J. ACM
    12, 95, in its parallel form.

    Parameters
    ----------
    lower, diagonal, upper
        Row i is lower[i] x[i - 1] + diagonal[i] x[i] + upper[i] x[i + 1]; the first of `lower` and
        the last of `upper` must be zero.
    right
        Right-hand sides.
    """
    count, distance = right.shape[-1], 1
    rows = torch.stack(torch.broadcast_tensors(lower, diagonal, upper, right))
    while distance < count:
        # Add multiples of the rows at this distance, so that the coupling to them cancels. Beyond
        # the ends are rows of ones, added zero times.
        before = torch.nn.functional.pad(rows[..., :-distance], (distance, 0), value=1.0)
        after = torch.nn.functional.pad(rows[..., distance:], (0, distance), value=1.0)
        down, up = -rows[0] / before[1], -rows[2] / after[1]
        diagonal = rows[1] + down * before[2] + up * after[0]
        right = rows[3] + down * before[3] + up * after[3]
        rows = torch.stack([down * before[0], diagonal, up * after[2], right])
        distance *= 2
    return rows[3] / rows[1]
