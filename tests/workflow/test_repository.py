"""Files that must agree with each other, and what a newcomer types."""

import ast
import os
import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from longrun import config
from longrun.runtime import registry

# Where text of this repository may send a reader or a program.
HOSTS = {
    "127.0.0.1",  # this machine, in tests
    "arxiv.org",
    "doi.org",
    "github.com",
    "json-schema.org",
    "keepachangelog.com",
    "semver.org",
    "www.apache.org",
    "www.w3.org",
    "zarr-specs.readthedocs.io",
}


def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def texts(root):
    """Text of every file that git tracks, by name."""
    listing = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in listing.stdout.splitlines():
        if (root / name).is_file():
            found[name] = (root / name).read_bytes().decode("utf-8", "replace")
    return found


def make(folder, *arguments):
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_environment_has_the_pins_of_the_project(root):
    environment = yaml.safe_load((root / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == project(root)["project"]["dependencies"]


def test_dependencies_are_pinned_exactly(root):
    table = project(root)["project"]
    for requirements in (table["dependencies"], *table["optional-dependencies"].values()):
        for requirement in requirements:
            assert re.match(r"[\w-]+==[\w.]+(; .*)?$", requirement)


def test_the_version_is_the_same_everywhere(root):
    version = project(root)["project"]["version"]
    citation = yaml.safe_load((root / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert f"## {version}" in (root / "CHANGELOG.md").read_text()


def test_snakefile_fits_one_screen_and_defines_nothing(root):
    lines = (root / "Snakefile").read_text().splitlines()
    assert len(lines) <= 45
    assert not [line for line in lines if re.match(r"\s*def |.*\blambda\b", line)]


def test_helpers_and_rules_are_apart(root):
    for file in (root / "workflow/rules").glob("*.smk"):
        text = file.read_text()
        helpers = re.search(r"^\s*def |\blambda\b", text, re.M)
        rules = re.search(r"^\s*(rule|checkpoint)\b", text, re.M)
        assert not (rules if file.stem == "common" else helpers), file


def test_every_figure_has_a_caption_and_every_caption_a_figure(root):
    captions = {file.stem for file in (root / "workflow/report").glob("*.rst")}
    assert captions - {"workflow", "results", "figure"} == set(registry.names("figures"))


def test_packages_import_nothing_at_start(root):
    """So that figures, tables and the Snakefile start without torch."""
    for file in (root / "src/longrun").rglob("__init__.py"):
        # `config` imports no torch, `longrun` nothing: see tests/test_api.py and below
        if file.parent.name not in ("config", "longrun"):
            assert re.fullmatch(r'"""[^\n]*"""\n', file.read_text()), file


def test_packages_that_are_imported_must_be_declared(root, tmp_path):
    assert "deptry src" in make(root, "--dry-run", "lint").stdout
    (tmp_path / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    (tmp_path / "src/longrun").mkdir(parents=True)
    file = tmp_path / "src/longrun/unit.py"
    deptry = [sys.executable, "-m", "deptry", "src", "--ignore", "DEP002"]
    for package, code in (("numpy", 0), ("requests", 1), ("hypothesis", 1)):
        file.write_text(f"import {package}\n")
        done = subprocess.run(deptry, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, (package, done.stderr)


def test_what_is_no_python_is_packed_and_no_verb(root):
    packed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = [file for file in (root / "src/longrun").rglob("*.*") if file.suffix[:3] != ".py"]
    names = {}
    for file in files:
        package = ".".join(file.parent.relative_to(root / "src").parts)
        names.setdefault(package, []).append(file.name)
    assert "longrun" not in names
    assert {package: sorted(found) for package, found in names.items()} == packed["package-data"]


def test_the_workflow_starts_without_torch(root):
    code = (
        "import sys\n"
        "from longrun import config, doctor, judge, plot, publish, rank, sweep, tabulate\n"
        "from longrun.runtime import registry\n"
        "print(*sorted({'torch', 'pytorch_lightning', 'wandb', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "", done.stderr


def test_text_is_read_and_written_in_utf_8(root):
    """Whatever the locale of the machine says."""
    wrong = []
    for file in [*(root / "src").rglob("*.py"), *(root / "bench").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            text = ast.unparse(node) if name else ""
            if name.endswith((".read_text", ".write_text")) and "'utf-8'" not in text:
                wrong.append(f"{file}:{node.lineno}")
            others = ("os.open", "Image.open", "archive.open")
            opens = name == "open" or (name.endswith(".open") and name not in others)
            if opens and not re.search(r"encoding='utf-8'|'[rwa]\+?b\+?'", text):
                wrong.append(f"{file}:{node.lineno}")
    assert wrong == []


def test_relative_links_lead_somewhere(root, texts):
    # the site's build writes some pages, and checks links to them
    ignored = (root / ".gitignore").read_text("utf-8").splitlines()
    written = [root / line.strip("/") for line in ignored if line.startswith("/docs/")]
    for name, text in texts.items():
        if name.endswith(".md"):
            for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
                path = ((root / name).parent / target).resolve()
                known = path.exists() or any(path.is_relative_to(page) for page in written)
                assert known, f"{name}: {target}"


def test_text_leads_to_known_hosts_only(texts):
    """A mirror or a private index in a file would break everybody else's installation."""
    for name, text in texts.items():
        if name != "LICENSE":
            found = set(re.findall(r"https?://([\w.-]+)", text))
            assert found <= HOSTS, name


def test_no_absolute_paths(texts):
    """A path of somebody's machine works for nobody else."""
    system = r"usr|dev|bin|etc|proc|sys"
    absolute = re.compile(rf"""(?:^|[\s"'=(`])/(?!(?:{system})/)[a-z][\w.-]*/[\w.-]""", re.M)
    for name, text in texts.items():
        if name not in (".gitignore", "LICENSE"):
            assert not absolute.search(text), f"{name}: {absolute.search(text)}"


def test_the_recipe_for_scratch_puts_the_folders_there(root, tmp_path):
    """In a clone, with stores in it already or not, and a second time."""
    page = (root / "docs/cluster.md").read_text()
    recipe = re.search(r"^(for folder in data.*?^done)$", page, re.M | re.S)[1]
    listing = subprocess.run(["git", "-C", root, "ls-files"], capture_output=True, text=True)
    tracked = {line.partition("/")[0] for line in listing.stdout.splitlines()}
    assert not {"data", "runs", "results"} & tracked  # a link in their place would be a change
    clone, scratch = tmp_path / "clone", tmp_path / "scratch"
    (clone / "data/smoke").mkdir(parents=True)
    (clone / "data/smoke/store").write_text("x")
    for _ in range(2):
        command = ["bash", "-euc", recipe]
        subprocess.run(command, cwd=clone, env={"SCRATCH": str(scratch), **os.environ}, check=True)
        for folder in ("data", "runs", "results"):
            assert (clone / folder).resolve() == (scratch / "longrun" / folder).resolve()
        assert (scratch / "longrun/data/smoke/store").read_text() == "x"
        assert not (clone / "data/data").exists()


def test_the_smoke_run_has_one_experiment_of_each_task(root):
    line = re.search(r"^ONE_OF_EACH = (.*)$", (root / "Makefile").read_text(), re.M)
    assert line
    specs = [config.compose(root / "configs", name, "smoke") for name in line[1].split()]
    assert sorted(spec["task"]["name"] for spec in specs) == registry.names("tasks")


def test_the_tour_begins_with_the_flagship_and_is_of_several_tasks(root):
    tour = config.settings(root / "configs")["experiments"]
    tasks = [config.compose(root / "configs", name, "cpu")["task"]["name"] for name in tour]
    assert tour[0] == "pde_refiner" and len(set(tasks)) == len(tour) > 1


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], None),
        (["PAPERS=cape tsm"], "'experiments=[cape,tsm]'"),
        (["PAPERS=all"], "'experiments=all'"),
        (["PRESET=smoke", "PAPERS=cape"], "'experiments=[cape]'"),
    ],
)
def test_make_reproduce_makes_the_papers_that_it_is_told(checkout, words, asked):
    done = make(checkout, "--dry-run", "reproduce", *words).stdout
    assert re.findall(r"'experiments=.*?'", done) == ([asked] * 2 if asked else [])
    assert "longrun.smoke" not in done


def test_make_reproduce_at_smoke_runs_the_rest_in_one_process(checkout):
    done = make(checkout, "--dry-run", "reproduce", "PRESET=smoke").stdout
    listed = re.search(r"experiments=\[(.*?)\]", done)
    assert listed
    assert f"longrun.smoke --besides {listed[1].replace(',', ' ')}" in done


def test_profile_sets_what_snakemake_knows(root):
    from snakemake.cli import get_argument_parser

    known = {
        option.lstrip("-")
        for action in get_argument_parser()._actions
        for option in action.option_strings
    }
    profiles = [*root.glob("profiles/*/*.yaml"), *root.glob("workflow/profiles/*/*.yaml")]
    assert len(profiles) == 3
    for profile in profiles:
        assert set(yaml.safe_load(profile.read_text())) <= known


@pytest.fixture
def checkout(root, tmp_path):
    """A folder with the Makefile and what it depends on, the virtual environment in place."""
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_text((root / name).read_text())
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    return tmp_path


def test_make_alone_explains_every_target_and_does_nothing(checkout):
    (checkout / ".venv" / "installed").unlink()  # help needs no set-up
    done = make(checkout)
    assert done.returncode == 0, done.stderr
    targets = re.search(r"^\.PHONY: (.*)$", (checkout / "Makefile").read_text(), re.M)
    assert targets
    for target in targets[1].split():
        assert re.search(rf"^  {target} +\w.*$", done.stdout, re.M), target
    assert make(checkout, "help").stdout == done.stdout
    assert not (checkout / ".venv" / "installed").exists()


@pytest.mark.parametrize("target", ["reproduce", "results", "doctor", "test", "lint"])
def test_make_sets_up_once(checkout, target):
    assert "pip install" not in make(checkout, "--dry-run", target).stdout
    (checkout / ".venv" / "installed").unlink()
    assert "pip install" in make(checkout, "--dry-run", target).stdout


def test_make_refuses_other_pythons(checkout):
    (checkout / ".venv" / "installed").unlink()
    old = checkout / "python2"
    old.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10, 1); $2"\n'
    )
    old.chmod(0o755)
    done = make(checkout, "lint", f"PYTHON={old}")
    assert done.returncode != 0
    assert "Longrun needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "3.10" in done.stderr
    assert not (checkout / ".venv" / "installed").exists()


def test_make_clean_keeps_other_presets(checkout):
    for preset in ("smoke", "paper"):
        (checkout / "results" / preset).mkdir(parents=True)
    assert make(checkout, "clean", "PRESET=smoke").returncode == 0
    assert [path.name for path in (checkout / "results").iterdir()] == ["paper"]
    assert make(checkout, "clean", "PRESET=").returncode != 0
    assert (checkout / "results" / "paper").exists()
