"""Finding and reading published checkpoints, and saying what does not fit.

    files = find_files("UCSC-VLAA/openvision3-vit-base-patch2-32", ["open_clip_pytorch_model.bin"])
    state = read_torch(files["open_clip_pytorch_model.bin"])

Nothing here executes what a file holds: torch files are read with `weights_only=True`, the rest is JSON and
safetensors.
"""

import json
import os
import pickle
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

State = dict[str, torch.Tensor]


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or is not what a converter takes; the message says what was found."""


class CheckpointMismatchError(CheckpointError):
    """The keys of a checkpoint are not the ones of the architecture.

    Attributes:
        left: keys that the converter has no place for.
        missing: keys that the architecture has and the checkpoint lacks.
        misshapen: key -> (found shape, expected shape).
    """

    def __init__(
        self,
        what: str,
        left: Sequence[str] = (),
        missing: Sequence[str] = (),
        misshapen: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
        hints: Sequence[str] = (),
    ):
        self.left, self.missing, self.misshapen = list(left), list(missing), dict(misshapen or {})
        parts = [f"the checkpoint does not fit {what}"]
        if self.missing:
            parts.append(f"missing ({len(self.missing)}): {', '.join(self.missing)}")
        if self.left:
            parts.append(f"left over ({len(self.left)}): {', '.join(self.left)}")
        if self.misshapen:
            shapes = (
                f"{key} is {found}, expected {expected}" for key, (found, expected) in self.misshapen.items()
            )
            parts.append(f"wrong shape ({len(self.misshapen)}): {', '.join(shapes)}")
        super().__init__("; ".join([*parts, *hints]))


def check_keys(
    what: str, state: State, expected: Mapping[str, tuple[int, ...]], hints: Mapping[str, str] | None = None
) -> None:
    """Check that a checkpoint has exactly the keys and shapes of a model.

    Args:
        what: the checkpoint's name in the error.
        state: its tensors.
        expected: key -> shape.
        hints: key -> what it means when that key is missing or left over.

    Raises:
        CheckpointMismatchError: it has others.
    """
    left = [key for key in state if key not in expected]
    missing = [key for key in expected if key not in state]
    misshapen = {
        key: (tuple(state[key].shape), shape)
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    }
    if left or missing or misshapen:
        said = [(hints or {})[key] for key in (*left, *missing) if key in (hints or {})]
        raise CheckpointMismatchError(what, left, missing, misshapen, said)


def find_files(
    source: str | os.PathLike[str],
    required: Sequence[str],
    optional: Sequence[str] = (),
    revision: str | None = None,
) -> dict[str, Path]:
    """Paths of named files in a folder, or downloaded from a Hub repository.

    Args:
        source: a folder, or a Hub id. A path that exists is a folder, so a folder is never mistaken for an
            id.
        required: names of files that must be there.
        optional: names of files that are taken where they are there.
        revision: of the repository.

    Returns:
        name -> path.

    Raises:
        CheckpointError: a file that is required is absent.
        OSError: the repository cannot be reached.
    """
    if os.path.exists(source) or os.path.isabs(source):
        if revision is not None:
            raise CheckpointError(f"{source} is a folder on this machine and has no revision {revision!r}")
        found = {name: Path(source, name) for name in (*required, *optional) if Path(source, name).is_file()}
        absent = [name for name in required if name not in found]
        if absent:
            raise CheckpointError(
                f"{source} holds no {', '.join(absent)}: give the folder that has it, or a Hub id"
            )
        return found
    found = {}
    for name in (*required, *optional):
        try:
            found[name] = Path(hf_hub_download(str(source), name, revision=revision))
        except HFValidationError as error:
            raise CheckpointError(f"{source} is neither a folder nor a Hub id ({error})") from error
        except EntryNotFoundError as error:
            if name in required:
                raise CheckpointError(f"the Hub repository {source} holds no {name}") from error
    return found


def read_torch(path: Path) -> State:
    """The flat state dict that `torch.save` wrote to `path`, without running any code that the file may hold.

    A training checkpoint's `state_dict` entry is taken out of its wrapper. Raises `CheckpointError`.
    """
    damaged = f"{path} is truncated or no torch file: download it again"
    # Only the zip form can be mapped. It begins with PK and ends with a directory that a truncated file
    # lacks.
    is_zip = zipfile.is_zipfile(path)
    with open(path, "rb") as file:
        begins = file.read(2)
    if not begins or (begins == b"PK" and not is_zip):
        raise CheckpointError(damaged)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        also = "" if is_zip else "is damaged, or "
        raise CheckpointError(
            f"{path} {also}holds pickled objects other than tensors, which are never executed: ask its "
            f"author for a plain state dict or safetensors ({error})"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{damaged} ({error})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, expected a state dict")
    others = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        raise CheckpointError(
            f"{path} is no state dict: these entries are not tensors: "
            f"{', '.join(map(str, others)) or 'it is empty'}"
        )
    return state


def read_safetensors(paths: Sequence[Path]) -> State:
    """All tensors of the safetensors files. Raises `CheckpointError` for a file that cannot be read."""
    state: State = {}
    for path in paths:
        try:
            state.update(load_file(path))
        except SafetensorError as error:
            raise CheckpointError(f"{path} is truncated or no safetensors file ({error})") from error
    return state


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`. Raises `CheckpointError` when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object")
    return content


@contextmanager
def new_folder(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes `destination` when the block ends well, and vanishes when it does not.

    Raises `FileExistsError` when `destination` exists and is not an empty folder.
    """
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} exists and is not an empty folder: name another or remove it")
    destination.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, since a rename must not cross file systems.
    staging = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
    try:
        yield staging
        # mkdtemp made it private; the result gets the mode of any new folder.
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        staging.replace(destination)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
