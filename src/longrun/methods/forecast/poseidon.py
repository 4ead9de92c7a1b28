"""Poseidon's scalable operator transformer, scOT (Herde et al., 2024, arXiv:2405.19101).

A U-net of Swin-V2 layers maps a frame u(t_i) to a frame u(t_j), for any lead time
t = (t_j - t_i) / T, which enters through every norm:

    norm(x, t) = (x - mean) / sqrt(var + 1e-5) * (a t + b) + (c t + d)           over channels
    layer:  x <- x + norm(attention(x), t),   x <- x + norm(mlp(x), t)
    attention in windows:  softmax(exp(s) cos(q, k) + 16 sigmoid(mlp(offset)) + mask) v,
        s learned per head, at most log 100; offsets within the window on a logarithmic scale;
        every second layer moves the windows by half of one

Patches are embedded by a convolution; after each stage but the last, 2 x 2 of the sum of what
enters and what leaves it are merged, with twice the channels; the way up unmerges them and adds
what left the stage on the way down, seen through ConvNeXt blocks; a transposed convolution and one
of 5 x 5 give the output. As in the public code a stage on the way up has its layers in reverse
order: of an even number the first moves its windows. Scale and shift of a norm start near zero, so
all branches do, and at t = 0 the network does not see its input until biases learn.

The loss is a relative L1 error per group of channels, averaged over the whole batch:

    mean over groups of  mean|prediction - truth| / (mean|truth| + 1e-10)        normalised frames

without the samples that lack a masked channel, as incompressible flow lacks a pressure. Forecasts
are judged by the same ratio for each frame: the metric `relative_l1`, both components of a velocity
together, as in the public code.

Pre-training and fine-tuning are two runs of this method: `starts_from` copies the weights and the
normalisation, and embedding and recovery start afresh where the channels differ.

Decisions:

- The network isn't told of boundaries. The mask keeps tokens apart that lie on opposite sides of
  the domain, and convolutions pad with zeros, on periodic domains too: one pre-trained network must
  serve all domains.
- Conditions other than the lead time enter as constant channels.
- Frames are normalised by the training data's statistics, where the paper has one set of constants
  for all its data; those of the pre-training serve the fine-tuning too, so the weights see what
  they were trained on. Pressure isn't centred per data set first.
- Trained on single steps (`training: {name: one_step}`), the network gets t = 1.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longrun.tasks._learner import over_devices
from longrun.tasks.forecast import AbstractForecaster

Tokens = Float[Tensor, "batch x y channel"]
Others = Float[Tensor, "batch other_x other_y other_channel"]  # on a coarser or finer grid
Sides = tuple[int, int]


class TimeNorm(nn.Module):
    """Layer norm whose scale and shift are affine functions of the lead time."""

    def __init__(self, width: int):
        super().__init__()
        self.scale, self.shift = nn.Linear(1, width), nn.Linear(1, width)

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Tokens:
        """Normalise over channels."""
        scale, shift = (part(t)[:, None, None] for part in (self.scale, self.shift))
        return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-5), scale)


class WindowAttention(nn.Module):
    """Attention by cosines among the tokens of a window, with a bias learned from their offset."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        # queries, keys, values in one: of a key alone only the direction would matter, not the size
        self.mix = nn.Linear(width, 3 * width, bias=False)
        self.query_bias, self.value_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.output = nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))
        self.position = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(), nn.Linear(512, heads, bias=False)
        )

    def forward(
        self,
        x: Float[Tensor, "batch window token channel"],
        window: Sides,
        mask: Float[Tensor, "window 1 token token"] | None,
    ) -> Float[Tensor, "batch window token channel"]:
        """Return what each token gathers from its window."""
        query, key, value = self.mix(x).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for part in (query + self.query_bias, key, value + self.value_bias)
        )
        cosine = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).mT
        score = cosine * self.temperature.clamp(max=math.log(100)).exp() + self.bias(window)
        if mask is not None:
            score = score + mask
        gathered = score.softmax(-1) @ value
        return self.output(gathered.transpose(-2, -3).flatten(-2))

    def bias(self, window: Sides) -> Float[Tensor, "head token token"]:
        """Return the bias between 0 and 16 of every pair of tokens."""
        offsets = log_offsets(window).to(self.temperature)
        table = 16 * torch.sigmoid(self.position(offsets))
        return table[pair_index(window).to(table.device)].movedim(-1, 0)


