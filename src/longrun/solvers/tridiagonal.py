"""Tridiagonal systems, many at once."""

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

    The number of operations on whole tensors is logarithmic in the size, where Gaussian
    elimination has one for every row. Stable for diagonally dominant matrices. Source: Hockney
    (1965), J. ACM 12, 95, in its parallel form.

    Parameters
    ----------
    lower, diagonal, upper
        Row i is lower[i] x[i - 1] + diagonal[i] x[i] + upper[i] x[i + 1]; the first of `lower` and
        the last of `upper` must be zero.
    right
        Right-hand sides.
    """
    count, distance = right.shape[-1], 1
    while distance < count:
        # add multiples of the rows at this distance that cancel their unknowns

        def before(row: Tensor, fill: float, shift: int = distance) -> Tensor:
            return torch.nn.functional.pad(row[..., :-shift], (shift, 0), value=fill)

        def after(row: Tensor, fill: float, shift: int = distance) -> Tensor:
            return torch.nn.functional.pad(row[..., shift:], (0, shift), value=fill)

        down = -lower / before(diagonal, 1)
        up = -upper / after(diagonal, 1)
        diagonal = diagonal + down * before(upper, 0) + up * after(lower, 0)
        right = right + down * before(right, 0) + up * after(right, 0)
        lower, upper = down * before(lower, 0), up * after(upper, 0)
        distance *= 2
    return right / diagonal
