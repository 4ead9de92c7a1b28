"""Pairs of the first frame and a later one."""

import torch

from longrun.training._pairs import AbstractPairs, Rows


class One2All(AbstractPairs):
    """The loss of a direct step from the first frame of each window to any later one."""

    def choose(self, count: int, generator: torch.Generator, device: torch.device) -> Rows:
        """Draw later frames."""
        later = torch.randint(1, self.unroll + 1, (count,), generator=generator, device=device)
        return torch.zeros_like(later), later
