"""Temporal stencil modelling, TSM (Sun, Yang and Yoo, 2023, arXiv:2302.08105).

A coarse finite-volume solver of incompressible flow keeps its time stepping, projection and
diffusion, and a network provides the interpolation of velocities to the faces of control volumes.
The network sees the history of each face, not its present state: its velocities so far, projected
on Laguerre functions (HiPPO, Gu et al., 2020, arXiv:2008.07669). One call returns the
interpolations of the next `bundle` steps.

    c <- (I - A/2)^-1 [(I + A/2) c + 1 v],  A = I/2 - (lower triangle of ones)    (step 1, bilinear)
    z = network(c / 10),  w = w0 + N^T z,  face value = sum of w over 4 x 4 velocities
    flux = advecting face value * limited(advected face value)

Two components times two faces of a control volume times two roles (advecting, advected) make 8
interpolations. w0 is the mean of the two nearest velocities; the rows of N are an orthonormal basis
of the weights that sum to 0, so w sums to 1 whatever the network returns. With zero logits z this
is the classical scheme with centred instead of Lax-Wendroff interpolation under the limiter of van
Leer; the classical scheme itself is `learned: false`.

Learned interpolation, LI (Kochkov et al., 2021, arXiv:2102.01010), is the same without a past: the
network sees the last frame (`memory: frames, order: 1`), at the same scale of 1/10, and is called
at every step (`bundle: 1`).

Our decisions:

- Interpolations have the period `bundle`. In the authors' code, as far as we can read it, a call
  serves one more step, using the last interpolation twice, and the first `bundle` steps of a
  rollout are not learned at all.
- A stencil reaches from one cell below to two cells above, along both axes; this is symmetric along
  the axis on which its face lies between two velocities.
- Initial weights are those of the authors' library, truncated normal of variance 1 / inputs, with
  biases of zero.
- Where a model step is several steps of the solver, the past between the given frames is
  interpolated linearly. The authors use every step.
"""

import itertools
import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from longrun.equations.navier_stokes_mac import COURANT
from longrun.runtime import registry
from longrun.solvers.mac import PeriodicMACSolver, limited
from longrun.tasks._solvers import SolverMemory
from longrun.tasks.forecast import AbstractForecaster, Memory

REACH = 4
"""Cells along each side of a stencil."""

FREE = REACH**2 - 1
"""Weights of a stencil that the network is free to choose: all but their sum."""

FACES = 2 * 2 * 2
"""Interpolations: of each component, to each face of its control volume, in each role."""

SCALE = 0.1
"""Of the past, coefficients or frames, where the network reads it; the authors' scripts have it for
both methods."""


