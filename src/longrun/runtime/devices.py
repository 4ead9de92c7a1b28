"""Several devices, one process each: how they find one another, share work and end together.

The first process of a node starts the others with its own command line. Where there are several
nodes, Slurm starts all processes (`srun --ntasks-per-node=<devices> python -m longrun.train ...`).

A process that dies ends the others: the first watches those that it started, and they watch it.
Slurm does this across nodes (`srun --kill-on-bad-exit`).
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric import strategies as fabric_strategies
from pytorch_lightning.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
)
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from longrun import config
from longrun.runtime.cli import UserError

PATIENCE = timedelta(minutes=10)  # with a process that lives and doesn't answer
FIRST = "LONGRUN_FIRST_PROCESS"
GLANCE = 1.0  # seconds between looks at the parent


def environment(trainer: Mapping[str, Any]) -> ClusterEnvironment:
    """Return what tells a process its place among the others.

    Raises
    ------
    UserError
        Several nodes without Slurm, or another number of processes than devices.
    """
    nodes, number = trainer["num_nodes"], trainer["devices"]
    if nodes == 1:
        # Else Lightning, inside a Slurm job, would do the work of Slurm and of Snakemake.
        return LightningEnvironment()
    if not SLURMEnvironment.detect():
        raise UserError(f"trainer.num_nodes is {nodes}: start this with Slurm's srun")
    place = SLURMEnvironment(auto_requeue=False)
    try:
        place.validate_settings(num_devices=number, num_nodes=nodes)
    except ValueError:
        raise UserError(
            f"trainer needs {nodes} nodes of {number} devices: start this with srun "
            f"--nodes={nodes} --ntasks-per-node={number}"
        ) from None
    return place


def device_of(accelerator: str) -> torch.device:
    """Where to run: a GPU where there is one and the trainer doesn't forbid it.

    Raises
    ------
    UserError
        A GPU is required, and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if accelerator == "gpu" and not has_gpu:
        raise UserError(
            "trainer.accelerator is gpu, and this machine has no GPU that torch can use"
        )
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def strategy(trainer: Mapping[str, Any]) -> Strategy | str:
    """Return how the devices of a composed trainer share the training."""
    if config.devices(trainer) == 1:
        return "auto"
    if trainer["strategy"] == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=config.devices(trainer),
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            timeout=PATIENCE,
        )
    # Buffers start equal everywhere and are not learned: broadcasting them before every batch would
    # make validation hang where processes have different numbers of batches.
    return DDPStrategy(timeout=PATIENCE, forward_sync_buffers=False)


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each device of a mesh a part of a module's weights (FSDP2), in place.

    A device has the whole weights of a layer only while that layer computes. Layers are the entries
    of lists of modules.

    Parameters
    ----------
    module
        To train. Its gradients become means over the devices.
    mesh
        Of one dimension.

    Raises
    ------
    UserError
        Weights are complex: torch exchanges weights of one type, and these are mixed with real
        ones.
    """
    for name, parameter in module.named_parameters():
        if parameter.is_complex():
            raise UserError(
                f"trainer.strategy: fsdp can't share complex weights ({name}); take ddp"
            )
    lists = (nn.ModuleList, nn.Sequential)
    layers = [layer for part in module.modules() if isinstance(part, lists) for layer in part]
    for layer in reversed(layers):  # inner ones first
        if any(True for _ in layer.parameters()) and not isinstance(layer, nn.ModuleList):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in ("training_step", "validation_step"):  # what a trainer calls instead of forward
        register_fsdp_forward_method(module, name)


def share(trainer: Mapping[str, Any]) -> torch.device:
    """Start the processes that share an evaluation with this one, on one node; return its device.

    Until the process ends `torch.distributed` tells it its place among them.
    """
    place = LightningEnvironment()
    join(trainer, place)
    fabric = Fabric(
        accelerator=trainer["accelerator"],
        devices=trainer["devices"],
        strategy=fabric_strategies.DDPStrategy(timeout=PATIENCE),
        plugins=[place],
    )
    fabric.launch()
    return fabric.device


@contextlib.contextmanager
def in_one_line() -> Iterator[None]:
    """Report in one line that an exchange with another process failed, perhaps because it died.

    Raises
    ------
    UserError
        Instead of the error of the library for the exchange.
    """
    try:
        yield
    except RuntimeError as error:  # gloo has no exception of its own
        if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            "another process of this job died or does not answer: the end of its log says why, or, "
            "where there is none, the system's log (memory?)"
        ) from error


def join(trainer: Mapping[str, Any], place: ClusterEnvironment) -> None:
    """Share the node's cores with the other processes, and end when the first of them has died.

    Parameters
    ----------
    trainer
        Composed.
    place
        Of this process. Slurm assigns cores to those that it starts, and ends them.
    """
    if trainer["devices"] == 1 or not isinstance(place, LightningEnvironment):
        return
    torch.set_num_threads(max(1, torch.get_num_threads() // trainer["devices"]))
    if place.local_rank() == 0:
        os.environ[FIRST] = str(os.getpid())  # the others inherit it
        return
    first = int(os.environ[FIRST])

    def follow() -> None:
        while os.getppid() == first:  # it may have died before this one got here
            time.sleep(GLANCE)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
