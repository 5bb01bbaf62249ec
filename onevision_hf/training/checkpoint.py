"""Checkpoints that are whole or not there, and that any number of processes can read.

    step-00000120/
      model-*.distcp ...   torch.distributed.checkpoint: weights, moments, split matrices, average
      state.json           the step, the config, what the run has counted
      manifest.json        size and SHA-256 of every file above
    latest                 the name of the newest whole folder

A folder is written under another name, synced and renamed, and only then named in `latest`; a process
killed at any moment leaves the one before as it was. Reading checks every file first, opens none outside of
the folder, whatever `latest` and links in it say, and runs nothing that a file says (`stored_metadata.py`).
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from ..jobs.processes import Processes
from ..jobs.run_folder import sync_folder
from .optimisation import Average, Optimizers
from .stored_metadata import NAME as METADATA
from .stored_metadata import ForeignMetadataError, Reader, read_metadata

LATEST, STATE, MANIFEST = "latest", "state.json", "manifest.json"
_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(ValueError):
    """A checkpoint that is not whole, or does not fit the run."""


def all_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in folder.glob("step-*") if _NAME.fullmatch(p.name) and _is_whole(p))


def _is_whole(path: Path) -> bool:
    return (path / MANIFEST).is_file() and not (path / MANIFEST).is_symlink() and not path.is_symlink()


def latest_checkpoint(folder: Path) -> Path | None:
    """What `latest` names, a folder beside it. Without it the newest that is whole: a run that was killed
    while it saved its first has none, and what was finished is not begun again.

    Raises CheckpointError when that is not there, or leads elsewhere.
    """
    pointer = folder / LATEST
    if not os.path.lexists(pointer):
        return next(reversed(all_checkpoints(folder)), None)
    remaining = f"remaining: {[p.name for p in all_checkpoints(folder)] or 'none'}"
    if pointer.is_symlink() or not pointer.is_file():
        raise CheckpointError(
            f"{pointer} is no file of its own; write a checkpoint's name into one; {remaining}"
        )
    with open(pointer, "rb") as file:
        name = file.read(200).decode("utf-8", "replace").strip()
    if not _NAME.fullmatch(name):
        raise CheckpointError(
            f"{pointer} names {name!r}, which is no checkpoint (step-NNNNNNNN); {remaining}"
        )
    found = folder / name
    if found.is_symlink():
        raise CheckpointError(f"{pointer} names {name}, a link to {os.readlink(found)}; {remaining}")
    if not _is_whole(found):
        raise CheckpointError(f"{pointer} names {name}, which is not there; {remaining}")
    return found


def checkpoint_of(folder: Path, step: int) -> Path:
    """The checkpoint of a step. Raises CheckpointError when there is none."""
    found = folder / f"step-{step:08d}"
    if not _is_whole(found):
        there = ", ".join(str(int(path.name[5:])) for path in all_checkpoints(folder)) or "none"
        raise CheckpointError(f"{folder} has no whole checkpoint of step {step}; there are: {there}")
    return found


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Path:
    """Write step-NNNNNNNN; every process calls this with its parts of the same tensors.

    Args:
        folder: of the run's checkpoints.
        step: number of the step.
        tensors: by name.
        state: everything else, as JSON takes it.
        keep: how many checkpoints stay.

    Raises:
        OSError: on every process, when it cannot be written; what was there stays.
    """
    rank = Processes.current().rank
    target, aside = folder / f"step-{step:08d}", folder / f".step-{step:08d}.partial"

    def begin() -> None:
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in folder.glob(".step-*.partial"):
                shutil.rmtree(stale)
            aside.mkdir()

    def write() -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            writer = FileSystemWriter(aside, sync_files=True, single_file_per_rank=True, thread_count=1)
            dcp.save(dict(tensors), storage_writer=writer)
        return {p.name: _digest(p) for p in sorted(aside.glob(f"__{rank}_*"))}

    def finish() -> None:
        if rank == 0:
            _complete(aside, {k: v for files in digests for k, v in files.items()}, state)
            _publish(folder, aside, target, keep)

    try:
        _together(begin, aside)
        digests = _together(write, aside)
        _together(finish, aside)
    except OSError as error:
        if rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        kept = latest_checkpoint(folder)
        raise OSError(
            f"the checkpoint of step {step} could not be written: {error}; "
            f"{kept.name + ' stays the latest' if kept else 'there is none before it'}"
        ) from error
    return target


def _together(work: Callable[[], Any], aside: Path) -> list[Any]:
    """Run something on every process and give all results; an error on one is an OSError on all."""
    result, reason, cause = None, None, None
    try:
        result = work()
    except (Exception, CheckpointException) as error:  # torch's is no Exception
        reason, cause = _reason(error, aside), error
    everyone = Processes.current().gather((result, reason))
    failed = next((reason for _, reason in everyone if reason is not None), None)
    if failed is not None:
        raise OSError(failed) from cause
    return [result for result, _ in everyone]


def _complete(aside: Path, digests: dict[str, Any], state: Mapping[str, Any]) -> None:
    _write(aside / STATE, json.dumps(state, indent=1))
    for name in (METADATA, STATE):
        digests[name] = _digest(aside / name)
    _write(aside / MANIFEST, json.dumps(digests, indent=1))
    sync_folder(aside)


def _publish(folder: Path, aside: Path, target: Path, keep: int) -> None:
    if target.exists():  # whole, but `latest` was never written: that run was killed in between
        shutil.rmtree(target)
    os.replace(aside, target)
    sync_folder(folder)
    (folder / f".{LATEST}").unlink(missing_ok=True)  # of a run that was killed, or a link to somewhere
    _write(folder / f".{LATEST}", target.name)
    os.replace(folder / f".{LATEST}", folder / LATEST)
    sync_folder(folder)
    for old in all_checkpoints(folder)[:-keep]:
        if old == target:
            continue
        gone = folder / f".{old.name}.partial"
        os.replace(old, gone)  # so that a half-deleted folder is never taken for a checkpoint
        shutil.rmtree(gone)


def load(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Fill `tensors` in place from a checkpoint of any number of processes, and give its state.

    Raises CheckpointError, on every process, when a file is missing or damaged or something does not fit, or
    when a file holds what no checkpoint does.
    """
    processes = Processes.current()
    manifest: dict[str, Any] = {}

    def verify() -> None:
        manifest.update(_manifest(path))
        for name in sorted(manifest)[processes.rank :: processes.world]:
            _verify(path / name, manifest[name])

    try:
        _together(verify, path)
    except OSError as error:
        others = [p.name for p in all_checkpoints(path.parent) if p != path]
        raise CheckpointError(
            f"{path} is damaged: {error}; to go on from another, write its name into "
            f"{path.parent / LATEST}: {', '.join(others) or 'there is none'}"
        ) from error
    try:
        metadata = read_metadata(path / METADATA, manifest)
    except ForeignMetadataError as error:
        raise CheckpointError(str(error)) from error
    stored: dict[str, Any] = dict(metadata.state_dict_metadata)
    if stored.keys() != tensors.keys():
        missing, extra = sorted(tensors.keys() - stored.keys()), sorted(stored.keys() - tensors.keys())
        raise CheckpointError(
            f"{path} does not fit this run: it lacks {missing[:3]}, and has besides {extra[:3]} "
            f"({len(missing)} and {len(extra)} in all); use the run's own config"
        )
    for name, tensor in tensors.items():
        if tuple(stored[name].size) != tuple(tensor.shape):
            raise CheckpointError(
                f"{path}: {name} is {tuple(stored[name].size)}, this run has {tuple(tensor.shape)}"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dcp.load(tensors, storage_reader=Reader(path, metadata))
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            said = " ".join(str(causes[0] if causes else error).split())
            raise CheckpointError(f"{path} holds tensors that cannot be read: {said}") from error
    return json.loads((path / STATE).read_text())


def _manifest(path: Path) -> dict[str, Any]:
    """The files of a checkpoint by name, with their sizes and sums; all in its own folder."""
    manifest = json.loads((path / MANIFEST).read_text())
    for name in manifest:
        if Path(name).name != name:
            raise CheckpointError(f"{MANIFEST} names {name!r}, which is no file's name")
    for name in (METADATA, STATE):
        if name not in manifest:
            raise CheckpointError(f"{MANIFEST} does not name {name}")
    return manifest


def gather_tensors(
    model: torch.nn.Module, sharded: Mapping[str, Any], optimizers: Optimizers, average: Average | None
) -> dict[str, Tensor]:
    """Everything that training changes, by name, as the live tensors: what is saved and filled.

    A split matrix and its moments become DTensors over all processes.

    Args:
        model: that is trained.
        sharded: name -> module with a matrix of centers that is split over the processes.
        optimizers: of both.
        average: the moving average of the weights, where one is kept.
    """
    tensors = {f"model.{name}": p.detach() for name, p in model.state_dict(keep_vars=True).items()}
    if average is not None:
        tensors |= {f"average.{name}": p for name, p in average.weights.items()}
    for group in optimizers.model.param_groups:
        for parameter in group["params"]:
            for key, value in state_of(optimizers.model, parameter).items():
                tensors[f"optimizer.{optimizers.names[id(parameter)]}.{key}"] = value
    mesh = _mesh()
    for name, module in sharded.items():
        tensors[f"sharded.{name}.centers"] = _cut(module.centers.detach(), module.num_classes, mesh)
        for key, value in state_of(optimizers.sharded[name], module.centers).items():
            rows = value.ndim > 0
            tensors[f"sharded.{name}.{key}"] = _cut(value, module.num_classes, mesh) if rows else value
    return tensors


def state_of(optimizer: Any, parameter: Tensor) -> dict[str, Tensor]:
    """The optimizer's state of a parameter, made where no step has made it yet."""
    state = optimizer.state[parameter]
    if not state:
        state.update(optimizer.empty_state(parameter))
    return state


def _mesh() -> DeviceMesh | None:
    size = Processes.current().world
    if size == 1:
        return None
    return init_device_mesh("cuda" if dist.get_backend() == "nccl" else "cpu", (size,))


def _cut(local: Tensor, rows: int, mesh: DeviceMesh | None) -> Tensor:
    if mesh is None:
        return local
    shape = (rows, *local.shape[1:])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        local, mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride
    )


def _reason(error: BaseException, aside: Path) -> str:
    """One line that names the file. torch wraps what each process raised."""
    failures = [(rank, cause) for rank, (cause, _) in getattr(error, "failures", {}).items()]
    rank, cause = failures[0] if failures else (0, error)
    found: BaseException | None = cause
    file = aside / f"__{rank}_0.distcp" if failures else aside
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if isinstance(found, OSError):
        return f"{found.filename or file}: {found.strerror or found}"
    said = " ".join(str(cause).split())
    if "inline_container" in said:  # a write that took fewer bytes than it was given, and no reason
        said = "cut off: a full disk, a quota or a limit of file sizes"
    return f"{file}: {said}"


def _digest(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _verify(path: Path, expected: Mapping[str, Any]) -> None:
    if path.is_symlink():
        raise CheckpointError(f"{path.name} is a link to {os.readlink(path)}")
    if not path.is_file():
        raise CheckpointError(f"{path.name} is missing")
    if path.stat().st_size != expected["size"]:
        raise CheckpointError(f"{path.name} has {path.stat().st_size} bytes instead of {expected['size']}")
    if _digest(path) != expected:
        raise CheckpointError(f"{path.name} is not what was written (its SHA-256 differs)")


def _write(path: Path, text: str) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
