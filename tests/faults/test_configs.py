"""Bad configurations: one clear line, no success, no file written, in less than three seconds."""

import copy
import itertools
import json
import time

import pytest
from hypothesis import HealthCheck, given, reject, seed, settings
from hypothesis import strategies as st

from faults.project import DATASET, EXPERIMENT, SEED, few, some, times
from longrun import config

pytestmark = pytest.mark.xdist_group("faults")

SECONDS = 3.0  # of CPU
LINE = 1200  # characters; what is allowed may be a long list
STARTED = "nothing: one line, exit code 2, no file written, in less than 3 s of a processor"
LEVELS = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in itertools.pairwise("abcdefghi")]
BOMB = f"{{a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1], {', '.join(LEVELS)}}}"
TEST, TOY, SETTINGS = "experiments/test", "datasets/toy", "config"

# file, key, and the YAML that stands there; a key of None is the whole file
HAND = {
    # explodes, refers to itself, never ends
    "bomb": (TEST, ("task", "x"), BOMB),
    "bomb of mappings": (TOY, ("equation", "x"), BOMB.replace("[", "{k: [").replace("]", "]}")),
    "list in itself": (TEST, ("methods", "net", "x"), "&x [1, *x]"),
    "mapping in itself": (TEST, ("methods",), "&x {net: *x}"),
    "mapping deep in itself": (TOY, ("splits",), "&x {train: {frames: [*x]}}"),
    "deep lists": (TEST, ("task", "x"), "[" * 5000 + "]" * 5000),
    "deep mappings": (TEST, ("task",), "{a: " * 5000 + "1" + "}" * 5000),
    "open brackets": (TEST, None, "[" * 100_000),
    "deep blocks": (TOY, None, "\n".join(" " * i + "a:" for i in range(1000))),
    "a million keys": (TEST, None, "{" + ", ".join(f"k{i}: 1" for i in range(60_000)) + "}"),
    "a large file": (TOY, None, "a: " + "x" * 2**22),
    "unknown anchor": (TEST, ("seeds",), "*nowhere"),
    # tags
    "system": (TEST, ("seeds",), "!!python/object/apply:os.system ['touch pwned']"),
    "eval": (TEST, ("task", "name"), "!!python/object/apply:eval [\"open('pwned', 'w')\"]"),
    "module": (TOY, ("seed",), "!!python/module:antigravity"),
    "name": (TOY, ("seed",), "!!python/name:os.system"),
    "object": (TEST, ("paper",), "!!python/object:longrun.config.ConfigError {}"),
    "tag of one's own": (TEST, ("seeds",), "!mine 3"),
    "int of a word": (TEST, ("seeds",), "!!int word"),
    "bool of a word": (TEST, ("seeds",), "!!bool word"),
    "set": (TEST, ("methods",), "!!set {net, still}"),
    "binary": (TEST, ("paper", "title"), "!!binary aGVsbG8="),
    "timestamp": (TEST, ("paper", "title"), "!!timestamp word"),
    # no YAML
    "nothing": (TEST, None, ""),
    "text": (TEST, None, "just text"),
    "two documents": (TEST, None, "a: 1\n---\nb: 2"),
    "null byte": (TEST, None, "a: \x00"),
    "escape": (TEST, None, "a: \x1b[2J"),
    "latin 1": (TEST, None, "a: ü".encode("latin-1")),
    "bytes": (TOY, None, bytes(range(256))),
    "tabs": (TEST, None, "a:\n\tb: 1"),
    "a key twice": (TEST, None, "seeds: 1\nseeds: 2"),
    "a number as key": (TEST, ("methods",), "{1: {name: unet}}"),
    "a list as key": (TEST, ("methods",), "{[a]: {name: unet}}"),
    "null as key": (TEST, ("methods",), "{null: {name: unet}}"),
    # numbers
    "digits without end": (TEST, ("seeds",), "9" * 10_000),
    "a large integer": (TOY, ("seed",), "1" + "0" * 30),
    "a large exponent": (TEST, ("task", "learning_rate"), "1e999"),
    "minus a large exponent": (TEST, ("task", "learning_rate"), "-1e999"),
    "not a number": (TEST, ("task", "learning_rate"), ".nan"),
    "infinite": (TEST, ("task", "learning_rate"), ".inf"),
    "many seeds": (TEST, ("seeds",), "1000000000"),
    "many devices": (TEST, ("trainer", "devices"), "1000000"),
    "many workers": (TEST, ("trainer", "workers"), "1000000"),
    "a large batch": (TEST, ("trainer", "batch_size"), "1000000000000"),
    "many steps": (TEST, ("evaluate", "steps"), "9007199254740992"),
    "many test trajectories": (TEST, ("evaluate", "trajectories"), "9007199254740992"),
    "many jobs": (TOY, ("jobs",), "1000000000"),
    "no frames": (TOY, ("splits", "train", "frames"), "0"),
    "minus one frame": (TOY, ("splits", "train", "frames"), "-1"),
    "half a frame": (TOY, ("splits", "train", "frames"), "30.5"),
    "a float for a count": (TEST, ("trainer", "max_steps"), "1e3"),
    "minus points": (TOY, ("equation", "points"), "-16"),
    "an empty range": (TOY, ("equation", "length"), "{uniform: [2.0, 1.0]}"),
    "a range of one": (TOY, ("equation", "length"), "{uniform: [2.0]}"),
    "a choice of nothing": (TOY, ("equation", "length"), "{choice: []}"),
    # names
    "method that is a path": (TEST, ("methods", "../up"), "{name: unet}"),
    "method with a slash": (TEST, ("methods", "a/b"), "{name: unet}"),
    "method with a space": (TEST, ("methods", "a b"), "{name: unet}"),
    "method in unicode": (TEST, ("methods", "größe"), "{name: unet}"),
    "method with a line": (TEST, ("methods", "net\n"), "{name: unet}"),
    "method without a name": (TEST, ("methods", ""), "{name: unet}"),
    "method with an escape": (TEST, ("methods", "\x1b[31mred"), "{name: unet}"),
    "method of a thousand letters": (TEST, ("methods", "a" * 1000), "{name: unet}"),
    "method of another folder": (TEST, ("methods", "net", "name"), "../tasks/forecast"),
    "method that is hidden": (TEST, ("methods", "net", "name"), "__init__"),
    "equation of another folder": (TOY, ("equation", "name"), "../generate"),
    "task of another folder": (TEST, ("task", "name"), "../methods/unet"),
    "dataset of another folder": (TEST, ("dataset",), "../experiments/test"),
    "dataset from the root": (TEST, ("dataset",), "/etc/passwd"),
    "dataset with dots": (TEST, ("dataset",), '".."'),
    "dataset in look-alike letters": (TEST, ("dataset",), "tоy"),  # a Cyrillic letter
    "start from a path": (TEST, ("methods", "net", "starts_from"), "{method: ../x}"),
    "start from itself": (TEST, ("methods", "net", "starts_from"), "{method: net}"),
    # types and keys
    "methods as a list": (TEST, ("methods",), "[net, still]"),
    "methods as text": (TEST, ("methods",), "net"),
    "a method as text": (TEST, ("methods", "net"), "unet"),
    "no methods": (TEST, ("methods",), "{}"),
    "claims as text": (TEST, ("claims",), "better"),
    "a claim without a test": (TEST, ("claims", "better", "ratio"), "null"),
    "trainer as a list": (TEST, ("trainer",), "[1]"),
    "a section as text": (TEST, ("presets",), "smoke"),
    "a preset's section as text": (TEST, ("presets",), "{smoke: fast}"),
    "methods of a preset as text": (TEST, ("presets",), "{smoke: {methods: fast}}"),
    "an unknown preset": (TEST, ("presets",), "{smoek: {}}"),
    "an unknown key": (TEST, ("trainer", "batchsize"), "4"),
    "a merge key": (TEST, ("trainer", "<<"), "{clip: 1}"),
    "widths as a mapping": (TEST, ("methods", "net", "width"), "{a: 4}"),
    "the data's own argument": (TEST, ("methods", "net", "fields"), "3"),
    "splits as a list": (TOY, ("splits",), "[train, valid, test]"),
    "equation as text": (TOY, ("equation",), "kuramoto_sivashinsky"),
    "settings of an unknown preset": (SETTINGS, ("preset",), "../smoke"),
    "settings of an unknown experiment": (SETTINGS, ("experiments",), "[../test]"),
    "settings of all and more": (SETTINGS, ("experiments",), "everything"),
}
CONTENT = {
    TEST: EXPERIMENT,
    TOY: DATASET,
    SETTINGS: {"preset": "smoke", "experiments": ["test"], "tracking": "disabled"},
}


