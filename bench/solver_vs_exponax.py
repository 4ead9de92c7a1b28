"""Kuramoto-Sivashinsky at equal error: our ETDRK4 against exponax's, on the CPU.

    python bench/solver_vs_exponax.py [--env .venv-bench] [--dtype float64]

Both advance the same developed states on the same grid with the same dealiasing, save the same
frames, and take turns, so that a busy machine hurts both; the best of several turns counts, and
compilation doesn't. Exponax shares one set of coefficients among all trajectories, as its users
do; ours carries one per trajectory, as our data sets need. Error: relative L2 distance of the last
frame to a float64 run of 64 steps per frame. Ratio: our speed over that of exponax, interpolated
(log-log) to the error of each of our runs.

Exponax lives in an environment of its own, made at the first call from the extra `bench`; there
this file runs as a worker that answers one JSON line with another.
"""

import argparse
import importlib.metadata
import json
import re
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import numpy as np

POINTS, LENGTH, DT, FRAMES = 256, 64.0, 0.2, 10
STEPS = (1, 2, 4, 8)  # of the integrator per frame


def exponax(request: dict) -> Callable[[], np.ndarray]:
    """Compile the run that a request describes and return it."""
    import exponax
    import jax

    jax.config.update("jax_enable_x64", request["dtype"] == "float64")
    stepper = exponax.stepper.KuramotoSivashinskyConservative(
        1, LENGTH, POINTS, DT / request["steps"], single_channel=True, order=4
    )
    repeated = exponax.RepeatedStepper(stepper, request["steps"])
    run = jax.jit(jax.vmap(exponax.rollout(repeated, FRAMES)))
    state = jax.numpy.asarray(request["state"], request["dtype"])
    run(state).block_until_ready()
    return lambda: run(state).block_until_ready()


def longrun(request: dict) -> Callable[[], np.ndarray]:
    """Build the same run with our solver."""
    import torch

    from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky

    torch.set_num_threads(request["threads"])
    state = torch.tensor(request["state"], dtype=getattr(torch, request["dtype"]))
    values = {"length": LENGTH, "dt": DT, "viscosity": 1.0}
    solver = KuramotoSivashinsky(points=POINTS).solver(
        {name: torch.full((len(state),), value) for name, value in values.items()},
        substeps=request["steps"],
        dtype=state.dtype,
    )

    def run() -> np.ndarray:
        with torch.no_grad():
            return solver.rollout(state, FRAMES).numpy()

    run()
    return run


def timed(run: Callable[[], np.ndarray], clock: str) -> dict:
    """Run twice and return the shorter time and the last frame."""
    now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
    seconds = []
    for _ in range(2):
        start = now()
        frames = run()
        seconds.append(now() - start)
    return {"seconds": min(seconds), "last": np.asarray(frames)[:, -1].tolist()}


def work() -> None:
    """Answer requests on stdin until it closes; a run is compiled once."""
    runs: dict[tuple, Callable[[], np.ndarray]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["dtype"], request["steps"]
        if key not in runs:
            runs[key] = exponax(request)
        print(json.dumps(timed(runs[key], request["clock"])), flush=True)


def environment(folder: Path) -> Path:
    """Python of the environment with the extra `bench`, made when it is missing."""
    python = folder / "bin" / "python"
    if not python.exists():
        wanted = [
            re.split(";", line)[0]
            for line in importlib.metadata.requires("longrun") or []
            if re.search(r"extra == .bench.", line)
        ]
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    return python


def developed_states(batch: int) -> np.ndarray:
    """States on the attractor, the same for both."""
    import torch

    from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky

    equation = KuramotoSivashinsky(points=POINTS, length=LENGTH, dt=DT)
    parameters, state = equation.sample([np.random.default_rng(i) for i in range(batch)])
    tensors = {name: torch.tensor(value) for name, value in parameters.items()}
    with torch.no_grad():
        return equation.solver(tensors, stride=360).step(torch.tensor(state)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of all cores together",
    )
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return

    state = developed_states(options.batch)
    base = {
        "state": state.tolist(),
        "dtype": options.dtype,
        "threads": options.threads,
        "clock": options.clock,
    }
    reference = longrun(base | {"dtype": "float64", "steps": 64})()[:, -1]
    worker = subprocess.Popen(
        [environment(options.env), __file__, "--worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin and worker.stdout
    names = ("longrun", "exponax")
    seconds = {name: np.full(len(STEPS), np.inf) for name in names}
    error = {name: np.zeros(len(STEPS)) for name in names}
    for row, steps in enumerate(STEPS):
        request = base | {"steps": steps}
        run = longrun(request)
        for _ in range(options.turns):
            print(json.dumps(request), file=worker.stdin, flush=True)
            answers = {
                "exponax": json.loads(worker.stdout.readline()),
                "longrun": timed(run, options.clock),
            }
            for name, answer in answers.items():
                seconds[name][row] = min(seconds[name][row], answer["seconds"])
                distance = np.linalg.norm(np.array(answer["last"]) - reference)
                error[name][row] = distance / np.linalg.norm(reference)
    worker.stdin.close()
    worker.wait()

    work_done = options.batch * FRAMES * np.array(STEPS)
    speed = {name: options.batch * FRAMES / seconds[name] for name in names}  # frames per second
    rising = np.argsort(error["exponax"])
    theirs = np.interp(
        np.log(error["longrun"]), np.log(error["exponax"][rising]), np.log(speed["exponax"][rising])
    )
    ratio = speed["longrun"] / np.exp(theirs)
    print(
        f"{options.dtype}, {POINTS} points, batch {options.batch}, {FRAMES} frames of {DT}, "
        f"seconds of {options.clock} clock"
    )
    print(
        f"{'dt':>7} | {'error':>8} {'traj-steps/s':>13} | {'error':>8} {'traj-steps/s':>13} | ratio"
    )
    print(f"{'':>7} | {'longrun':>22} | {'exponax':>22} | at equal error")
    for row, steps in enumerate(STEPS):
        cells = " | ".join(
            f"{error[name][row]:8.1e} {work_done[row] / seconds[name][row]:13,.0f}"
            for name in names
        )
        print(f"{DT / steps:7.4f} | {cells} | {ratio[row]:.2f}")
    print(f"ratio at equal error, geometric mean: {np.exp(np.log(ratio).mean()):.2f}")


if __name__ == "__main__":
    main()
