"""Training online: messages, the pool of solvers, batches of a stream, the verb."""

import ast
import csv
import itertools
import json
import logging
import math
import re
import shutil
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import stores
import torch
import toy
import yaml
from pytorch_lightning.utilities.exceptions import SIGTERMException

from longrun import config
from longrun import train as train_verb
from longrun.data.store import open_store
from longrun.generate import build as build_equation
from longrun.generate import simulate
from longrun.online import pool as pools
from longrun.online.messages import PROTOCOL, MessageError, pack, unpack
from longrun.online.pool import Connection, Job, SolverPool
from longrun.online.stream import Online, OnlineData, Window, _Stream
from longrun.runtime import checkpoint
from longrun.runtime.cli import UserError
from longrun.stream import stream

PATIENCE = 120.0  # s; a loaded machine is not a dead one
DATASET = {
    "equation": {"name": "heated_plate", "points": 4, "dt": 0.01},
    "seed": 3,
    "splits": {
        "train": {"trajectories": 12, "frames": 11},
        "valid": {"trajectories": 2, "frames": 11},
        "test": {"trajectories": 2, "frames": 11},
    },
    "store": {"frames_per_chunk": 11, "trajectories_per_shard": 4, "dtype": "float32"},
}
JOB = Job(DATASET["equation"], 3, 11, 1, (4, 4), 8, "float32")
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast", "learning_rate": 1e-3},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 10, "trajectories": 2, "train_trajectories": 2},
    "methods": {
        "online": {
            "name": "direct_mlp",
            "width": 8,
            "horizon": 10,
            "trainer": {
                "trajectories": 4,
                "online": {"policy": "reservoir", "capacity": 40, "threshold": 20},
            },
        },
        "offline": {"name": "direct_mlp", "width": 8, "horizon": 10},
    },
    "trainer": {
        "max_steps": 30,
        "batch_size": 8,
        "accelerator": "cpu",
        "validate_every": 10,
        "checkpoint_every": 10,
        "log_every": 5,
        "valid_windows": 8,
    },
}


@pytest.fixture(scope="module")
def project(tmp_path_factory, root):
    return toy.with_store(tmp_path_factory.mktemp("project"), DATASET, EXPERIMENT)


@pytest.fixture(scope="module")
def store(project):
    return open_store(project / "toy.zarr")


class Thread(threading.Thread):
    """A solver in a thread, which looks like the process that the pool means to start."""

    returncode = None

    def __init__(self, words, **_):
        options = dict(zip(words[3::2], words[4::2], strict=True))
        super().__init__(
            target=stream, args=(options["--connect"], options["--name"], PATIENCE), daemon=True
        )
        self.start()

    def run(self):
        try:
            super().run()
        except UserError as error:
            assert "interrupted" in str(error)

    def poll(self):
        return None

    def terminate(self):
        """The pool's "stop" ends it."""

    def wait(self, timeout=None):
        self.join(timeout)


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(pools.subprocess, "Popen", Thread)


# Messages ----------------------------------------------------------------------------------------


def test_messages_come_back_as_they_were():
    states = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::2]
    table = np.ones((2, 1))
    parts = pack("frames", {"parameters": table, "states": states}, simulations=[4, 7])
    found = unpack(parts)
    assert (found.kind, found.values) == ("frames", {"simulations": [4, 7]})
    assert np.array_equal(found.arrays["states"], states)
    assert found.arrays["states"].dtype == np.float32
    assert found.arrays["parameters"].dtype == np.float64


