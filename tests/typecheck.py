"""The checker of annotations in tests: an int is a float, as for mypy.

It looks at the first thousands of calls of each test. What follows, in the loop of a solver,
repeats them, and would take longer to check than to compute.
"""

import functools

from beartype import BeartypeConf, beartype
from jaxtyping import config

CALLS = 5000
CHECKS = 2 * CALLS  # of the arguments, and with the result
checking = beartype(conf=BeartypeConf(is_pep484_tower=True))
left = CHECKS


def begin() -> None:
    """Begin to count anew."""
    global left
    left = CHECKS
    config.update("jaxtyping_disable", False)


def checker(function):
    """Check a function, and stop when all has been looked at."""
    checked = checking(function)

    @functools.wraps(function)
    def counted(*arguments, **named):
        global left
        left -= 1
        if not left:
            config.update("jaxtyping_disable", True)
        return checked(*arguments, **named)

    return counted
