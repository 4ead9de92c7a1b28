"""Forecasters that make a block of frames at once, its first frame that from which it starts."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from longrun.tasks._scaling import SPAN
from longrun.tasks.forecast import AbstractForecaster, Memory

AT_ONCE = 8  # blocks


class AbstractBlockForecaster(AbstractForecaster):
    """A method that gives `block`; longer rollouts go on from the last frame of one.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    frames : int
        Of a block, the one that is given included.
    """

    supported_dims = (2,)
    translates = False

    def __init__(self, fields: int, dims: int, conditions: int, frames: int = 48, **options: Any):
        super().__init__(fields, dims, conditions, history=1, target="state", **options)
        if self.scheme.unroll != 1 or self.input_noise:
            raise ValueError("training and input_noise have no effect on blocks")
        if frames < 2:
            raise ValueError(f"frames must be at least 2, is {frames}")
        self.frames, self.unroll, self.period = frames, frames - 1, frames - 1

    @abstractmethod
    def block(
        self,
        first: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Return a block of frames that begins at a frame, physical units in and out."""

    def _told(self, parameters: Float[Tensor, "batch parameter"]) -> Tensor:
        """Return the parameters that vary, from 0 to 1."""
        return self.scaled_conditions(parameters) / SPAN

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Refuse: there is no single step.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError("frames come in blocks")

    def begin(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Return the frame that a block starts from, and that there is none yet."""
        last = history[:, -1]
        return {
            "block": last[:, None].expand(-1, self.frames, *last.shape[1:]).contiguous(),
            "place": torch.full((len(last),), self.frames - 1, device=last.device),
            "parameters": parameters,
        }

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channel *space"], Memory]:
        """Return the next frame of the block, or the first of a new one."""
        block, place = memory["block"], memory["place"]
        ended = place == self.frames - 1
        if ended.any():
            new = self.block(block[:, -1], memory["parameters"], generator)
            block = torch.where(ended.reshape(-1, *(1,) * (block.ndim - 1)), new, block)
            place = torch.where(ended, torch.zeros_like(place), place)
        place = place + 1
        each = torch.arange(len(block), device=block.device)
        return block[each, place], memory | {"block": block, "place": place}


def true_blocks(
    method: AbstractBlockForecaster, store: Any, options: Mapping[str, Any]
) -> Iterator[tuple[Int[ndarray, " batch"], Tensor, Tensor]]:
    """Yield trajectories of the test split by number, their first blocks, and parameters.

    Parameters
    ----------
    method
        Whose frames a block has, and where tensors go.
    store, options
        See `AbstractForecaster.evaluate`.
    """
    split, stride, start = store.split("test"), options["stride"], options["start"]
    span = slice(start, start + (method.frames - 1) * stride + 1, stride)
    columns = np.stack([*split.parameters.values()], axis=1)
    count = options["trajectories"]
    for chosen in np.array_split(np.arange(count), -(-count // AT_ONCE)):
        block = torch.from_numpy(split.read(chosen, span)).to(method.field_mean)
        yield chosen, block, torch.from_numpy(columns[chosen]).to(block)


def relative(
    found: Float[Tensor, "batch frame channel *space"],
    truth: Float[Tensor, "batch frame channel *space"],
) -> Float[Tensor, " batch"]:
    """Return the norm of the difference over that of the truth, over everything."""
    error, size = ((x.flatten(1)).norm(dim=1) for x in (found - truth, truth))
    return error / size
