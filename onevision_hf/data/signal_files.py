"""Codec signals of a video's frames in a file, written frame by frame.

    count = write_signals("clip.npz", frames, count=len(reader))
    np.load("clip.npz")["vectors"]        # (T, H/4, W/4, 2)

Arrays are filled on the disk beside the file, so a whole film needs no more memory than a frame; what is
finished is put into the file, which appears when it is whole.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from ..modeling.codec_signal_reader import FrameSignals

SUFFIXES = (".npz", ".safetensors")
# The writer of safetensors takes all tensors at once.
MOST_BYTES = 1 << 30
MAPS = ("vectors", "residual", "age")
COLUMNS = {
    "frame_ids": ("frame_id", np.int64),
    "times": ("time", np.float64),
    "packet_sizes": ("packet_size", np.int64),
    "picture_sizes": ("picture_size", np.int64),
    "is_damaged": ("is_damaged", np.bool_),
}


def check_suffix(path: str | Path) -> Path:
    """`path` as a Path.

    Raises:
        ValueError: signals are not written into files of that name.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: signals are written as {' or '.join(SUFFIXES)}, found '{path.suffix}'")
    return path


def write_signals(path: str | Path, frames: Iterable[FrameSignals], count: int) -> dict[str, Any]:
    """Write the signals of frames.

    Args:
        path: .npz, or .safetensors up to a gigabyte, which is held in memory at the end; the folder is made
            if it is missing. Besides the maps there are `frame_ids`, `times`, `packet_sizes`,
            `picture_sizes` and `is_damaged`, and as text (of safetensors in the metadata) `picture_types`, a
            letter a frame, `vector_unit`, and `signal`, JSON: how each was obtained in the first picture that
            is not intra coded.
        frames: what `iter_codec_signals` gives.
        count: number of frames.

    Returns:
        name -> shape of the arrays, and the texts.

    Raises:
        ValueError: another suffix; more than safetensors takes; a picture larger than the first.
    """
    path = check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as name:
        folder = Path(name)
        texts = _fill(folder, path, frames, count)
        arrays = {file.stem: np.load(file, mmap_mode="r") for file in sorted(folder.glob("*.npy"))}
        whole = folder / path.name
        if path.suffix.lower() == ".npz":
            for key, text in texts.items():
                np.save(folder / f"{key}.npy", np.array(text))
            with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
                for file in sorted(folder.glob("*.npy")):
                    archive.write(file, file.name)
        else:
            from safetensors.numpy import save_file

            save_file({key: np.asarray(array) for key, array in arrays.items()}, whole, metadata=texts)
        os.replace(whole, path)
        return {key: list(array.shape) for key, array in arrays.items()} | texts


def _fill(folder: Path, path: Path, frames: Iterable[FrameSignals], count: int) -> dict[str, str]:
    """The arrays as files of the folder; returns the texts."""
    arrays: dict[str, Any] = {}
    texts = {"picture_types": "", "vector_unit": "reference", "signal": "{}"}
    is_told = False
    for place, frame in enumerate(frames):
        maps = {name: values for name in MAPS if (values := getattr(frame, name)) is not None}
        if not arrays:
            planned = 4 * count * sum(values.size for values in maps.values())
            if path.suffix.lower() == ".safetensors" and planned > MOST_BYTES:
                raise ValueError(
                    f"{path}: {planned / 1e9:.1f} GB of signals, and a file of safetensors is written out of "
                    "memory: name a .npz, which is written frame by frame, or take fewer frames"
                )
            for name, (field, dtype) in COLUMNS.items():
                shape = (count, *np.shape(getattr(frame, field)))
                arrays[name] = open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
            for name, values in maps.items():
                shape = (count, *values.shape)
                arrays[name] = open_memmap(folder / f"{name}.npy", "w+", np.float32, shape)
        for name, (field, _) in COLUMNS.items():
            arrays[name][place] = getattr(frame, field)
        for name, values in maps.items():
            row = arrays[name][place]
            rows, columns = values.shape[:2]
            if rows > row.shape[0] or columns > row.shape[1]:
                height, width = frame.picture_size
                raise ValueError(
                    f"{path}: frame {frame.frame_id} is {width} x {height}, larger than the first: signals "
                    "of a stream that grows cannot be written as one array"
                )
            row[:] = np.nan
            row[:rows, :columns] = values
        texts["picture_types"] += frame.picture_type
        if not is_told:
            texts |= {"vector_unit": frame.vector_unit, "signal": json.dumps(frame.signal)}
            is_told = frame.picture_type not in ("I", "?")
    for array in arrays.values():
        array.flush()
    return texts
