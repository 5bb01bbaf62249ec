"""Patch shards in training: the samples of `VideoTransform`, without decoding."""

from typing import Any

import numpy as np

from ..data.patch_settings import PatchSettings
from ..data.patch_shards import PatchRow
from ..modeling.patch_cutting import pixel_scale
from ..modeling.video_processing_onevision import virtual_times
from .mixture import Sample
from .schema import ConfigError
from .tasks.cluster_config import HeadConfig
from .transforms import VideoTransform, pad_labels


class PatchTransform(VideoTransform):
    """What `VideoTransform` gives in its mode `codec`, from examples of `PatchShards` to the bit; others are
    videos.

    Args:
        head: its settings.
        patch_size: of the encoder, pixels.
        temporal_size: of the model's time grid; None keeps the frame's number.
    """

    def __init__(self, head: HeadConfig, patch_size: int, temporal_size: int | None):
        super().__init__(head, patch_size, temporal_size)
        self.temporal_size = temporal_size
        self._scale, self._offset = pixel_scale(self._processor.resolve_settings({}))

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        if not isinstance(example, PatchRow):
            return super().__call__(example, rng, position)
        count, channels = example.patches.shape[:2]
        pixels = example.patches.reshape(count, channels, -1)
        patches = np.empty(pixels.shape, np.float32)
        for channel in range(channels):
            patches[:, channel] = pixels[:, channel] * self._scale[channel] + self._offset[channel]
        positions = example.positions.astype(np.int64)
        positions[:, 0] = virtual_times(example.num_frames, self.temporal_size)[positions[:, 0]]
        return {
            "pixel_values_videos": patches.reshape(count, -1),
            "patch_positions": positions,
            "labels": pad_labels(example.labels, self.head.max_labels),
        }


def check_patch_shards(name: str, head: HeadConfig, patch_size: int, found: PatchSettings) -> None:
    """Raise ConfigError where shards do not hold what the head would cut from the videos.

    Args:
        name: of the head.
        head: its settings.
        patch_size: of the encoder, pixels.
        found: the settings that the shards were made with.
    """
    at = f"cluster.heads.{name}"
    if head.kind != "video":
        raise ConfigError(f"{at}.kind is {head.kind!r}, but its source holds patches of videos")
    if head.codec != 1:
        raise ConfigError(
            f"{at}.codec is {head.codec:g}: patch shards hold what the codec selects and no whole frames, so "
            "only codec=1, uniform=0, collage=0 can be read from them; a second head may read the videos"
        )
    expected = PatchSettings(head.num_frames, head.size, patch_size, head.num_patches, camera=head.camera)
    wrong = [
        f"{field} {theirs!r} instead of {ours!r}"
        for field, ours in expected.to_dict().items()
        if (theirs := getattr(found, field)) != ours
    ]
    if wrong:
        raise ConfigError(
            f"{at}.source: its shards were made with {', '.join(wrong)}; make them again with the settings "
            "of the training, or change the head's"
        )
