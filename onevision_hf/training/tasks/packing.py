"""Packs of conversations: as many as a budget of tokens holds, decided once, so that pack k is always pack k.

    lengths = measure(conversations, measurer, out / "lengths.safetensors")
    packs = pack(lengths, budget=8192, seed=0)      # lists of their numbers

Nothing is padded. Lengths are counted without decoding: words by the tokenizer, media by their sizes, which
the header of a file tells.
"""

import hashlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.media import BROKEN
from ...data.tensor_files import seal, unseal
from ...modeling.message_media import content_of, kind_of, medium_of
from ...modeling.prompt_media import media_parts
from ...modeling.written_text import encode
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
        self.tokens = {"image": processor.image_token, "video": processor.video_token}

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
        outlines = [(kind_of(part), *self._outline(part)) for part in media]
        texts = {
            token: iter([text for own, text, _ in outlines if own == kind])
            for kind, token in self.tokens.items()
        }
        outlined = self.processor._expand(words, texts)
        words_and_media = encode(self.processor.tokenizer, outlined, add_special_tokens=True)
        return len(words_and_media) + sum(left for *_, left in outlines)

    def _outline(self, part: dict[str, Any]) -> tuple[str, int]:
        """The text of a medium with one token in place of each run of them, and how many are left out."""
        kind, content, processor = kind_of(part), content_of(part), self.processor
        if part.keys() - {"type", kind}:  # it says itself how it is read: it is read for that
            medium = medium_of(part, processor._settings_of_parts()[kind])
            read = {"image": processor.read_image, "video": processor.read_video}[kind]
            media = {"image": [], "video": [], kind: [read(medium, **self.settings)]}
            text = processor.expanded(self.tokens[kind], media["image"], media["video"])
        elif kind == "video":
            text = processor.video_text(content, **self.settings)
        else:
            sizes = [_size(content)]
            found = processor._get_num_multimodal_tokens(image_sizes=sizes, **self.settings)
            text = self.tokens[kind] * found["num_image_tokens"][0]
        short, left = text, 0
        for token in self.tokens.values():
            short = re.sub(f"({re.escape(token)})+", token, short)
            left += text.count(token) - short.count(token)
        return short, left


def measure(conversations: Any, measurer: Measurer, cache: Path) -> np.ndarray:
    """Tokens of every conversation, without decoding its media.

    Args:
        conversations: N of them.
        measurer: counts the tokens of one.
        cache: the file that keeps them for the next start.

    Returns:
        (N,) int64, 0 for one that cannot be read.

    Raises:
        DamagedError: the file is not what was written.
    """
    digest = measurer.digest(conversations)
    if cache.is_file():
        kept = unseal(cache)
        if kept["digest"].tobytes() == digest.encode():
            return kept["lengths"]
    lengths = np.zeros(len(conversations), np.int64)
    for number in range(len(conversations)):
        try:
            lengths[number] = measurer(conversations[number])
        except BROKEN:
            continue  # the training meets it again, records it and takes another
    cache.parent.mkdir(parents=True, exist_ok=True)
    own = np.frombuffer(digest.encode(), np.uint8)
    with tempfile.NamedTemporaryFile(dir=cache.parent, delete=False) as file:
        file.write(seal({"digest": own, "lengths": lengths}))
    os.replace(file.name, cache)
    return lengths


def _size(image: Any) -> tuple[int, int]:
    """(height, width), from the header."""
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
        return picture.height, picture.width
