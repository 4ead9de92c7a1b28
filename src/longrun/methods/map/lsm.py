"""LSM, the latent spectral model (Wu et al., 2023, arXiv:2301.12664).

A U-Net whose features, at every scale, pass a neural spectral block before they are used. It cuts
the grid into patches; in each, a few learnt tokens gather the pixels by attention, are changed by a
residual expansion in waves of their own value, and are read back by the pixels. Per head, channel
c, token t and pixel x, with q the learnt tokens, k, v and p linear in the pixels' features h:

    z = q + softmax_x(q k^T) v
    z_tc <- z_tc + sum_(m<M) [ A_cm sin(pi m z_tc / M) + B_cm cos(pi m z_tc / M) ]
    h <- h + softmax_t(p z^T) z

The attention is not scaled by the root of the channels. All patches of a scale share q, A and B,
which start uniform in [0, 1 / channels]. As in the paper, m begins at 0, where the sine vanishes
and the cosine is a bias.

`spectral: false` leaves out the expansion, `blocks: false` the whole blocks: the U-Net alone.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.walls import crop, pad_to_multiple
from longrun.tasks.map import AbstractMap

HIDDEN = 128  # channels between the two layers of the projection (paper)


class DoubleConvolution(nn.Sequential):
    """Twice convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, between: int | None = None):
        between = between or outputs
        super().__init__(
            nn.Conv2d(inputs, between, 3, padding=1, bias=False),
            nn.BatchNorm2d(between),
            nn.ReLU(),
            nn.Conv2d(between, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class NeuralSpectralBlock(nn.Module):
    """Attention through a few tokens per patch, which waves of their value change in between.

    Parameters
    ----------
    width : int
        Channels.
    patch : int
        Side of a patch in pixels; must divide the grid.
    tokens : int
        Tokens of a patch.
    basis : int
        M, the waves of each phase; 0 for none.
    heads : int
        Heads of the attention; must divide the channels.
    """

    def __init__(self, width: int, patch: int, tokens: int, basis: int, heads: int):
        super().__init__()
        self.patch, self.heads = patch, heads
        self.tokens = nn.Parameter(torch.rand(heads, tokens, width // heads) / width)
        self.keys_and_values = nn.Conv2d(width, 2 * width, 1)
        self.queries = nn.Conv2d(width, width, 1)
        self.basis = basis
        if basis:
            waves = torch.rand(2, heads, width // heads, basis) / width
            self.sine, self.cosine = (nn.Parameter(part) for part in waves)

    def forward(self, x: Float[Tensor, "batch width x y"]) -> Float[Tensor, "batch width x y"]:
        """Return the features on the same grid."""
        keys, values = (self._split(part) for part in self.keys_and_values(x).chunk(2, dim=1))
        weights = (self.tokens @ keys.transpose(-1, -2)).softmax(-1)  # over pixels
        latent = self.expand(self.tokens + weights @ values)
        weights = (self._split(self.queries(x)) @ latent.transpose(-1, -2)).softmax(-1)  # tokens
        return x + self._merge(weights @ latent, x.shape)

    def expand(
        self, latent: Float[Tensor, "patch head token channel"]
    ) -> Float[Tensor, "patch head token channel"]:
        """Add waves of the tokens' values."""
        if not self.basis:
            return latent
        frequency = torch.arange(self.basis, device=latent.device) * (math.pi / self.basis)
        phase = latent[..., None] * frequency.to(latent.dtype)
        sines = torch.einsum("phtcm,hcm->phtc", phase.sin(), self.sine)
        return latent + sines + torch.einsum("phtcm,hcm->phtc", phase.cos(), self.cosine)

    def _split(
        self, x: Float[Tensor, "batch width x y"]
    ) -> Float[Tensor, "patch head pixel channel"]:
        batch, width, *space = x.shape
        rows, columns = (side // self.patch for side in space)
        shape = batch, self.heads, width // self.heads, rows, self.patch, columns, self.patch
        parts = x.reshape(shape).permute(0, 3, 5, 1, 4, 6, 2)
        return parts.reshape(batch * rows * columns, self.heads, self.patch**2, shape[2])

    def _merge(
        self, parts: Float[Tensor, "patch head pixel channel"], shape: torch.Size
    ) -> Float[Tensor, "batch width x y"]:
        batch, width, *space = shape
        rows, columns = (side // self.patch for side in space)
        inside = batch, rows, columns, self.heads, self.patch, self.patch, width // self.heads
        return parts.reshape(inside).permute(0, 3, 6, 1, 4, 2, 5).reshape(shape)


class LSM(AbstractMap):
    """The latent spectral model in two dimensions, with batch norm as in the paper.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options.
    width : int
        d, channels of the finest scale; they double from scale to scale, except to the coarsest.
    scales : int
        Grids of the U-Net, each half as fine as the one before.
    patch : int
        Side of a patch in points of its scale, at every scale. The grid is padded with zeros
        beyond its far walls until patches fit everywhere.
    tokens, basis, heads : int
        Of the neural spectral blocks.
    spectral : bool
        Whether the blocks have their expansion in waves.
    blocks : bool
        Whether there are blocks.
    """

    coordinates = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 64,
        scales: int = 5,
        patch: int = 4,
        tokens: int = 4,
        basis: int = 12,
        heads: int = 8,
        spectral: bool = True,
        blocks: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        if dims != 2:
            raise ValueError(f"dims must be 2, is {dims}")
        if scales < 2 or min(width, patch, tokens, basis, heads) < 1:
            raise ValueError("scales must be at least 2, all other sizes at least 1")
        if width % heads:
            raise ValueError(f"heads must divide width {width}, are {heads}")
        widths = [width * 2 ** min(i, scales - 2) for i in range(scales)]
        self.multiple = patch * 2 ** (scales - 1)
        self.lift = nn.Conv2d(self.inputs, width, 1)
        self.down = nn.ModuleList(
            DoubleConvolution(wider, narrower)
            for wider, narrower in zip([width, *widths], widths, strict=False)
        )
        self.blocks = nn.ModuleList(
            NeuralSpectralBlock(w, patch, tokens, basis if spectral else 0, heads)
            if blocks
            else nn.Identity()
            for w in widths
        )
        self.up = nn.ModuleList()
        below = widths[-1]
        for level in reversed(range(scales - 1)):
            joined = below + widths[level]
            below = widths[level] // 2 if level else width
            self.up.append(DoubleConvolution(joined, below, joined // 2))
        self.head = nn.Sequential(
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, HIDDEN, 1),
            nn.GELU(),
            nn.Conv2d(HIDDEN, self.sought, 1),
        )

    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields."""
        space = tuple(x.shape[2:])
        h = pad_to_multiple(self.lift(x), self.multiple)
        features = []
        for level, convolution in enumerate(self.down):
            h = convolution(functional.max_pool2d(h, 2) if level else h)
            features.append(h)
        *passed, h = [block(f) for block, f in zip(self.blocks, features, strict=True)]
        for convolution, beside in zip(self.up, reversed(passed), strict=True):
            size = beside.shape[2:]
            h = functional.interpolate(h, size=size, mode="bilinear", align_corners=True)
            h = convolution(torch.cat([beside, h], dim=1))
        return self.head(crop(h, space))
