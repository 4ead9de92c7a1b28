"""The buffer between solvers that stream and a trainer that draws: three policies.

Those of Melissa (Meyer et al., 2023, arXiv:2306.16133), from memory. Nothing here knows what an
item is, waits, or runs in another thread: `put` says when there is no room, `ready` whether there
are enough items to draw.
"""

from typing import Generic, Literal, TypeVar

import numpy as np

Item = TypeVar("Item")
Policy = Literal["fifo", "firo", "reservoir"]


class Reservoir(Generic[Item]):
    """Items that arrive once and are drawn in batches.

    Parameters
    ----------
    policy
        "fifo": in the order of arrival, each once. "firo": at random, each once. "reservoir": at
        random among those that were drawn before and those that were not; a drawn item stays until
        a new one takes its place, and one that was not drawn stays until it is.
    capacity
        Items that fit.
    threshold
        Items that must be there before the first batch; with "firo", also after every batch.
    generator
        Source of all draws and evictions: the same calls yield the same items.

    Attributes
    ----------
    drawn
        Draws so far.
    used
        Items that were drawn at least once.
    """

    def __init__(
        self, policy: Policy, capacity: int, threshold: int, generator: np.random.Generator
    ):
        self.policy, self.capacity, self.threshold = policy, capacity, threshold
        self.drawn = self.used = 0
        self._generator = generator
        self._unseen: list[Item] = []
        self._seen: list[Item] = []
        self._next = 0  # of `_unseen`, in a fifo: what is before it has been drawn
        self._started = self._draining = False

    def __len__(self) -> int:
        """Return the number of items."""
        return self.unseen + len(self._seen)

    @property
    def unseen(self) -> int:
        """Number of items that were not drawn yet."""
        return len(self._unseen) - self._next

    @property
    def items(self) -> list[Item]:
        """All items."""
        return self._unseen[self._next :] + self._seen

    def put(self, item: Item) -> bool:
        """Add an item; False where there is no room for it, and its producer has to wait.

        A full reservoir makes room by dropping an item that was drawn before, if it has one.
        """
        if len(self) >= self.capacity:
            if not self._seen:
                return False
            _take(self._seen, int(self._generator.integers(len(self._seen))))
        self._unseen.append(item)
        return True

    def ready(self, count: int) -> bool:
        """Whether a batch of `count` can be drawn."""
        if self._draining:
            return len(self) >= count
        if not self._started and len(self) < self.threshold:
            return False
        return len(self) >= count + (self.threshold if self.policy == "firo" else 0)

    def draw(self, count: int) -> list[Item]:
        """Draw a batch of different items; only when `ready`."""
        if not self.ready(count):
            raise ValueError(f"{len(self)} items are too few for a batch of {count}")
        self._started = True
        self.drawn += count
        if self.policy == "fifo":
            first, self._next = self._next, self._next + count
            batch, self.used = self._unseen[first : self._next], self.used + count
            if self._next >= self.capacity:  # not at every batch: it moves the rest
                del self._unseen[: self._next]
                self._next = 0
            return batch
        chosen = self._generator.choice(len(self), count, replace=False).tolist()
        # from the end, since the last item fills the place of a removed one
        batch = [self._one(place) for place in sorted(chosen, reverse=True)]
        if self.policy == "reservoir" and not self._draining:
            self._seen += batch
        return batch

    def _one(self, place: int) -> Item:
        """Remove the item at a place, counted over the unseen and then the seen."""
        if place >= len(self._unseen):
            return _take(self._seen, place - len(self._unseen))
        self.used += 1
        return _take(self._unseen, place)

    def drain(self) -> None:
        """Expect no more items: from now on every draw removes, even below the threshold."""
        self._draining = True


def _take(items: list[Item], place: int) -> Item:
    """Remove an item of a list, which may be reordered."""
    items[place], items[-1] = items[-1], items[place]
    return items.pop()
