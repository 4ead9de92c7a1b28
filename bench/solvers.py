"""Reference solvers at equal error: ours beside exponax, jax-cfd and torch-cfd.

    python bench/solvers.py [--quick] [--case ks burgers ...] [--env .venv-bench] [--cores N]

All advance the same batch of developed states on the same grid over the same time, in float64.
For each method the number of steps is sought, by halvings and bisection, at which the relative L2
distance of the last state to that of a fine run falls to 1e-3 and to 1e-6; then the runs with that
many steps take turns, so that a busy machine hurts all, and the best turn of each counts, building
and compilation aside. The cost is interpolated, log-log, between the last two numbers of steps.

Each code has the best of the settings named below: the order of the integrator, a grid with the
same retained waves, jit and vmap in JAX. The others share one set of parameters among all
trajectories, as ours does where they are equal.

Where there is a GPU, a second table compares on it; a JAX without GPU is left out there. Our
process keeps freed memory, as generation does (`longrun.solvers.memory`).

Left out because they can't meet these errors on these grids: finite volumes of second order
(jax-cfd, torch-cfd).

The others live in a separate environment, made at the first call from the extra `bench`;
there this file runs as a worker that answers one pickled request with another.
"""

import argparse
import functools
import importlib.metadata
import math
import os
import pickle
import re
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

TOLERANCES = (1e-3, 1e-6)
Run = Callable[[], np.ndarray]  # from the initial states to the last ones


@dataclass(frozen=True)
class Case:
    """One problem, as each code solves it.

    Attributes
    ----------
    title
        For the table.
    equation
        Name of our equation.
    options
        Its options, numbers alone; `dt` is the time over which states are advanced.
    batch
        Trajectories.
    developed
        Time by which the initial conditions are advanced first, in units of `dt`.
    least
        Steps with which the search starts.
    fine
        Steps of the reference, whose error is far below the tightest tolerance.
    goal
        Our goal, in multiples of the speed of the fastest other code.
    """

    title: str
    equation: str
    options: dict[str, Any] = field(default_factory=dict)
    batch: int = 4
    developed: float = 1
    least: int = 4
    fine: int = 1024
    goal: float = 1.0


def flow(points: int, viscosity: float, dt: float, least: int) -> Case:
    options = {"points": points, "viscosity": viscosity, "dt": dt, "initial": "mcwilliams"}
    options["length"] = 2 * math.pi
    return Case(
        f"Navier-Stokes 2D, {points}², batch 4",
        "navier_stokes_2d",
        options,
        developed=round(1 / dt),
        least=least,
        fine=64 * least,
    )


CASES = {
    "ks": Case(
        "Kuramoto-Sivashinsky, 256, batch 64",
        "kuramoto_sivashinsky",
        {"points": 256, "length": 64.0, "dt": 2.0},
        batch=64,
        developed=36,
        least=2,
        fine=1280,
        goal=1.5,
    ),
    "burgers": Case(
        "Burgers, 1024, batch 64",
        "burgers",
        {"points": 1024, "length": 1.0, "dt": 0.1, "viscosity": 0.005, "initial": "gaussian"},
        batch=64,
        developed=1,
        least=4,
        fine=2048,
        goal=1.5,
    ),
    "ns2d-64": flow(64, 2e-2, 0.5, 4),
    "ns2d-128": flow(128, 5e-3, 0.25, 4),
    "ns2d-256": flow(256, 1.2e-3, 0.125, 4),
    "gray-scott": Case(
        "Gray-Scott, 128², batch 4",
        "gray_scott",
        {"points": 128, "length": 1.0, "dt": 40.0, "feed": 0.035, "kill": 0.06},
        developed=5,
        least=2,
        fine=640,
    ),
    "ns3d": Case(
        "Navier-Stokes 3D, 32³, batch 4",
        "navier_stokes_3d",
        {"points": 32, "length": 2 * math.pi, "dt": 0.4, "viscosity": 0.05},
        developed=1,
        least=2,
        fine=256,
    ),
}


