"""A variational autoencoder of blocks of frames: convolutions over time and space.

Layout of the autoencoders of latent diffusion (Rombach et al., 2022, arXiv:2112.10752), with time
as a third axis: residual blocks with group norms and swish, halved along all axes by convolutions
of stride 2 with padding at the far end, doubled by repetition and a convolution. Space closes;
beyond the ends of time the first and last frame go on.
"""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4


class Convolution(nn.Module):
    """Convolution of width 3 over time, x and y, of stride 1 or 2."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.inner = nn.Conv3d(inputs, outputs, 3, stride)
        self.before = 1 if stride == 1 else 0

    def forward(
        self, x: Float[Tensor, "batch input time x y"]
    ) -> Float[Tensor, "batch output later u v"]:
        """Return the features."""
        around = (self.before, 1)
        x = functional.pad(x, (*around, *around, 0, 0), mode="circular")
        x = functional.pad(x, (0, 0, 0, 0, *around), mode="replicate")
        return self.inner(x)


class Residual(nn.Module):
    """x + conv(swish(norm(conv(swish(norm x)) + embedding)))."""

    def __init__(self, inputs: int, outputs: int, embedding: int):
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(GROUPS, inputs), nn.GroupNorm(GROUPS, outputs)
        self.first, self.second = Convolution(inputs, outputs), Convolution(outputs, outputs)
        self.embed = nn.Linear(embedding, outputs) if embedding else None
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch input time x y"], told: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch output time x y"]:
        """Return the features after the block."""
        h = self.first(functional.silu(self.norm1(x)))
        if self.embed is not None:
            h = h + self.embed(told)[:, :, None, None, None]
        return self.skip(x) + self.second(functional.silu(self.norm2(h)))


class Level(nn.Module):
    """Residual blocks of one resolution, and after them, or before them, a change of it."""

    def __init__(self, inputs: int, outputs: int, blocks: int, embedding: int, way: str):
        super().__init__()
        sizes = [inputs, *(outputs for _ in range(blocks))]
        self.blocks = nn.ModuleList(Residual(a, b, embedding) for a, b in itertools.pairwise(sizes))
        self.way = way
        stride = 2 if way == "down" else 1
        self.change = Convolution(outputs, outputs, stride) if way != "stay" else None

    def forward(
        self, x: Float[Tensor, "batch input time x y"], told: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch output later u v"]:
        """Return the features, at half or twice the resolution where that changes."""
        for block in self.blocks:
            x = block(x, told)
        if self.change is None:
            return x
        if self.way == "up":
            x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.change(x)


class Autoencoder(nn.Module):
    """Blocks of frames to a small regular latent, and back.

    Parameters
    ----------
    fields, conditions
        Of a frame; parameters that enter every residual block.
    channels
        Of the finest level.
    multipliers
        Of every level; all but the last halve time and space.
    latent
        Channels of the latent.
    blocks
        Residual blocks per level.
    """

    def __init__(
        self,
        fields: int,
        conditions: int,
        channels: int,
        multipliers: Sequence[int],
        latent: int,
        blocks: int = 2,
    ):
        super().__init__()
        widths = [channels * factor for factor in multipliers]
        ways = ["down"] * (len(widths) - 1) + ["stay"]
        self.lift = Convolution(fields, channels)
        self.encoder = nn.ModuleList(
            Level(a, b, blocks, conditions, way)
            for a, b, way in zip([channels, *widths[:-1]], widths, ways, strict=True)
        )
        self.moments = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[-1]), nn.SiLU(), Convolution(widths[-1], 2 * latent)
        )
        self.raise_ = Convolution(latent, widths[-1])
        ways = ["up"] * (len(widths) - 1) + ["stay"]
        backwards = widths[::-1]
        self.decoder = nn.ModuleList(
            Level(a, b, blocks, conditions, way)
            for a, b, way in zip(backwards, [*backwards[1:], widths[0]], ways, strict=True)
        )
        self.lower = nn.Sequential(
            nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), Convolution(widths[0], fields)
        )

    def encode(
        self,
        block: Float[Tensor, "batch frame channel x y"],
        told: Float[Tensor, "batch condition"],
    ) -> tuple[Float[Tensor, "batch latent time u v"], Float[Tensor, "batch latent time u v"]]:
        """Return mean and log variance of the latent of normalised frames."""
        x = self.lift(block.transpose(1, 2))
        for level in self.encoder:
            x = level(x, told)
        mean, log_variance = self.moments(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-30, 20)

    def decode(
        self,
        latent: Float[Tensor, "batch latent time u v"],
        told: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch frame channel x y"]:
        """Return the normalised frames of a latent."""
        x = self.raise_(latent)
        for level in self.decoder:
            x = level(x, told)
        return self.lower(x).transpose(1, 2)


def latent_shape(frames: int, points: Sequence[int], levels: int) -> tuple[int, ...]:
    """Return time steps and points of a latent.

    Raises
    ------
    ValueError
        A side that can't be halved as often as there are levels after the first.
    """
    factor = 2 ** (levels - 1)
    sides = (frames, *points)
    if any(side % factor for side in sides):
        raise ValueError(f"frames and the grid, {list(sides)}, must be multiples of {factor}")
    return tuple(side // factor for side in sides)
