"""The trainer's side of a stream: hand out simulations, keep solvers alive, collect trajectories.

A solver asks for an order, simulates it and sends the result, which asks for the next order; while
the trainer has enough, it gets no answer. A solver has one order at a time, so solvers wait for the
trainer, not the reverse, and nothing piles up on the way.

PyZMQ carries this, as in Melissa. ZeroMQ keeps messages whole, reconnects, and speaks TCP within a
machine and between the jobs of a cluster; its router answers the right solver; trainer
and solvers start in any order, and come and go. MPI and `torch.distributed` need all processes from
the start and end with the first that dies. Torch's RPC and the queues of `multiprocessing` unpickle
what they receive, and Monarch, meant to follow that RPC, calls itself experimental.
"""

import collections
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from jaxtyping import Float
from numpy import ndarray

from longrun.online.messages import PROTOCOL, Message, MessageError, pack, unpack
from longrun.runtime.cli import UserError

log = logging.getLogger(__name__)

AHEAD = 2  # orders that may wait here: one to take from, one arriving
DEATHS = 3  # in a row, without a result in between: then something is wrong with the solvers
POLL = 10  # ms
BEAT = 1.0  # s between signs of life
LINGER = 1000  # ms to deliver the last messages


@dataclass(frozen=True)
class Job:
    """What is simulated, and what its results look like.

    Attributes
    ----------
    equation, seed
        As in the dataset: trajectory i is that of the training split.
    frames, fields, space, parameters, dtype
        Sizes of a trajectory, the number of its parameters, and the type of its frames.
    """

    equation: Mapping[str, Any]
    seed: int
    frames: int
    fields: int
    space: tuple[int, ...]
    parameters: int
    dtype: str


@dataclass(frozen=True)
class Trajectory:
    """What a solver sent: frames `(time, channel, *space)` and parameters of one simulation."""

    simulation: int
    solver: str
    states: Float[ndarray, "time channel *space"]
    parameters: Float[ndarray, " parameter"]


@dataclass
class _Solver:
    name: str
    heard: float  # when
    order: list[int] | None = None


