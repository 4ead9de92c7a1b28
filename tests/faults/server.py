"""Verbs without the cost of a start: a process that has imported them once, and forks.

It reads one JSON request per line and answers with one: `start` forks a child that runs a verb as
the command line would, `wait` says how a child ended. The parent computes nothing, so that a child
starts with no threads.
"""

import contextlib
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
import time

VERBS = ("convert", "evaluate", "generate", "inspect", "judge", "plot", "tabulate", "train")


def main() -> None:
    import torch

    torch.set_num_threads(1)
    for verb in VERBS:
        importlib.import_module(f"longrun.{verb}")
    for name in ("tasks.forecast", "methods.forecast.unet", "methods.forecast.persistence"):
        importlib.import_module(f"longrun.{name}")
    # a commit may come between two runs
    sys.modules["longrun.runtime.cli"]._git = lambda *_: None
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = start(**request["start"]) if "start" in request else wait(**request["wait"])
        print(json.dumps(answer), flush=True)


def start(verb, arguments, cwd, log, data=None, patch=None):
    """Fork a child.

    `data` is how many bytes it may allocate beyond those of the parent, `patch` Python to run
    before the verb.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return {"pid": pid}
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(cwd)
        sys.argv = [f"longrun.{verb}", *arguments]
        sys.modules["__main__"].__spec__ = importlib.util.find_spec(f"longrun.{verb}")
        if data is not None:
            threading.stack_size(2**20)  # those of eight threads would be the most of it
            limit = allocated() + data
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        if patch:
            exec(patch, {})
        code = call(verb)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def call(verb) -> int:
    """Run a verb to its exit code."""
    import traceback

    from longrun.runtime import cli

    try:
        cli.run(sys.modules[f"longrun.{verb}"].main)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def allocated() -> int:
    """Bytes that count against RLIMIT_DATA."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))


def wait(pid, seconds):
    """Say how a child ended: its code, negative for a signal, CPU seconds, and peak of memory."""
    limit = time.monotonic() + seconds
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            return {
                "code": os.waitstatus_to_exitcode(status),
                "cpu": usage.ru_utime + usage.ru_stime,
                "peak": usage.ru_maxrss * 1024,
            }
        if time.monotonic() > limit:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"code": None, "cpu": seconds, "peak": 0}
        time.sleep(0.001)


if __name__ == "__main__":
    main()
