"""What a saved encoder makes of clips: load it with its processor, patchify and encode a clip, pad several.

    encoder, processor, notes = load_clip_encoder("tiny")
    features = encode_clip("clip.mp4", encoder, processor)
    features.tensors["last_hidden_state"], features.selection.signal, features.seconds

Shapes: N clips, K patches of a clip, D channels.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedModel

from ..assets import TINY, model_folder
from ..jobs.devices import pick_device
from ..modeling.configuration_onevision import OneVisionConfig
from ..modeling.patch_selection import Selection
from ..modeling.pretrained_settings import has_video_processor
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..modeling.video_reader import VideoReader


@dataclass(frozen=True)
class ClipFeatures:
    """What became of a clip.

    tensors: `last_hidden_state` (1, K, D), `pooler_output` (1, D) where the model has a head,
        `patch_positions` (1, K, 3), on the CPU.
    selection: the patches that were cut.
    seconds: to patchify and to encode.
    """

    tensors: dict[str, Tensor]
    selection: Selection
    seconds: dict[str, float]


def load_clip_encoder(
    model: str = TINY, *, device: str | None = None, dtype: str | None = None
) -> tuple[PreTrainedModel, OneVisionVideoProcessor, list[str]]:
    """The encoder, the processor that goes with it, and what a user has to know about them, a line each.

    Args:
        model: a folder, a name on the Hub (looked for only if there is no such folder), or `tiny`, the
            encoder in the package.
        device: where it runs; an accelerator by default, where there is one.
        dtype: of its weights and features, `float32`, `bfloat16`, ...; the checkpoint's by default.

    Raises:
        ValueError: another kind of model, or no such device.
        OSError: there is none.
    """
    place = pick_device(device)
    model = model_folder(model)
    if model.startswith((".", "/", "~")) and not Path(model).is_dir():
        raise FileNotFoundError(
            f"{model}: no such folder; name one that holds a saved model, or an id on the Hub"
        )
    config = AutoConfig.from_pretrained(model)
    if not isinstance(config, OneVisionConfig):
        raise ValueError(
            f"{model} is a {config.model_type}, and this command runs {OneVisionConfig.model_type}"
        )
    encoder = AutoModel.from_pretrained(model, config=config, dtype=dtype or "auto").eval().to(place)
    if has_video_processor(model):
        return encoder, OneVisionVideoProcessor.from_pretrained(model), []
    processor = OneVisionVideoProcessor(
        patch_size=config.patch_size, rope_temporal_size=config.rope_temporal_size
    )
    note = f"{model} comes without a video processor: the default one for its patches is used"
    return encoder, processor, [note]


def encode_clip(
    video: str | Path | VideoReader,
    encoder: PreTrainedModel,
    processor: OneVisionVideoProcessor,
    **settings: Any,
) -> ClipFeatures:
    """Patchify and encode one clip.

    Args:
        video: a file or an open reader.
        encoder: as `load_clip_encoder` gives it.
        processor: of that encoder.
        **settings: of the processor, in place of its own: num_frames, num_patches, keep_energy, ...

    Raises:
        VideoReadError: the file cannot be read as a video.
    """
    start = time.perf_counter()
    inputs = processor(video, return_metadata=True, return_tensors="pt", **settings)
    selection = inputs.pop("selections")[0]
    inputs.pop("video_metadata")
    patchified = time.perf_counter()
    with torch.inference_mode():
        outputs = encoder(**inputs.to(encoder.device))
        names = [name for name in ("last_hidden_state", "pooler_output") if outputs.get(name) is not None]
        tensors = {name: outputs[name].cpu() for name in names}
    seconds = {"patchify": patchified - start, "encode": time.perf_counter() - patchified}
    tensors["patch_positions"] = inputs["patch_positions"].cpu()
    return ClipFeatures(tensors, selection, seconds)


def pad_clips(clips: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One batch of the tensors of N clips, padded with zeros to the longest; `pixel_attention_mask` (N, K)
    names the real patches."""
    lengths = torch.tensor([clip["last_hidden_state"].shape[1] for clip in clips])
    batch = {"pixel_attention_mask": torch.arange(int(lengths.max())) < lengths[:, None]}
    for name in clips[0]:
        values = [clip[name][0] for clip in clips]
        if name == "pooler_output":
            batch[name] = torch.stack(values)
        else:
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return batch
