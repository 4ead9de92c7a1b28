"""What the doctor says of other machines."""

import base64
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from longrun import doctor


def text(lines):
    return "\n".join(line.text() for line in lines)


@pytest.mark.parametrize(("version", "stops"), [((3, 10, 9), True), ((3, 11, 0), False)])
def test_the_version_of_python(version, stops):
    assert doctor.python(version).stops is stops
    assert doctor.python((3, 14, 0)).stops


def test_pins_are_those_of_this_python():
    requirements = [
        "torch==2.13.0",
        "zarr==3.1.6; python_version < '3.12'",
        "zarr==3.4.2; python_version >= '3.12'",
    ]
    assert doctor.pins(requirements, (3, 11, 7)) == {"torch": "2.13.0", "zarr": "3.1.6"}
    assert doctor.pins(requirements, (3, 12, 0)) == {"torch": "2.13.0", "zarr": "3.4.2"}


def test_packages_that_are_missing_or_differ_are_named():
    pinned = {"torch": "2.13.0", "numpy": "2.4.6", "zarr": "3.1.6"}
    (line,) = doctor.packages(pinned, {"torch": "2.13.0+cpu", "numpy": "2.4.6", "zarr": "3.1.6"})
    assert not line.remedy  # another build of the same version
    missing, other = doctor.packages(pinned, {"torch": "2.12.0", "numpy": "2.4.6"})
    assert missing.stops and "zarr" in missing.found and "numpy" not in missing.found
    assert not other.stops and "torch 2.12.0 (pinned 2.13.0)" in other.found


@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
@pytest.mark.parametrize("version", ["2.6.2", "2.6.3"])
def test_versions_that_steal_credentials_stop_everything(name, version):
    line = doctor.packages({}, {name: version})[0]
    assert line.stops and version in line.found and "every key" in line.remedy
    assert not doctor.packages({}, {name: "2.6.6"})[0].remedy


def fake_torch(gpus):
    """Stand in for torch on a machine with these GPUs: name and memory in GB."""
    cuda = SimpleNamespace(
        is_available=lambda: bool(gpus),
        device_count=lambda: len(gpus),
        mem_get_info=lambda i: (gpus[i][1] * 0.5e9, gpus[i][1] * 1e9),
        get_device_name=lambda i: gpus[i][0],
    )
    mps = SimpleNamespace(is_available=lambda: False)
    backends = SimpleNamespace(mps=mps)
    return SimpleNamespace(cuda=cuda, backends=backends, __version__="2.13.0+cpu")


def test_devices_are_listed_with_their_memory():
    first, second = doctor.devices(fake_torch([("H100", 80), ("A100", 40)]), has_driver=True)
    assert "cuda:0 H100, 80 GB, 40 GB of it free" in first.found
    assert "cuda:1 A100, 40 GB" in second.found
    (line,) = doctor.devices(fake_torch([]), has_driver=True)  # a CPU build beside a GPU
    assert "build of torch" in line.remedy
    (line,) = doctor.devices(fake_torch([]), has_driver=False)
    assert not line.remedy and "cpu" in line.found


def test_room_and_memory():
    assert not doctor.disk(Path("data"), 50e9, writable=True).remedy
    assert doctor.disk(Path("data"), 0.4e9, writable=True).remedy
    assert doctor.disk(Path("data"), 50e9, writable=False).stops
    assert not doctor.memory(16e9).remedy and doctor.memory(2e9).remedy


def test_a_preset_that_needs_a_gpu(root, tmp_path):
    assert not doctor.accelerator("gpu", "gpu", True, False).remedy
    assert not doctor.accelerator("cpu", "cpu", False, False).remedy
    alone = doctor.accelerator("gpu", "gpu", False, False)
    assert alone.stops and "preset: cpu" in alone.remedy
    login_node = doctor.accelerator("gpu", "gpu", False, True)
    assert not login_node.stops and "docs/cluster.md" in login_node.remedy
    assert doctor._wanted(root / "configs") == ("cpu", "cpu")
    configs = shutil.copytree(root / "configs", tmp_path / "configs")
    file = configs / "config.yaml"
    file.write_text(file.read_text().replace("preset: cpu", "preset: paper"))
    assert doctor._wanted(configs) == ("paper", "gpu")


def test_a_home_that_cannot_be_written_to(tmp_path):
    assert not doctor.cache({"HOME": str(tmp_path)}).remedy
    (tmp_path / "file").touch()
    for home in ("/dev/null", str(tmp_path / "file")):
        line = doctor.cache({"HOME": home})
        assert line.stops and "XDG_CACHE_HOME" in line.remedy
        assert not doctor.cache({"HOME": home, "XDG_CACHE_HOME": str(tmp_path / "new")}).remedy


