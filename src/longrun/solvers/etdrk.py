"""Exponential time differencing Runge-Kutta methods for u_t = L u + N(u) with diagonal L.

L is integrated exactly, so its stiffness doesn't limit the step; the order is that of the treatment
of N.

Sources: Cox & Matthews (2002), J. Comput. Phys. 176, 430, equations 22 and 26-29; Krogstad (2005),
J. Comput. Phys. 203, 72; Lawson (1967), SIAM J. Numer. Anal. 4, 372, with Dormand & Prince (1980),
J. Comput. Appl. Math. 6, 19; the contour integral is that of Kassam & Trefethen (2005), SIAM J.
Sci. Comput. 26, 1214.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Inexact
from torch import Tensor

from longrun.runtime.cli import UserError

Spectrum = Inexact[Tensor, "batch channel *mode"]  # real in a cosine basis
Product = Callable[[Tensor], Tensor]


def phi(z: Inexact[Tensor, "*shape"], order: int) -> list[Inexact[Tensor, "*shape"]]:
    """Functions phi_0 = exp, phi_{j+1}(z) = (phi_j(z) - 1/j!) / z, to rounding error.

    The formula cancels near z = 0, so each value is the mean of the formula over a circle about z
    that stays a distance of 1 away from zero.

    Parameters
    ----------
    z
        Arguments, float64 or complex128.
    order
        Index of the last function.

    Returns
    -------
    list of Tensor
        phi_0 to phi_order, like `z`.
    """
    nodes = 32  # the mean converges geometrically: 3**32 / 32! is below 1e-20
    radius = torch.where(z.abs() < 2, 3.0, 1.0).to(z.device, torch.float64)
    functions = [z.exp()] + [torch.zeros_like(z) for _ in range(order)]
    for node in range(nodes):
        angle = 2 * math.pi * (node + 0.5) / nodes
        point = z + radius * complex(math.cos(angle), math.sin(angle))
        value = point.exp()
        for j in range(order):
            value = (value - 1 / math.factorial(j)) / point
            functions[j + 1] += (value if z.is_complex() else value.real) / nodes
    return functions


class AbstractETDRK(ABC):
    """One step of an integrator for u_t = linear u + symbol product(u), with its coefficients.

    The symbol is part of the coefficients, so it costs nothing per step. Where `linear` is real and
    `symbol` real or imaginary, every product with a coefficient is rounded once per part, fused or
    not, so the bits of a trajectory don't depend on its place in a batch.

    Parameters
    ----------
    linear
        Symbol of L, float64 or complex128, shape (batch, channel or 1, *mode).
    symbol
        Diagonal factor of N, float64 or complex128, broadcastable to `linear`; zero for modes
        that N must not reach.
    time_step
        Time step, float64, broadcastable to `linear`.
    dtype
        Complex dtype of the spectra.
    """

    @abstractmethod
    def __init__(self, linear: Tensor, symbol: Tensor, time_step: Tensor, dtype: torch.dtype): ...

    @staticmethod
    def _coefficient(value: Tensor, dtype: torch.dtype) -> Tensor:
        # negligible values would make products denormal, which are slow
        negligible = value.abs() < torch.finfo(dtype).tiny ** 0.5
        return value.masked_fill(negligible, 0).to(dtype)

    @abstractmethod
    def step(self, u: Spectrum, product: Product) -> Spectrum:
        """Advance by one time step.

        Parameters
        ----------
        u
            Spectrum, complex.
        product
            N without its symbol, from spectrum to a new spectrum that may be overwritten.

        Returns
        -------
        Tensor
            The spectrum one time step later.
        """


# In the steps below, operations in place touch only new tensors that autograd doesn't need: a
# product with a constant needs only the constant. Memory traffic, not arithmetic, is the cost.


class ETDRK2(AbstractETDRK):
    """Second order, two evaluations of N; cheapest where tolerances are loose."""

    def __init__(self, linear: Tensor, symbol: Tensor, time_step: Tensor, dtype: torch.dtype):
        phi0, phi1, phi2 = phi(time_step * linear, 2)
        self.decay = self._coefficient(phi0, dtype)
        self.predict = self._coefficient(time_step * phi1 * symbol, dtype)
        self.correct = self._coefficient(time_step * phi2 * symbol, dtype)

    def step(self, u: Spectrum, product: Product) -> Spectrum:
        """Advance by one time step: Cox & Matthews (2002), equation 22."""
        n_u = product(u)
        a = (self.decay * u).addcmul_(self.predict, n_u)
        return a.addcmul(self.correct, product(a).sub_(n_u))


class ETDRK4(AbstractETDRK):
    """Fourth order, four evaluations of N."""

    def __init__(self, linear: Tensor, symbol: Tensor, time_step: Tensor, dtype: torch.dtype):
        half0, half1 = phi(time_step * linear / 2, 1)
        phi0, phi1, phi2, phi3 = phi(time_step * linear, 3)
        half = time_step / 2 * half1 * symbol
        self.half_decay = self._coefficient(half0, dtype)
        self.half = self._coefficient(half, dtype)
        self.back = self._coefficient(half * (half0 - 1), dtype)
        self.decay = self._coefficient(phi0, dtype)
        self.first = self._coefficient(time_step * (phi1 - 3 * phi2 + 4 * phi3) * symbol, dtype)
        self.middle = self._coefficient(time_step * (2 * phi2 - 4 * phi3) * symbol, dtype)
        self.last = self._coefficient(time_step * (4 * phi3 - phi2) * symbol, dtype)

    def step(self, u: Spectrum, product: Product) -> Spectrum:
        """Advance by one time step: Cox & Matthews (2002), equations 26 to 29."""
        n_u = product(u)
        half_u = self.half_decay * u
        n_a = product(half_u.addcmul(self.half, n_u))
        n_b = product(half_u.addcmul_(self.half, n_a))
        # c = half_decay a + half (2 n_b - n_u), with a written out: decay u serves twice
        after = self.decay * u
        n_c = product(after.addcmul(self.back, n_u).addcmul_(self.half, n_b, value=2))
        after.addcmul_(self.first, n_u).addcmul_(self.middle, n_a.add_(n_b))
        return after.addcmul_(self.last, n_c)


class ETDRK4B(AbstractETDRK):
    """Fourth order as ETDRK4, with smaller errors where L is stiff for one more operation."""

    def __init__(self, linear: Tensor, symbol: Tensor, time_step: Tensor, dtype: torch.dtype):
        half0, half1, half2 = phi(time_step * linear / 2, 2)
        phi0, phi1, phi2, phi3 = phi(time_step * linear, 3)
        step = time_step * symbol
        self.half_decay = self._coefficient(half0, dtype)
        self.half = self._coefficient(step / 2 * half1, dtype)
        self.bend = self._coefficient(step * half2, dtype)
        self.decay = self._coefficient(phi0, dtype)
        self.whole = self._coefficient(step * phi1, dtype)
        self.twice = self._coefficient(2 * step * phi2, dtype)
        self.first = self._coefficient(step * (2 * phi2 - 4 * phi3), dtype)
        self.second = self._coefficient(-4 * step * phi3, dtype)
        self.last = self._coefficient(step * (4 * phi3 - phi2), dtype)

    def step(self, u: Spectrum, product: Product) -> Spectrum:
        """Advance by one time step: Krogstad (2005), by differences from N(u)."""
        n_u = product(u)
        a = (self.half_decay * u).addcmul_(self.half, n_u)
        n_a = product(a).sub_(n_u)
        n_b = product(a.addcmul_(self.bend, n_a)).sub_(n_u)
        c = (self.decay * u).addcmul_(self.whole, n_u).addcmul_(self.twice, n_b)
        n_c = product(c).sub_(n_u)
        return c.addcmul_(self.first, n_a).addcmul_(self.second, n_b).addcmul_(self.last, n_c)


class Lawson5(AbstractETDRK):
    """Fifth order, six evaluations of N; cheapest for tight tolerances where L isn't stiff.

    The method of Dormand & Prince for exp(-L t) u: good for flows, whose waves viscosity hardly
    changes within a step, but not for Kuramoto-Sivashinsky.
    """

    nodes = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
    weights = (  # the last row is the step itself
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    )

    def __init__(self, linear: Tensor, symbol: Tensor, time_step: Tensor, dtype: torch.dtype):
        z = time_step * linear
        self.stages = [
            (
                self._coefficient((node * z).exp(), dtype),
                [
                    self._coefficient(w * time_step * ((node - other) * z).exp() * symbol, dtype)
                    if w
                    else None
                    for w, other in zip(row, self.nodes, strict=False)
                ],
            )
            for node, row in zip(self.nodes[1:], self.weights, strict=True)
        ]

    def step(self, u: Spectrum, product: Product) -> Spectrum:
        """Advance by one time step: Lawson (1967) with Dormand & Prince (1980)."""
        stage, tendencies = u, []
        for decay, row in self.stages:
            tendencies.append(product(stage))
            stage = decay * u
            for coefficient, tendency in zip(row, tendencies, strict=True):
                if coefficient is not None:
                    stage.addcmul_(coefficient, tendency)
        return stage


def etdrk(name: str) -> type[AbstractETDRK]:
    """Return an integrator by its name in configurations.

    Raises
    ------
    UserError
        No such integrator.
    """
    integrators: dict[str, type[AbstractETDRK]] = {
        "etdrk2": ETDRK2,
        "etdrk4": ETDRK4,
        "etdrk4b": ETDRK4B,
        "lawson5": Lawson5,
    }
    if name not in integrators:
        raise UserError(f"integrator must be one of {', '.join(integrators)}, is {name}")
    return integrators[name]
