"""MG-TFNO: counts, factors against the tensor they stand for, patches point by point."""

import numpy as np
import pytest
import torch

from longrun.methods.map.mg_tfno import MGTFNO, patching
from longrun.methods.map.mode_by_mode import ModeByMode

SMALL = {"width": 4, "modes": 3, "layers": 2, "rank": 0.5}


def build(points=16, **options):
    torch.manual_seed(0)
    return MGTFNO(2, 2, 0, [points, points], **SMALL | options)


def field(points=16, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 1, points, points, generator=generator)


@pytest.mark.parametrize(("rank", "compression"), [(0.42, 2.4), (0.1, 9.6), (0.02, 47)])
def test_compresses_as_counted_in_the_library(rank, compression):
    """Of 64 channels and 64 x 64 modes, of which the library keeps a column more than we do."""
    module = MGTFNO(2, 2, 0, [128, 128], width=64, modes=32, rank=rank)
    convs = module.network.operator.fno_blocks.convs
    found = sum(p.numel() for p in module.parameters())
    weights = sum(p.numel() for conv in convs for p in conv.weight.parameters())
    dense = 4 * 64 * 64 * 64 * 32 + found - weights
    assert abs(dense / found / compression - 1) < 0.05


@pytest.mark.parametrize("factorization", ["tucker", "cp", "tt"])
def test_factors_are_contracted_as_the_tensor_they_stand_for(factorization):
    layer = build(factorization=factorization, layers=1).network.operator.fno_blocks.convs[0]
    x = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        dense = layer.weight.to_tensor()
        modes = torch.fft.rfftn(x, dim=(2, 3), norm="forward")
        found = torch.zeros(2, 4, 16, 9, dtype=torch.cfloat)
        rows = torch.arange(-3, 3)  # the tensor has wavenumbers -3 to 2, and from 0 to 2
        kept = modes[:, :, rows, :3]
        found[:, :, rows, :3] = torch.einsum("bixy,ioxy->boxy", kept, dense)
        expected = torch.fft.irfftn(found, s=(16, 16), dim=(2, 3), norm="forward") + layer.bias
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_dense_network_has_no_rank():
    with pytest.raises(ValueError, match="needs a factorization"):
        build(factorization="dense")


def test_patches_are_parts_with_a_margin_and_wider_views():
    """A point of a patch is that of the field; a view has every second point, as far again."""
    parts, _ = patching(1, 1 / 8).patch(field(16), None)
    assert parts.shape == (2 * 4, 2, 12, 12)
    whole, wide = field(16).numpy(), parts.numpy()
    fine = np.pad(whole, [(0, 0), (0, 0), (2, 2), (2, 2)], mode="wrap")
    found = {tuple(part[0].ravel()[:4]) for part in wide}
    corners = [(x, y) for x in (0, 8) for y in (0, 8)]
    expected = {tuple(fine[b, 0, x, y : y + 4]) for b in range(2) for x, y in corners}
    assert found == expected
    coarse = {value for part in wide for value in part[1].ravel()}
    assert coarse <= {value for value in whole[:, 0, ::2, ::2].ravel()}


@pytest.mark.parametrize(("points", "levels"), [(16, 1), (32, 2)])
def test_parts_are_put_together_again(points, levels):
    patches = patching(levels, 1 / 8)
    parts, _ = patches.patch(field(points), None)
    assert parts.shape[:2] == (2 * 4**levels, 1 + levels)
    torch.testing.assert_close(patches.unpatch(parts[:, :1], None)[0], field(points))


def test_only_views_carry_news_from_afar():
    """A change at the far side of the domain reaches a patch through its views alone."""
    for views in (True, False):
        module = build(32, levels=1, margin=1 / 16, views=views)
        other = field(32)
        other[..., 24, 24] += 1.0  # a point that views have, beyond the margin of the first patch
        with torch.no_grad():
            change = (module.operator(other) - module.operator(field(32)))[..., :16, :16].abs()
        assert (change.max() > 1e-5) == views


def test_patches_need_a_periodic_domain():
    module = build(levels=1)
    with pytest.raises(ValueError, match="levels need periodic boundaries"):
        module.fit_data({"boundary": ["dirichlet", "periodic"]})


class Data:
    """Training states of one store."""

    def __init__(self, states):
        class Split:
            trajectories, parameters = len(states), {"length": np.ones(len(states))}

            def read(self, chosen, frames):
                return states[chosen][:, None]

        store = type("Store", (), {"split": lambda self, name: Split()})()
        self.stores = [store]


def test_regression_finds_a_linear_map_of_modes():
    given = field(16, 40).double().numpy()
    modes = np.fft.rfft2(given)
    index = np.arange(9.0)
    sought = np.fft.irfft2(modes * np.exp(-0.1 * index**2 + 0.5j * index), s=(16, 16))
    states = np.concatenate([given, sought], axis=1)
    module = ModeByMode(2, 2, 0, [16, 16])
    module.prepare(Data(states), [])
    with torch.no_grad():
        found = module.double().operator(torch.tensor(given))
    # the highest wave of an even grid is real: it can't be turned
    lost = np.fft.rfft2(found.numpy() - sought)[..., :8]
    assert np.abs(lost).max() < 1e-4 * np.abs(modes).max()
