"""What a user types: every program has help, with examples that work."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest

from longrun import config
from longrun.__main__ import main, verbs
from longrun.runtime.cli import UserError


def module(verb):
    return importlib.import_module(f"longrun.{verb}")


def examples(verb):
    """Commands below "Examples:" in the help of a verb, as lists of words."""
    text = module(verb).parser().format_help().partition("Examples:\n")[2]
    return [shlex.split(line) for line in re.sub(r"\\\n *", "", text).splitlines() if line.strip()]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_has_help_with_examples(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        module(verb).parser().parse_args(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: python -m longrun.{verb} ")
    assert "Examples:" in shown
    undocumented = [a.dest for a in module(verb).parser()._actions if not a.help]
    assert not undocumented


@pytest.mark.parametrize("verb", verbs())
def test_the_examples_of_every_verb_can_be_typed(verb, root):
    """Options exist and have the right form; names are those of files that are there."""
    configs = root / "configs"
    assert examples(verb)
    for words in examples(verb):
        words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\w+", word)]  # environment
        assert words[:3] == ["python", "-m", f"longrun.{verb}"]
        given = vars(module(verb).parser().parse_args(words[3:]))
        if given.get("dataset"):
            config.compose_dataset(configs, given["dataset"], given["preset"])
        if given.get("experiment"):
            spec = config.compose(configs, given["experiment"], given.get("preset") or "cpu")
            assert given.get("method", None) in {None, *spec["methods"]}
        if given.get("set") and verb == "train":
            flat = config.changes(given["set"])
            config.compose_run(configs, given["experiment"], given["preset"], given["method"], flat)


def test_python_m_longrun_lists_the_verbs(root):
    """By a separate process that imports nothing heavy."""
    code = (
        "import runpy, sys\nsys.argv = ['longrun']\n"
        "runpy.run_module('longrun', run_name='__main__')"
        "\nprint('imported', *sorted({'torch', 'pandas', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    for verb, about in verbs().items():
        assert re.search(rf"^  {verb} +{re.escape(about)}$", done.stdout, re.M), verb
        assert about.endswith(".") and len(about) < 99 and "\n" not in about
    assert done.stdout.endswith("imported\n"), done.stderr


def test_python_m_longrun_runs_a_verb(root):
    words = ["-m", "longrun", "judge", "--experiment", "pde_refinr", "--preset", "smoke"]
    done = subprocess.run(
        [sys.executable, *words, "--output", "unused"], capture_output=True, text=True, cwd=root
    )
    assert done.returncode == 2
    assert done.stderr.startswith("longrun.judge: error: ")
    assert "did you mean pde_refiner?" in done.stderr


def test_an_unknown_verb_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["longrun", "trian", "--help"])
    with pytest.raises(UserError, match=r"trian: no such verb; .*did you mean train\?"):
        main()
