"""Networks that CFDBench compares from frame to frame (Luo et al., 2023, arXiv:2310.05963).

Each maps a frame w = (u, v) and the conditions c of a case to the next frame: what it adds to the
last one (`target: residual`), but for the Fourier neural operator (`target: state`).

    unet    w + U([w, mask, c]): width * 2^i channels on level i of `depth`, on every level twice
            convolution 3 x 3, batch norm, ReLU; max-pooling down, transposed convolution up
    resnet  w + R([w, mask, c]): blocks f(x) + x, f = convolution 7 x 7 to 64 channels, dropout
            0.2, GELU, convolution 7 x 7; `width` channels between the 2 + `depth` blocks
    fno     F([w, mask, x, y, c]): `depth` Fourier layers of `modes` modes (`longrun.nn.fno`)
    ffn     w(x, y) + M([w everywhere, c, x, y]): `depth` hidden layers with ReLU, for every point

DeepONets are `deeponet`, and networks that see no frame `direct_deeponet`. Beyond walls there is
what lies at the edge, for convolutions. The public code adds an inlet and two walls to a frame in a
channel, nothing to one in a cavity, which is `boundary: unseen`. What it does there is "masked" for
`unet` and `resnet`: outputs are multiplied by the mask, so that from the second step on the inlet
is zero; and "predicted" for the others. "imposed" is what it seems to have meant.

Of its public code we leave out or change:

- `ffn` there puts the input of one sample beside the points of another wherever a batch has more
  than one, so it can learn nothing but to repeat the frame; here each sample has its own.
- Its networks of points model u alone; all of ours u and v, whose errors are averaged.
- Frames are normalised, there they are raw, up to 50 m/s; conditions are scaled to [0, 1].
- The `fno` of September 2023 sees no mask, that of December does; ours does, it has an MLP at every
  point that theirs lacks, and a margin of zeros beyond the far walls.
"""

import itertools
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.coordinates import coordinates
from longrun.nn.fno import FNOBackbone, as_channels
from longrun.tasks.forecast import AbstractForecaster, framed_points

HIDDEN, KERNEL, DROPOUT = 64, 7, 0.2  # of the blocks of `resnet`