def written(name, key, text) -> bytes:
    """The file with a piece of YAML where the key is; JSON is YAML."""
    if key is not None:
        text = json.dumps(put(CONTENT[name], key, "@@@")).replace('"@@@"', text)
    return text if isinstance(text, bytes) else text.encode()


def put(content, key, value):
    """A copy with a value at a key, whose parents are made."""
    content = copy.deepcopy(content)
    parent = content
    for part in key[:-1]:
        parent = parent.setdefault(part, {})
    parent[key[-1]] = value
    return content


def look(folder, name) -> None:
    """Read what the file is for."""
    configs = folder / "configs"
    if name == SETTINGS:
        config.settings(configs)
    elif name == TOY:
        config.compose_dataset(configs, "toy", "smoke")
    else:
        config.compose(configs, "test", "smoke")


def refusal(folder, name) -> str | None:
    """The line with which a file is refused; None where it is not."""
    began = time.process_time()
    try:
        look(folder, name)
        line = None
    except config.ConfigError as error:
        line = str(error)
        assert "\n" not in line and 10 < len(line) < LINE
    assert time.process_time() - began < SECONDS
    return line


def as_a_user(project, name, bad: bytes) -> None:
    """Start the verb that reads the file in a separate Python."""
    file = project.folder / f"configs/{name}.yaml"
    before = files(project.folder)
    file.write_bytes(bad)
    child = project.fresh("generate" if name == TOY else "train")
    check(child, project.folder, before)
    assert file.name in child.refusal()
    file.write_text(json.dumps(CONTENT[name]))


