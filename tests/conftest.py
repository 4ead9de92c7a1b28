import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import typecheck
import warm

OWN = Path(sys.executable).parent  # where the interpreter that runs the tests lies
PARTS = ("Snakefile", "configs", "environment.yml", "profiles", "src", "workflow")
# Snakemake, run by an interpreter that is given as the first argument: its jobs take the same
SNAKEMAKE = """
import sys
from snakemake.cli import main
sys.argv[0], sys.executable = "snakemake", sys.argv.pop(1)
main()
"""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config, items):
    """Keep tests that share what their file makes in one of xdist's processes; begin with groups.

    The longest comes first, so that all processes end together.
    """
    if not hasattr(config, "workerinput"):
        return

    def place(item):
        group = item.get_closest_marker("xdist_group")
        return 2 if group is None else 1 if group.args != ("smoke",) else 0

    for item in items:
        fixtures = [one for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
        if place(item) == 2 and any(fixture.scope == "module" for fixture in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item):
    typecheck.begin()


@pytest.fixture(scope="session")
def root(request):
    return request.config.rootpath


@dataclass
class Tree:
    """A copy of the repository in which the workflow can run.

    In `programs` is the `python` that Snakemake's jobs call, by default the one that starts fast.
    `tracking` is the mode of wandb.
    """

    folder: Path
    programs: Path = field(default_factory=lambda: warm.python().parent)
    tracking: str = "disabled"
    said: str = ""

    @classmethod
    def of_repository(cls, root: Path, folder: Path, **programs: Path) -> "Tree":
        left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for part in map(root.joinpath, PARTS):
            if part.is_dir():
                shutil.copytree(part, folder / part.name, ignore=left_out)
            else:
                shutil.copy2(part, folder)
        return cls(folder, **programs)

    def copy(self, folder: Path) -> "Tree":
        return Tree(shutil.copytree(self.folder, folder), self.programs)

    @property
    def environment(self) -> dict[str, str]:
        """Environment in which programs run on the copy's package."""
        return os.environ | {
            "PYTHONPATH": str(self.folder / "src"),
            "WANDB_MODE": self.tracking,
        }

    def python(self, *arguments):
        """Run Python in the copy, on the copy's package."""
        return subprocess.run(
            [warm.python(), *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def snakemake(self, *arguments, **settings):
        """Run Snakemake; settings are those of config.yaml, preset smoke unless given."""
        settings = [f"{name}={value}" for name, value in ({"preset": "smoke"} | settings).items()]
        words = ["--cores", "2", *arguments, "--config", *settings]
        return self.python("-c", SNAKEMAKE, self.programs / "python", *words)


@pytest.fixture(scope="session")
def fresh(root, tmp_path_factory):
    """A tree in which nothing has run and `python` is a stand-in; for xdist_group("workflow")."""
    import stand_in  # not earlier: it imports the package, whose types pytest then couldn't check

    programs = stand_in.write(tmp_path_factory.mktemp("programs"))
    tree = Tree.of_repository(root, tmp_path_factory.mktemp("fresh"), programs=programs)
    # one experiment represents all
    settings = tree.folder / "configs/config.yaml"
    stand_in.edit(settings, lambda content: content.update(experiments=["pde_refiner"]))
    return tree


@pytest.fixture(scope="session")
def finished(fresh, tmp_path_factory):
    """The same after a run, and what that printed, as `said`."""
    tree = fresh.copy(tmp_path_factory.mktemp("finished") / "tree")
    done = tree.snakemake()
    assert done.returncode == 0, done.stdout
    tree.said = done.stdout
    return tree


@pytest.fixture
def one_thread():
    """Compute in one thread, as data are made: transforms may round otherwise in several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smoke_run(root, tmp_path_factory):
    """The smoke preset of every experiment, run once; put the users into xdist_group("smoke").

    One experiment for each task goes through Snakemake, the others through `longrun.smoke`.
    """
    tree = Tree.of_repository(root, tmp_path_factory.mktemp("smoke"))
    one_of_each = re.search(r"^ONE_OF_EACH = (.*)$", (root / "Makefile").read_text(), re.M)[1]
    began = time.perf_counter()
    done = tree.snakemake(experiments=f"[{one_of_each.replace(' ', ',')}]")
    print(f"smoke workflow: {time.perf_counter() - began:.0f} s")
    if not done.returncode:
        began = time.perf_counter()
        done = tree.python("-m", "longrun.smoke", "--besides", *one_of_each.split())
        print(f"the others in one process: {time.perf_counter() - began:.0f} s")
    if done.returncode:
        logs = "\n".join(
            f"{p}:\n{p.read_text()[-3000:]}" for p in tree.folder.glob("logs/**/*.log")
        )
        pytest.fail(f"{done.stdout[-6000:]}\n{logs[-6000:]}", pytrace=False)
    return tree
