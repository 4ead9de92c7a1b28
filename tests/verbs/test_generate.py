import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import warm
import yaml

from longrun import generate as module
from longrun import inspect
from longrun.data.store import open_store
from longrun.equations.kuramoto_sivashinsky import KuramotoSivashinsky
from longrun.generate import build, generate, generate_part, measure, measure_part, simulate
from longrun.runtime import registry
from longrun.runtime.cli import UserError, provenance

EQUATION = {
    "name": "kuramoto_sivashinsky",
    "points": 32,
    "length": {"uniform": [12.0, 16.0]},
    "dt": {"uniform": [0.18, 0.22]},
    "burn_in": 30,
}
SPEC = {
    "equation": EQUATION,
    "seed": 7,
    "splits": {
        "train": {"trajectories": 5, "frames": 25},
        "valid": {"trajectories": 2, "frames": 12},
        "test": {"trajectories": 2, "frames": 12},
    },
    "store": {"frames_per_chunk": 10, "trajectories_per_shard": 2, "dtype": "float32"},
    "measure": {"trajectories": 8, "frames": None},
    "jobs": 1,
}
CONTENT = {key: value for key, value in SPEC.items() if key != "jobs"}
PROVENANCE = {"commit": "c0ffee", "dirty": False, "versions": {"a": "1"}, "hardware": {"cpu": "x"}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    output = tmp_path_factory.mktemp("generate") / "ks.zarr"
    generate(SPEC, output, PROVENANCE)
    return output


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_store_holds_the_trajectories_of_its_configuration(path):
    store = open_store(path, "kuramoto_sivashinsky")
    assert store.equation == EQUATION
    assert store.attrs["config"] == CONTENT
    assert store.attrs["seed"] == 7
    assert store.attrs["boundary"] == {"x": "periodic"}
    assert store.attrs["provenance"].items() >= PROVENANCE.items()
    assert len(store.attrs["provenance"]["code"]) == 12
    for name, size in SPEC["splits"].items():
        split = store.split(name)
        parameters, states = simulate(
            build(EQUATION), 7, name, range(size["trajectories"]), size["frames"]
        )
        assert np.array_equal(split.read(slice(None), slice(None)), states.astype("f4"))
        assert all(np.array_equal(split.parameters[key], v) for key, v in parameters.items())
    assert split.array("u")["attrs"]["long_name"] == "velocity"
    assert [p.name for p in path.parent.iterdir()] == ["ks.zarr"]


def test_burn_in_is_simulated_and_discarded():
    _, kept = simulate(build(EQUATION), 1, "train", range(2), 10)
    _, everything = simulate(build(EQUATION | {"burn_in": 0}), 1, "train", range(2), 40)
    assert np.array_equal(kept, everything[:, 30:])
    generator = np.random.default_rng(np.random.SeedSequence(1, spawn_key=(0, 1)))
    assert np.array_equal(everything[1, 0], build(EQUATION).sample([generator])[1][0])


def test_a_trajectory_has_the_same_bits_in_any_company():
    equation = build(EQUATION)
    parameters, states = simulate(equation, 1, "valid", range(9), 30)
    for company in ([4], [4, 5], [8, 4, 0], [4, 1, 2, 3, 0, 7, 8]):
        some_parameters, some = simulate(equation, 1, "valid", company, 30)
        assert np.array_equal(some, states[company])
        assert np.array_equal(some_parameters["dt"], parameters["dt"][company])
    _, shorter = simulate(equation, 1, "valid", [4], 7)
    assert np.array_equal(shorter[0], states[4, :7])
    assert not np.array_equal(states[4], simulate(equation, 1, "test", [4], 30)[1][0])
    assert not np.array_equal(states[4], simulate(equation, 2, "valid", [4], 30)[1][0])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(simulate(equation, 1, "valid", range(9), 30)[1], states)
    finally:
        torch.set_num_threads(threads)


def test_workers_and_shards_change_no_bit(path, tmp_path):
    generate(SPEC, tmp_path / "ks.zarr", PROVENANCE, workers=2)
    assert contents(tmp_path / "ks.zarr") == contents(path)
    coarse = SPEC | {"store": SPEC["store"] | {"trajectories_per_shard": 4}}
    generate(coarse, tmp_path / "coarse.zarr", PROVENANCE)
    left, right = (open_store(p).split("train") for p in (path, tmp_path / "coarse.zarr"))
    every = slice(None)
    assert np.array_equal(left.read(every, every), right.read(every, every))


def in_parts(folder, jobs, spec=SPEC):
    """What the jobs of a cluster leave behind, made out of order."""
    parts = [folder / "parts" / str(number) for number in range(jobs)]
    for number, part in reversed(list(enumerate(parts))):
        generate_part(spec | {"jobs": jobs}, part, PROVENANCE, number)
    measure_part(spec | {"jobs": jobs}, folder / "parts" / "error.json", PROVENANCE)
    return [*parts, folder / "parts" / "error.json"]


@pytest.mark.parametrize("jobs", [1, 2, 9])  # of 5 shards
def test_parts_join_to_the_same_store(path, tmp_path, monkeypatch, jobs):
    parts = in_parts(tmp_path, jobs)
    monkeypatch.setattr(module, "simulate", None)  # nothing is left to simulate or to measure
    generate(SPEC | {"jobs": jobs}, tmp_path / "ks.zarr", PROVENANCE, parts=parts)
    assert contents(tmp_path / "ks.zarr") == contents(path)
    generate_part(SPEC | {"jobs": jobs}, parts[0], PROVENANCE, 0)  # is there already


def test_what_parts_lack_is_made_when_they_are_joined(path, tmp_path):
    parts = in_parts(tmp_path, 3)
    generate(SPEC, tmp_path / "ks.zarr", PROVENANCE, parts=parts[1:2])
    assert contents(tmp_path / "ks.zarr") == contents(path)


def test_parts_of_another_dataset_are_refused(tmp_path):
    parts = in_parts(tmp_path, 1, SPEC | {"seed": 8})
    for part, message in zip(parts, ("is part of another", "was measured on another"), strict=True):
        with pytest.raises(UserError, match=message):
            generate(SPEC, tmp_path / "ks.zarr", PROVENANCE, parts=[part])
    with pytest.raises(UserError, match="part 2 of 2 doesn't exist; they are 0 to 1"):
        generate_part(SPEC | {"jobs": 2}, tmp_path / "2", PROVENANCE, 2)


def test_an_interrupted_part_resumes(path, tmp_path, monkeypatch):
    spec = SPEC | {"jobs": 2}
    with monkeypatch.context() as patch:
        write = module.StoreWriter.write

        def failing(self, split, *arguments):
            if split == "valid":
                raise KeyboardInterrupt
            write(self, split, *arguments)

        patch.setattr(module.StoreWriter, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            generate_part(spec, tmp_path / "1", PROVENANCE, 1)
    assert not (tmp_path / "1").exists()
    calls = shards_simulated(monkeypatch)
    generate_part(spec, tmp_path / "1", PROVENANCE, 1)
    assert calls == [("valid", 0)]
    generate(spec, tmp_path / "ks.zarr", PROVENANCE, parts=[tmp_path / "1"])
    assert contents(tmp_path / "ks.zarr") == contents(path)


def test_reference_error_is_the_distance_to_a_finer_run(path):
    lead_time, error = open_store(path).reference_error()
    equation = build(EQUATION)
    parameters, states = simulate(equation, 7, "test", range(8), 25)
    assert np.allclose(lead_time, np.arange(1, 25) * parameters["dt"].mean())
    fine = build(EQUATION | {"points": 64, "substeps": 4})
    tensors = {name: torch.from_numpy(values) for name, values in parameters.items()}
    wave = np.fft.irfft(np.fft.rfft(states[:, 0]), 64) * 2  # onto twice the points
    truth = fine.solver(tensors).rollout(torch.from_numpy(wave), 24).numpy()[..., ::2]
    size = np.sqrt(np.square(truth).mean(axis=(1, 2, 3)))[:, None]
    relative = np.sqrt(np.square(states[:, 1:] - truth).mean(axis=(2, 3))) / size
    assert np.allclose(error, relative.mean(0), rtol=0.05)
    assert open_store(path).attrs["reference_error"] == error[0]


def test_a_smaller_step_has_a_smaller_reference_error():
    resolved = EQUATION | {"points": 64}
    error = [measure(build(resolved | {"substeps": n}), 7, 3, "float64")[1][0] for n in (16, 32)]
    assert 10 < error[0] / error[1] < 20  # fourth order


def test_predictability_is_a_matter_of_the_perturbation(monkeypatch):
    chaotic = EQUATION | {"points": 48, "length": 22.0, "substeps": 1}
    times = []
    for relative in (1e-6, 1e-2):
        monkeypatch.setattr(module, "PERTURBATION", relative)
        attributes = measure(build(chaotic), 7, 250, "float32")[2]
        times.append(attributes["predictability"])
        assert 0 <= attributes["predictability_censored"] < 1
    assert times[0] > times[1] + 20


def test_without_chaos_predictability_is_censored():
    damped = EQUATION | {"length": 6.0}  # no growing wave fits
    attributes = measure(build(damped | {"burn_in": 0}), 7, 5, "float64")[2]
    assert attributes["predictability_censored"] == 1
    assert attributes["predictability"] == pytest.approx(19 * 0.2, rel=0.1)


class Fragile(KuramotoSivashinsky):
    """Trajectory 3 of train meets a given value at frame 41."""

    value = np.nan

    def solver(self, parameters, **options):
        solver, value, inner = super().solver(parameters, **options), self.value, None
        inner = solver.rollout

        def rollout(state, frames):
            states = inner(state, frames)
            ours = (parameters["dt"] == self.victim).nonzero()
            if len(ours) and frames == 20:
                self.count += 1
                if self.count == 3:  # frames 41 to 60
                    states[ours[0, 0], 0] = value
            return states

        self.count = 0
        solver.rollout = rollout
        return solver


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e9])
def test_a_diverged_trajectory_is_an_error_and_never_stored(tmp_path, monkeypatch, value):
    spec = SPEC | {"splits": SPEC["splits"] | {"train": {"trajectories": 5, "frames": 40}}}
    (victim,) = simulate(build(EQUATION), 7, "train", [3], 1)[0]["dt"]
    Fragile.value, Fragile.victim = value, victim
    monkeypatch.setattr(registry, "find", lambda kind, name: Fragile)
    with pytest.raises(UserError) as caught:
        generate(spec, tmp_path / "ks.zarr", PROVENANCE)
    message = str(caught.value)
    assert message.startswith("Fragile, seed 7: trajectory 3 of train diverged at time ")
    assert f"{41 * victim:g} (frame 41" in message
    assert not (tmp_path / "ks.zarr").exists()
    written = (tmp_path / ".ks.zarr.partial" / "train" / "u" / "c").glob("*/0/0")
    assert [shard.parts[-3] for shard in written] == ["0"]


