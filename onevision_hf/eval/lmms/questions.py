"""A question to a multimodal model, and what may go wrong with its media.

    Question(lambda: [{"role": "user", "content": [{"type": "video", "video": "clip.mp4"}, ...]}])

A conversation is made when it is needed: pictures are large, and the code of a benchmark that gives them may
fail in its own ways, one of which is to end the process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Conversation = list[dict[str, Any]]


class BrokenMediaError(Exception):
    """Media of a question that cannot be read: `media` names the file where it is known."""

    def __init__(self, media: str, reason: str):
        super().__init__(f"{media}: {reason}" if media else reason)
        self.media, self.reason = media, reason


@dataclass
class Question:
    """What is asked.

    Attributes:
        messages: gives the conversation, a list of {"role", "content"} as in transformers; raises
            `BrokenMediaError`.
        generation: arguments of `generate`; questions of one batch have the same ones.
        until: the answer ends before any of these.
        continuation: asks for the loss of this answer in place of an answer.
        videos: files that it asks about, where that is known beforehand: such questions are put together.
        needs_media: a conversation without any is broken.
        tag: whatever the asker knows it by.
    """

    messages: Callable[[], Conversation]
    generation: Mapping[str, Any] = field(default_factory=dict)
    until: tuple[str, ...] = ()
    continuation: str | None = None
    videos: tuple[str, ...] = ()
    needs_media: bool = False
    tag: Any = None


@dataclass(frozen=True)
class Answer:
    """`text`, or the mean loss of the continuation and whether it would be chosen; tokens of the prompt with
    its media, and of the answer."""

    text: str = ""
    loss: float | None = None
    greedy: bool = False
    prompt_tokens: int = 0
    answer_tokens: int = 0


def conversation_of(question: Question) -> Conversation:
    """The conversation, whatever the benchmark's code does.

    Raises:
        BrokenMediaError: it failed, tried to end the process (as several tasks do where a file is missing),
            or
            gave no media where the question needs some.
    """
    try:
        messages = question.messages()
    except SystemExit as error:
        raise BrokenMediaError("", str(error.code)) from error
    except BrokenMediaError:
        raise
    except Exception as error:
        raise BrokenMediaError("", f"{type(error).__name__}: {error}") from error
    if question.needs_media and not media_in(messages):
        raise BrokenMediaError("", "the task gave no image and no video: its file is missing")
    return messages


def media_in(messages: Conversation) -> list[tuple[str, Any]]:
    """(kind, image or video) in the order of the conversation."""
    found = []
    for message in messages:
        content = message["content"]
        for part in content if isinstance(content, list) else ():
            if part["type"] in ("image", "video"):
                found.append((part["type"], part[part["type"]]))
    return found
