"""Linear regression mode by mode: the best linear map that commutes with translations.

    sought_k = sum over given fields of a_k given_k,        a_k by least squares, with a small ridge

for every Fourier mode k of a periodic domain: a linear operator that is diagonal in a known basis,
as de Hoop, Kovachki, Nelsen and Stuart (2023, arXiv:2108.12515) learn them. It takes one pass, and
what it can't say is all that is nonlinear.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks.map import BLOCK, AbstractMap


class ModeByMode(AbstractMap):
    """Multiply every Fourier mode by what fits the training states best.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options.
    ridge : float
        Added to the mean energy of a mode, relative to the largest of all modes.
    """

    factors: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        ridge: float = 1e-8,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        self.ridge = ridge
        modes = (*points[:-1], points[-1] // 2 + 1)
        self.register_buffer("factors", torch.zeros(*modes, self.inputs, self.sought, 2))

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Solve for the factors on all training states."""
        super().prepare(data, sources)
        square: Any = 0.0
        product: Any = 0.0
        for store in data.stores:
            split = store.split("train")
            for first in range(0, split.trajectories, BLOCK):
                x, y = self._training_modes(split, slice(first, first + BLOCK))
                square = square + torch.einsum("b...i,b...j->...ij", x.conj(), x)
                product = product + torch.einsum("b...i,b...o->...io", x.conj(), y)
        largest = square.diagonal(dim1=-2, dim2=-1).real.max()
        ridge = self.ridge * largest * torch.eye(self.inputs, dtype=square.dtype)
        self.factors.copy_(torch.view_as_real(torch.linalg.solve(square + ridge, product)))

    def _training_modes(self, split: Any, chosen: slice) -> tuple[Tensor, Tensor]:
        """Modes of what the operator gets, and of what it should return."""
        given, sought = self.split(torch.from_numpy(split.read(chosen, slice(1))).to(self.factors))
        columns = [torch.from_numpy(values[chosen]) for values in split.parameters.values()]
        seen = self.seen(given, torch.stack(columns, dim=1).to(self.factors))
        return self._modes(seen), self._modes(self.normalised(sought, slice(self.given, None)))

    def _modes(self, field: Float[Tensor, "batch channel *space"]) -> Tensor:
        axes = tuple(range(2, field.ndim))
        return torch.fft.rfftn(field.double(), dim=axes, norm="forward").movedim(1, -1)

    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields."""
        axes = tuple(range(2, x.ndim))
        modes = torch.fft.rfftn(x, dim=axes, norm="forward").movedim(1, -1)
        found = torch.einsum("b...i,...io->b...o", modes, torch.view_as_complex(self.factors))
        return torch.fft.irfftn(found.movedim(-1, 1), s=x.shape[2:], dim=axes, norm="forward")
