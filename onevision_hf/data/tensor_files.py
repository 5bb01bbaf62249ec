"""Tensors in files of safetensors: whole files that know what was written, and where in a file one lies.

    path.write_bytes(seal({"patches": patches}))
    unseal(path)["patches"]      # an error if a byte has changed

Caches and states of unfinished runs are sealed; the shards of run folders have digests beside them
(`jobs.digests`).
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..jobs.digests import DamagedError
from ..jobs.run_folder import FinishedRun

SEAL = "xxh3"


def seal(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A file of tensors with a digest of their names, dtypes, shapes and values in its metadata."""
    whole = {name: np.asarray(values, order="C") for name, values in tensors.items()}
    return save(whole, {SEAL: _digest(whole)})


def unseal(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file that `seal` made; those of a file without a digest as they are.

    Raises:
        DamagedError: they are not those that were written.
        FileNotFoundError: there is no file.
    """
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            own = (file.metadata() or {}).get(SEAL)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _broken(path, str(error)) from None
    if own not in (None, _digest(tensors)):
        raise _broken(path, "its tensors are not those that were written")
    return tensors


def _digest(tensors: Mapping[str, np.ndarray]) -> str:
    whole = xxhash.xxh3_64()
    for name, values in sorted(tensors.items()):
        whole.update(f"{name} {values.dtype} {values.shape}\n".encode())
        whole.update(values.data)
    return whole.hexdigest()


def _broken(path: str | Path, what: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged: {what}; delete it (`rm {path}`), and what made it, called again, makes it again"
    )


def checked_rows(run: FinishedRun, shard: str, names: Mapping[str, tuple[int, int] | None]) -> Path:
    """The path of a shard of tensors, after those that are to be read were compared with their digests.

    Args:
        run: the folder.
        shard: name of the file.
        names: of the tensors that are read, as far as they are there: (row, rows) of which one row is read,
            or None for all of it.

    Raises:
        OSError, DamagedError: see `FinishedRun.file`.
    """
    path = run.unchanged() / shard
    if not run.has_digests:
        return path
    places = _places(run, shard)
    for name, of in names.items():
        if name in places:
            start, stop = places[name]
            if of is not None:
                size = (stop - start) // of[1]
                start, stop = start + of[0] * size, start + (of[0] + 1) * size
            run.file(shard, start, stop)
    return path


@functools.lru_cache(maxsize=64)
def _places(run: FinishedRun, shard: str) -> dict[str, tuple[int, int]]:
    """The first byte of each tensor in a shard, and the one after its last."""
    with open(run.file(shard, 0, 8), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        run.file(shard, 8, 8 + length)
        header = json.loads(file.read(length))
    first, header = 8 + length, {name: of for name, of in header.items() if name != "__metadata__"}
    return {
        name: (first + of["data_offsets"][0], first + of["data_offsets"][1]) for name, of in header.items()
    }