class SolverPool:
    """Solvers of a trainer: those that it starts, and those that connect by themselves.

    A context manager: solvers run inside. One thread talks to them; the methods are for the
    trainer's thread.

    Parameters
    ----------
    job
        What they simulate.
    simulations
        Numbers of the trajectories, in the order in which they are handed out.
    solvers
        Processes to start on this machine, and to replace when they die.
    together
        Trajectories of an order, which a solver simulates as one batch.
    listen
        Address, such as `tcp://127.0.0.1:*`.
    patience
        Seconds after which a silent solver counts as dead.
    ordered
        Give trajectories in the order of `simulations`, whatever the order of arrival.
    logs
        Folder for the output of the started processes.

    Raises
    ------
    UserError
        An address that can't be used.
    """

    def __init__(
        self,
        job: Job,
        simulations: Iterator[int],
        *,
        solvers: int,
        logs: Path,
        together: int = 1,
        listen: str = "tcp://127.0.0.1:*",
        patience: float = 60.0,
        ordered: bool = False,
    ):
        self.job, self.together, self.patience, self.ordered = job, together, patience, ordered
        self._simulations, self._logs = simulations, logs
        self._again: collections.deque[int] = collections.deque()  # orders of dead solvers
        self._arrived: dict[int, Trajectory] = {}  # in the order of arrival
        self._handed_out: collections.deque[int] = collections.deque()  # if ordered: to give next
        self._solvers: dict[bytes, _Solver] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._wanted, self._started, self._deaths = solvers, 0, 0
        self._finished, self._stopping = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._socket: Any = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, LINGER)
        # a solver may reconnect even while its lost connection still seems open
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, True)
        try:
            self._socket.bind(listen)
        except zmq.ZMQError as error:
            self._socket.close()
            raise UserError(f"trainer.online.listen: {listen}: {error.strerror}") from None
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._thread = threading.Thread(target=self._serve, name="solvers")

    def __enter__(self) -> "SolverPool":
        """Start."""
        log.info("online: solvers connect to %s", self.address)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Dismiss the solvers, and wait until those of this machine have ended."""
        self._stopping.set()
        self._thread.join()

    # For the trainer ---------------------------------------------------------------------------

    def take(self) -> Trajectory | None:
        """Return the next trajectory, None if it isn't there yet."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if self.ordered:
                if not self._handed_out or self._handed_out[0] not in self._arrived:
                    return None
                return self._arrived.pop(self._handed_out.popleft())
            return self._arrived.pop(next(iter(self._arrived))) if self._arrived else None

    def wait(self) -> None:
        """Return when something arrived or went wrong, or after a second."""
        with self._changed:
            if self._error is None:
                self._changed.wait(1.0)

    def finish(self) -> None:
        """Hand out nothing more: what has arrived is enough.

        At the end solvers are told so; in a pool that is left earlier, that it was interrupted.
        """
        self._finished.set()

    # The thread --------------------------------------------------------------------------------

    def _serve(self) -> None:
        try:
            # ends with the main thread, however that ends
            while not self._stopping.is_set() and threading.main_thread().is_alive():
                self._keep_processes()
                if self._socket.poll(POLL):
                    self._receive()
                self._drop_the_silent()
                self._hand_out()
        except BaseException as error:  # of any kind: the trainer's thread must raise it
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._end()

    def _end(self) -> None:
        for solver in self._solvers:
            if self._finished.is_set():
                self._send(solver, "stop")
            else:
                self._send(solver, "refuse", reason="the training was interrupted")
        self._socket.close()
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _receive(self) -> None:
        """Take one message; orders are handed out after each."""
        sender, *parts = self._socket.recv_multipart()
        try:
            self._hear(sender, unpack(parts))
        except MessageError as error:
            name = self._solvers[sender].name if sender in self._solvers else "a stranger"
            log.warning("online: %s sent a bad message: %s", name, error)
            self._send(sender, "refuse", reason=str(error))
            self._lose(sender)

    def _hear(self, sender: bytes, message: Message) -> None:
        if message.kind == "hello":
            self._welcome(sender, message)
            return
        if sender not in self._solvers:
            raise MessageError("this solver is unknown, or was silent for too long")
        solver = self._solvers[sender]
        solver.heard = time.monotonic()
        if message.kind == "frames":
            self._accept(solver, message)
        elif message.kind == "failed":
            raise UserError(message.values["reason"])
        elif message.kind == "alive":
            self._send(sender, "alive")
        else:
            raise MessageError(f"only a trainer may send {message.kind}")

    def _welcome(self, sender: bytes, message: Message) -> None:
        if message.values["protocol"] != PROTOCOL:
            raise MessageError(f"speaks protocol {message.values['protocol']}, not {PROTOCOL}")
        self._lose(sender)  # a restarted job has the same name
        name = f"{sender.decode(errors='replace')} on {message.values['host']}"
        self._solvers[sender] = _Solver(name, time.monotonic())
        log.info("online: %s connected", name)
        job = self.job
        self._send(
            sender,
            "welcome",
            equation=dict(job.equation),
            seed=job.seed,
            frames=job.frames,
            dtype=job.dtype,
        )

    def _accept(self, solver: _Solver, message: Message) -> None:
        """Check a result and put it on the pile."""
        simulations = message.values["simulations"]
        if simulations != solver.order:
            raise MessageError(f"simulations {simulations} were not ordered")
        states, parameters = message.arrays["states"], message.arrays["parameters"]
        job, count = self.job, len(simulations)
        for name, array, shape, dtype in (
            ("states", states, (count, job.frames, job.fields, *job.space), job.dtype),
            ("parameters", parameters, (count, job.parameters), "float64"),
        ):
            if array.shape != shape or array.dtype.name != dtype:
                found = f"{array.dtype.name} {array.shape}"
                raise MessageError(f"{name} must be {dtype} {shape}, are {found}")
            if not np.isfinite(array).all():
                raise MessageError(f"{name} are not all finite")
        solver.order, self._deaths = None, 0
        with self._changed:
            for row, simulation in enumerate(simulations):
                self._arrived[simulation] = Trajectory(
                    simulation, solver.name, states[row], parameters[row]
                )
            self._changed.notify_all()

    def _hand_out(self) -> None:
        """Give each waiting solver an order, as long as there is room."""
        for sender, solver in self._solvers.items():
            if solver.order is None and (order := self._next_order()):
                solver.order = order
                self._send(sender, "simulate", simulations=order)

    def _next_order(self) -> list[int]:
        if self._again:  # the trainer waits for these: no need for room
            return [self._again.popleft() for _ in range(min(self.together, len(self._again)))]
        with self._changed:
            if self._finished.is_set() or len(self._arrived) > (AHEAD - 1) * self.together:
                return []
            order = [next(self._simulations) for _ in range(self.together)]
            if self.ordered:
                self._handed_out += order
            return order

    def _drop_the_silent(self) -> None:
        now = time.monotonic()
        for sender, solver in list(self._solvers.items()):
            if now - solver.heard > self.patience:
                log.warning("online: %s was silent for %g s", solver.name, self.patience)
                self._lose(sender)

    def _lose(self, sender: bytes) -> None:
        """Forget a solver; its order is handed out again."""
        solver = self._solvers.pop(sender, None)
        if solver is not None and solver.order:
            log.warning("online: %s is lost, its order %s is free again", solver.name, solver.order)
            self._again += solver.order

    def _keep_processes(self) -> None:
        """Replace the processes that have died, and start the first ones."""
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            del self._processes[name]
            self._lose(name.encode())
            self._deaths += 1
            said = self._log(name).read_text("utf-8", "replace").strip().splitlines()
            last = said[-1] if said else "no output"
            if self._deaths >= DEATHS:
                raise UserError(f"{DEATHS} solvers died in a row; the last, {name}: {last}")
            log.warning("online: %s died (exit %s): %s", name, process.returncode, last)
        while len(self._processes) < self._wanted:
            self._start()

    def _start(self) -> None:
        name = f"solver{self._started}"
        self._started += 1
        host, _, port = self.address.rpartition(":")
        address = (
            f"tcp://127.0.0.1:{port}" if host in ("tcp://0.0.0.0", "tcp://*") else self.address
        )
        words = [sys.executable, "-m", "longrun.stream", "--connect", address, "--name", name]
        with self._log(name).open("wb") as file:
            self._processes[name] = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _send(self, solver: bytes, kind: str, **values: Any) -> None:
        self._socket.send_multipart([solver, *pack(kind, **values)])


