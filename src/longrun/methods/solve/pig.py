"""PIG: Physics-Informed Gaussians (Kang et al., 2025, arXiv:2412.05994, ICLR).

The field is a tiny network of k features, each a sum of N Gaussians whose centres, widths and
weights are trained with it, so that they go where the solution needs them:

    F_j(s) = sum_i W_ji exp(-1/2 sum_d ((s_d - mu_jid) / sigma_jid)^2),   u = A tanh(B F + b) + a

Every feature has its own Gaussians. Derivatives are in closed form. With p = 1 / sigma^2, a
derivative of a Gaussian is the Gaussian times a polynomial in s whose coefficients depend only on
the Gaussian, so that all derivatives are matrix products of one table of Gaussians:

    dG/ds = (p mu - s p) G,    d2G/ds2 = (s^2 p^2 - 2 s p^2 mu + p^2 mu^2 - p) G
    u_dd = A (tanh'(h) h_dd + tanh''(h) h_d^2),  h = B F + b

Coordinates, time among them, are scaled to [-1, 1], where the centres are drawn. Deviations: the
public code trains sigma itself, which can cross zero; here we train its logarithm. The box is [-1,
1] for every equation; the public code has [0, 1] and [0, 2] for some. Not here: Gaussians of full
covariance.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from longrun.tasks.solve import AbstractFieldSolver, Derivatives

Weighted = Float[Tensor, "feature gaussian"]


class PIG(AbstractFieldSolver):
    """Trainable Gaussian features and a network of one hidden layer.

    Parameters
    ----------
    points, equation
        See `AbstractFieldSolver`, also for the options.
    gaussians : int
        N, per feature.
    features : int
        k.
    width : int
        Of the hidden layer.
    sigma : float
        Initial width of all Gaussians, in units of half the box.
    weight_std : float
        Standard deviation of the initial weights.
    centres : {"random", "lattice"}
        Where the centres begin: uniformly random, as in the paper; or all k N of them on a lattice
        of rank one, by the generalised golden ratios (Roberts, 2018), for any number.
    moving : bool
        Train the centres; False leaves them where they begin.

    Raises
    ------
    ValueError
        See `AbstractFieldSolver`; or an equation with mixed derivatives or higher than second.
    """

    boundaries = ("dirichlet",)
    centre: Tensor

    def __init__(
        self,
        points: list[int],
        equation: dict[str, Any],
        gaussians: int = 800,
        features: int = 4,
        width: int = 16,
        sigma: float = 0.1,
        weight_std: float = 0.01,
        centres: Literal["random", "lattice"] = "random",
        moving: bool = True,
        **options: Any,
    ):
        super().__init__(points, equation, **options)
        if min(gaussians, features, width) < 1 or sigma <= 0 or weight_std <= 0:
            raise ValueError("gaussians, features, width, sigma and weight_std must be positive")
        for name in self.equation.derivatives:
            if len(set(name)) != 1 or len(name) > 2:
                raise ValueError(f"first and second derivatives are supported, {name} is neither")
        shape = (features, gaussians, len(self.variables))
        centre = _lattice(*shape) if centres == "lattice" else 2 * torch.rand(shape) - 1
        if moving:
            self.centre = torch.nn.Parameter(centre)
        else:
            self.register_buffer("centre", centre)
        self.log_sigma = torch.nn.Parameter(torch.full(shape, math.log(sigma)))
        self.weight = torch.nn.Parameter(weight_std * torch.randn(features, gaussians))
        self.hidden = torch.nn.Linear(features, width)
        self.last = torch.nn.Linear(width, len(self.names))

    def forward(self, points: Float[Tensor, "point variable"]) -> Float[Tensor, "point field"]:
        """Return the field at points."""
        return self.differentiate(points, ())[""]

    def differentiate(
        self, points: Float[Tensor, "point variable"], names: Sequence[str]
    ) -> Derivatives:
        """Return the field ("") and its derivatives at points, by name."""
        table = self.feature_derivatives(points, names)
        hidden = {name: value @ self.hidden.weight.T for name, value in table.items()}
        value = torch.tanh(hidden[""] + self.hidden.bias)
        slope = 1 - value.square()
        found = {"": self.last(value)}
        for name in names:
            change = slope * hidden[name]
            if len(name) == 2:
                change = change - 2 * value * slope * hidden[name[0]].square()
            found[name] = change @ self.last.weight.T
        return found

    def feature_derivatives(
        self, points: Float[Tensor, "point variable"], names: Sequence[str]
    ) -> dict[str, Float[Tensor, "point feature"]]:
        """Return the features ("") and their derivatives; second orders bring the first."""
        scale = 2 / self.extent
        s = points * scale - 1
        gaussians = self.gaussians(s)
        precision = torch.exp(-2 * self.log_sigma)
        # weights of the Gaussians, per derivative and power of the coordinate
        parts: dict[tuple[str, int], Tensor] = {("", 0): self.weight}
        letters = sorted({name[0] for name in names}, key=self.variables.index)
        for letter in letters:
            axis = self.variables.index(letter)
            p, mu = precision[..., axis], self.centre[..., axis]
            slope = self.weight * p
            parts[letter, 0], parts[letter, 1] = slope * mu, -slope
            if 2 * letter in names:
                parts[2 * letter, 0] = slope * (p * mu * mu - 1)
                parts[2 * letter, 1] = -2 * slope * p * mu
                parts[2 * letter, 2] = slope * p
        sums = torch.bmm(gaussians, torch.stack(list(parts.values()), -1))  # feature first
        column = dict(zip(parts, sums.permute(2, 1, 0), strict=True))
        found = {"": column["", 0]}
        for letter in letters:
            axis = self.variables.index(letter)
            x, factor = s[:, axis, None], scale[axis]
            found[letter] = factor * (column[letter, 0] + x * column[letter, 1])
            if 2 * letter in names:
                even = column[2 * letter, 0] + x * x * column[2 * letter, 2]
                found[2 * letter] = factor**2 * (even + x * column[2 * letter, 1])
        return found

    def gaussians(
        self, s: Float[Tensor, "point variable"]
    ) -> Float[Tensor, "feature point gaussian"]:
        """Return the value of every Gaussian at scaled points; exponents by one matrix product."""
        precision = torch.exp(-2 * self.log_sigma)
        shifted = precision * self.centre
        powers = torch.cat([s.square(), s, torch.ones_like(s[:, :1])], 1)
        constant = -(shifted * self.centre).sum(-1, keepdim=True) / 2
        factors = torch.cat([-precision / 2, shifted, constant], -1)
        return torch.exp(torch.matmul(powers, factors.mT))

    def exhibits(self) -> dict[str, xr.DataArray]:
        """Return centres and widths of all Gaussians, physical."""
        dims = ("gaussian", "variable")
        half = self.extent.detach() / 2
        centre = (self.centre.detach() + 1) * half
        width = self.log_sigma.detach().exp() * half
        return {
            name: xr.DataArray(
                value.flatten(0, 1).cpu().numpy(), {"variable": list(self.variables)}, dims
            )
            for name, value in (("centre", centre), ("width", width))
        }


def _lattice(features: int, gaussians: int, dims: int) -> Float[Tensor, "feature gaussian axis"]:
    """Return a lattice of rank one in [-1, 1]^dims, dealt out to the features in turn."""
    ratio = 2.0
    for _ in range(60):  # the positive root of x^(dims + 1) = x + 1
        ratio = (1 + ratio) ** (1 / (dims + 1))
    steps = torch.tensor([ratio ** -(d + 1) for d in range(dims)], dtype=torch.float64)
    number = torch.arange(features * gaussians, dtype=torch.float64)[:, None]
    lattice = 2 * torch.remainder(0.5 + number * steps, 1.0) - 1
    return lattice.reshape(gaussians, features, dims).transpose(0, 1).contiguous().float()
