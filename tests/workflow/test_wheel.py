"""What `pip install` of a wheel gives, outside of the repository."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import toy
import warm

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]
EXPERIMENT = {
    "paper": {"title": "A test", "arxiv": "0000.00000"},
    "task": {"name": "forecast"},
    "dataset": "toy",
    "seeds": 1,
    "evaluate": {"steps": 5, "stride": 2, "trajectories": 2},
    "methods": {"unet": {"name": "unet", "width": 4, "multipliers": [1, 2]}},
    "trainer": {"max_steps": 2, "batch_size": 4, "accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"  # setuptools leaves a folder `build` where it builds
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "src", copy / "src", ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, copy)
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy]
    pip(*words, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Run Python with the wheel's package, in an empty folder."""
    site = tmp_path_factory.mktemp("site")
    pip("install", "--no-deps", "--no-compile", "--target", site, wheel, cwd=site)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    toy.configure(elsewhere / "own", toy.DATASET, EXPERIMENT)

    def call(*words):
        return subprocess.run(
            [warm.python(), *words],
            cwd=elsewhere,
            env=os.environ | {"PYTHONPATH": str(site), "WANDB_MODE": "disabled"},
            capture_output=True,
            text=True,
        )

    done = call("-c", "import longrun; print(longrun.__path__[0])")
    assert done.stdout.strip() == str(site / "longrun"), done.stderr
    return call


def pip(*words, cwd):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_wheel_holds_all_of_the_package(root, wheel):
    src = root / "src"
    wanted = {
        file.relative_to(src).as_posix()
        for file in src.rglob("*")
        if file.is_file() and not {"__pycache__", "longrun.egg-info"} & {*file.parts}
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted


def test_from_python(run):
    code = (
        "import longrun\n"
        "data = longrun.simulate('burgers', points=64, frames=5, viscosity=0.1)\n"
        "print(longrun.score(data.isel(time=slice(1, 5)), data)['metric'].nunique() > 5)"
    )
    assert run("-c", code).stdout.strip() == "True"


def test_the_verbs_with_configurations_of_ones_own(run):
    at = ["--experiment", "test", "--preset", "smoke", "--configs", "own/configs"]
    one = [*at, "--method", "unet", "--seed", "0"]
    store = "data/smoke/toy.zarr"
    dataset = ["--dataset", "toy", "--preset", "smoke", "--configs", "own/configs"]
    for verb, words in (
        ("generate", [*dataset, "--output", store]),
        ("inspect", [store, "--facts", "facts.json"]),
        ("train", one),
        ("evaluate", one),
        ("judge", [*at, "--output", "results/smoke/test/claims.json"]),
        ("plot", [*at, "--output", "results/smoke/test/figures"]),
        ("tabulate", ["--preset", "smoke", "--configs", "own/configs", "--output-dir", "tables"]),
    ):
        done = run("-m", f"longrun.{verb}", *words)
        assert done.returncode == 0, (verb, done.stderr[-2000:])
    code = "import longrun; print(longrun.load('results/smoke/test/unet/seed0/model.ckpt'))"
    assert "<unet, a method to forecast" in run("-c", code).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("status --preset cpu", "no Snakefile; this needs the repository's folder"),
        ("record --preset cpu", "no Snakefile; this needs the repository's folder"),
        ("smoke", "configs: no such folder"),
        ("train --experiment cape --method cape --seed 0 --preset cpu", "configs: no such folder"),
        ("generate --dataset burgers --preset cpu --output x.zarr", "configs: no such folder"),
    ],
)
def test_what_needs_the_repository_says_so_in_one_line(run, words, says):
    done = run("-m", *f"longrun.{words}".split())
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.match(rf"longrun\.{words.split()[0]}: error: ", line) and says in line
