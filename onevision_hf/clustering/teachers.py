"""What turns pictures and videos into features: any vision encoder of transformers, or the label-free
descriptors.

A teacher has `identity` (what the plan of a run records), `prepare(content, kind)`, which decodes one item
and may run in many threads, and `encode(prepared)`, which takes a batch of them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from ..modeling.modeling_onevision import OneVisionModel
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..modeling.video_reader import VideoReader, VideoReadError
from .descriptors import PARTS, SIDE, describe_picture, describe_video
from .items import Kind, MediaError
from .media import open_picture, read_frames, segment_centers


class Teacher(Protocol):
    identity: dict[str, Any]

    def prepare(self, content: str | bytes, kind: Kind) -> Any:
        """Decode one item. Raises MediaError, VideoReadError or OSError when it is broken."""

    def encode(self, prepared: Sequence[Any]) -> torch.Tensor:
        """(n, D) float32 features of length one; all items of one kind."""


def make_teacher(
    name: str,
    *,
    num_frames: int | None = None,
    pool: str = "concat",
    keep_dims: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> Teacher:
    """The teacher called `name`.

    Args:
        name: `descriptors`, `descriptors:object`, `descriptors:motion`, `codec:` and an encoder of ours, or a
            model of transformers (a folder or a repository).
        num_frames: frames of a video; 8 for a model as published, 64 for descriptors.
        pool: how a model's frames become one feature: `concat` (published) or `mean`.
        keep_dims: keep the first so many values of a model's feature (published: 512 of 1024, for videos).

    Raises:
        ValueError: the model gives no pooled image feature, or an argument does not fit the teacher.
    """
    if name == "descriptors" or name.startswith("descriptors:"):
        parts = tuple(name.partition(":")[2].split("+")) if ":" in name else PARTS
        if not set(parts) <= set(PARTS):
            raise ValueError(
                f"unknown descriptors {name!r}: choose descriptors, descriptors:object, descriptors:motion"
            )
        if keep_dims is not None or pool != "concat":
            raise ValueError("descriptors are whole: --keep-dims and --pool are for a model")
        return DescriptorTeacher(parts, num_frames or 64)
    if name.startswith("codec:"):
        if keep_dims is not None or pool != "concat":
            raise ValueError("an encoder's feature is whole: --keep-dims and --pool are for other models")
        return CodecTeacher(name.removeprefix("codec:"), num_frames, device, dtype)
    if pool not in ("concat", "mean"):
        raise ValueError(f"unknown pool {pool!r}: choose concat or mean")
    return ModelTeacher(name, num_frames or 8, pool, keep_dims, device, dtype)


class DescriptorTeacher:
    def __init__(self, parts: tuple[str, ...], num_frames: int):
        self.parts, self.num_frames = tuple(p for p in PARTS if p in parts), num_frames
        self.identity = {"teacher": "descriptors:" + "+".join(self.parts), "num_frames": num_frames}

    def prepare(self, content: str | bytes, kind: Kind) -> np.ndarray:
        if kind == "video":
            with VideoReader(content) as reader:
                return describe_video(reader, self.parts, self.num_frames)
        if "object" not in self.parts:
            raise MediaError("a picture has no motion: use --teacher descriptors:object")
        picture = open_picture(content)
        picture.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BILINEAR)
        return describe_picture(np.asarray(picture))

    def encode(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        return normalize(torch.from_numpy(np.stack(prepared)).float(), dim=1)


class ModelTeacher:
    """A vision encoder of transformers; a video is its frames' features, each of length one, in a row.

    The feature of a picture is `get_image_features` where the model has it, else `pooler_output`.
    """

    def __init__(self, name: str, num_frames: int, pool: str, keep_dims: int | None, device: str, dtype: str):
        from transformers import AutoImageProcessor, AutoModel

        self.num_frames, self.pool, self.keep_dims, self.device = num_frames, pool, keep_dims, device
        self.processor = AutoImageProcessor.from_pretrained(name)
        model = AutoModel.from_pretrained(name, dtype=getattr(torch, dtype))
        self.model = model.to(device).eval()
        size = getattr(self.processor, "size", None) or {}
        sides = [v for v in (size.values() if hasattr(size, "values") else dict(size).values()) if v]
        # Frames arrive a little larger than the model takes, as published (256 for 224).
        self.shorter_side = round(min(sides, default=224) * 256 / 224)
        self.identity = {
            "teacher": _identity_of(name, model),
            "num_frames": num_frames,
            "pool": pool,
            "keep_dims": keep_dims,
            "dtype": dtype,
        }

    def prepare(self, content: str | bytes, kind: Kind) -> torch.Tensor:
        """(frames, 3, H, W); one frame for a picture."""
        if kind == "image":
            pictures: list[Any] = [open_picture(content)]
        else:
            with VideoReader(content) as reader:
                frame_ids = segment_centers(len(reader), self.num_frames)
                pictures = [Image.fromarray(f) for f in read_frames(reader, frame_ids, self.shorter_side)]
        try:
            return self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        except ValueError as error:  # shapes that it cannot take, such as a single line
            raise MediaError(f"the teacher's image processor refuses it: {error}") from error

    @torch.inference_mode()
    def encode(self, prepared: Sequence[torch.Tensor]) -> torch.Tensor:
        if len({p.shape[-2:] for p in prepared}) > 1:  # a processor that keeps each picture's shape
            return torch.cat([self.encode([p]) for p in prepared])
        pixels = torch.cat(list(prepared)).to(self.device, self.model.dtype)
        if hasattr(self.model, "get_image_features"):
            output = self.model.get_image_features(pixel_values=pixels)
        else:
            output = self.model(pixel_values=pixels)
        features = output if isinstance(output, torch.Tensor) else getattr(output, "pooler_output", None)
        if features is None or features.ndim != 2:
            raise TypeError(
                f"{type(self.model).__name__} gives no pooled image feature; choose another --teacher"
            )
        features = features.float()
        if self.keep_dims is not None:
            if self.keep_dims > features.shape[1]:
                raise ValueError(
                    f"--keep-dims {self.keep_dims}, but the teacher's features have {features.shape[1]}"
                )
            features = features[:, : self.keep_dims]
        frames = normalize(features, dim=1).view(len(prepared), -1, features.shape[1])
        joined = frames.flatten(1) if self.pool == "concat" else frames.mean(1)
        return normalize(joined, dim=1).cpu()


class CodecTeacher:
    """Our encoder on what codec patchification keeps of a video; the feature is its `pooler_output`.

    The processor that was saved with the encoder says how many frames and patches; `num_frames` replaces its
    number of frames.
    """

    def __init__(self, name: str, num_frames: int | None, device: str, dtype: str):
        model = OneVisionModel.from_pretrained(name, dtype=getattr(torch, dtype))
        if not model.config.use_head:
            raise ValueError(f"{name} has no pooling head, so it gives no feature of a video")
        self.model, self.device = model.to(device).eval(), device
        try:
            self.processor = OneVisionVideoProcessor.from_pretrained(name)
        except OSError:
            self.processor = OneVisionVideoProcessor(
                patch_size=model.config.patch_size, rope_temporal_size=model.config.rope_temporal_size
            )
        self.settings = {} if num_frames is None else {"num_frames": num_frames}
        self.identity: dict[str, Any] = {
            "teacher": ["codec", *_identity_of(name, model)],
            "processor": json.loads(self.processor.to_json_string()),
            "num_frames": num_frames,
            "dtype": dtype,
        }

    def prepare(self, content: str | bytes, kind: Kind) -> dict[str, torch.Tensor]:
        if kind == "image":
            raise MediaError("a picture has no codec: name the encoder without `codec:`")
        try:
            inputs = self.processor(content, return_tensors="pt", **self.settings)
        except VideoReadError:
            raise
        except ValueError as error:  # a budget that this clip cannot have
            raise MediaError(f"no selection of its patches: {error}") from error
        return {name: inputs[name][0] for name in ("pixel_values_videos", "patch_positions")}

    @torch.inference_mode()
    def encode(self, prepared: Sequence[dict[str, torch.Tensor]]) -> torch.Tensor:
        lengths = torch.tensor([0, *(len(p["patch_positions"]) for p in prepared)])
        packed = {name: torch.cat([p[name] for p in prepared]).to(self.device) for name in prepared[0]}
        packed["pixel_values_videos"] = packed["pixel_values_videos"].to(self.model.dtype)
        bounds = lengths.cumsum(0).to(self.device, torch.int32)
        return normalize(self.model(**packed, cu_seqlens=bounds).pooler_output.float(), dim=1).cpu()


def _identity_of(name: str, model: Any) -> Any:
    """What tells one set of weights from another: a repository's commit, or a folder's files."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted(f for f in folder.iterdir() if f.is_file())
        return [name, *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    return [name, getattr(model.config, "_commit_hash", None)]