def frames(simulations=(0,), job=JOB, **changed):
    """A result of the right form, or with some of its header changed."""
    arrays = {
        "parameters": np.zeros((len(simulations), job.parameters)),
        "states": np.zeros((len(simulations), job.frames, job.fields, *job.space), job.dtype),
    }
    header, *buffers = pack("frames", arrays, simulations=list(simulations))
    return [json.dumps(json.loads(header) | changed).encode(), *buffers]


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "no header"),
        ([b"{" + b" " * 2**21], "too long"),
        ([b"\x80\x04N."], "not JSON"),  # a pickle
        ([b"[" * 100_000], "not JSON"),
        ([b"3"], "must hold"),
        ([b'{"kind": "alive"}'], "must hold"),
        (frames(kind="order"), "unknown kind"),
        (frames(kind=["frames"]), "unknown kind"),
        (frames(kind="hello"), "values of hello"),
        (frames(values={"simulations": 3}), "values of frames"),
        (frames(values={"simulations": [0], "more": 1}), "values of frames"),
        (frames(values={"simulations": []}), "numbers from 0"),
        (frames(values={"simulations": [-1]}), "numbers from 0"),
        (frames(values={"simulations": [True]}), "numbers from 0"),
        (frames()[:2], "arrays of frames"),
        ([*frames(), b""], "arrays of frames"),
        (frames(arrays={"states": ["float32", [1]]}), "arrays of frames"),
        (frames(arrays={"parameters": 3, "states": 3}), "type and a shape"),
        (frames(arrays={"parameters": ["object", [1]], "states": []}), "allowed: float32"),
        (frames(arrays={"parameters": ["float64", [-1]], "states": []}), "no shape"),
        (frames(arrays={"parameters": ["float64", "8"], "states": []}), "no shape"),
        (frames(arrays={"parameters": ["float64", [2, 8]], "states": []}), "64 bytes"),
        (frames(arrays={"parameters": ["float64", [2**40, 2**40]], "states": []}), "64 bytes"),
    ],
)
def test_what_is_no_message_is_refused(parts, says):
    with pytest.raises(MessageError, match=says) as refusal:
        unpack(parts)
    assert "\n" not in str(refusal.value)


# The pool ----------------------------------------------------------------------------------------


@pytest.fixture
def make_pool(tmp_path):
    def make(simulations=None, **options):
        given = {"solvers": 0, "logs": tmp_path, "patience": PATIENCE} | options
        return SolverPool(JOB, simulations or itertools.count(), **given)

    return make


class Solver(Connection):
    """A solver that does what a test says."""

    def __init__(self, pool, name="a"):
        super().__init__(pool.address, name, PATIENCE)
        self.say("hello", protocol=PROTOCOL, host="here")
        assert self.hear("welcome").values["frames"] == JOB.frames

    def say(self, *message, **values):
        super().say(*message, **values)
        self._told = math.inf  # no signs of life except the test's

    def order(self):
        return self.hear("simulate").values["simulations"]

    def send(self, simulations):
        self._socket.send_multipart(frames(simulations))

    def order_if_any(self):
        """The order that results from all that was sent; None if there is none.

        Orders are handed out after messages are read: before the second answer, if at all.
        """
        for _ in range(2):
            self.say("alive")
            message = self.hear("alive", "simulate")
            if message.kind == "simulate":
                self.hear("alive")
                return message.values["simulations"]
        return None


def eventually(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def take(pool):
    end = time.monotonic() + PATIENCE
    while (trajectory := pool.take()) is None:
        assert time.monotonic() < end
        pool.wait()
    return trajectory


def test_no_order_while_there_is_enough(make_pool):
    with make_pool(together=2) as pool, closing(Solver(pool)) as solver:
        sent = []
        for _ in range(pools.AHEAD):
            order = solver.order()
            sent += order
            solver.send(order)
        assert sent == [0, 1, 2, 3]
        assert solver.order_if_any() is None
        assert [pool.take().simulation for _ in range(2)] == [0, 1]
        assert solver.order() == [4, 5]


def test_results_are_given_in_order_where_that_is_asked(make_pool):
    with (
        make_pool(ordered=True) as pool,
        closing(Solver(pool)) as a,
        closing(Solver(pool, "b")) as b,
    ):
        first, second = a.order(), b.order()
        b.send(second)
        assert b.order() == [2]
        assert pool.take() is None  # the first is missing
        a.send(first)
        eventually(lambda: pool._arrived.keys() >= {0, 1})
        assert [pool.take().simulation, pool.take().simulation] == [0, 1]
        assert pool.take() is None


def test_nothing_is_handed_out_once_finished(make_pool):
    with make_pool() as pool, closing(Solver(pool)) as solver:
        order = solver.order()
        pool.finish()
        solver.send(order)
        assert solver.order_if_any() is None


def test_solvers_learn_whether_a_training_ended_or_was_interrupted(make_pool):
    with make_pool() as pool, closing(Solver(pool)) as solver:
        solver.order()
        pool.finish()
        pool.__exit__()
        assert solver.hear("stop")
    with make_pool() as pool, closing(Solver(pool)) as solver:
        solver.order()
        pool.__exit__()
        with pytest.raises(UserError, match="refuses: the training was interrupted"):
            solver.hear("stop")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda order: [b"nonsense"], "not JSON"),
        (lambda order: frames([77]), r"\[77\] were not ordered"),
        (lambda order: frames(order, replace(JOB, frames=10)), "states must be"),
        (lambda order: frames(order, replace(JOB, space=(4, 5))), "states must be"),
        (lambda order: frames(order, replace(JOB, dtype="float64")), "states must be"),
        (lambda order: frames(order, replace(JOB, parameters=7)), "parameters must be"),
        (lambda order: pack("simulate", simulations=order), "only a trainer may send"),
        (lambda order: [*frames(order)[:2], np.full((1, 11, 1, 4, 4), np.nan, "f4").tobytes()],
         "not all finite"),
    ],
)  # fmt: skip
def test_a_wrong_answer_is_refused_and_its_order_goes_to_another(make_pool, answer, says, caplog):
    with make_pool() as pool, closing(Solver(pool)) as wrong:
        order = wrong.order()
        wrong._socket.send_multipart(answer(order))
        with pytest.raises(UserError, match=says):
            wrong.hear("simulate")
        assert "sent a bad message" in caplog.text
        with closing(Solver(pool, "right")) as right:
            assert right.order() == order
            right.send(order)
            eventually(lambda: pool._arrived)
            assert pool.take().solver == "right on here"


