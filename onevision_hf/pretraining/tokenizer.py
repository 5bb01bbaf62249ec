"""Texts -> tokens for the text heads: `<bos> words <eos>`, padded on the right, cut where they are too long.

    tokenizer = CaptionTokenizer(load_tokenizer(), max_length=64)
    batch = tokenizer(["a red disc", "a blue cross"])        # input_ids, attention_mask (2, 64)
    model.get_text_features(**batch)

The tokenizer of the package has 438 tokens (all bytes, and pieces of drawn captions): any text can be written
with it, and it is meant for tests and small runs. scripts/make_tokenizer.py made it.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

BUILTIN = "builtin"


class TokenIds(NamedTuple):
    """What marks a text, and how many tokens there are."""

    bos: int
    eos: int
    pad: int
    vocab_size: int


def load_tokenizer(name: str = BUILTIN) -> Any:
    """The package's tokenizer, or any of transformers' by its folder or Hub name."""
    if name == BUILTIN:
        return PreTrainedTokenizerFast.from_pretrained(
            str(files("onevision_hf.pretraining") / "builtin_tokenizer")
        )
    return AutoTokenizer.from_pretrained(name)


def token_ids(tokenizer: Any) -> TokenIds:
    """The marks of a tokenizer: of beginning and end, or BERT's [CLS] and [SEP]; padding, or the end again.

    Raises ValueError for a tokenizer without them.
    """

    def first(*names: str) -> int:
        for name in names:
            if (found := getattr(tokenizer, f"{name}_token_id", None)) is not None:
                return found
        raise ValueError(
            f"the tokenizer {getattr(tokenizer, 'name_or_path', tokenizer)!r} has no mark "
            f"{' or '.join(f'{name}_token' for name in names)}: set one, or use another tokenizer"
        )

    return TokenIds(first("bos", "cls", "eos"), first("eos", "sep"), first("pad", "eos"), len(tokenizer))


class CaptionTokenizer:
    """Texts of at most `max_length` tokens, the two marks included.

    Attributes: `tokenizer`, `ids` (a `TokenIds`), `max_length`, `cut`: texts that were cut so far.
    """

    def __init__(self, tokenizer: Any, max_length: int):
        if max_length < 3:
            raise ValueError(f"max_length is {max_length}: two marks and a word need 3")
        self.tokenizer, self.max_length, self.cut = tokenizer, max_length, 0
        self.ids = token_ids(tokenizer)

    def encode(self, text: str) -> tuple[list[int], bool]:
        """One text without padding, and whether it was cut. Raises ValueError for one without a word."""
        words = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text.strip() else []
        if not words:
            raise ValueError("an empty caption")
        room = self.max_length - 2
        self.cut += len(words) > room
        return [self.ids.bos, *words[:room], self.ids.eos], len(words) > room

    def __call__(self, texts: str | Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (texts, max_length) int64. Raises as `encode`."""
        rows = [self.encode(text)[0] for text in ([texts] if isinstance(texts, str) else texts)]
        padded = [row + [self.ids.pad] * (self.max_length - len(row)) for row in rows]
        mask = [[1] * len(row) + [0] * (self.max_length - len(row)) for row in rows]
        return {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
