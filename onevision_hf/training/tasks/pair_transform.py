"""What becomes of an image with captions: pixels or cached latents, tokens of its texts, the seed of its
noise. See transforms.py for `rng` and `position`.

Shapes: S side in pixels, C latent channels, h x w latent grid, T texts, L tokens of the longest text.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...data.media import open_picture
from ...data.sources import MediaError
from ...modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from ...pretraining.tokenizer import CaptionTokenizer
from ..mixture import Sample
from ..transforms import pad_labels, square_crop
from .unified_config import PairsConfig


@dataclass(frozen=True)
class Needs:
    """What the losses that have a weight, and the encoder, take of a sample."""

    pixels: bool
    latents: bool
    texts: bool
    caption: bool


class PairTransform:
    """`pixel_values` (3, S, S) in [-1, 1]; `latents` (C, h, w); `text_ids`, `text_mask` (L, T), in that order
    so that a batch is padded over L; `caption_ids`, `caption_mask` (L,); `cut` (1,), texts over the length;
    `noise_seed` (1,). Of these, what is needed.

    An example without captions, or with empty ones only, is broken: MediaError. With cached latents the
    pixels are the middle of the picture, as `onevision latents` takes it. A labelled example, for validation,
    gives `pixel_values` and `labels`.

    Args:
        pairs: size, crop, texts.
        needs: what of a sample is made.
        text: tokens of the contrastive loss.
        caption: tokens of the caption to be written.
    """

    def __init__(self, pairs: PairsConfig, needs: Needs, text: CaptionTokenizer, caption: CaptionTokenizer):
        self.pairs, self.needs, self._text, self._caption = pairs, needs, text, caption
        side = {"height": pairs.size, "width": pairs.size}
        self._middle = OpenVision3ImageProcessor(size={"shortest_edge": pairs.size}, crop_size=side)

    def __call__(self, example: Any, rng: np.random.Generator | None, position: int) -> Sample:
        if rng is None:
            return {
                "pixel_values": self._pixels(example.media, None),
                "labels": pad_labels(example.labels, 1),
            }
        sample: Sample = {}
        # Drawn in one order, whatever is needed, so that another weight does not change the rest.
        seed = rng.integers(2**62)
        order = rng.permutation(max(1, len(example.captions)))
        if self.needs.pixels:
            sample["pixel_values"] = self._pixels(example.media, rng)
        if self.needs.latents:
            sample["latents"] = example.latents.float().numpy()
        if self.needs.texts or self.needs.caption:
            sample |= self._words(example, order)
        return sample | {"noise_seed": np.array([seed], np.int64)}

    def _pixels(self, media: Any, rng: np.random.Generator | None) -> np.ndarray:
        pairs = self.pairs
        if rng is None or pairs.latents is not None:
            picture = open_picture(media) if isinstance(media, str | bytes) else media
            return self._middle(picture, return_tensors="np").pixel_values[0]
        picture = square_crop(media, pairs.size, pairs.min_crop_scale, pairs.horizontal_flip, rng)
        return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1

    def _words(self, example: Any, order: np.ndarray) -> Sample:
        if not example.captions:
            raise MediaError("it has no caption")
        captions = [example.captions[i] for i in order if example.captions[i].strip()]
        if not captions:
            raise MediaError("its caption is empty")
        sample: Sample = {}
        cut = 0
        if self.needs.texts:
            encoded = [self._text.encode(captions[i % len(captions)]) for i in range(self.pairs.texts)]
            rows = [ids for ids, _ in encoded]
            cut += sum(was_cut for _, was_cut in encoded)
            shape = (max(map(len, rows)), len(rows))
            sample["text_ids"] = np.full(shape, self._text.ids.pad, np.int64)
            sample["text_mask"] = np.zeros(shape, np.int64)
            for number, ids in enumerate(rows):
                sample["text_ids"][: len(ids), number] = ids
                sample["text_mask"][: len(ids), number] = 1
        if self.needs.caption:
            first = next(caption for caption in example.captions if caption.strip())
            ids, was_cut = self._caption.encode(first if self.pairs.target == "first" else captions[0])
            cut += was_cut
            sample["caption_ids"] = np.array(ids, np.int64)
            sample["caption_mask"] = np.ones(len(ids), np.int64)
        return sample | {"cut": np.array([cut], np.int64)}
