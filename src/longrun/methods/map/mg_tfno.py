"""MG-TFNO, a tensorised Fourier operator on multigrid patches (arXiv:2310.00120).

The weights of a Fourier layer are one tensor W[i, o, x, y] over input and output channels and the
wavenumbers of both axes. Tensorised it is a product of small factors, of which the layer is
contracted with one after the other:

    tucker:  W = sum_abcd G[a, b, c, d] U1[i, a] U2[o, b] U3[x, c] U4[y, d]
    cp:      W = sum_r g[r] U1[i, r] U2[o, r] U3[x, r] U4[y, r]
    tt:      W = A1[i] A2[o] A3[x] A4[y], a product of matrices

With `rank` 0.1 it has a tenth of the dense weights. Multigrid patches cut the domain in 2^L by 2^L
parts, with a margin around each; the network sees one part at a time, and with it, as further
channels, L views of as many points that reach 2, 4, ... 2^L times as far and have every second,
fourth, ... point. Parts without their margins are put together again before the loss.

Factorised weights and patches are those of neuraloperator, as is the layer, see
`longrun.nn.fno`. Decisions:

- Each layer has a tensor of its own, where the paper has one over all layers: the library has given
  that up.
- No grid channels: the domain is periodic and has no origin.
- The H1 norm of the loss has derivatives of Fourier modes, the library's finite differences.
- Patches are processed one after another in a batch: how they would be spread over devices, which
  the paper makes them for, isn't here.

Boundaries must be periodic for patches: what lies beyond the far end is the near one.
"""

import contextlib
import io
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from longrun.nn.fno import Factorization, FNOBackbone
from longrun.tasks.map import AbstractMap


class MGTFNO(AbstractMap):
    """Fourier neural operator with factorised weights, on patches with wider views.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractMap`, also for the options.
    width : int
        Channels of the hidden layers.
    modes : int
        Wavenumbers that a layer mixes, per axis, of a patch with its margin.
    layers : int
        Fourier layers.
    factorization : {"tucker", "cp", "tt", "dense"}
        Of the spectral weights; "dense" is FNO.
    rank : float
        Share of the dense weights.
    levels : int
        L; 0 is the whole domain at once.
    margin : float
        Around a patch, as a share of the whole domain's side.
    views : bool
        Whether patches have wider, coarser views of what surrounds them.
    """

    supported_dims = (2,)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        width: int = 64,
        modes: int = 32,
        layers: int = 4,
        factorization: Factorization = "tucker",
        rank: float = 0.1,
        levels: int = 0,
        margin: float = 0.078,
        views: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        if levels and any(round(margin * side) < 1 for side in points):
            raise ValueError(f"margin must be a point or more, is {margin:g} of {points}")
        self.views = views
        self.patches = patching(levels, margin) if levels else None
        channels = self.inputs * (1 + levels * views)
        self.network = FNOBackbone(
            dims,
            channels,
            self.sought,
            width,
            modes,
            layers,
            factorization=factorization,
            rank=rank,
        )

    def fit_data(self, description: dict[str, Any]) -> None:
        """Refuse patches of a domain that isn't periodic."""
        boundary = description.get("boundary", ())
        if self.patches is not None and any(kind != "periodic" for kind in boundary):
            raise ValueError(f"levels need periodic boundaries, they are {', '.join(boundary)}")
        super().fit_data(description)

    def operator(self, x: Float[Tensor, "batch inputs x y"]) -> Float[Tensor, "batch sought x y"]:
        """Return the normalised sought fields."""
        if self.patches is None:
            return self.network(x)
        parts, _ = self.patches.patch(x, None)
        if not self.views:
            parts = parts[:, : self.inputs]
        whole: Tensor = self.patches.unpatch(self.network(parts), None)[0]
        return whole


def grid_multiple(levels: int = 0, **_: object) -> int:
    """Return what every side of the grid must be a multiple of: views of parts skip points."""
    return int(4 ** min(levels, 30))


def patching(levels: int, margin: float) -> Any:
    """Return the library's patches, of a model that stays outside of it."""
    from neuralop.training.patching import MultigridPatching2D

    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it was given
        return MultigridPatching2D(nn.Identity(), levels, margin, stitching=True)
