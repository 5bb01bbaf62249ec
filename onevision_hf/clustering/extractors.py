"""What turns pictures and videos into features: any vision encoder of transformers, an encoder of this
package, which sees a clip as a whole, or the label-free descriptors.

An extractor has `identity` (what the plan of a run records), `prepare(content, kind)`, which decodes one item
and may run in many threads, and `encode(prepared)`, which takes a batch of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from ..data.items import Kind, MediaError
from ..data.media import open_picture, read_frames, segment_centers
from ..data.patch_cache import PatchCache
from ..modeling.configuration_onevision import OneVisionConfig
from ..modeling.frame_sequence import open_video
from ..modeling.grid_pooling import POOLINGS, token_features
from ..modeling.modeling_onevision import OneVisionModel
from ..modeling.pretrained_settings import has_video_processor
from ..modeling.video_processing_onevision import OneVisionVideoProcessor
from ..modeling.video_reader import VideoReader
from .descriptors import PARTS, SIDE, SIGNALS, describe_picture, describe_video

FRAME_POOLS = ("concat", "mean")  # of the frames' features of an image encoder
CLIP_POOLS = POOLINGS  # of the patches of an encoder of this package


class FeatureExtractor(Protocol):
    identity: dict[str, Any]

    def prepare(self, content: Any, kind: Kind) -> Any:
        """Decode one item: a path, bytes, or a video that is open. Raises MediaError, VideoReadError or
        OSError when it is broken."""

    def encode(self, prepared: Sequence[Any]) -> torch.Tensor:
        """(n, D) float32 features of length one; all items of one kind."""


def make_extractor(
    name: str,
    *,
    num_frames: int | None = None,
    pool: str | None = None,
    keep_dims: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    cache: str | None = None,
) -> FeatureExtractor:
    """The extractor called `name`.

    Args:
        name: `descriptors`, `descriptors:object`, `descriptors:motion`, or a model of transformers (a
            folder or a repository).
        num_frames: frames of a video; 8 for a model as published, 64 for descriptors; an encoder of this
            package with a video processor takes what that says.
        pool: how a video becomes one feature. An image encoder's frames: `concat` (published, the
            default) or `mean`. The patches of an encoder of this package with a video processor: `pooler`
            (its pooler_output, the default), `tokens` (their mean) or `grid` (their means in a coarse
            grid of time and space, `grid_pooling.grid_means`).
        keep_dims: keep the first so many values of a model's feature (published: 512 of 1024, for videos).
        device: where it is computed, `cpu`, `cuda`, ...
        dtype: of a model's weights, `float32`, `bfloat16`, ...
        cache: a folder for cut patches (`PatchCache`), of an encoder of this package.

    Raises:
        ValueError: the model gives no pooled image feature, or an argument does not fit the extractor.
    """
    if name == "descriptors" or name.startswith("descriptors:"):
        parts = tuple(name.partition(":")[2].split("+")) if ":" in name else PARTS
        if not set(parts) <= set(PARTS):
            raise ValueError(
                f"unknown descriptors {name!r}: choose descriptors, descriptors:object, descriptors:motion"
            )
        if keep_dims is not None or pool is not None:
            raise ValueError("descriptors are whole: --keep-dims and --pool are for a model")
        return DescriptorExtractor(parts, num_frames or 64)
    if pool not in (None, *FRAME_POOLS, *CLIP_POOLS):
        raise ValueError(f"unknown pool {pool!r}: choose {', '.join((*FRAME_POOLS, *CLIP_POOLS))}")
    if pool not in FRAME_POOLS and _sees_clips(name):
        if keep_dims is not None:
            raise ValueError("--keep-dims is for the frames of an image encoder; this one sees clips whole")
        return ClipExtractor(name, num_frames, pool or "pooler", device, dtype, cache)
    if pool in CLIP_POOLS:
        raise ValueError(f"--pool {pool} is for an encoder of this package saved with its video processor")
    return FrameExtractor(name, num_frames or 8, pool or "concat", keep_dims, device, dtype)


class DescriptorExtractor:
    def __init__(self, parts: tuple[str, ...], num_frames: int):
        self.parts, self.num_frames = tuple(p for p in PARTS if p in parts), num_frames
        self.identity = {
            "teacher": "descriptors:" + "+".join(self.parts),
            "num_frames": num_frames,
            "signals_version": SIGNALS.version,
        }

    def prepare(self, content: Any, kind: Kind) -> np.ndarray:
        if kind == "video":
            with open_video(content) as reader:
                assert isinstance(reader, VideoReader)  # sources have files
                return describe_video(reader, self.parts, self.num_frames)
        if "object" not in self.parts:
            raise MediaError("a picture has no motion: use --teacher descriptors:object")
        picture = open_picture(content)
        picture.thumbnail((2 * SIDE, 2 * SIDE), Image.Resampling.BILINEAR)
        return describe_picture(np.asarray(picture))

    def encode(self, prepared: Sequence[np.ndarray]) -> torch.Tensor:
        return normalize(torch.from_numpy(np.stack(prepared)).float(), dim=1)


class FrameExtractor:
    """A vision encoder of transformers; a video is its frames' features, each of length one, in a row.

    The feature of a picture is `get_image_features` where the model has it, else `pooler_output`.

    Args:
        name: a folder or a repository.
        num_frames: frames of a video.
        pool: `concat` or `mean`, of the frames.
        keep_dims: keep the first so many values of a frame's feature.
        device: where it is computed, `cpu`, `cuda`, ...
        dtype: of the weights.
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
            "teacher": identity_of(name, model),
            "num_frames": num_frames,
            "pool": pool,
            "keep_dims": keep_dims,
            "dtype": dtype,
        }

    def prepare(self, content: Any, kind: Kind) -> torch.Tensor:
        """(frames, 3, H, W); one frame for a picture."""
        if kind == "image":
            pictures: list[Any] = [open_picture(content)]
        else:
            with open_video(content) as reader:
                assert isinstance(reader, VideoReader)  # sources have files
                frame_ids = segment_centers(len(reader), self.num_frames)
                pictures = [Image.fromarray(f) for f in read_frames(reader, frame_ids, self.shorter_side)]
        try:
            return self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        except ValueError as error:  # shapes that it cannot take, such as a single line
            raise MediaError(f"the extractor's image processor refuses it: {error}") from error

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
                    f"--keep-dims {self.keep_dims}, but the extractor's features have {features.shape[1]}"
                )
            features = features[:, : self.keep_dims]
        frames = normalize(features, dim=1).view(len(prepared), -1, features.shape[1])
        joined = frames.flatten(1) if self.pool == "concat" else frames.mean(1)
        return normalize(joined, dim=1).cpu()


