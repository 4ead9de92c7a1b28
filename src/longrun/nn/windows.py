"""Attention within windows of a grid, and between them (Tu et al., 2022; Ryali et al., 2023).

Tokens of a grid are kept as (batch, window, place in the window, feature). A local layer attends
over the places of each window, a global one over the windows, at each place for itself; so
windows, or places of a window, may be left out without any padding.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def to_windows(
    grid: Float[Tensor, "batch feature x y"], window: Sequence[int]
) -> Float[Tensor, "batch window place feature"]:
    """Cut a grid of tokens into windows."""
    cut = grid.unflatten(3, (-1, window[1])).unflatten(2, (-1, window[0]))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def to_grid(
    tokens: Float[Tensor, "batch window place feature"], window: Sequence[int], columns: int
) -> Float[Tensor, "batch feature x y"]:
    """Put windows together again; the grid has this many of them along y."""
    cut = tokens.unflatten(2, tuple(window)).unflatten(1, (-1, columns))
    return cut.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def rolled(
    tokens: Float[Tensor, "batch window place feature"],
    window: Sequence[int],
    columns: int,
    forward: bool,
) -> Float[Tensor, "batch window place feature"]:
    """Move the grid by half a window against its windows, or back; it closes along both axes."""
    shift = [(1 if forward else -1) * (side // 2) for side in window]
    return to_windows(to_grid(tokens, window, columns).roll(shift, (2, 3)), window)


class Layer(nn.Module):
    """Pre-norm transformer layer over the third axis of tokens, without biases in the attention.

    Parameters
    ----------
    width, heads
        Features of a token, and parts of them that attend separately.
    expansion
        Hidden units of the feed-forward layer over the width.
    """

    def __init__(self, width: int, heads: int, expansion: int = 4):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inputs = nn.Linear(width, 3 * width, bias=False)
        self.output = nn.Linear(width, width, bias=False)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(
        self, x: Float[Tensor, "batch set token width"]
    ) -> Float[Tensor, "batch set token width"]:
        """Return the tokens after the layer; every set attends for itself."""
        parts = self.inputs(self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = parts.permute(3, 0, 1, 4, 2, 5)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.output(mixed.transpose(2, 3).flatten(3))
        return x + self.feed_forward(self.norm2(x))


class LocalGlobal(nn.Module):
    """Layers that attend within windows and between them by turns, a local one first and last.

    Parameters
    ----------
    width, heads
        See `Layer`.
    pairs
        There are `2 pairs + 1` layers.
    shift
        Whether every second local layer sees windows that are moved by half their size.
    """

    def __init__(self, width: int, heads: int, pairs: int, shift: bool):
        super().__init__()
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(2 * pairs + 1))
        self.shift = shift

    def forward(
        self,
        x: Float[Tensor, "batch window place width"],
        window: Sequence[int] = (),
        columns: int = 0,
    ) -> Float[Tensor, "batch window place width"]:
        """Return the tokens after all layers.

        Parameters
        ----------
        x
            Tokens; where windows move, those of the whole grid.
        window, columns
            See `to_grid`; needed where windows move.
        """
        for number, layer in enumerate(self.layers):
            if number % 2:
                x = layer(x.transpose(1, 2)).transpose(1, 2)
            elif self.shift and number % 4 == 2:
                moved = layer(rolled(x, window, columns, forward=True))
                x = rolled(moved, window, columns, forward=False)
            else:
                x = layer(x)
        return x
