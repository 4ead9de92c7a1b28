"""Fixtures of the suite that breaks things, and the page that it writes."""

import contextlib
import os
import random
import sys

import pytest

from faults.project import FULL, PAGE, RECORDED, SEED, Project, Row, Server, mounted, page
from faults.rows import ROWS
from longrun.runtime import cli


@pytest.fixture
def row(request):
    """The row that the test's mark names; a test that fails adds nothing."""
    (key,) = request.node.get_closest_marker("fault").args
    assert key in ROWS
    mine = Row(key)
    yield mine
    RECORDED.setdefault(key, Row(key)).lost.update(mine.lost)


def pytest_sessionfinish(session, exitstatus):
    if not FULL or exitstatus != 0:
        return
    missing = sorted(set(ROWS) - set(RECORDED))
    if missing:
        print(f"\n{PAGE} stays as it is: nothing was done for {', '.join(missing)}")
        return
    with cli.atomic(session.config.rootpath / PAGE) as part:
        part.write_text(page(), "utf-8")


@pytest.fixture(scope="session")
def server(root, tmp_path_factory):
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that forks")
    one = Server(root, tmp_path_factory.mktemp("logs"))
    yield one
    one.process.stdin.close()
    one.process.wait()


@pytest.fixture(scope="session")
def whole(server, root, tmp_path_factory):
    """A project in which every verb has run undisturbed. Copy it; don't change it."""
    folder = tmp_path_factory.mktemp("faults") / "whole"
    folder.mkdir()
    return Project(folder, server).configure().everything()


@pytest.fixture
def project(whole, tmp_path):
    """A copy of it to break."""
    return whole.copy(tmp_path / "project")


@pytest.fixture
def chance(request):
    """Random numbers that depend on the test alone; its seed is printed where it fails."""
    print(f"seed {SEED} {request.node.name}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture
def mount():
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can mount a small or read-only file system")
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(mounted(*arguments))
