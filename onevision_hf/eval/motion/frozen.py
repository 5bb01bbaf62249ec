"""A frozen encoder's tokens of an input, for a probe on them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from ...jobs.run_folder import digest_of
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.patchify_config import PatchifyConfig, virtual_times
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from .settings import SuiteSettings
from .training import InputData

BATCH = 64
# Of a processor: what of the sampled frames is kept, whatever the budget.
CHOOSES_PATCHES = ("preset", "signals", "weights", "normalize", "camera", "anchors", "time_buckets")


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
        """The settings with what the encoder's own processor keeps of a clip, but for what they set.

        Patches are of the encoder's own size where they fill a frame and differences are kept for them;
        otherwise they are resized.
        """
        config = _load(self.name)[1]
        own, default = config.to_dict(), PatchifyConfig().replace(anchors="first").to_dict()
        unlike = {name: own[name] for name in CHOOSES_PATCHES if own[name] != default[name]}
        processor = {**unlike, **settings.clips.processor}
        settings = replace(settings, clips=replace(settings.clips, processor=processor))
        p = config.layout.patch_size
        if settings.clips.size % p or p % settings.clips.block:
            return settings
        return replace(settings, classifier=replace(settings.classifier, patch_size=p))


@lru_cache(maxsize=1)
def _load(name: str) -> tuple[OneVisionModel, PatchifyConfig]:
    """The model, and what its own processor is set to."""
    model = OneVisionModel.from_pretrained(name, dtype=torch.float32).eval()
    if Path(name).is_dir():
        return model, PatchifyConfig.from_pretrained(name)
    return model, OneVisionVideoProcessor.from_pretrained(name).patchify_config()


@torch.no_grad()
def encode_input(encoder: Encoder, settings: SuiteSettings, data: InputData) -> InputData:
    """The encoder's tokens (n, K, D) float16 in place of the patches, resized where they are not of its size.

    Pixels are scaled and times put on its time grid as its processor does.

    Args:
        encoder: of which tokens are wanted.
        settings: of the run.
        data: patches (n, K, C*p*p) uint8 with their positions.
    """
    device = data.positions.device
    model, config = _load(encoder.name)
    torch.nn.Module.to(model, device)
    scale, offset = (torch.from_numpy(v)[:, None, None].to(device) for v in config.pixels.scale_and_offset)
    p = config.layout.patch_size
    times = torch.from_numpy(virtual_times(settings.clips.num_frames, config.rope_temporal_size)).to(device)
    tokens = []
    for numbers in torch.arange(len(data.labels)).split(BATCH):
        positions = data.positions[numbers.to(device)].long()
        positions[..., 0] = times[positions[..., 0]]
        patches = data.raw(numbers).float().unflatten(-1, (3, data.patch_size, data.patch_size))
        patches = patches * scale + offset
        if p != data.patch_size:
            patches = torch.nn.functional.interpolate(patches.flatten(0, 1), size=(p, p), mode="bilinear")
            patches = patches.unflatten(0, positions.shape[:2])
        output = model(pixel_values_videos=patches.flatten(-3), patch_positions=positions)
        tokens.append(output.last_hidden_state.half())
    return replace(data, patches=torch.cat(tokens), is_tokens=True)
