"""Images for the multimodal model: at their own resolution or at one of a list of sizes, as packed patches.

    processor = OneVisionVLImageProcessor(merge_size=2)
    inputs = processor(images, return_tensors="pt")
    inputs["pixel_values"], inputs["image_patch_positions"], inputs["image_cu_seqlens"]

Shapes: sum N patches of all images, C channels, p patch side, m merge side, gh gw grid.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, TextKwargs, VideosKwargs

from .frame_geometry import whole_grid
from .image_processing_onevision import OneVisionImageProcessor, OneVisionImageProcessorKwargs
from .patch_inputs import cut_patches, pack_media
from .patchify_config import SETTINGS
from .url_access import URL_SETTINGS

# `image_grid_pinpoints` of the published scripts/sft_ov_encoder.sh: (height, width) in pixels.
PUBLISHED_SIZES = ((574, 1120), (1120, 574), (1120, 1120), (1694, 574), (574, 1694))
# A multimodal processor hands what `from_pretrained` is given to all of its parts.
OF_ALL_PARTS = frozenset(
    {
        *(TextKwargs.__annotations__ | ImagesKwargs.__annotations__ | VideosKwargs.__annotations__),
        *("image_token", "video_token", "add_timestamps", "timestamp_decimals", "chat_template"),
        *("merge_size", "candidate_sizes"),
        *(*SETTINGS, *URL_SETTINGS, "packed"),
    }
)


class OneVisionVLImageProcessorKwargs(OneVisionImageProcessorKwargs, total=False):
    """What `OneVisionVLImageProcessor` takes besides; its docstring says what they mean."""

    merge_size: int
    max_pixels: int
    candidate_sizes: Any


class OneVisionVLImageProcessor(OneVisionImageProcessor):
    """Images of any sizes as one pack of patches.

    Args:
        merge_size (`int`, defaults to 1): both sides become multiples of so many patches, and the patches
            of such a block are adjacent.
        max_pixels (`int`, defaults to 1254400): a larger image is made smaller, in its own shape.
        candidate_sizes (`list`, *optional*): (height, width) pairs in pixels, or "published"; the best one
            is taken, the image resized to fit and centred on black. Each side is rounded to whole merge
            blocks.
        size (`int` or `dict`, *optional*): `None` keeps each image's own resolution, up to `max_pixels`; an
            int or {"shortest_edge": s} scales the shorter side to s; {"height": h, "width": w} gives every
            image that size. All are rounded to whole merge blocks.
        **kwargs: the other settings of `OneVisionImageProcessor`, but cropping.

    Returns:
        `pixel_values` (sum N, C*p*p), each patch flattened as (C, p, p), `image_patch_positions` (sum N, 3)
        with t = 0, in merge-block order, and `image_cu_seqlens` (images+1,) int32.

    Raises:
        ValueError: a size is no multiple of the merge block, or a crop is asked for.
        TypeError: an unknown name; the nearest known one is named.
    """

    valid_kwargs = OneVisionVLImageProcessorKwargs
    of_others = OF_ALL_PARTS
    model_input_names = ["pixel_values", "image_patch_positions", "image_cu_seqlens"]

    merge_size = 1
    max_pixels = 1120 * 1120
    candidate_sizes = None

    def _preprocess(  # type: ignore[override]
        self,
        images: list[Tensor],
        *,
        do_resize: bool,
        size: SizeDict | None,
        resample: Any,
        patch_size: int,
        merge_size: int,
        max_pixels: int,
        candidate_sizes: Any,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        if kwargs.get("do_center_crop"):
            raise ValueError("do_center_crop would cut off what a question may ask for: use size")
        packed = []
        for image in images:
            height, width = image.shape[-2:]
            if do_resize:
                inner, outer = _sizes(
                    height, width, size, patch_size * merge_size, max_pixels, candidate_sizes
                )
                image = self.resize(image, SizeDict(height=inner[0], width=inner[1]), resample=resample)
                image = _centred(image, outer)
            else:
                _check_blocks(height, width, patch_size, merge_size)
            found, (_, rows, columns) = cut_patches(self.scaled(image, kwargs)[None], patch_size)
            order = torch.from_numpy(whole_grid(1, rows, columns, merge_size))
            packed.append((found[0][order[:, 1] * columns + order[:, 2]], order))
        return BatchFeature(pack_media("image", packed), tensor_type=return_tensors)

    def get_number_of_image_patches(
        self, height: int, width: int, images_kwargs: dict[str, Any] | None = None
    ) -> int:
        """Patches of an image; `merge_size`^2 of them make a token.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            images_kwargs: settings that replace the processor's own.

        Raises:
            ValueError: where the processor raises it: with `do_resize=False`, for sides that are no
                multiple of the merge block.
        """
        given = images_kwargs or {}
        names = ("do_resize", "size", "patch_size", "merge_size", "max_pixels", "candidate_sizes")
        settings = {name: given.get(name, getattr(self, name)) for name in names}
        size = settings["size"]
        if size is not None and not isinstance(size, SizeDict):
            size = {"shortest_edge": size} if isinstance(size, int) else dict(size)
            size = SizeDict(**size)
        patch, outer = settings["patch_size"], (height, width)
        if settings["do_resize"]:
            unit = patch * settings["merge_size"]
            outer = _sizes(height, width, size, unit, settings["max_pixels"], settings["candidate_sizes"])[1]
        else:
            _check_blocks(height, width, patch, settings["merge_size"])
        return (outer[0] // patch) * (outer[1] // patch)


def _check_blocks(height: int, width: int, patch_size: int, merge_size: int) -> None:
    if height % (patch_size * merge_size) or width % (patch_size * merge_size):
        raise ValueError(
            f"an image of height {height} and width {width} is no multiple of {merge_size} patches of "
            f"{patch_size}; leave do_resize on"
        )


def _sizes(
    height: int, width: int, size: SizeDict | None, unit: int, max_pixels: int, candidates: Any
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What an image is resized to, and the size it then has on black; (height, width) each."""
    if candidates is not None:
        outer = _best_candidate(height, width, _rounded(candidates, unit))
        scale = min(outer[0] / height, outer[1] / width)
        inner = tuple(
            min(limit, max(1, round(side * scale)))
            for side, limit in zip((height, width), outer, strict=True)
        )
        return inner, outer  # type: ignore[return-value]
    if size is not None and size.shortest_edge is None:
        sides = (float(size.height or 0), float(size.width or 0))
    else:
        shorter = size.shortest_edge if size is not None else None
        scale = (shorter or min(height, width)) / min(height, width)
        scale = min(scale, (max_pixels / (height * width)) ** 0.5)
        sides = (height * scale, width * scale)
    rounded = tuple(max(1, int(side / unit + 0.5)) * unit for side in sides)
    if size is None or size.shortest_edge is not None:
        # Rounding up both sides may pass the limit by a block.
        while rounded[0] * rounded[1] > max_pixels and max(rounded) > unit:
            longer = rounded.index(max(rounded))
            rounded = tuple(side - unit * (axis == longer) for axis, side in enumerate(rounded))
    return rounded, rounded  # type: ignore[return-value]


def _rounded(candidates: Any, unit: int) -> list[tuple[int, int]]:
    pairs = PUBLISHED_SIZES if candidates == "published" else candidates
    try:
        return [(max(1, int(h / unit + 0.5)) * unit, max(1, int(w / unit + 0.5)) * unit) for h, w in pairs]
    except (TypeError, ValueError):
        raise ValueError(
            f"candidate_sizes must be 'published' or (height, width) pairs in pixels, not {candidates!r}"
        ) from None


def _best_candidate(height: int, width: int, candidates: list[tuple[int, int]]) -> tuple[int, int]:
    """LLaVA-NeXT's choice: as much of the image's own resolution as possible, then the least black."""

    def merit(candidate: tuple[int, int]) -> tuple[int, int]:
        scale = min(candidate[0] / height, candidate[1] / width)
        shown = min(int(height * scale) * int(width * scale), height * width)
        return shown, shown - candidate[0] * candidate[1]

    return max(candidates, key=merit)


def _centred(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, h, w) in the middle of a black picture of that size."""
    down, right = size[0] - image.shape[-2], size[1] - image.shape[-1]
    if not (down or right):
        return image
    return torch.nn.functional.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2))


__all__ = ["OneVisionVLImageProcessor"]