def interrupted(output, after, monkeypatch, spec=SPEC):
    """Generate until `after` shards are written, then fail."""
    written = 0
    write = module.StoreWriter.write

    def failing(self, *arguments):
        nonlocal written
        if written == after:
            raise KeyboardInterrupt
        written += 1
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module.StoreWriter, "write", failing)
        with pytest.raises(KeyboardInterrupt):
            generate(spec, output, PROVENANCE)
    assert not output.exists()


def shards_simulated(monkeypatch):
    calls = []
    original = module._simulate_shard

    def counting(spec, split, trajectories):
        calls.append((split, trajectories.start))
        return original(spec, split, trajectories)

    monkeypatch.setattr(module, "_simulate_shard", counting)
    return calls


def test_generation_resumes_at_the_first_missing_shard(path, tmp_path, monkeypatch):
    output = tmp_path / "ks.zarr"
    interrupted(output, 2, monkeypatch)
    calls = shards_simulated(monkeypatch)
    elsewhere = PROVENANCE | {"hardware": {"cpu": "y"}, "commit": "beef"}
    progress = []
    generate(SPEC, output, elsewhere, report=lambda *numbers: progress.append(numbers))
    assert calls == [("train", 4), ("valid", 0), ("test", 0)]
    assert progress == [(4, 9), (5, 9), (7, 9), (9, 9)]
    made, whole = contents(output), contents(path)
    described = [json.loads(files.pop("zarr.json"))["attributes"] for files in (made, whole)]
    assert made == whole
    assert described[0]["provenance"]["commit"] == "beef"  # of the run that finished it
    for attrs in described:
        del attrs["provenance"], attrs["complete"]
    assert described[0] == described[1]
    calls.clear()
    generate(SPEC, output, PROVENANCE)  # complete: nothing to do
    assert calls == []


