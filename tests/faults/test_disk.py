"""Full and read-only disks, files that vanish or change, clocks that jump."""

import shutil
import subprocess

import numpy as np
import pytest

from faults.project import RUN, VERBS, _content, few, flipped, resize, times, until
from longrun.data.store import open_store, read_predictions
from longrun.runtime import checkpoint, cli

pytestmark = pytest.mark.xdist_group("faults")

# kilobytes: less than the verb needs
ROOM = {"generate": 200, "train": 40, "evaluate": 16, "judge": 4, "tabulate": 8}
NAMED = {  # a part of the path that the message must name
    "generate": "toy.zarr",
    "train": "runs/net/",
    "evaluate": f"{RUN}/net/seed0/predictions.zarr",
    "judge": "claims.json",
    "tabulate": "results/smoke/",
}


def refused(call, *arguments) -> str:
    with pytest.raises(cli.UserError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.fault("disk_full")
@pytest.mark.parametrize("verb", few(VERBS, 2))
def test_a_full_disk(whole, project, mount, row, verb):
    target = {"generate": project.folder, "train": project.folder / "runs"}
    folder = target.get(verb, project.output(verb))
    inputs = project.folder.with_name("inputs")
    project.without(verb)
    shutil.copytree(project.folder, inputs)
    folder.mkdir(exist_ok=True)
    mount(folder, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    shutil.copytree(inputs / folder.relative_to(project.folder), folder, dirs_exist_ok=True)
    used = (shutil.disk_usage(folder).total - shutil.disk_usage(folder).free) // 1024
    resize(folder, used + ROOM[verb])
    said = project.run(verb).refusal()
    assert NAMED[verb] in said and "No space left on device" in said
    resize(folder, 2**16)
    assert project.content(verb).items() <= whole.content(verb).items()
    again = project.run(verb)
    assert again.code == 0, again.text
    assert project.content(verb) == whole.content(verb)
    assert project.leftovers() == []
    row.add("nothing: one line names the file, and the next run ends with the same bits")


@pytest.mark.fault("disk_read_only")
@pytest.mark.parametrize("verb", few(VERBS))
def test_a_read_only_folder(whole, project, mount, row, verb):
    target = {"generate": project.folder, "train": project.folder / "runs"}
    folder = target.get(verb, project.output(verb))
    project.without(verb)
    folder.mkdir(exist_ok=True)
    mount(folder, "-o", "bind", folder)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    said = project.run(verb).refusal()
    assert NAMED[verb].partition("/predictions")[0] in said and "Read-only file system" in said
    subprocess.run(["mount", "-o", "remount,rw,bind", folder], check=True)
    assert project.content(verb) == {} or verb == "generate"
    row.add("nothing: one line names the file")


GONE = [
    ("train", "toy.zarr"),
    ("train", "toy.zarr/train/u/c/3/0/0"),
    ("train", "toy.zarr/valid/dt"),
    ("train", "toy.zarr/train/u/zarr.json"),
    ("train", "toy.zarr/train/length/c/0"),
    ("evaluate", "toy.zarr/test/dt/c/0"),
    ("evaluate", "toy.zarr/reference_error/c/0"),
    ("evaluate", "toy.zarr/test"),
    ("evaluate", "toy.zarr/test/u/c/0"),
    ("evaluate", f"{RUN}/net/seed0/model.ckpt"),
    ("judge", f"{RUN}/still/seed0/scores.parquet"),
    ("tabulate", f"{RUN}/claims.json"),
    ("tabulate", f"{RUN}/net/seed0/evaluation.json"),
    ("tabulate", f"{RUN}/net/seed0/scores.parquet"),
    ("generate", "configs/datasets/toy.yaml"),
]


@pytest.mark.fault("disk_gone")
@pytest.mark.parametrize(("verb", "gone"), few(GONE, 2))
def test_an_input_is_gone(project, row, verb, gone):
    cli._remove(project.without(verb).folder / gone)
    said = project.run(verb).refusal()
    named = gone.removesuffix("/zarr.json").removesuffix("c/0").removesuffix("/toy.yaml")
    assert any(part in said for part in (named, "no claims.json there", "has no split test"))
    assert project.content(verb) == {}
    row.add("nothing: one line names the file")


MEANWHILE = {
    # after the data were described, or the checkpoint was first read
    "train": (
        "import shutil, longrun.train as verb\n"
        "look = verb.describe\n"
        "def describe(stores, stride):\n"
        "    found = look(stores, stride)\n"
        "    shutil.rmtree('toy.zarr/valid/u/c')\n"
        "    return found\n"
        "verb.describe = describe\n"
    ),
    "evaluate": (
        "import os, longrun.evaluate as verb\n"
        "look = verb.check_checkpoint\n"
        "def check(path, *rest):\n"
        "    os.unlink(path)\n"
        "    look(path, *rest)\n"
        "verb.check_checkpoint = check\n"
    ),
    "judge": (
        "import os, longrun.judge as verb\n"
        "look = verb.config.compose\n"
        "def compose(*given):\n"
        f"    os.unlink('{RUN}/net/seed0/scores.parquet')\n"
        "    return look(*given)\n"
        "verb.config.compose = compose\n"
    ),
    "tabulate": (
        "import os, longrun.tabulate as verb\n"
        "look = verb.cli.read_json\n"
        "def read(path, *rest):\n"
        f"    os.path.exists('{RUN}/net/seed0/evaluation.json') "
        f"and os.unlink('{RUN}/net/seed0/evaluation.json')\n"
        "    return look(path, *rest)\n"
        "verb.cli.read_json = read\n"
    ),
}


@pytest.mark.fault("disk_gone_meanwhile")
@pytest.mark.parametrize("verb", few(MEANWHILE))
def test_an_input_vanishes_meanwhile(project, row, verb):
    said = project.without(verb).run(verb, patch=MEANWHILE[verb]).refusal()
    assert {"train": "toy.zarr/valid/u"}.get(verb, f"{RUN}/net/seed0/") in said
    assert project.content(verb) == {}
    row.add("nothing: one line names the file")


# Damage ------------------------------------------------------------------------------------------


def everything(path):
    """All that a store holds of each split."""
    store = open_store(path)
    splits = [store.split(name) for name in ("train", "valid", "test")]
    return [(s.read(slice(None), slice(None)), *s.parameters.values()) for s in splits]


def same(before, after) -> bool:
    return all(
        np.array_equal(old, new)
        for one, other in zip(before, after, strict=True)
        for old, new in zip(one, other, strict=True)
    )


def damaged(project, chance, cut):
    """Cut or flip one random file of fields or parameters; return it and what it held."""
    files = [
        file
        for split in ("train", "valid", "test")
        for name in ("u", "dt", "length")
        for file in sorted((project.folder / "toy.zarr" / split / name).glob("c/**/*"))
        if file.is_file()
    ]
    file = chance.choice(files)
    data = file.read_bytes()
    place = chance.randrange(len(data))
    file.write_bytes(data[:place] if cut else flipped(data, place, chance.randrange(8)))
    return file, data


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(False, marks=pytest.mark.fault("disk_flipped_chunk")),
        pytest.param(True, marks=pytest.mark.fault("disk_truncated_chunk")),
    ],
)
def test_a_damaged_chunk_is_never_data(project, chance, row, cut):
    store = project.folder / "toy.zarr"
    before = everything(store)
    for _ in range(times(200)):
        file, data = damaged(project, chance, cut)
        assert str(store) in refused(everything, store)
        file.write_bytes(data)
    assert same(before, everything(store))
    row.add("nothing: one line names the array", times(200))


