"""The gallery: a card for each paper, by task, with what chooses among them."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from longrun.pages.render import fill

PLANNED, OUT, NOT_RUN = "planned", "out of scope", "not run yet"


@dataclass(frozen=True)
class Entry:
    """The main claim of one experiment.

    Attributes
    ----------
    name
        Of the experiment.
    says
        The claim.
    verdict
        A verdict, ``not judged`` or `NOT_RUN`.
    measured, needed
        Value with its interval, and what it has to clear; empty where nothing was measured.
    link
        Its page.
    more
        All its claims, and the time of its runs.
    """

    name: str
    says: str
    verdict: str
    measured: str = ""
    needed: str = ""
    link: str = ""
    more: str = ""


@dataclass(frozen=True)
class Card:
    """A paper: what was found, that it is planned, or why it is left out."""

    title: str
    task: str
    year: str = ""
    about: str = ""
    picture: str = ""
    entries: Sequence[Entry] = ()
    equations: Sequence[str] = ()
    dimensions: Sequence[str] = ()
    status: str = ""
    reason: str = ""
    source: str = ""

    @property
    def kind(self) -> str:
        """What the card is, for its look."""
        return (self.status or "done").replace(" ", "-")

    @property
    def when(self) -> str:
        """Year and venue; a venue has its year mostly."""
        known = [part for part in (self.year, self.about) if part]
        return self.about if self.year in self.about else ", ".join(known)

    @property
    def link(self) -> str:
        """The page of the only experiment, else the paper itself; each of several has its own."""
        return self.entries[0].link if len(self.entries) == 1 else self.source

    @property
    def verdicts(self) -> list[str]:
        """What the gallery's choice by verdict goes by."""
        return [self.status] if self.status else [entry.verdict for entry in self.entries]


def gallery(cards: Sequence[Card], choose: bool = True) -> str:
    """Return the cards by task as HTML.

    Parameters
    ----------
    choose
        Whether with a form to search and to choose by task, verdict, equation and dimension.
    """
    groups: dict[str, tuple[list[Card], list[Card]]] = {}  # by task: what is done, what is not
    for card in cards:
        done, other = groups.setdefault(OUT if card.status == OUT else card.task, ([], []))
        (other if card.status else done).append(card)
    order = sorted(groups, key=lambda task: (task == OUT, not groups[task][0], task))
    choices = {
        "task": {card.task for card in cards},
        "verdict": {word for card in cards for word in card.verdicts},
        "equation": {name for card in cards for name in card.equations},
        "dimension": {number for card in cards for number in card.dimensions},
    }
    shown: dict[str, Any] = {key: sorted(filter(None, values)) for key, values in choices.items()}
    return fill(
        "gallery.html",
        groups={task: groups[task] for task in order},
        choices=shown if choose else {},
        total=len(cards),
    )


def merged(cards: Iterable[Card]) -> list[Card]:
    """Put the experiments of a paper onto one card: those of equal title, in their order."""
    found: dict[str, Card] = {}
    for card in cards:
        first = found.setdefault(card.title, card)
        if first is not card:
            found[card.title] = dataclasses.replace(
                first,
                entries=[*first.entries, *card.entries],
                equations=list(dict.fromkeys([*first.equations, *card.equations])),
                dimensions=list(dict.fromkeys([*first.dimensions, *card.dimensions])),
            )
    return list(found.values())
