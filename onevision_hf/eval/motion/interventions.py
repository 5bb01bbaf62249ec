"""Test-time interventions on what a classifier of codec input is given, after the encoder paper's table 6.

The paper replaces half of the patches without motion by others of the same video and place, takes half of the
motion patches from another video, and shuffles positions; mirrored time is ours. What moves is known by the
codec's own energy: the upper half of a clip's kept patches, without the first frame, is called motion.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from .inputs import cut
from .pool import Pool
from .settings import SuiteSettings
from .training import InputData

Intervention = Callable[[InputData, Pool, SuiteSettings, np.random.Generator], InputData]


def replace_still(
    data: InputData, pool: Pool, settings: SuiteSettings, chance: np.random.Generator
) -> InputData:
    """Half of the patches of the first frame, which are not there for their motion, show what another frame
    of the same clip has in the same place.

    Args:
        data: codec input of the test clips.
        pool: the clips.
        settings: of the run.
        chance: what is drawn from.
    """
    patches, positions = data.patches.clone(), data.positions.numpy().astype(np.int64)
    elsewhere = positions.copy()
    first = positions[..., 0] == 0
    elsewhere[..., 0] = chance.integers(1, settings.clips.num_frames, first.shape)
    chosen = first & (chance.random(first.shape) < 0.5)
    other = torch.from_numpy(cut(pool, "test", elsewhere, settings.classifier.patch_size))
    mask = torch.from_numpy(chosen)
    patches[mask] = other[mask]
    return replace(data, patches=patches)


def foreign_motion(
    data: InputData, pool: Pool, settings: SuiteSettings, chance: np.random.Generator
) -> InputData:
    """Half of the patches beyond the first frame are those of another clip, in their order; places stay.

    Args:
        data: codec input of the test clips.
        pool: the clips.
        settings: of the run.
        chance: what is drawn from.
    """
    patches = data.patches.clone()
    mask = data.positions[..., 0] != 0
    mask &= torch.from_numpy(chance.random(mask.shape) < 0.5)
    patches[mask] = data.patches.roll(1, 0)[mask]
    return replace(data, patches=patches)


def shuffle_positions(
    data: InputData, pool: Pool, settings: SuiteSettings, chance: np.random.Generator
) -> InputData:
    """The places of a clip's patches change among themselves.

    Args:
        data: codec input of the test clips.
        pool: the clips.
        settings: of the run.
        chance: what is drawn from.
    """
    order = torch.from_numpy(np.argsort(chance.random(data.positions.shape[:2]), axis=1))
    return replace(data, positions=data.positions.gather(1, order[..., None].expand(-1, -1, 3)))


def mirror_time(
    data: InputData, pool: Pool, settings: SuiteSettings, chance: np.random.Generator
) -> InputData:
    """Frame t becomes T - t; the first stays, so that the classifier keeps its anchor.

    Args:
        data: codec input of the test clips.
        pool: the clips.
        settings: of the run.
        chance: what is drawn from.
    """
    positions = data.positions.clone()
    time = positions[..., 0]
    positions[..., 0] = torch.where(time == 0, time, settings.clips.num_frames - time)
    return replace(data, positions=positions)


INTERVENTIONS: dict[str, Intervention] = {
    "replace_still": replace_still,
    "foreign_motion": foreign_motion,
    "shuffle_positions": shuffle_positions,
    "mirror_time": mirror_time,
}
