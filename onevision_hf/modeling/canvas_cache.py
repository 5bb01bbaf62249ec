"""Canvases on disk: a video that is asked about again, in another question or epoch, is not read again.

    cache = CanvasCache("out/canvases")
    cache.get("clip.mp4", {"preset": "ov2", "target_canvas": 32}, choose)

A file of the cache is named by the digest of the video's content and of the settings, so a copy of a video
is found under any name, and one that was changed is chosen anew. It holds the canvases as they are, appears
whole or not at all, and is checked by its digest when a process reads it first.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from .codec_canvases import CodecCanvases
from .signal_settings import BITS_VERSION, SIGNALS_VERSION

VERSION = (1, BITS_VERSION, SIGNALS_VERSION)  # what the same settings choose of the same content
DIGEST = hashlib.sha256().digest_size
# What this process has compared: path, inode, time and size, so that a file in its place is compared too.
_SEEN: set[tuple[str, int, int, int]] = set()
MOST_SEEN = 100_000  # files; beyond, they are forgotten and compared again


class CanvasCache:
    """Canvases of files and of videos in memory, kept in `folder`.

    Args:
        folder: made where there is none.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, video: Any, settings: Mapping[str, Any], choose: Callable[[], CodecCanvases]
    ) -> CodecCanvases:
        """The canvases of a video, from the folder or chosen and kept.

        Args:
            video: a path of a file or bytes; others, whose content is not known ahead, are chosen each time.
            settings: what the canvases depend on besides the content.
            choose: makes them.

        Raises:
            VideoReadError: the video cannot be read.
        """
        digest = _digest_of(video)
        if digest is None:
            return choose()
        text = json.dumps([VERSION, digest, dict(sorted(settings.items()))])
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.canvases"
        if (found := _read(path)) is not None:
            return found
        chosen = choose()
        if not chosen.missing:  # the rest of a truncated file may come
            _write(path, chosen)
        return chosen


def _digest_of(video: Any) -> str | None:
    if isinstance(video, bytes):
        return hashlib.sha256(video).hexdigest()
    if isinstance(video, str | os.PathLike) and os.path.isfile(video):
        with open(video, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return None


def _read(path: Path) -> CodecCanvases | None:
    """What a file holds; None where there is none or its content is not what was written."""
    with contextlib.suppress(FileNotFoundError, SafetensorError):
        status, content = path.stat(), path.read_bytes()
        own = (str(path), status.st_ino, status.st_mtime_ns, status.st_size)
        if own in _SEEN or hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
            if len(_SEEN) >= MOST_SEEN:
                _SEEN.clear()
            _SEEN.add(own)
            found = load(content[DIGEST:])
            return CodecCanvases(found["pictures"], found["positions"], float(found["fps"][0]))
    return None


def _write(path: Path, canvases: CodecCanvases) -> None:
    arrays = {
        "pictures": np.ascontiguousarray(canvases.pictures),
        "positions": canvases.positions,
        "fps": np.array([canvases.fps]),
    }
    content = save(arrays)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(hashlib.sha256(content).digest() + content)
    os.replace(temporary, path)
