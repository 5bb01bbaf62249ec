"""Cut patches on disk: a clip that is looked at again, by another head, epoch or round, is not decoded again.

    cache = PatchCache("out/cache", processor)
    cache(clip)["pixel_values_videos"]          # (K, C*p*p), what the processor gives

Choosing and cutting the patches of a small clip takes longer than encoding them, and both depend on nothing
but the file and the settings. A file of the cache is named by the digest of both; it holds the patches as
bytes (C*p*p a patch) and their positions, and appears whole or not at all.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from ..modeling.video_processing_onevision import OneVisionVideoProcessor

_COLOUR = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "return_metadata")


class PatchCache:
    """`processor(clip)` for one clip, kept in `folder`.

    Args:
        settings: arguments of every call of the processor.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, processor: OneVisionVideoProcessor, **settings: Any):
        self.folder, self.processor, self.settings = Path(folder), processor, settings
        self.folder.mkdir(parents=True, exist_ok=True)
        known = {name: getattr(processor, name, None) for name in processor.valid_kwargs.__annotations__}
        chosen = {name: value for name, value in (known | settings).items() if name not in _COLOUR}
        if settings.get("num_patches") is not None:
            chosen["keep_ratio"] = None  # as the processor does: one budget replaces the other
        self._settings = json.dumps(chosen, sort_keys=True, default=dict).encode()
        p = processor
        factor = p.rescale_factor if p.do_rescale else 1.0
        mean, std = (p.image_mean, p.image_std) if p.do_normalize else (0.0, 1.0)
        # The arithmetic of the processor's own cutting, so that a cached patch is the same to the bit.
        self._scale = (np.full(3, factor) / np.asarray(std)).astype(np.float32)[:, None]
        self._offset = (-np.asarray(mean) / np.asarray(std) * np.ones(3)).astype(np.float32)[:, None]

    def __call__(self, clip: str | bytes) -> dict[str, np.ndarray]:
        """`pixel_values_videos` (K, C*p*p) float32 and `patch_positions` (K, 3) int64 of one clip.

        Raises:
            VideoReadError: it cannot be read.
        """
        path = self._path(clip)
        try:
            found = load_file(path)
        except FileNotFoundError:
            found = self._cut(clip)
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_bytes(save(found))
            os.replace(temporary, path)
        levels = found["patches"].astype(np.float32).reshape(len(found["patches"]), 3, -1)
        patches = (levels * self._scale + self._offset).reshape(len(levels), -1)
        return {"pixel_values_videos": patches, "patch_positions": found["positions"].astype(np.int64)}

    def _cut(self, clip: str | bytes) -> dict[str, np.ndarray]:
        settings = {"do_rescale": False, "do_normalize": False, **self.settings}
        cut = self.processor(clip, return_tensors="np", **settings)
        return {
            "patches": cut["pixel_values_videos"][0].astype(np.uint8),
            "positions": cut["patch_positions"][0].astype(np.int16),
        }

    def _path(self, clip: str | bytes) -> Path:
        content = clip if isinstance(clip, bytes) else Path(clip).read_bytes()
        name = hashlib.sha256(self._settings + hashlib.sha256(content).digest()).hexdigest()
        return self.folder / f"{name[:32]}.safetensors"
