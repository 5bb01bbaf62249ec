"""A frozen encoder's tokens of an input, for the second way of reading: a probe on them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...jobs.run_folder import digest_of
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from .settings import SuiteSettings
from .training import InputData

BATCH = 64


@dataclass(frozen=True)
class Encoder:
    """A OneVision encoder in a folder (or on the Hub): where it is, and a digest of its weights."""

    name: str
    digest: str

    @property
    def title(self) -> str:
        """What it is called in reports: the last part of a folder, a whole name of the Hub."""
        return Path(self.name).resolve().name if Path(self.name).is_dir() else self.name

    @classmethod
    def open(cls, name: str) -> "Encoder":
        """Raises OSError or ValueError when there is no such encoder."""
        model, _ = _load(name)
        return cls(name, digest_of(value.detach().numpy().tobytes() for _, value in model.named_parameters()))

    def fit(self, settings: SuiteSettings) -> SuiteSettings:
        """The settings with patches of the encoder's own size, where they fill a frame and energies are kept
        for them; otherwise as they are, and patches are resized."""
        p = _load(self.name)[0].config.patch_size
        if settings.clips.size % p or p % settings.clips.cell:
            return settings
        return replace(settings, reader=replace(settings.reader, patch_size=p))


@lru_cache(maxsize=1)
def _load(name: str) -> tuple[OneVisionModel, tuple[Tensor, Tensor]]:
    model = OneVisionModel.from_pretrained(name, dtype=torch.float32).eval()
    processor: Any = OneVisionVideoProcessor
    if Path(name).is_dir() and any(Path(name).glob("*processor_config.json")):
        processor = OneVisionVideoProcessor.from_pretrained(name)
    mean, std = (torch.tensor(getattr(processor, key)) for key in ("image_mean", "image_std"))
    return model, (mean, std)


@torch.no_grad()
def encode_input(encoder: Encoder, settings: SuiteSettings, data: InputData) -> InputData:
    """The encoder's tokens (n, K, D) float16 in place of the patches, resized where they are not of its size.

    Times are carried over to its time grid as its processor does.
    """
    device = data.positions.device
    model, (mean, std) = _load(encoder.name)
    torch.nn.Module.to(model, device)
    mean, std = mean.to(device), std.to(device)
    p, grid = model.config.patch_size, model.config.rope_temporal_size
    count = settings.clips.num_frames
    times = torch.arange(count)
    if grid is not None and grid != count:
        times = torch.from_numpy(np.linspace(0, grid - 1, count).astype(np.int64))
    times = times.to(device)
    tokens = []
    for rows in torch.arange(len(data.labels)).split(BATCH):
        positions = data.positions[rows.to(device)].long()
        positions[..., 0] = times[positions[..., 0]]
        patches = data.raw(rows).float().unflatten(-1, (3, data.patch_size, data.patch_size)) / 255
        patches = (patches - mean[:, None, None]) / std[:, None, None]
        if p != data.patch_size:
            patches = torch.nn.functional.interpolate(patches.flatten(0, 1), size=(p, p), mode="bilinear")
            patches = patches.unflatten(0, positions.shape[:2])
        output = model(pixel_values_videos=patches.flatten(-3), patch_positions=positions)
        tokens.append(output.last_hidden_state.half())
    return replace(data, patches=torch.cat(tokens), is_tokens=True)