class CFDBench(AbstractForecaster):
    """One of four networks of CFDBench as a forecaster.

    Parameters
    ----------
    fields, dims, conditions, points, equation
        From the data; see `AbstractForecaster`, also for the options.
    network : {"unet", "resnet", "fno", "ffn"}
        Which.
    width : int
        Channels, or units of a hidden layer; the paper's are 12, 16, 32 and 200.
    depth : int
        Times that the grid is halved, blocks of equal width, Fourier layers or hidden layers; the
        paper's are 4, 4, 4 and 8.
    modes : int
        Wavenumbers that a Fourier layer mixes, per axis.
    hidden : int
        Channels inside a block of `resnet`.
    """

    supported_dims = (2,)
    translates = False
    in_rim = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        equation: dict[str, Any],
        network: Literal["unet", "resnet", "fno", "ffn"] = "unet",
        width: int = 12,
        depth: int = 4,
        modes: int = 12,
        hidden: int = HIDDEN,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if min(width, depth, modes, hidden) < 1:
            raise ValueError("width, depth, modes and hidden must be at least 1")
        inputs = self.inputs + self.scalars
        self.network: nn.Module
        match network:
            case "unet":
                self.network = PlainUNet(inputs, fields, width, depth)
            case "resnet":
                self.network = ResNet(inputs, fields, width, depth, hidden)
            case "fno":
                self.network = FNOBackbone(dims, inputs + dims, fields, width, modes, depth)
            case "ffn":
                grid = framed_points(points, equation, self.boundary)
                seen = self.history * fields
                self.network = PointwiseMLP(seen, fields, grid, self.scalars, width, depth)
        self.kind = network

    def step(
        self,
        history: Float[Tensor, "batch frame channel x y"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel x y"]:
        """Return the scaled target of the next frame."""
        if self.kind == "ffn":  # sees no mask
            return self.network(history[:, -self.history :].flatten(1, 2), conditions / 10)
        frames = history.flatten(1, 2)
        channels = [frames, as_channels(conditions, frames)]
        if self.kind == "fno":
            places = coordinates(history.shape[3:], frames).expand(len(frames), -1, -1, -1)
            return self.network(torch.cat([*channels, places], dim=1))
        return self.network(torch.cat(channels, dim=1), generator)


class PlainUNet(nn.Module):
    """U-Net with batch norm and ReLU; a grid of any size, since what goes up is padded."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int):
        super().__init__()
        channels = [width * 2**level for level in range(depth + 1)]
        self.stem = twice(inputs, width)
        pairs = list(itertools.pairwise(channels))
        self.down = nn.ModuleList(twice(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, 2, stride=2) for fine, coarse in reversed(pairs)
        )
        self.merge = nn.ModuleList(twice(2 * fine, fine) for fine, _ in reversed(pairs))
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(
        self, x: Float[Tensor, "batch inputs x y"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the output on the grid of the input."""
        h, skips = self.stem(x), []
        for down in self.down:
            skips.append(h)
            h = down(functional.max_pool2d(h, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            skip, h = skips.pop(), up(h)
            missing = [skip.shape[axis] - h.shape[axis] for axis in (3, 2)]
            h = functional.pad(h, [n for m in missing for n in (m // 2, m - m // 2)])
            h = merge(torch.cat([skip, h], dim=1))
        return self.head(h)


def twice(inputs: int, outputs: int) -> nn.Sequential:
    """Make two convolutions with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, padding_mode="replicate"),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """Residual blocks of two wide convolutions at full resolution."""

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, hidden: int):
        super().__init__()
        channels = [inputs, *[width] * (depth + 1), outputs]
        self.blocks = nn.ModuleList(
            Block(before, after, hidden) for before, after in itertools.pairwise(channels)
        )

    def forward(
        self, x: Float[Tensor, "batch inputs x y"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the output; while it is trained, the generator drops channels' values."""
        for block in self.blocks:
            x = block(x, generator)
        return x


class Block(nn.Module):
    """Convolution, dropout, GELU and convolution, plus a shortcut."""

    def __init__(self, inputs: int, outputs: int, hidden: int):
        super().__init__()
        same: dict[str, Any] = {"padding": KERNEL // 2, "padding_mode": "replicate"}
        self.first = nn.Conv2d(inputs, hidden, KERNEL, **same)
        self.second = nn.Conv2d(hidden, outputs, KERNEL, **same)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch inputs x y"], generator: torch.Generator | None
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the block's output."""
        h = self.first(x)
        if self.training:  # torch's own dropout draws from the global generator
            kept = torch.empty_like(h).bernoulli_(1 - DROPOUT, generator=generator)
            h = h * kept / (1 - DROPOUT)
        return self.second(functional.gelu(h)) + self.shortcut(x)


class PointwiseMLP(nn.Module):
    """MLP from a whole frame, conditions and a place to the values there, for every place.

    What the first layer makes of frame and conditions is the same for all places, so it is computed
    once: a layer of the concatenation, taken apart.
    """

    def __init__(
        self, inputs: int, outputs: int, grid: list[int], conditions: int, width: int, depth: int
    ):
        super().__init__()
        self.outputs = outputs
        self.whole = nn.Linear(inputs * grid[0] * grid[1] + conditions, width)
        self.place = nn.Linear(2, width, bias=False)
        hidden = [layer for _ in range(depth - 1) for layer in (nn.ReLU(), nn.Linear(width, width))]
        self.rest = nn.Sequential(*hidden, nn.ReLU(), nn.Linear(width, outputs))

    def forward(
        self,
        frames: Float[Tensor, "batch inputs x y"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the values at every place."""
        grid = frames.shape[2:]
        whole = self.whole(torch.cat([frames.flatten(1), conditions], dim=1))
        place = self.place(coordinates(grid, frames).flatten(1).T)
        values = self.rest(whole[:, None] + place)
        return values.transpose(1, 2).unflatten(2, grid)
