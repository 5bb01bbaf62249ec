"""What a person does first with a new encoder: are the nearest neighbours of a picture or clip of its class?

    readout("drawn/direction", "FOLDER")["accuracy"]

Features are encoded once into run folders (float16, resumable, refused with other settings). Every item is
asked once: those of a class, sorted by the SHA-256 of their keys, are dealt to four folds, and an item's
neighbours, and the linear map, come from the three folds that it is not in.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ...clustering.extractors import Teacher, make_teacher
from ...clustering.features import FeatureShards, extract_features
from ...clustering.pictures import Row as SheetRow
from ...clustering.pictures import sheet, tile
from ...data.items import Item, Kind, Source
from ...data.labelled import Row
from ...data.media import open_picture
from ...jobs.run_folder import digest_of
from ...training.config import ConfigError
from ...training.loader import collate
from ...training.neighbours import neighbour_accuracy
from .clip_lists import labelled_folder
from .clip_transform import ClipView, ViewSettings
from .encoders import FrozenEncoder, load_encoder
from .splits import FOLDS, fold_numbers

NEIGHBOURS = 10
_DESCRIPTORS = "descriptors"  # the label-free ones of `onevision cluster`: a floor without any weights
_PICTURED, _SHOWN = 12, 5  # queries, and neighbours of each, in the picture


class EncoderTeacher:
    """A frozen encoder as a teacher of `onevision cluster`: one feature of length one an item."""

    def __init__(self, encoder: FrozenEncoder, settings: ViewSettings):
        self.encoder = encoder
        frame = (settings.size // settings.patch_size) ** 2
        # A picture is a clip of one whole frame.
        self._views = {
            "video": ClipView(settings),
            "image": ClipView(replace(settings, kind="frames", num_patches=frame)),
        }
        self.identity = {"encoder": encoder.identity, "view": asdict(settings), "feature": "pooled"}

    def prepare(self, content: str | bytes, kind: Kind) -> dict[str, np.ndarray]:
        media = np.asarray(open_picture(content))[None] if kind == "image" else content
        sample = self._views[kind](Row("", kind, media, np.zeros(1, np.int64)), None, 0)
        return {name: sample[name] for name in ("pixel_values_videos", "patch_positions")}

    @torch.inference_mode()
    def encode(self, prepared: Sequence[dict[str, np.ndarray]]) -> Tensor:
        device = next(self.encoder.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in collate(prepared).items()}
        mask = inputs.get("pixel_attention_mask")
        features = self.encoder.feature(inputs["pixel_values_videos"], inputs["patch_positions"], mask)
        return normalize(features.float(), dim=1).cpu()


@dataclass
class Features:
    """Of the items that could be read: (N, D) of length one; and a record of each other one."""

    matrix: Tensor
    items: list[Item]
    rejected: list[dict[str, str]]


def readout(
    folder: str,
    model: str,
    *,
    cache: str | Path | None = None,
    picture: str | Path | None = None,
    kind: str | None = None,
    num_patches: int | None = None,
    num_frames: int = 64,
    size: int | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Nearest-neighbour and linear accuracy on a folder with a sub-folder for each class.

    Args:
        model: a folder or repository of any vision encoder; or `descriptors`, `descriptors:motion`,
            `descriptors:object`, which have no weights.
        cache: where features are kept; default: a folder for this model, these files and settings under
            `~/.cache/onevision_hf` (or $XDG_CACHE_HOME).
        picture: a PNG of some items with their nearest neighbours.
        kind: `codec`, `frames` or `dense`; default: the first that the encoder takes.
        num_patches: of a clip; default: an eighth of those of its frames (at least one whole frame).
        size: side in pixels of the middle square; default: the encoder's.

    Returns:
        `accuracy`, `linear_accuracy`, `chance` (1 / classes), `majority` (share of the largest class),
        `items`, `rejected` (numbers), `rejected_items` (keys and reasons), `classes`, `neighbours`, `split`.

    Raises:
        ConfigError: a class without an item that can be read, settings that do not fit, or a cache of
            others.
    """
    source, rows = labelled_folder(folder)
    teacher = _teacher(model, kind, num_patches, num_frames, size, device)
    features = _features(source, teacher, cache or _default_cache(source, teacher))
    number_of = {rows[i].key: int(rows[i].labels[0]) for i in range(len(rows))}
    found = np.array([number_of[item.key] for item in features.items], np.int64)
    counts = np.bincount(found, minlength=len(rows.names))
    empty = [name for name, count in zip(rows.names, counts, strict=True) if not count]
    if empty:
        raise ConfigError(f"no item of {', '.join(empty)} could be read: a class without a sample")
    if len(rows.names) < 2:
        raise ConfigError(f"{folder} has one class only ({rows.names[0]}): nothing to tell apart")
    folds = fold_numbers([item.key for item in features.items], found)
    if picture is not None:
        _draw(source, features, found, rows.names, folds, model).save(picture)
    return {
        "accuracy": _over_folds(features.matrix, found, folds, _neighbours),
        "linear_accuracy": _over_folds(features.matrix, found, folds, _linear),
        "chance": 1 / len(rows.names),
        "majority": float(counts.max() / counts.sum()),
        "items": len(found),
        "rejected": len(features.rejected),
        "rejected_items": features.rejected,
        "classes": dict(zip(rows.names, counts.tolist(), strict=True)),
        "neighbours": NEIGHBOURS,
        "split": f"{FOLDS} folds of each class by the SHA-256 of the key; each item against the other folds",
        "model": model,
    }


