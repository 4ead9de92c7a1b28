"""Two processes that want to write the same: one wins, the other says so."""

import signal
import subprocess
import sys

import pytest
import warm
from conftest import SNAKEMAKE, Tree

from faults.project import VERBS, few, until

pytestmark = pytest.mark.xdist_group("faults")

# holds a verb up at the moment when all that it has written is about to take its place
HELD = """
import os, time
from longrun.runtime import cli
flush = cli._flush
def hold(path):
    open("reached", "w").close()
    while not os.path.exists("go"):
        time.sleep(0.002)
    flush(path)
cli._flush = hold
"""


def held(project, verb):
    """Start a verb that stops while it writes."""
    child = project.without(verb).start(verb, patch=HELD)
    until((project.folder / "reached").exists, child)
    return child


@pytest.mark.fault("twice_verb")
@pytest.mark.parametrize("verb", few(VERBS * 4))
def test_the_second_says_so(whole, project, row, verb):
    first = held(project, verb)
    said = project.run(verb).refusal()
    assert "another process is writing there" in said
    (project.folder / "go").touch()
    assert first.wait().code == 0, first.text
    assert project.content(verb) == whole.content(verb)
    assert project.leftovers() == []
    row.add("nothing: the first ends as if alone, the second says so in one line")


@pytest.mark.fault("twice_killed")
@pytest.mark.parametrize("verb", few(VERBS))
def test_a_lock_dies_with_its_process(whole, project, row, verb):
    assert held(project, verb).kill().code == -signal.SIGKILL
    again = project.run(verb)
    assert again.code == 0, again.text
    assert project.content(verb) == whole.content(verb)
    assert project.leftovers() == []
    row.add("nothing: the lock went with it")


# stands for every verb, and waits to be released
STAND_IN = """#!{python} -IS
import os, pathlib, sys, time

words = sys.argv[1:]
pathlib.Path("reached").touch()
while not os.path.exists("go"):
    time.sleep(0.01)
output = pathlib.Path(words[words.index("--output") + 1])
output.parent.mkdir(parents=True, exist_ok=True)
output.write_text(" ".join(words))
"""


@pytest.mark.fault("twice_snakemake")
def test_two_workflows_in_one_folder(root, tmp_path, row):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").write_text(STAND_IN.format(python=sys.executable))
    (programs / "python").chmod(0o755)
    (tmp_path / "tree").mkdir()
    tree = Tree.of_repository(root, tmp_path / "tree", programs=programs)
    target = "data/smoke/parts/kuramoto_sivashinsky/error.json"
    words = ["--cores", "1", "--notemp", "--quiet", "--config", "preset=smoke", "--", target]
    words[-2:-2] = ["experiments=[pde_refiner]"]
    command = ["-c", SNAKEMAKE, str(programs / "python"), *words]
    first = subprocess.Popen(
        [warm.python(), *command],
        cwd=tree.folder,
        env=tree.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until(lambda: (tree.folder / "reached").exists() or first.poll() is not None)
    second = tree.python(*command)
    (tree.folder / "go").touch()
    said, _ = first.communicate()
    assert first.returncode == 0, said
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout
    assert (tree.folder / target).exists()
    row.add("nothing: the first ends as if alone, the second says that the folder is locked")
