"""Networks of CFDBench: parameters at the paper's size, and what each of them computes."""

import pytest
import torch

from longrun.runtime import checkpoint

CAVITY = {"name": "confined_flow", "flow": "cavity", "points": 64, "substeps": 200}
SMALL = {"fields": 2, "dims": 2, "conditions": 3, "points": [12, 10], "equation": CAVITY}
PAPER = SMALL | {"conditions": 5, "points": [64, 64]}  # speed, density, viscosity, height, width


def build(name, sizes=SMALL, **options):
    return checkpoint.build(name, checkpoint.sizes(name, sizes) | options, seed=0)


def parameters(name, **options):
    module = build(name, PAPER, **options)
    return sum(weight.numel() for weight in module.parameters())


# The counts are those of the public code at its own sizes; differences are explained one by one.
@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        # a mask for each of both fields, it has one: 9 weights from it to each of 12 channels
        ("cfdbench", {"network": "unet", "boundary": "imposed"}, 1_095_038 + 9 * 12),
        # as many from one more mask, and no batch norms, which it has and does not use
        (
            "cfdbench",
            {"network": "resnet", "width": 16, "boundary": "imposed"},
            534_696 + 49 * 64 + 16 - 2 * (6 * 64 + 5 * 16 + 2),
        ),
        ("cfdbench", {"network": "ffn", "width": 200, "depth": 8, "fields": 1}, 1_102_401),
        ("deeponet", {"branch": "joint", "fields": 1}, 551_901),
        ("deeponet", {"branch": "separate", "fields": 1}, 622_701),
        # it sees a third channel, gives one field instead of two, and has a bias without use
        ("deeponet", {"branch": "cnn"}, 742_730 - 32 * 25 + 513 - 1),
        ("direct_deeponet", {"network": "ffn", "fields": 1}, 9 * 100 + 7 * 10_100 + 101),
    ],
)
def test_parameters_at_the_papers_size(name, options, count):
    assert parameters(name, **options) == count


def test_every_point_gets_the_frame_of_its_own_sample():
    """The public code pairs frames and points wrongly in a batch of more than one."""
    module = build("cfdbench", network="ffn", width=6, depth=3)
    frames, conditions = torch.randn(3, 1, 2, 12, 10), 10 * torch.rand(3, 3)
    network = module.network
    with torch.no_grad():
        found = module.step(frames, conditions)
        for sample, i, j in ((0, 0, 0), (1, 3, 9), (2, 11, 4)):
            given = torch.cat([frames[sample].flatten(), conditions[sample] / 10])
            place = torch.tensor([i / 11 - 0.5, j / 9 - 0.5])
            weights = torch.cat([network.whole.weight, network.place.weight], 1)
            first = weights @ torch.cat([given, place]) + network.whole.bias
            torch.testing.assert_close(found[sample, :, i, j], network.rest(first))


@pytest.mark.parametrize("branch", ["joint", "separate"])
def test_a_deeponet_is_a_sum_of_products(branch):
    options = {"branch": branch, "width": 5, "depth": 2}
    module = build("deeponet", **options)
    frames, conditions = torch.randn(2, 1, 2, 12, 10), 10 * torch.rand(2, 3)
    with torch.no_grad():
        found = module.step(frames, conditions)
        assert torch.linalg.matrix_rank(found[:, 0].flatten(1) - module.bias[0]) <= 5
        if branch == "separate":  # a code of the conditions that is zero leaves the bias
            for weight in module.conditions_branch.parameters():
                weight.zero_()
            assert torch.allclose(module.step(frames, conditions), module.bias[:, None, None])


def test_dropout_is_of_the_training_alone_and_of_its_generator():
    module = build("cfdbench", network="resnet", width=3, hidden=4)
    frames, conditions = torch.randn(2, 1, 2, 12, 10), torch.rand(2, 3)
    state = torch.random.get_rng_state()

    def step(seed):
        return module.step(frames, conditions, torch.Generator().manual_seed(seed))

    with torch.no_grad():
        assert torch.equal(step(0), step(0)) and not torch.equal(step(0), step(1))
        module.eval()
        assert torch.equal(step(0), step(1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_a_frame_only_conditions_and_time_count():
    for network in ("deeponet", "ffn"):
        options = {"network": network, "width": 6, "depth": 3, "horizon": 4}
        module = build("direct_deeponet", **options).eval()
        parameters = torch.rand(2, 3)
        frames = [torch.randn(2, 1, 2, 12, 10) for _ in range(2)]
        with torch.no_grad():
            runs = [module.begin(frame, parameters) for frame in frames]
            first, memory = module.advance(runs[0])
            assert torch.equal(first, module.advance(runs[1])[0])
            assert not torch.allclose(first, module.advance(memory)[0])
            conditions = torch.cat(
                [module.scaled_conditions(parameters), torch.full((2, 1), 2.5)], 1
            )
            assert torch.allclose(module.physical(module.step(frames[0], conditions)), first)


def test_an_activation_keeps_the_scale_of_its_input():
    network = build("direct_deeponet", network="ffn", width=6).network
    for layer in network.layers:
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 7, 6)
    with torch.no_grad():
        torch.testing.assert_close(network(100 * x), 100 * network(x), rtol=1e-4, atol=1e-4)
