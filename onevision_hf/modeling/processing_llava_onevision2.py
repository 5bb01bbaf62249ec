"""Conversations with images and videos -> what LLaVA-OneVision-2 and Mage-VL take, to the letter.

    processor = AutoProcessor.from_pretrained(folder)
    inputs = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True,
        processor_kwargs={"frame_sampling": "lmms_eval", "max_frames": 64})

To these models everything is an image: a video's frames are images with their seconds in front, and canvases
(`CodecCanvases`) are runs of patches of one frame each. All are packed in the order of the prompts, under the
published names.

Shapes: sum N patches of all media, C channels, p patch side, B prompts, L tokens.
"""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.processing_utils import MultiModalData

from .chat_template_onevision_vl import IMAGE_TOKEN, VIDEO_TOKEN, bracketed_template
from .codec_canvases import CodecCanvases
from .frame_geometry import whole_grid
from .message_media import Medium
from .processing_onevision_vl import OneVisionVLProcessor
from .prompt_media import read_picture
from .setting_names import refuse_unknown
from .url_access import URL_SETTINGS
from .video_processing_llava_onevision2 import LlavaOnevision2VideoProcessor, SampledFrames
from .video_reader import VideoReader

START, END = "<|vision_start|>", "<|vision_end|>"
BOUNDS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
_ARGUMENTS = ("image_processor", "video_processor", "tokenizer", "chat_template", "timestamp_decimals")


class ShownMedium:
    """A medium, read; it stands for the medium in any number of prompts.

    No dataclass: transformers makes dictionaries of those in a conversation.

    Args:
        patches: (N, C*p*p).
        positions: (N, 3) [t, h, w], in block order.
        grid: (rows, 3) [frames, rows, columns] of patches.
        runs: patches of each run and its second; empty for an image.
        after: what follows a run: a line break for canvases.
        missing: what of a truncated file is there, "" of a whole one.
    """

    def __init__(
        self,
        patches: Tensor,
        positions: Tensor,
        grid: Tensor,
        runs: list[tuple[int, float]],
        after: str = "",
        missing: str = "",
    ):
        self.patches, self.positions, self.grid = patches, positions, grid
        self.runs, self.after, self.missing = runs, after, missing

    def __len__(self) -> int:
        return len(self.patches)

    def __str__(self) -> str:
        shown = f"{int(self.grid[:, 0].sum())} {'canvases' if self.after else 'frames'}"
        return f"{shown}, {len(self):,} patches"


