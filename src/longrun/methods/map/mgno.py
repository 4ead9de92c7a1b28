"""MgNO, the multigrid neural operator (He, Liu and Xu, 2024, arXiv:2310.19809).

A layer is that of a dense network, with linear operators between function spaces as its weights:

    v_(i+1) = gelu(W_i v_i + B_i v_i + b_i),    sought = Q v_L,    v_0 = given fields

B_i and Q act point by point. Each W is one V-cycle of multigrid, u = W f, on grids of width
2^l h, whose parts are convolutions of width 3 between several channels, all learnt, without bias:

    smoothing, as often as the level says:  u <- u + S (f - A u)      (the very first: u = S f)
    restriction, of stride 2:               f_(l+1) = R f_l,  u_(l+1) = P u_l as initial guess
    on the way up, transposed of stride 2:  u_l <- u_l + T u_(l+1), then smoothing with f_l

So W is linear, and only the padding decides what lies beyond a wall. The restriction takes
f, not the residual f - A u, as the paper's runs do.

The variant "navier_stokes" has a bias in A and S, layer normalisation after each T, and no B.

Two things are ours. Sides may have any number of points: one of n has ceil(n / 2) on the next
grid, and where n is odd the transposed convolution has width 3 instead of 4 along it, as in the
public code's variant for the smooth Darcy set (a grid of 211). And the transposed convolutions pad
as all others do; the public code's pad with zeros on periodic grids too, which breaks translation
equivariance.
"""

from functools import partial
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from longrun.tasks.map import AbstractMap

CONVOLUTION: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}

Padding = Literal["zeros", "circular", "reflect"]


class Smoothing(nn.Module):
    """One step of smoothing, u + S (f - A u), or S f where there is no u yet."""

    def __init__(
        self, dims: int, inputs: int, width: int, padding: Padding, bias: bool, first: bool
    ):
        super().__init__()
        options: dict[str, Any] = {"padding": 1, "padding_mode": padding, "bias": bias}
        convolution = CONVOLUTION[dims]
        self.smoother = convolution(inputs, width, 3, **options)
        self.residual = None if first else convolution(width, inputs, 3, **options)

    def forward(
        self,
        u: Float[Tensor, "batch width *space"] | None,
        f: Float[Tensor, "batch inputs *space"],
    ) -> Float[Tensor, "batch width *space"]:
        """Return the smoothed u."""
        if self.residual is None or u is None:
            return self.smoother(f)
        return u + self.smoother(f - self.residual(u))


class Prolongation(nn.Module):
    """Transposed convolution of stride 2 to a grid of given sides, padded as convolutions are."""

    def __init__(self, dims: int, width: int, finer: list[int], padding: Padding):
        super().__init__()
        kernel = [3 if side % 2 else 4 for side in finer]
        self.mode = None if padding == "zeros" else padding
        self.border = (1, 1) * dims
        cut = 3 if self.mode else 1  # nonzero padding reaches two points further
        self.transposed = TRANSPOSED[dims](width, width, kernel, 2, padding=cut, bias=False)

    def forward(
        self, u: Float[Tensor, "batch width *coarse"]
    ) -> Float[Tensor, "batch width *space"]:
        """Return u on the finer grid."""
        return self.transposed(functional.pad(u, self.border, self.mode) if self.mode else u)


