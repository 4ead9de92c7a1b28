"""Messages between a trainer and its solvers: JSON headers and plain arrays, all checked.

A message is a list of byte strings: a header, and one buffer per array. PyZMQ carries it whole,
see `longrun.online.pool`; its own `send_pyobj` would pickle. Nothing is unpickled here, and nothing
is trusted: a header states kind, values and shapes, and any mismatch is a `MessageError` of one
line. Whoever can reach the trainer's address can take part, so an address other than this machine's
belongs on a trusted network only.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

PROTOCOL = 1
LONGEST = 2**20  # bytes of a header
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}

# content of each kind: names of values with their types, names of arrays
KINDS: dict[str, tuple[dict[str, type], tuple[str, ...]]] = {
    # from a solver
    "hello": ({"protocol": int, "host": str}, ()),
    "alive": ({}, ()),
    "frames": ({"simulations": list}, ("parameters", "states")),
    "failed": ({"reason": str}, ()),
    # from a trainer
    "welcome": ({"equation": dict, "seed": int, "frames": int, "dtype": str}, ()),
    "simulate": ({"simulations": list}, ()),
    "stop": ({}, ()),
    "refuse": ({"reason": str}, ()),
}


class MessageError(ValueError):
    """A malformed message."""


@dataclass(frozen=True)
class Message:
    """A checked message.

    Attributes
    ----------
    kind
        One of `KINDS`.
    values, arrays
        Content, by name.
    """

    kind: str
    values: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, ndarray] = field(default_factory=dict)


def pack(kind: str, arrays: Mapping[str, ndarray] | None = None, **values: Any) -> list[bytes]:
    """Return the parts of a message."""
    arrays = {name: np.ascontiguousarray(array) for name, array in (arrays or {}).items()}
    shapes = {name: [array.dtype.name, list(array.shape)] for name, array in arrays.items()}
    header = {"kind": kind, "values": values, "arrays": shapes}
    buffers = [a.astype(DTYPES[a.dtype.name], copy=False).tobytes() for a in arrays.values()]
    return [json.dumps(header).encode(), *buffers]


def unpack(parts: Sequence[bytes]) -> Message:
    """Check the parts of a message.

    Raises
    ------
    MessageError
        Not made by `pack`: no JSON, an unknown kind, values or arrays missing, too many or of other
        types, a shape that doesn't fit the bytes, a negative number of a simulation.
    """
    if not parts or len(parts[0]) > LONGEST:
        raise MessageError("no header, or one that is too long")
    try:
        header = json.loads(parts[0])
    except (ValueError, RecursionError):
        raise MessageError("the header is not JSON") from None
    if not isinstance(header, dict) or set(header) != {"kind", "values", "arrays"}:
        raise MessageError("the header must hold kind, values and arrays")
    kind, values, shapes = header["kind"], header["values"], header["arrays"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise MessageError(f"unknown kind {kind!r}")
    types, names = KINDS[kind]
    if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != types:
        raise MessageError(f"the values of {kind} must be {', '.join(types) or 'none'}")
    numbers = values.get("simulations", [0])
    if not numbers or not all(type(n) is int and 0 <= n < 2**32 for n in numbers):
        raise MessageError("simulations must be numbers from 0")
    if not isinstance(shapes, dict) or tuple(shapes) != names or len(parts) != 1 + len(names):
        raise MessageError(f"the arrays of {kind} must be {', '.join(names) or 'none'}")
    arrays = {
        name: _array(name, described, data)
        for (name, described), data in zip(shapes.items(), parts[1:], strict=True)
    }
    return Message(kind, values, arrays)


def _array(name: str, described: object, data: bytes) -> ndarray:
    if not isinstance(described, list) or len(described) != 2:
        raise MessageError(f"{name} must have a type and a shape")
    kind, shape = described
    if kind not in DTYPES:
        raise MessageError(f"{name} is of type {kind!r}; allowed: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise MessageError(f"{name} has no shape")
    if math.prod(shape) * DTYPES[kind].itemsize != len(data):
        raise MessageError(f"{name} has {len(data)} bytes, which don't fit its shape {shape}")
    return np.frombuffer(data, DTYPES[kind]).reshape(shape)
