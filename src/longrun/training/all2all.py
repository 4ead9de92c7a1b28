"""All pairs of frames."""

import torch

from longrun.training._pairs import AbstractPairs, Rows


class All2All(AbstractPairs):
    """The loss of a direct step between frames i <= j of each window, all pairs equally likely."""

    def choose(self, count: int, generator: torch.Generator, device: torch.device) -> Rows:
        """Draw pairs i <= j."""
        pairs = torch.triu_indices(self.unroll + 1, self.unroll + 1, device=device)
        chosen = torch.randint(pairs.shape[1], (count,), generator=generator, device=device)
        first, later = pairs[:, chosen]
        return first, later
