"""Questions to a multimodal model: what lmms-eval's requests say, in both of its protocols.

    Question(lambda: [{"role": "user", "content": [{"type": "video", "video": "clip.mp4"}, ...]}])

A chat request holds a function that gives messages; a simple one holds text and a function that gives the
images and videos. Both are called as late as possible: pictures are large, and a benchmark's code may fail in
its own ways, one of which is to end the process.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from .suite import row_of

Conversation = list[dict[str, Any]]
# Arguments of lmms-eval's tasks that are `generate`'s; the rest is other models' (image_aspect_ratio, ...).
GENERATION = (
    "max_new_tokens", "min_new_tokens", "do_sample", "temperature", "top_p", "top_k", "num_beams",
    "length_penalty", "repetition_penalty", "no_repeat_ngram_size",
)  # fmt: skip
SAMPLED = ("temperature", "top_p", "top_k")
# For a task that sets no limit; upstream's models take the same.
MAX_NEW_TOKENS = 1024


class BrokenMediaError(Exception):
    """Media of a question that cannot be read: `media` names the file where it is known."""

    def __init__(self, media: str, reason: str):
        super().__init__(f"{media}: {reason}" if media else reason)
        self.media, self.reason = media, reason


@dataclass(frozen=True)
class BrokenQuestion:
    """A question whose media could not be read.

    Attributes:
        media: the file, or "" where the task did not get so far as to name one.
        reason: what was wrong.
        counted: "wrong", or "skipped".
    """

    task: str
    doc_id: int
    media: str
    reason: str
    counted: str


@dataclass
class Question:
    """One prompt, and how it is answered.

    Attributes:
        messages: gives the conversation, a list of {"role", "content"} as in transformers; raises
            `BrokenMediaError`.
        generation: arguments of `generate`; questions of one batch have the same ones.
        until: the answer ends before any of these.
        continuation: wants the loss of this answer in place of an answer.
        videos: files that it is about, where that is known beforehand: such questions are put together.
        needs_media: a conversation without any is broken.
        tag: whatever the caller knows it by.
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
            or gave no media where the question needs some.
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


def split_generation(
    arguments: Mapping[str, Any], limit: int | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(arguments of `generate`, strings that end an answer) of a task's `generation_kwargs`.

    Temperature 0 is greedy; `limit` caps max_new_tokens.
    """
    kept = {name: arguments[name] for name in GENERATION if arguments.get(name) is not None}
    kept["do_sample"] = bool(kept.get("do_sample", False)) and kept.get("temperature", 1.0) > 0
    if not kept["do_sample"]:
        kept = {name: value for name, value in kept.items() if name not in SAMPLED}
    kept.setdefault("max_new_tokens", MAX_NEW_TOKENS)
    if limit is not None:
        kept["max_new_tokens"] = min(kept["max_new_tokens"], limit)
    until = arguments.get("until") or ()
    return kept, tuple(filter(None, [until] if isinstance(until, str) else until))


def chat_messages(messages: Any) -> Conversation:
    """lmms-eval's messages as transformers': the "url" of a video goes under "video".

    Raises:
        ValueError: sound, or a part of a video, which this model does not take.
    """
    conversation = []
    for message in messages:
        content = message["content"]
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts = []
        for part in content:
            kind = part["type"]
            if kind == "text":
                parts.append({"type": "text", "text": part["text"]})
            elif kind in ("image", "video"):
                if part.get("start_time") is not None or part.get("end_time") is not None:
                    raise ValueError(
                        "the task is about a part of a video (start_time, end_time): not supported"
                    )
                parts.append({"type": kind, kind: part["url"]})
            else:
                raise ValueError(f"the task shows {kind}; this model takes text, images and videos")
        conversation.append({"role": message["role"], "content": parts})
    return conversation


def visual_messages(text: str, visuals: Any) -> Conversation:
    """Images and videos (paths), then the text, as one turn."""
    parts: list[dict[str, Any]] = []
    for visual in visuals or ():
        kind = "video" if isinstance(visual, str) else "image"
        parts.append({"type": kind, kind: visual})
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def needs_media(task: str) -> bool:
    """Whether a document of the task without media is one whose file is missing."""
    row = row_of(task)
    return row is not None and row.media == "video"


def with_videos(question: Question) -> Question:
    """The question with the files that it is about, for tasks whose documents hold no pictures.

    Raises:
        BrokenMediaError: as `conversation_of`.
    """
    videos = [media for kind, media in media_in(conversation_of(question)) if kind == "video"]
    if videos and all(isinstance(video, str) for video in videos):
        question.videos = tuple(dict.fromkeys(videos))
    return question


class Documents:
    """The documents of lmms-eval's tasks, and their plain fields, which never decode a picture."""

    def __init__(self, task_dict: Mapping[str, Any]):
        self._tasks = task_dict
        self._plain: dict[tuple[str, str], tuple[Any, Any]] = {}

    def __getitem__(self, place: tuple[str, str, int]) -> Any:
        task, split, number = place
        return self._tasks[task][split][number]

    def plain(self, task: str, split: str, number: int) -> dict[str, Any]:
        """The document without pictures, sounds and videos.

        Args:
            task: its name.
            split: of its data.
            number: of the document.
        """
        rows = self._plain_rows(task, split)
        return {name: value for name, value in rows[number].items() if _is_plain(value)}

    def has_pictures(self, task: str, split: str) -> bool:
        return self._plain_rows(task, split) is not self._tasks[task][split]

    def _plain_rows(self, task: str, split: str) -> Any:
        rows = self._tasks[task][split]
        known = self._plain.get((task, split))
        if known is None or known[0] is not rows:
            media = [
                name
                for name, feature in (getattr(rows, "features", None) or {}).items()
                if any(kind in str(feature) for kind in ("Image(", "Audio(", "Video("))
            ]
            known = self._plain[task, split] = (rows, rows.remove_columns(media) if media else rows)
        return known[1]


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def task_of(function: Any) -> Any:
    """The task whose method lmms-eval put into a request; None where it is no method."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__self__", None)
