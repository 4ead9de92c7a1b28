"""Forecasters that read a trajectory as a sequence of tokens, one for each frame."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.tasks.forecast import AbstractForecaster, Memory


class AbstractSequenceForecaster(AbstractForecaster):
    """A stack of causal blocks over one token per frame; a method gives the `blocks`.

    All fields and grid points of a frame, and the conditions, are mapped linearly to a token, and a
    token after the last block to the scaled target of the next frame. A window trains the next
    frame after every one of its frames, so a run of history 64 has seen all contexts up to 64, and
    may be scored with any other: `starts_from` it, `trainer: {max_steps: 0}` and another `history`.

    A rollout feeds new frames one by one: attention then sees the last `history` of them; what is
    recurrent keeps all since the first that it was shown.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    points : list of int
        Grid points per axis, from the data.
    width : int
        Of a token.
    history : int
        Frames of context.
    training : dict
        Must be `one_step`: a window already trains all of its frames.
    """

    translates = False
    blocks: nn.ModuleList

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 64,
        history: int = 64,
        training: dict[str, Any] = {"name": "one_step"},  # noqa: B006 (read, never written)
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, history=history, training=training, **options)
        if training["name"] != "one_step":
            raise ValueError(f"training must be one_step, is {training['name']}")
        self.points = points
        cells = fields * math.prod(points)
        self.embedding = nn.Linear(cells + self.scalars, width)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.head = nn.Linear(width, cells)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        return self.read(history, conditions, {})[0][:, -1]

    def read(
        self,
        frames: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        memory: Memory,
    ) -> tuple[Float[Tensor, "batch frame channel *space"], Memory]:
        """Return the scaled target after every frame, and what the blocks then remember.

        Parameters
        ----------
        frames, conditions
            Normalised.
        memory
            Of the frames before these, {} for none.
        """
        told = conditions[:, None].expand(-1, frames.shape[1], -1)
        x = self.embedding(torch.cat([frames.flatten(2), told], -1))
        after: Memory = {}
        for number, block in enumerate(self.blocks):
            mine = f"block{number}."
            given = {k.removeprefix(mine): v for k, v in memory.items() if k.startswith(mine)}
            x, kept = block(x, given)
            after |= {mine + name: tensor for name, tensor in kept.items()}
        return self.head(self.norm(x)).unflatten(-1, frames.shape[2:]), after

    def begin(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Read the history: the next frame is known, and what the blocks remember."""
        return self._onward(history, parameters, {})

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channel *space"], Memory]:
        """Return the next frame, and read it."""
        frame = memory["ahead"]
        return frame, self._onward(frame[:, None], memory["parameters"], memory)

    def _onward(self, frames: Tensor, parameters: Tensor, memory: Memory) -> Memory:
        targets, kept = self.read(self.normalised(frames), self._scalars(parameters), memory)
        ahead = self.kept(frames[:, -1], self.next_frame(frames[:, -1], targets[:, -1]))
        return {"ahead": ahead, "parameters": parameters} | kept

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the loss of the next frame after every frame of a window."""
        frames = self.noisy(window[:, :-1], generator)
        given = self.normalised(frames)
        found, _ = self.read(given, self._scalars(parameters), {})
        target = self.scaled_target(frames, window[:, 1:])
        return self.step_error(
            found.flatten(0, 1), target.flatten(0, 1), given.flatten(0, 1)[:, None]
        )