@pytest.mark.parametrize("verb", ["train", "evaluate"])
@pytest.mark.fault("disk_flipped_chunk")
def test_a_verb_refuses_a_damaged_chunk(project, chance, row, verb):
    split = {"train": "train", "evaluate": "test"}[verb]
    file = project.without(verb).folder / f"toy.zarr/{split}/u/c/1/0/0"
    data = file.read_bytes()
    file.write_bytes(flipped(data, chance.randrange(640), 3))  # in the first frames
    assert f"toy.zarr/{split}/u" in project.run(verb).refusal()
    assert project.content(verb) == {}
    row.add("nothing: one line names the array")


@pytest.mark.fault("disk_metadata")
def test_damaged_metadata_are_never_believed(project, chance, row):
    store = project.folder / "toy.zarr"
    described, before = open_store(store).attrs, everything(store)
    files = sorted(store.rglob("zarr.json"))
    for _ in range(times(200)):
        file = chance.choice(files)
        data = file.read_bytes()
        file.write_bytes(flipped(data, chance.randrange(len(data)), chance.randrange(8)))
        try:
            assert open_store(store).attrs == described
            assert same(before, everything(store))
            row.add("nothing: no verb reads that, or it means the same")
        except cli.UserError as error:
            assert str(store) in str(error) and "\n" not in str(error)
            row.add("nothing: one line names the store or the array")
        file.write_bytes(data)


@pytest.mark.fault("disk_predictions")
def test_damaged_predictions_are_never_drawn(project, chance, row):
    store = project.output("evaluate") / "predictions.zarr"
    before = read_predictions(store)
    files = sorted(store.rglob("c/**/[0-9]*"))
    for number in range(times(100)):
        file = chance.choice([file for file in files if file.is_file()])
        data = file.read_bytes()
        place = chance.randrange(len(data))
        file.write_bytes(data[:place] if number % 2 else flipped(data, place, chance.randrange(8)))
        assert str(store) in refused(read_predictions, store)
        file.write_bytes(data)
        row.add("nothing: one line names the store")
    assert read_predictions(store).identical(before)


