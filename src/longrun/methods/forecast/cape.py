"""CAPE, channel attention guided by parameters (Takamoto et al., 2023, arXiv:2304.14118).

A small block in front of any network estimates the next frame from the last one and the equation's
parameters lambda, by three kinds of convolution whose channels the parameters gate. The network
then sees the frame and the estimate.

    g_i = W2_i GELU(W1_i s(lambda)),   s(lambda) = lambda in one, lambda / (1 + lambda) in two
    y   = GELU(conv5(x))                                                      dimensions
    z   = up4(spectral(pool4(y)) g_0) + conv1(y) g_1 + depthwise_conv5(y) g_2 + conv1(y)
    r   = LayerNorm(conv1(GELU(z))),  over space
    e   = x + r in one,  x (1 + r) in two dimensions
    target = conv1(base([x, e, grid coordinates]))

    loss = sum over steps of |prediction - u| / |u| + a |e - u| / |u|
         + b mean (|d prediction / d lambda| - c)^2     (first step, random lambda)

Training moves from true frames to rollouts by the scheme `curriculum`; in the first
`block_updates` updates the second term trains the block alone. `conditioning` also offers CAPE's
baselines: parameters as constant channels, or none.

Our decisions, where the description leaves a choice or has a flaw:

- Parameters are taken as they are (s above), not scaled to the range of the training data.
- The public loop adds the second term's running sum at every step, which multiplies its weight by
  about half the number of steps; here each step counts once. The loss is the mean over the steps
  instead of their sum, so b is divided by their number.
- |d prediction / d lambda| is the norm of the Jacobian over the whole frame, and lambda is uniform
  between its extremes in training.
- Convolutions are periodic, and the last one of the block has no bias: the norm would remove it.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from longrun.nn.fno import FNOBackbone
from longrun.nn.unet import CONVOLUTION, CircularConvolution, UNetBackbone
from longrun.tasks.forecast import AbstractForecaster

POOL = 4  # cells of a side that the spectral branch averages
KERNEL = 5
BLOCK_MODES = {1: 16, 2: 9}  # the paper's


class CAPE(AbstractForecaster):
    """A Fourier neural operator or a U-Net, given the equation's parameters in one of three ways.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    points : list of int
        Grid points per axis, to which the block is tied; from the data.
    base : {"fno", "unet"}
        The network.
    conditioning : {"cape", "channels", "none"}
        The block; parameters as constant channels; or nothing.
    width, modes, layers, multipliers
        Of the network: `modes` and `layers` of the operator, which mixes wavenumber indices below
        `modes`; `multipliers` of the U-Net.
    block_width : int
        Channels of the block, even.
    block_modes : int or None
        Wavenumber indices of the block's spectral convolution are below this; None is 16 in one
        dimension, 9 in two. The pooled grid may have fewer.
    block_updates : int
        Initial updates, which train only the block.
    auxiliary_weight : float
        a, of the block's own error.
    gradient_weight, gradient_norm : float
        b and c, of the norm of the derivative by the parameters; the paper has b in one dimension.
    coordinates : bool
        Show the network the grid's coordinates.
    """

    supported_dims = (1, 2)
    translates = False  # grid coordinates, and weights of the norm for every point
    lowest: Tensor
    highest: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        base: Literal["fno", "unet"] = "fno",
        conditioning: Literal["cape", "channels", "none"] = "cape",
        width: int = 20,
        modes: int = 12,
        layers: int = 4,
        multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 (read, never written)
        block_width: int = 64,
        block_modes: int | None = None,
        block_updates: int = 0,
        auxiliary_weight: float = 5.7e-5,
        gradient_weight: float = 0.0,
        gradient_norm: float = 4.58,
        coordinates: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if modes < 2:
            raise ValueError(f"modes must be at least 2, is {modes}")
        has_block = conditioning == "cape"
        if has_block and not self.scalars:
            raise ValueError("conditioning: cape needs a parameter that varies in the data")
        if (block_updates or gradient_weight) and not has_block:
            raise ValueError("block_updates and gradient_weight need conditioning: cape")
        self.conditioning, self.coordinates = conditioning, coordinates
        self.block_updates, self.auxiliary_weight = block_updates, auxiliary_weight
        self.gradient_weight, self.gradient_norm = gradient_weight, gradient_norm
        inputs = self.history * fields + coordinates * dims
        if conditioning == "channels":
            inputs += self.scalars
        self.block = None
        if has_block:
            block_modes = block_modes or BLOCK_MODES[dims]
            self.block = Block(
                points, self.history * fields, fields, self.scalars, block_width, block_modes
            )
            inputs += fields
        outputs = 2 * fields if has_block else fields
        self.network: FNOBackbone | UNetBackbone
        if base == "fno":
            # neuraloperator counts the modes of both signs: below m there are 2 m - 1 of them
            self.network = FNOBackbone(dims, inputs, outputs, width, 2 * (modes - 1), layers)
        else:
            self.network = UNetBackbone(dims, inputs, outputs, 0, width, multipliers)
        self.mix = CONVOLUTION[dims](outputs, fields, 1) if has_block else nn.Identity()
        self.register_buffer("lowest", torch.zeros(conditions))
        self.register_buffer("highest", torch.ones(conditions))

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the training data's statistics, and the range of the parameters."""
        super().fit_statistics(statistics)
        for bound, name in ((self.lowest, "condition_low"), (self.highest, "condition_high")):
            bound.copy_(self.scaled_conditions(torch.tensor([statistics[name]]).to(bound))[0])

    def scaled_conditions(
        self, parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch condition"]:
        """Return s of the parameters that vary."""
        chosen = parameters.index_select(1, self.condition_index)
        return chosen if self.dims == 1 else chosen / (1 + chosen)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        return self._predict(history, conditions, self.estimate(history, conditions))

    def estimate(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch channel *space"] | None:
        """Return the block's own next frame, normalised; None without a block."""
        if self.block is None:
            return None
        last, correction = history[:, -1], self.block(history.flatten(1, 2), conditions)
        return last + correction if self.dims == 1 else last * (1 + correction)

    def _predict(
        self, history: Tensor, conditions: Tensor, estimate: Tensor | None
    ) -> Float[Tensor, "batch channel *space"]:
        inputs = [history.flatten(1, 2)]
        if estimate is not None:
            inputs.append(estimate)
        space = (len(history), -1, *history.shape[3:])
        if self.conditioning == "channels":
            inputs.append(conditions.reshape(*conditions.shape, *(1,) * self.dims).expand(space))
        if self.coordinates:
            axes = [torch.arange(n, device=history.device) / n for n in history.shape[3:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(history.dtype)
            inputs.append(grid.expand(space))
        x = torch.cat(inputs, dim=1)
        if isinstance(self.network, UNetBackbone):
            return self.mix(self.network(x, conditions[:, :0]))
        return self.mix(self.network(x))

    def frame_loss(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        following: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
        lead: Int[Tensor, " batch"] | None = None,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "batch channel *space"] | None]:
        """Return the loss of a step with the block's own error, and the predicted frame."""
        if self.block is None:
            return super().frame_loss(history, following, parameters, generator, lead)
        conditions, frames = self._scalars(parameters, lead), self.normalised(history)
        target = self.scaled_target(history[:, -1], following)
        estimate = self.estimate(frames, conditions)
        assert estimate is not None  # there is a block
        state = self.physical(estimate)
        own = self.step_error(self.scaled_target(history[:, -1], state), target, frames)
        self.log_training("block_loss", own.detach())
        if self.global_step < self.block_updates:
            return own, following
        prediction = self._predict(frames, conditions, estimate)
        loss = self.step_error(prediction, target, frames) + self.auxiliary_weight * own
        return loss, self.next_frame(history[:, -1], prediction)

    def batch_loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of a batch of windows, with the penalty of the gradient."""
        loss = super().batch_loss(batch, generator)
        if not self.gradient_weight or self.global_step < self.block_updates:
            return loss
        history = self.normalised(batch["window"][:, : self.history])
        weight = self.gradient_weight / self.unroll  # the loss is a mean over the steps
        return loss + weight * self.gradient_penalty(history, generator)

    def gradient_penalty(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return how far the derivative by random parameters is from `gradient_norm`, squared."""
        shape = (len(history), len(self.lowest))
        uniform = torch.rand(shape, dtype=history.dtype, device=history.device, generator=generator)
        chosen = self.lowest + (self.highest - self.lowest) * uniform
        chosen = chosen.to(history.dtype).requires_grad_()
        lead = torch.full((len(history), self.scalars - shape[1]), 10 / self.unroll)
        prediction = self.step(history, torch.cat([chosen, lead.to(chosen)], dim=1))
        # Forward derivatives from two backward ones: the product with `weights` is linear in them.
        weights = torch.zeros_like(prediction, requires_grad=True)
        (product,) = torch.autograd.grad(prediction, chosen, weights, create_graph=True)
        squared = torch.zeros_like(prediction[:, 0].flatten(1)[:, 0])
        for column in product.unbind(1):
            (derivative,) = torch.autograd.grad(column.sum(), weights, create_graph=True)
            squared = squared + derivative.flatten(1).square().sum(1)
        return (squared.sqrt() - self.gradient_norm).square().mean()


def grid_multiple(base: str, multipliers: list[int], **_: object) -> int:
    """Return what every side of the grid must be a multiple of."""
    return int(2 ** min(max(len(multipliers) - 1, 0), 60)) if base == "unet" else 1


class Block(nn.Module):
    """The correction of a frame that makes it an estimate of the next one.

    Parameters
    ----------
    points
        Grid points per axis, multiples of 4.
    inputs, outputs
        Channels of the frames shown, and of a frame.
    scalars
        Parameters, after s.
    width, modes
        See `CAPE`.
    """

    def __init__(
        self,
        points: Sequence[int],
        inputs: int,
        outputs: int,
        scalars: int,
        width: int,
        modes: int,
    ):
        super().__init__()
        if width % 2 or width < 2:
            raise ValueError(f"block_width must be even, is {width}")
        if any(n % POOL for n in points):
            raise ValueError(f"every side of {tuple(points)} must be a multiple of {POOL}")
        dims, half = len(points), width // 2
        convolution = CONVOLUTION[dims]
        self.pool = functional.avg_pool1d if dims == 1 else functional.avg_pool2d
        self.gates = nn.ModuleList(
            nn.Sequential(nn.Linear(scalars, half), nn.GELU(), nn.Linear(half, width))
            for _ in range(3)
        )
        self.lift = CircularConvolution(dims, inputs, half, KERNEL)
        self.spectral = SpectralConvolution([n // POOL for n in points], half, width, modes)
        self.pointwise = convolution(half, width, 1)
        self.depthwise = convolution(
            half, width, KERNEL, padding=KERNEL // 2, padding_mode="circular", groups=half
        )
        self.shortcut = convolution(half, width, 1)
        self.project = convolution(width, outputs, 1, bias=False)
        self.norm = nn.LayerNorm(list(points))

    def forward(
        self,
        x: Float[Tensor, "batch input *space"],
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch output *space"]:
        """Return the correction."""
        space = (1,) * (x.ndim - 2)
        gates = [gate(conditions).unflatten(1, (-1, *space)) for gate in self.gates]
        y = functional.gelu(self.lift(x))
        coarse = self.spectral(self.pool(y, POOL)) * gates[0]
        z = functional.interpolate(coarse, scale_factor=POOL) + self.shortcut(y)
        z = z + self.pointwise(y) * gates[1] + self.depthwise(y) * gates[2]
        return self.norm(self.project(functional.gelu(z)))


class SpectralConvolution(nn.Module):
    """Mix channels of each wavenumber index below `modes` by its own matrix.

    Parameters
    ----------
    points
        Grid points per axis.
    inputs, outputs
        Channels.
    modes
        Smallest index, of either sign, that is left out.
    """

    def __init__(self, points: Sequence[int], inputs: int, outputs: int, modes: int):
        super().__init__()
        self.points = list(points)
        self.axes = tuple(range(-len(points), 0))
        indices = [torch.fft.fftfreq(n, 1 / n).abs() for n in points[:-1]]
        indices.append(torch.arange(points[-1] // 2 + 1.0))
        self.kept = [torch.nonzero(index < modes).flatten().tolist() for index in indices]
        shape = (inputs, outputs, *(len(kept) for kept in self.kept))
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.complex64) / inputs**0.5)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SpectralConvolution":
        """Let the weight follow a change of precision: `double()` leaves complex tensors alone."""
        super()._apply(fn, recurse)
        real = fn(torch.zeros(0, device=self.weight.device)).dtype
        self.weight.data = self.weight.data.to(real.to_complex())
        return self

    def forward(
        self, x: Float[Tensor, "batch input *space"]
    ) -> Float[Tensor, "batch output *space"]:
        """Return the mixed field."""
        with torch.autocast(x.device.type, enabled=False):  # FFTs lack half precision
            spectrum = torch.fft.rfftn(x.to(self.weight.real.dtype), dim=self.axes)
            chosen = spectrum[(..., *self._places(x.device))]
            mixed = torch.einsum("bi...,io...->bo...", chosen, self.weight)
            full = spectrum.new_zeros(len(x), mixed.shape[1], *spectrum.shape[2:])
            full[(..., *self._places(x.device))] = mixed
            return torch.fft.irfftn(full, s=self.points, dim=self.axes)

    def _places(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return the open mesh of the kept indices."""
        return tuple(
            torch.tensor(kept, device=device).reshape(-1, *(1,) * (len(self.kept) - 1 - axis))
            for axis, kept in enumerate(self.kept)
        )
