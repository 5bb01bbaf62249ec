"""Conversations with images and videos -> what the multimodal model takes.

    processor = AutoProcessor.from_pretrained(folder)
    conversation = [{"role": "user", "content": [
        {"type": "video", "video": "clip.mp4"}, {"type": "text", "text": "What happens?"}]}]
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True,
        processor_kwargs={"num_frames": 64, "keep_ratio": 0.125})

A list of conversations gives a batch, padded on the left. Settings of `OneVisionVLImageProcessor` and
`OneVisionVLVideoProcessor` go into `processor_kwargs`, flat or as `images_kwargs`, `videos_kwargs`.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .chat_template_onevision_vl import IMAGE_TOKEN, VIDEO_TOKEN, chatml_template
from .dialogues import NOT_LEARNED, Dialogues
from .frame_sequence import Video
from .message_media import Medium, refuse_empty, told, with_media
from .patch_inputs import pack_media
from .prompt_media import is_unreadable, media_of_prompts, read_picture, token_id
from .setting_names import refuse_unknown
from .url_access import URL_SETTINGS, UrlAccess
from .video_processing_onevision import check_errors, of_reader
from .video_processing_onevision_vl import VideoPatches, pack_videos
from .video_reader import VideoReadError
from .written_text import ControlTokens, encode_batch, literal

TEXT_SETTINGS = (
    "padding",
    "padding_side",
    "max_length",
    "truncation",
    "add_special_tokens",
    "pad_to_multiple_of",
    "return_offsets_mapping",
    "return_mm_token_type_ids",
    "return_text_replacement_offsets",
)
_ARGUMENTS = (
    *("image_processor", "video_processor", "tokenizer", "chat_template"),
    *("merge_size", "image_token", "video_token", "add_timestamps"),
)


class OneVisionVLProcessor(Dialogues, ProcessorMixin):
    """Tokenizer, image processor and video processor of one model, and its chat template.

    Args:
        image_processor: an `OneVisionVLImageProcessor`.
        video_processor: an `OneVisionVLVideoProcessor`.
        tokenizer: of the language model.
        chat_template: Jinja text; ChatML with media tokens by default.
        merge_size: patches along a side of the block that the connector makes a token of.
        image_token: stands for an image; must be one token of the tokenizer.
        video_token: stands for a video; must be one token of the tokenizer.
        add_timestamps: write "<1.5 seconds>" before the tokens of each frame of a video.
        **urls: settings of both processors that are told once: `allow_urls=False` refuses http and https,
            `url_timeout` (seconds) and `max_url_bytes` bound them.

    Raises:
        ValueError: the tokenizer lacks a media token.
        TypeError: an unknown name; the nearest known one is named.
    """

    def __init__(
        self,
        image_processor: Any = None,
        video_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        merge_size: int = 1,
        image_token: str = IMAGE_TOKEN,
        video_token: str = VIDEO_TOKEN,
        add_timestamps: bool = False,
        **urls: Any,
    ):
        refuse_unknown(type(self).__name__, urls, (*_ARGUMENTS, *URL_SETTINGS))
        UrlAccess.of(urls)  # refuses what is out of range
        for part, name in itertools.product((image_processor, video_processor), urls):
            if hasattr(part, name):
                setattr(part, name, urls[name])
        self.merge_size = merge_size
        self.image_token, self.video_token = image_token, video_token
        self.add_timestamps = add_timestamps
        self.image_token_id, self.video_token_id = (
            token_id(tokenizer, token) for token in (image_token, video_token)
        )
        template = chat_template or chatml_template(image_token, video_token)
        super().__init__(image_processor, video_processor, tokenizer, chat_template=template)
        self.tokenizer.padding_side = "left"

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names,
                *self.video_processor.model_input_names]  # fmt: skip

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *args: Any,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' own, for one conversation or a list of them.

        Args:
            conversation: messages with `role` and `content`, or a list of such lists; a part that is a medium
                may hold settings of its own (see `message_media`), which come before those of the call.
            chat_template: another than the processor's.
            *args: transformers' own.
            processor_kwargs: settings of the media.
            sanitize_control_tokens: a control token that stands in what is given (`<|im_end|>`, one of media)
                is the text that was typed; False: it is that token. None: True with `tokenize=True`. Else the
                prompt comes back as text, which cannot tell, unless True marks it for a call with True.
            **kwargs: transformers' own; settings of the media may also stand here.

        Raises:
            ValueError: an empty prompt; and what `__call__` raises.
        """
        refuse_empty(conversation)
        conversation = with_media(conversation, self._settings_of_parts() if kwargs.get("tokenize") else {})
        own = {name: kwargs.pop(name) for name in list(kwargs) if name in self._settings()}
        own |= processor_kwargs or {}
        asked = own.pop("sanitize_control_tokens", sanitize_control_tokens)
        if kwargs.get("tokenize") if asked is None else asked:
            control = ControlTokens(self.tokenizer, f"{chat_template} {self.chat_template}")
            conversation, args, kwargs = map(control.broken, (conversation, args, kwargs))
            own["sanitize_control_tokens"] = True
        kwargs["processor_kwargs"] = own
        return super().apply_chat_template(conversation, chat_template, *args, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        audio: None = None,
        *,
        frames: bool = False,
        video_metadata: Any = None,
        errors: str = "raise",
        add_timestamps: bool | None = None,
        sanitize_control_tokens: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """One prompt or a list of them, each with a media token for every image and video.

        Args:
            images: in the order of their tokens, over all prompts, or a list for each prompt: paths, URLs,
                bytes, PIL images, uint8 arrays.
            text: a prompt, or a list of them.
            videos: likewise, each what `OneVisionVLVideoProcessor.read` takes.
            audio: refused; transformers' interface has it.
            frames: lists of picture files, folders and patterns of them are clips, see
                `OneVisionVideoProcessor`.
            video_metadata: of decoded frames, see there: one, or a list over all prompts with one (or None) a
                video, or a list for each prompt.
            errors: "raise"; "skip": a prompt with a medium that cannot be read is left out of the batch, and
                `skipped` lists (index, reason); or "partial": of a truncated video what is there is used, and
                `partial` lists (index of the prompt, what there is). Take the list out before calling the
                model.
            add_timestamps: write times before the frames of a video; None: the processor's own setting.
            sanitize_control_tokens: `apply_chat_template` marked what is text in the prompts. Otherwise every
                control token in them is one: put no strangers' words there.
            return_tensors: "pt".
            kwargs: settings of the tokenizer (padding, ...) and of the media.

        Returns:
            `input_ids`, `attention_mask` (B, L), and of the media that there are, packed, `pixel_values`,
            `image_patch_positions`, `image_cu_seqlens`, `pixel_values_videos`, `video_patch_positions`,
            `video_cu_seqlens`.

        Raises:
            ValueError: an empty prompt, other numbers of media and tokens, a prompt that is longer than the
                context.
            VideoReadError: a video that cannot be read.
            TypeError: an unknown setting.
        """
        check_errors(errors)
        if return_tensors != "pt":
            raise ValueError(f'return_tensors must be "pt", not {return_tensors!r}')
        if audio is not None:
            raise ValueError("this model takes text, images and videos, found audio")
        prompts = [text] if isinstance(text, str) else list(text or [])
        if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
            raise ValueError(f"the prompt is empty: give text, found {text!r}")
        if not sanitize_control_tokens:
            prompts = [literal(prompt) for prompt in prompts]
        of_text, of_images, of_videos = self._split(kwargs)
        images_of = media_of_prompts(images, prompts, self.image_token, "image")
        videos_of = media_of_prompts(videos, prompts, self.video_token, "video", frames)
        if video_metadata is not None:
            videos_of = told(videos_of, video_metadata)
        stamped = self.add_timestamps if add_timestamps is None else add_timestamps

        kept: list[str] = []
        offsets: list[list[dict[str, Any]]] = []
        shown: list[tuple[str, list[Any], list[Any]]] = []
        skipped: list[tuple[int, str]] = []
        partial: list[tuple[int, str]] = []
        for index, prompt in enumerate(prompts):
            try:
                own_images = [self._read_image(image, of_images) for image in images_of[index]]
                own_clips = [
                    self._read_video(video, of_videos, frames=frames, errors=of_reader(errors))
                    for video in videos_of[index]
                ]
            except (ValueError, OSError) as error:
                if errors != "skip" or not is_unreadable(error):
                    raise
                skipped.append((index, str(error)))
                continue
            offsets.append([])
            kept.append(self.expanded(prompt, own_images, own_clips, stamped, offsets[-1]))
            shown.append((prompt, own_images, own_clips))
            partial += [(index, clip.missing) for clip in own_clips if clip.missing]
        if not kept:
            raise VideoReadError(skipped[0][1], f"and none of the {len(prompts)} prompts can be read")

        told_offsets = of_text.pop("return_text_replacement_offsets", False)
        data = dict(self.tokenized(kept, of_text))
        if told_offsets:
            data["text_replacement_offsets"] = offsets
        data |= self._packed(shown)
        if errors == "skip":
            data["skipped"] = skipped
        elif errors == "partial":
            data["partial"] = partial
        return BatchFeature(data)

    def read_video(self, video: "Video | VideoPatches", **kwargs: Any) -> Any:
        """A video, read with these settings once; it stands for the video in any number of prompts."""
        return self._read_video(video, self._split(kwargs)[2])

    def read_image(self, image: Any, **kwargs: Any) -> Any:
        """An image, read with these settings: what `expanded` takes."""
        return self._read_image(image, self._split(kwargs)[1])

    def expanded(
        self,
        prompt: str,
        images: list[Any],
        clips: list[Any],
        stamped: bool | None = None,
        replaced: list[dict[str, Any]] | None = None,
    ) -> str:
        """A prompt with a token for every feature.

        Args:
            prompt: with a token for every medium.
            images: its images, as `read_image` gives them.
            clips: its videos, as `read_video` gives them.
            stamped: write times before the frames of a video; None: the processor's own setting.
            replaced: gets where each medium's token was and where its text is, as transformers tells it.
        """
        stamped = self.add_timestamps if stamped is None else stamped
        texts = {
            self.image_token: [self._image_text(image) for image in images],
            self.video_token: [self._video_text(clip, stamped) for clip in clips],
        }
        return self._expand(prompt, {token: iter(own) for token, own in texts.items()}, replaced)

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens that media of these sizes take, for engines that plan ahead: `image_sizes` of (height,
        width), `video_sizes` of (frames, height, width).
        """
        _, of_images, of_videos = self._split(kwargs)
        block, found = self.merge_size**2, {}
        if image_sizes is not None:
            patches = [
                self.image_processor.get_number_of_image_patches(*size, of_images) for size in image_sizes
            ]
            found["num_image_patches"] = patches
            found["num_image_tokens"] = [count // block for count in patches]
        if video_sizes is not None:
            found["num_video_tokens"] = [
                self.video_processor.get_number_of_video_patches(*size, of_videos) // block
                for size in video_sizes
            ]
        return MultiModalData(**found)

    def _expand(
        self, prompt: str, texts: dict[str, Iterator[str]], replaced: list[dict[str, Any]] | None = None
    ) -> str:
        """The prompt with the text of each medium in the place of its token; see `expanded`."""
        longer = 0

        def put(found: re.Match[str]) -> str:
            nonlocal longer
            text = self._text_at(found, texts)
            start, end = found.start() + longer, found.start() + longer + len(text)
            if replaced is not None:
                replaced.append({"span": found.span(), "new_span": (start, end)})
            longer = end - found.end()
            return text

        return self._media_places.sub(put, prompt)

    @property
    def _media_places(self) -> re.Pattern[str]:
        """What the text of a medium replaces."""
        return self._media_tokens

    def _text_at(self, place: re.Match[str], texts: dict[str, Iterator[str]]) -> str:
        return next(texts[place[0]])

    def _packed(self, shown: list[tuple[str, list[Any], list[Any]]]) -> dict[str, torch.Tensor]:
        """The media of prompts, each with its images and its videos, as the model takes them."""
        images = [image for _, own, _ in shown for image in own]
        videos = [video for _, _, own in shown for video in own]
        return pack_media("image", images) | pack_videos(videos)

    @property
    def _media_tokens(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, (self.image_token, self.video_token))))

    def _image_text(self, image: Any) -> str:
        return self.image_token * (len(image[0]) // self.merge_size**2)

    def _video_text(self, clip: VideoPatches, stamped: bool) -> str:
        if not stamped:
            return self.video_token * (len(clip) // self.merge_size**2)
        if np.isnan(clip.timestamps).any():
            raise ValueError(
                "add_timestamps needs the times of the frames, and frames that were decoded elsewhere have "
                "none: give the video's file"
            )
        frames, counts = np.unique(clip.frames, return_counts=True)
        return "".join(
            f"<{clip.timestamps[frame]:.1f} seconds>" + self.video_token * (count // self.merge_size**2)
            for frame, count in zip(frames, counts, strict=True)
        )

    def _read_image(self, image: Any, settings: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Patches (N, C*p*p) and positions (N, 3) of one image."""
        if isinstance(image, Medium):
            image, settings = image.content, image.laid_on(settings)
            if sides := settings.pop("resized", None):
                settings["size"] = sides
        found = self.image_processor(
            read_picture(image, self._urls(settings)), return_tensors="pt", **settings
        )
        return found["pixel_values"], found["image_patch_positions"]

    def _urls(self, settings: dict[str, Any]) -> UrlAccess:
        """Of images; not all image processors have a say."""
        return UrlAccess.of(settings, self.image_processor, self.video_processor)

    def _read_video(self, video: Any, settings: dict[str, Any], **how: Any) -> VideoPatches:
        if isinstance(video, Medium):
            if isinstance(video.content, VideoPatches) and video.settings:
                raise ValueError(f"a VideoPatches is read already: {', '.join(video.settings)} come too late")
            settings, video = {**how, **video.laid_on(settings)}, video.content
            if sides := settings.pop("resized", None):  # rounded, as Qwen rounds them
                unit = self.video_processor.patch_size * self.merge_size
                settings["size"] = {name: max(1, round(side / unit)) * unit for name, side in sides.items()}
            how = {}
        return self.video_processor.read(video, **how, **settings)

    def tokenized(self, prompts: list[str], settings: dict[str, Any] | None = None) -> dict[str, Any]:
        """`input_ids` and `attention_mask` (B, L) of expanded prompts, marked as `apply_chat_template` with
        `sanitize_control_tokens=True` marks them; `settings` are the tokenizer's.

        Raises ValueError: more tokens than the context, media that were cut off.
        """
        settings = {"padding": True, "padding_side": "left", **(settings or {})}
        typed = settings.pop("return_mm_token_type_ids", False)
        found = encode_batch(self.tokenizer, prompts, settings)
        for token, number in (
            (self.image_token, self.image_token_id),
            (self.video_token, self.video_token_id),
        ):
            wanted = sum(prompt.count(token) for prompt in prompts)
            left = int((found["input_ids"] == number).sum())
            if left != wanted:
                raise ValueError(
                    f"{wanted} {token} went into the tokenizer, {left} came out: media cannot be truncated, "
                    "raise max_length or lower num_frames, num_patches, keep_ratio or max_pixels"
                )
        limit, length = self.tokenizer.model_max_length, found["input_ids"].shape[1]
        if length > limit:
            visual = max(len(self._media_tokens.findall(prompt)) for prompt in prompts)
            raise ValueError(
                f"a prompt of {length} tokens, {visual} of them visual, is longer than the context of "
                f"{limit} tokens: lower num_frames, num_patches, keep_ratio, max_canvases, max_pixels or "
                "size, or use the connector patch_merger, which makes a quarter of the tokens"
            )
        if typed:
            found["mm_token_type_ids"] = torch.tensor(self.create_mm_token_type_ids(found["input_ids"]))
        return found

    def _settings(self) -> set[str]:
        """Names of all settings that `__call__` takes."""
        known = {
            "errors",
            "add_timestamps",
            "frames",
            "video_metadata",
            "images_kwargs",
            "videos_kwargs",
            "text_kwargs",
        }
        for part in (self.image_processor, self.video_processor):
            known |= part.valid_kwargs.__annotations__.keys()
        return known - {"return_tensors"}

    def _settings_of_parts(self) -> dict[str, list[str]]:
        """Names of the settings that a part of a message may hold."""
        parts = {"image": self.image_processor, "video": self.video_processor}
        known = {kind: part.valid_kwargs.__annotations__ for kind, part in parts.items()}
        # Whoever writes a message does not say what this machine fetches, or where it writes.
        barred = (*URL_SETTINGS, "canvas_cache")
        return {kind: [name for name in names if name not in barred] for kind, names in known.items()}

    def _split(self, kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Settings of the text, of images and of videos; one that both kinds of media have goes to both."""
        flat = dict(kwargs)
        nested = [flat.pop(f"{kind}_kwargs", None) or {} for kind in ("text", "images", "videos")]
        known: list[Any] = [
            TEXT_SETTINGS,
            [*self.image_processor.valid_kwargs.__annotations__, *URL_SETTINGS],
            [*self.video_processor.valid_kwargs.__annotations__, *URL_SETTINGS],
        ]
        refuse_unknown(type(self).__name__, flat, [*dict.fromkeys(name for names in known for name in names)])
        for names, own in zip(known, nested, strict=True):
            if twice := sorted(own.keys() & flat.keys() & set(names)):
                raise ValueError(f"{', '.join(twice)} came twice, by itself and among the settings of a kind")
        of_text, of_images, of_videos = (
            {**{name: value for name, value in flat.items() if name in names}, **own}
            for names, own in zip(known, nested, strict=True)
        )
        of_text.pop("return_tensors", None)
        return of_text, of_images, of_videos


__all__ = ["NOT_LEARNED", "OneVisionVLProcessor"]
