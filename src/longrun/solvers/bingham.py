"""Bingham closure in two dimensions: the fourth moment of the broadest distribution of given order.

Among the distributions of a given second moment, psi ~ exp(b cos 2 (theta - phi)) has the greatest
entropy. Its moments are m_2 / c = (I_1 / I_0)(b) exp(2 i phi), m_4 / c = (I_2 / I_0)(b) exp(4 i
phi), so one scalar equation closes the moment equations.
"""

import torch
from jaxtyping import Float
from torch import Tensor

STEPS = 3  # of Newton's method: they reduce the error to 6e-10, from the start below
FULLEST = 1 - 1e-6  # largest order that is closed: nothing physical exceeds it
SWITCH = 0.5  # below it, the formula with Bessel functions cancels


def bingham(
    c: Float[Tensor, "*shape"], p: Float[Tensor, "*shape"], q: Float[Tensor, "*shape"]
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the fourth moment of a Bingham distribution; differentiable once.

    Parameters
    ----------
    c
        Concentration, positive.
    p, q
        Real and imaginary part of m_2, the integral of psi exp(2 i theta); |m_2| < c.

    Returns
    -------
    tuple
        Real and imaginary part of m_4, the integral of psi exp(4 i theta).
    """
    square = (p * p + q * q) / (c * c)
    order = (square + torch.finfo(square.dtype).tiny).sqrt().clamp_max(FULLEST)
    factor = _fourth(order) / c
    return factor * (p * p - q * q), 2 * factor * p * q


def _fourth(order: Tensor) -> Tensor:
    """Return (|m_4| / c) / order^2: one half at small order, one at full order."""
    with torch.no_grad():
        b = order * (2 - order**2) / (1 - order**2)  # within 7 % of the root
        for step in range(STEPS):
            ratio = torch.special.i1e(b) / torch.special.i0e(b)
            slope = 1 - ratio / b - ratio**2
            if step < STEPS - 1:
                b = b - (ratio - order) / slope
    b = b + (order - ratio) / slope  # the last step carries the gradient of the implicit relation
    safe = order.clamp_min(0.2)  # at b = 0.41: keeps infinities out of the gradient
    large = (1 / safe - 2 / b.clamp_min(SWITCH)) / safe
    return torch.where(b < SWITCH, _series(b.clamp_max(SWITCH)), large)


def _series(b: Tensor) -> Tensor:
    """Return I_2 I_0 / I_1^2, by the continued fraction of I_n / (b I_{n-1})."""
    square = b * b
    value = before = torch.full_like(b, 1 / 16)
    for number in range(7, 0, -1):
        before, value = value, 1 / (2 * number + square * value)
    return before / value
