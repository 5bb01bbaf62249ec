"""Prompts made ahead of the model, in threads: media read and cut, text as tokens.

    for prompt in PromptLoader(processor, {"num_patches": 2048}).load(questions):
        ...                                 # in the order of the questions; a broken one as `BrokenPrompt`

A clip that several questions in a row are about is read once, and its patches are freed after the last of
them.
"""

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...modeling.prompt_media import media_of_prompts
from ...modeling.video_reader import VideoReadError
from .questions import BrokenMediaError, Question, conversation_of, media_in

IMAGE, VIDEO = "image", "video"
# Of media that were read and not used yet.
MOST_BYTES = 1 << 30


@dataclass(eq=False)
class Medium:
    """An image or a video as patches (N, C*p*p) and positions (N, 3); one `key`, the same features.

    kind: what it is to the model. grid: (rows, 3) [frames, rows, columns] where the model takes it so.
    """

    kind: str
    key: str
    patches: Tensor
    positions: Tensor
    grid: Tensor | None = None


@dataclass(eq=False)
class Prompt:
    """A question as the model takes it: `ids` (L,) with a token for every feature, `media` in their order,
    `continuation` (M,) where a loss is wanted."""

    question: Question
    ids: Tensor
    media: list[Medium]
    continuation: Tensor | None = None

    @property
    def length(self) -> int:
        return len(self.ids) + (0 if self.continuation is None else len(self.continuation))


@dataclass
class BrokenPrompt:
    """A question whose media are broken."""

    question: Question
    error: BrokenMediaError


class PromptLoader:
    """Reads ahead of whoever iterates.

    Args:
        processor: an `OneVisionVLProcessor`.
        processor_kwargs: its settings.
        workers: threads that read media; another one writes prompts.
        ahead: media that may be read or being read before they are used.

    Attributes: `waited`, seconds in which the next question was not ready yet; `read_media`, how many were
    read.
    """

    def __init__(self, processor: Any, processor_kwargs: Mapping[str, Any], workers: int = 2, ahead: int = 8):
        self.processor, self.processor_kwargs = processor, dict(processor_kwargs)
        self.workers, self.ahead = workers, max(ahead, workers)
        self.waited = 0.0
        self.read_media = self._read_bytes = 0

    def load(self, questions: Sequence[Question]) -> Iterator[Prompt | BrokenPrompt]:
        """Raises what is no fault of the media, such as a prompt longer than the context."""
        left = Counter(path for question in questions for path in question.videos)
        clips: dict[str, Future] = {}
        waiting: deque[tuple[Question, Future]] = deque()
        upcoming = iter(questions)
        readers = ThreadPoolExecutor(self.workers, "read-media")
        # Prompts about clips wait for these, so they must not take the readers' threads.
        writer = ThreadPoolExecutor(1, "write-prompts")
        try:
            while True:
                while self._room(len(clips) + sum(not question.videos for question, _ in waiting)):
                    question = next(upcoming, None)
                    if question is None:
                        break
                    for path in question.videos:
                        if path not in clips:
                            clips[path] = readers.submit(self._video, path)
                    pool = writer if question.videos else readers
                    known = {path: clips[path] for path in question.videos}
                    waiting.append((question, pool.submit(self._prepare, question, known)))
                if not waiting:
                    return
                question, future = waiting.popleft()
                began = time.perf_counter()
                result = future.result()
                self.waited += time.perf_counter() - began
                yield result
                for path in question.videos:
                    left[path] -= 1
                    if not left[path]:
                        clips.pop(path, None)
        finally:
            readers.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)

    def _room(self, underway: int) -> bool:
        """Whether one more medium may be begun: by number, and by what those before it weighed."""
        if underway < self.workers:
            return True
        mean = self._read_bytes / self.read_media if self.read_media else 0
        return underway < self.ahead and underway * mean < MOST_BYTES

    def _prepare(self, question: Question, clips: Mapping[str, Future]) -> Prompt | BrokenPrompt:
        try:
            messages = conversation_of(question)
            videos = [
                clips[video].result() if isinstance(video, str) and video in clips else self._video(video)
                for kind, video in media_in(messages)
                if kind == VIDEO
            ]
            images = [image for kind, image in media_in(messages) if kind == IMAGE]
            return self._tokens(question, messages, images, videos)
        except BrokenMediaError as error:
            return BrokenPrompt(question, error)
        except VideoReadError as error:
            return BrokenPrompt(question, BrokenMediaError(str(error.path), error.reason))
        except OSError as error:
            return BrokenPrompt(question, BrokenMediaError(str(error.filename or ""), str(error)))

    def _tokens(self, question: Question, messages: Any, images: list[Any], videos: list[Any]) -> Prompt:
        processor = self.processor
        prompt = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, sanitize_control_tokens=True
        )
        clips = [clip for clip, _ in videos]
        for kind, own, token in (
            (IMAGE, images, processor.image_token),
            (VIDEO, clips, processor.video_token),
        ):
            media_of_prompts(own or None, [prompt], token, kind)
        pictures = [processor.read_image(image, **self.processor_kwargs) for image in images]
        ids = processor.tokenized([processor.expanded(prompt, pictures, clips)])["input_ids"][0]
        shown = {
            IMAGE: iter(
                [self._medium(IMAGE, _image_key(i), p) for i, p in zip(images, pictures, strict=True)]
            ),
            VIDEO: iter([medium for _, medium in videos]),
        }
        media = [next(shown[kind]) for kind, _ in media_in(messages)]
        continuation = None
        if question.continuation is not None:
            tokens = self.processor.tokenizer(question.continuation, add_special_tokens=False)
            continuation = torch.tensor(tokens["input_ids"])
        return Prompt(question, ids, media, continuation)

    def _video(self, video: Any) -> tuple[Any, Medium]:
        """A clip as the processor reads it and as what the model takes (the same memory)."""
        clip = self.processor.read_video(video, **self.processor_kwargs)
        return clip, self._medium(VIDEO, _video_key(video), clip)

    def _medium(self, kind: str, key: str, read: Any) -> Medium:
        """What the processor read, for the model; to a published one everything is an image."""
        parts = read if isinstance(read, tuple) else (read.patches, read.positions)
        patches, positions = map(torch.as_tensor, parts)
        self.read_media += 1
        self._read_bytes += patches.nbytes
        grid = getattr(read, "grid", None)
        return Medium(kind if grid is None else IMAGE, key, patches, positions, grid)


def _video_key(video: Any) -> str:
    """A file as it is now; decoded frames are nobody else's."""
    if isinstance(video, str | os.PathLike):
        facts = os.stat(video)
        return f"{os.path.abspath(video)} {facts.st_size} {facts.st_mtime_ns}"
    return f"frames {id(video)} {time.monotonic_ns()}"


def _image_key(image: Any) -> str:
    """By content: several questions often show the same picture, each in its own row of the data set."""
    if isinstance(image, Image.Image):
        content = hashlib.sha256(image.tobytes()).hexdigest()
        return f"image {image.mode} {image.size} {content}"
    return f"image {id(image)} {time.monotonic_ns()}"
