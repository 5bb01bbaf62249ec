"""Tensors in files of safetensors: whole files that know what was written, and where in a file one lies.

    path.write_bytes(seal({"patches": patches}))
    unseal(path)["patches"]      # an error if a byte has changed

Caches and states of unfinished runs are sealed; the shards of run folders have digests beside them
(`jobs.digests`).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..jobs.digests import DamagedError, FolderDigests, file_now, is_seen, remembered, see
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
    now = file_now(path, os.stat(path))
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            own = (file.metadata() or {}).get(SEAL)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise _broken(path, str(error)) from None
    if own is not None and not is_seen(now):
        if own != _digest(tensors):
            raise _broken(path, "its tensors are not those that were written")
        see(now)
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
    if run.digests.table is None:
        return path
    made, now = run.digests.made, file_now(path, os.stat(path))
    places = _places(made, shard)
    for name, of in names.items():
        if name in places:
            number, start, stop = places[name]
            if of is not None:
                number, size = of[0], (stop - start) // of[1]
                start, stop = start + number * size, start + (number + 1) * size
            own = (now, made, None if of is None else name)
            if not is_seen(own, number):
                run.digests.compare(shard, start, stop)
                see(own, number)
    return path


@remembered
def _places(made: tuple[str, str | None], shard: str) -> dict[str, tuple[int, int, int]]:
    """The number of each tensor in a shard, its first byte, and the one after its last."""
    digests = FolderDigests(made[0])
    with open(digests.check(shard, 0, 8), "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        digests.compare(shard, 8, 8 + length)
        header = json.loads(file.read(length))
    first, header = 8 + length, {name: of for name, of in header.items() if name != "__metadata__"}
    return {
        name: (number, first + of["data_offsets"][0], first + of["data_offsets"][1])
        for number, (name, of) in enumerate(header.items())
    }