# --- how each code solves a case ------------------------------------------------------------


def longrun(case: Case, method: str, steps: int, state: np.ndarray, device: str) -> Run:
    """Build a run of our solver."""
    import torch

    solver = our_solver(case, len(state), method, steps, device=device)
    start = torch.tensor(state, device=device)

    def run() -> np.ndarray:
        with torch.no_grad():
            return solver.step(start).cpu().numpy()

    return run


def our_solver(
    case: Case, batch: int, method: str, steps: int, stride: int = 1, device: str = "cpu"
) -> Any:
    """Build our solver; a frame is the time of the case."""
    import torch

    from longrun.runtime import registry

    equation = registry.find("equations", case.equation)(
        **case.options, integrator=method, substeps=case.fine
    )
    parameters = {
        name: torch.full((batch,), distribution.low)
        for name, distribution in equation.distributions.items()
    }
    return equation.solver(parameters, substeps=steps, stride=stride, device=device)


def kept(case: Case) -> int:
    """Highest wavenumber, in waves over the box, that our solver retains."""
    fraction = 1 / 2 if case.equation == "gray_scott" else 2 / 3
    return math.ceil(fraction * case.options["points"] / 2 - 1e-9) - 1


def mask(case: Case) -> np.ndarray:
    """Half-spectrum of ones where a wave is retained, in two dimensions."""
    points = case.options["points"]
    inside = np.abs(np.fft.fftfreq(points, 1 / points)) <= kept(case)
    return np.outer(inside, inside[: points // 2 + 1]).astype(float)


def exponax(case: Case, method: str, steps: int, state: np.ndarray, device: str) -> Run:
    """Build a run of exponax; all numbers of steps share one compiled function."""
    import equinox
    import exponax
    import jax

    options = case.options
    time_step = options["dt"] / steps
    half = options["points"] / 2  # its mask keeps waves up to fraction half - 1
    common = {"order": int(method[-1]), "dealiasing_fraction": (kept(case) + 1.1) / half}
    if case.equation == "kuramoto_sivashinsky":
        stepper = exponax.stepper.KuramotoSivashinskyConservative(
            1, options["length"], options["points"], time_step, single_channel=True, **common
        )
    elif case.equation == "burgers":
        common |= {"single_channel": True, "conservative": True}
        stepper = exponax.stepper.Burgers(
            1,
            options["length"],
            options["points"],
            time_step,
            diffusivity=options["viscosity"],
            **common,
        )
    elif case.equation == "navier_stokes_2d":
        stepper = exponax.stepper.NavierStokesVorticity(
            2,
            options["length"],
            options["points"],
            time_step,
            diffusivity=options["viscosity"],
            **common,
        )
    elif case.equation == "gray_scott":
        stepper = exponax.stepper.reaction.GrayScott(
            2,
            options["length"],
            options["points"],
            time_step,
            feed_rate=options["feed"],
            kill_rate=options["kill"],
            **common,
        )
    else:
        stepper = exponax.stepper.NavierStokesVelocity(
            3,
            options["length"],
            options["points"],
            time_step,
            diffusivity=options["viscosity"],
            **common,
        )
    arrays, rest = equinox.partition(stepper, equinox.is_array)
    key = case.title, method
    if key not in compiled:
        points, dims = stepper.num_points, stepper.num_spatial_dims

        def advance(arrays: Any, steps: Any, state: Any) -> Any:
            stepper = equinox.combine(arrays, rest)
            spectrum = exponax.fft(state, num_spatial_dims=dims)
            body = lambda _, spectrum: stepper.step_fourier(spectrum)  # noqa: E731
            spectrum = jax.lax.fori_loop(0, steps, body, spectrum)
            return exponax.ifft(spectrum, num_spatial_dims=dims, num_points=points)

        compiled[key] = jax.jit(jax.vmap(advance, in_axes=(None, None, 0)))
    # its vorticity turns the other way round
    sign = -1 if case.equation == "navier_stokes_2d" else 1
    advance, start = compiled[key], jax.numpy.asarray(sign * state)
    return lambda: sign * np.asarray(advance(arrays, steps, start))


def jax_cfd(case: Case, method: str, steps: int, state: np.ndarray, device: str) -> Run:
    """Build a run of jax-cfd's pseudo-spectral solvers."""
    import jax
    from jax_cfd.base import grids
    from jax_cfd.spectral import equations, time_stepping

    options, dims = case.options, state.ndim - 2
    key = case.title, method
    # in one dimension it dealiases by padding with half as many points, a multiple of four of them
    points = 2 * kept(case) // 4 * 4 if case.equation == "burgers" else options["points"]
    if key not in compiled:
        grid = grids.Grid((points,) * dims, domain=((0, options["length"]),) * dims)
        if case.equation == "kuramoto_sivashinsky":
            # without padding it is faster, and these states need none
            equation = equations.KuramotoSivashinsky(grid, smooth=False)
        elif case.equation == "burgers":
            equation = equations.BurgersEquation(options["viscosity"], grid)
        else:
            equation = equations.NavierStokes2D(options["viscosity"], grid)
            equation.filter_ = jax.numpy.asarray(mask(case))  # its own lacks some waves
        scheme = getattr(time_stepping, method)
        with_time = case.equation == "burgers"

        def advance(time_step: Any, steps: Any, state: Any) -> Any:
            step = scheme(equation, time_step)
            spectrum = jax.numpy.fft.rfftn(state)
            start = (spectrum, 0.0) if with_time else spectrum
            end = jax.lax.fori_loop(0, steps, lambda _, now: step(now), start)
            return jax.numpy.fft.irfftn(end[0] if with_time else end)

        compiled[key] = jax.jit(jax.vmap(advance, in_axes=(None, None, 0)))
    own = resample(state, points) if dims == 1 else state
    advance, start = compiled[key], jax.numpy.asarray(own[:, 0])

    def run() -> np.ndarray:
        last = np.asarray(advance(options["dt"] / steps, steps, start))[:, None]
        return resample(last, options["points"]) if dims == 1 else last

    return run


def resample(state: np.ndarray, points: int) -> np.ndarray:
    """Move states in one dimension to another grid."""
    return np.fft.irfft(np.fft.rfft(state, norm="forward"), n=points, norm="forward")


def torch_cfd(case: Case, method: str, steps: int, state: np.ndarray, device: str) -> Run:
    """Build a run of torch-cfd's pseudo-spectral solver."""
    import torch
    from torch_cfd import grids, spectral

    torch.set_default_dtype(torch.float64)
    options = case.options
    grid = grids.Grid((options["points"],) * 2, domain=((0, options["length"]),) * 2)
    scheme = {
        "rk4": spectral.RK4CrankNicolsonStepper,
        "rk2": spectral.IMEXStepper,
    }[method]()
    equation = spectral.NavierStokes2DSpectral(options["viscosity"], grid, step_fn=scheme)
    equation.filter = torch.tensor(mask(case))  # its own keeps a few more waves
    equation = equation.to(device)
    start = torch.tensor(state[:, 0], device=device)

    def run() -> np.ndarray:
        with torch.no_grad():
            spectrum, _ = equation(torch.fft.rfft2(start), options["dt"] / steps, steps)
            return torch.fft.irfft2(spectrum)[:, None].cpu().numpy()

    return run


compiled: dict[tuple[str, str], Any] = {}
CODES = {"longrun": longrun, "exponax": exponax, "jax-cfd": jax_cfd, "torch-cfd": torch_cfd}
ETDRK = ["etdrk2", "etdrk4"]
OURS = [*ETDRK, "etdrk4b"]
FLOWS = [*ETDRK, "lawson5"]
IMEX = ["imex_rk_sil3", "crank_nicolson_rk4"]
METHODS = {
    "kuramoto_sivashinsky": {"longrun": OURS, "exponax": ETDRK, "jax-cfd": IMEX},
    "burgers": {"longrun": OURS, "exponax": ETDRK, "jax-cfd": IMEX},
    "navier_stokes_2d": {
        "longrun": FLOWS,
        "exponax": ETDRK,
        "jax-cfd": IMEX,
        "torch-cfd": ["rk2", "rk4"],
    },
    "gray_scott": {"longrun": OURS, "exponax": ETDRK},
    "navier_stokes_3d": {"longrun": FLOWS, "exponax": ETDRK},
}


# --- running ---------------------------------------------------------------------------------


class Bench:
    """Runs of one process; those of the current case stay built."""

    def __init__(self) -> None:
        self.runs: dict[tuple, Run] = {}
        self.state: dict[str, np.ndarray] = {}

    def begin(self, case: str, state: np.ndarray) -> None:
        """Forget all runs and take the initial states of a case."""
        self.runs.clear()
        compiled.clear()
        self.state = {case: state}

    def can(self, code: str, device: str) -> bool:
        """Return whether a code can run on a device."""
        if device == "cpu" or code in ("longrun", "torch-cfd"):
            return True
        import jax

        return jax.default_backend() == "gpu"

    def last(self, key: tuple) -> np.ndarray:
        """Return the last states; `key` is (case, code, method, steps, device)."""
        return self._run(key)()

    def seconds(self, key: tuple, clock: str) -> float:
        """Time one run."""
        run = self._run(key)
        now = {"wall": time.perf_counter, "cpu": time.process_time}[clock]
        start = now()
        run()
        return now() - start

    def _run(self, key: tuple) -> Run:
        case, code, method, steps, device = key
        if key not in self.runs:
            self.runs[key] = CODES[code](CASES[case], method, steps, self.state[case], device)
            self.runs[key]()
        return self.runs[key]


class Remote:
    """The same in a worker."""

    def __init__(self, python: Path):
        self.process = subprocess.Popen(
            [python, __file__, "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __getattr__(self, name: str) -> Callable:
        """Return a method of the worker's `Bench`."""

        def call(*arguments: Any) -> Any:
            assert self.process.stdin and self.process.stdout
            pickle.dump((name, arguments), self.process.stdin)
            self.process.stdin.flush()
            return pickle.load(self.process.stdout)

        return call


def work() -> None:
    """Answer requests on stdin until it closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not mix with answers
    import jax

    jax.config.update("jax_enable_x64", True)
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    bench = Bench()
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(getattr(bench, name)(*arguments), answers)
        answers.flush()


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


def developed_states(case: Case) -> np.ndarray:
    """States of a flow that has left its initial condition behind."""
    import torch

    from longrun.runtime import registry

    equation = registry.find("equations", case.equation)(**case.options, substeps=case.fine // 8)
    _, state = equation.sample([np.random.default_rng(i) for i in range(case.batch)])
    with torch.no_grad():
        solver = our_solver(case, case.batch, "etdrk4", case.fine // 8, case.developed)
        return solver.step(torch.tensor(state)).numpy()


@dataclass
class Found:
    """The number of steps at which a method reaches a tolerance, and what it costs."""

    tolerance: float
    code: str
    method: str
    steps: int  # with which the error is at most the tolerance
    needed: float  # interpolated, not above `steps`
    seconds: float = math.inf

    @property
    def cost(self) -> float:
        """Seconds to reach the tolerance."""
        return self.seconds * self.needed / self.steps


def search(
    error: Callable[[int], float], least: int, most: int, tolerance: float, rounds: int
) -> tuple[int, float] | None:
    """Find the steps that reach a tolerance, and their interpolated number, up to `most`."""
    low, high = 0, least
    while error(high) > tolerance:
        low, high = high, 2 * high
        if high > most:
            return None
    for _ in range(rounds):
        if low == 0 or high - low < 2:
            break
        middle = round(math.sqrt(low * high))
        low, high = (middle, high) if error(middle) > tolerance else (low, middle)
    if low == 0 or not error(low) < 0.1:  # unstable below
        return high, high
    part = math.log(error(low) / tolerance) / math.log(error(low) / error(high))
    return high, low * (high / low) ** part


def error_of(bench: Any, key: tuple, device: str, reference: np.ndarray) -> Callable[[int], float]:
    """Return the relative error of a method as a function of its steps."""

    @functools.cache
    def error(steps: int) -> float:
        with np.errstate(all="ignore"):
            distance = np.linalg.norm(bench.last((*key, steps, device)) - reference)
        return float(np.nan_to_num(distance / np.linalg.norm(reference), nan=np.inf))

    return error


def compare(
    name: str, device: str, ours: Bench, theirs: Remote, options: argparse.Namespace
) -> list[Found]:
    """Find what every method needs in a case, then let the runs take turns."""
    case = CASES[name]
    state = developed_states(case)
    ours.begin(name, state)
    theirs.begin(name, state)
    reference = ours.last((name, "longrun", "etdrk4", case.fine, device))
    results = []
    for code, methods in METHODS[case.equation].items():
        bench = ours if code == "longrun" else theirs
        for method in methods if bench.can(code, device) else ():
            error = error_of(bench, (name, code, method), device, reference)
            most = case.fine // (2 if options.quick else 1)
            for tolerance in TOLERANCES:
                found = search(error, case.least, most, tolerance, 1 if options.quick else 3)
                if found:
                    results.append(Found(tolerance, code, method, *found))
    for _ in range(3 if options.quick else options.turns):
        for result in results:
            bench = ours if result.code == "longrun" else theirs
            key = name, result.code, result.method, result.steps, device
            result.seconds = min(result.seconds, bench.seconds(key, options.clock))
    return results


def table(name: str, results: list[Found]) -> list[str]:
    """Rows of the markdown table of a case: one per code, its best method at each tolerance."""
    case, rows = CASES[name], []
    best = {}
    for result in results:
        key = result.code, result.tolerance
        if key not in best or result.cost < best[key].cost:
            best[key] = result
    for code in METHODS[case.equation]:
        cells = [case.title, code]
        for tolerance in TOLERANCES:
            found = best.get((code, tolerance))
            if found is None:
                cells += ["not reached", "", ""]
                continue
            rivals = [best[k].cost for k in best if k[1] == tolerance and k[0] != "longrun"]
            speed = case.batch * found.steps / found.seconds
            ratio = min(rivals) / found.cost if code == "longrun" and rivals else None
            cells += [
                f"{1e3 * found.cost:.3g} ({found.method}, {found.needed:.0f})",
                f"{speed:,.0f}",
                ""
                if ratio is None
                else f"**{ratio:.2f}** {'≥' if ratio >= case.goal else '<'} {case.goal}",
            ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", type=Path, default=Path(".venv-bench"))
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="fewer turns, coarser search")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="that all may use")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: seconds of all cores together, for a busy machine",
    )
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work()
        return

    os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: options.cores])
    import torch

    from longrun.solvers.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(options.cores)
    ours, theirs = Bench(), Remote(environment(options.env))
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        where = f"{options.cores} cores" if device == "cpu" else torch.cuda.get_device_name()
        print(f"float64, {where}, seconds of {options.clock} clock\n")
        head = [f"ms to {t:.0e} (method, steps) | trajectory-steps/s | ratio" for t in TOLERANCES]
        print("| case | code | " + " | ".join(head) + " |")
        print("|---|---" + "|---|---:|---:" * len(TOLERANCES) + "|")
        for name in options.case:
            rows = table(name, compare(name, device, ours, theirs, options))
            print("\n".join(rows), flush=True)


if __name__ == "__main__":
    main()