def test_the_state_of_git():
    line = doctor.git("0123456789abcdef", ["README.md"])
    assert "0123456789, 1 changed files" in line.found and line.remedy
    assert not doctor.git("0123456789abcdef", []).remedy
    assert "will not name a commit" in doctor.git(None, []).found


@pytest.mark.parametrize("where", ["environment", "file", "own host"])
def test_a_key_of_wandb_is_found_and_never_shown(tmp_path, where):
    secret = "0123456789secret"
    file = tmp_path / "netrc"
    environment = {"NETRC": str(file)}
    assert not doctor.has_wandb_key(environment)
    if where == "environment":
        environment["WANDB_API_KEY"] = secret
    else:
        host = "api.wandb.ai" if where == "file" else "wandb.example.org"
        file.write_text(f"machine {host} login user password {secret}\n")
        environment["WANDB_BASE_URL"] = "https://" + "wandb.example.org/"
    assert doctor.has_wandb_key(environment)
    shown = text(doctor.wandb("online", doctor.has_wandb_key(environment), []))
    assert "online; a key is there" in shown and "secret" not in shown


def test_wandb_without_a_key_and_with_runs_that_wait(tmp_path):
    for name in ("offline-run-2-b", "offline-run-1-a", "offline-run-3-c"):
        (tmp_path / "smoke/x/wandb" / name).mkdir(parents=True)
    (tmp_path / "smoke/x/wandb/offline-run-3-c/run-c.wandb.synced").touch()
    waiting = doctor.offline_runs(tmp_path)
    assert [run.name for run in waiting] == ["offline-run-1-a", "offline-run-2-b"]
    shown = text(doctor.wandb("online", False, waiting))
    assert "wandb login" in shown and "never sent: 2" in shown and "wandb sync" in shown
    assert doctor.wandb("of", False, [])[0].stops
    assert not doctor.wandb("disabled", False, [])[0].remedy


def test_slurm():
    assert doctor.slurm(None, doctor.output_of, None).found == "none here"
    silent = doctor.slurm("sinfo", lambda *words: None, "2.8.0")
    assert "doesn't answer" in silent.found and silent.remedy
    assert "[slurm]" in doctor.slurm("sinfo", lambda *words: "gpu*\ncpu", None).remedy
    ready = doctor.slurm("sinfo", lambda *words: "gpu*\ncpu", "2.8.0")
    assert ready.found == "partitions gpu*, cpu; plugin 2.8.0" and not ready.remedy


def test_what_a_killed_snakemake_leaves(tmp_path):
    folder = tmp_path / ".snakemake"
    assert not doctor.snakemake(folder)[0].remedy
    (folder / "locks").mkdir(parents=True)
    (folder / "incomplete/@cmVzdWx0cy9zbW9r").mkdir(parents=True)
    assert not doctor.snakemake(folder)[0].remedy
    (folder / "locks/0.output.lock").touch()
    short = base64.urlsafe_b64encode(b"data/smoke/a.zarr").decode()
    (folder / "incomplete" / short).touch()
    (folder / "incomplete/@cmVzdWx0cy9zbW9r" / "ZS9ub2RlLmNrcHQ=").touch()  # long: in two parts
    shown = text(doctor.snakemake(folder))
    assert "snakemake --unlock" in shown
    assert "cut short: data/smoke/a.zarr, results/smoke/node.ckpt" in shown


def test_a_wrong_file_stops(root, tmp_path):
    line, mode = doctor.configuration(root / "configs")
    assert not line.stops and "preset cpu" in line.found and mode == "disabled"
    line, _ = doctor.configuration(tmp_path)
    assert line.stops and "config.yaml" in line.found


def test_a_program_that_fails_or_is_not_there_says_nothing():
    assert doctor.output_of(sys.executable, "-c", "print(1)") == "1"
    assert doctor.output_of(sys.executable, "-c", "raise SystemExit(1)") is None
    assert doctor.output_of("no_such_program") is None


def test_the_exit_code_says_whether_anything_stops(tmp_path):
    """In a folder that isn't the repository's; no traceback, one remedy."""
    done = subprocess.run(
        [sys.executable, "-m", "longrun.doctor"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert "STOP  folder" in done.stdout and "repository's folder" in done.stdout


def test_everything_is_looked_at(root, monkeypatch):
    monkeypatch.chdir(root)
    lines = list(doctor.examine(Path("configs"), {}))
    subjects = {line.subject for line in lines}
    assert subjects >= {"python", "packages", "device", "cores", "memory", "disk", "git"}
    assert subjects >= {"configs", "wandb", "slurm", "snakemake"}
    assert {line.found.split("/")[0] for line in lines if line.subject == "disk"} == {
        "data",
        "results",
        "runs",
    }
