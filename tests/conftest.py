import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARTS = ("Snakefile", "configs", "environment.yml", "src", "workflow")


@pytest.fixture(scope="session")
def root(request):
    return request.config.rootpath


class Tree:
    """A copy of the repository in which the workflow can run."""

    def __init__(self, root: Path, folder: Path, programs: Path | None = None):
        for part in PARTS:
            if (root / part).is_dir():
                shutil.copytree(
                    root / part,
                    folder / part,
                    ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
                )
            else:
                shutil.copy2(root / part, folder / part)
        self.folder = folder
        self.programs = programs or Path(sys.executable).parent

    def copy(self, folder: Path) -> "Tree":
        shutil.copytree(self.folder, folder, symlinks=True)
        twin = object.__new__(Tree)
        twin.folder, twin.programs = folder, self.programs
        return twin

    def snakemake(self, *arguments, **settings):
        """Run Snakemake; settings are those of config.yaml, preset smoke unless given."""
        settings = [f"{name}={value}" for name, value in ({"preset": "smoke"} | settings).items()]
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        return subprocess.run(
            [*command, "--config", *settings],
            cwd=self.folder,
            env=os.environ
            | {
                "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(self.folder / "src"),
                "WANDB_MODE": "disabled",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture(scope="session")
def smoke_run(root, tmp_path_factory):
    """The smoke preset of every experiment, run once; put the users into xdist_group("smoke")."""
    tree = Tree(root, tmp_path_factory.mktemp("smoke"))
    began = time.perf_counter()
    done = tree.snakemake()
    print(f"smoke workflow: {time.perf_counter() - began:.0f} s")
    if done.returncode:
        logs = "\n".join(
            f"{p}:\n{p.read_text()[-3000:]}" for p in tree.folder.glob("logs/**/*.log")
        )
        pytest.fail(f"{done.stdout[-6000:]}\n{logs[-6000:]}", pytrace=False)
    return tree
