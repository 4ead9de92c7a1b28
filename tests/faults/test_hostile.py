"""Files that mean harm: refused without running their content or allocating what they request."""

import json
import os
import pickle
import shutil
import zipfile

import h5py
import numpy as np
import pytest
import torch

from faults.project import saved, some
from longrun.data.store import StoreWriter, checksum
from longrun.runtime import cli

pytestmark = pytest.mark.xdist_group("faults")

ROOM = 2**29  # bytes that a verb may allocate beyond its libraries
ABSURD = 10**12


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, pwned):
        self.pwned = pwned

    def __reduce__(self):
        return os.system, (f"touch {self.pwned}",)


def checkpoints(good: dict, pwned) -> dict[str, bytes]:
    """Bytes of checkpoints that mean harm, made from a good one."""

    def of(**changes) -> bytes:
        return saved({**good, **changes})

    def zipped(pickled: bytes, **entries: bytes) -> bytes:
        whole = saved({})
        source, target = pwned.with_name("in.zip"), pwned.with_name("out.zip")
        source.write_bytes(whole)
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
            for entry in old.infolist():
                is_pickle = entry.filename.endswith("data.pkl")
                new.writestr(entry.filename, pickled if is_pickle else old.read(entry.filename))
            for name, content in entries.items():
                new.writestr(name, content, zipfile.ZIP_DEFLATED)
        return target.read_bytes()

    name = next(iter(good["state_dict"]))
    return {
        "a payload in the arguments": of(arguments={"width": Payload(pwned)}),
        "a payload as the whole": saved(Payload(pwned)),
        "a payload in the weights": of(state_dict={name: Payload(pwned)}),
        "a bare pickle with a payload": pickle.dumps(Payload(pwned)),
        "a pickle with a payload inside": zipped(pickle.dumps(Payload(pwned))),
        "a global that is no tensor": zipped(b"cbuiltins\neval\n(S'1'\ntR."),
        "a pickle that never ends": zipped(b"(" * 10_000),
        "a zip bomb": zipped(pickle.dumps({}), bomb=bytes(2**26)),
        "no zip": b"PK\x03\x04" + os.urandom(2000),
        "nothing": b"",
        "a list": saved([1, 2]),
        "a tensor": saved(torch.zeros(3)),
        "no description": saved({k: v for k, v in good.items() if k != "description"}),
        "weights as text": of(state_dict="none"),
        "a weight as text": of(state_dict=good["state_dict"] | {name: "none"}),
        "a weight expanded to absurd": of(
            state_dict=good["state_dict"] | {name: torch.zeros(1).expand(ABSURD)}
        ),
        "a method of another folder": of(method="../tasks/forecast"),
        "a method that is hidden": of(method="__init__"),
        "a method as a list": of(method=["unet"]),
        "an absurd width": of(arguments=good["arguments"] | {"width": ABSURD}),
        "absurdly many fields": of(arguments=good["arguments"] | {"fields": ABSURD}),
        "an unknown argument": of(arguments=good["arguments"] | {"command": "rm"}),
        "a negative size": of(arguments=good["arguments"] | {"fields": -1}),
    }


@pytest.mark.fault("hostile_checkpoint")
def test_hostile_checkpoints(project, tmp_path, chance, row):
    pwned = tmp_path / "pwned"
    file = project.without("evaluate").output("train") / "model.ckpt"
    good = torch.load(file, weights_only=True)
    cases = checkpoints(good, pwned)
    for what, content in some(chance, cases):
        file.write_bytes(content)
        done = project.run("evaluate", data=ROOM)
        assert "model.ckpt" in done.refusal() or "method unet" in done.refusal(), what
        assert project.content("evaluate") == {}
        assert not pwned.exists(), what
        row.add("nothing: one line, nothing ran")
    os.system(f"touch {pwned}")  # the payload works where it can run
    assert pwned.exists()


@pytest.mark.fault("hostile_checkpoint")
def test_a_payload_in_the_state_to_resume_from(project, tmp_path, row):
    (state,) = project.folder.glob("runs/net/*/last.ckpt")
    state.write_bytes(saved({"state_dict": Payload(tmp_path / "pwned")}))
    cli._remove(project.output("train") / "model.ckpt")
    assert "last.ckpt" in project.run("train").refusal()
    assert not (tmp_path / "pwned").exists()
    row.add("nothing: one line, nothing ran")


# Stores ------------------------------------------------------------------------------------------


