"""The tests' own checker of annotations works, and knows when to stop."""

import pytest
import torch
import typecheck
from jaxtyping import TypeCheckError

from longrun.solvers.spectral import indices, resample

WRONG = "64"  # a number, or several, are wanted


def test_a_wrong_argument_is_refused_until_enough_calls_were_right():
    field = torch.zeros(1, 1, 8)
    with pytest.raises(TypeCheckError, match="grid"):
        resample(field, WRONG)
    for _ in range(typecheck.CALLS):
        indices([4])
    with pytest.raises(TypeError) as raised:  # of torch or numpy
        resample(field, WRONG)
    assert not isinstance(raised.value, TypeCheckError)
    typecheck.begin()
    with pytest.raises(TypeCheckError, match="grid"):
        resample(field, WRONG)
