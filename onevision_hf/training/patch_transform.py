"""Patch shards in training: the samples of `VideoTransform`, without decoding."""

from typing import Any

import numpy as np

from ..data.patch_shards import PatchExample
from ..modeling.patchify_config import PatchifyConfig, virtual_times
from .mixture import Sample
from .schema import ConfigError
from .tasks.cluster_config import HeadConfig
from .transforms import VideoTransform, pad_labels


class PatchTransform(VideoTransform):
    """What `VideoTransform` gives in its mode `codec`, from examples of `PatchShards` to the bit; others are
    videos."""

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        if not isinstance(example, PatchExample):
            return super().__call__(example, rng, position)
        count, channels = example.patches.shape[:2]
        patches = self.config.pixels.scale(example.patches.reshape(count, channels, -1))
        positions = example.positions.astype(np.int64)
        positions[:, 0] = virtual_times(example.num_frames, self.config.rope_temporal_size)[positions[:, 0]]
        return {
            "pixel_values_videos": patches.reshape(count, -1),
            "patch_positions": positions,
            "labels": pad_labels(example.labels, self.head.max_labels),
        }


def check_patch_shards(name: str, head: HeadConfig, config: PatchifyConfig, found: PatchifyConfig) -> None:
    """Refuse shards that do not hold what the head would cut from the videos.

    Args:
        name: of the head.
        head: its shares of the modes.
        config: what it shows of a video.
        found: what the shards were cut with.

    Raises:
        ConfigError: they differ, each difference named.
    """
    at = f"cluster.heads.{name}"
    if head.kind != "video":
        raise ConfigError(f"{at}.kind is {head.kind!r}, but its source holds patches of videos")
    if head.codec != 1:
        raise ConfigError(
            f"{at}.codec is {head.codec:g}: patch shards hold what the codec selects and no whole frames, so "
            "only codec=1, uniform=0, collage=0 can be read from them; a second head may read the videos"
        )
    wrong = [
        f"{setting} {theirs!r} instead of {ours!r}"
        for setting, (ours, theirs) in config.as_stored().differences(found).items()
    ]
    if wrong:
        raise ConfigError(
            f"{at}.source: its shards were made with {', '.join(wrong)}; make them again with the settings "
            f"of the training, or change {at}.processor"
        )