@pytest.mark.parametrize("what", ["seed", "code"])
def test_another_configuration_or_code_starts_afresh(path, tmp_path, monkeypatch, what):
    output = tmp_path / "ks.zarr"
    interrupted(output, 2, monkeypatch, SPEC | {"seed": 8} if what == "seed" else SPEC)
    calls = shards_simulated(monkeypatch)
    origin = PROVENANCE if what == "seed" else PROVENANCE | {"versions": {"a": "2"}}
    generate(SPEC, output, origin)
    assert len(calls) == 5
    left, right = (open_store(p).split("train") for p in (path, output))
    every = slice(None)
    assert np.array_equal(left.read(every, every), right.read(every, every))
    generate(SPEC | {"seed": 9}, output, origin)  # replaces the finished one
    assert open_store(output).attrs["seed"] == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ks.zarr"]


def test_what_is_no_store_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="is not a Longrun store; move it away"):
        generate(SPEC, tmp_path / "mine", PROVENANCE)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_a_partial_store_killed_in_its_first_moment_is_begun_anew(tmp_path):
    (tmp_path / ".ks.zarr.partial" / "train").mkdir(parents=True)
    small = SPEC | {"splits": {key: {"trajectories": 1, "frames": 2} for key in SPEC["splits"]}}
    generate(small, tmp_path / "ks.zarr", PROVENANCE)
    assert open_store(tmp_path / "ks.zarr")


