"""Exponential time differencing Runge-Kutta methods for u_t = L u + N(u) with diagonal L.

L is integrated exactly, so its stiffness doesn't limit the step; N is what the order is about.

Sources: Cox & Matthews (2002), J. Comput. Phys. 176, 430, equations 22 and 26-29; the contour
integral is that of Kassam & Trefethen (2005), SIAM J. Sci. Comput. 26, 1214.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Inexact
from torch import Tensor

from longrun.cli import UserError

Nonlinear = Callable[[Tensor], Tensor]


def phi(z: Inexact[Tensor, "*shape"], order: int) -> list[Inexact[Tensor, "*shape"]]:
    """Functions phi_0 = exp, phi_{j+1}(z) = (phi_j(z) - 1/j!) / z, to rounding error.

    The formula cancels near z = 0, so each value is the mean of the formula over a circle about z
    that keeps a distance of 1 from zero.

    Parameters
    ----------
    z
        Arguments, float64 or complex128.
    order
        Last function wanted.

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
    """One step of an integrator, with its coefficients.

    Parameters
    ----------
    linear
        Symbol of L, float64 or complex128, shape (batch, channel or 1, *mode).
    time_step
        Time step, float64, broadcastable to `linear`.
    retained
        True for the modes that are kept, broadcastable to `linear`; the others are set to zero.
    dtype
        Real dtype of the states.
    """

    def __init__(self, linear: Tensor, time_step: Tensor, retained: Tensor, dtype: torch.dtype):
        self.retained = retained
        self.dtype = dtype
        # A real symbol keeps real coefficients, one for the real and one for the imaginary part:
        # half the work of complex products. They are written out twice because a broadcast last
        # axis would not be vectorised.
        self.real = not linear.is_complex()

    def _coefficient(self, value: Tensor) -> Tensor:
        value = value * self.retained
        if self.real:
            return value.to(self.dtype).unsqueeze(-1).expand(*value.shape, 2).contiguous()
        return value.to(self.dtype.to_complex())

    def _pack(self, spectrum: Tensor) -> Tensor:
        return torch.view_as_real(spectrum) if self.real else spectrum

    def _unpack(self, packed: Tensor) -> Tensor:
        return torch.view_as_complex(packed) if self.real else packed

    def step(self, spectrum: Tensor, nonlinear: Nonlinear) -> Tensor:
        """Advance by one time step.

        Parameters
        ----------
        spectrum
            Shape (batch, channel, *mode), complex.
        nonlinear
            N, from spectrum to spectrum; modes that are not retained may hold anything.

        Returns
        -------
        Tensor
            The spectrum one time step later.
        """
        after = self._step(
            self._pack(spectrum), lambda packed: self._pack(nonlinear(self._unpack(packed)))
        )
        return self._unpack(after)

    @abstractmethod
    def _step(self, u: Tensor, n: Nonlinear) -> Tensor:
        # Products and sums are separate operations, because whether a fused one rounds once or
        # twice depends on a lane's place in the batch. `add_` only touches fresh results of a
        # product with a constant, which autograd doesn't need.
        ...


class ETDRK2(AbstractETDRK):
    """Second order, two evaluations of N; cheapest where tolerances are loose."""

    def __init__(self, linear: Tensor, time_step: Tensor, retained: Tensor, dtype: torch.dtype):
        super().__init__(linear, time_step, retained, dtype)
        phi0, phi1, phi2 = phi(time_step * linear, 2)
        self.decay = self._coefficient(phi0)
        self.predict = self._coefficient(time_step * phi1)
        self.correct = self._coefficient(time_step * phi2)

    def _step(self, u: Tensor, n: Nonlinear) -> Tensor:
        n_u = n(u)
        a = (self.decay * u).add_(self.predict * n_u)
        return (self.correct * (n(a) - n_u)).add_(a)


class ETDRK4(AbstractETDRK):
    """Fourth order, four evaluations of N; the choice for reference solutions."""

    def __init__(self, linear: Tensor, time_step: Tensor, retained: Tensor, dtype: torch.dtype):
        super().__init__(linear, time_step, retained, dtype)
        half0, half1 = phi(time_step * linear / 2, 1)
        phi0, phi1, phi2, phi3 = phi(time_step * linear, 3)
        self.half_decay = self._coefficient(half0)
        self.half = self._coefficient(time_step / 2 * half1)
        self.decay = self._coefficient(phi0)
        self.first = self._coefficient(time_step * (phi1 - 3 * phi2 + 4 * phi3))
        self.middle = self._coefficient(time_step * (2 * phi2 - 4 * phi3))
        self.last = self._coefficient(time_step * (4 * phi3 - phi2))

    def _step(self, u: Tensor, n: Nonlinear) -> Tensor:
        n_u = n(u)
        half_u = self.half_decay * u
        a = (self.half * n_u).add_(half_u)
        n_a = n(a)
        b = (self.half * n_a).add_(half_u)
        n_b = n(b)
        c = (self.half * (2 * n_b - n_u)).add_(self.half_decay * a)
        n_c = n(c)
        after = (self.decay * u).add_(self.first * n_u)
        return after.add_(self.middle * (n_a + n_b)).add_(self.last * n_c)


def etdrk(name: str) -> type[AbstractETDRK]:
    """Return an integrator by its name in configurations.

    Raises
    ------
    UserError
        No such integrator.
    """
    integrators: dict[str, type[AbstractETDRK]] = {"etdrk2": ETDRK2, "etdrk4": ETDRK4}
    if name not in integrators:
        raise UserError(f"integrator must be one of {', '.join(integrators)}, is {name}")
    return integrators[name]
