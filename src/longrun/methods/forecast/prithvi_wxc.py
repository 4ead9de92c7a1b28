"""Prithvi WxC (Schmude et al., 2024, arXiv:2409.13598).

One training that mixes reconstruction and forecast: from two frames, of which a large share of the
tokens is missing, predict the frame a random lead time ahead (or none), as a deviation from its
climatology.

    tokens  = patches(frames) + patches(climatology of the target) + position + time code
    dropped = whole windows ("global"), or places of every window ("local"), one or the other by
              chance for each batch, where the paper has turns
    encoder = 2 n + 1 layers, attention within windows and between them by turns
    decoder = the same, of the full grid: a learnt token, climatology and position where dropped
    frame   = climatology + std of the anomaly * patches^-1(decoder(encoder(tokens)))
    loss    = mean of ((frame - truth) / std of the anomaly)^2

Position is the sines and cosines of m x and m y, m = 1 ... width / 4, the time code [cos a, cos b,
sin a, sin b] of a = W1 spacing, b = W2 lead. Then it is tuned: no mask, one spacing and lead.

Left out or other than in the paper:

- MERRA-2 and its 160 channels: data here have a climatology without seasons, the mean over the
  training frames at each point, and no static channels. A latitude weight has no meaning in a box.
- Windows of the decoder move by half a window in every second local layer, around the periodic box,
  so no mask of attention is needed (the public code unpacks that mask and does not pass it on).
- Its tuning on several unrolled steps, and that with other heads (downscaling, fluxes of gravity
  waves): ours is the forecast of one step.
- The public code's dropout is off in its settings, and is not here. Channels count the same in the
  loss, where the paper's weights are 1 / variance of the anomaly: so they do in these units.

With `mask_ratio: 0` and a single lead it is the same network trained to forecast alone.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longrun.data.windows import time_mean
from longrun.metrics.table import ScoreTable
from longrun.nn import scattered
from longrun.nn.windows import LocalGlobal, to_grid, to_windows
from longrun.tasks._sensors import grid_positions
from longrun.tasks.forecast import AbstractForecaster

RATIOS = (50, 75, 90)  # %, of the tokens that are missing
KINDS = ("global", "local")
METRICS = {
    "reconstruction_global_50": (
        "rebuilt, 50 % global",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 50 % of the windows hidden. The climatology has 1.",
    ),
    "reconstruction_global_75": (
        "rebuilt, 75 % global",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 75 % of the windows hidden. The climatology has 1.",
    ),
    "reconstruction_global_90": (
        "rebuilt, 90 % global",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 90 % of the windows hidden. The climatology has 1.",
    ),
    "reconstruction_local_50": (
        "rebuilt, 50 % local",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 50 % of the places of every window hidden. The climatology has 1.",
    ),
    "reconstruction_local_75": (
        "rebuilt, 75 % local",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 75 % of the places of every window hidden. The climatology has 1.",
    ),
    "reconstruction_local_90": (
        "rebuilt, 90 % local",
        "Root mean square error of a frame where it is hidden, over the standard deviation of its "
        "anomaly, with 90 % of the places of every window hidden. The climatology has 1.",
    ),
    "rebuilt_over_nearest": (
        "over nearest patch",
        "The error with 75 % of the places hidden over that of the climatology with the anomaly of "
        "the nearest patch that is seen.",
    ),
    "rebuilt_over_linear": (
        "over linear fill",
        "The error with 75 % of the places hidden over that of the climatology with the anomaly "
        "interpolated linearly between the points that are seen.",
    ),
    "rise_from_50_to_90": (
        "rise from 50 to 90 %",
        "The error with 90 % of the places hidden over that with 50 %, in whole places: 14 and 8 "
        "of the 16 of a window of 4 x 4.",
    ),
}
TIMES = 4  # of each trajectory, at which frames are rebuilt


class Seen(NamedTuple):
    """Tokens that an encoder sees: along which axis of (batch, window, place), and which ones."""

    axis: int
    numbers: Int[Tensor, "batch set seen"]


class PrithviWxC(AbstractForecaster):
    """Masked transformer over patches, trained on random lead times.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    points : list of int
        Of the grid along each axis; from the data.
    width, heads : int
        Features of a token, a multiple of 8, and attention heads.
    encoder_pairs, decoder_pairs : int
        n of encoder and decoder.
    patch : int
        Points of a token along each axis.
    window : list of int
        Tokens of a window along each axis.
    mask_ratio : float
        Share of the tokens that is missing in training.
    leads, spacings : list of int
        Steps from the last frame to the target, and between the two frames, in training: drawn for
        each sample. A forecast has 1 and 1.
    residual : {"climatology", "mean"}
        What the network predicts a deviation from: the climatology of each point, or the mean of
        each field.
    """

    supported_dims = (2,)
    translates = False
    climatology: Tensor
    anomaly_std: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 1024,
        heads: int = 16,
        encoder_pairs: int = 8,
        decoder_pairs: int = 2,
        patch: int = 2,
        window: list[int] = [8, 8],  # noqa: B006 (read, never written)
        mask_ratio: float = 0.5,
        leads: list[int] = [0, 1, 2, 4],  # noqa: B006
        spacings: list[int] = [1, 2],  # noqa: B006
        residual: Literal["climatology", "mean"] = "climatology",
        history: int = 2,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, history=history, target="state", **options)
        if width % 8 or width % heads:
            raise ValueError(f"width must be a multiple of 8 and of heads ({heads}), is {width}")
        if not 0 <= mask_ratio < 1:
            raise ValueError(f"mask_ratio must be at least 0 and less than 1, is {mask_ratio}")
        if min(leads) < 0 or min(spacings) < 1 or 1 not in leads or 1 not in spacings:
            raise ValueError(
                "leads and spacings must hold 1, as a forecast has, and none below 0 or 1"
            )
        if history == 1 and spacings != [1]:
            raise ValueError("spacings have no effect on one frame (history 1): they must be [1]")
        sides = [patch * side for side in window]
        if any(n % side for n, side in zip(points, sides, strict=True)):
            raise ValueError(
                f"the grid, {points}, must be a multiple of patch times window, {sides}"
            )
        self.patch, self.window, self.mask_ratio = patch, tuple(window), mask_ratio
        self.leads_drawn, self.spacings, self.residual = list(leads), list(spacings), residual
        self.columns = points[1] // sides[1]
        self.sizes = math.prod(points) // math.prod(sides), math.prod(window)  # windows, places
        self.pretrains = bool(mask_ratio) or leads != [1] or spacings != [1]
        if self.pretrains:
            if self.scheme.unroll != 1:
                raise ValueError("training has no effect beside masks and several leads")
            self.unroll = max(leads) + (history - 1) * (max(spacings) - 1)
        self.embed = nn.Conv2d(history * fields + self.scalars, width, patch, patch)
        self.embed_static = nn.Conv2d(fields, width, patch, patch)
        self.of_spacing, self.of_lead = nn.Linear(1, width // 4), nn.Linear(1, width // 4)
        # without masks it learns nothing, and several devices wait for gradients that never come
        self.missing = nn.Parameter(0.02 * torch.randn(width), requires_grad=mask_ratio > 0)
        self.encoder = LocalGlobal(width, heads, encoder_pairs, shift=False)
        self.decoder = LocalGlobal(width, heads, decoder_pairs, shift=True)
        self.norm = nn.LayerNorm(width)
        self.unembed = nn.Linear(width, fields * patch**dims)
        self.register_buffer("position", _position(points, patch, width), persistent=False)
        self.register_buffer("climatology", torch.zeros(fields, *points))
        self.register_buffer("anomaly_std", torch.ones(fields))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take the climatology of the training frames, or with the weights that of a source."""
        if not sources:
            mean, std = time_mean(data.train_windows)
            self.climatology.copy_(torch.from_numpy(mean))
            self.anomaly_std.copy_(torch.from_numpy(std))
        super().prepare(data, sources)

    # Target --------------------------------------------------------------------------------------

    @property
    def target_scale(self) -> Float[Tensor, " channel"]:
        """Standard deviation of the anomaly, which is what the network predicts."""
        return self.anomaly_std if self.residual == "climatology" else self.field_std

    def _target_origin(self, last: Float[Tensor, "batch channel *space"]) -> Tensor:
        if self.residual == "climatology":
            return self.climatology
        return super()._target_origin(last)

    # Network -------------------------------------------------------------------------------------

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame, from all tokens."""
        one = torch.ones(len(history), device=history.device)
        return self.answer(history, conditions, one, one, None)

    def answer(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        spacing: Float[Tensor, " batch"],
        lead: Float[Tensor, " batch"],
        seen: Seen | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target.

        Parameters
        ----------
        history, conditions
            Normalised.
        spacing, lead
            Steps between the two frames, and from the last one to the target.
        seen
            What the encoder sees, see `draw`; all of it by default.
        """
        told = conditions[..., None, None].expand(-1, -1, *history.shape[3:])
        tokens = to_windows(self.embed(torch.cat([history.flatten(1, 2), told], 1)), self.window)
        static = self.embed_static(self.normalised(self.climatology)[None]) + self.position
        code = self._code(spacing.to(tokens), lead.to(tokens))
        static = to_windows(static, self.window) + code[:, None, None]
        full = tokens + static
        if seen is None:
            full = self.encoder(full)
        else:
            shape = (-1, -1, full.shape[2] if seen.axis == 1 else -1, full.shape[3])
            index = seen.numbers[..., None].expand(*shape)
            kept = self.encoder(full.gather(seen.axis, index))
            full = (static + self.missing).scatter(seen.axis, index, kept)
        values = self.unembed(self.norm(self.decoder(full, self.window, self.columns)))
        return nn.functional.pixel_shuffle(to_grid(values, self.window, self.columns), self.patch)

    def _code(
        self, spacing: Float[Tensor, " batch"], lead: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch width"]:
        a, b = self.of_spacing(spacing[:, None]), self.of_lead(lead[:, None])
        return torch.cat([a.cos(), b.cos(), a.sin(), b.sin()], dim=1)

    # Training ------------------------------------------------------------------------------------

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the error of a masked reconstruction or forecast, at random spacing and lead."""
        if not self.pretrains:
            return super().window_loss(window, parameters, generator)
        size, device = len(window), window.device
        spacing, lead = (
            torch.tensor(values, device=device)[
                torch.randint(len(values), (size,), generator=generator, device=device)
            ]
            for values in (self.spacings, self.leads_drawn)
        )
        present = (self.history - 1) * max(self.spacings)
        back = torch.arange(self.history - 1, -1, -1, device=device)
        each = torch.arange(size, device=device)
        frames = window[each[:, None], present - spacing[:, None] * back]
        frames, truth = self.noisy(frames, generator), window[each, present + lead]
        history = self.normalised(frames)
        local = bool(torch.rand((), generator=generator, device=device) < 0.5)
        seen = self.draw(KINDS[local], self.mask_ratio, size, generator)
        conditions = self._scalars(parameters)
        found = self.answer(history, conditions, spacing.to(window), lead.to(window), seen)
        return self.step_error(found, self.scaled_target(frames[:, -1], truth), history)

    def draw(self, kind: str, ratio: float, batch: int, generator: torch.Generator) -> Seen | None:
        """Draw what is seen, anew for every sample; None for all of it.

        Parameters
        ----------
        kind
            "global": whole windows are hidden; "local": places of every window.
        ratio
            Share that is hidden, rounded down to whole windows or places.
        """
        windows, places = self.sizes
        sets, number = (1, windows) if kind == "global" else (windows, places)
        hidden = int(ratio * number)
        if not hidden:
            return None
        order = torch.rand(batch, sets, number, generator=generator, device=generator.device)
        kept = order.argsort(2)[..., hidden:]
        return Seen(1, kept.mT) if kind == "global" else Seen(2, kept)

    # Reconstruction ------------------------------------------------------------------------------

    def own_scores(self, store: Any, options: dict[str, Any]) -> ScoreTable:
        """Score what is rebuilt of frames whose tokens are hidden."""
        split, count = store.split("test"), options["trajectories"]
        stride = options["stride"]
        table = ScoreTable(store.path.stem)
        chosen = np.arange(count)
        span = (self.history - 1) * stride + 1
        last = split.frames - span
        starts = np.unique(np.linspace(0, last, TIMES).round().astype(int))
        errors: list[dict[str, np.ndarray]] = []
        columns = np.stack([values[:count] for values in split.parameters.values()], axis=1)
        parameters = torch.from_numpy(columns).to(self.field_mean)
        for start in starts.tolist():
            frames = torch.from_numpy(split.read(chosen, slice(start, start + span, stride)))
            found = self._rebuilt(frames.to(self.field_mean), parameters, start)
            errors.append({name: error.cpu().numpy() for name, error in found.items()})
        root = {name: np.sqrt(np.mean([e[name] for e in errors], axis=0)) for name in errors[0]}
        for fill in ("nearest", "linear"):
            root[f"rebuilt_over_{fill}"] = root["reconstruction_local_75"] / root.pop(fill)
        root["rise_from_50_to_90"] = (
            root["reconstruction_local_90"] / root["reconstruction_local_50"]
        )
        for name, error in root.items():
            table.add(name, error, trajectory=chosen)
        return table

    @torch.no_grad()
    def _rebuilt(
        self,
        given: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        seed: int,
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Return mean square errors of the last frame where it is hidden; of fills at 75 %."""
        generator = torch.Generator(given.device).manual_seed(seed)
        ones, truth = torch.ones(len(given), device=given.device), given[:, -1]
        errors = {}
        for kind in KINDS:
            for ratio in RATIOS:
                seen = self.draw(kind, ratio / 100, len(given), generator)
                assert seen is not None
                hidden = self._hidden(seen)
                target = self.answer(
                    self.normalised(given), self._scalars(parameters), ones, 0 * ones, seen
                )
                frame = self.next_frame(truth, target)
                errors[f"reconstruction_{kind}_{ratio}"] = self._error(frame, truth, hidden)
                if (kind, ratio) == ("local", 75):
                    anomaly = truth - self.climatology
                    for fill, filled in (
                        ("nearest", _nearest(anomaly, hidden, self.patch)),
                        ("linear", _linear(anomaly, hidden)),
                    ):
                        errors[fill] = self._error(self.climatology + filled, truth, hidden)
        return errors

    def _hidden(self, seen: Seen) -> Float[Tensor, "batch 1 *space"]:
        """Return 1 at the points of the tokens that are not seen, else 0."""
        batch, (windows, places) = len(seen.numbers), self.sizes
        hidden = torch.ones(batch, windows, places, 1, device=seen.numbers.device)
        shape = (-1, -1, places if seen.axis == 1 else -1, 1)
        hidden = hidden.scatter(seen.axis, seen.numbers[..., None].expand(*shape), 0.0)
        grid = to_grid(hidden, self.window, self.columns)
        return grid.repeat_interleave(self.patch, 2).repeat_interleave(self.patch, 3)

    def _error(self, frame: Tensor, truth: Tensor, hidden: Tensor) -> Float[Tensor, " batch"]:
        square = ((frame - truth) / self.per_channel(self.anomaly_std)).square().mean(1)
        return (square * hidden[:, 0]).sum((1, 2)) / hidden[:, 0].sum((1, 2))


def _position(points: Sequence[int], patch: int, width: int) -> Float[Tensor, "1 width x y"]:
    """Return sines and cosines of the first waves along both axes, at the middle of each token."""
    waves = torch.arange(1, width // 4 + 1)[:, None]
    parts = []
    for axis, n in enumerate(points):
        angle = 2 * math.pi * (torch.arange(n // patch) + 0.5) / (n // patch) * waves
        both = torch.cat([angle.sin(), angle.cos()])
        parts.append(both[:, :, None] if axis == 0 else both[:, None])
    rows, columns = (n // patch for n in points)
    return torch.cat([part.expand(-1, rows, columns) for part in parts])[None]


def _nearest(
    frames: Float[Tensor, "batch channel *space"],
    hidden: Float[Tensor, "batch 1 *space"],
    patch: int,
) -> Float[Tensor, "batch channel *space"]:
    """Return frames with the nearest patch that is seen in place of each, around the box."""
    rows, columns = (n // patch for n in frames.shape[2:])
    away = [
        torch.minimum(distance, n - distance).square()
        for n in (rows, columns)
        for distance in [(torch.arange(n)[:, None] - torch.arange(n)).abs()]
    ]
    square = (away[0][:, None, :, None] + away[1][None, :, None, :]).flatten(2).flatten(0, 1)
    lost = hidden[:, 0, ::patch, ::patch].flatten(1)[:, None].bool()
    square = square.to(frames.device).expand(len(frames), -1, -1)
    square = square.masked_fill(lost, rows**2 + columns**2)
    taken = square.argmin(2)[:, None].expand(-1, frames.shape[1] * patch**2, -1)
    patches = nn.functional.pixel_unshuffle(frames, patch).flatten(2)
    filled = patches.gather(2, taken).unflatten(2, (rows, columns))
    return nn.functional.pixel_shuffle(filled, patch)


def _linear(
    frames: Float[Tensor, "batch channel *space"], hidden: Float[Tensor, "batch 1 *space"]
) -> Float[Tensor, "batch channel *space"]:
    """Return frames interpolated linearly between the points that are seen, around the box."""
    places = grid_positions(frames.shape[2:])
    values, seen = frames.flatten(2).mT.cpu().numpy(), hidden.flatten(1).cpu().numpy() == 0
    filled = [
        scattered.linear(places[known], value[known], places, (True, True))
        for value, known in zip(values, seen, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).to(frames).mT.unflatten(2, frames.shape[2:])