def _teacher(
    model: str, kind: str | None, num_patches: int | None, num_frames: int, size: int | None, device: str
) -> Teacher:
    if model == _DESCRIPTORS or model.startswith(f"{_DESCRIPTORS}:"):
        return make_teacher(model, num_frames=num_frames)
    encoder = load_encoder(model, device)
    kind = kind or encoder.kinds[0]
    if kind not in encoder.kinds:
        raise ConfigError(f"{model} takes {', '.join(encoder.kinds)}, not {kind}")
    side = size or encoder.size
    frame = (side // encoder.patch_size) ** 2
    settings = ViewSettings(
        kind,
        num_patches or max(frame, frame * num_frames // 8),
        num_frames,
        side,
        encoder.patch_size,
        encoder.temporal_size,
        encoder.image_mean,
        encoder.image_std,
    )
    return EncoderTeacher(encoder, settings)


def _default_cache(source: Source, teacher: Teacher) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "onevision_hf" / "knn" / digest_of([source.digest, teacher.identity])[:24]


def _features(source: Source, teacher: Teacher, cache: str | Path) -> Features:
    """Encode what is not encoded yet, pictures and clips apart, and read all of it."""
    by_key = {item.key: item for item in source.items}
    matrices, items, rejected = [], [], []
    for kind in sorted({item.kind for item in source.items}):
        run = Path(cache) / kind
        try:
            extract_features(source, run, teacher, kind, batch_size=8, workers=2)
        except ValueError as error:
            if "made from something else" not in str(error):
                raise
            difference = str(error).partition(". Choose")[0]
            raise ConfigError(f"the cache {difference}. Name another --cache, or delete this one") from error
        shards = FeatureShards(run)
        for shard in range(len(shards)):
            items += [by_key[key] for key in shards.table(shard, ["key"])["key"].to_pylist()]
            matrices.append(torch.from_numpy(shards.matrix(shard).astype(np.float32)))
        lines = (run / "rejected.jsonl").read_text(encoding="utf-8").splitlines()
        rejected += [json.loads(line) for line in lines]
    if len({matrix.shape[1] for matrix in matrices if len(matrix)}) > 1:
        raise ConfigError("pictures and clips have features of different lengths: ask for each apart")
    return Features(torch.cat([m for m in matrices if len(m)]), items, rejected)


def _over_folds(matrix: Tensor, labels: np.ndarray, folds: np.ndarray, hits: Callable[..., float]) -> float:
    """The share of all items that are right, each fold answered by the others."""
    found = 0.0
    for fold in np.unique(folds):
        asked = folds == fold
        found += hits(matrix[~asked], labels[~asked], matrix[asked], labels[asked]) * asked.sum()
    return float(found / len(labels))


def _neighbours(bank: Tensor, bank_labels: np.ndarray, asked: Tensor, labels: np.ndarray) -> float:
    pair = (bank, torch.from_numpy(bank_labels))
    return neighbour_accuracy(asked, torch.from_numpy(labels), NEIGHBOURS, bank=pair)


def _linear(bank: Tensor, bank_labels: np.ndarray, asked: Tensor, labels: np.ndarray) -> float:
    """Logistic regression on standardised features, scikit-learn's own regularisation (C = 1)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(bank_labels)) < 2:
        return float((labels == bank_labels[0]).mean())
    readout = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(readout.fit(bank.numpy(), bank_labels).score(asked.numpy(), labels))


def _draw(
    source: Source, features: Features, labels: np.ndarray, names: list[str], folds: np.ndarray, model: str
) -> Image.Image:
    """One item of each class, and what lies nearest to it in the other folds."""
    rows = []
    for label in range(len(names))[:: max(1, -(-len(names) // _PICTURED))]:
        own = np.flatnonzero(labels == label)
        query = int(own[folds[own].argmin()])
        cosine = features.matrix @ features.matrix[query]
        cosine[torch.from_numpy(folds == folds[query])] = -torch.inf
        near = cosine.topk(min(_SHOWN, int((folds != folds[query]).sum()))).indices.tolist()
        right = sum(labels[i] == label for i in near)
        groups = [("asked", [tile(source, features.items[query])])]
        groups += [(names[labels[i]], [tile(source, features.items[i])]) for i in near]
        rows.append(SheetRow(names[label], f"{right} of {len(near)} nearest are of its class", groups))
    return sheet(
        "Nearest neighbours",
        f"{model}: {len(features.items):,} items of {len(names)} classes; over each neighbour its class",
        rows,
    )
