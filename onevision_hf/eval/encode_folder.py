"""A folder of clips and pictures -> a folder of features, in shards: what `onevision encode FOLDER` does.

    encode_folder(open_source("clips"), "features", "tiny")

`feature_folder.py` says what is in it, and reads it. A run holds one shard in memory; one that was killed
goes on with the shards that are missing.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..assets import TINY, model_folder
from ..data.items import Item, MediaError, Source
from ..data.latents import digest_of_weights, fill_shards, shard_name
from ..data.media import errors_setting, open_picture, reason_of
from ..jobs.run_folder import RunFolder, canonical_json
from ..modeling.frame_sequence import open_video
from ..modeling.image_processing_onevision import OneVisionImageProcessor
from ..modeling.patch_selection import Selection
from ..modeling.pretrained_settings import has_image_processor
from ..modeling.video_processing_onevision import OneVisionVideoProcessor, of_reader
from ..modeling.video_reader import VideoReadError
from .clip_features import load_clip_encoder
from .feature_folder import INDEX, STAGE

PREFIX = "features"


class Prepared(NamedTuple):
    """Patches (K, C*p*p), positions (K, 3) and times (K,) of an item, and what the index says of it."""

    patches: Tensor
    positions: Tensor
    times: Tensor
    about: dict[str, Any]


def encode_folder(
    source: Source,
    out: str | Path,
    model: str = TINY,
    *,
    settings: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    workers: int = 2,
    shard_items: int = 64,
    errors: str = "raise",
    redo: bool = False,
) -> dict[str, Any]:
    """Encode every clip and picture of a source into `out`; a run that was stopped goes on.

    Pictures go through the model's image processor, or come as the video processor shapes a frame where the
    model was saved without one.

    Args:
        source: see `open_source`.
        out: the folder to fill.
        model: see `load_clip_encoder`.
        settings: of the video processor, laid over its own: num_frames, num_patches, keep_ratio, preset, ...
        dtype: that the encoder computes in and that features are stored in; the checkpoint's by default.
        device: where it computes; an accelerator by default, where there is one.
        batch_size: items that the encoder takes at once; changes results by rounding only.
        workers: threads that decode ahead of it.
        shard_items: items of a shard, all of whose features are in memory before it is written.
        errors: "raise" leaves out what cannot be read, into rejected.jsonl; "partial" also uses what is
            there of truncated clips, and says so in the index.
        redo: empty a folder that was made otherwise, instead of refusing it.

    Returns:
        The summary: `items`, `rejected`, `shards`, `rows` (of each shard), `patches`, `notes`.

    Raises:
        ValueError: an argument is out of range, nothing can be read, or `out` was made from something else.
    """
    encoder, videos, notes = load_clip_encoder(model, device=device, dtype=dtype)
    config = videos.patchify_config(**(settings or {}))
    pictures: Any = _image_processor(model, videos)
    about: dict[str, dict[str, Any]] = {}
    plan = {
        "model": digest_of_weights(encoder),
        "dtype": str(encoder.dtype).removeprefix("torch."),
        "shard_items": shard_items,
        "pictures": json.loads(pictures.to_json_string()),
        **config.recorded(),
        **errors_setting("partial" if errors == "partial" else "skip"),
    }

    def prepare(item: Item) -> Prepared:
        content = source.open(item)
        try:
            if item.kind == "image":
                picture = pictures(open_picture(content), packed=True, return_tensors="pt")
                positions = picture["patch_positions"]
                times = torch.zeros(len(positions), dtype=torch.float64)
                return Prepared(picture["pixel_values"], positions, times, {"kind": "image"})
            with open_video(content, of_reader(errors)) as reader:
                found = videos.process_reader(reader, config)
                missing = {"missing": reader.missing} if reader.missing else {}
        except VideoReadError:
            raise
        except ValueError as error:  # a shape that no budget fits, a picture of a single line
            raise MediaError(f"no patches of it: {reason_of(error)}") from error
        selection = found["selection"]
        assert isinstance(selection, Selection)
        return Prepared(
            torch.from_numpy(found["patches"]),
            torch.from_numpy(found["positions"]),
            torch.from_numpy(selection.timestamps[selection.positions[:, 0]]),
            {"kind": "video", "signal": selection.signal, **missing},
        )

    @torch.inference_mode()
    def encode(batch: Sequence[tuple[Item, Prepared]]) -> dict[str, Any]:
        about.update({item.key: made.about for item, made in batch})
        lengths = [len(made.patches) for _, made in batch]
        outputs = encoder(
            pixel_values_videos=torch.cat([made.patches for _, made in batch]).to(encoder.device),
            patch_positions=torch.cat([made.positions for _, made in batch]).to(encoder.device),
            cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).to(encoder.device, torch.int32),
        )
        rows: dict[str, Any] = {
            # Copies: safetensors takes no views of one storage, and a batch need not stay for its last row.
            "last_hidden_state": [own.cpu().clone() for own in outputs.last_hidden_state.split(lengths)],
            "patch_positions": [made.positions for _, made in batch],
            "patch_times": [made.times for _, made in batch],
        }
        pooled = outputs.get("pooler_output")
        return rows if pooled is None else {**rows, "pooler_output": [own.cpu().clone() for own in pooled]}

    def entries(keys: Sequence[str], tensors: Mapping[str, Tensor]) -> bytes:
        counts = {key: {"patches": len(tensors[f"{key}/patch_times"])} for key in keys}
        return canonical_json({key: counts[key] | about.pop(key) for key in keys}).encode()

    with RunFolder(out, stage=STAGE, settings=plan, sources=source.digest, redo=redo) as run:
        filled = fill_shards(
            run,
            source.items,
            prepare,
            encode,
            {},
            batch_size=batch_size,
            workers=workers,
            noun="features",
            prefix=PREFIX,
            join=_by_key,
            beside=("index-{}.json", entries),
        )
        index: dict[str, dict[str, Any]] = {}
        for number in range(filled["shards"]):
            for key, entry in json.loads(run.file(f"index-{number:05d}.json").read_text()).items():
                index[key] = {"shard": shard_name(number, PREFIX), **entry}
        run.write(INDEX, canonical_json(index))
        patches = sum(entry["patches"] for entry in index.values())
        return run.finish({**filled, "patches": patches, "notes": notes})


def _by_key(keys: Sequence[str], rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    pairs = zip(keys, rows, strict=True)
    return {f"{key}/{name}": value for key, row in pairs for name, value in row.items()}


def _image_processor(model: str, videos: OneVisionVideoProcessor) -> OneVisionImageProcessor:
    folder = model_folder(model)
    if has_image_processor(folder):
        return OneVisionImageProcessor.from_pretrained(folder)
    names = ("patch_size", "size", "crop_size", "do_resize", "do_center_crop", "image_mean", "image_std")
    return OneVisionImageProcessor(**{name: getattr(videos, name) for name in names})
