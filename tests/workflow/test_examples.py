"""The examples run from top to bottom, in a copy of the repository."""

import re

import pytest
import warm
from conftest import Tree

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("examples")]
SCRIPT = """
import runpy, sys
sys.executable = sys.argv[1]
runpy.run_path(sys.argv[2], run_name="__main__")
"""
HEADER = """# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---
"""


@pytest.fixture(scope="module")
def tree(root, tmp_path_factory):
    return Tree.of_repository(root, tmp_path_factory.mktemp("examples"))


def names(root):
    return sorted(file.name for file in (root / "examples").glob("*.py"))


def test_all_are_tested(root):
    assert set(names(root)) == set(EXAMPLES)


EXAMPLES = ["add_a_method.py", "make_data.py", "own_data.py", "train_and_roll_out.py"]


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(root, tree, name, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    done = tree.python("-c", SCRIPT, warm.python(), root / "examples" / name)
    assert done.returncode == 0, done.stdout[-3000:]
    left = tree.folder / "src/longrun/methods/forecast/three_points.py"
    assert not left.exists()
    if name == "train_and_roll_out.py":
        horizon = float(re.search(r"above 0.8 for ([\d.]+) units", done.stdout)[1])
        assert horizon > 0.8  # a step of the method: it has learned something


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_a_notebook_in_percent_format(root, name):
    text = (root / "examples" / name).read_text()
    assert text.startswith(HEADER)
    first, *cells = re.split(r"^# %%.*\n", text.removeprefix(HEADER), flags=re.M)
    assert not first.strip() and len(cells) > 5
    assert re.search(r"^# %% \[markdown\]\n# # \w", text, re.M)  # a heading