class VCycle(nn.Module):
    """The operator W of a layer, see the module's docstring.

    Parameters
    ----------
    dims, inputs, width : int
        Space dimensions, channels of f and of u.
    points : list of int
        Sides of the finest grid.
    smoothing : list of [int, int]
        Steps of smoothing on the way down and up, per level.
    padding : {"zeros", "circular", "reflect"}
        What lies beyond the grid.
    normalised : bool
        Bias, and layer normalisation on the way up.
    """

    def __init__(
        self,
        dims: int,
        inputs: int,
        width: int,
        points: list[int],
        smoothing: list[list[int]],
        padding: Padding,
        normalised: bool,
    ):
        super().__init__()
        convolution = CONVOLUTION[dims]
        half: dict[str, Any] = {
            "stride": 2,
            "padding": 1,
            "padding_mode": padding,
            "bias": False,
        }
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.restrict, self.guess = nn.ModuleList(), nn.ModuleList()
        self.prolong, self.norm = nn.ModuleList(), nn.ModuleList()
        step = partial(Smoothing, dims, inputs, width, padding, normalised)
        for level, (before, after) in enumerate(smoothing):
            self.down.append(nn.ModuleList(step(first=level == i == 0) for i in range(before)))
            if level == len(smoothing) - 1:
                break
            self.up.append(nn.ModuleList(step(first=False) for _ in range(after)))
            self.restrict.append(convolution(inputs, inputs, 3, **half))
            self.guess.append(convolution(width, width, 3, **half))
            self.prolong.append(Prolongation(dims, width, points, padding))
            self.norm.append(nn.LayerNorm([width, *points]) if normalised else nn.Identity())
            points = [-(-side // 2) for side in points]

    def forward(
        self, f: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch width *space"]:
        """Return W f."""
        sources, guesses, u = [f], [], None
        for level, steps in enumerate(self.down):
            u = _smoothed(steps, u, sources[-1])
            if level < len(self.restrict):
                guesses.append(u)
                sources.append(self.restrict[level](sources[-1]))
                u = self.guess[level](u)
        for level in reversed(range(len(self.restrict))):
            u = self.norm[level](guesses[level] + self.prolong[level](u))
            u = _smoothed(self.up[level], u, sources[level])
        assert u is not None  # the first level smooths at least once
        return u


def _smoothed(
    steps: Any,
    u: Float[Tensor, "batch width *space"] | None,
    f: Float[Tensor, "batch inputs *space"],
) -> Float[Tensor, "batch width *space"] | None:
    """Apply the steps of a level one after the other."""
    for step in steps:
        u = step(u, f)
    return u


class MgNO(AbstractMap):
    """The multigrid neural operator.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options. The weights fit grids of the same size, or whose
        sides halve with the same parities.
    width : int
        Channels of a layer.
    layers : int
        Layers.
    smoothing : list of [int, int]
        Steps of smoothing on the way down and on the way up, from the finest grid to the coarsest;
        as many levels as entries. The coarsest has no way up.
    padding : {"zeros", "circular", "reflect"}
        What lies beyond the grid: zeros, suitable where the solution is zero on the walls (paper,
        for Darcy flow); its other end; or its mirror image.
    variant : {"darcy", "navier_stokes"}
        The form of a layer, see the module's docstring.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 24,
        layers: int = 4,
        smoothing: list[list[int]] = [[1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [2, 0]],  # noqa: B006
        padding: Padding = "zeros",
        variant: Literal["darcy", "navier_stokes"] = "darcy",
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        _check(dims, points, width, layers, smoothing, padding, variant)
        flow = variant == "navier_stokes"
        inputs = [self.inputs] + [width] * (layers - 1)
        self.cycles = nn.ModuleList(
            VCycle(dims, given, width, points, smoothing, padding, normalised=flow)
            for given in inputs
        )
        convolution = CONVOLUTION[dims]
        self.beside = nn.ModuleList(
            convolution(given, width, 1) for given in ([] if flow else inputs)
        )
        self.head = convolution(width, self.sought, 1, bias=False)

    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields."""
        for i, cycle in enumerate(self.cycles):
            x = functional.gelu(cycle(x) + self.beside[i](x) if self.beside else cycle(x))
        return self.head(x)


def grid_multiple(smoothing: list[list[int]], padding: str, **_: object) -> int:
    """Return what every side of the grid must be a multiple of."""
    return int(2 ** min(max(len(smoothing) - 1, 0), 60)) if padding == "circular" else 1


def _check(
    dims: int,
    points: list[int],
    width: int,
    layers: int,
    smoothing: list[list[int]],
    padding: str,
    variant: str,
) -> None:
    """Refuse what can't be built.

    Raises
    ------
    ValueError
    """
    if dims not in CONVOLUTION:
        raise ValueError(f"dims must be 1, 2 or 3, is {dims}")
    if width < 1 or layers < 1:
        raise ValueError("width and layers must be at least 1")
    if not smoothing or any(len(steps) != 2 or min(steps) < 0 for steps in smoothing):
        raise ValueError("smoothing must hold the steps down and up of each level, none negative")
    if not smoothing[0][0] or smoothing[-1][1]:
        raise ValueError(
            "smoothing: the finest level needs a step on the way down, the coarsest has no way up"
        )
    if padding not in ("zeros", "circular", "reflect"):
        raise ValueError(f"padding: {padding}; allowed: zeros, circular, reflect")
    if variant not in ("darcy", "navier_stokes"):
        raise ValueError(f"variant: {variant}; allowed: darcy, navier_stokes")
    times = 2 ** (len(smoothing) - 1)
    if min(points) <= times:
        raise ValueError(f"{len(smoothing)} levels leave fewer than 2 points of {points}")
    if padding == "circular" and any(side % times for side in points):
        raise ValueError(f"on a periodic grid every side must be a multiple of {times}: {points}")