def edit(*keys):
    """Change a value in a JSON file."""
    *parents, last, value = keys

    def change(file):
        content = json.loads(file.read_text())
        inner = content
        for key in parents:
            inner = inner[key]
        inner[last] = value
        if parents == ["attributes"] and "complete" in inner:
            inner["complete"] = checksum(inner)  # an attacker makes it right
        file.write_text(json.dumps(content))

    return change


def outward(file):
    """Move a file or folder out of the store, and leave a link to it."""
    store = next(folder for folder in file.parents if folder.name == "toy.zarr")
    target = store.with_name("elsewhere")
    shutil.move(file, target)
    file.symlink_to(target)


def device(file):
    file.unlink()
    file.symlink_to("/dev/zero")


CODECS = ("codecs", 0, "configuration", "codecs")
FIELD, PARAMETER, ROOT = "test/u/zarr.json", "test/dt/zarr.json", "zarr.json"
STORES = {
    "a field of absurd trajectories": (FIELD, edit("shape", [ABSURD, 40, 16])),
    "a field of absurd frames": (FIELD, edit("shape", [4, ABSURD, 16])),
    "a field of absurd points": (FIELD, edit("shape", [4, 40, ABSURD])),
    "a field of absurd dimensions": (FIELD, edit("shape", [2**40] * 6)),
    "a field of negative size": (FIELD, edit("shape", [-4, 40, 16])),
    "a field of text for a shape": (FIELD, edit("shape", "large")),
    "a field of absurd chunks": (
        FIELD,
        edit("chunk_grid", "configuration", "chunk_shape", [1, ABSURD, 16]),
    ),
    "a field of chunks of nothing": (
        FIELD,
        edit("codecs", 0, "configuration", "chunk_shape", [1, 0, 16]),
    ),
    "a field of strings": (FIELD, edit("data_type", "string")),
    "a field of half the bytes": (FIELD, edit("data_type", "float16")),
    "a field that is compressed": (
        FIELD,
        edit(*CODECS, [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]),
    ),
    "a codec that nobody knows": (FIELD, edit(*CODECS, [{"name": "numcodecs.pickle"}])),
    "codecs without end": (FIELD, edit("codecs", [{"name": "sharding_indexed"}])),
    "a field that is no JSON": (FIELD, lambda file: file.write_text("{" * 10_000)),
    "a field whose shard is a link outwards": ("test/u/c/0/0/0", outward),
    "a field whose metadata is a link outwards": (FIELD, outward),
    "a field that is a link outwards": ("test/u", outward),
    "a shard that is a device": ("test/u/c/0/0/0", device),
    "a parameter of absurd size": (PARAMETER, edit("shape", [ABSURD])),
    "a parameter that is compressed": (
        PARAMETER,
        edit("codecs", [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 5}}]),
    ),
    "a parameter that is a link outwards": ("test/dt", outward),
    "a field that is a path": (ROOT, edit("attributes", "fields", ["../../other"])),
    "a field from the root": (ROOT, edit("attributes", "fields", ["/etc/passwd"])),
    "fields as text": (ROOT, edit("attributes", "fields", "u")),
    "a parameter that is a path": (ROOT, edit("attributes", "parameters", ["../test/dt"])),
    "parameters as numbers": (ROOT, edit("attributes", "parameters", [1])),
    "an equation as text": (ROOT, edit("attributes", "equation", "none")),
    "an equation that is a path": (ROOT, edit("attributes", "equation", {"name": "../cli"})),
    "no boundary": (ROOT, edit("attributes", "boundary", None)),
    "attributes as a list": (ROOT, edit("attributes", [])),
    "metadata as a list": (ROOT, lambda file: file.write_text("[]")),
    "metadata that never ends": (ROOT, lambda file: file.write_text("[" * 10**6)),
}


@pytest.mark.fault("hostile_store")
def test_hostile_stores(project, chance, row):
    project.without("evaluate")
    spare = shutil.copytree(project.folder / "toy.zarr", project.folder.with_name("spare"))
    for what, (name, change) in some(chance, STORES):
        change(project.folder / "toy.zarr" / name)
        done = project.run("evaluate", data=ROOM)
        assert done.code == 2, (what, done.text[-2000:])
        assert "toy.zarr" in done.refusal(), what
        assert project.content("evaluate") == {}
        for leftover in (project.folder / "toy.zarr", project.folder / "elsewhere"):
            cli._remove(leftover)
        shutil.copytree(spare, project.folder / "toy.zarr")
        row.add("nothing: one line, nothing allocated")
    done = project.run("evaluate", data=ROOM)  # enough room for harmless files
    assert done.code == 0, done.text


