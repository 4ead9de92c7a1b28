"""Two processes that share a batch: the mean of their gradients is that of the whole batch.

Noise is drawn per process, so of methods with noise only those that work without it are compared.
"""

import subprocess

import pytest
import torch
import warm
from methods import test_methods
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from longrun.runtime import devices, registry

SIZE, WORLD = 4, 2
# Options that remove the noise from a task's training, or then give a method something to learn.
QUIET = {
    "assimilate": {"snr": 600.0, "least_measured": 1.0, "most_measured": 1.0},
    "direct_insertion": {"spacing": 2},
}
# They draw what they train on: levels, pairs.
NOISY = (
    "continuous_observer",
    "graph_network",
    "pde_refiner",
    "prithvi_wxc",
    "rectified_flow",
    "space_time_autoencoder",
    "text2pde",
)
LEARN = [name for name in test_methods.METHODS if test_methods.fitted(test_methods.fresh(name))]


class Loss(nn.Module):
    def __init__(self, method):
        super().__init__()
        self.method = method

    def forward(self, batch):
        return self.method.batch_loss(batch, torch.Generator().manual_seed(0))

    training_step = validation_step = forward


def fsdp(loss):
    devices.shard(loss, init_device_mesh("cpu", (WORLD,)))
    return loss


STRATEGIES = {"ddp": DistributedDataParallel, "fsdp": fsdp}


def prepared(name):
    takes = registry.arguments("methods", name)
    options = QUIET.get(registry.task(name), {}) | QUIET.get(name, {})
    options = {key: value for key, value in options.items() if key in takes}
    module, _ = test_methods.build(name, **options)
    module = test_methods.perturb(module.double().train())
    for part in module.modules():  # their statistics are of one share
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    return module


def whole(gradient):
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def gradients(loss, batch):
    loss(batch).backward()
    learned = ((name, p) for name, p in loss.named_parameters() if p.requires_grad)
    return {name: p.grad if p.grad is None else whole(p.grad) for name, p in learned}


def share(rank, folder):
    """Write the gradients of each method by each strategy, and the whole batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD
    )
    for name, strategy in CASES:
        module = prepared(name)
        batch = test_methods.contract(name).batch(module, SIZE, torch.float64)
        mine = {key: value[rank::WORLD].contiguous() for key, value in batch.items()}
        found = gradients(STRATEGIES[strategy](Loss(module)), mine)
        assert all(g is not None for g in found.values()), f"{name}, {strategy}: unused weights"
        if rank == 0:
            torch.save((batch, found), f"{folder}/{name}_{strategy}.pt")
    torch.distributed.destroy_process_group()


def fits(name, strategy):
    module = test_methods.fresh(name)
    parts = strategy == "fsdp"
    return module.shares_batches and not (
        parts and any(p.is_complex() for p in module.parameters())
    )


CASES = [(name, strategy) for name in LEARN for strategy in STRATEGIES if fits(name, strategy)]


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from runtime import test_sharing
import torch
torch.multiprocessing.start_processes(
    test_sharing.share, ({folder!r},), test_sharing.WORLD, start_method="fork"
)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("shared")
    program = PROGRAM.format(tests=str(root / "tests"), folder=str(folder))
    done = subprocess.run([warm.python(), "-c", program], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_two_processes_have_the_gradients_of_one(name, strategy, shared):
    batch, found = torch.load(shared / f"{name}_{strategy}.pt")
    assert found and all(torch.isfinite(gradient).all() for gradient in found.values())
    if name in NOISY:
        return
    expected = gradients(Loss(prepared(name)), batch)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 0
    for key, gradient in found.items():
        other = expected[key.removeprefix("module.")]
        assert float((gradient - other).abs().max()) < 1e-9 * largest, key
