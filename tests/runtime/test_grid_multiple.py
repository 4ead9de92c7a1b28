"""What a grid must be a multiple of, known without importing the method."""

import pytest

from longrun.runtime import registry


@pytest.mark.parametrize(
    ("method", "options", "multiple"),
    [
        ("unet", {"multipliers": [1, 2, 2]}, 4),
        ("unet", {"multipliers": []}, 1),
        ("unet", {}, 8),
        ("pde_refiner", {"multipliers": [1] * 5}, 16),
        ("sinenet", {"levels": 3}, 8),
        ("sinenet", {"levels": 10**12}, 2**60),  # nonsense costs no memory
        ("poseidon", {"patch": 2, "depths": [1, 1]}, 4),
        ("poseidon", {"patch": 2, "depths": [1, 1], "resolution": 32}, 1),
        ("cape", {"base": "unet", "multipliers": [1, 2]}, 2),
        ("cape", {"base": "fno"}, 1),
        ("mgno", {"smoothing": [[1, 0], [1, 0]], "padding": "circular"}, 2),
        ("mgno", {"smoothing": [[1, 0], [1, 0]], "padding": "zeros"}, 1),
        ("persistence", {}, 1),
        ("unet_map", {}, 1),  # pads
    ],
)
def test_a_grid_must_be_a_multiple(method, options, multiple):
    assert registry.grid_multiple(method, options) == multiple
