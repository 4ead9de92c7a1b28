"""Rectified flow (Liu, Gong and Liu, 2022, arXiv:2209.03003).

A velocity is fitted to the straight lines between pairs of noise z0 and data z1; its flow has the
same distribution as the lines at every time, but its paths can't cross. Repeating the fit on the
pairs (z0, flow(z0)), the re-flow, straightens them until one step of Euler's suffices.

    z_t = t z1 + (1 - t) z0,  t ~ U(1e-3, 1)                 noise at t = 0, data at t = 1
    fit:      min_v E | v(z_t, t) - (z1 - z0) |^2             v*(z, t) = E[z1 - z0 | z_t = z]
    sample:   dz/dt = v(z, t),  z_0 ~ N(0, I)
    re-flow:  draw z0, take z1 = the flow of the last round, which is frozen, and fit again,
              beginning with its weights
    distil:   the same pairs, t = 0 only: v(z0, 0) = z1 - z0 is the only step

Our decisions:

- The public sampler visits t = 1e-3 + (1 - 1e-3) i/N and multiplies by 1/N, so it ends beyond 1.
  We visit i/N, and give the network no time below 1e-3: on straight paths one step is exact.
- The pairs of a re-flow come from the classical Runge-Kutta method with `fine_steps` equal steps,
  the paper's from RK45 with a tolerance of 1e-5. They are made once, from the seed, before the
  first update, with fresh noise and, where there is a condition, one of the training data, which
  the pair keeps. They are held in memory, not in the checkpoint: a resumed run makes the same.
- The paper distils images with LPIPS; fields have no such distance, so it is the square here too.
- `coupling: optimal` is not a rectified flow but its rival: the noise of a batch is assigned to its
  data at least squared distance, in groups of 128 (Tong et al., 2023, arXiv:2302.00482).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from longrun.nn.flow import FIRST, network_velocity, velocity_network
from longrun.nn.unet import grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks._flow import AbstractFlow
from longrun.tasks._learner import only

GROUP = 128  # assigned at once: the work grows with the cube
MADE_AT_ONCE = 512  # pairs of a re-flow in one call of the network


class RectifiedFlow(AbstractFlow):
    """A flow from noise to data, straightened by re-flow where it starts from another flow.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractFlow`, also for the options.
    width, layers, multipliers
        Of the network, see `longrun.nn.flow.velocity_network`.
    coupling : {"independent", "optimal"}
        How noise is paired with data in a batch, see above.
    pairs : int
        Pairs of a re-flow.
    distil : bool
        Learn the one step from the pairs of `starts_from`.

    Raises
    ------
    ValueError
        Impossible sizes, or an optimal coupling with a condition, which would break pairs.
    """

    supported_dims = (0, 1, 2)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 128,
        layers: int = 4,
        multipliers: list[int] = [1, 2, 2, 2],  # noqa: B006 (read, never written)
        coupling: Literal["independent", "optimal"] = "independent",
        pairs: int = 50_000,
        distil: bool = False,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if min(width, layers, pairs) < 1:
            raise ValueError("width, layers and pairs must be at least 1")
        if coupling == "optimal" and self.conditional:
            raise ValueError("coupling: optimal would separate data from their conditions")
        self.coupling, self.pairs, self.distil = coupling, pairs, distil
        self.network = velocity_network(
            dims, fields, self.observed_fields, conditions, width, layers, multipliers
        )
        self._teacher: tuple[Any, Any] | None = None  # in a tuple, so that it isn't a submodule
        self._made: _Pairs | None = None

    # Flow ----------------------------------------------------------------------------------------

    def velocity(
        self,
        state: Float[Tensor, "batch channel *space"],
        time: Float[Tensor, " batch"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel *space"]:
        """Return dz/dt at each sample's own time, none of which is before `FIRST`."""
        return network_velocity(self.network, state, time, context, conditions)

    def solve(
        self,
        noise: Float[Tensor, "batch channel *space"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        nfe: int | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Carry noise to data, in one step if that was distilled."""
        return super().solve(noise, context, conditions, 1 if self.distil else nfe)

    def paths(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, "time batch channel *space"]:
        """Return the states of the exact flow, or the ends of the distilled step."""
        if not self.distil:
            return super().paths(context, conditions, generator)
        noise = self._noise(context, generator)
        return torch.stack([noise, self.solve(noise, context, conditions)])

    # Training ------------------------------------------------------------------------------------

    def loss(
        self,
        data: Float[Tensor, "batch channel *space"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the squared error of the velocity on lines to data, or on those of the teacher."""
        if self._teacher is not None:
            if self._made is None:  # only now is the device of the training known
                self._made = self._make_pairs(data)
            noise, data, context, conditions = self._made.draw(len(data), generator)
        else:
            noise = torch.empty_like(data).normal_(generator=generator)
            if self.coupling == "optimal":
                noise = noise[_assignment(noise.flatten(1), data.flatten(1))]
        time = torch.rand(len(data), generator=generator, device=data.device, dtype=data.dtype)
        time = torch.zeros_like(time) if self.distil else time
        time = FIRST + (1 - FIRST) * time
        # the distilled step starts in the noise itself
        share = (0.0 * time if self.distil else time).reshape(-1, *(1,) * (data.ndim - 1))
        state = share * data + (1 - share) * noise
        return (self.velocity(state, time, context, conditions) - (data - noise)).square().mean()

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Use the flow `starts_from` as the teacher of a re-flow, starting from its weights.

        Raises
        ------
        ValueError
            A source that isn't a flow, has another network, or sees something else; distillation
            without a source.
        """
        source: Any = only(sources)
        if source is None:
            if self.distil:
                raise ValueError("distil needs starts_from: the flow whose step is learnt")
            return
        if not hasattr(source, "solve"):
            raise ValueError(f"{type(source).__name__} is not a flow: re-flow can't start from it")
        same = torch.equal(self.field_mean, source.field_mean) and torch.equal(
            self.field_std, source.field_std
        )
        if not same or self.view != source.view:
            raise ValueError("a re-flow must see what the flow that it starts from sees")
        if isinstance(source, RectifiedFlow):
            try:
                self.network.load_state_dict(source.network.state_dict())
            except RuntimeError:
                raise ValueError(
                    "a re-flow needs the network of the flow that it starts from: width, layers, "
                    "multipliers"
                ) from None
        self._teacher = (source, data)

    @torch.no_grad()
    def _make_pairs(self, like: Float[Tensor, "batch channel *space"]) -> "_Pairs":
        """Let the teacher carry fresh noise to data, under conditions of the training data."""
        assert self._teacher is not None
        teacher, data = self._teacher
        teacher = teacher.to(like.device, like.dtype).eval()
        windows, seeds = data.train_windows, np.random.SeedSequence(data.seed, spawn_key=(1,))
        first, second = seeds.generate_state(2)
        chosen = np.random.default_rng(first).integers(0, len(windows), self.pairs)
        generator = torch.Generator(like.device).manual_seed(int(second))
        parts: list[list[Tensor]] = []
        for some in np.array_split(chosen, -(-self.pairs // MADE_AT_ONCE)):
            frames, parameters = (torch.from_numpy(part).to(like) for part in windows.read(some))
            context = self.context_of(self.observe(frames[:, 0], generator))
            conditions = self.scaled_conditions(parameters)
            noise = torch.empty_like(frames[:, 0]).normal_(generator=generator)
            parts.append([noise, teacher.solve(noise, context, conditions), context, conditions])
        return _Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Pairs:
    """Noise, the data that a flow carries it to, and their conditions."""

    def __init__(self, *columns: Tensor):
        self.columns = columns

    def draw(self, count: int, generator: torch.Generator) -> list[Tensor]:
        """Return a random batch; rows stay together."""
        device = self.columns[0].device
        rows = torch.randint(len(self.columns[0]), (count,), generator=generator, device=device)
        return [column[rows] for column in self.columns]


def _assignment(
    noise: Float[Tensor, "batch value"], data: Float[Tensor, "batch value"]
) -> Int[Tensor, " batch"]:
    """Return for each datum the row of its noise, assigned in groups of `GROUP`."""
    rows = []
    for first in range(0, len(data), GROUP):
        some = slice(first, first + GROUP)
        cost = torch.cdist(data[some].double(), noise[some].double()).square().cpu().numpy()
        rows.append(first + linear_sum_assignment(cost)[1])
    return torch.from_numpy(np.concatenate(rows)).to(data.device)
