"""The U-Net of PDE benchmarks, in one and two dimensions, for periodic grids or between walls.

Layout and widths follow the `Unetmod` of Gupta and Brandstetter (2022, arXiv:2209.15616), as used
by PDE-Refiner (Lippe et al., 2023): residual blocks with group norm, multipliers that accumulate
over the levels, two blocks on the way down, three on the way up, an additive embedding in every
block.

One deviation: a transposed convolution cannot pad circularly and breaks translation equivariance at
the seam, so a level goes up by nearest-neighbour interpolation and a convolution of width 3.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}


class CircularConvolution(nn.Module):
    """Convolution that keeps a periodic grid, or halves it at stride 2.

    The borders are joined by concatenation: torch's own circular padding copies into slices, whose
    backward pass takes several times as many operations.

    Attributes
    ----------
    periodic : tuple of bool or None
        Of each axis, see `longrun.nn.walls.pad_as`: zeros lie beyond the ends of others.
    """

    periodic: tuple[bool, ...] | None = None

    def __init__(self, dims: int, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        super().__init__()
        if dims not in CONVOLUTION:
            raise ValueError(f"dims: {dims} is not supported by the U-Net; allowed: 1, 2")
        self.padding = kernel // 2
        self.axes = tuple(range(-dims, 0))
        self.convolution = CONVOLUTION[dims](inputs, outputs, kernel, stride)

    def forward(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch outputs *coarse"]:
        """Return the convolved field."""
        if self.padding:
            for axis, joined in zip(self.axes, self.periodic or (True,) * 3, strict=False):
                if not joined:
                    ends = (self.padding, self.padding)
                    x = functional.pad(x, [0, 0] * (-axis - 1) + list(ends))
                    continue
                first = x.narrow(axis, 0, self.padding)
                last = x.narrow(axis, x.shape[axis] - self.padding, self.padding)
                x = torch.cat([last, x, first], dim=axis)
        return self.convolution(x)


def convolution(
    padding: Literal["circular", "zeros"],
    dims: int,
    inputs: int,
    outputs: int,
    kernel: int = 3,
    stride: int = 1,
) -> nn.Module:
    """Make a convolution that pads as the domain requires: periodically, or with zeros at walls."""
    if padding == "circular":
        return CircularConvolution(dims, inputs, outputs, kernel, stride)
    if dims not in CONVOLUTION:
        raise ValueError(f"dims: {dims} is not supported by the U-Net; allowed: 1, 2")
    return CONVOLUTION[dims](inputs, outputs, kernel, stride, padding=kernel // 2)


def zeroed(layer: nn.Module) -> nn.Module:
    """Set the parameters of a layer to zero, so that its branch starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoid(
    value: Float[Tensor, " batch"], channels: int, max_period: float = 1e4
) -> Float[Tensor, "batch channels"]:
    """Embed a scalar in cosines and sines of geometric frequencies, 1 to 1/max_period."""
    half = channels // 2
    exponent = torch.arange(half, device=value.device, dtype=value.dtype) / half
    phase = value[:, None] * torch.exp(-math.log(max_period) * exponent)
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


class ScalarEmbedding(nn.Module):
    """Sum over scalars of an MLP of each one's sinusoid: `emb = sum_i MLP_i(sinusoid(s_i))`.

    Parameters
    ----------
    scalars : int
        How many scalars describe a sample.
    width : int
        Channels of the sinusoid; the embedding has four times as many.
    """

    def __init__(self, scalars: int, width: int):
        super().__init__()
        self.width = width + width % 2
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(self.width, 4 * width), nn.GELU(), nn.Linear(4 * width, 4 * width)
            )
            for _ in range(scalars)
        )

    def forward(self, scalars: Float[Tensor, "batch scalar"]) -> Float[Tensor, "batch embedding"]:
        """Return the embedding of every sample."""
        terms = [mlp(sinusoid(s, self.width)) for mlp, s in zip(self.mlps, scalars.T, strict=True)]
        return torch.stack(terms).sum(0)


