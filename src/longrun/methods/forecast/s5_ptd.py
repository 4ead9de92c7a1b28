"""S5 with perturb-then-diagonalise start, S5-PTD (Yu et al., 2024, arXiv:2310.01698).

A state-space layer remembers its input u by a linear system, best by the HiPPO-LegS matrix. That
matrix is too far from normal to be diagonalised, so S4D and S5 keep its normal part alone, whose
transfer function has spikes that HiPPO's lacks: the layer is fragile to some frequencies. PTD adds
a small perturbation E first, and diagonalises all of it.

    x' = A x + B u,   y = Re(C x) + D u,
    A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, B_n = sqrt(2n+1)
    PTD:     A + E = V Lambda V^-1
    normal:  A + P P^T = V Lambda V^*,   P_n = sqrt(n + 1/2)
    layer:   x_t = exp(Lambda dt) x_(t-1) + Lambda^-1 (exp(Lambda dt) - 1) V^-1 B u_t,   C -> C V
    block:   u + g * sigmoid(W g),   g = gelu(y of the normalised u)

Lambda, V^-1 B, C V, D and log dt are learnt, with Re Lambda = -exp(.) < 0. `initialisation: normal`
is S5's, the ablation: the same layer, size and training.

What we chose:

- E is real and Gaussian, of norm 3e-4 |A|, of 32 draws the one with the smallest condition number
  of V: about 1600 at 32 states, 3000 at 64. The paper optimises E; at a tenth of |A|, a random E
  moves eigenvalues across the imaginary axis and spoils the transfer function.
- S5 has several inputs and outputs: B and C are random in the coordinates of HiPPO, as S5's.
- Steps dt are log-uniform in [1e-3, 1e-1], one for each HiPPO block, where S5 has one for each
  state: the columns of V are far from orthogonal, and steps that differ among them would undo the
  cancellation that makes V Lambda V^-1 close to A.
- Rows of V^-1 B and columns of C V are scaled to the same norm, which changes no output.
- The whole complex state is kept, not one of each conjugate pair. A window is a convolution by FFT
  in place of a parallel scan; a rollout is the recurrence.
"""

import functools
import math
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy import ndarray
from torch import Tensor, nn
from torch.nn import functional

from longrun.metrics.pointwise import nrmse
from longrun.metrics.table import ScoreTable
from longrun.nn.sequence import Memory
from longrun.tasks._sequence import AbstractSequenceForecaster

METRICS = {
    "transfer_error": (
        "transfer error",
        "Largest distance, over all frequencies, of the initial layer's transfer function from "
        "input to state from that of HiPPO-LegS with 64 states, over the largest size of it.",
    ),
    "worst_rise": (
        "rise at the worst frequency",
        "By how much the nRMSE of the first 8 steps grows when the history hums: a sinusoid with a "
        "tenth of the field's standard deviation, the same at every point, of that frequency for "
        "which it grows most, out of 16 even ones and the 16 strongest resonances of the layers.",
    ),
}
Initialisation = Literal["ptd", "normal"]

PERTURBATION, DRAWS = 3e-4, 32
TRANSFER_STATES = 64
HUM, FREQUENCIES, RISE_STEPS, RISE_TRAJECTORIES = 0.1, 16, 8, 16


