"""Simulate for a running training: one solver of its stream.

The trainer orders trajectories of an equation; they are those of the dataset, bit by bit. A
training starts solvers on its own machine. This program adds others, for example jobs of a cluster,
before the training or while it runs; docs/cluster.md says how. It ends when the training does, with
exit code 0. `longrun.online.pool` holds what connects the two.
"""

import argparse
import contextlib
import os
import platform
from concurrent import futures

import numpy as np

from longrun.generate import build, simulate
from longrun.online.messages import PROTOCOL, MessageError
from longrun.online.pool import BEAT, Connection
from longrun.runtime import cli
from longrun.runtime.cli import UserError
from longrun.solvers.memory import keep_freed_memory


def stream(address: str, name: str, patience: float) -> None:
    """Simulate what a trainer orders, until it says stop.

    Parameters
    ----------
    address
        The trainer's, `tcp://host:port`.
    name
        Of this solver, in the trainer's log.
    patience
        Seconds to wait for each message of the trainer.

    Raises
    ------
    UserError
        The trainer is silent or refuses this solver, or a trajectory diverged.
    """
    with (
        contextlib.closing(Connection(address, name, patience)) as trainer,
        futures.ThreadPoolExecutor(1) as thread,
    ):
        trainer.say("hello", protocol=PROTOCOL, host=platform.node())
        job = trainer.hear("welcome").values
        equation = build(job["equation"])
        while (order := trainer.hear("simulate", "stop")).kind == "simulate":
            simulations = order.values["simulations"]
            work = thread.submit(
                simulate, equation, job["seed"], "train", simulations, job["frames"], job["dtype"]
            )
            while not futures.wait([work], BEAT).done:
                trainer.beat()
            try:
                parameters, states = work.result()
            except UserError as error:
                trainer.say("failed", reason=str(error))
                raise
            table = np.stack([*parameters.values()], axis=1)
            trainer.say("frames", {"parameters": table, "states": states}, simulations=simulations)


EXAMPLES = """
python -m longrun.stream --connect tcp://localhost:5577
python -m longrun.stream --connect tcp://node7:5577 --name solver3 --patience 600
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("stream", __doc__, EXAMPLES)
    made.add_argument("--connect", required=True, help="address of the training, tcp://host:port")
    made.add_argument(
        "--patience",
        type=float,
        default=60.0,
        help="seconds to wait for each message of the training; default: 60",
    )
    made.add_argument(
        "--name",
        default=f"{platform.node()}-{os.getpid()}",
        help="unique, for the log of the training; default: machine and process",
    )
    return made


def main() -> None:
    """Read the command line and simulate."""
    arguments = parser().parse_args()
    keep_freed_memory()
    try:
        stream(arguments.connect, arguments.name, arguments.patience)
    except MessageError as error:
        raise UserError(f"{arguments.connect}: not a training of this version: {error}") from None


if __name__ == "__main__":
    cli.run(main)