def check(child, folder, before):
    said = child.refusal()
    assert child.cpu < SECONDS, said
    assert len(said) < LINE
    assert files(folder) == before, said
    return said


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def configs(project):
    """Only configurations, to be broken."""
    (project.folder / "configs/config.yaml").write_text(json.dumps(CONTENT[SETTINGS]))
    for name in CONTENT:
        look(project.folder, name)
    return project


@pytest.mark.fault("config_hand")
def test_bad_by_hand(configs, row):
    before = files(configs.folder)
    for what, (name, key, text) in HAND.items():
        file = configs.folder / f"configs/{name}.yaml"
        file.write_bytes(written(name, key, text))
        line = refusal(configs.folder, name)
        assert line is not None, what
        assert file.name in line, line
        file.write_text(json.dumps(CONTENT[name]))
        row.add("nothing: one line names file and key")
    assert files(configs.folder) == before


@pytest.mark.fault("config_started")
def test_bad_by_hand_as_a_user_starts_it(configs, chance, row):
    for _, (name, key, text) in some(chance, HAND):
        as_a_user(configs, name, written(name, key, text))
        row.add(STARTED)


# At random ---------------------------------------------------------------------------------------


def places(content, key=()):
    """Keys of all that a configuration holds."""
    yield key
    items = content.items() if isinstance(content, dict) else ()
    for name, value in items:
        yield from places(value, (*key, name))


names = st.sampled_from(["..", "a/b", "/x", "a b", "ü", "", "-", "a" * 300]) | st.text(max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**20)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def changes(draw):
    """A file, a key in it that is replaced or added, and what stands there then."""
    name = draw(st.sampled_from([TEST, TEST, TOY]))
    key = draw(st.sampled_from([k for k in places(CONTENT[name]) if k]))
    if draw(st.booleans()):
        key = (*key[:-1], draw(names))
    return name, key, draw(values)