def log_offsets(window: Sides) -> Float[Tensor, "offset 2"]:
    """List the offsets within a window, -1 to 1 along an axis, spread as log2(1 + 8 |x|) / 3."""
    axes = [torch.arange(1 - side, side) * 8 / max(side - 1, 1) for side in window]
    offsets = torch.cartesian_prod(*axes)
    return offsets.sign() * (offsets.abs() + 1).log2() / 3


def pair_index(window: Sides) -> Int[Tensor, "token token"]:
    """Return where in `log_offsets` the offset of every pair of tokens is."""
    x, y = torch.cartesian_prod(*(torch.arange(side) for side in window)).T
    along_x, along_y = (axis[:, None] - axis for axis in (x, y))
    return (along_x + window[0] - 1) * (2 * window[1] - 1) + along_y + window[1] - 1


def cut(x: Tokens, window: Sides) -> Float[Tensor, "batch window token channel"]:
    """Cut a grid of tokens into windows."""
    rows, columns = (n // side for n, side in zip(x.shape[1:3], window, strict=True))
    parts = x.unflatten(2, (columns, window[1])).unflatten(1, (rows, window[0]))
    return parts.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join(parts: Float[Tensor, "batch window token channel"], window: Sides, sides: Sides) -> Tokens:
    """Join windows again."""
    rows, columns = (n // side for n, side in zip(sides, window, strict=True))
    grid = parts.unflatten(1, (rows, columns)).unflatten(3, window)
    return grid.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(sides: Sides, window: Sides, shift: Sides) -> Float[Tensor, "window 1 token token"]:
    """Return -100 for pairs of tokens that only the cyclic shift puts into one window."""
    borders = []
    for n, size, offset in zip(sides, window, shift, strict=True):
        place = torch.arange(n)
        borders.append((place >= n - size).int() + ((place >= n - offset) & (offset > 0)).int())
    region = (3 * borders[0][:, None] + borders[1])[None, ..., None]
    region = cut(region.float(), window)[0, :, :, 0]
    return torch.where(region[:, :, None] == region[:, None], 0.0, -100.0)[:, None]


class SwinLayer(nn.Module):
    """Attention in windows, then an MLP, both normalised after, not before."""

    def __init__(self, width: int, heads: int, window: int, shifted: bool):
        super().__init__()
        self.window, self.shifted = window, shifted
        self.attention = WindowAttention(width, heads)
        self.attention_norm, self.mlp_norm = TimeNorm(width), TimeNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Tokens:
        """Return the tokens after the layer.

        Raises
        ------
        ValueError
            Windows that don't fill the grid.
        """
        sides: Sides = (x.shape[1], x.shape[2])
        window: Sides = (min(self.window, sides[0]), min(self.window, sides[1]))
        if sides[0] % window[0] or sides[1] % window[1]:
            raise ValueError(f"windows of {self.window} tokens don't fill a grid of {sides}")
        # a window as long as the grid has nowhere to move
        moves = [self.shifted and side > size for side, size in zip(sides, window, strict=True)]
        shift: Sides = (moves[0] * (window[0] // 2), moves[1] * (window[1] // 2))
        mask = shift_mask(sides, window, shift).to(x) if any(shift) else None
        parts = cut(x.roll((-shift[0], -shift[1]), (1, 2)), window)
        mixed = join(self.attention(parts, window, mask), window, sides).roll(shift, (1, 2))
        x = x + self.attention_norm(mixed, t)
        return x + self.mlp_norm(self.mlp(x), t)


class Timed(nn.ModuleList):
    """Layers that take the lead time, one after the other on one grid."""

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Tokens:
        """Return the tokens after all layers."""
        for layer in self:
            x = layer(x, t)
        return x


def stage(width: int, depth: int, heads: int, window: int, upwards: bool) -> Timed:
    """Build the layers of one grid, windows shifted in every second; in reverse on the way up."""
    order = reversed(range(depth)) if upwards else range(depth)
    return Timed(SwinLayer(width, heads, window, i % 2 == 1) for i in order)


class Merge(nn.Module):
    """Merge 2 x 2 tokens into one, with twice the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.reduce = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = TimeNorm(2 * width)

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Others:
        """Return the coarser tokens."""
        four = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.norm(self.reduce(torch.cat(four, dim=-1)), t)


class Unmerge(nn.Module):
    """Split one token into 2 x 2, with half the channels."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(width, 2 * width, bias=False)
        self.norm = TimeNorm(width // 2)
        self.mix = nn.Linear(width // 2, width // 2, bias=False)

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Others:
        """Return the finer tokens."""
        four = self.expand(x).unflatten(-1, (2, 2, -1))  # batch, x, y, 2, 2, channel
        finer = four.transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return self.mix(self.norm(finer, t))


class ConvNeXt(nn.Module):
    """Depthwise 7 x 7 convolution and MLP, added with a scale per channel that starts at 1e-6."""

    def __init__(self, width: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = TimeNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tokens, t: Float[Tensor, "batch 1"]) -> Tokens:
        """Return the tokens plus the branch."""
        nearby = self.depthwise(x.movedim(-1, 1)).movedim(1, -1)
        return x + self.scale * self.mlp(self.norm(nearby, t))


def grid_multiple(
    patch: int, depths: Sequence[int], resolution: int | None = None, **_: object
) -> int:
    """Return what every side of the grid must be a multiple of: patches, halved between stages."""
    return int(patch * 2 ** min(max(len(depths) - 1, 0), 60)) if resolution is None else 1


class ScOT(nn.Module):
    """Map a frame to another on the same grid, a lead time later.

    Parameters
    ----------
    inputs, outputs
        Channels of the frames.
    width
        Channels of the first stage; each further stage has twice as many.
    depths, heads
        Layers of each stage, on the way down and again on the way up; attention heads.
    patch
        Side of a patch, in points.
    window
        Side of a window, in patches.
    blocks
        ConvNeXt blocks of every skip connection.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        depths: Sequence[int],
        heads: Sequence[int],
        patch: int,
        window: int,
        blocks: int = 2,
    ):
        super().__init__()
        widths = [width * 2**level for level in range(len(depths))]
        self.unit = grid_multiple(patch, depths)
        self.embedding = nn.Conv2d(inputs, width, patch, patch)
        self.norm = TimeNorm(width)
        self.down, self.up = (
            nn.ModuleList(
                stage(*sizes, window, upwards) for sizes in zip(widths, depths, heads, strict=True)
            )
            for upwards in (False, True)
        )
        self.merges = nn.ModuleList(Merge(n) for n in widths[:-1])
        self.unmerges = nn.ModuleList(Unmerge(n) for n in widths[1:])
        self.skips = nn.ModuleList(Timed(ConvNeXt(n) for _ in range(blocks)) for n in widths[:-1])
        self.recovery = nn.ConvTranspose2d(width, outputs, patch, patch)
        self.smoothing = nn.Conv2d(outputs, outputs, 5, padding=2, bias=False)
        self.apply(_initialise)

    def forward(
        self, x: Float[Tensor, "batch inputs x y"], t: Float[Tensor, "batch 1"]
    ) -> Float[Tensor, "batch outputs x y"]:
        """Return the frame at lead time t, a fraction of T.

        Raises
        ------
        ValueError
            A grid that patches and stages don't divide.
        """
        if any(n % self.unit for n in x.shape[2:]):
            raise ValueError(
                f"patches and stages divide the grid by {self.unit}: every side of "
                f"{tuple(x.shape[2:])} must be a multiple of it, or give `resolution`"
            )
        h = self.norm(self.embedding(x).movedim(1, -1), t)
        kept = []
        for layers, merge, skip in zip(self.down, self.merges, self.skips, strict=False):
            entered, h = h, layers(h, t)
            kept.append(skip(h, t))
            h = merge(entered + h, t)
        h = self.up[-1](self.down[-1](h, t), t)
        for level in reversed(range(len(kept))):
            h = self.up[level](self.unmerges[level](h, t) + kept[level], t)
        return self.smoothing(self.recovery(h.movedim(-1, 1)))

    def outer(self) -> list[nn.Module]:
        """List the outermost layers: the embedding and the recovery."""
        return [self.embedding, self.recovery, self.smoothing]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def resample(
    x: Float[Tensor, "batch channel x y"], points: int
) -> Float[Tensor, "batch channel points points"]:
    """Resample periodic fields by cutting off, or adding zeros to, their Fourier modes."""
    spectrum = torch.fft.rfft2(x, norm="forward")
    rows, columns = min(points, x.shape[2]) // 2, min(points, x.shape[3]) // 2 + 1
    resized = spectrum.new_zeros(*x.shape[:2], points, points // 2 + 1)
    resized[..., :rows, :columns] = spectrum[..., :rows, :columns]
    resized[..., -rows:, :columns] = spectrum[..., -rows:, :columns]
    return torch.fft.irfft2(resized, s=(points, points), norm="forward")


class Poseidon(AbstractForecaster):
    """The operator transformer scOT, from scratch or from pre-trained weights.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options. With the training scheme `all2all`, as in
        the paper, one call reaches any lead time.
    width : int
        Channels of the first stage, C.
    depths, heads : list of int
        Layers and attention heads of each stage.
    patch, window : int
        Sides of a patch in points, and of a window in patches.
    resolution : int or None
        Points along an axis of the grid that the network sees; other square grids are resampled in
        Fourier space and back. None is the data's own grid.
    groups : list of list of int or None
        Channels whose errors are taken relative to their common size, every channel in one group;
        None is all channels in one group.
    masked : list of int
        Channels that are left out of the loss for samples in which their target is constant over
        space, such as the pressure that incompressible data lacks.
    outer_factor : float
        Learning rate of embedding, recovery and all time-conditioned norms, relative to that of
        the other weights; the paper fine-tunes with 10.
    criterion : {"relative_l1", "mse", "relative_l2"}
        "relative_l1" is the paper's loss, see above; the others are the task's.
    """

    supported_dims = (2,)
    translates = False  # see the decisions above

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 48,
        depths: list[int] = [4, 4, 4, 4],  # noqa: B006 (read, never written)
        heads: list[int] = [3, 6, 12, 24],  # noqa: B006
        patch: int = 4,
        window: int = 16,
        resolution: int | None = None,
        groups: list[list[int]] | None = None,
        masked: list[int] = [],  # noqa: B006
        outer_factor: float = 1.0,
        criterion: Literal["mse", "relative_l1", "relative_l2"] = "relative_l1",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, criterion=criterion, **options)
        if not depths or len(depths) != len(heads) or min(*depths, *heads, patch, window) < 1:
            raise ValueError("depths, heads must be equally many; they, patch, window at least 1")
        for level, number in enumerate(heads):
            if (width * 2**level) % number:
                raise ValueError(
                    f"{width * 2**level} channels can't be divided into {number} heads"
                )
        groups = [list(range(fields))] if groups is None else groups
        if sorted(channel for group in groups for channel in group) != list(range(fields)):
            raise ValueError(f"groups must have every channel from 0 to {fields - 1} once")
        if not set(masked) <= set(range(fields)):
            raise ValueError(f"masked must be channels from 0 to {fields - 1}")
        if outer_factor <= 0:
            raise ValueError(f"outer_factor must be positive, is {outer_factor}")
        self.groups, self.masked, self.outer_factor = groups, masked, outer_factor
        self.resolution = resolution
        inputs = self.history * fields + conditions
        self.network = ScOT(inputs, fields, width, depths, heads, patch, window)

    def step(
        self,
        history: Float[Tensor, "batch frame channel x y"],
        conditions: Float[Tensor, "batch scalar"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel x y"]:
        """Return the scaled target at the lead time that the last scalar gives."""
        frames = history.flatten(1, 2)
        time = conditions.new_ones(len(conditions), 1)
        if self.leads:
            conditions, time = conditions[:, :-1], conditions[:, -1:] / 10
        constants = conditions[..., None, None].expand(-1, -1, *frames.shape[2:]) / 10
        inputs = torch.cat([frames, constants.to(frames)], dim=1)
        points = self.resolution
        if points is None or frames.shape[2:] == (points, points):
            return self.network(inputs, time.to(frames))
        if frames.shape[2] != frames.shape[3]:
            raise ValueError(f"resolution needs a square grid, not {tuple(frames.shape[2:])}")
        return resample(self.network(resample(inputs, points), time.to(frames)), frames.shape[2])

    def loss(
        self,
        history: Float[Tensor, "batch frame channel x y"],
        target: Float[Tensor, "batch channel x y"],
        conditions: Float[Tensor, "batch scalar"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the relative L1 error of the normalised frame, mean over groups of channels."""
        if self.criterion != "relative_l1":
            return super().loss(history, target, conditions, generator)
        prediction = self.step(history, conditions, generator)
        scale = self.per_channel(self.target_scale / self.field_std)
        truth = scale * target + (history[:, -1] if self.target == "residual" else 0)
        error = scale * (prediction - target)
        if self.masked:
            varies = truth.amax((2, 3), keepdim=True) > truth.amin((2, 3), keepdim=True)
            asked = torch.tensor([channel not in self.masked for channel in range(self.fields)])
            counts = varies | asked.to(error.device)[:, None, None]
            error, truth = error * counts, truth * counts
        return grouped_relative_l1(error, truth, self.groups)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the trunk, and the weights that learn `outer_factor` times as fast."""
        norms = [module for module in self.network.modules() if isinstance(module, TimeNorm)]
        fast = [p for module in norms + self.network.outer() for p in module.parameters()]
        known = {id(parameter) for parameter in fast}
        trunk = [p for p in self.parameters() if id(p) not in known]
        return [
            {"params": trunk, "factor": 1.0},
            {"params": fast, "factor": self.outer_factor},
        ]

    def take_over(self, source: Any) -> None:
        """Take over the weights of a pre-trained network, and its normalisation.

        Where the channels differ, embedding, recovery and normalisation stay as they are.

        Raises
        ------
        ValueError
            A source that is another network, or of other sizes.
        """
        if not isinstance(source, Poseidon):
            raise ValueError("starts_from must be another run of poseidon")
        mine, theirs = self.network.state_dict(), source.network.state_dict()
        same = all(
            mine[key].shape == theirs[key].shape for key in ("embedding.weight", "recovery.weight")
        )
        if not same:
            fresh = ("embedding.", "recovery.", "smoothing.")
            theirs = {key: value for key, value in theirs.items() if not key.startswith(fresh)}
        differs = [key for key in theirs if key not in mine or mine[key].shape != theirs[key].shape]
        if differs or not set(mine) - set(theirs) <= {k for k in mine if not same}:
            raise ValueError("starts_from must have the same width, depths, heads and patch")
        self.network.load_state_dict(mine | theirs)
        if same:
            for name, buffer in self.named_buffers():
                buffer.copy_(source.get_buffer(name))


def grouped_relative_l1(
    error: Float[Tensor, "batch channel x y"],
    truth: Float[Tensor, "batch channel x y"],
    groups: Sequence[Sequence[int]],
) -> Float[Tensor, ""]:
    """Return mean|error| / (mean|truth| + 1e-10), means over a batch, mean over groups.

    Where devices share a batch, |truth| is that of all of it.
    """
    errors, sizes = (
        torch.stack([field[:, list(group)].abs().mean() for group in groups])
        for field in (error, truth)
    )
    return (errors / (over_devices(sizes) + 1e-10)).mean()
