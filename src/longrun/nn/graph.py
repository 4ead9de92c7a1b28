"""Message passing between the nodes of a graph (Battaglia et al., 2018; Pfaff et al., 2021)."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def perceptron(
    inputs: int,
    width: int,
    outputs: int,
    hidden: int = 1,
    activation: Callable[[], nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Return a perceptron with this many hidden layers of one width."""
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(inputs, width), activation()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class EdgeUpdate(nn.Module):
    """`MLP([h_from, h_to, e])` with one hidden layer.

    Its first layer works on the nodes and is gathered then: there are fewer of them than edges.
    """

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = nn.Linear(3 * width, width), nn.Linear(width, width)

    def forward(
        self,
        h: Float[Tensor, "batch node width"],
        e: Float[Tensor, "batch edge width"],
        ends: Int[Tensor, "2 edge"],
    ) -> Float[Tensor, "batch edge width"]:
        """Return what an update adds to the edges."""
        leaves, reaches, own = self.first.weight.chunk(3, dim=1)
        hidden = functional.linear(e, own, self.first.bias)
        hidden = hidden + functional.linear(h, leaves).index_select(1, ends[0])
        hidden = hidden + functional.linear(h, reaches).index_select(1, ends[1])
        return self.second(hidden.relu())


class MessagePassing(nn.Module):
    """Layers that update edges from their ends, and nodes from the sum of what these add.

        m = MLP(h_from, h_to, e),    e <- e + m,    h <- h + MLP(h, sum of m)

    Parameters
    ----------
    width
        Features of a node, and of an edge.
    layers
        How often that is done, each time with other weights.
    """

    def __init__(self, width: int, layers: int):
        super().__init__()
        self.edges = nn.ModuleList(EdgeUpdate(width) for _ in range(layers))
        self.nodes = nn.ModuleList(perceptron(2 * width, width, width) for _ in range(layers))

    def forward(
        self,
        h: Float[Tensor, "batch node width"],
        e: Float[Tensor, "#batch edge width"],
        ends: Int[Tensor, "2 edge"],
    ) -> tuple[Float[Tensor, "batch node width"], Float[Tensor, "batch edge width"]]:
        """Return nodes and edges after all layers.

        Parameters
        ----------
        h, e
            Features of nodes and edges.
        ends
            Node that an edge leaves, and node that it reaches.
        """
        e = e.expand(len(h), *e.shape[1:])
        for update_edge, update_node in zip(self.edges, self.nodes, strict=True):
            message = update_edge(h, e, ends)
            received = torch.zeros_like(h).index_add(1, ends[1], message)
            e = e + message
            h = h + update_node(torch.cat([h, received], dim=2))
        return h, e
