"""Longrun: which neural PDE solver keeps its promise over long rollouts.

From Python: `open_store`, `simulate`, `load` and `score`, see `longrun.api`. Importing this package
imports nothing else; what a function needs comes with its first call.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longrun.api import load, open_store, score, simulate

__all__ = ["load", "open_store", "score", "simulate"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("longrun.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
