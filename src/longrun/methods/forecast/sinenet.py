"""SineNet (Zhang et al., 2024, arXiv:2403.19507).

A skip connection of a U-Net puts features of the input beside features that have already moved to
the output time. SineNet chains K narrow U-shaped blocks, "waves", so that each
moves the state by a K-th of the step and its skips are nearly aligned.

    x_0 = stem(frames),  x_k = x_(k-1) + wave_k(x_(k-1)),  target = head(x_K)
    wave, down: d_i = pool(d_(i-1)),  d_0 = h_0 = x
                h_i = Block([pool(h_(i-1)), d_i]) + W_i pool(h_(i-1))     (level 1 without d_1)
    wave, up:   u_(i-1) = Block([h_(i-1), up(u_i)]) + V_i up(u_i),  u_L = h_L
    Block = 2 x (convolution 3 x 3, group norm of one group, GELU)

d is the second path: the pooled input of the wave that no level has processed. Channels of level i
are the integer part of width * multiplier^i; pooling is the mean of 2 x 2 cells, up is bicubic, on
a periodic grid periodically. With history 4 of 3 fields, K = 8 and the default sizes there are
35,490,219 parameters, as in the public code.

Where parameters differ between trajectories their embedding is added inside every block, which is
one of the paper's two conditional variants. A deeper U-Net of the same parameters is K = 1 with
`blocks` > 1; we give those after the first an identity shortcut.
"""

import itertools
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.unet import ScalarEmbedding, convolution
from longrun.tasks.forecast import AbstractForecaster

Padding = Literal["circular", "zeros"]