def configs(folder, **changes):
    (folder / "datasets").mkdir(parents=True)
    (folder / "presets").mkdir()
    (folder / "datasets" / "ks.yaml").write_text(yaml.safe_dump(SPEC | changes))
    (folder / "presets" / "smoke.yaml").write_text("{}")
    return folder


def command(configs_folder, output, *more):
    verb = ["generate", "--dataset", "ks", "--preset", "smoke", "--configs", str(configs_folder)]
    return [*verb, "--output", str(output), *more]


def test_log_files_get_plain_lines(tmp_path, root, monkeypatch, caplog):
    monkeypatch.chdir(root)
    arguments = command(configs(tmp_path / "configs"), tmp_path / "ks.zarr")
    monkeypatch.setattr(sys, "argv", arguments)
    with caplog.at_level(logging.INFO):
        module.main()
    lines = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert lines[0].startswith("2 of 9 trajectories, ")
    assert lines[0].endswith(" trajectories/s")
    assert "relative error after one frame" in lines[-1]
    monkeypatch.setattr(sys, "argv", [*arguments, "--workers", "0"])
    with pytest.raises(UserError, match="workers"):
        module.main()


def test_inspect_says_what_is_there_and_draws_it(path, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["inspect", str(path), "--preview", str(tmp_path / "a.png")])
    inspect.main()
    text = capsys.readouterr().out
    for part in ("kuramoto_sivashinsky", "train: 5 x 25 frames", "velocity [1]", "c0ffee",
                 "(5, 25, 32)", "chunks (1, 10, 32)", "domain length", "reference error",
                 "predictability", "x periodic"):  # fmt: skip
        assert part in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    figure = inspect.preview(open_store(path))
    labels = [axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes]
    assert labels == ["x [1]time [1]", "x [1]", "x [1]", "velocity u [1]"]


def running(children):
    return [pid for pid in children if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_sigkill_costs_the_shards_in_flight_and_no_bit(tmp_path, root):
    small = {"trajectories": 1, "frames": 4}
    changes = {
        "splits": {"train": {"trajectories": 24, "frames": 60}, "valid": small, "test": small},
        "store": SPEC["store"] | {"trajectories_per_shard": 1},
    }
    folder, output = configs(tmp_path / "configs", **changes), tmp_path / "ks.zarr"

    def start(workers):
        verb, *arguments = command(folder, output, "--workers", workers)
        return subprocess.Popen(
            [warm.python(), "-m", f"longrun.{verb}", *arguments],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    process = start("2")
    shards = tmp_path / ".ks.zarr.partial" / "train" / "u" / "c"
    limit = time.monotonic() + 120
    while len(list(shards.glob("*/0/0"))) < 3:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.005)
    program = warm.program(process.pid)
    children = Path(f"/proc/{program}/task/{program}/children").read_text().split()
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    before = {p.relative_to(shards): p.stat().st_mtime_ns for p in shards.glob("*/0/0")}
    assert 3 <= len(before) < 24
    assert len(children) >= 2
    while running(children) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not running(children)  # no worker outlives the main process

    resumed = start("1")
    log = resumed.communicate()[1]
    assert f"{len(before)} of 26 trajectories are there already" in log
    assert resumed.returncode == 0, log
    kept = output / "train" / "u" / "c"
    assert all((kept / p).stat().st_mtime_ns == modified for p, modified in before.items())
    generate(SPEC | changes, tmp_path / "whole.zarr", provenance())
    killed, whole = contents(output), contents(tmp_path / "whole.zarr")
    attributes = [json.loads(files.pop("zarr.json"))["attributes"] for files in (killed, whole)]
    for some in attributes:
        some["provenance"] = some["provenance"]["code"]  # a commit may have come in between
    assert attributes[0] == attributes[1]
    assert killed == whole
