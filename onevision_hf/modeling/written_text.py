"""What people write stays text: a control token that stands in it is written, not meant.

A chat template puts texts between control tokens (`<|im_end|>`, those of media), and the tokenizer cannot
tell who wrote which. So a break is put behind the first character of each that stands in a text: nothing that
looks for the token finds it any more, and `encode` takes what lies between breaks piece by piece, which
decodes to what was typed, to the letter.

messages = ControlTokens(tokenizer, template).broken(messages)      # then the template, then media
ids = encode(tokenizer, prompt)
"""

import re
from collections.abc import Mapping
from typing import Any

from .message_media import KINDS

BREAK = "\ufdd0"  # no character: Unicode keeps it for such uses. One that somebody types is doubled
TOKENIZED_BY = ("add_special_tokens", "truncation", "max_length")


class ControlTokens:
    """The strings that mean something to a model: special tokens, and others that its chat template writes.

    Of the assistant's turns only the special ones count: the others (`<think>`) are its own words.

    Args:
        tokenizer: with the tokens.
        template: text that contains the chat template.
    """

    def __init__(self, tokenizer: Any, template: str):
        # A token of one character cannot be broken; those are letters and line breaks, and end no turn.
        added = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content) > 1]
        self._special = {token.content for token in added if token.special}
        written = {token.content for token in added if token.content in template}
        self._all = self._special | {token for token in written if not token.isspace()}

    def broken(self, value: Any) -> Any:
        """Messages, conversations, or what else a template is given, with breaks in all strings."""
        return self._broken(value, self._all)

    def _broken(self, value: Any, tokens: set[str]) -> Any:
        if isinstance(value, str):
            return _broken_text(value, tokens)
        if isinstance(value, Mapping) and str(value.get("type")) in KINDS:
            return value  # a medium, which may be megabytes of text
        if isinstance(value, Mapping):
            own = self._special if value.get("role") == "assistant" else tokens
            return {name: self._broken(found, own) for name, found in value.items()}
        if isinstance(value, list | tuple):
            return [self._broken(found, tokens) for found in value]
        return value


def _broken_text(text: str, tokens: set[str]) -> str:
    text = literal(text)
    there = [token for token in tokens if token in text]
    cuts = {found.start() + 1 for token in there for found in re.finditer(f"(?={re.escape(token)})", text)}
    for cut in sorted(cuts, reverse=True):
        text = text[:cut] + BREAK + text[cut:]
    # Two texts in a row must not make one either.
    begun = any(text.endswith(token[:length]) for token in tokens for length in range(1, len(token)))
    return text + BREAK if begun else text


def literal(text: str) -> str:
    """A prompt in which nothing is broken, for `encode`."""
    return text.replace(BREAK, 2 * BREAK)


def pieces(text: str) -> list[str]:
    """What lies between the breaks of a prompt, as it was typed."""
    found = [""]
    for part in re.split(f"({BREAK}{{1,2}})", text):
        if part == BREAK:
            found.append("")
        else:
            found[-1] += part.replace(2 * BREAK, BREAK)
    return [piece for piece in found if piece]


def encode(tokenizer: Any, text: str, add_special_tokens: bool = False) -> list[int]:
    """The tokens of a prompt with breaks.

    Args:
        tokenizer: of the model.
        text: with breaks.
        add_special_tokens: those that the tokenizer puts around a text.
    """

    def plain(piece: str) -> list[int]:
        return list(tokenizer(piece, add_special_tokens=False)["input_ids"])

    if BREAK not in text:
        return list(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
    first, *rest = pieces(text) or [""]
    ids, line = plain(first), plain("\n")
    for piece in rest:
        # Some tokenizers put a space before a text, but not before what follows a line break.
        found = plain("\n" + piece)
        ids += found[len(line) :] if found[: len(line)] == line else plain(piece)
    if add_special_tokens:
        around, inner = tokenizer("a")["input_ids"], plain("a")
        before = next(i for i in range(len(around)) if around[i : i + len(inner)] == inner)
        ids = [*around[:before], *ids, *around[before + len(inner) :]]
    return ids


def encode_batch(tokenizer: Any, prompts: list[str], settings: dict[str, Any]) -> Any:
    """What the tokenizer makes of prompts, some of which have breaks.

    Args:
        tokenizer: of the model.
        prompts: with breaks.
        settings: of the tokenizer.

    Raises:
        ValueError: a setting that cannot be followed where there are breaks.
    """
    if not any(BREAK in prompt for prompt in prompts):
        return tokenizer(prompts, return_tensors="pt", return_token_type_ids=False, **settings)
    own = dict(settings)
    special, truncation, most = (own.pop(name, None) for name in TOKENIZED_BY)
    if own.pop("return_offsets_mapping", False):
        raise ValueError(
            "return_offsets_mapping has no meaning where control tokens were typed as text: "
            "sanitize_control_tokens=False takes them for control tokens"
        )
    rows = [encode(tokenizer, prompt, special in (None, True)) for prompt in prompts]
    if truncation:
        limit = most or tokenizer.model_max_length
        left = tokenizer.truncation_side == "left"
        rows = [row[-limit:] if left else row[:limit] for row in rows]
    if own.get("padding") == "max_length":
        own["max_length"] = most
    return tokenizer.pad({"input_ids": rows}, return_tensors="pt", **own)


__all__ = ["ControlTokens", "encode", "encode_batch", "literal"]
