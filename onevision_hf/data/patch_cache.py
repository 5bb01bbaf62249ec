"""Cut patches on disk: a clip that is looked at again, by another head, epoch or round, is not decoded again.

    cache = PatchCache("out/cache", processor.patchify_config())
    cache(clip)["pixel_values_videos"]          # (K, C*p*p), what the processor gives

Choosing and cutting the patches of a small clip takes longer than encoding them, and both depend on nothing
but the file and the settings. A file of the cache is named by the digest of both; it holds the patches as
bytes (C*p*p a patch) and their positions, and appears whole or not at all.
"""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from ..modeling.frame_sequence import open_video
from ..modeling.patch_cutting import CHANNELS, STORED
from ..modeling.patchify_config import PatchifyConfig
from .tensor_files import seal, unseal


class PatchCache:
    """The patches of a clip, kept in `folder`. One that has fewer than `num_patches` gives all.

    Args:
        folder: made where there is none.
        config: what is kept of a clip.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, config: PatchifyConfig):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = config
        # Stored as bytes, and scaled when they are read: a cache serves processors of any colours.
        self._stored = dataclasses.replace(self.config, pixels=STORED)
        self._settings = json.dumps(self._stored.recorded(), sort_keys=True).encode()

    def __call__(self, clip: str | bytes) -> dict[str, np.ndarray]:
        """`pixel_values_videos` (K, C*p*p) float32 and `patch_positions` (K, 3) int64 of one clip.

        Raises:
            VideoReadError: it cannot be read.
            DamagedError: the file of the cache is not what was written.
        """
        path = self._path(clip)
        try:
            found = unseal(path)
        except FileNotFoundError:
            found = self._cut(clip)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_bytes(seal(found))
            os.replace(temporary, path)
        levels = found["patches"].reshape(len(found["patches"]), CHANNELS, -1)
        patches = self.config.pixels.scale(levels).reshape(len(levels), -1)
        return {"pixel_values_videos": patches, "patch_positions": found["positions"].astype(np.int64)}

    def _cut(self, clip: str | bytes) -> dict[str, np.ndarray]:
        with open_video(clip) as reader:
            cut = self._stored.within(reader).patchify(reader)
        return {"patches": cut.patches.astype(np.uint8), "positions": cut.positions.astype(np.int16)}

    def _path(self, clip: str | bytes) -> Path:
        content = clip if isinstance(clip, bytes) else Path(clip).read_bytes()
        name = hashlib.sha256(self._settings + hashlib.sha256(content).digest()).hexdigest()
        return self.folder / f"{name[:32]}.safetensors"