class S5PTD(AbstractSequenceForecaster):
    """Diagonal state-space layers over frames.

    Parameters
    ----------
    fields, dims, conditions, points, width
        See `AbstractSequenceForecaster`, also for the options.
    layers : int
        Blocks.
    state, copies : int
        Size of a HiPPO block, and how many a layer has, each with a time step of its own.
    initialisation : {"ptd", "normal"}
        Of the layers: perturbed and diagonalised, or the normal part.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 32,
        layers: int = 2,
        state: int = 32,
        copies: int = 4,
        initialisation: Initialisation = "ptd",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, width, **options)
        if min(state, copies) < 1:
            raise ValueError("state and copies must be at least 1")
        self.initialisation: Initialisation = initialisation
        self.blocks = nn.ModuleList(
            StateSpaceBlock(width, state, copies, initialisation) for _ in range(layers)
        )

    def own_scores(self, store: Any, options: dict[str, Any]) -> ScoreTable:
        """Score the start of a layer, and what a hum in the history does to a forecast."""
        table = ScoreTable(store.path.stem)
        table.add("transfer_error", transfer_error(TRANSFER_STATES, self.initialisation))
        rise = self._rise(store.split(options.get("split", "test")), options)
        table.add("worst_rise", rise, trajectory=np.arange(len(rise)))
        return table

    def _rise(self, split: Any, options: dict[str, Any]) -> Float[ndarray, " trajectory"]:
        """Return by how much the error of each trajectory grows at the worst frequency."""
        stride, steps = options["stride"], min(RISE_STEPS, options["steps"])
        first = options.get("start", 0) - (self.history - 1) * stride
        chosen = np.arange(min(RISE_TRAJECTORIES, options["trajectories"]))
        count = self.history + steps
        frames = split.windows(chosen, np.full_like(chosen, first), count, stride)
        frames = torch.from_numpy(frames).to(self.device)
        table = np.stack([split.parameters[name] for name in split.parameter_names], 1)
        parameters = torch.from_numpy(table[chosen]).to(frames)
        history, truth = frames[:, : self.history], frames[:, self.history :].cpu().numpy()

        def error(history: Tensor) -> Float[ndarray, " trajectory"]:
            memory, found = self.begin(history, parameters), []
            for _ in range(steps):
                frame, memory = self.advance(memory)
                found.append(frame.cpu().numpy())
            return nrmse(np.stack(found, 1), truth, self.dims).mean(1)

        with torch.no_grad():
            still = error(history)
            rises = [error(history + self._hum(angle)) - still for angle in self._angles()]
        return max(rises, key=np.mean)

    def _angles(self) -> list[float]:
        """Return the frequencies to hum at, as angles from frame to frame, at most half a turn.

        Spikes are so narrow that none may lie near one of a few even frequencies.
        """
        even = [math.pi * number / FREQUENCIES for number in range(1, FREQUENCIES + 1)]
        blocks: Any = self.blocks
        found = [block.resonances() for block in blocks]
        angles, sizes = (torch.cat(parts) for parts in zip(*found, strict=True))
        strongest = sizes.argsort(descending=True)[:FREQUENCIES]
        return even + angles[strongest].tolist()

    def _hum(self, angle: float) -> Float[Tensor, "frame channel *ones"]:
        """Return the sinusoid that turns by so much from frame to frame."""
        frame = torch.arange(self.history, device=self.device, dtype=self.field_std.dtype)
        size = HUM * self.per_channel(self.field_std)
        return (angle * frame).cos().reshape(-1, *(1,) * size.ndim) * size


class StateSpaceBlock(nn.Module):
    """A norm, the layer and its gate beside an identity; its memory is the state.

    Parameters
    ----------
    width, state, copies, initialisation
        See `S5PTD`.
    """

    def __init__(self, width: int, state: int, copies: int, initialisation: Initialisation):
        super().__init__()
        start, vectors = diagonalised(state, initialisation)
        values = torch.from_numpy(start).expand(copies, -1)
        basis = torch.from_numpy(vectors)
        given = torch.randn(copies, state, width, dtype=torch.float64) / math.sqrt(width)
        read = torch.randn(copies, width, state, dtype=torch.float64) / math.sqrt(state * copies)
        into = torch.linalg.solve(basis, given.to(basis))
        out = read.to(basis) @ basis
        balance = (into.norm(dim=2) / out.norm(dim=1)).sqrt()[..., None]
        self.norm = nn.LayerNorm(width)
        self.decay = nn.Parameter((-values.real).log().float())
        self.frequency = nn.Parameter(values.imag.float().clone())
        self.into = nn.Parameter(torch.view_as_real(into / balance).float().contiguous())
        self.out = nn.Parameter(torch.view_as_real(out * balance.mT).float().contiguous())
        low, high = math.log(1e-3), math.log(1e-1)
        self.log_step = nn.Parameter(low + (high - low) * torch.rand(copies, 1))
        self.through = nn.Parameter(torch.randn(width))
        self.gate = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch time width"], memory: Memory
    ) -> tuple[Float[Tensor, "batch time width"], Memory]:
        """Return the tokens after the block, and the state after the last."""
        given = self.norm(x)
        growth, into = self._discrete()
        drive = torch.einsum("btw,csw->bcst", given.to(into), into)
        before = torch.view_as_complex(memory["state"]) if memory else None
        states = accumulated(drive, growth, before)
        read = torch.einsum("bcst,cws->btw", states, torch.view_as_complex(self.out)).real
        found = functional.gelu(read + self.through * given)
        after = torch.view_as_real(states[..., -1].contiguous())
        return x + found * self.gate(found).sigmoid(), {"state": after}

    def _discrete(
        self,
    ) -> tuple[Complex[Tensor, "copy state"], Complex[Tensor, "copy state width"]]:
        """Return Lambda dt, and Lambda^-1 (exp(Lambda dt) - 1) V^-1 B."""
        values = torch.complex(-self.decay.exp(), self.frequency)
        growth = values * self.log_step.exp()
        held = (growth.exp() - 1).div(values)[..., None]
        return growth, torch.view_as_complex(self.into) * held

    def resonances(self) -> tuple[Float[Tensor, " state"], Float[Tensor, " state"]]:
        """Return the angle from frame to frame to which each state answers most, and how much."""
        growth, into = self._discrete()
        size = into.norm(dim=2) * torch.view_as_complex(self.out).norm(dim=1)
        angle = growth.imag.abs().remainder(2 * math.pi)
        angle = torch.minimum(angle, 2 * math.pi - angle)  # frames show no other
        return angle.flatten(), (size / (1 - growth.real.exp())).flatten()


def accumulated(
    drive: Complex[Tensor, "batch copy state time"],
    growth: Complex[Tensor, "copy state"],
    before: Complex[Tensor, "batch copy state"] | None,
) -> Complex[Tensor, "batch copy state time"]:
    """Return x_t = exp(growth) x_(t-1) + drive_t for all t, by a convolution.

    Parameters
    ----------
    drive, growth
        See above.
    before
        The state before the first time; zero by default.
    """
    time = drive.shape[-1]
    powers = growth[..., None] * torch.arange(time, device=drive.device)
    if time > 1:
        padded = torch.fft.fft(drive, 2 * time) * torch.fft.fft(powers.exp(), 2 * time)
        drive = torch.fft.ifft(padded)[..., :time]
    if before is None:
        return drive
    return drive + before[..., None] * (powers + growth[..., None]).exp()


def hippo(state: int) -> tuple[Float[ndarray, "state state"], Float[ndarray, " state"]]:
    """Return A and B of HiPPO-LegS."""
    root = np.sqrt(2 * np.arange(state) + 1.0)
    return -np.tril(np.outer(root, root), -1) - np.diag(np.arange(state) + 1.0), root


@functools.cache
def diagonalised(
    state: int, initialisation: Initialisation
) -> tuple[Complex[ndarray, " state"], Complex[ndarray, "state state"]]:
    """Return eigenvalues and unit eigenvectors that a layer starts from, the same at every call."""
    matrix, _ = hippo(state)
    if initialisation == "normal":
        rank_one = np.sqrt(np.arange(state) + 0.5)
        skew = matrix + np.outer(rank_one, rank_one) + 0.5 * np.eye(state)
        values, vectors = np.linalg.eigh(-1j * skew)
        return -0.5 + 1j * values, vectors
    draws = np.random.default_rng(0).normal(size=(DRAWS, state, state))
    sizes = np.linalg.norm(draws, 2, (1, 2))[:, None, None]
    draws *= PERTURBATION * np.linalg.norm(matrix, 2) / sizes
    values, vectors = np.linalg.eig((matrix + draws).astype(np.complex128))
    best = np.linalg.cond(vectors).argmin()
    return values[best], vectors[best]


@functools.cache
def transfer_error(state: int, initialisation: Initialisation) -> float:
    """Return the relative error, over all frequencies, of the transfer function to the state.

    Multiplied by any C it is that of an output. The normal part has B / 2, for which it converges
    to HiPPO, if weakly (Gu et al., 2022, arXiv:2206.11893).
    """
    matrix, given = hippo(state)
    values, vectors = diagonalised(state, initialisation)
    factor = 0.5 if initialisation == "normal" else 1.0
    into = np.linalg.solve(vectors, factor * given.astype(np.complex128))
    frequencies = np.concatenate([np.linspace(0, 50, 201), np.geomspace(50, 1e5, 600)])
    systems = 1j * frequencies[:, None, None] * np.eye(state) - matrix
    true = np.linalg.solve(systems, np.broadcast_to(given[:, None], (len(frequencies), state, 1)))
    found = vectors @ (into / (1j * frequencies[:, None] - values))[..., None]
    error, size = (np.linalg.norm(part, axis=1).max() for part in (found - true, true))
    return float(error / size)
