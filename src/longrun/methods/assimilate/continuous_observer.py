"""Continuous observer (Janny et al., 2024, arXiv:2401.09198).

Sensors see the first frame, at scattered points; the answer is wanted anywhere, at any time. A
graph network rolls out latent "anchor" states of the sensors with a coarse step, an observer reads
them: forecasts stay in latent space, so what the decoder errs is never fed back.

    anchors:   h_0 = encoder(u, x),  h_k = h_(k-1) + messages(h_(k-1)),   k = 1 ... K,  edges go on
    code:      c(x, t) = (sin(i w z), cos(i w z)), i = 0, 1, ...,   z = (x, y, t), w learnt
    observer:  a_k = q + attention(q = c(x, t), keys = values = h_k + c(x_sensor, t_k))
               a_k <- a_k + MLP(a_k)
               u(x, t) = MLP(last state of a GRU that reads a_1 ... a_K)
    loss:      |u(x, t) - truth|^2 at points drawn of known sensors and frames
               + mean_k |head(h_k) - truth|^2 at the sensors

Anchor k stands for frame `k * delta * known_every`, in training as many as reach the end of a
window. Points are drawn without replacement, in proportion to a score that is the loss where a
point was drawn and grows where it was not.

Ours, because the paper leaves them open or the data asks for it:

- on axes that close the graph goes around (the public code has a seam) and the learnt w begins at
  2 pi, so that codes are harmonics; that of time begins so low that the last harmonic turns by at
  most pi between two known frames: faster ones could mean anything between them;
- a point's score is its loss over the mean of its draw, and grows by the share that is drawn;
- a frame beyond the training window is read from as many anchors as reach it, one within it from as
  many as in training: the GRU never reads more than it must.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longrun.nn.graph import MessagePassing, perceptron
from longrun.tasks._estimation import sensor_places
from longrun.tasks._sensors import AbstractSensorForecaster, Sensors, grid_positions

LEAST = 1e-3  # score of a point that was drawn: it may be drawn again


class ContinuousObserver(AbstractSensorForecaster):
    """Latent graph rollout, read by attention at any place and time.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSensorForecaster`, also for the options.
    points : list of int
        Of the grid along each axis; from the data.
    width : int
        Features of nodes, edges and codes.
    layers : int
        Of message passing between two anchors.
    delta : int
        Known frames from anchor to anchor.
    heads : int
        Of the attention.
    queries : int
        Points that the loss of a batch is of.
    reader : {"gru", "mean", "max"}
        What sums up the anchors' answers along time.
    anchor_weight : float
        Of the anchors' own error at the sensors.
    chunk : int
        Points that are answered at once in a test.
    """

    score: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 128,
        layers: int = 4,
        delta: int = 2,
        heads: int = 4,
        queries: int = 1024,
        reader: Literal["gru", "mean", "max"] = "gru",
        anchor_weight: float = 1.0,
        chunk: int = 4096,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if width % heads:
            raise ValueError(f"width must be a multiple of heads ({heads}), is {width}")
        if delta * self.known_every > self.unroll:
            raise ValueError("delta * known_every must be at most unroll: no anchor in a window")
        self.width, self.delta, self.queries = width, delta, queries
        self.reader, self.anchor_weight, self.chunk = reader, anchor_weight, chunk
        self.nodes = perceptron(fields + dims + conditions, width, width, hidden=2)
        self.edges = perceptron(2 * dims + 1, width, width, hidden=2)
        self.messages = MessagePassing(width, layers)
        self.head = perceptron(width, width, fields, activation=nn.SiLU)
        last = max(math.ceil(width / (2 * (dims + 1))) - 1, 1)  # harmonic
        of_time = math.pi * min(1.0, self.unroll / self.known_every / last)
        self.frequency = nn.Parameter(torch.tensor([2 * math.pi] * dims + [of_time]))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.refine = perceptron(width, width, width)
        self.gru = nn.GRU(width, width, num_layers=2) if reader == "gru" else None
        self.decoder = perceptron(width, width, fields, activation=nn.SiLU)
        sensors = int(sensor_places(points, self.spacing, self.sensor_share).sum())
        known = self.unroll // self.known_every + 1
        self.register_buffer("score", torch.ones(known * sensors))  # what is drawn, see `_note`

    # Anchors -------------------------------------------------------------------------------------

    def anchors(self, frames: int) -> int:
        """Return how many anchors answer for this many frames after the first."""
        return max(1, math.ceil(frames / (self.delta * self.known_every)))

    def rollout(
        self,
        first: Float[Tensor, "batch sensor channel"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        frames: int,
    ) -> Float[Tensor, "anchor batch sensor width"]:
        """Return the anchors that reach these frames, or the window's."""
        places = sensors.positions.expand(len(first), *sensors.positions.shape)
        given = conditions[:, None].expand(-1, first.shape[1], -1)
        h = self.nodes(torch.cat([first, places, given], dim=2))
        e = self.edges(sensors.edges)[None]
        states = []
        for _ in range(self.anchors(max(frames, self.unroll))):
            h, e = self.messages(h, e, sensors.ends)  # the sums in the layers are the residual
            states.append(h)
        return torch.stack(states)

    def _time(self, anchor: int) -> float:
        """Return the time of an anchor, by its number from 0, in windows."""
        return (anchor + 1) * self.delta * self.known_every / self.unroll

    # Observer ------------------------------------------------------------------------------------

    def code(
        self, positions: Float[Tensor, "... axis"], time: Float[Tensor, "..."]
    ) -> Float[Tensor, "... width"]:
        """Return the code of places between 0 and 1 and times in windows."""
        z = self.frequency * torch.cat([positions, time[..., None]], dim=-1)
        harmonics = torch.arange(math.ceil(self.width / (2 * z.shape[-1])), device=z.device)
        angles = harmonics[:, None] * z[..., None, :]
        waves = torch.cat([angles.sin(), angles.cos()], dim=-1)
        return waves.flatten(-2)[..., : self.width]

    def observe(
        self,
        states: Float[Tensor, "anchor batch sensor width"],
        sensors: Sensors,
        positions: Float[Tensor, "query axis"],
        times: Float[Tensor, " query"],
    ) -> Float[Tensor, "batch query channel"]:
        """Return the values at places and times, normalised."""
        anchors, batch = states.shape[:2]
        when = torch.tensor([self._time(k) for k in range(anchors)]).to(states)
        codes = self.code(
            sensors.positions.expand(anchors, *sensors.positions.shape),
            when[:, None].expand(-1, len(sensors.positions)),
        )
        keys = (states + codes[:, None]).flatten(0, 1)
        query = self.code(positions, times).expand(anchors * batch, -1, -1)
        read = query + self.attention(query, keys, keys, need_weights=False)[0]
        read = (read + self.refine(read)).unflatten(0, (anchors, batch))
        if self.gru is not None:
            summed = self.gru(read.flatten(1, 2))[0][-1].unflatten(0, read.shape[1:3])
        else:
            summed = read.mean(0) if self.reader == "mean" else read.amax(0)
        answer: Tensor = self.decoder(summed)
        return answer

    def answers(
        self,
        state: Float[Tensor, "anchor batch sensor width"],
        sensors: Sensors,
        space: Sequence[int],
        frame: int,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return a whole frame, normalised."""
        states = state[: self.anchors(max(frame, self.unroll))]
        positions = torch.from_numpy(grid_positions(space)).to(states)
        parts = [
            self.observe(states, sensors, part, torch.full_like(part[:, 0], frame / self.unroll))
            for part in positions.split(self.chunk)
        ]
        return torch.cat(parts, dim=1).mT.unflatten(2, tuple(space))

    # Training ------------------------------------------------------------------------------------

    def known_loss(
        self,
        known: Float[Tensor, "batch frame sensor channel"],
        every: Sensors,
        part: Int[Tensor, " kept"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the error at points that are drawn, and that of the anchors at the sensors."""
        frames, count = known.shape[1:3]
        states = self.rollout(known[:, 0, part], sensors, conditions, self.unroll)
        drawn = min(self.queries, len(self.score))
        chosen = torch.multinomial(self.score, drawn, generator=generator)
        frame, sensor = chosen // count, chosen % count
        times = (frame * self.known_every / self.unroll).to(known)
        found = self.observe(states, sensors, every.positions[sensor], times)
        error = (found - known[:, frame, sensor]).square().mean(2)
        if self.training:
            self._note(chosen, error.detach().mean(0))
        loss = error.mean()
        reached = [k for k in range(len(states)) if (k + 1) * self.delta < frames]
        truth = torch.stack([known[:, (k + 1) * self.delta, part] for k in reached])
        return loss + self.anchor_weight * (self.head(states[reached]) - truth).square().mean()

    def _note(self, chosen: Int[Tensor, " query"], error: Float[Tensor, " query"]) -> None:
        """Score the points that were drawn by their loss; let the others come nearer."""
        score = self.score + len(chosen) / len(self.score)
        relative = error / error.mean().clamp_min(torch.finfo(error.dtype).tiny)
        self.score = score.index_copy(0, chosen, relative.to(score) + LEAST)
