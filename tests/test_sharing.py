"""Two processes that share a batch: the mean of their gradients is that of the whole batch.

Noise is drawn per process, so of methods with noise only those are compared that can do without.
"""

import pytest
import test_methods
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from longrun import registry

SIZE, WORLD = 4, 2
# Options by which the training of a task has no noise, or a method something to learn then.
QUIET = {
    "assimilate": {"snr": 600.0, "least_measured": 1.0, "most_measured": 1.0},
    "direct_insertion": {"spacing": 2},
}
# They draw what they train on: points, levels, pairs.
NOISY = ("causal_pinn", "pde_refiner", "pig", "rectified_flow")
LEARN = [
    name
    for name in test_methods.METHODS
    if any(p.requires_grad for p in test_methods.build(name)[0].parameters())
]


class Loss(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.batch_loss(batch, torch.Generator().manual_seed(0))


def prepared(name):
    options = QUIET.get(registry.task(name), {}) | QUIET.get(name, {})
    module, _ = test_methods.build(name, **options)
    module = test_methods.perturb(module.double().train())
    for part in module.modules():  # their statistics are those of a share
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    return module


def gradients(loss, batch):
    loss(batch).backward()
    return {name: p.grad for name, p in loss.named_parameters() if p.requires_grad}


def share(rank, folder):
    """Write the gradients of each method, and the whole batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    for name in LEARN:
        module = prepared(name)
        batch = test_methods.contract(name).batch(module, SIZE, torch.float64)
        mine = {key: value[rank::WORLD].contiguous() for key, value in batch.items()}
        shared = gradients(DistributedDataParallel(Loss(module)), mine)
        assert all(gradient is not None for gradient in shared.values()), f"{name}: unused weights"
        if rank == 0:
            torch.save((batch, shared), f"{folder}/{name}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    torch.multiprocessing.spawn(share, (str(folder),), nprocs=WORLD)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARN)
def test_two_processes_have_the_gradients_of_one(name, shared):
    batch, found = torch.load(shared / f"{name}.pt")
    assert found and all(torch.isfinite(gradient).all() for gradient in found.values())
    if name in NOISY:
        return
    expected = gradients(Loss(prepared(name)), batch)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for key, gradient in found.items():
        other = expected[key.removeprefix("module.")]
        assert float((gradient - other).abs().max()) < 1e-9 * largest, key
