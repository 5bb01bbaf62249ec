"""What a person does first with a new encoder: are the nearest neighbours of a picture or clip of its class?

    evaluate_knn("drawn/direction", "FOLDER")["accuracy"]

Features are encoded once into run folders (float16, resumable, refused with other settings). Every item is
a query once: those of a class, sorted by the SHA-256 of their keys, are dealt to four folds, and an item's
neighbours, and the linear map, come from the three folds that it is not in.

What is compared is the encoder's pooled output, the mean of its tokens, or their means in a coarse grid of
time and space (`modeling.grid_pooling`): all three come of one pass, and all three are reported.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from ...clustering.extractors import FeatureExtractor, make_extractor
from ...clustering.features import FeatureShards, extract_features
from ...clustering.pictures import Row as SheetRow
from ...clustering.pictures import sheet, tile
from ...data.items import Item, Kind, Source
from ...data.labelled import Example
from ...data.media import open_picture
from ...jobs.run_folder import OtherPlanError, digest_of
from ...modeling.grid_pooling import GRID, POOLINGS
from ...training.loader import collate
from ...training.neighbours import neighbour_accuracy
from ...training.schema import ConfigError
from .clip_lists import labelled_folder
from .clip_transform import ClipTransform, InputSettings
from .encoders import FrozenEncoder, OneVisionTokens, input_settings, load_frozen
from .splits import FOLDS, fold_numbers

NEIGHBOURS = 10
_DESCRIPTORS = "descriptors"  # the label-free ones of `onevision cluster`: a floor without any weights
_PICTURED, _SHOWN = 12, 5  # queries, and neighbours of each, in the picture


class EncoderFeatures:
    """A frozen encoder as a feature extractor of `onevision cluster`: the features of every pooling that it
    has, each of length one, one after the other."""

    def __init__(self, encoder: FrozenEncoder, settings: InputSettings):
        self.encoder = encoder
        # A picture is a clip of one whole frame.
        self._transforms = {
            "video": ClipTransform(settings),
            "image": ClipTransform(InputSettings("frames", settings.config)),
        }
        self.identity = {
            "encoder": encoder.identity, "transform": settings.identity(), "feature": list(POOLINGS)
        }  # fmt: skip

    def prepare(self, content: Any, kind: Kind) -> dict[str, np.ndarray]:
        media = np.asarray(open_picture(content))[None] if kind == "image" else content
        name = content if isinstance(content, str) else ""
        sample = self._transforms[kind](Example(name, kind, media, np.zeros(1, np.int64)), None, 0)
        return {name: sample[name] for name in ("pixel_values_videos", "patch_positions")}

    @torch.inference_mode()
    def encode(self, prepared: Sequence[dict[str, np.ndarray]]) -> Tensor:
        device = next(self.encoder.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in collate(prepared).items()}
        mask = inputs.get("pixel_attention_mask")
        found = self.encoder.features(inputs["pixel_values_videos"], inputs["patch_positions"], mask)
        own = [found[name] for name in POOLINGS if name in found]
        return torch.cat([normalize(feature.float(), dim=1) for feature in own], dim=1).cpu()

    def poolings(self, matrix: Tensor) -> dict[str, Tensor]:
        """Rows of `encode` (N, ...) -> (N, D') of each pooling; there is no `pooler` without such an
        output."""
        width = self.encoder.hidden_size
        sizes = {"tokens": width, "grid": width * math.prod(GRID)}
        pooled = matrix.shape[1] - sum(sizes.values())
        sizes = {"pooler": pooled, **sizes} if pooled else sizes
        return dict(zip(sizes, matrix.split(list(sizes.values()), dim=1), strict=True))


@dataclass
class Features:
    """Of the items that could be read: (N, ...) of an extractor; and records of those that could not, and of
    those that are there in part."""

    matrix: Tensor
    items: list[Item]
    rejected: list[dict[str, str]]
    partial: list[dict[str, str]]


def evaluate_knn(
    folder: str,
    model: str,
    *,
    cache: str | Path | None = None,
    picture: str | Path | None = None,
    kind: str | None = None,
    pooling: str | None = None,
    processor: Mapping[str, Any] | None = None,
    size: int | None = None,
    device: str = "cpu",
    errors: str = "skip",
) -> dict[str, Any]:
    """Nearest-neighbour and linear accuracy on a folder with a sub-folder for each class.

    Args:
        folder: of pictures and clips.
        model: a folder or repository of any vision encoder; or `descriptors`, `descriptors:motion`,
            `descriptors:object`, which have no weights.
        cache: where features are kept; default: a folder for this model, these files and settings under
            `~/.cache/onevision_hf` (or $XDG_CACHE_HOME).
        picture: a PNG of some items with their nearest neighbours.
        kind: `codec`, `frames` or `dense`; default: the first that the encoder takes.
        pooling: `pooler`, `tokens` or `grid`; default: `grid` for clips of an encoder of this package, else
            `pooler` (`tokens` of a model without a pooled output).
        processor: settings of the encoder's own processor to change, by name; descriptors know num_frames.
        size: pixels, side of the middle square; default: what the processor shows.
        device: where the encoder runs.
        errors: "skip" rejects truncated videos; "partial" uses what is there of them.

    Returns:
        `accuracy`, `linear_accuracy` (of `pooling`), `by_pooling` (both, of each that there is), `pooling`,
        `chance` (1 / classes), `majority` (fraction of the largest class), `items`, `rejected` (numbers),
        `rejected_items` (keys and reasons), `classes`, `neighbours`, `split`, `model`; with "partial"
        also `partial` and `partial_items`, those that are truncated. Descriptors have no pooling: None, and
        nothing in `by_pooling`.

    Raises:
        ConfigError: a class without an item that can be read, settings that do not fit, or a cache of
            others.
    """
    source, rows = labelled_folder(folder)
    extractor = _extractor(model, kind, pooling, processor or {}, size, device)
    features = _features(source, extractor, cache or _default_cache(source, extractor, errors), errors)
    number_of = {rows[i].key: int(rows[i].labels[0]) for i in range(len(rows))}
    found = np.array([number_of[item.key] for item in features.items], np.int64)
    counts = np.bincount(found, minlength=len(rows.names))
    empty = [name for name, count in zip(rows.names, counts, strict=True) if not count]
    if empty:
        raise ConfigError(f"no item of {', '.join(empty)} could be read: a class without a sample")
    if len(rows.names) < 2:
        raise ConfigError(f"{folder} has one class only ({rows.names[0]}): nothing to tell apart")
    folds = fold_numbers([item.key for item in features.items], found)
    matrix, by_pooling = features.matrix, {}
    if isinstance(extractor, EncoderFeatures):
        matrices = extractor.poolings(features.matrix)
        pooling = pooling or _default_pooling(extractor.encoder, features.items, matrices)
        if pooling not in matrices:
            raise ConfigError(f"{model} has no {pooling} output, it has {', '.join(matrices)}")
        matrix = matrices[pooling]
        by_pooling = {name: _accuracies(values, found, folds) for name, values in matrices.items()}
    partial = {"partial": len(features.partial), "partial_items": features.partial}
    if picture is not None:
        _draw(source, features.items, matrix, found, rows.names, folds, model).save(picture)
    return {
        **(by_pooling[pooling] if pooling else _accuracies(matrix, found, folds)),
        "pooling": pooling,
        "by_pooling": by_pooling,
        "chance": 1 / len(rows.names),
        "majority": float(counts.max() / counts.sum()),
        "items": len(found),
        "rejected": len(features.rejected),
        "rejected_items": features.rejected,
        **(partial if errors == "partial" else {}),
        "classes": dict(zip(rows.names, counts.tolist(), strict=True)),
        "neighbours": NEIGHBOURS,
        "split": f"{FOLDS} folds of each class by the SHA-256 of the key; each item against the other folds",
        "model": model,
    }


def _extractor(
    model: str,
    kind: str | None,
    pooling: str | None,
    processor: Mapping[str, Any],
    size: int | None,
    device: str,
) -> FeatureExtractor:
    if model == _DESCRIPTORS or model.startswith(f"{_DESCRIPTORS}:"):
        unused = {"kind": kind, "pooling": pooling, "size": size, **processor}
        unused.pop("num_frames", None)
        given = [name for name, value in unused.items() if value is not None]
        if given:
            raise ConfigError(f"{', '.join(given)} is for an encoder; {model} takes num_frames only")
        return make_extractor(model, num_frames=processor.get("num_frames"))
    if pooling not in (None, *POOLINGS):
        raise ConfigError(f"unknown pooling {pooling!r}: choose {', '.join(POOLINGS)}")
    encoder = load_frozen(model, device)
    return EncoderFeatures(encoder, input_settings(encoder, kind, processor, size))


def _default_pooling(encoder: FrozenEncoder, items: Sequence[Item], matrices: Mapping[str, Tensor]) -> str:
    """What an encoder of this package knows of motion stands in where its tokens are: its pooled output has
    no position."""
    if isinstance(encoder, OneVisionTokens) and all(item.kind == "video" for item in items):
        return "grid"
    return "pooler" if "pooler" in matrices else "tokens"


def _accuracies(matrix: Tensor, labels: np.ndarray, folds: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": _over_folds(matrix, labels, folds, _neighbours),
        "linear_accuracy": _over_folds(matrix, labels, folds, _linear),
    }


def _default_cache(source: Source, extractor: FeatureExtractor, errors: str) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parts = [source.digest, extractor.identity, *(["partial"] if errors == "partial" else [])]
    return home / "onevision_hf" / "knn" / digest_of(parts)[:24]


def _features(source: Source, extractor: FeatureExtractor, cache: str | Path, errors: str) -> Features:
    """Encode what is not encoded yet, pictures and clips apart, and read all of it."""
    by_key = {item.key: item for item in source.items}
    matrices, items = [], []
    notes: dict[str, list[dict[str, str]]] = {"rejected": [], "partial": []}
    for kind in sorted({item.kind for item in source.items}):
        run = Path(cache) / kind
        try:
            extract_features(source, run, extractor, kind, batch_size=8, workers=2, errors=errors)
        except OtherPlanError as error:
            raise ConfigError(
                f"the cache {run} was made from something else: {error.difference}. Name another --cache, or "
                "delete this one"
            ) from error
        shards = FeatureShards(run)
        for shard in range(len(shards)):
            items += [by_key[key] for key in shards.table(shard, ["key"])["key"].to_pylist()]
            matrices.append(torch.from_numpy(shards.matrix(shard).astype(np.float32)))
        for name in notes if errors == "partial" else ("rejected",):
            lines = (run / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
            notes[name] += [json.loads(line) for line in lines]
    if len({matrix.shape[1] for matrix in matrices if len(matrix)}) > 1:
        raise ConfigError("pictures and clips have features of different lengths: ask for each apart")
    return Features(torch.cat([m for m in matrices if len(m)]), items, **notes)


def _over_folds(matrix: Tensor, labels: np.ndarray, folds: np.ndarray, hits: Callable[..., float]) -> float:
    """The fraction of all items that are right, each fold answered by the others."""
    found = 0.0
    for fold in np.unique(folds):
        queries = folds == fold
        found += hits(matrix[~queries], labels[~queries], matrix[queries], labels[queries]) * queries.sum()
    return float(found / len(labels))


def _neighbours(bank: Tensor, bank_labels: np.ndarray, queries: Tensor, labels: np.ndarray) -> float:
    pair = (bank, torch.from_numpy(bank_labels))
    return neighbour_accuracy(queries, torch.from_numpy(labels), NEIGHBOURS, bank=pair)


def _linear(bank: Tensor, bank_labels: np.ndarray, queries: Tensor, labels: np.ndarray) -> float:
    """Logistic regression on standardised features, scikit-learn's own regularisation (C = 1)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(bank_labels)) < 2:
        return float((labels == bank_labels[0]).mean())
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(linear.fit(bank.numpy(), bank_labels).score(queries.numpy(), labels))


def _draw(
    source: Source,
    items: Sequence[Item],
    matrix: Tensor,
    labels: np.ndarray,
    names: list[str],
    folds: np.ndarray,
    model: str,
) -> Image.Image:
    """One item of each class, and what lies nearest to it in the other folds."""
    rows = []
    for label in range(len(names))[:: max(1, -(-len(names) // _PICTURED))]:
        own = np.flatnonzero(labels == label)
        query = int(own[folds[own].argmin()])
        cosine = matrix @ matrix[query]
        cosine[torch.from_numpy(folds == folds[query])] = -torch.inf
        near = cosine.topk(min(_SHOWN, int((folds != folds[query]).sum()))).indices.tolist()
        right = sum(labels[i] == label for i in near)
        groups = [("query", [tile(source, items[query])])]
        groups += [(names[labels[i]], [tile(source, items[i])]) for i in near]
        rows.append(SheetRow(names[label], f"{right} of {len(near)} nearest are of its class", groups))
    return sheet(
        "Nearest neighbours",
        f"{model}: {len(items):,} items of {len(names)} classes; over each neighbour its class",
        rows,
    )