class Connection:
    """A solver's side of the stream.

    Parameters
    ----------
    address
        The trainer's, `tcp://host:port`.
    name
        Name of this solver in the trainer's log; must be unique.
    patience
        Seconds to wait for any message from the trainer.

    Raises
    ------
    UserError
        Not an address.
    """

    def __init__(self, address: str, name: str, patience: float):
        self.address, self.patience = address, patience
        self._socket: Any = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, name.encode())
        self._socket.setsockopt(zmq.LINGER, LINGER)
        self._inbox: collections.deque[Message] = collections.deque()
        self._heard = self._told = time.monotonic()
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self._socket.close()
            raise UserError(f"--connect {address}: {error.strerror}") from None

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def say(self, kind: str, arrays: Mapping[str, ndarray] | None = None, **values: Any) -> None:
        """Send a message."""
        self._socket.send_multipart(pack(kind, arrays, **values))
        self._told = time.monotonic()

    def hear(self, *kinds: str) -> Message:
        """Wait for a message of these kinds.

        Raises
        ------
        UserError
            The trainer refuses us, or is silent.
        """
        while True:
            while self._inbox:
                message = self._inbox.popleft()
                if message.kind in kinds:
                    return message
            self._listen(BEAT)

    def beat(self) -> None:
        """Send a sign of life now and then, during other work; raises like `hear`."""
        self._listen(0)

    def _listen(self, seconds: float) -> None:
        if self._socket.poll(round(1000 * seconds)):
            self._heard = time.monotonic()
            message = unpack(self._socket.recv_multipart())
            if message.kind == "refuse":
                raise UserError(f"{self.address} refuses: {message.values['reason']}")
            self._inbox.append(message)
        now = time.monotonic()
        if now - self._heard > self.patience:
            raise UserError(f"no word from {self.address} for {self.patience:g} s")
        if now - self._told > BEAT:
            self.say("alive")