@pytest.mark.fault("disk_resumed")
def test_what_is_damaged_is_made_again(whole, project, chance, row):
    """What a power cut leaves of files that were never flushed."""
    for number in range(times(20)):
        unfinished = project.without("generate").start("generate")
        partial = project.folder / ".toy.zarr.partial"
        until(lambda there=partial: len(list(there.glob("train/u/c/*/0/0"))) > 3, unfinished)
        unfinished.kill()
        if not partial.exists():
            continue
        file = chance.choice(sorted(file for file in partial.rglob("*") if file.is_file()))
        data = file.read_bytes()
        place = chance.randrange(len(data))
        cut = number % 2
        file.write_bytes(data[:place] if cut else flipped(data, place, chance.randrange(8)))
        again = project.run("generate")
        assert again.code == 0, again.text
        assert project.content("generate") == whole.content("generate")
        assert project.leftovers() == []
        row.add("at most what was there so far, made again: the same bits")


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(False, marks=pytest.mark.fault("disk_flipped_checkpoint")),
        pytest.param(True, marks=pytest.mark.fault("disk_truncated_checkpoint")),
    ],
)
def test_a_damaged_checkpoint_is_never_weights(whole, tmp_path, chance, row, cut):
    original = whole.output("train") / "model.ckpt"
    data, content = original.read_bytes(), _content(original)
    file = tmp_path / "model.ckpt"
    for _ in range(times(200)):
        place = chance.randrange(len(data))
        file.write_bytes(data[:place] if cut else flipped(data, place, chance.randrange(8)))
        try:
            assert _content(file) == content
            assert place >= len(data) - checkpoint.SEAL
            row.add("nothing: that was the checksum, all else is right")
        except cli.UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            row.add("nothing: one line names the file")


@pytest.mark.fault("disk_truncated_checkpoint")
def test_a_verb_refuses_a_damaged_checkpoint(project, row):
    file = project.without("evaluate").output("train") / "model.ckpt"
    file.write_bytes(file.read_bytes()[:5000])
    assert f"{RUN}/net/seed0/model.ckpt" in project.run("evaluate").refusal()
    assert project.content("evaluate") == {}
    row.add("nothing: one line names the file")


@pytest.mark.fault("disk_state")
@pytest.mark.parametrize("number", range(times(10)))
def test_a_damaged_state_to_resume_from(whole, project, chance, row, number):
    (state,) = project.folder.glob("runs/net/*/last.ckpt")
    cli._remove(project.output("train") / "model.ckpt")
    data = state.read_bytes()
    place = chance.randrange(len(data))
    cut = number % 2
    state.write_bytes(data[:place] if cut else flipped(data, place, chance.randrange(8)))
    again = project.run("train")
    if again.code == 0:
        row.add("nothing: that was the checksum, all else is right")
        assert place >= len(data) - checkpoint.SEAL
    else:
        said = again.refusal()
        assert state.name in said and "delete it to train from the start" in said
        state.unlink()
        again = project.run("train")
        assert again.code == 0, again.text
        row.add("the updates so far: one line names the file; without it training starts anew")
    assert project.content("train") == whole.content("train")


@pytest.mark.fault("disk_scores")
def test_damaged_scores_are_never_scores(whole, tmp_path, chance, row):
    original = whole.output("evaluate") / "scores.parquet"
    data, content = original.read_bytes(), _content(original)
    file = tmp_path / "scores.parquet"
    for number in range(times(200)):
        cut, place = number % 4 == 0, chance.randrange(len(data))
        file.write_bytes(data[:place] if cut else flipped(data, place, chance.randrange(8)))
        try:
            assert _content(file) == content and not cut
            row.add("nothing: the bit was in the mark before the checksum, all else is right")
        except cli.UserError as error:
            assert str(file) in str(error) and "\n" not in str(error)
            row.add("nothing: one line names the file")


@pytest.mark.fault("disk_json")
@pytest.mark.parametrize("name", ["claims.json", "net/seed0/evaluation.json"])
def test_damaged_json(whole, tmp_path, chance, row, name):
    data = (whole.folder / RUN / name).read_bytes()
    file = tmp_path / "some.json"
    for _ in range(times(50)):
        file.write_bytes(data[: chance.randrange(len(data) - 2)])
        assert str(file) in refused(cli.read_json, file, "judge")
        row.add("nothing: one line names the file")


# Clocks ------------------------------------------------------------------------------------------

JUMPING = """
import random, time, datetime
chance, real = random.Random({seed}), time.time
years = 365 * 86400
def jump():
    return real() + chance.choice([-30, -1, 0, 1, 30]) * years
time.time = jump
time.time_ns = lambda: int(jump() * 1e9)
"""


@pytest.mark.fault("disk_clock")
@pytest.mark.parametrize("verb", few(VERBS, 2))
def test_a_clock_that_jumps(whole, project, row, verb):
    done = project.without(verb).run(verb, patch=JUMPING.format(seed=len(verb)))
    assert done.code == 0, done.text
    assert project.content(verb) == whole.content(verb)
    if verb == "train":
        content = checkpoint.read(project.output("train") / "model.ckpt")
        assert 0 < content["train_seconds"] < 3600
    row.add("nothing: the same bits, and durations that are true")
