"""What the Fourier layers of the FNO keep, and how its size is counted."""

import pytest
import torch

from longrun.metrics.table import ScoreTable
from longrun.nn.fno import FNOBackbone
from longrun.tasks._evaluation import score_size


def wave(shape, wavenumbers):
    """A wave of these numbers in both channels."""
    axes = [2 * torch.pi * torch.arange(n) / n for n in shape]
    phase = sum(
        k * x for k, x in zip(wavenumbers, torch.meshgrid(*axes, indexing="ij"), strict=True)
    )
    return torch.cos(phase).expand(1, 2, *shape)


@pytest.mark.parametrize(
    ("shape", "kept", "lost"),
    [
        ((32,), [(0,), (1,), (5,)], [(6,), (7,), (16,)]),
        ((32, 24), [(0, 0), (5, 5), (-5, 5), (-6, 2)], [(7, 2), (-7, 2), (2, 6), (6, 2)]),
    ],
)
def test_a_layer_mixes_as_many_wavenumbers_of_each_sign_as_modes_says(shape, kept, lost):
    layer = FNOBackbone(len(shape), 1, 1, width=2, modes=6, layers=1).operator.fno_blocks.convs[0]
    with torch.no_grad():
        layer.bias.zero_()
        sizes = {k: float(layer(wave(shape, k)).abs().max()) for k in (*kept, *lost)}
    assert min(sizes[k] for k in kept) > 1e-3
    assert max(sizes[k] for k in lost) < 1e-5


def test_a_complex_weight_is_two_parameters():
    network = FNOBackbone(1, 1, 1, width=4, modes=6, layers=1)
    network.device = torch.device("cpu")
    table = ScoreTable("waves")
    score_size(network, table)
    rows = table.frame().set_index("metric")["value"]
    complex_weights = 4 * 4 * 6
    assert rows["parameters"] == sum(p.numel() for p in network.parameters()) + complex_weights


def test_the_implicit_fno_applies_one_layer_in_small_steps():
    torch.manual_seed(0)
    network = FNOBackbone(2, 1, 1, width=4, modes=3, layers=1, iterations=5)
    one = FNOBackbone(2, 1, 1, width=4, modes=3, layers=1)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in one.parameters())
    x = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        v = network.operator.lifting(x)
        for _ in range(5):
            v = v + torch.nn.functional.gelu(network.operator.fno_blocks(v, 0)) / 5
        torch.testing.assert_close(network(x), network.operator.projection(v))
        one.load_state_dict(network.state_dict())
        assert not torch.allclose(one(x), network(x), atol=1e-3)
    with pytest.raises(ValueError, match="iterations are of one layer"):
        FNOBackbone(2, 1, 1, width=4, modes=3, layers=2, iterations=5)