class LlavaOnevision2Processor(OneVisionVLProcessor):
    """Tokenizer, image processor and video processor of a published folder, and its chat template.

    Args:
        image_processor: transformers' `Qwen2VLImageProcessor`, as the published folders have it.
        video_processor: a `LlavaOnevision2VideoProcessor`; instead of another, which a folder without a file
            for it gives, one with the defaults.
        tokenizer: of the language model.
        chat_template: Jinja text; that of the tokenizer, or ChatML with media in brackets.
        timestamp_decimals: of the seconds before a frame.
        **urls: `allow_urls`, `url_timeout`, `max_url_bytes`, see `OneVisionVLProcessor`.

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
        timestamp_decimals: int = 1,
        **urls: Any,
    ):
        refuse_unknown(type(self).__name__, urls, (*_ARGUMENTS, *URL_SETTINGS))
        self.timestamp_decimals = timestamp_decimals
        own = getattr(tokenizer, "chat_template", None)
        if chat_template is None and isinstance(own, str) and IMAGE_TOKEN in own:
            chat_template = own
        if not hasattr(video_processor, "read"):
            video_processor = LlavaOnevision2VideoProcessor()
        bracketed = [f"{START}{pad}{END}" for pad in (IMAGE_TOKEN, VIDEO_TOKEN)]
        super().__init__(
            image_processor,
            video_processor,
            tokenizer,
            chat_template or bracketed_template(*bracketed),
            merge_size=image_processor.merge_size,
            add_timestamps=True,
            **urls,
        )

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """The parts of a folder. Published ones have no file for our video processor, and transformers makes
        one of another class of the image processor's, which drops the settings that it does not know."""
        parts = super()._get_arguments_from_pretrained(*args, **kwargs)
        place = cls.get_attributes().index("video_processor")
        if not hasattr(parts[place], "read"):
            parts[place] = LlavaOnevision2VideoProcessor.from_dict({}, **kwargs)
        return parts

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", "pixel_values", "image_grid_thw", "patch_positions"]

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens that media of these sizes take, for engines that plan ahead: `image_sizes` of (height,
        width), `video_sizes` of (frames, height, width), all of which are shown.

        Raises:
            ValueError: videos are shown as canvases.
        """
        _, of_images, of_videos = self._split(kwargs)
        count, block, found = self.image_processor.get_number_of_image_patches, self.merge_size**2, {}
        if image_sizes is not None:
            found["num_image_patches"] = [count(*size, self._sized(of_images)) for size in image_sizes]
            found["num_image_tokens"] = [patches // block for patches in found["num_image_patches"]]
        if video_sizes is not None:
            if preset := of_videos.get("preset", self.video_processor.preset):
                raise ValueError(
                    f"preset={preset!r}: how many canvases a video gives is known once it is read"
                )
            frame = self._of_frames(of_videos)
            found["num_video_tokens"] = [
                frames * (count(height, width, frame) // block) for frames, height, width in video_sizes
            ]
        return MultiModalData(**found)

    def _of_frames(self, settings: dict[str, Any]) -> dict[str, Any]:
        """How the image processor resizes frames."""
        bounds = {name: settings.get(name) or getattr(self.video_processor, name) for name in BOUNDS}
        return self._sized(bounds)

    def _sized(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings of the image processor with bounds of the pixels in its own words."""
        given = {edge: settings[name] for name, edge in BOUNDS.items() if settings.get(name)}
        own = {name: value for name, value in settings.items() if name not in (*BOUNDS, *URL_SETTINGS)}
        if not given:
            return own
        size = {edge: self.image_processor.size[edge] for edge in BOUNDS.values()}
        return {**own, "size": {**size, **given}}

    def _patches(self, pictures: Any, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Pictures -> patches (N, C*p*p), [h, w] as positions (N, 3) with the picture's index, grid."""
        found = self.image_processor(images=pictures, return_tensors="pt", **settings)
        grid = found["image_grid_thw"]
        if (grid[:, 0] != 1).any():
            raise ValueError("temporal_patch_size of the image processor must be 1")
        places = [whole_grid(1, rows, columns, self.merge_size) for _, rows, columns in grid.tolist()]
        index = np.repeat(np.arange(len(places)), [len(own) for own in places])
        positions = np.concatenate(places)
        positions[:, 0] = index
        return found["pixel_values"], torch.from_numpy(positions), grid

    def _read_image(self, image: Any, settings: dict[str, Any]) -> Any:
        if isinstance(image, Medium):
            image, settings = image.content, _without_sides(image.laid_on(settings))
        picture = read_picture(image, self._urls(settings))
        return ShownMedium(*self._patches([picture], **self._sized(settings)), runs=[])

    def _read_video(self, video: Any, settings: dict[str, Any], **how: Any) -> Any:
        if isinstance(video, Medium):
            settings, video = {**how, **_without_sides(video.laid_on(settings))}, video.content
            how = {}
        if isinstance(video, ShownMedium):
            return video
        if isinstance(video, CodecCanvases):
            return self._read_canvases(video)
        frames = self._decoded(video, **how, **settings)
        if isinstance(frames, CodecCanvases):
            return self._read_canvases(frames)
        patches, positions, grid = self._patches(list(frames.pictures), **self._of_frames(settings))
        index = positions[:, 0]
        counts = torch.bincount(index, minlength=len(frames)).tolist()
        positions[:, 0] = torch.from_numpy(np.asarray(frames.numbers))[index]
        runs = list(zip(counts, frames.seconds.tolist(), strict=True))
        return ShownMedium(patches, positions, grid, runs, missing=frames.missing)

    def video_text(self, video: Any, **kwargs: Any) -> str:
        """What stands for a video in a prompt; of frames told by the header of its file. How many canvases
        there are is known once they are chosen."""
        settings = self._split(kwargs)[2]
        if settings.get("preset", self.video_processor.preset):
            return self._video_text(self._read_video(video, settings), self.add_timestamps)
        seconds, *size = self.video_processor.outlined(video, **settings)
        patches = self.image_processor.get_number_of_image_patches(*size, self._of_frames(settings))
        runs = SimpleNamespace(runs=[(patches, second) for second in seconds], after="")
        return self._video_text(runs, self.add_timestamps)

    def read_window(
        self, reader: VideoReader, span: tuple[int, int], first_frame: int, **kwargs: Any
    ) -> ShownMedium:
        """Canvases of a part of an open video; they stand for it in prompts.

        Args:
            reader: the video.
            span: [start, end) of its frames.
            first_frame: number of its first frame in its source.
            **kwargs: settings of the media.
        """
        sides = {"patch_size": self.image_processor.patch_size, "merge_size": self.merge_size}
        settings = self._split(kwargs)[2]
        return self._read_canvases(
            self.video_processor.canvases_of_span(reader, span, first_frame, sides, **settings)
        )

    def _decoded(self, video: Any, **settings: Any) -> SampledFrames | CodecCanvases:
        """What the video processor makes of a video, in patches of the image processor's size."""
        sides = {"patch_size": self.image_processor.patch_size, "merge_size": self.merge_size}
        return self.video_processor.read(video, **sides, **settings)

    def _read_canvases(self, canvases: CodecCanvases) -> ShownMedium:
        """All canvases are one row of the grid, which the model cuts into windows."""
        patches, places, grid = self._patches(list(canvases.pictures), do_resize=False)
        rows, columns = grid[0, 1:].tolist()
        if len(canvases.positions) != len(patches):
            raise ValueError(
                f"{len(canvases)} canvases of {rows} x {columns} patches, and positions of "
                f"{len(canvases.positions)}"
            )
        raster = places[:, 0] * (rows * columns) + places[:, 1] * columns + places[:, 2]
        positions = torch.from_numpy(canvases.positions)[raster]
        frames, counts = positions[:, 0].unique_consecutive(return_counts=True)
        runs = [
            (count, frame / canvases.fps)
            for frame, count in zip(frames.tolist(), counts.tolist(), strict=True)
        ]
        whole = torch.tensor([[len(canvases), rows, columns]])
        return ShownMedium(patches, positions, whole, runs, after="\n", missing=canvases.missing)

    def _image_text(self, image: Any) -> str:
        return self.image_token * (len(image) // self.merge_size**2)

    def _video_text(self, clip: Any, stamped: bool) -> str:
        block = self.merge_size**2
        texts = []
        for patches, seconds in clip.runs:
            if tokens := patches // block:
                stamp = f"<{seconds:.{self.timestamp_decimals}f} seconds>" if stamped else ""
                texts.append(f"{stamp}{START}{self.image_token * tokens}{END}{clip.after}")
        return "".join(texts)

    @property
    def _media_places(self) -> re.Pattern[str]:
        """A video's text takes the place of its brackets too, and its own line break that of the prompt."""
        bracketed = rf"(?:{re.escape(START)}\s*)?{re.escape(self.video_token)}(?:\s*{re.escape(END)})?(\n?)"
        return re.compile(f"{re.escape(self.image_token)}|{bracketed}")

    def _text_at(self, place: re.Match[str], texts: dict[str, Iterator[str]]) -> str:
        if place[0] == self.image_token:
            return next(texts[self.image_token])
        text = next(texts[self.video_token])
        return text if text.endswith("\n") else text + place[1]

    def _packed(self, shown: list[tuple[str, list[Any], list[Any]]]) -> dict[str, Tensor]:
        """All media in the order of the prompts, as images."""
        media: list[ShownMedium] = []
        for prompt, images, videos in shown:
            waiting = {self.image_token: iter(images), self.video_token: iter(videos)}
            media += [next(waiting[token]) for token in self._media_tokens.findall(prompt)]
        if not media:
            return {}
        return {
            "pixel_values": torch.cat([one.patches for one in media]),
            "image_grid_thw": torch.cat([one.grid for one in media]),
            "patch_positions": torch.cat([one.positions for one in media]),
        }


def _without_sides(settings: dict[str, Any]) -> dict[str, Any]:
    if "resized" in settings:
        raise ValueError("resized_height and resized_width are not known here: give max_pixels")
    return settings


__all__ = ["LlavaOnevision2Processor", "ShownMedium"]
