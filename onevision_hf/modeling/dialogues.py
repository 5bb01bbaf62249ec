"""Conversations with their answers -> what a multimodal model learns from: a part of its processor.

    processor.encode_dialogue([{"role": "user", ...}, {"role": "assistant", "content": "A cat."}])

Shapes: L tokens.
"""

from typing import Any

import torch

from .frame_sequence import open_video
from .message_media import kind_of, medium_of
from .prompt_media import media_parts
from .url_access import UrlAccess
from .written_text import ControlTokens, encode

NOT_LEARNED = -100  # the label that losses of transformers pass over


class Dialogues:
    """What `OneVisionVLProcessor` makes of conversations that have answers."""

    def encode_dialogue(
        self: Any, messages: list[dict[str, Any]], *, plain: bool = False, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """One conversation with its answers, to learn from.

        Args:
            messages: with `role` and `content`.
            plain: see `segments`.
            **kwargs: settings of the media, see `__call__`.

        Returns:
            `input_ids` and `labels` (L,), which are the same where the assistant speaks (the end of its
            turn included) and -100 elsewhere; media as of `__call__`.

        Raises:
            ValueError: no answer, a medium in an answer, or a chat template that writes earlier turns in
                another way once there are later ones. What `__call__` raises of media.
        """
        _, of_images, of_videos = self._split(kwargs)
        parts = [part for message in messages for part in media_parts(message)]
        media = [medium_of(part, self._settings_of_parts()[kind_of(part)]) for part in parts]
        pictures = [self._read_image(medium, of_images) for medium in media if medium.kind == "image"]
        clips = [self._read_video(medium, of_videos) for medium in media if medium.kind == "video"]
        waiting = {
            self.image_token: iter([self._image_text(image) for image in pictures]),
            self.video_token: iter([self._video_text(clip, self.add_timestamps) for clip in clips]),
        }
        whole, ids, labels = "", list[int](), list[int]()
        for text, learned in self.segments(messages, plain):
            if learned and self._media_tokens.search(text):
                raise ValueError(f"an answer shows a medium: {text!r}")
            whole += text
            own = self._segment_ids(self._expand(text, waiting), first=not ids)
            ids += own
            labels += own if learned else [NOT_LEARNED] * len(own)
        return {
            "input_ids": torch.tensor(ids),
            "labels": torch.tensor(labels),
            **self._packed([(whole, pictures, clips)]),
        }

    def segments(self: Any, messages: list[dict[str, Any]], plain: bool = False) -> list[tuple[str, bool]]:
        """The conversation as text, cut where the assistant begins and ends to speak: (text, is it learned).

        Media tokens are not expanded; control tokens that stand in what was said are marked as text. `plain`
        is LLaVA's first stage: a medium, its caption and a line break,
        without turns and without the question.
        """
        if plain:
            tokens = {"image": self.image_token, "video": self.video_token}
            media = [tokens[kind_of(part)] for message in messages for part in media_parts(message)]
            captions = [message["content"] for message in messages if message["role"] == "assistant"]
            if not media or len(captions) != 1 or not isinstance(captions[0], str):
                raise ValueError(
                    f"a plain prompt is a medium and one caption, found {len(media)} media and "
                    f"{len(captions)} answers"
                )
            caption = ControlTokens(self.tokenizer, self.chat_template).broken(captions[0])
            return [("".join(media), False), (caption + "\n", True)]
        found: list[tuple[str, bool]] = []
        done = ""
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            marked = {"sanitize_control_tokens": True}
            before = self.apply_chat_template(messages[:number], add_generation_prompt=True, **marked)
            after = self.apply_chat_template(messages[: number + 1], **marked)
            if not (before.startswith(done) and after.startswith(before)):
                raise ValueError(
                    f"the chat template writes turn {number} in another way once it is answered, so answers "
                    "cannot be told apart: give the processor a template that only appends"
                )
            found += [(before[len(done) :], False), (after[len(before) :], True)]
            done = after
        if not found:
            raise ValueError("the conversation has no answer (no message of the role assistant)")
        return found

    def video_text(self: Any, video: Any, **kwargs: Any) -> str:
        """What stands for a video in a prompt, without times; told by the header of its file."""
        urls = UrlAccess.of(self._split(kwargs)[2], self.video_processor)
        with open_video(video, urls=urls) as reader:
            sizes = [(len(reader), reader.height, reader.width)]
        found = self._get_num_multimodal_tokens(video_sizes=sizes, **kwargs)
        return self.video_token * found["num_video_tokens"][0]

    def _segment_ids(self: Any, text: str, first: bool) -> list[int]:
        """Tokens of a piece of a conversation, cut as generation cuts: an answer begins with a token."""
        begins = self.tokenizer.bos_token is not None and text.startswith(self.tokenizer.bos_token)
        return encode(self.tokenizer, text, add_special_tokens=first and not begins)


__all__ = ["NOT_LEARNED", "Dialogues"]
