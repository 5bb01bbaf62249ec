"""Sharded centers as one `centers.safetensors`, written and read a shard at a time.

The file is an ordinary safetensors file with the tensor `centers` (C, D). The first process writes the shards
as they arrive, so no process holds more than two of them.
"""

import json
import os
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .collectives import Processes

KEY = "centers"
_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def save_rows(path: str | os.PathLike, local: Tensor, total: int, processes: Processes) -> None:
    """Write the (total, D) matrix whose rows the processes own; every process calls this.

    The file is written aside and renamed, so a file under this name is whole. Raises OSError, on every
    process, when it cannot be written.
    """
    path = Path(path)
    if processes.rank == 0:
        error = _receive_and_write(path, local.detach(), total, processes)
    else:
        error = None
        if local.shape[0]:
            dist.send(local.detach().contiguous(), processes.global_rank(0), group=processes.group)
    failed = processes.all_reduce_(torch.tensor(float(error is not None), device=local.device))
    if error is not None:
        raise OSError(f"{path}: the centers could not be written: {error}") from error
    if failed.item():
        raise OSError(f"{path}: the centers could not be written, the first process says why")


def _receive_and_write(path: Path, local: Tensor, total: int, processes: Processes) -> OSError | None:
    shape = (total, local.shape[1])
    size = total * local.shape[1] * local.element_size()
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            KEY: {"dtype": _TYPES[local.dtype], "shape": shape, "data_offsets": [0, size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    aside = path.with_name(path.name + ".partial")
    error: OSError | None = None
    file = None
    try:
        file = open(aside, "wb")  # noqa: SIM115 (an error must not keep the others waiting)
        file.write(len(header).to_bytes(8, "little") + header)
    except OSError as problem:
        error = problem
    for rank in range(processes.size):
        rows = len(processes.owned_rows(total, rank))
        if not rows:
            continue
        block = local
        if rank:  # received also after an error: the sender waits
            block = local.new_empty(rows, local.shape[1])
            dist.recv(block, processes.global_rank(rank), group=processes.group)
        if file is not None and error is None:
            try:
                file.write(block.contiguous().cpu().view(torch.uint8).numpy().data)
            except OSError as problem:
                error = problem
    try:
        if file is not None:
            file.close()
        if error is None:
            os.replace(aside, path)
    except OSError as problem:
        error = error or problem
    if error is not None:
        with suppress(OSError):
            aside.unlink()
    return error


def load_rows(path: str | os.PathLike, rows: range, shape: tuple[int, int]) -> Tensor:
    """The `rows` of the tensor `centers` in `path`, which must have `shape`.

    Raises ValueError when the file is not such a file, naming what it holds.
    """
    try:
        with safe_open(path, framework="pt") as file:
            if KEY not in file.keys():  # noqa: SIM118 (safe_open is no dict)
                raise ValueError(f"{path}: no tensor {KEY!r}; it holds {', '.join(sorted(file.keys()))}")
            stored = file.get_slice(KEY)
            found = tuple(stored.get_shape())
            if found != shape:
                raise ValueError(
                    f"{path}: {found[0]} centers of {found[-1]} dimensions, expected {shape[0]} of "
                    f"{shape[1]}; build the loss with the file's numbers or cluster again"
                )
            return stored[rows.start : rows.stop]
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