class SineNet(AbstractForecaster):
    """K waves in series as a forecaster.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    waves : int
        K; 1 is a U-Net.
    width : int
        Channels between waves.
    multiplier : float
        Growth of the channels from level to level; the one that keeps the number of parameters is
        1.425, 1.5, 1.611, 1.8075 and 2 for K = 8, 6, 4, 2 and 1.
    levels : int
        Times that a wave halves the grid.
    blocks : int
        Blocks per level, on the way down and on the way up.
    dual_path : bool
        Whether every level sees the pooled input of its wave.
    padding : {"circular", "zeros"}
        Of convolutions and of the interpolation, for periodic or closed domains.
    """

    supported_dims = (2,)
    translates = False  # only by cells of the coarsest level, 2^levels points

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        waves: int = 8,
        width: int = 64,
        multiplier: float = 1.425,
        levels: int = 4,
        blocks: int = 1,
        dual_path: bool = True,
        padding: Padding = "circular",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if min(waves, width, levels, blocks) < 1:
            raise ValueError("waves, width, levels and blocks must be at least 1")
        if multiplier < 1:
            raise ValueError(f"multiplier must be at least 1, is {multiplier}")
        channels = [int(width * multiplier**level) for level in range(levels + 1)]
        self.coarsening = grid_multiple(levels)
        self.embedding = ScalarEmbedding(self.scalars, width) if self.scalars else None
        embedding = 4 * width if self.scalars else 0
        self.stem = convolution(padding, 2, self.history * fields, width)
        self.waves = nn.ModuleList(
            Wave(channels, blocks, dual_path, padding, embedding) for _ in range(waves)
        )
        self.head = convolution(padding, 2, width, fields)

    def step(
        self,
        history: Float[Tensor, "batch frame channel x y"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel x y"]:
        """Return the scaled target of the next frame.

        Raises
        ------
        ValueError
            If a side of the grid can't be halved as often as there are levels.
        """
        if any(points % self.coarsening for points in history.shape[3:]):
            raise ValueError(
                f"every side of {tuple(history.shape[3:])} must be a multiple of {self.coarsening}"
            )
        embedding = None
        if self.embedding is not None:
            embedding = functional.gelu(self.embedding(conditions))
        x = self.stem(history.flatten(1, 2))
        for wave in self.waves:
            x = x + wave(x, embedding)
        return self.head(x)


def grid_multiple(levels: int, **_: object) -> int:
    """Return what every side of the grid must be a multiple of."""
    return int(2 ** min(levels, 60))


class Wave(nn.Module):
    """One U-shaped block, from `channels[0]` channels to as many.

    Parameters
    ----------
    channels
        Of every level, the finest first.
    blocks, dual_path, padding
        See `SineNet`.
    embedding
        Channels of the conditions' embedding; 0 for none.
    """

    def __init__(
        self, channels: list[int], blocks: int, dual_path: bool, padding: Padding, embedding: int
    ):
        super().__init__()
        self.dual_path, self.padding = dual_path, padding
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level, (fine, coarse) in enumerate(itertools.pairwise(channels)):
            second = channels[0] if dual_path and level else 0
            self.down.append(Level(fine, second, coarse, blocks, padding, embedding))
            # `up` runs from the coarsest level, and so does this list
            self.up.insert(0, Level(coarse, fine, fine, blocks, padding, embedding))

    def forward(
        self,
        x: Float[Tensor, "batch channel x y"],
        embedding: Float[Tensor, "batch embedding"] | None,
    ) -> Float[Tensor, "batch channel x y"]:
        """Return what the wave adds to its input."""
        h, pooled, skips = x, x, []
        for number, level in enumerate(self.down):
            skips.append(h)
            pooled = functional.avg_pool2d(pooled, 2)
            second = pooled if self.dual_path and number else None
            h = level(functional.avg_pool2d(h, 2), second, embedding)
        for level in self.up:
            h = level(upsampled(h, self.padding), skips.pop(), embedding)
        return h


class Level(nn.Module):
    """Blocks of one resolution: `Block([main, second]) + W main`, and more blocks on top.

    Parameters
    ----------
    main, second
        Channels of the features with and without shortcut.
    outputs
        Channels of the result.
    blocks, padding, embedding
        See `Wave`.
    """

    def __init__(
        self, main: int, second: int, outputs: int, blocks: int, padding: Padding, embedding: int
    ):
        super().__init__()
        self.first = Block(main + second, outputs, padding, embedding)
        self.shortcut = nn.Conv2d(main, outputs, 1)
        self.more = nn.ModuleList(
            Block(outputs, outputs, padding, embedding) for _ in range(blocks - 1)
        )

    def forward(
        self,
        main: Float[Tensor, "batch main x y"],
        second: Float[Tensor, "batch second x y"] | None,
        embedding: Float[Tensor, "batch embedding"] | None,
    ) -> Float[Tensor, "batch output x y"]:
        """Return the features of this level."""
        inputs = main if second is None else torch.cat([second, main], dim=1)
        h = self.first(inputs, embedding) + self.shortcut(main)
        for block in self.more:
            h = h + block(h, embedding)
        return h


class Block(nn.Module):
    """Twice convolution, norm and GELU, with the embedding added after the first convolution."""

    def __init__(self, inputs: int, outputs: int, padding: Padding, embedding: int):
        super().__init__()
        self.convolution1 = convolution(padding, 2, inputs, outputs)
        self.embed = nn.Linear(embedding, outputs) if embedding else None
        self.norm1 = nn.GroupNorm(1, outputs)
        self.convolution2 = convolution(padding, 2, outputs, outputs)
        self.norm2 = nn.GroupNorm(1, outputs)

    def forward(
        self,
        x: Float[Tensor, "batch inputs x y"],
        embedding: Float[Tensor, "batch embedding"] | None,
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the block's features on the same grid."""
        h = self.convolution1(x)
        if self.embed is not None and embedding is not None:
            h = h + self.embed(embedding)[:, :, None, None]
        h = functional.gelu(self.norm1(h))
        return functional.gelu(self.norm2(self.convolution2(h)))


def upsampled(
    x: Float[Tensor, "batch channel x y"], padding: Padding
) -> Float[Tensor, "batch channel x2 y2"]:
    """Double a grid bicubically; a periodic one with two cells around it, cut off afterwards."""
    if padding == "zeros":
        return functional.interpolate(x, scale_factor=2, mode="bicubic")
    for axis in (2, 3):
        around = torch.arange(-2, x.shape[axis] + 2, device=x.device) % x.shape[axis]
        x = x.index_select(axis, around)
    return functional.interpolate(x, scale_factor=2, mode="bicubic")[:, :, 4:-4, 4:-4]
