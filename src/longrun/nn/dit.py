"""Diffusion transformer (Peebles and Xie, 2023, arXiv:2212.09748) with cross-attention."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional


class DiffusionTransformer(nn.Module):
    """Noise of a noisy latent, from its level and tokens of a condition.

        x = patches + position;  c = [MLP_t(waves of t), MLP_y(mean of the condition)]
        x += g1(c) attention(m1(LN x));  x += cross(LN x, condition);  x += g2(c) MLP(m2(LN x))

    Scales, shifts and gates of all blocks and of the output begin at zero, so all is an identity.

    Parameters
    ----------
    channels
        Of the latent.
    shape
        Of the latent, time steps and points.
    patch
        Along each of these axes.
    width, depth, heads
        Of the transformer; width a multiple of 12 and of the heads.
    """

    position: Tensor

    def __init__(
        self,
        channels: int,
        shape: Sequence[int],
        patch: Sequence[int],
        width: int,
        depth: int,
        heads: int,
    ):
        super().__init__()
        self.patch = patch[0], patch[1], patch[2]
        self.grid = tuple(side // size for side, size in zip(shape, patch, strict=True))
        self.embed = nn.Conv3d(channels, width, self.patch, self.patch)
        self.position = nn.Parameter(_position(self.grid, width))
        half = width // 2
        self.of_level = nn.Sequential(nn.Linear(half, half), nn.SiLU(), nn.Linear(half, half))
        self.of_condition = nn.Sequential(nn.Linear(width, half), nn.SiLU(), nn.Linear(half, half))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = _zero(nn.Linear(width, 2 * width))
        self.head = _zero(nn.Linear(width, channels * math.prod(self.patch)))

    def forward(
        self,
        z: Float[Tensor, "batch channel time x y"],
        level: Float[Tensor, " batch"],
        condition: Float[Tensor, "batch token width"],
        mask: Bool[Tensor, "batch token"] | None = None,
    ) -> Float[Tensor, "batch channel time x y"]:
        """Return the noise.

        Parameters
        ----------
        z
            Noisy latent.
        level
            Its step of the noise, from 0.
        condition, mask
            Tokens, and which of them say something; all by default.
        """
        x = self.embed(z).flatten(2).mT + self.position
        said = torch.ones_like(condition[..., 0], dtype=torch.bool) if mask is None else mask
        mean = (condition * said[..., None]).sum(1) / said.sum(1, keepdim=True)
        waves = _waves(level, x.shape[2] // 2)
        c = functional.silu(torch.cat([self.of_level(waves), self.of_condition(mean)], dim=1))
        for block in self.blocks:
            x = block(x, c, condition, said)
        shift, scale = self.modulate(c)[:, None].chunk(2, dim=2)
        values = self.head(self.norm(x) * (1 + scale) + shift)
        cut = values.unflatten(2, (-1, *self.patch)).unflatten(1, self.grid)
        whole = cut.permute(0, 4, 1, 5, 2, 6, 3, 7)
        return whole.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class Block(nn.Module):
    """One block of it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(3)
        )
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulate = _zero(nn.Linear(width, 6 * width))

    def forward(
        self,
        x: Float[Tensor, "batch patch width"],
        c: Float[Tensor, "batch width"],
        condition: Float[Tensor, "batch token width"],
        said: Bool[Tensor, "batch token"],
    ) -> Float[Tensor, "batch patch width"]:
        """Return the patches after the block."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(c)[:, None].chunk(6, dim=2)
        h = self.norm1(x) * (1 + scale1) + shift1
        x = x + gate1 * self.attention(h, h, h, need_weights=False)[0]
        h = self.norm2(x)
        mixed = self.cross(h, condition, condition, key_padding_mask=~said, need_weights=False)
        x = x + mixed[0]
        return x + gate2 * self.feed_forward(self.norm3(x) * (1 + scale2) + shift2)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _waves(x: Float[Tensor, "*some"], width: int) -> Float[Tensor, "*some width"]:
    """Return cosines and sines at wavelengths from 2 pi to 2 pi 10 000."""
    half = width // 2
    rate = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half).to(x)
    angle = x[..., None] * rate
    return functional.pad(torch.cat([angle.cos(), angle.sin()], -1), (0, width % 2))


def _position(grid: Sequence[int], width: int) -> Float[Tensor, "patch width"]:
    """Return where the positions start: waves along each axis, a third of the width for each."""
    axes = torch.meshgrid(*(torch.arange(float(n)) for n in grid), indexing="ij")
    third = width // 3
    return torch.cat([_waves(axis.flatten(), third) for axis in axes], 1)
