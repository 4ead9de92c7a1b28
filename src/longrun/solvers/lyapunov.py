"""Lyapunov exponents of what a solver advances."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.solvers._base import AbstractSolver

NEARBY = 1e-7  # distance of the companions, relative: halfway between rounding and curvature


def lyapunov_spectrum(
    build: Callable[..., AbstractSolver],
    parameters: Mapping[str, Float[Tensor, " batch"]],
    state: Float[Tensor, "batch channel *space"],
    exponents: int,
    frames: int,
    discard: int,
    stride: int = 1,
) -> Float[Tensor, "batch exponent"]:
    """Measure the largest Lyapunov exponents of each trajectory, in descending order.

    Every trajectory has one companion per exponent. After each advance, their distances are made
    orthogonal and rescaled to 1e-7 by a QR factorisation; the exponents are the mean logarithms of
    the factors (Benettin et al., 1980; Shimada and Nagashima, 1979). For any solver, differentiable
    or not; in float64.

    Parameters
    ----------
    build
        `solver` of an equation.
    parameters
        Of each trajectory, `dt` among them.
    state
        On the attractor.
    exponents
        How many of the largest.
    frames
        How often distances are measured; the statistical error decays like the inverse
        square root of the time that they span.
    discard
        Measurements before those, while the companions find their directions.
    stride
        Frames of the dataset between two measurements: few enough that some of 1e-7 survives the
        fastest contraction.

    Returns
    -------
    Tensor
        Per unit of time.
    """
    batch, count = len(state), state[0].numel()
    solver = build({k: v.repeat(1 + exponents) for k, v in parameters.items()}, stride=stride)
    scale = NEARBY * state.square().mean().sqrt()
    # any independent directions will do, so no random numbers are needed
    basis = torch.eye(count, exponents, dtype=state.dtype, device=state.device)
    basis = basis.expand(batch, -1, -1)
    total = state.new_zeros(batch, exponents)
    for number in range(discard + frames):
        away = scale * basis.movedim(-1, 0).reshape(exponents, *state.shape)
        moved = solver.step(torch.cat([state[None], state + away]).flatten(0, 1))
        state, companions = moved.unflatten(0, (-1, batch)).tensor_split([1])
        distance = (companions - state).flatten(2).movedim(0, -1) / scale
        state = state[0]
        basis, factors = torch.linalg.qr(distance)
        if number >= discard:
            total += factors.diagonal(dim1=-2, dim2=-1).abs().log()
    return total / (frames * stride * parameters["dt"][:, None])