@pytest.fixture
def refused(configs):
    """Bad configurations, found at random."""
    found = []

    @seed(SEED)
    @settings(
        max_examples=times(200),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changes())
    def try_one(change):
        name, key, value = change
        file = configs.folder / f"configs/{name}.yaml"
        bad = json.dumps(put(CONTENT[name], key, value))
        file.write_text(bad)
        try:
            line = refusal(configs.folder, name)
        finally:
            file.write_text(json.dumps(CONTENT[name]))
        if line is None:  # it happens to be a good one
            reject()
        assert f"configs/{name}.yaml" in line
        found.append((name, bad.encode()))

    before = files(configs.folder)
    try_one()
    assert files(configs.folder) == before
    assert len(found) >= times(200)
    return found


@pytest.mark.fault("config_random")
def test_bad_at_random(refused, row):
    row.add("nothing: one line names file and key", len(refused))


@pytest.mark.fault("config_started")
def test_bad_at_random_as_a_user_starts_it(configs, refused, row):
    for name, bad in few(refused):
        as_a_user(configs, name, bad)
        row.add(STARTED)


# On the command line -----------------------------------------------------------------------------

# what only the constructors of the units, or the machine, can refuse
COMMAND = {
    "a grid beyond the disk": (TOY, ("equation", "points"), "1000000000"),
    "a grid beyond all numbers": (TOY, ("equation", "points"), "9007199254740990"),
    "more frames than the disk holds": (TOY, ("splits", "train", "frames"), "9007199254740992"),
    "more trajectories than the disk holds": (
        TOY,
        ("splits", "test", "trajectories"),
        "9007199254740992",
    ),
    "a shard beyond the memory": (TOY, ("splits",), json.dumps(
        {s: {"trajectories": 2**30, "frames": 2**20} for s in ("train", "valid", "test")}
    )),
    "no points": (TOY, ("equation", "points"), "0"),
    "an odd number of points": (TOY, ("equation", "points"), "17"),
    "no length": (TOY, ("equation", "length"), "0.0"),
    "no time": (TOY, ("equation", "dt"), "0"),
    "minus time": (TOY, ("equation", "dt"), "-0.2"),
    "no substeps": (TOY, ("equation", "substeps"), "0"),
    "a wide network": (TEST, ("methods", "net", "width"), "1000000000"),
    "a network beyond all numbers": (TEST, ("methods", "net", "width"), "9007199254740992"),
    "no width": (TEST, ("methods", "net", "width"), "0"),
    "no layers": (TEST, ("methods", "net", "multipliers"), "[]"),
    "a window longer than the data": (
        TEST,
        ("methods", "net", "training"),
        "{name: unrolled, unroll: 9007199254740992}",
    ),
    "a long history": (TEST, ("methods", "net", "history"), "1000000"),
}  # fmt: skip
NAMES = ["../toy", "/etc/passwd", "a b", "größe", "", ".", "x" * 5000, "toy\n", "toy;id", "%00"]


@pytest.mark.fault("config_command")
def test_bad_on_the_command_line(project, chance, row):
    project.without("train").without("generate")
    cases = {**COMMAND, **{what: HAND[what] for what in ("bomb", "system", "deep lists")}}
    # where there is data already, what trains gets far enough to build its network
    store = project.folder.with_name("data")
    project.made("generate")
    (project.folder / "toy.zarr").rename(store)
    for _, (name, key, text) in some(chance, cases):
        file = project.folder / f"configs/{name}.yaml"
        file.write_bytes(written(name, key, text))
        verb = "generate" if name == TOY else "train"
        more = [] if verb == "generate" else ["--data", str(store)]
        before = files(project.folder)
        check(project.run(verb, more=more), project.folder, before)
        file.write_text(json.dumps(CONTENT[name]))
        row.add("nothing: one line, no file written")
    before = files(project.folder)
    for name in chance.sample(NAMES, times(len(NAMES))):
        for verb, option in (
            ("generate", "--dataset"),
            ("generate", "--preset"),
            ("train", "--experiment"),
            ("train", "--method"),
        ):
            child = project.run(verb, more=[option, name])
            check(child, project.folder, before)
            row.add("nothing: one line, no file written")