def test_strangers_and_other_protocols_are_refused(make_pool):
    with make_pool() as pool:
        with closing(Connection(pool.address, "x", PATIENCE)) as stranger:
            stranger.say("alive")
            with pytest.raises(UserError, match="unknown"):
                stranger.hear("alive")
        with closing(Connection(pool.address, "y", PATIENCE)) as other:
            other.say("hello", protocol=PROTOCOL + 1, host="here")
            with pytest.raises(UserError, match="speaks protocol"):
                other.hear("welcome")


def test_the_order_of_a_silent_solver_goes_to_another(make_pool, monkeypatch, caplog):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(pools, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with make_pool() as pool, closing(Solver(pool, "silent")) as silent:
        order = silent.order()
        clock.now = 2 * PATIENCE
        eventually(lambda: not pool._solvers)
        assert f"silent on here was silent for {PATIENCE:g} s" in caplog.text
        with closing(Solver(pool, "other")) as other:
            assert other.order() == order
        silent._heard = clock.now
        silent.send(order)  # too late
        with pytest.raises(UserError, match="silent for too long"):
            silent.hear("simulate")


def test_a_solver_that_starts_again_under_its_name_gets_its_order_again(make_pool):
    with make_pool() as pool:
        first = Solver(pool, "job")
        order = first.order()
        with closing(Solver(pool, "job")) as second:  # while the first still seems connected
            first.close()
            assert second.order() == order
            second.send(order)
            assert second.order() == [1]
            assert pool.take().simulation == 0


def test_a_trajectory_that_diverged_ends_the_training(make_pool):
    with make_pool() as pool, closing(Solver(pool)) as solver:
        solver.order()
        solver.say("failed", reason="trajectory 0 of train diverged")
        with pytest.raises(UserError, match="trajectory 0 of train diverged"):
            take(pool)


def test_an_address_in_use_is_refused(make_pool):
    with make_pool() as pool, pytest.raises(UserError, match=r"listen.*in use"):
        make_pool(listen=pool.address)


def test_solvers_that_only_die_end_the_training(make_pool, monkeypatch):
    """With the output of the last of them."""

    def die(words, stdout, **_):
        stdout.write(b"a traceback\nno such module\n")
        return SimpleNamespace(
            poll=lambda: 1, returncode=1, terminate=lambda: None, wait=lambda timeout: 1
        )

    monkeypatch.setattr(pools.subprocess, "Popen", die)
    with make_pool(solvers=1) as pool, pytest.raises(UserError, match="no such module"):
        take(pool)


@pytest.mark.slow
def test_a_killed_solver_is_replaced_and_its_simulation_comes_all_the_same(make_pool, caplog):
    caplog.set_level(logging.INFO)
    with make_pool(solvers=1, ordered=True) as pool:
        eventually(lambda: len(pool._arrived) == pools.AHEAD)
        (victim,) = pool._processes.values()
        victim.send_signal(signal.SIGSTOP)
        taken = [pool.take(), pool.take()]
        eventually(lambda: any(solver.order for solver in list(pool._solvers.values())))
        victim.kill()
        taken += [take(pool) for _ in range(3)]
    assert [trajectory.simulation for trajectory in taken] == [0, 1, 2, 3, 4]
    assert [trajectory.solver.split()[0] for trajectory in taken] == ["solver0"] * 2 + [
        "solver1"
    ] * 3
    assert re.search(r"solver0 on .* is lost, its order \[2\] is free again", caplog.text)
    assert re.search(r"solver0 died \(exit -9\)", caplog.text)
    assert victim.poll() is not None and not any(p.poll() is None for p in pool._processes.values())


def test_a_solver_without_a_trainer_says_so():
    with pytest.raises(UserError, match=r"no word from tcp://127.0.0.1:9 for 0.2 s"):
        stream("tcp://127.0.0.1:9", "lonely", 0.2)


# Batches -----------------------------------------------------------------------------------------


def data(store, folder, first=0, batches=24, batch_size=8, **online):
    folder.mkdir(exist_ok=True)
    given = {"policy": "reservoir", "capacity": 40, "threshold": 16, "patience": PATIENCE} | online
    made = OnlineData(
        [store],
        online=Online(**given),
        folder=folder,
        stride=2,
        history=1,
        horizon=1,
        batch_size=batch_size,
        seed=5,
        batches=batches,
    )
    made.trainer = SimpleNamespace(
        global_step=first,
        accumulate_grad_batches=1,
        log_every_n_steps=10**9,
        loggers=[],
        received_sigterm=False,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return made


def arrivals(folder):
    with (folder / "arrivals.csv").open(newline="") as file:
        return [int(row["simulation"]) for row in csv.DictReader(file)]


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("policy", ["fifo", "firo", "reservoir"])
def test_windows_are_those_of_the_dataset(store, tmp_path, threads, policy):
    made = data(store, tmp_path, policy=policy)
    loader = made.train_dataloader()
    assert len(loader) == 24
    came = [*loader]
    assert len(came) == 24
    simulations = arrivals(tmp_path)
    assert sorted(simulations) == list(range(len(simulations)))
    equation = build_equation(DATASET["equation"])
    states = simulate(equation, 3, "train", range(len(simulations)), 11, "float32")[1]
    names = list(store.parameters)
    drawn = []
    for batch in came:
        assert batch["window"].shape == (8, 2, 1, 4, 4)
        assert all(part.dtype == torch.float32 for part in batch.values())
        for window, elapsed in zip(batch["window"], batch["elapsed"], strict=True):
            start = round(2 * float(elapsed))
            (number,) = [
                n for n, one in enumerate(states)
                if np.array_equal(one[start : start + 3 : 2], window.numpy())
            ]  # fmt: skip
            drawn.append((number, start))
        assert batch["parameters"].shape == (8, len(names))
    assert batch["parameters"][0, names.index("dt")] == pytest.approx(0.01)
    if policy != "reservoir":
        assert len(set(drawn)) == len(drawn) == 24 * 8
    if policy == "fifo":
        assert drawn == [(number, start) for number in simulations for start in range(9)][: 24 * 8]


@pytest.mark.parametrize("policy", ["fifo", "firo", "reservoir"])
def test_deterministic_batches_are_the_same_bits_also_when_resumed(
    store, tmp_path, threads, policy
):
    options = {"policy": policy, "deterministic": True}
    whole = [*data(store, tmp_path / "a", **options).train_dataloader()]
    again = [*data(store, tmp_path / "b", solvers=3, together=2, **options).train_dataloader()]
    assert same(whole, again)
    for first in (1, 13, 23):  # before the buffer is full, after, and while it is drained
        rest = [*data(store, tmp_path / "b", first=first, **options).train_dataloader()]
        assert same(rest, whole[first:])
    assert arrivals(tmp_path / "b") == arrivals(tmp_path / "a")


def test_a_resumed_run_goes_on_with_fresh_simulations(store, tmp_path, threads):
    [*data(store, tmp_path).train_dataloader()]
    before = arrivals(tmp_path)
    with (tmp_path / "arrivals.csv").open("a") as file:
        file.write("99,sol")  # cut short by a kill
    [*data(store, tmp_path, first=12).train_dataloader()]
    after = arrivals(tmp_path)
    assert after[: len(before)] == before and len(after) > len(before)
    assert min(after[len(before) :]) == max(before) + 1


def test_a_buffer_full_of_what_was_not_drawn_lets_nothing_in(store, tmp_path):
    stream = _Stream(data(store, tmp_path, capacity=40, threshold=16))
    numbers = itertools.count()

    def more(block):
        number = next(numbers)
        stream.gate.extend(Window(number, start) for start in range(9))
        return True

    assert stream._admit(0, more)
    assert stream.buffer.unseen == len(stream.buffer) == 40 and len(stream.gate) == 5
    assert stream._admit(1, more) and next(numbers) == 5
    stream.buffer.draw(8)
    assert stream._admit(2, more)
    assert stream.buffer.unseen == len(stream.buffer) == 40 and len(stream.gate) == 6


@pytest.fixture
def entered(monkeypatch):
    """The pool of a training, once there is one."""
    pool = Future()

    def enter(self, enter=SolverPool.__enter__):
        pool.set_result(self)
        return enter(self)

    monkeypatch.setattr(SolverPool, "__enter__", enter)
    return pool


@pytest.mark.parametrize("policy", ["fifo", "firo", "reservoir"])
def test_a_training_says_when_it_has_all_that_it_needs(store, tmp_path, threads, entered, policy):
    batches = iter(data(store, tmp_path, policy=policy).train_dataloader())
    next(batches)
    assert not entered.result()._finished.is_set()
    assert len([*itertools.islice(batches, 23)]) == 23
    assert entered.result()._finished.is_set()  # though nobody requests a 25th


def test_each_seed_has_a_port_of_its_own(store, tmp_path, threads, entered):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    batches = data(store, tmp_path, listen=f"tcp://127.0.0.1:{port - 5}").train_dataloader()
    next(iter(batches))  # of seed 5
    assert entered.result().address == f"tcp://127.0.0.1:{port}"


def test_solvers_wait_for_a_trainer_that_pauses(store, tmp_path, entered):
    with ThreadPoolExecutor(1) as executor:
        batches = iter(data(store, tmp_path, solvers=0, batches=100).train_dataloader())
        first = executor.submit(next, batches)
        with closing(Solver(entered.result(PATIENCE))) as solver:
            sent = 0
            while True:
                pauses = first.done()
                if order := solver.order_if_any():
                    solver.send(order)
                    sent += 1
                elif pauses:
                    break
            # of 9 windows: the buffer of 40, what waits at its gate, and what may lie in the pool
            assert 2 <= sent <= 40 // 9 + 1 + pools.AHEAD
            following = executor.submit(next, batches)
            assert solver.order()  # the pause is over
            following.result(PATIENCE)
        executor.submit(batches.close).result(PATIENCE)


def test_a_training_that_waits_for_solvers_can_be_told_to_go(store, tmp_path, monkeypatch):
    made = data(store, tmp_path, solvers=0)

    def wait(pool):  # nobody comes; meanwhile
        made.trainer.received_sigterm = True

    monkeypatch.setattr(SolverPool, "wait", wait)
    with pytest.raises(SIGTERMException):
        next(iter(made.train_dataloader()))


# The verb ----------------------------------------------------------------------------------------


def run_verb(project, monkeypatch, method, name, main=train_verb.main):
    words = {
        "experiment": "test",
        "method": method,
        "seed": 0,
        "preset": "smoke",
        "configs": project / "configs",
        "data": project / "toy.zarr",
        "output": project / name / "model.ckpt",
        "run-dir": project / name / "run",
    }
    monkeypatch.chdir(project)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(
        sys, "argv", ["verb", *(str(w) for k, v in words.items() for w in (f"--{k}", v))]
    )
    main()


def test_the_verb_trains_online_with_a_solver_of_its_own(project, monkeypatch):
    """End to end: the solver is a process, and the training leaves it a core."""
    threads = []

    def log(*arguments, log=OnlineData._log):
        threads.append(torch.get_num_threads())
        log(*arguments)

    monkeypatch.setattr(OnlineData, "_log", log)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        run_verb(project, monkeypatch, "online", "made")
        assert set(threads) == {2} and torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    content = checkpoint.read(project / "made/model.ckpt")
    assert content["method"] == "direct_mlp" and content["updates"] == 30
    with (project / "made/curves.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    curve = [float(r["value"]) for r in rows if r["metric"] == "online/simulations"]
    assert len(curve) == 30 / 5 and curve == sorted(curve) and curve[-1] >= 30 * 8 / 10 / 2
    assert {row["metric"] for row in rows} >= {"valid/field_error", "online/reuse", "train/loss"}
    (folder,) = (project / "made/run").iterdir()
    assert len(arrivals(folder)) >= curve[-1]
    assert (folder / "solver0.log").read_text() == ""


def test_a_training_from_a_store_loads_no_stream():
    tree = ast.parse(Path(train_verb.__file__).read_text("utf-8"))
    loaded = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert "longrun.data.module" in loaded
    assert not [module for module in loaded if module.startswith("longrun.online")]


def test_the_gap_is_that_between_test_and_training(project, monkeypatch):
    run_verb(project, monkeypatch, "offline", "stored")
    module = checkpoint.load(project / "stored/model.ckpt")
    store = open_store(project / "toy.zarr")
    options = config.compose(project / "configs", "test", "smoke")["evaluate"]
    scores = module.evaluate(store, options, seed=0).scores
    mean = scores.groupby("metric", observed=True)["value"].mean()
    assert "one_step_nrmse" not in mean  # a direct method has no step
    assert mean["generalisation_gap"] == pytest.approx(mean["nrmse"] / mean["train_nrmse"])
    assert set(scores[scores["metric"] == "generalisation_gap"]["trajectory"]) == {0, 1}

    # by hand: the network's output for the first training trajectory, at every time
    split = store.split("train")
    truth = torch.from_numpy(split.read(slice(0, 2), slice(1, 11)))
    table = np.stack([v[:2] for v in split.parameters.values()], 1)
    parameters = torch.from_numpy(table).float().repeat_interleave(10, 0)
    time_ = torch.arange(1.0, 11).repeat(2)
    with torch.no_grad():
        found = module._frame(parameters, time_).unflatten(0, (2, 10))
    space = (-1, -2, -3)
    error = (found - truth).square().mean(space).sqrt() / truth.square().mean(space).sqrt()
    assert mean["train_nrmse"] == pytest.approx(float(error.mean()), rel=1e-5)

    with pytest.raises(UserError, match="start must be 0"):
        module.evaluate(store, options | {"start": 1, "steps": 5}, seed=0)


def test_stores_of_no_known_equation_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no equation"):
        data(stores.make(tmp_path / "other.zarr"), tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"policy": "lifo"}, "trainer.online.policy: 'lifo' is not allowed; allowed: fifo, firo"),
        ({"polcy": 1}, "trainer.online.polcy: unknown key"),
        ({"threshold": 4}, "threshold: must be at least batch_size (8), is 4"),
        ({"capacity": 27}, "capacity: must be at least threshold + batch_size (28), is 27"),
        ({"listen": "localhost:80"}, "listen: must be tcp://host:port, is 'localhost:80'"),
        ({"listen": "tcp://*:70000"}, "listen: must be tcp://host:port"),
        ({"listen": "ipc:///tmp/x"}, "listen: must be tcp://host:port"),
        ({"solvers": 0}, "listen: needs a port where solvers is 0"),
        ({"together": 0}, "together: must be at least 1"),
        ({"patience": 0}, "patience: must be more than 0"),
    ],
)
def test_impossible_streams_are_refused(project, tmp_path, change, says):
    online = EXPERIMENT["methods"]["online"]["trainer"]["online"] | change
    assert says in refusal(project, tmp_path, {"online": online})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"max_steps": None, "max_epochs": 1}, "must be max_steps online"),
        ({"devices": 2}, "devices: must be 1 online, is 2"),
    ],
)
def test_impossible_trainers_are_refused(project, tmp_path, change, says):
    assert says in refusal(project, tmp_path, change)