class ClipExtractor:
    """An encoder of this package; a video goes whole through codec patchification, a picture is one frame.

    `pool` says what the feature is: see `make_extractor`.

    Args:
        name: a folder or a repository.
        num_frames: frames of a video; None is what the processor says.
        pool: what the feature is, see `make_extractor`.
        device: where it is computed, `cpu`, `cuda`, ...
        dtype: of the weights.
        cache: a folder for cut patches (`PatchCache`).
    """

    def __init__(
        self,
        name: str,
        num_frames: int | None,
        pool: str,
        device: str,
        dtype: str,
        cache: str | None = None,
    ):
        self.pool, self.device = pool, device
        given: dict[str, Any] = {} if num_frames is None else {"num_frames": num_frames}
        self.processor = OneVisionVideoProcessor.from_pretrained(name, **given)
        self.cache = PatchCache(cache, self.processor.patchify_config()) if cache else None
        model: Any = OneVisionModel.from_pretrained(name, dtype=getattr(torch, dtype))
        self.model = model.to(device).eval()
        self.identity = {
            "teacher": identity_of(name, model),
            "num_frames": self.processor.num_frames,
            "pool": pool,
            "dtype": dtype,
        }
        if (version := self.processor.patchify_config().signals.version) > 1:
            self.identity["signals_version"] = version

    def prepare(self, content: Any, kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (K, C*p*p) and positions (K, 3) of one clip."""
        if kind == "video" and self.cache is not None and not isinstance(content, VideoReader):
            cut: Any = self.cache(content)
            return torch.from_numpy(cut["pixel_values_videos"]), torch.from_numpy(cut["patch_positions"])
        clip = np.asarray(open_picture(content))[None] if kind == "image" else content
        cut = self.processor(clip, return_tensors="pt")
        return cut["pixel_values_videos"][0], cut["patch_positions"][0]

    @torch.inference_mode()
    def encode(self, prepared: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        patches, places = (list(part) for part in zip(*prepared, strict=True))
        inputs = {
            "pixel_values_videos": pad_sequence(patches, batch_first=True),
            "patch_positions": pad_sequence(places, batch_first=True),
        }
        lengths = torch.tensor([len(p) for p in places])
        inputs["pixel_attention_mask"] = torch.arange(int(lengths.max())) < lengths[:, None]
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(self.model.dtype)
        outputs = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()})
        if self.pool == "pooler":
            return normalize(outputs.pooler_output.float(), dim=1).cpu()
        mask, positions = inputs["pixel_attention_mask"], inputs["patch_positions"]
        time_size = self.model.config.rope_temporal_size
        found = token_features(outputs.last_hidden_state, positions, mask, time_size=time_size)
        return normalize(found[self.pool], dim=1).cpu()


def _sees_clips(name: str) -> bool:
    """Whether `name` is an encoder of this package that was saved with its video processor."""
    from transformers import AutoConfig

    return isinstance(AutoConfig.from_pretrained(name), OneVisionConfig) and has_video_processor(name)


def identity_of(name: str, model: Any) -> Any:
    """What tells one set of weights from another: a repository's commit, or a folder's files."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted(f for f in folder.iterdir() if f.is_file())
        return [name, *([f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files)]
    return [name, getattr(model.config, "_commit_hash", None)]
