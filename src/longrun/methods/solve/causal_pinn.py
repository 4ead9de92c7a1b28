"""Causal PINN (Wang, Sankaran and Perdikaris, 2022, arXiv:2203.07404).

A physics-informed network that minimises the residual at all times at once may satisfy the equation
at late times around a wrong state. Here a slice of time counts only as far as everything before it
is solved:

    w_i = exp(-epsilon (sum_{j<i} L_j + L_0)),    loss = mean_i(w_i L_i) + L_0

L_i is the mean squared residual at time t_i, L_0 the weighted error of the initial state. The sum
is over strictly earlier slices, and w is a constant for the gradient: otherwise the network would
raise early losses to get rid of late ones. `epsilons` is a list of stages; a stage ends when min_i
w_i exceeds `solved`, or after its share of the updates. The paper stops altogether when that
happens in the last stage; here the last stage goes on until the last update, so that all methods of
a comparison have the same number. Without `epsilons` it is the plain PINN.

On periodic axes the coordinates enter as 1, cos(k w x), sin(k w x), which makes the field exactly
periodic (products of these where there are several axes); between walls they enter as they are,
scaled to [-1, 1], and the walls are a term of the loss. Derivatives are Taylor coefficients that
go through the layers along each coordinate.

Deviations: time is scaled to [0, 1] (the paper's is already, except for Lorenz), the stopping rule
is tested after every update instead of every thousand. Not here: one network after the other for
consecutive windows of time, powers of ten of the time among the inputs, and the balancing of
gradients and the factorised weights of later work by the same group.

The authors' public code is licensed CC BY-NC-SA 4.0, and says that the algorithm is protected by a
patent for commercial use. Nothing of it is used here; ask its authors before commercial use of this
method.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.tasks._learner import Batch
from longrun.tasks.solve import AbstractFieldSolver, Derivatives

SLICES = 21  # weights that are logged, evenly spaced over the slices

Jets = list[Float[Tensor, "_ _"]]
"""Taylor coefficients (point, channel): order 0, then orders 1, 2, ... along each coordinate."""


class CausalPINN(AbstractFieldSolver):
    """A tanh network of periodic features, trained with causal weights.

    Parameters
    ----------
    points, equation
        See `AbstractFieldSolver`, also for the options.
    layers, width : int
        Hidden layers and their width.
    harmonics : int
        Highest multiple of the lowest frequency in the encoding of a periodic axis.
    modified : bool
        Mix every hidden layer H of two gates U and V of the input: H U + (1 - H) V.
    epsilons : list of float
        Steepness of the weights in each stage; none for equal weights.
    solved : float
        Smallest weight at which a stage ends.
    stage_steps : int or None
        Updates after which any stage except the last ends; None shares them equally.
    initial_in_weights : bool
        Let L_0 delay all slices, as in the paper's formula; its code for Allen-Cahn does not.
    hard_initial : bool
        Build the initial state in, as state + t network; only without axes of space.

    Raises
    ------
    ValueError
        See `AbstractFieldSolver`; or an equation with mixed derivatives, or on a box with both
        walls and periodic axes.
    """

    stage: Tensor
    stage_start: Tensor

    def __init__(
        self,
        points: list[int],
        equation: dict[str, Any],
        layers: int = 4,
        width: int = 128,
        harmonics: int = 10,
        modified: bool = False,
        epsilons: list[float] = [100.0],  # noqa: B006 (read, never written)
        solved: float = 0.99,
        stage_steps: int | None = None,
        initial_in_weights: bool = True,
        hard_initial: bool = False,
        **options: Any,
    ):
        super().__init__(points, equation, **options)
        if any(epsilon <= 0 for epsilon in epsilons):
            raise ValueError("epsilons must be positive; leave them out for equal weights")
        if epsilons and self.steady:
            raise ValueError("causal weights need time: give no epsilons for a steady equation")
        if layers < 1 or harmonics < 1:
            raise ValueError("layers and harmonics must be at least 1")
        if hard_initial and (self.dims or self.steady):
            raise ValueError("hard_initial is for equations without axes of space")
        if len(set(self.given_boundary)) > 1:
            raise ValueError("a box with both walls and periodic axes is not supported")
        orders = _orders(self.variables, self.equation.derivatives)
        self.orders = tuple(orders[letter] for letter in self.variables)
        self.harmonics, self.modified, self.hard_initial = harmonics, modified, hard_initial
        self.epsilons, self.solved = list(epsilons), solved
        self.stage_steps, self.initial_in_weights = stage_steps, initial_in_weights
        self.periodic = "periodic" in self.given_boundary
        features = (2 * harmonics + 1) ** self.dims if self.periodic else self.dims
        inputs = features + int(not self.steady)
        widths = [inputs] + [width] * layers
        self.hidden = torch.nn.ModuleList(
            torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)
        )
        self.gates = torch.nn.ModuleList(
            torch.nn.Linear(inputs, width) for _ in range(2 if modified else 0)
        )
        self.last = torch.nn.Linear(width, len(self.names))
        for layer in (*self.hidden, *self.gates, self.last):
            torch.nn.init.xavier_normal_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        self.register_buffer("stage", torch.zeros((), dtype=torch.long))
        self.register_buffer("stage_start", torch.zeros((), dtype=torch.long))
        self._smallest: Tensor | None = None

    # Network -------------------------------------------------------------------------------------

    def forward(self, points: Float[Tensor, "point variable"]) -> Float[Tensor, "point field"]:
        """Return the field at points."""
        return self._jets(points, (0,) * len(self.orders))[0]

    def differentiate(
        self, points: Float[Tensor, "point variable"], names: Sequence[str]
    ) -> Derivatives:
        """Return the field ("") and its derivatives at points, by name."""
        jets = self._jets(points, self.orders)
        first = dict(zip(self.variables, _starts(self.orders), strict=True))
        found = {"": jets[0]}
        for name in names:
            order = len(name)
            found[name] = math.factorial(order) * jets[first[name[0]] + order - 1]
        return found

    def _jets(self, points: Float[Tensor, "point variable"], orders: tuple[int, ...]) -> Jets:
        """Return the network's Taylor coefficients along each coordinate."""
        inputs = self._encode(points, orders)
        gates = [_tanh(_affine(gate, inputs), orders) for gate in self.gates]
        jets = inputs
        for layer in self.hidden:
            jets = _tanh(_affine(layer, jets), orders)
            if gates:
                u, v = gates
                ahead = [a - b for a, b in zip(u, v, strict=True)]
                mixed = _product(jets, ahead, orders)
                jets = [a + b for a, b in zip(v, mixed, strict=True)]
        jets = _affine(self.last, jets)
        if not self.hard_initial:
            return jets
        time = [points[:, :1], *[torch.ones_like(points[:, :1])] * min(orders[0], 1)]
        jets = _product(jets, time, orders)
        return [jets[0] + self.initial, *jets[1:]]

    def _encode(self, points: Float[Tensor, "point variable"], orders: tuple[int, ...]) -> Jets:
        """Return the features of points and their Taylor coefficients."""
        extent, first = self.extent, int(not self.steady)
        zero = points.new_zeros(len(points), 1)
        blocks: list[Jets] = []
        if first:
            time = [points[:, :1] / extent[0], *[zero + 1 / extent[0]] * min(orders[0], 1)]
            blocks.append(time + [zero] * (1 + sum(orders) - len(time)))
        if self.periodic:
            waves = [
                self._waves(points[:, first + axis], extent[first + axis], orders[first + axis])
                for axis in range(self.dims)
            ]
            block = [_outer([wave[0] for wave in waves])]
            block += [torch.zeros_like(block[0])] * (orders[0] if first else 0)
            for axis in range(self.dims):
                for order in range(1, 1 + orders[first + axis]):
                    block.append(_outer([w[order * (i == axis)] for i, w in enumerate(waves)]))
            blocks.append(block)
        else:
            for axis in range(self.dims):
                place, scale = _starts(orders)[first + axis], 2 / extent[first + axis]
                block = [points[:, first + axis, None] * scale - 1] + [zero] * sum(orders)
                if orders[first + axis]:
                    block[place] = zero + scale
                blocks.append(block)
        return [torch.cat(parts, -1) for parts in zip(*blocks, strict=True)]

    def _waves(
        self, x: Float[Tensor, " point"], length: Tensor, order: int
    ) -> list[Float[Tensor, "point feature"]]:
        """Return 1, cos(k w x), sin(k w x) and their Taylor coefficients up to an order."""
        rates = 2 * torch.pi / length * torch.arange(1, self.harmonics + 1, device=x.device)
        angle = x[:, None] * rates
        one, cosine, sine = torch.ones_like(x)[:, None], torch.cos(angle), torch.sin(angle)
        found = [torch.cat([one, cosine, sine], 1)]
        for n in range(1, order + 1):
            cosine, sine = -sine * rates / n, cosine * rates / n
            found.append(torch.cat([torch.zeros_like(one), cosine, sine], 1))
        return found

    # Causal weights ------------------------------------------------------------------------------

    def weights(
        self, slices: Float[Tensor, " time"], given: Float[Tensor, ""]
    ) -> Float[Tensor, " time"]:
        """Return the causal weights of slices, constants for the gradient."""
        slices, given = slices.detach(), given.detach()
        earlier = torch.cumsum(slices, 0) - slices
        if self.initial_in_weights:
            earlier = earlier + given
        return torch.exp(-self.epsilon * earlier)

    @property
    def epsilon(self) -> float:
        """Steepness of the weights in the current stage; 0 for equal weights."""
        return self.epsilons[int(self.stage)] if self.epsilons else 0.0

    def weigh(self, slices: Float[Tensor, " time"], given: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Return the weighted mean of the slices."""
        weights = self.weights(slices, given)
        self._smallest = weights.min()
        if self.epsilons:
            self.log_training("smallest_weight", self._smallest)
            self.log_training("epsilon", torch.tensor(self.epsilon))
            for number in range(SLICES):
                place = round(number * (len(weights) - 1) / (SLICES - 1))
                self.log_training(f"weight_{number:02d}", weights[place])
        return (weights * slices).mean()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Go on to the next stage when all slices are solved or the stage's updates are used."""
        if self._smallest is None or int(self.stage) >= len(self.epsilons) - 1:
            return
        share = self.trainer.max_steps // len(self.epsilons)
        longest = share if self.stage_steps is None else self.stage_steps
        late = self.global_step - int(self.stage_start) >= longest
        if late or float(self._smallest) > self.solved:
            self.stage += 1
            self.stage_start.fill_(self.global_step)


# Taylor coefficients ---------------------------------------------------------------------------


def _orders(variables: Sequence[str], derivatives: Sequence[str]) -> dict[str, int]:
    """Return the highest order of derivatives along each coordinate."""
    orders = dict.fromkeys(variables, 0)
    for name in derivatives:
        if len(set(name)) != 1:
            raise ValueError(f"derivatives along one coordinate are supported, {name} is mixed")
        orders[name[0]] = max(orders[name[0]], len(name))
    return orders


def _starts(orders: Sequence[int]) -> list[int]:
    """Return where the coefficients of each coordinate begin."""
    return [1 + sum(orders[:i]) for i in range(len(orders))]


def _outer(factors: Sequence[Float[Tensor, "point feature"]]) -> Float[Tensor, "point product"]:
    """Return all products of one feature of each axis."""
    product = factors[0]
    for factor in factors[1:]:
        product = (product[:, :, None] * factor[:, None]).flatten(1)
    return product


def _affine(layer: Any, jets: Jets) -> Jets:
    """Apply a linear layer, in one product; its bias has no derivatives."""
    value, *others = torch.nn.functional.linear(torch.stack(jets), layer.weight).unbind()
    return [value + layer.bias, *others]


def _tanh(jets: Jets, orders: Sequence[int]) -> Jets:
    """Apply tanh: y' = (1 - y^2) z' gives each coefficient from those before it."""
    value = torch.tanh(jets[0])
    slope = 1 - value * value
    out = [value]
    for start, order in zip(_starts(orders), orders, strict=True):
        z = [jets[0], *jets[start : start + order]]
        y, w = [value], [slope]  # of tanh and of its derivative
        for n in range(1, order + 1):
            y.append(_sum([j / n * z[j] * w[n - j] for j in range(1, n + 1)]))
            if n < order:
                w.append(-_sum([y[i] * y[n - i] for i in range(n + 1)]))
        out += y[1:]
    return out


def _product(a: Jets, b: Jets, orders: Sequence[int]) -> Jets:
    """Multiply, by Cauchy's product along each coordinate; coefficients that b lacks are zero."""
    out = [a[0] * b[0]]
    for start, order in zip(_starts(orders), orders, strict=True):
        left, right = [a[0], *a[start : start + order]], [b[0], *b[start : start + order]]
        for n in range(1, order + 1):
            out.append(_sum([left[i] * right[n - i] for i in range(n + 1) if n - i < len(right)]))
    return out


def _sum(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