class TSM(AbstractForecaster):
    """A finite-volume solver whose interpolations come from a network that sees the past.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options; `history` is the number of frames that start
        the past.
    equation : dict
        The `equation` section of the dataset; from the data.
    stride : int
        Frames of the dataset per model step; from the data. A model step is as many steps of the
        solver as its largest speed requires on the stored grid.
    points : list of int
        The stored grid, which is the solver's; from the data.
    width, layers : int
        Channels and number of the network's hidden convolutions.
    memory : {"hippo", "frames"}
        What the network sees of the past: coefficients of Laguerre functions, or the last frames.
    order : int
        How many of them.
    bundle : int
        Steps of the solver that a call of the network serves.
    learned : bool
        False is the classical scheme on the same grid, without a network.
    checkpointing : bool
        While training, recompute every step instead of keeping what its gradient needs.

    Raises
    ------
    ValueError
        Another equation, or impossible options.
    """

    supported_dims = (2,)
    equations = ("navier_stokes_mac",)
    null_space: Tensor
    transition: Tensor
    entry: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        equation: dict[str, Any],
        stride: int,
        points: list[int],
        width: int = 256,
        layers: int = 6,
        memory: Literal["hippo", "frames"] = "hippo",
        order: int = 256,
        bundle: int = 4,
        learned: bool = True,
        checkpointing: bool = False,
        **options: Any,
    ):
        if equation["name"] not in self.equations:
            raise ValueError(f"equation must be {self.equations[0]}, is {equation['name']}")
        if min(width, layers, order, bundle) < 1:
            raise ValueError("width, layers, order and bundle must be at least 1")
        reference = registry.build("equations", equation)
        # A solver needs all parameters of a trajectory, not only those that vary.
        count = len(reference.parameters)
        super().__init__(fields, dims, count, target="state", normalise=False, **options)
        self.equation, self.stride, self.points = reference, stride, points[0]
        self.memory, self.order, self.bundle = memory, order, bundle
        self.period = bundle  # the network is called again after this many steps of the solver
        self.learned, self.checkpointing = learned, checkpointing
        self._solvers = SolverMemory(reference)
        if learned:
            self.network = _tower(2 * order, width, layers, bundle * FACES * FREE)
            # kept with the weights: another machine may find another basis
            self.register_buffer("null_space", null_space().float())
            transition, entry = hippo(order)
            self.register_buffer("transition", transition.float(), persistent=False)
            self.register_buffer("entry", entry.float(), persistent=False)

    # The solver ----------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Steps of the solver per model step, none longer than its largest speed allows."""
        spacing = self.equation.distributions["length"].low / self.points
        frame = self.stride * self.equation.distributions["dt"].high
        return max(1, math.ceil(0.999 * self.equation.speed * frame / (COURANT * spacing)))

    def _solver(
        self, parameters: Float[Tensor, "batch parameter"], dtype: torch.dtype
    ) -> PeriodicMACSolver:
        """Return the solver of these parameters."""
        substeps = self.steps / self.stride
        options = {"points": self.points, "substeps": substeps, "stride": self.stride}
        solver: PeriodicMACSolver = self._solvers(parameters, dtype, **options)
        return solver

    # The past ------------------------------------------------------------------------------------

    def remember(
        self,
        past: Float[Tensor, "batch 2 order x y"],
        frame: Float[Tensor, "batch 2 x y"],
    ) -> Float[Tensor, "batch 2 order x y"]:
        """Return the memory of the past, updated by one velocity."""
        if self.memory == "frames":
            return torch.cat([past[:, :, 1:], frame[:, :, None]], dim=2)
        kept = torch.einsum("mn,bcnxy->bcmxy", self.transition, past)
        return kept + self.entry[:, None, None] * frame[:, :, None]

    def begin(
        self,
        history: Float[Tensor, "batch frame 2 x y"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Return the last frame, the memory of those before it, and logits that are due."""
        memory = {"frame": history[:, -1], "parameters": parameters}
        if not self.learned:
            return memory
        past = history.new_zeros(len(history), 2, self.order, *history.shape[3:])
        for older, newer in itertools.pairwise(history.unbind(1)):
            for step in range(self.steps):
                past = self.remember(past, torch.lerp(older, newer, step / self.steps))
        logits = history.new_zeros(len(history), self.bundle, FACES * FREE, *history.shape[3:])
        used = torch.zeros(len(history), dtype=torch.long, device=history.device)
        return memory | {"past": past, "logits": logits, "used": used}

    # A step --------------------------------------------------------------------------------------

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch 2 x y"], Memory]:
        """Return the next frame, and what the step after it needs."""
        solver = self._solver(memory["parameters"], memory["frame"].dtype)
        saves = self.checkpointing and self.training and torch.is_grad_enabled()
        for _ in range(self.steps):
            if not self.learned:
                memory = memory | {"frame": solver.advance(memory["frame"])}
            elif saves:
                memory = checkpoint(
                    self._solver_step,
                    memory,
                    solver,
                    use_reentrant=False,
                    preserve_rng_state=False,
                )
            else:
                memory = self._solver_step(memory, solver)
        return memory["frame"], memory

    def _solver_step(self, memory: Memory, solver: PeriodicMACSolver) -> Memory:
        frame, logits, used = memory["frame"], memory["logits"], memory["used"]
        past = self.remember(memory["past"], frame)
        due = used == 0
        if due.any():
            fresh = self.network(SCALE * past.flatten(1, 2)).unflatten(1, (self.bundle, -1))
            # rows are due together, unless evaluation has frozen one that diverged
            logits = (
                fresh if due.all() else torch.where(due[:, None, None, None, None], fresh, logits)
            )
        now = logits[torch.arange(len(used), device=used.device), used]
        following = self.interpolate_and_advance(frame, now, solver)
        used = (used + 1) % self.bundle
        return memory | {"frame": following, "past": past, "logits": logits, "used": used}

    def interpolate_and_advance(
        self,
        frame: Float[Tensor, "batch 2 x y"],
        logits: Float[Tensor, "batch logit x y"],
        solver: PeriodicMACSolver,
    ) -> Float[Tensor, "batch 2 x y"]:
        """Advance by one step of the solver, with the interpolations of these logits.

        Parameters
        ----------
        frame
            Velocity.
        logits
            By component, axis, role and free weight.
        solver
            On the grid of the velocity.
        """
        advecting, advected = self._face_values(frame, solver.pad(frame), logits)

        def advecting_values(padded: Tensor, component: int, axis: int) -> Tensor:
            return _with_lower_edge(advecting[:, component, axis], axis)

        def advected_values(padded: Tensor, component: int, axis: int, courant: Tensor) -> Tensor:
            return _with_lower_edge(advected[:, component, axis], axis)

        return solver.advance(frame, limited(advected_values), advecting_values)

    def _face_values(
        self, frame: Tensor, padded: Tensor, logits: Tensor
    ) -> tuple[
        Float[Tensor, "batch component axis x y"], Float[Tensor, "batch component axis x y"]
    ]:
        """Return values at the upper faces of all control volumes, advecting and advected ones.

        The advecting value of a component at a face normal to an axis is that axis' velocity,
        which is half a cell from the face along the component's own axis; the advected one is the
        component itself, half a cell away along the axis.
        """
        patches = padded[:, :, 1:, 1:].unfold(2, REACH, 1).unfold(3, REACH, 1).flatten(4)
        differences = torch.einsum("ks,bvxys->bvkxy", self.null_space, patches)
        means = torch.stack([0.5 * (frame + frame.roll(-1, axis)) for axis in (2, 3)], dim=1)
        z = logits.unflatten(1, (2, 2, 2, FREE))
        advecting = means + (z[:, :, :, 0] * differences[:, None]).sum(3)
        advected = means.transpose(1, 2) + (z[:, :, :, 1] * differences[:, :, None]).sum(3)
        return advecting, advected

    def step(
        self,
        history: Float[Tensor, "batch frame 2 x y"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch 2 x y"]:
        """Return the next frame, as the first of a rollout."""
        return self.advance(self.begin(history, conditions), generator)[0]

    # Training ------------------------------------------------------------------------------------

    def distance(self, prediction: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """Return half of the squared error, as in the paper; clipping depends on the factor."""
        return 0.5 * super().distance(prediction, target)


def null_space() -> Float[Tensor, "free weight"]:
    """Return an orthonormal basis of the weights of a stencil that sum to 0; float64."""
    constraint = torch.ones(1, REACH**2, dtype=torch.float64)
    return torch.linalg.svd(constraint).Vh[1:]


def hippo(order: int) -> tuple[Float[Tensor, "order order"], Float[Tensor, " order"]]:
    """Return the recurrence of translated Laguerre coefficients; float64.

    Parameters
    ----------
    order
        Number of coefficients.

    Returns
    -------
    transition, entry
        The next coefficients are `transition @ coefficients + entry * velocity`: the bilinear rule
        of step 1. The velocities so far are the coefficients' sum over orthonormal sequences, if
        there are enough of them.
    """
    identity = torch.eye(order, dtype=torch.float64)
    rate = 0.5 * identity - torch.ones_like(identity).tril()
    implicit = identity - 0.5 * rate
    transition = torch.linalg.solve(implicit, identity + 0.5 * rate)
    return transition, torch.linalg.solve(implicit, torch.ones(order, dtype=torch.float64))


def _tower(inputs: int, width: int, layers: int, outputs: int) -> nn.Sequential:
    """Return periodic 3 x 3 convolutions with rectifiers between them."""
    sizes = [inputs, *[width] * layers, outputs]
    parts: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        convolution = nn.Conv2d(before, after, 3, padding=1, padding_mode="circular")
        spread = 1 / math.sqrt(9 * before)
        nn.init.trunc_normal_(convolution.weight, std=spread, a=-2 * spread, b=2 * spread)
        convolution.bias = nn.Parameter(torch.zeros(after))
        parts += [convolution, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _with_lower_edge(faces: Float[Tensor, "batch x y"], axis: int) -> Tensor:
    """Put the uppermost face before the first: in a periodic box they are the same."""
    return torch.cat([faces.narrow(1 + axis, faces.shape[1 + axis] - 1, 1), faces], dim=1 + axis)
