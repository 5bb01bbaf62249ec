"""Packs of conversations: as many as a budget of tokens holds, decided once, so that pack k is always pack k.

    lengths = measure(conversations, measurer, out / "lengths.npz")
    packs = pack(lengths, budget=8192, seed=0)      # lists of their numbers

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
from ...modeling.message_media import content_of, kind_of
from ...modeling.prompt_media import media_parts
from ..sampler import Permutation

PACK = 18  # what a key is for; with those of sampler.py all different
_OPEN = 32  # packs that are tried for a conversation before a new one is begun


def pack(lengths: np.ndarray, budget: int, seed: int) -> list[np.ndarray]:
    """Conversations, each once, in packs of at most `budget` tokens; one beyond it is a pack of its own.

    They are taken in an order that the seed decides, and each goes into the fullest of the open packs that
    still holds it.

    Args:
        lengths: (N,) tokens of each.
        budget: tokens of a pack.
        seed: of the run.

    Returns:
        Their numbers, (n,) int64, by pack.
    """
    order = Permutation(len(lengths), PACK, seed)(np.arange(len(lengths)))
    full: list[list[int]] = []
    waiting: list[tuple[int, list[int]]] = []
    for index in order.tolist():
        length = int(lengths[index])
        fits = [number for number, (used, _) in enumerate(waiting) if used + length <= budget]
        if fits:
            best = max(fits, key=lambda number: waiting[number][0])
            used, numbers = waiting.pop(best)
            numbers.append(index)
            waiting.append((used + length, numbers))
            continue
        waiting.append((length, [index]))
        if len(waiting) > _OPEN:
            fullest = max(range(len(waiting)), key=lambda number: waiting[number][0])
            full.append(waiting.pop(fullest)[1])
    full += [numbers for _, numbers in waiting]
    return [np.array(numbers) for numbers in full]


class Measurer:
    """Tokens of a conversation, from its words and the sizes of its media.

    Args:
        processor: of the model.
        plain: the medium and its caption, no turns.
        settings: of the processor, as `vl.settings`.
    """

    def __init__(self, processor: Any, plain: bool, settings: dict[str, Any]):
        self.processor, self.plain, self.settings = processor, plain, settings

    def digest(self, conversations: Any) -> str:
        """What the lengths depend on, short of the content of media."""
        known = [len(conversations), self.plain, self.processor.to_dict(), self.settings]
        known.append(self.processor.chat_template)
        known.append([conversations._name, *(repr(conversations._records[i])[:1000] for i in (0, -1))])
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def __call__(self, conversation: Any) -> int:
        pieces = self.processor.segments(conversation.messages, self.plain)
        words = "".join(text for text, _ in pieces)
        media = [part for message in conversation.messages for part in media_parts(message)]
        count = len(self.processor.tokenizer(words)["input_ids"]) - len(media)
        for part in media:
            kind, content = kind_of(part), content_of(part)
            if part.keys() - {"type", kind}:  # settings of its own
                count += self._tokens_of(part, kind)
                continue
            sizes = {f"{kind}_sizes": [_size(kind, content)]}
            found = self.processor._get_num_multimodal_tokens(**sizes, **self.settings)
            count += found[f"num_{kind}_tokens"][0]
        return count

    def _tokens_of(self, part: dict[str, Any], kind: str) -> int:
        """Tokens of a medium that says itself how it is read: it is read for that."""
        found = self.processor.apply_chat_template(
            [{"role": "user", "content": [part]}],
            tokenize=True,
            return_dict=True,
            processor_kwargs=dict(self.settings),
        )
        return int(found[f"{kind}_cu_seqlens"][-1]) // self.processor.merge_size**2


def measure(conversations: Any, measurer: Measurer, cache: Path) -> np.ndarray:
    """Tokens of every conversation, without decoding its media.

    Args:
        conversations: N of them.
        measurer: counts the tokens of one.
        cache: the file that keeps them for the next start.

    Returns:
        (N,) int64, 0 for one that cannot be read.
    """
    digest = measurer.digest(conversations)
    if cache.is_file():
        with np.load(cache) as kept:
            if str(kept["digest"]) == digest:
                return kept["lengths"]
    lengths = np.zeros(len(conversations), np.int64)
    for number in range(len(conversations)):
        try:
            lengths[number] = measurer(conversations[number])
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