class ResidualBlock(nn.Module):
    """GN, GELU, conv, plus embedding, GN, GELU, zero-initialised conv, plus shortcut."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        embedding: int,
        padding: Literal["circular", "zeros"] = "circular",
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(1, inputs)
        self.conv1 = convolution(padding, dims, inputs, outputs)
        self.embed = nn.Linear(embedding, outputs) if embedding else None
        self.norm2 = nn.GroupNorm(1, outputs)
        self.conv2 = zeroed(convolution(padding, dims, outputs, outputs))
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else convolution(padding, dims, inputs, outputs, kernel=1)
        )

    def forward(
        self,
        x: Float[Tensor, "batch inputs *space"],
        embedding: Float[Tensor, "batch embedding"] | None,
    ) -> Float[Tensor, "batch outputs *space"]:
        """Return the block's output on the same grid."""
        h = self.conv1(functional.gelu(self.norm1(x)))
        if self.embed is not None and embedding is not None:
            e = self.embed(embedding)
            h = h + e.reshape(*e.shape, *(1,) * (h.ndim - 2))
        return self.conv2(functional.gelu(self.norm2(h))) + self.shortcut(x)


def grid_multiple(multipliers: Sequence[int], **_: object) -> int:
    """Return what every side of the grid must be a multiple of: it is halved between levels."""
    return int(2 ** min(max(len(multipliers) - 1, 0), 60))


class UNetBackbone(nn.Module):
    """Map a field to another on the same grid, conditioned on scalars.

    Parameters
    ----------
    dims : int
        Space dimensions, 1 or 2.
    inputs, outputs : int
        Channels of the fields.
    scalars : int
        Conditioning scalars of a sample; zero for none.
    width : int
        Channels after the stem.
    multipliers : sequence of int
        Factor of the width at each level, relative to the level above: (1, 2, 2, 4) is 64, 128,
        256, 1024 for a width of 64. Every level but the last halves the grid.
    padding : {"circular", "zeros"}
        What lies beyond the grid: its other end, or zeros, where there are walls.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        scalars: int,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        padding: Literal["circular", "zeros"] = "circular",
    ):
        super().__init__()
        if width < 1 or not multipliers or min(multipliers) < 1:
            raise ValueError("width and every one of multipliers must be at least 1")
        self.coarsening = grid_multiple(multipliers)
        self.embedding = ScalarEmbedding(scalars, width) if scalars else None
        embedding = 4 * width if scalars else 0
        self.stem = convolution(padding, dims, inputs, width)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, channels, last = [width], width, len(multipliers) - 1
        for level, factor in enumerate(multipliers):
            for _ in range(2):
                block = ResidualBlock(dims, channels, channels * factor, embedding, padding)
                self.down.append(block)
                channels, factor = channels * factor, 1
                skips.append(channels)
            if level < last:
                self.down.append(convolution(padding, dims, channels, channels, stride=2))
                skips.append(channels)
        self.middle = nn.ModuleList(
            ResidualBlock(dims, channels, channels, embedding, padding) for _ in range(2)
        )
        for level, factor in reversed(list(enumerate(multipliers))):
            for place in range(3):
                wider, narrower = channels + skips.pop(), channels // factor
                channels = channels if place < 2 else narrower
                self.up.append(ResidualBlock(dims, wider, channels, embedding, padding))
            if level > 0:
                self.up.append(
                    nn.Sequential(
                        nn.Upsample(scale_factor=2), convolution(padding, dims, channels, channels)
                    )
                )
        groups = math.gcd(8, channels)
        self.head = nn.Sequential(
            nn.GroupNorm(groups, channels),
            nn.GELU(),
            zeroed(convolution(padding, dims, channels, outputs)),
        )

    def forward(
        self,
        x: Float[Tensor, "batch inputs *space"],
        scalars: Float[Tensor, "batch scalar"],
    ) -> Float[Tensor, "batch outputs *space"]:
        """Return the output field on the grid of the input.

        Raises
        ------
        ValueError
            If a side of the grid is not divisible by two for every halving.
        """
        if any(n % self.coarsening for n in x.shape[2:]):
            raise ValueError(
                f"the U-Net halves the grid {int(math.log2(self.coarsening))} times: "
                f"every side of {tuple(x.shape[2:])} must be a multiple of {self.coarsening}"
            )
        embedding = None
        if self.embedding is not None:
            embedding = functional.gelu(self.embedding(scalars))
        h = self.stem(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedding)
        for layer in self.up:
            if isinstance(layer, ResidualBlock):
                h = layer(torch.cat([h, skips.pop()], dim=1), embedding)
            else:
                h = layer(h)
        return self.head(h)
