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

from .collectives import Group, all_reduce_, global_rank, owned_rows, rank_in, size_of

KEY = "centers"
_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def save_rows(path: str | os.PathLike, local: Tensor, total: int, group: Group) -> None:
    """Write the (total, D) matrix whose rows the processes own; every process calls this.

    The file is written under another name and renamed, so a file under this name is whole. Raises OSError, on
    every process, when it cannot be written.

    Args:
        path: of the safetensors file.
        local: (c, D), the rows of this process.
        total: rows of the whole matrix.
        group: the processes that share the matrix.
    """
    path = Path(path)
    if rank_in(group) == 0:
        error = _receive_and_write(path, local.detach(), total, group)
    else:
        error = None
        if local.shape[0]:
            dist.send(local.detach().contiguous(), global_rank(0, group), group=group)
    failed = all_reduce_(torch.tensor(float(error is not None), device=local.device), group)
    if error is not None:
        raise OSError(f"{path}: the centers could not be written: {error}") from error
    if failed.item():
        raise OSError(f"{path}: the centers could not be written, the first process says why")


def _receive_and_write(path: Path, local: Tensor, total: int, group: Group) -> OSError | None:
    shape = (total, local.shape[1])
    size = total * local.shape[1] * local.element_size()
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            KEY: {"dtype": _TYPES[local.dtype], "shape": shape, "data_offsets": [0, size]},
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    temporary = path.with_name(path.name + ".partial")
    error: OSError | None = None
    file = None
    try:
        file = open(temporary, "wb")  # noqa: SIM115 (an error must not keep the others waiting)
        file.write(len(header).to_bytes(8, "little") + header)
    except OSError as problem:
        error = problem
    for rank in range(size_of(group)):
        rows = len(owned_rows(total, group, rank))
        if not rows:
            continue
        block = local
        if rank:  # received also after an error: the sender waits
            block = local.new_empty(rows, local.shape[1])
            dist.recv(block, global_rank(rank, group), group=group)
        if file is not None and error is None:
            try:
                file.write(block.contiguous().cpu().view(torch.uint8).numpy().data)
            except OSError as problem:
                error = problem
    try:
        if file is not None:
            file.close()
        if error is None:
            os.replace(temporary, path)
    except OSError as problem:
        error = error or problem
    if error is not None:
        with suppress(OSError):
            temporary.unlink()
    return error


def load_rows(path: str | os.PathLike, rows: range, shape: tuple[int, int]) -> Tensor:
    """The `rows` of the tensor `centers` in `path`, which must have `shape`.

    Raises ValueError when the file is not such a file, naming what it holds.

    Args:
        path: of the safetensors file.
        rows: which to read.
        shape: (C, D) that the file's tensor must have.
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