def test_how_solvers_find_a_training_is_no_part_of_it(project, tmp_path):
    def composed(**change):
        online = EXPERIMENT["methods"]["online"]["trainer"]["online"] | change
        folder = changed(project, tmp_path / str(len(change)), {"online": online})
        return config.train_spec(config.compose(folder / "configs", "test", "smoke"), "online")

    before = composed()
    assert composed(listen="tcp://*:5577", patience=5) == before
    assert composed(policy="fifo") != before


def test_a_gap_to_what_was_not_trained_on_is_refused(project, tmp_path):
    line = refusal(project, tmp_path, {}, evaluate={"train_trajectories": 5})
    assert "train_trajectories: must be at most 4, those that online trains on" in line


def changed(project, folder, trainer, **sections):
    """A copy of the project with another trainer of the online method."""
    shutil.copytree(project, folder, ignore=shutil.ignore_patterns("*.zarr"))
    spec = json.loads(json.dumps(EXPERIMENT))
    spec["methods"]["online"]["trainer"] |= trainer
    for name, section in sections.items():
        spec[name] |= section
    (folder / "configs/experiments/test.yaml").write_text(yaml.safe_dump(spec))
    return folder


def refusal(project, tmp_path, trainer, **sections):
    """The line that refuses a change of the online method's trainer."""
    folder = changed(project, tmp_path / "changed", trainer, **sections)
    with pytest.raises(config.ConfigError) as caught:
        config.compose(folder / "configs", "test", "smoke")
    assert "\n" not in str(caught.value)
    return str(caught.value)
