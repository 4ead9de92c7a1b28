"""IFactFormer-m, the parallel implicit factorised transformer (arXiv:2412.18840).

One small kernel per axis takes the place of attention between all pairs of points. A layer is
applied N times with the same weights, each time for an N-th of the way:

    u_0 = lift(frames) + positions,    u <- u + layer(u) / N,    target = head(u_N)
    layer: u = norm(u),   v = V u,   w = W u
           s_a = mlp(norm(mean of P_a w over the other axes)),   for every axis a
           K_a = (R Q_a s_a) (R M_a s_a)^T                       for every head, without softmax
           parallel:  y = [K_x v, K_y v, K_z v]                  side by side
           chained:   y = K_z K_y K_x v
           out = C gelu(B (y - mean) / deviation)                over the grid, of every channel

R turns pairs of channels by angles that grow with the coordinate (rotary embedding), so that a
kernel knows distances. Chained it is IFactFormer-o, the layer of FactFormer (Li, Shu and Barati
Farimani, 2023, arXiv:2305.17560); with `implicit: false` every one of N layers has weights of its
own and is added whole, as there. With the default sizes 1,163,427 parameters, chained 1,071,267.

Decisions:

- Coordinates run from 0 to 2 pi along each axis for R, which is the extent of our box, and from 0
  to 1 for the fixed random waves that `positions` are a linear map of.
- The first convolution isn't grouped: conditions are inputs of it too.
- Kernels have no weights of a quadrature, as in the public code: our grids are even.
- The public code keeps bounds on the change of energy in a step, perhaps for a limiter that isn't
  shown. There is none here: a forecast that stays bounded does so by itself.
- Nothing enforces zero divergence, as in the paper.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.coordinates import turned
from longrun.nn.fno import as_channels
from longrun.tasks.forecast import AbstractForecaster

MULTIPLE = 3  # channels of queries and keys over those of values
WAVES = 48  # random waves of the positions
LONGEST, SHORTEST = 10_000.0, 64.0  # of R: radians per unit of the coordinate, and what divides it


class IFactFormer(AbstractForecaster):
    """Attention along the axes, side by side or one after the other, iterated with shared weights.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    width : int
        Channels between layers.
    heads : int
        Kernels per axis.
    head_width : int
        Channels of the values that a kernel mixes.
    iterations : int
        N.
    axes : {"parallel", "chained"}
        Whether kernels act on the same values, or each on what the last one left.
    implicit : bool
        Whether all iterations share their weights, each an N-th of the way.
    rotary : bool
        Whether kernels know distances.
    positions : bool
        Whether points know where they are.
    gain : float
        Of the first queries and keys. At the public code's 0.02 an entry of a kernel is near 1e-4:
        a chain of three begins so close to zero that the norm behind it can't lift it, and hardly
        learns; near 1 it begins with kernels of order 1.
    """

    translates = False

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 96,
        heads: int = 5,
        head_width: int = 96,
        iterations: int = 10,
        axes: Literal["parallel", "chained"] = "parallel",
        implicit: bool = True,
        rotary: bool = True,
        positions: bool = True,
        gain: float = 0.02,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if min(width, heads, head_width, iterations) < 1:
            raise ValueError("width, heads, head_width and iterations must be at least 1")
        if rotary and head_width * MULTIPLE % 2:
            raise ValueError(f"head_width must be even for a rotary embedding, is {head_width}")
        self.iterations, self.implicit = iterations, implicit
        inputs = self.history * fields + self.scalars
        half = max(1, width // 2)
        self.lift = nn.Sequential(nn.Linear(inputs, half), nn.GELU(), nn.Linear(half, width))
        self.positions = Positions(dims, width) if positions else None
        layers = 1 if implicit else iterations
        self.layers = nn.ModuleList(
            Layer(dims, width, heads, head_width, axes == "chained", rotary, gain)
            for _ in range(layers)
        )
        self.head = nn.Sequential(nn.Linear(width, half), nn.GELU(), nn.Linear(half, fields))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        frames = history.flatten(1, 2)
        x = torch.cat([frames, as_channels(conditions, frames)], dim=1)
        u = self.lift(x.movedim(1, -1))
        if self.positions is not None:
            u = u + self.positions(tuple(u.shape[1:-1]))
        for number in range(self.iterations):
            if self.implicit:
                u = u + self.layers[0](u) / self.iterations
            else:
                u = u + self.layers[number](u)
        return self.head(u).movedim(-1, 1)


class Positions(nn.Module):
    """A linear map of fixed random waves over the box."""

    waves: Tensor

    def __init__(self, dims: int, width: int, scale: float = 8.0):
        super().__init__()
        self.register_buffer("waves", scale * torch.randn(dims, WAVES))
        self.map = nn.Linear(2 * WAVES, width)

    def forward(self, space: tuple[int, ...]) -> Float[Tensor, "*space channel"]:
        """Return channels at every point of a grid."""
        axes = [torch.arange(n, device=self.waves.device) / n for n in space]
        at = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(self.waves.dtype)
        angle = 2 * math.pi * (at @ self.waves)
        return self.map(torch.cat([angle.sin(), angle.cos()], dim=-1))


class Layer(nn.Module):
    """Kernels along all axes, applied to values and mixed at every point.

    Parameters
    ----------
    dims, width, heads, head_width
        See `IFactFormer`.
    chained, rotary, gain
        See there.
    """

    def __init__(
        self,
        dims: int,
        width: int,
        heads: int,
        head_width: int,
        chained: bool,
        rotary: bool,
        gain: float,
    ):
        super().__init__()
        self.heads, self.chained = heads, chained
        self.norm = nn.LayerNorm(width)
        self.values = nn.Linear(width, heads * head_width, bias=False)
        self.mix = nn.Linear(width, width, bias=False)
        self.kernels = nn.ModuleList(
            Kernel(width, heads, MULTIPLE * head_width, rotary, gain) for _ in range(dims)
        )
        sides = 1 if chained else dims
        self.out = nn.Sequential(
            nn.Linear(sides * heads * head_width, width, bias=False),
            nn.GELU(),
            nn.Linear(width, width, bias=False),
        )

    def forward(self, u: Float[Tensor, "batch *space channel"]) -> Float[Tensor, "..."]:
        """Return what is added to the features, of their shape."""
        u = self.norm(u)
        space = tuple(range(2, u.ndim))  # of values, whose axis 1 is the head
        v = self.values(u).unflatten(-1, (self.heads, -1)).movedim(-2, 1)
        w = self.mix(u)
        found = []
        for axis, kernel in enumerate(self.kernels, start=1):
            applied = along(kernel(w, axis), v, axis + 1)
            v = applied if self.chained else v
            found.append(applied)
        y = found[-1] if self.chained else torch.cat(found, dim=-1)
        variance, mean = torch.var_mean(y, dim=space, correction=0, keepdim=True)
        y = (y - mean) * (variance + 1e-5).rsqrt()
        return self.out(y.movedim(1, -2).flatten(-2))


class Kernel(nn.Module):
    """Kernel matrices of one axis, from features that are averaged over the other axes."""

    def __init__(self, width: int, heads: int, channels: int, rotary: bool, gain: float):
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.project = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)
        self.gated = nn.Linear(width, 2 * width)
        self.after = nn.Linear(width, width)
        self.query = nn.Linear(width, heads * channels, bias=False)
        self.key = nn.Linear(width, heads * channels, bias=False)
        for weight in (self.query.weight, self.key.weight):
            nn.init.xavier_uniform_(weight, gain=gain)

    def forward(
        self, w: Float[Tensor, "batch *space channel"], axis: int
    ) -> Float[Tensor, "batch head point point"]:
        """Return one matrix per head for an axis of the grid, from 1."""
        others = [other for other in range(1, w.ndim - 1) if other != axis]
        s = self.project(w.mean(others) if others else w)  # a mean of maps is the map of the mean
        gate, passed = self.gated(self.norm(s)).chunk(2, dim=-1)
        s = self.after(functional.gelu(gate) * passed)
        query, key = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(s), self.key(s))
        )
        if self.rotary:
            angle = angles(query)
            query, key = turned(query, angle), turned(key, angle)
        return query @ key.transpose(-1, -2)


def angles(like: Float[Tensor, "batch head point channel"]) -> Float[Tensor, "point half"]:
    """Return by how much pairs of channels turn at each point: it grows with the coordinate."""
    points, half = like.shape[-2], like.shape[-1] // 2
    line = 2 * math.pi * torch.arange(points, device=like.device) / points
    rate = SHORTEST * LONGEST ** (-torch.arange(half, device=like.device) / half)
    return (line[:, None] * rate).to(like.dtype)


def along(
    kernel: Float[Tensor, "batch head point point"],
    values: Float[Tensor, "batch head *space channel"],
    axis: int,
) -> Float[Tensor, "batch head *space channel"]:
    """Apply the kernel of every head along one axis of its values."""
    moved = values.movedim(axis, 2)
    return (kernel @ moved.flatten(3)).view(moved.shape).movedim(2, axis)
