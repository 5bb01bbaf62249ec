"""Tokens of clips, encoded once: float16, a file a clip, named by what the clip is.

    with FeatureCache(folder, settings, processes) as cache:
        rows, broken = cache.fill(rows, transform, encoder)

The folder knows its settings (the encoder's weights, and everything that cuts a clip): with others it is
refused. A clip that has changed has another name. A file is there when all of it is written, so a job that
was killed goes on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...data.decoding import decoded_batches
from ...data.labelled import Example
from ...data.tensor_files import seal, unseal
from ...jobs.processes import Processes
from ...jobs.progress import progress
from ...jobs.run_folder import OtherPlanError, RunFolder, atomic_files, digest_of
from ...training.loader import collate
from ...training.mixture import Sample
from ...training.schema import ConfigError
from .clip_lists import ClipDataset
from .clip_transform import ClipTransform
from .encoders import FrozenEncoder

STAGE = "probe-features"
_AT_ONCE, _THREADS = 8, 2


class FeatureCache:
    """One folder of features, open for this job.

    Raises ConfigError when it holds features of other settings, ValueError when another job writes to it.

    Args:
        folder: of the files.
        settings: all that features depend on but the clip.
        processes: of this job.
    """

    def __init__(self, folder: str | Path, settings: Mapping[str, Any], processes: Processes):
        self.folder, self.processes = Path(folder), processes
        with processes.main_first():
            try:
                self._run = RunFolder(
                    folder, stage=STAGE, settings=settings, sources="named by file", rank=processes.rank
                )
            except OtherPlanError as error:
                raise ConfigError(
                    f"the cache {folder} was made from something else: {error.difference}. Name another "
                    "folder with cache=..., or delete this one"
                ) from error

    def __enter__(self) -> "FeatureCache":
        return self

    def __exit__(self, *_: object) -> None:
        self._run.close()

    def fill(
        self, rows: ClipDataset, transform: ClipTransform, encoder: FrozenEncoder, title: str = "features"
    ) -> tuple[ClipDataset, list[dict[str, str]]]:
        """Encode what is missing, each process its part.

        Args:
            rows: the clips.
            transform: how they are shown.
            encoder: that encodes them.
            title: of the progress bar.
        """
        files = [self.folder / f"{digest_of(rows.stamp(i))[:32]}.safetensors" for i in range(len(rows))]
        missing = [i for i in range(len(rows)) if not files[i].exists()]
        mine = self.processes.own(missing)
        broken: list[dict[str, str]] = []

        def decode(index: int) -> Sample:
            return transform(rows[index], None, index)

        with progress(title, len(mine), not self.processes.main) as step:
            for batch in decoded_batches(decode, mine, _AT_ONCE, _THREADS, step, broken, key=str):
                _encode(batch, files, encoder)
        everyone = self.processes.gather(broken)
        reasons = {int(record["key"]): record["reason"] for part in everyone for record in part}
        whole = [i for i in range(len(rows)) if i not in reasons]
        records = [{"key": rows.keys[i], "reason": reasons[i]} for i in sorted(reasons)]
        keys, paths = [rows.keys[i] for i in whole], [str(files[i]) for i in whole]
        return ClipDataset(keys, paths, rows.labels[whole], rows.classes, "tokens"), records


def _encode(batch: list[tuple[int, Sample]], files: list[Path], encoder: FrozenEncoder) -> None:
    """Write the tokens of some clips."""
    device = next(encoder.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in collate([sample for _, sample in batch]).items()}
    tokens = encoder(
        inputs["pixel_values_videos"], inputs["patch_positions"], inputs.get("pixel_attention_mask")
    )
    for place, (index, _) in enumerate(batch):
        real = slice(None) if tokens.mask is None else tokens.mask[place]
        content = {
            "tokens": tokens.states[place][real].half().cpu().numpy(),
            "patch_positions": tokens.positions[place][real].short().cpu().numpy(),
        }
        with atomic_files(files[index]) as (path,):
            path.write_bytes(seal(content))


class CachedTransform:
    """`tokens` (L, D) float16, `patch_positions` (L, 3) int64, `labels` (1,): the same at any time."""

    def __call__(self, row: Example, rng: np.random.Generator | None, position: int) -> Sample:
        found = unseal(row.media)
        return {
            "tokens": found["tokens"],
            "patch_positions": found["patch_positions"].astype(np.int64),
            "labels": np.asarray(row.labels, np.int64),
        }
