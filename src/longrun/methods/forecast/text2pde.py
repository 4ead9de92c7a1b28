"""Text2PDE (Zhou et al., 2025, arXiv:2410.01153): latent diffusion of space-time blocks, on grids.

No step is repeated, so no error adds up: all frames of a block are one sample of its latent, drawn
on a condition, which is the first frame or only a sentence about it.

    z = latent of `space_time_autoencoder` (frozen, from `starts_from`), over its standard deviation
    z_t = sqrt(a_t) z + sqrt(1 - a_t) noise,   a_t = prod (1 - beta), t < 1000,
          sqrt(beta) linear from sqrt(8.5e-4) to sqrt(1.2e-2)
    loss = |noise - transformer(z_t, t, condition)|^2
    frame: convolutions over the first frame and the parameters, to a token with a position for each
           point of the latent
    text:  words embedded, two transformer layers
    sample: from noise by `sampling_steps` steps of DDIM (Song et al., 2021), then decode

A rollout beyond a block goes on from its last frame. A text knows nothing of the frame that a
rollout starts from, so texts are judged otherwise: the frame that was generated at time 0 is solved
onwards by the data's own solver, and the block compared with that (`resolve_error`).

Left out or other than in the paper:

- Meshes, whose nodes are lifted to a grid before the autoencoder: our data are on grids.
- RoBERTa, fine-tuned on captions that a language model wrote of a picture: here a template says how
  many plumes there are, their sizes and places, and the buoyancy, in some 40 words, and a small
  transformer reads it from scratch.
- The paper multiplies latents by 0.2, set by hand: ours are divided by their measured deviation.
- Parameters are constant channels of the first frame, not embedded by Fourier features.
- It samples with 1000 steps of DDPM, and evaluates with DDIM too; `sampling_steps: 1000` with `eta:
  1` is the former.
- Classifier-free guidance, which the public code has and does not train.
"""

import itertools
import math
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from torch import Tensor, nn

from longrun.metrics.table import ScoreTable
from longrun.nn.dit import DiffusionTransformer, positions
from longrun.nn.space_time import Autoencoder, latent_shape
from longrun.nn.unet import CircularConvolution
from longrun.runtime import registry
from longrun.tasks._blocks import AbstractBlockForecaster, relative, true_blocks
from longrun.tasks._learner import only
from longrun.tasks._solvers import SolverMemory

METRICS = {
    "resolve_error": (
        "against re-solved",
        "Norm of the difference between a sampled block and what the solver makes of its own first "
        "frame, over the norm of the latter, over all frames, points and fields.",
    ),
    "resolve_over_random": (
        "over another's",
        "That error over the error of another trajectory of the data, compared with the same.",
    ),
    "variety": (
        "variety",
        "Norm of the difference between two sampled blocks over that of the trajectories whose "
        "first frames they were asked for. Samples that are all alike have 0, however well the "
        "solver agrees with them.",
    ),
}
LEVELS = 1000
LARGEST, WORDS_AT_MOST = 3, 40
COUNTS = ("no", "one", "two", "three", "four", "five", "six", "many")
SIZES = {"large": 0.08, "medium": 0.03, "small": 0.0}  # of the area, at least
PLACES = ("lower", "middle", "upper", "left", "centre", "right")
FILLERS = ("plume", "plumes", "in", "the", ":", ",", "buoyancy", "is", ".")
VOCABULARY = {
    word: number
    for number, word in enumerate(("", *COUNTS, *SIZES, *PLACES, *FILLERS, *"0123456789"))
}


