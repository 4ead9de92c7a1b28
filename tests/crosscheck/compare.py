"""How far two solvers of one equation differ over time, and how far they may."""

import numpy as np

COLUMNS = ("difference", "our_error", "their_error", "roundoff", "bound")
PERTURBATION = 1e-15  # relative, of the state from which `ours_perturbed` starts
SLACK = 1.1  # an error that is estimated from half the step is known to leading order only
ROUNDINGS = 10.0  # a run rounds at every step, its twin was perturbed once


def distance(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Relative L2 distance of two runs (batch, time, ...) per time, the largest of the batch."""
    left, right = (run.reshape(*run.shape[:2], -1) for run in (left, right))
    norms = np.linalg.norm(left - right, axis=2), np.linalg.norm(right, axis=2)
    return (norms[0] / norms[1]).max(0)


def perturb(state: np.ndarray, seed: int = 0) -> np.ndarray:
    """Move each state of a batch by `PERTURBATION` of its norm, in a random direction."""
    noise = np.random.default_rng(seed).standard_normal(state.shape)
    axes = tuple(range(1, state.ndim))
    size, of_noise = (np.sqrt((field**2).sum(axes, keepdims=True)) for field in (state, noise))
    return state + PERTURBATION * size / of_noise * noise


def compare(
    ours: np.ndarray,
    theirs: np.ndarray,
    ours_half: np.ndarray,
    theirs_half: np.ndarray,
    ours_perturbed: np.ndarray,
    order: int = 4,
    their_order: int | None = None,
) -> dict[str, np.ndarray]:
    """Compare two solvers from the same state, frame by frame.

    Parameters
    ----------
    ours, theirs
        Runs of the two solvers, shape (batch, time, channel, *space), float64.
    ours_half, theirs_half
        The same runs with half the step: how much they differ is the error of the full step.
    ours_perturbed
        Our run from `perturb(state)`: how fast roundoff grows.
    order
        Order in the step, of both.
    their_order
        Theirs, where it differs.

    Returns
    -------
    dict
        Relative L2 distances per time, by the names in `COLUMNS`: between the solvers, from each
        to its own limit, of what roundoff makes, and the bound, to which the last three add up.
    """
    orders = (order, their_order or order)
    to_limit, to_theirs = (SLACK * 2**p / (2**p - 1) for p in orders)
    table = {
        "difference": distance(ours, theirs),
        "our_error": to_limit * distance(ours, ours_half),
        "their_error": to_theirs * distance(theirs, theirs_half),
        # what has grown once may shrink again, so later frames keep the largest
        "roundoff": ROUNDINGS * np.maximum.accumulate(distance(ours_perturbed, ours)),
    }
    return table | {"bound": table["our_error"] + table["their_error"] + table["roundoff"]}


def agrees(table: dict[str, np.ndarray]) -> bool:
    """Whether the solvers differ by no more than their errors and roundoff, at all times."""
    return bool((table["difference"] <= table["bound"]).all())


def show(title: str, times: np.ndarray, table: dict[str, np.ndarray], lines: int = 8) -> str:
    """Write a table as text, some of its times."""
    chosen = np.unique(np.linspace(0, len(times) - 1, lines).round().astype(int))
    rows = [f"{title}: {'agree' if agrees(table) else 'DISAGREE'}"]
    rows.append("".join(f"{name:>13}" for name in ("time", *COLUMNS)))
    for i in chosen:
        values = "".join(f"{table[name][i]:13.2e}" for name in COLUMNS)
        rows.append(f"{times[i]:13.4g}{values}")
    return "\n".join(rows)