@pytest.mark.fault("hostile_store")
def test_a_writer_leaves_what_lies_outside(project, row):
    """An unfinished store names an array outside itself."""
    store = project.folder / "toy.zarr"
    edit("attributes", "fields", ["../../precious"])(store / "zarr.json")
    with pytest.raises(cli.UserError, match="must be a list of names"):
        StoreWriter(store)
    row.add("nothing: one line, nothing allocated")


# HDF5 --------------------------------------------------------------------------------------------


def pdebench(file, shape=(4, 5, 8)):
    """A good file of PDEBench, to be broken."""
    file["tensor"] = np.zeros(shape, "f4")
    file["x-coordinate"] = np.arange(8.0) + 0.5
    file["t-coordinate"] = np.arange(5.0)


def of(change):
    def write(path):
        with h5py.File(path, "w") as file:
            pdebench(file)
            change(file, path)

    return write


def replaced(name, make):
    def change(file, path):
        del file[name]
        make(file, path)

    return of(change)


def external(file, path):
    other = path.with_name("other.hdf5")
    with h5py.File(other, "w") as there:
        pdebench(there)
    file["tensor"] = h5py.ExternalLink(str(other), "tensor")


def raw(file, path):
    secret = path.with_name("secret")
    secret.write_bytes(b"s" * 640)
    file.create_dataset("tensor", (4, 5, 8), "f4", external=[(str(secret), 0, 640)])


def virtual(file, path):
    other = path.with_name("other.hdf5")
    with h5py.File(other, "w") as there:
        pdebench(there)
    layout = h5py.VirtualLayout((4, 5, 8), "f4")
    layout[:] = h5py.VirtualSource(str(other), "tensor", (4, 5, 8))
    file.create_virtual_dataset("tensor", layout)


def absurd(name, shape):
    return replaced(name, lambda file, _: file.create_dataset(name, shape, "f8", chunks=True))


def cut(path):
    of(lambda file, _: None)(path)
    path.write_bytes(path.read_bytes()[:-900])


HDF5 = {
    "text": lambda path: path.write_text("not HDF5"),
    "nothing": lambda path: path.write_bytes(b""),
    "a signature alone": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n"),
    "a signature and noise": lambda path: path.write_bytes(
        b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(4000)
    ),
    "cut short": cut,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: h5py.File(path, "w").close(),
    "an array that lies in another file": replaced("tensor", external),
    "an array made of another's bytes": replaced("tensor", raw),
    "an array that is a view of another file": replaced("tensor", virtual),
    "a link to nowhere": replaced(
        "tensor", lambda file, _: file.update(tensor=h5py.SoftLink("/nowhere"))
    ),
    "a link to itself": replaced(
        "tensor", lambda file, _: file.update(tensor=h5py.SoftLink("/tensor"))
    ),
    "absurd frames": absurd("tensor", (4, ABSURD, 8)),
    "absurd points": absurd("tensor", (4, 5, ABSURD)),
    "absurd coordinates": absurd("x-coordinate", (ABSURD,)),
    "a group for an array": replaced("tensor", lambda file, _: file.create_group("tensor")),
    "a number for an array": replaced("tensor", lambda file, _: file.update(tensor=1.0)),
    "text for an array": replaced(
        "x-coordinate", lambda file, _: file.update({"x-coordinate": "text"})
    ),
    "coordinates that don't fit": replaced(
        "x-coordinate", lambda file, _: file.update({"x-coordinate": np.arange(3.0)})
    ),
    "coordinates that are no numbers": replaced(
        "x-coordinate", lambda file, _: file.update({"x-coordinate": np.full(8, np.nan)})
    ),
}


@pytest.mark.fault("hostile_hdf5")
@pytest.mark.parametrize("kind", ["pdebench", "the_well"])
def test_hostile_hdf5(server, tmp_path, chance, row, kind):
    for number, (what, write) in enumerate(some(chance, HDF5)):
        source, output = tmp_path / f"{number}.hdf5", tmp_path / "out.zarr"
        write(source)
        words = [source, output, "--from", kind, "--to", "store", "--splits", 2, 1, 1]
        done = server.run("convert", words, tmp_path, data=ROOM)
        assert done.code == 2, (what, done.text[-2000:])
        assert source.name in done.refusal(), what
        assert not output.exists()
        row.add("nothing: one line, no other file opened")
