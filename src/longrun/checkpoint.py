"""Trained methods as files: what `train` writes, `evaluate` reads and `starts_from` begins with."""

import inspect
import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from longrun import registry
from longrun.cli import UserError, atomic

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
        # torch says the latter two of what is too large for it, or for the machine
        except (ValueError, TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise UserError(f"method {method}: {str(error)[:300]}") from error


def sizes(method: str, description: dict[str, Any]) -> dict[str, Any]:
    """Return those parts of a data description that the method's constructor requires."""
    wanted = inspect.signature(registry.find("methods", method)).parameters
    return {
        name: description[name]
        for name, parameter in wanted.items()
        if parameter.default is parameter.empty and name in description
    }


def save(path: Path, module: pl.LightningModule, **content: Any) -> None:
    """Write a checkpoint whole: the weights and the given plain JSON."""
    state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
    whole = io.BytesIO()  # torch doesn't say of a file that the disk is full
    torch.save({"state_dict": state, **content}, whole)
    with atomic(path) as part:
        part.write_bytes(whole.getbuffer())


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint's content.

    Raises
    ------
    UserError
        No such file, one that `longrun.train` did not write, or one that is damaged.
    """
    check(path)
    try:
        # tensors and plain values alone: nothing that a pickle could run is let in
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError) as error:
        raise UserError(f"{path}: is not a checkpoint of longrun.train") from error
    if not isinstance(content, dict) or any(
        not isinstance(content.get(key), kind) for key, kind in CONTENT.items()
    ):
        raise UserError(f"{path}: is not a checkpoint of longrun.train")
    return content


def check(path: Path) -> None:
    """Compare the checksums in a checkpoint with its bytes, which torch doesn't.

    Raises
    ------
    UserError
        No such file, or one that is cut short, damaged or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as file:
            for entry in file.infolist():
                if entry.compress_type != zipfile.ZIP_STORED:  # torch stores; others may explode
                    raise UserError(f"{path}: is damaged: {registry.shown(entry.filename)}")
                with file.open(entry) as content:  # by entry: a spoilt name can be that of another
                    while content.read(2**20):
                        pass
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint; run longrun.train first") from error
    # what the module says of bytes that it can't make sense of
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise UserError(f"{path}: is not a checkpoint of longrun.train, or damaged") from error


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
        In evaluation mode, with the attribute `description` of the data that it was trained on.

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
    module.description = content["description"]
    return module.to(device).eval()
