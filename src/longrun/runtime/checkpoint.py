"""Trained methods as files: what `train` writes, `evaluate` reads and `starts_from` begins with."""

import hashlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import pytorch_lightning as pl
import torch

from longrun.runtime import registry
from longrun.runtime.cli import UserError, atomic

# Appended to a file, where torch doesn't look. Torch's own checksums, which it doesn't compare,
# don't cover the table by which it finds the tensors.
_MARK = b"longrun sha256:"
SEAL = len(_MARK) + hashlib.sha256().digest_size
CONTENT = {"method": str, "arguments": dict, "state_dict": dict, "description": dict}


def build(method: str, arguments: dict[str, Any], seed: int) -> Any:
    """Construct a method with weights that depend on the seed alone.

    Parameters
    ----------
    method : str
        Name in `methods/`.
    arguments : dict
        Options, and sizes from the data, of which the constructor takes those that it names.
    seed : int
        Seed of the initial weights; the global generator is left as it was.

    Raises
    ------
    UserError
        An option that the constructor refuses.
    """
    kind = registry.find("methods", method)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            return kind(**arguments)
        # torch raises the latter two for what is too large for it or the machine
        except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise UserError(f"method {method}: {str(error)[:300]}") from error


def sizes(method: str, description: dict[str, Any]) -> dict[str, Any]:
    """Return those parts of a data description that the method's constructor requires."""
    wanted = registry.arguments("methods", method)
    return {
        name: description[name]
        for name, argument in wanted.items()
        if argument.required and name in description
    }


def save(path: Path, module: pl.LightningModule, **content: Any) -> None:
    """Write a checkpoint whole: the weights and the given plain JSON."""
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    whole = io.BytesIO()  # torch doesn't report a full disk
    torch.save({"state_dict": state, **content}, whole)
    with atomic(path) as part:
        part.write_bytes(whole.getbuffer())
        seal(part)


def seal(path: Path) -> None:
    """Append a checksum over the content of a torch file, which `check` compares."""
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(_MARK + digest)


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content.

    Raises
    ------
    UserError
        No such file, one that `longrun.train` did not write, or one that is damaged.
    """
    check(path)
    try:
        # tensors and plain values only: nothing that a pickle could run
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for other files
        raise UserError(f"{path}: is not a checkpoint of longrun.train") from error
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), kind) for key, kind in CONTENT.items()
    ):
        raise UserError(f"{path}: is not a checkpoint of longrun.train")
    return content


def check(path: Path) -> None:
    """Compare the checksum of a checkpoint with its bytes.

    Raises
    ------
    UserError
        No such file, or one that is cut short, damaged or no checkpoint.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint; run longrun.train first") from error
    with file:
        try:
            sound = _is_sound(file)
        except Exception:  # zipfile raises many kinds for what it can't read
            sound = False
    if not sound:
        raise UserError(f"{path}: is not a checkpoint of longrun.train, or damaged")


def _is_sound(file: BinaryIO) -> bool:
    archive = zipfile.ZipFile(file)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
        return False  # torch doesn't compress; other archives may explode
    end = file.seek(-SEAL, os.SEEK_END)
    mark, digest = file.read(len(_MARK)), file.read()
    if mark != _MARK:  # older, or written by others
        return archive.testzip() is None
    file.seek(0)
    found = hashlib.sha256()
    while end > 0:
        block = file.read(min(end, 2**20))
        found.update(block)
        end -= len(block)
    return found.digest() == digest


def load(path: Path, device: torch.device | str = "cpu", method: str | None = None) -> Any:
    """Rebuild a trained method from its checkpoint, ready to predict.

    Parameters
    ----------
    path : Path
        A `model.ckpt`.
    device : torch.device or str
        Where its weights go.
    method : str, optional
        The method that it must be of.

    Returns
    -------
    LightningModule
        In evaluation mode, with the attributes `description`, of the data that it was trained on,
        and `arguments`, of its constructor.

    Raises
    ------
    UserError
        A checkpoint of another method, or of other shapes than its own options say.
    """
    content = read(path)
    if method is not None and content["method"] != method:
        raise UserError(f"{path}: holds a {content['method']}, not a {method}")
    module = build(content["method"], content["arguments"], seed=0)
    try:
        module.load_state_dict(content["state_dict"])
    except (RuntimeError, TypeError, AttributeError) as error:
        line = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: its weights do not fit {content['method']}: {line}") from error
    module.description, module.arguments = content["description"], content["arguments"]
    module.fit_data(module.description)
    return module.to(device).eval()
