"""The `.metadata` of a checkpoint, read without running anything that it says.

torch writes which tensor lies where as a pickle, and reads it with `pickle.load`, which calls whatever a
pickle names. Here nothing of it is called and none of its classes is made: what it names must be one of the
few names that such a file holds, each stands for an inert note of what it was pickled from, and torch's
objects are built from those notes.
"""

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

NAME = ".metadata"
_FORMS = "torch.distributed.checkpoint.metadata"
# All that the file of a checkpoint of tensors names, from torch 2.6 to 2.15, beside torch's dtypes.
_NAMES = {
    *(f"{_FORMS}.{form}" for form in ("Metadata", "TensorStorageMetadata", "TensorProperties")),
    *(f"{_FORMS}.{form}" for form in ("ChunkStorageMetadata", "MetadataIndex", "StorageMeta")),
    f"{_FORMS}._MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem._StorageInfo",
    "torch.serialization._get_layout",
    "torch.Size",
    "builtins.getattr",  # by which Python 3.11.0 to 3.11.3 pickle the member of an enumeration
    # The folder it was written to.
    *(f"{room}.{kind}Path" for room in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
}


class ForeignMetadataError(ValueError):
    """A `.metadata` that names what no checkpoint of tensors holds, or is none at all."""


class _Note:
    """What something was pickled from: its name, the arguments and the state, and nothing that acts."""

    name = ""
    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *arguments: Any) -> "_Note":
        note = super().__new__(cls)
        note.arguments = arguments
        return note

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Notes(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(found := getattr(torch, name, None), torch.dtype):
            return found
        if f"{module}.{name}" not in _NAMES:
            raise ForeignMetadataError(f"it names {module}.{name}, which no checkpoint of tensors holds")
        # A class of this name alone: a pickle can change the classes that it is given.
        return type("_Noted", (_Note,), {"name": name})


def read_metadata(path: Path, files: Collection[str]) -> Metadata:
    """Read `path`; what it says of the tensors must lie in `files`, the names of files beside it.

    Raises ForeignMetadataError.
    """
    try:
        with open(path, "rb") as file:
            stored = _state(_Notes(file).load(), "Metadata")
        tensors: dict[str, Any] = {
            _typed(name, str): _tensor(value) for name, value in stored["state_dict_metadata"].items()
        }
        places = {_index(key): _place(value, files) for key, value in stored["storage_data"].items()}
    except ForeignMetadataError as error:
        raise ForeignMetadataError(f"{path} is not read: {error}") from None
    except Exception as error:  # a pickle of anything may raise anything
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ForeignMetadataError(f"{path} is no list of a checkpoint's tensors ({said})") from None
    return Metadata(state_dict_metadata=tensors, storage_data=places)


class Reader(FileSystemReader):
    """Reads the tensors of a checkpoint by metadata that was read before."""

    def __init__(self, path: Path, metadata: Metadata):
        super().__init__(path)
        self._metadata = metadata

    # Without torch's argument `rank`: where it can be given, torch looks for other files when this one fails.
    def read_metadata(self) -> Metadata:  # type: ignore[override]
        return self._metadata


def _tensor(value: Any) -> TensorStorageMetadata:
    stored = _state(value, "TensorStorageMetadata")
    dtype = _typed(_noted(stored["properties"], "TensorProperties").state[0], torch.dtype)
    chunks = [_state(chunk, "ChunkStorageMetadata") for chunk in _typed(stored["chunks"], list)]
    return TensorStorageMetadata(
        TensorProperties(dtype=dtype),
        _size(stored["size"]),
        [ChunkStorageMetadata(_size(chunk["offsets"]), _size(chunk["sizes"])) for chunk in chunks],
    )


def _index(value: Any) -> MetadataIndex:
    stored = _state(value, "MetadataIndex")
    offset, index = stored.get("offset"), stored.get("index")
    return MetadataIndex(
        _typed(stored["fqn"], str),
        None if offset is None else _size(offset),
        None if index is None else _count(index),
    )


def _place(value: Any, files: Collection[str]) -> _StorageInfo:
    stored = _state(value, "_StorageInfo")
    name = _typed(stored["relative_path"], str)
    if name not in files:
        raise ForeignMetadataError(f"it has a tensor in {name!r}, which is no file of this checkpoint")
    if stored.get("transform_descriptors"):
        raise ForeignMetadataError(
            f"it has a tensor in {name!r} that {stored['transform_descriptors']} changed"
        )
    return _StorageInfo(name, _count(stored["offset"]), _count(stored["length"]))


def _noted(value: Any, name: str) -> _Note:
    if not isinstance(value, _Note) or value.name != name:
        found = getattr(value, "name", type(value).__name__)
        raise ForeignMetadataError(f"it has a {found} in the place of a {name}")
    return value


def _state(value: Any, name: str) -> dict[str, Any]:
    return _typed(_noted(value, name).state, dict)


def _size(value: Any) -> torch.Size:
    (sides,) = _noted(value, "Size").arguments
    return torch.Size([_count(side) for side in sides])


def _count(value: Any) -> int:
    if _typed(value, int) < 0:
        raise ForeignMetadataError(f"it has {value} in the place of a size")
    return value


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ForeignMetadataError(f"it has a {type(value).__name__} in the place of a {kind.__name__}")
    return value
