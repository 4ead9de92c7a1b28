"""A Python that starts in a tenth of a second, to run programs in processes of their own.

Most of what a verb takes at small sizes is the import of torch, Lightning and the like. Here a
server has imported them. `python()` is a stand-in for the interpreter: it asks the server for a
fork, which runs the program with the stand-in's command line, folder, environment, input and
output, passes signals on to it, and ends as it does. The package itself is imported anew by each
program, from where its environment says.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

STAND_IN = """#!{python} -IS
import json, os, signal, socket, sys

PASSED = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
if sys.argv[1:2] not in (["-m"], ["-c"]):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = dict(words=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
socket.send_fds(server, [b"."], [0, 1, 2])
server.sendall(json.dumps(request).encode() + b"\\n")
answers = server.makefile()
program = int(answers.readline())
with open("{{}}.{{}}".format({address!r}, os.getpid()), "w") as file:
    file.write(str(program))
for number in PASSED:
    signal.signal(number, lambda number, _: os.kill(program, number))
code = int(answers.readline())
if code < 0:
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@functools.cache
def python() -> Path:
    """Start the server, which ends with this process, and return the stand-in."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))
    stand_in, address = folder / "python", folder / "server"
    stand_in.write_text(STAND_IN.format(python=sys.executable, address=str(address)))
    stand_in.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, folder],
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,  # its end tells the server of ours
        stdout=subprocess.PIPE,
    )
    assert server.stdout.readline() == b"ready\n"
    python.server = server  # type: ignore[attr-defined]
    return stand_in


def program(stand_in: int) -> int:
    """Return the process that runs a stand-in's program, by that of the stand-in."""
    return int(Path(f"{python().with_name('server')}.{stand_in}").read_text())


def preload() -> None:
    """Import what the package and the workflow stand on."""
    import snakemake.cli  # noqa: F401
    import torch

    from longrun import smoke

    torch.set_num_threads(1)
    for name in smoke._modules():
        importlib.import_module(name)
    forget()


def forget() -> None:
    """Have the package imported anew."""
    for name in [name for name in sys.modules if name.split(".")[0] == "longrun"]:
        del sys.modules[name]


def serve(folder: Path) -> dict | None:
    """Fork for every request; return it in the fork, and nothing when the tests have ended."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "server"))
    listener.listen(64)
    ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    clients: dict[int, socket.socket] = {}  # by the process that runs their program
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([0, ended, listener, *clients.values()], [], [])
        if 0 in ready:
            for process in clients:
                os.kill(process, signal.SIGKILL)
            shutil.rmtree(folder)
            return None
        for process, client in clients.items():
            if client in ready:  # it sends nothing more, so it was killed
                os.kill(process, signal.SIGKILL)
        if ended in ready:
            os.read(ended, 4096)
            report(clients)
        if listener in ready:
            client, _ = listener.accept()
            streams, request = read(client)
            process = os.fork()
            if not process:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for descriptor in (listener, client, *clients.values()):
                    descriptor.close()
                os.closerange(min(ended, wake), max(ended, wake) + 1)
                return request
            clients[process] = client
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(OSError):
                client.sendall(b"%d\n" % process)


def read(client: socket.socket) -> tuple[list[int], dict]:
    """Return the standard streams of a stand-in, and its request."""
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    with client.makefile() as lines:
        return streams, json.loads(lines.readline())


def report(clients: dict[int, socket.socket]) -> None:
    """Tell the stand-ins of programs that have ended."""
    for process in [*clients]:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            with clients.pop(process) as client, contextlib.suppress(OSError):
                client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def run(folder: Path, words: list[str], environment: dict[str, str]) -> int:
    """Run the program and return its exit code."""
    import torch
    from lightning_fabric.utilities import rank_zero

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = str(folder)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    # what the libraries read from the environment when they are imported
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", len(os.sched_getaffinity(0)))))
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    how, what, *arguments = words
    sys.argv = [how, *arguments]
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(what, {"__name__": "__main__"})
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def end(code: int) -> None:
    """End as the interpreter does, without tearing down all modules, which takes a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    preload()
    gc.freeze()
    given = serve(Path(sys.argv[1]))
    if given:
        end(run(**given))