class Text2PDE(AbstractBlockForecaster):
    """Diffusion transformer over latents of blocks of frames.

    Parameters
    ----------
    fields, dims, conditions, frames
        See `AbstractBlockForecaster`, also for the options.
    points : list of int
        Of the grid along each axis; from the data.
    equation : dict
        The `equation` section of the dataset; from the data.
    stride : int
        Frames of the dataset per model step; from the data.
    channels, multipliers, latent : int, list of int, int
        Of the autoencoder that it starts from.
    condition : {"frame", "text"}
        What a sample is drawn on.
    width, depth, heads : int
        Of the transformer.
    patch : list of int
        Of latents, along time, x and y.
    frame_channels : int
        Of the convolutions over the first frame, at its full resolution.
    sampling_steps : int
        Evaluations of the transformer for a block.
    eta : float
        Share of the noise of DDPM in each of them: 0 is DDIM.
    remember_latents : bool
        Keep the latent of every training window in memory once it was encoded: where windows come
        again and again and networks are small, encoding is most of the cost.
    """

    stochastic = True
    deviation: Tensor
    remaining: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        equation: dict[str, Any],
        stride: int,
        frames: int = 48,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 (read, never written)
        latent: int = 16,
        condition: Literal["frame", "text"] = "frame",
        width: int = 512,
        depth: int = 24,
        heads: int = 16,
        patch: list[int] = [1, 2, 2],  # noqa: B006
        frame_channels: int = 128,
        sampling_steps: int = 1000,
        eta: float = 0.0,
        remember_latents: bool = False,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, frames=frames, **options)
        shape = latent_shape(frames, points, len(multipliers))
        if any(side % size for side, size in zip(shape, patch, strict=True)):
            raise ValueError(f"patch must divide the latent, {list(shape)}, is {patch}")
        if width % 2 or width % heads:
            raise ValueError(f"width must be even and a multiple of heads ({heads}), is {width}")
        if not 1 <= sampling_steps <= LEVELS or not 0 <= eta <= 1:
            raise ValueError(f"sampling_steps must be at most {LEVELS}, eta between 0 and 1")
        if condition == "text" and equation["name"] != "smoke":
            raise ValueError("condition text needs the equation smoke: captions are of its plumes")
        self.equation, self.stride = registry.build("equations", equation), stride
        self.condition, self.sampling_steps, self.eta = condition, sampling_steps, eta
        self.shape = (latent, *shape)
        self.remember_latents = remember_latents
        self._remembered: dict[bytes, Tensor] = {}
        self.autoencoder = Autoencoder(fields, conditions, channels, multipliers, latent)
        self.autoencoder.requires_grad_(requires_grad=False)
        self.transformer = DiffusionTransformer(latent, shape, patch, width, depth, heads)
        self.encoder: nn.Module
        if condition == "frame":
            self.encoder = FrameEncoder(
                fields, conditions, frame_channels, len(multipliers) - 1, width, shape[1:]
            )
        else:
            self.encoder = TextEncoder(width, heads)
        self.register_buffer("deviation", torch.ones(()))
        beta = torch.linspace(math.sqrt(8.5e-4), math.sqrt(1.2e-2), LEVELS).square()
        self.register_buffer("remaining", (1 - beta).cumprod(0), persistent=False)

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take the autoencoder that it starts from, and the deviation of its latents.

        Raises
        ------
        ValueError
            Without one, or with one of another size.
        """
        source: Any = only(sources)
        if not isinstance(source, AbstractBlockForecaster):
            raise ValueError("text2pde needs starts_from: a space_time_autoencoder")
        if source.frames != self.frames:
            raise ValueError(f"frames must be {source.frames}, as in its starts_from")
        trained: Any = source.autoencoder
        try:
            self.autoencoder.load_state_dict(trained.state_dict())
        except RuntimeError as error:
            message = "text2pde needs channels, multipliers and latent of its starts_from"
            raise ValueError(message) from error
        windows = data.train_windows
        spread = [
            self._latent(*map(torch.from_numpy, windows.read(some))).square().mean()
            for some in np.array_split(windows.spread(64), 8)
            if len(some)
        ]
        self.deviation.copy_(torch.stack(spread).mean().sqrt())

    @torch.no_grad()
    def _latent(
        self,
        block: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch latent time u v"]:
        return self.autoencoder.encode(self.normalised(block), self._told(parameters))[0]

    # Condition -----------------------------------------------------------------------------------

    def tokens(
        self,
        first: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> tuple[Float[Tensor, "batch token width"], Bool[Tensor, "batch token"] | None]:
        """Return the condition, and which of its tokens say something."""
        if self.condition == "frame":
            return self.encoder(self.normalised(first), self._told(parameters)), None
        place = [quantity.name for quantity in self.equation.parameters].index("buoyancy")
        pictures = first[:, 0].cpu().numpy()
        values = parameters[:, place].tolist()
        texts = [caption(*pair) for pair in zip(pictures, values, strict=True)]
        words = torch.tensor([numbers(text) for text in texts], device=first.device)
        return self.encoder(words), words > 0

    # Training ------------------------------------------------------------------------------------

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the error of the noise of noisy latents."""
        mean, log_variance = self._moments(window, parameters)
        drawn = torch.empty_like(mean).normal_(generator=generator)
        z = (mean + (0.5 * log_variance).exp() * drawn) / self.deviation
        level = torch.randint(LEVELS, (len(z),), generator=generator, device=z.device)
        noise = torch.empty_like(z).normal_(generator=generator)
        kept = self.remaining[level].to(z).reshape(-1, 1, 1, 1, 1)
        noisy = kept.sqrt() * z + (1 - kept).sqrt() * noise
        found = self.transformer(noisy, level.to(z), *self.tokens(window[:, 0], parameters))
        return (found - noise).square().mean()

    @torch.no_grad()
    def _moments(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> tuple[Float[Tensor, "batch latent time u v"], Float[Tensor, "batch latent time u v"]]:
        """Return mean and log variance of the latents of windows."""
        if not self.remember_latents:
            return self.autoencoder.encode(self.normalised(window), self._told(parameters))
        keys = [sha256(block.tobytes()).digest() for block in window.cpu().numpy()]
        new = [i for i, key in enumerate(keys) if key not in self._remembered]
        if new:
            block, told = self.normalised(window[new]), self._told(parameters[new])
            moments = torch.stack(self.autoencoder.encode(block, told), 1)
            self._remembered |= {keys[i]: each for i, each in zip(new, moments, strict=True)}
        mean, log_variance = torch.stack([self._remembered[key] for key in keys]).unbind(1)
        return mean, log_variance

    def validate(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the training loss, of fixed noise."""
        return {"noise_error": self.window_loss(batch["window"], batch["parameters"], generator)}

    # Use -----------------------------------------------------------------------------------------

    def block(
        self,
        first: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Draw a block; its own first frame is that of the sample."""
        condition = self.tokens(first, parameters)
        z = torch.empty(len(first), *self.shape, device=first.device, dtype=first.dtype)
        z = z.normal_(generator=generator)
        levels = torch.linspace(LEVELS - 1, 0, self.sampling_steps).round().long().tolist()
        for level, following in zip(levels, [*levels[1:], None], strict=True):
            noise = self.transformer(z, torch.full_like(z[:, 0, 0, 0, 0], level), *condition)
            z = self.denoised(z, noise, level, following, generator)
        return self.physical(self.autoencoder.decode(self.deviation * z, self._told(parameters)))

    def denoised(
        self,
        z: Float[Tensor, "batch latent time u v"],
        noise: Float[Tensor, "batch latent time u v"],
        level: int,
        following: int | None,
        generator: torch.Generator | None,
    ) -> Float[Tensor, "batch latent time u v"]:
        """Return the latent at the next lower level, None for no noise: a step of DDIM."""
        now = float(self.remaining[level])
        after = 1.0 if following is None else float(self.remaining[following])
        clean = (z - math.sqrt(1 - now) * noise) / math.sqrt(now)
        fresh = self.eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
        lower = math.sqrt(after) * clean + math.sqrt(max(1 - after - fresh**2, 0.0)) * noise
        if fresh:
            lower = lower + fresh * torch.empty_like(z).normal_(generator=generator)
        return lower

    @torch.no_grad()
    def own_scores(self, store: Any, options: dict[str, Any]) -> ScoreTable:
        """Compare sampled blocks with what the solver makes of their first frames."""
        table = ScoreTable(store.path.stem)
        generator = torch.Generator(self.device).manual_seed(0)
        for chosen, truth, parameters in true_blocks(self, store, options):
            block = self.block(truth[:, 0], parameters, generator)
            solved = self._solved(block, parameters)
            error, other = (relative(found, solved) for found in (block, truth.roll(1, 0)))
            table.add("resolve_error", error.cpu().numpy(), trajectory=chosen)
            table.add("resolve_over_random", (error / other).cpu().numpy(), trajectory=chosen)
            apart, true = ((x - x.roll(1, 0)).flatten(1).norm(dim=1) for x in (block, truth))
            true = true.clamp_min(torch.finfo(true.dtype).tiny)  # of a single trajectory
            table.add("variety", (apart / true).cpu().numpy(), trajectory=chosen)
        return table

    def _solved(
        self,
        block: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch frame channel *space"]:
        solver = SolverMemory(self.equation)(
            parameters, block.dtype, points=block.shape[3], stride=self.stride
        )
        frames = [block[:, 0]]
        for _ in range(self.frames - 1):
            frames.append(solver.step(frames[-1]))
        return torch.stack(frames, 1)


class FrameEncoder(nn.Module):
    """Convolutions over a frame to one token for each point of a grid, which says where it is."""

    def __init__(
        self,
        fields: int,
        conditions: int,
        channels: int,
        halvings: int,
        width: int,
        grid: Sequence[int],
    ):
        super().__init__()
        sizes = [min(width, channels * 2**i) for i in range(halvings + 1)]
        layers: list[nn.Module] = [CircularConvolution(2, fields + conditions, sizes[0])]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.SiLU(), CircularConvolution(2, before, after, stride=2)]
        self.layers = nn.Sequential(*layers, nn.SiLU(), nn.Conv2d(sizes[-1], width, 1))
        self.position = nn.Parameter(positions(grid, width))  # attention alone has no order

    def forward(
        self, frame: Float[Tensor, "batch channel x y"], told: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch token width"]:
        """Return the tokens."""
        constant = told[..., None, None].expand(-1, -1, *frame.shape[2:])
        return self.layers(torch.cat([frame, constant], 1)).flatten(2).mT + self.position


class TextEncoder(nn.Module):
    """Words to tokens: embedding, position and two layers of a transformer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.words = nn.Embedding(len(VOCABULARY), width)
        self.position = nn.Parameter(0.02 * torch.randn(WORDS_AT_MOST, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, words: Int[Tensor, "batch token"]) -> Float[Tensor, "batch token width"]:
        """Return the tokens; word 0 is none."""
        x = self.words(words) + self.position
        return self.layers(x, src_key_padding_mask=words == 0)


def caption(smoke: Float[np.ndarray, "x y"], buoyancy: float) -> str:
    """Say how many plumes there are, what the largest are like, and how much they are lifted.

    A plume is where smoke is denser than its mean and a standard deviation; it may cross the ends.

    Parameters
    ----------
    smoke
        Density.
    buoyancy
        Of the equation.
    """
    labels, count = plumes(smoke)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:] / labels.size
    order = np.argsort(-area, kind="stable")[:LARGEST]
    number = COUNTS[min(count, len(COUNTS) - 1)]
    parts = [f"{number} {'plume' if count == 1 else 'plumes'} :"]
    for plume in order:
        size = next(name for name, least in SIZES.items() if area[plume] >= least)
        x, y = (_middle(labels == plume + 1, axis) for axis in (0, 1))
        parts.append(f"{size} in the {PLACES[y]} {PLACES[3 + x]} ,")
    digits = " ".join(f"{buoyancy:.2f}")
    return " ".join([*parts, f"buoyancy is {digits}"])


def plumes(smoke: Float[np.ndarray, "x y"]) -> tuple[Int[np.ndarray, "x y"], int]:
    """Return the number of the plume at every point, 0 for none, and how many there are."""
    labels, _ = ndimage.label(smoke > smoke.mean() + smoke.std())
    for first, last in ((labels[0], labels[-1]), (labels[:, 0], labels[:, -1])):
        for place in range(len(first)):  # the ends are views: they change with the labels
            one, other = sorted((first[place], last[place]))
            if one and one != other:  # a plume that crosses an end
                labels[labels == other] = one
    kept = np.unique(labels[labels > 0])
    return np.searchsorted(kept, labels) * (labels > 0) + (labels > 0), len(kept)


def _middle(inside: Bool[np.ndarray, "x y"], axis: int) -> int:
    """Return the third of an axis, which closes, in which the middle of a region lies."""
    profile = inside.sum(1 - axis)
    angle = 2 * np.pi * (np.arange(len(profile)) + 0.5) / len(profile)
    mean = np.angle((profile * np.exp(1j * angle)).sum()) % (2 * np.pi)
    return min(int(3 * mean / (2 * np.pi)), 2)


def numbers(text: str) -> list[int]:
    """Return the numbers of the words of a caption, with zeros after the last."""
    words = [VOCABULARY[word] for word in text.split()]
    return words + [0] * (WORDS_AT_MOST - len(words))
