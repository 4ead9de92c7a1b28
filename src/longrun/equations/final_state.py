"""The state of another equation after a time, as a steady map."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import AbstractEquation, Discretisation, Quantity
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver

DEFAULT: dict[str, Any] = {"name": "burgers", "dt": 0.5}


class _FinalSolver(AbstractSolver):
    """One step puts the end of a run beside its start."""

    def __init__(self, equation: "FinalState", solver: AbstractSolver):
        self.equation, self.solver = equation, solver

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the given fields, and what is sought at the end of a run that starts from them."""
        start, _ = self.equation.whole(state)
        return self.equation.chosen(start, self.solver.step(start))

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Repeat the step, which doesn't depend on what is sought."""
        return self.step(state)[:, None].expand(-1, frames, *[-1] * (state.ndim - 1)).clone()


class FinalState(AbstractEquation):
    """The map from the start of a run of another equation, or what drives it, to its end.

    Given are fields as they start, sought are fields `frames` frames later, each in the order of
    the other equation; a field that is both has "initial" before its name where it is given. Fields
    that aren't given must start at zero, or the map would not be one.

    Parameters
    ----------
    points
        Grid points of the other equation along the first axis.
    of
        `name` of the other equation and its options, without `points`; it has no burn-in.
    frames
        Frames of the other equation from start to end.
    given
        Names of fields that are given; all where nothing is said.
    sought
        Names of fields that are sought; all where nothing is said.

    Raises
    ------
    UserError
        An equation that can't be seen like this; and from `sample`, a start that isn't given.
    """

    steady = True

    def __init__(
        self,
        points: int = 64,
        of: dict[str, Any] = DEFAULT,
        frames: int = 1,
        given: list[str] | None = None,
        sought: list[str] | None = None,
    ):
        if "points" in of:
            raise UserError("points stand beside `of`, not in it")
        inner: AbstractEquation = registry.build("equations", {**of, "points": points})
        if inner.steady or inner.burn_in or not inner.dims:
            raise UserError(f"of: {of['name']} must have time, space and no burn_in")
        if inner.distributions["dt"].low < inner.distributions["dt"].high:
            raise UserError("of: dt must be one number, since no map knows the time")
        if frames < 1:
            raise UserError(f"frames must be at least 1, is {frames}")
        super().__init__(points, inner.substeps, 1, inner.refinement)
        self.inner, self.frames = inner, frames
        self.boundary, self.aspect, self.centred = inner.boundary, inner.aspect, inner.centred
        self._given, self._sought = self._channels("given", given), self._channels("sought", sought)
        again = {*self._given} & {*self._sought}
        self.fields = tuple(
            Quantity(f"initial_{q.name}", f"initial {q.long_name}", q.units) if i in again else q
            for i, q in ((i, inner.fields[i]) for i in self._given)
        ) + tuple(inner.fields[i] for i in self._sought)
        self.parameters = tuple(q for q in inner.parameters if q.name != "dt")
        self.distributions = {n: d for n, d in inner.distributions.items() if n != "dt"}

    def _channels(self, key: str, names: list[str] | None) -> list[int]:
        """Return which fields of the other equation are meant, in its order."""
        known = [quantity.name for quantity in self.inner.fields]
        if names is not None and (not names or not {*names} <= {*known}):
            raise UserError(f"{key} must be some of {', '.join(known)}, is {names}")
        return [i for i, name in enumerate(known) if names is None or name in names]

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters and starts; what is sought is zero.

        Raises
        ------
        UserError
            A field that isn't given and doesn't start at zero.
        """
        parameters, start = self.inner.sample(generators)
        missing = [i for i in range(start.shape[1]) if i not in self._given]
        if start[:, missing].any():
            names = ", ".join(self.inner.fields[i].name for i in missing)
            raise UserError(f"given lacks {names}, which doesn't start at zero")
        parameters.pop("dt")
        sought = np.zeros_like(start[:, self._sought])
        return parameters, np.concatenate([start[:, self._given], sought], axis=1)

    def _solver(self, at: Discretisation) -> _FinalSolver:
        """Build the solver of a batch of runs."""
        dt = torch.full_like(at.parameters["length"], self.inner.distributions["dt"].low)
        known = {**at.parameters, "dt": dt}
        inner = self.inner._solver(
            replace(
                at,
                parameters={q.name: known[q.name] for q in self.inner.parameters},
                stride=self.frames,
                steps=self.frames * at.steps,
            )
        )
        return _FinalSolver(self, inner)

    def whole(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> tuple[Float[Tensor, "batch field *space"], Float[Tensor, "batch field *space"]]:
        """Return start and end with all fields of the other equation, zero where unknown."""
        shape = (len(state), len(self.inner.fields), *state.shape[2:])
        start, end = state.new_zeros(shape), state.new_zeros(shape)
        start[:, self._given], end[:, self._sought] = state.split(
            [len(self._given), len(self._sought)], dim=1
        )
        return start, end

    def chosen(
        self,
        start: Float[Tensor, "batch field *space"],
        end: Float[Tensor, "batch field *space"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return what is given of a start and sought of an end."""
        return torch.cat([start[:, self._given], end[:, self._sought]], dim=1)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Move start and end to another grid as the other equation does."""
        return self._each(state, lambda part: self.inner.resample(part, points))

    def observe(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch field *stored"]:
        """Return what the other equation stores of start and end."""
        return self._each(state, self.inner.observe)

    def _each(self, state: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        start, end = self.whole(state)
        return self.chosen(change(start), change(end))
