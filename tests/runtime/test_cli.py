"""Errors, whole outputs, provenance."""

import json
import logging
import subprocess

import pytest

import longrun
from longrun.runtime import cli


def test_a_users_error_is_one_line_and_exit_code_2(capsys):
    def main():
        raise cli.UserError("no such\n  store")

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err.endswith(": error: no such store\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("4 GB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 GB"),
        RuntimeError("CUDA out of memory. Tried to allocate 4 GB"),
    ],
)
def test_too_little_memory_is_one_line(capsys, error):
    def main():
        raise error

    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == 2
    assert ": error: not enough memory: " in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


def test_atomic_writes_a_file_whole(tmp_path):
    target = tmp_path / "new" / "scores.json"
    with cli.atomic(target) as part:
        assert part.parent == target.parent and part.suffix == ".json"
        part.write_text("1")
        assert not target.exists()
    assert target.read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_atomic_leaves_the_old_file_when_the_block_raises(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(ValueError), cli.atomic(target) as part:
        part.write_text("half")
        raise ValueError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_replaces_a_folder(tmp_path):
    target = tmp_path / "store.zarr"
    for content in ("first", "second"):
        with cli.atomic(target) as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [file.name for file in target.iterdir()] == ["second"]
    with pytest.raises(ValueError), cli.atomic(target) as part:
        part.mkdir()
        raise ValueError
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_complains_when_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), cli.atomic(tmp_path / "a.txt"):
        pass


def test_provenance_is_plain_json_and_works_outside_git(tmp_path, monkeypatch):
    monkeypatch.setattr(longrun, "__path__", [str(tmp_path)])
    found = cli.provenance()
    assert json.loads(json.dumps(found)) == found
    assert found["commit"] is None and found["dirty"] is False
    assert {"python", "numpy"} <= set(found["versions"])
    assert found["hardware"]["cores"] >= 1


def repository(folder, *tracked):
    """A repository with a commit; returns its hash."""
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")

    def git(*words):
        done = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, check=True)
        return done.stdout.decode().strip()

    git("init", "--quiet")
    git("add", "--force", *tracked)
    git("commit", "--quiet", "--message", "x")
    return git("rev-parse", "HEAD")


def test_a_commit_is_named_only_where_git_tracks_the_package(tmp_path, monkeypatch):
    """Installed as a wheel, the package lies in the repository of whoever uses it."""
    package = tmp_path / ".venv" / "longrun"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "theirs.py").touch()
    monkeypatch.setattr(longrun, "__path__", [str(package)])
    repository(tmp_path, "theirs.py")
    (tmp_path / "theirs.py").write_text("changed")
    assert cli.revision() == (None, [])
    commit = repository(tmp_path, ".venv/longrun/__init__.py")
    assert cli.revision() == (commit, ["theirs.py"])


def test_a_repository_of_the_environment_is_not_the_packages(tmp_path, monkeypatch):
    (tmp_path / "__init__.py").touch()
    repository(tmp_path, "__init__.py")
    here = cli.revision()
    for name, value in (("GIT_DIR", tmp_path / ".git"), ("GIT_WORK_TREE", tmp_path)):
        monkeypatch.setenv(name, str(value))
    assert cli.revision() == here


@pytest.fixture(autouse=True)
def quiet():
    """`run` sets up logging once per process: leave the root logger as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
