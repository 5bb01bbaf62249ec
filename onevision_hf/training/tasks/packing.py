"""Packs of conversations: as many as a budget of tokens holds, decided once, so that pack k is always pack k.

    lengths = measure(rows, measurer, out / "lengths.npz")
    packs = pack(lengths, budget=8192, seed=0)      # lists of row numbers

Nothing is padded. Lengths are counted without decoding: words by the tokenizer, media by their sizes, which
the header of a file tells.
"""

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.media import BROKEN
from ...modeling.frame_sequence import open_video
from ...modeling.prompt_media import media_parts
from ..sampler import Permutation

PACK = 18  # what a key is for; with those of order.py all different
_OPEN = 32  # packs that are tried for a conversation before a new one is begun


def pack(lengths: np.ndarray, budget: int, seed: int) -> list[np.ndarray]:
    """Rows (each once) in packs of at most `budget` tokens; a row beyond the budget is a pack of its own.

    Rows are taken in an order that the seed decides, and each goes into the fullest of the open packs that
    still holds it.
    """
    order = Permutation(len(lengths), PACK, seed)(np.arange(len(lengths)))
    full: list[list[int]] = []
    waiting: list[tuple[int, list[int]]] = []
    for row in order.tolist():
        length = int(lengths[row])
        fits = [number for number, (used, _) in enumerate(waiting) if used + length <= budget]
        if fits:
            best = max(fits, key=lambda number: waiting[number][0])
            used, rows = waiting.pop(best)
            rows.append(row)
            waiting.append((used + length, rows))
            continue
        waiting.append((length, [row]))
        if len(waiting) > _OPEN:
            fullest = max(range(len(waiting)), key=lambda number: waiting[number][0])
            full.append(waiting.pop(fullest)[1])
    full += [rows for _, rows in waiting]
    return [np.array(rows) for rows in full]


class Measurer:
    """Tokens of a conversation, from its words and the sizes of its media."""

    def __init__(self, processor: Any, plain: bool, settings: dict[str, Any]):
        self.processor, self.plain, self.settings = processor, plain, settings

    def digest(self, rows: Any) -> str:
        """What the lengths depend on, short of the content of media."""
        known = [len(rows), self.plain, self.processor.to_dict(), self.settings]
        known.append(self.processor.chat_template)
        known.append([rows._name, repr(rows._records[0])[:1000], repr(rows._records[-1])[:1000]])
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def __call__(self, conversation: Any) -> int:
        pieces = self.processor.segments(conversation.messages, self.plain)
        words = "".join(text for text, _ in pieces)
        media = [part for message in conversation.messages for part in media_parts(message)]
        count = len(self.processor.tokenizer(words)["input_ids"]) - len(media)
        for part in media:
            kind = part["type"]
            sizes = {f"{kind}_sizes": [_size(kind, part[kind])]}
            found = self.processor._get_num_multimodal_tokens(**sizes, **self.settings)
            count += found[f"num_{kind}_tokens"][0]
        return count


def measure(rows: Any, measurer: Measurer, cache: Path) -> np.ndarray:
    """Tokens (N,) int64 of every row, 0 for one that cannot be read; kept in `cache` for the next start."""
    digest = measurer.digest(rows)
    if cache.is_file():
        with np.load(cache) as kept:
            if str(kept["digest"]) == digest:
                return kept["lengths"]
    lengths = np.zeros(len(rows), np.int64)
    for number in range(len(rows)):
        try:
            lengths[number] = measurer(rows[number])
        except BROKEN:
            continue  # the training meets it again, records it and takes another
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache.parent, suffix=".npz", delete=False) as file:
        np.savez(file, digest=np.array(digest), lengths=lengths)
    os.replace(file.name, cache)
    return lengths


def _size(kind: str, medium: Any) -> tuple[int, ...]:
    """(height, width) of an image, (frames, height, width) of a video, from the header."""
    if kind == "image":
        with Image.open(io.BytesIO(medium) if isinstance(medium, bytes) else medium) as picture:
            return picture.height, picture.width
    with open_video(medium) as reader:
        return len(reader), reader.height, reader.width
