"""From images to the encoder's input: at their own resolution, at a fixed size, or cropped as published.

processor = OneVisionImageProcessor()
inputs = processor([image, other], return_tensors="pt")
outputs = model(**inputs)       # pixel_values, and for images of unequal size positions and a mask
"""

from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.image_processing_utils import BatchFeature
from transformers.image_transforms import group_images_by_shape, reorder_images
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling, SizeDict

from .channel_order import ChannelOrderBackend, ImageKwargs
from .frame_geometry import FrameGeometry
from .patch_inputs import cut_patches, grid_positions
from .patchify_config import following_crop
from .pretrained_settings import read_with_model_settings


class OneVisionImageProcessorKwargs(ImageKwargs, total=False):
    """What `OneVisionImageProcessor` takes besides transformers' own names; its docstring says what they
    mean.
    """

    patch_size: int
    packed: bool


class OneVisionImageProcessor(ChannelOrderBackend):
    """Images as `pixel_values`, each side a multiple of the patch.

    A NumPy array is channels-first only when its last axis is no channel axis; `input_data_format` says
    otherwise.

    Args:
        patch_size (`int`, defaults to 14): side of a patch in pixels; from the model's `config.json` where
            there is one.
        packed (`bool`, defaults to `False`): return patches (sum K, C*p*p) with `cu_seqlens` instead of
            padding.
        size (`int` or `dict`, *optional*): `None` keeps each image's own resolution; an int or
            {"shortest_edge": s} scales the shorter side to s; both then round each side to the nearest
            multiple of the patch, as the video processor does. {"height": h, "width": w} gives every image
            that size.
        do_resize (`bool`, defaults to `True`): `False` takes images as they are; their sides must be
            multiples of the patch.
        do_center_crop (`bool`, defaults to `False`): the published preparation: the shorter side to `size`,
            nothing rounded, then the middle.
        crop_size (`int` or `dict`, *optional*): of the middle; a square of the shorter side by default.
        **kwargs: transformers' own settings of images (`do_rescale`, `image_mean`, ...), and `allow_urls`,
            `url_timeout`, `max_url_bytes` (see `OneVisionVideoProcessor`; 256 MiB of an image by default).

    Returns:
        `pixel_values` (B, C, H, W) when all images come out equal. Otherwise (B, K, C*p*p) patches, zero
        padded, with `patch_positions` (B, K, 3) (t = 0) and `pixel_attention_mask` (B, K) bool. With
        `packed=True` always patches (sum K, C*p*p), `patch_positions` (sum K, 3) and `cu_seqlens` (B+1,)
        int32.

    Raises:
        ValueError: a size is no multiple of the patch.
        TypeError: an unknown name; the nearest known one is named.
    """

    valid_kwargs = OneVisionImageProcessorKwargs
    model_input_names = ["pixel_values", "patch_positions", "pixel_attention_mask", "cu_seqlens"]

    resample = PILImageResampling.BICUBIC
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    size = None
    default_to_square = False
    crop_size = None
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    patch_size = 14
    packed = False

    @classmethod
    def get_image_processor_dict(
        cls, pretrained_model_name_or_path: str | PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of the folder; the patch size is that of the model beside them.

        Raises:
            ImportError: transformers' pipeline asks for the processor to classify videos with.
        """
        if kwargs.get("_from_pipeline") == "video-classification":
            raise ImportError(
                "this pipeline reads clips with OneVisionVideoProcessor: an image processor would have each "
                "frame classified as an image, and the answer would be the first one's"
            )
        return read_with_model_settings(
            super().get_image_processor_dict, pretrained_model_name_or_path, ("patch_size",), **kwargs
        )

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """transformers' own; a crop that was all of the stored size follows a new one."""
        if kwargs.get("size") is not None and kwargs.get("crop_size") is None and self.crop_size is not None:
            crop = following_crop(kwargs["size"], self.size, self.crop_size)
            kwargs["crop_size"] = kwargs["size"] if crop is None else crop
        return super().preprocess(images, *args, **kwargs)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:  # type: ignore[override]
        # The library asks for a size whenever it resizes, and for a crop size whenever it crops; both have
        # defaults.
        kwargs["do_resize"] = kwargs["do_resize"] and kwargs["size"] is not None
        kwargs["do_center_crop"] = kwargs["do_center_crop"] and kwargs["crop_size"] is not None
        super()._validate_preprocess_kwargs(**kwargs)

    def _preprocess(  # type: ignore[override]
        self,
        images: list[Tensor],
        *,
        do_resize: bool,
        size: SizeDict | None,
        resample: Any,
        do_center_crop: bool,
        crop_size: SizeDict | None,
        patch_size: int,
        packed: bool,
        disable_grouping: bool | None,
        return_tensors: str | None,
        **kwargs: Any,
    ) -> BatchFeature:
        groups, order = group_images_by_shape(images, disable_grouping=disable_grouping)
        for shape, stacked in groups.items():
            height, width = stacked.shape[-2:]
            if do_resize:
                target = _target_size(height, width, size, do_center_crop, patch_size)
                stacked = self.resize(stacked, target, resample=resample)
            if do_center_crop:
                stacked = self.center_crop(stacked, crop_size or _square(size, *stacked.shape[-2:]))
            groups[shape] = self.scaled(stacked, kwargs)
        return _collate(list(reorder_images(groups, order)), patch_size, packed, return_tensors)


def _target_size(
    height: int, width: int, size: SizeDict | None, do_center_crop: bool, patch_size: int
) -> SizeDict:
    """What to resize an image to: as asked where that is exact, else rounded to the patch."""
    if size is not None and (size.shortest_edge is None or do_center_crop):
        return size
    shorter = size.shortest_edge if size is not None else None
    geometry = FrameGeometry.fit(height, width, shorter or min(height, width), patch_size)
    return SizeDict(height=geometry.resized_height, width=geometry.resized_width)


def _square(size: SizeDict | None, height: int, width: int) -> SizeDict:
    """The crop when none is asked for: the whole of a fixed size, else the square of the shorter side."""
    if size is not None and size.shortest_edge is None:
        return size
    side = min(height, width) if size is None else size.shortest_edge
    return SizeDict(height=side, width=side)


def _collate(images: list[Tensor], patch_size: int, packed: bool, return_tensors: str | None) -> BatchFeature:
    """Equal images as they are, unequal ones as patches, padded or packed."""
    for image in images:
        if image.shape[-2] % patch_size or image.shape[-1] % patch_size:
            raise ValueError(
                f"an image of height {image.shape[-2]} and width {image.shape[-1]} is no multiple of "
                f"patch_size {patch_size}; change size or crop_size, or leave do_resize on"
            )
    if not packed and all(image.shape == images[0].shape for image in images):
        return BatchFeature({"pixel_values": torch.stack(images)}, tensor_type=return_tensors)

    patches = [cut_patches(image[None], patch_size)[0][0] for image in images]
    positions = [
        grid_positions(1, image.shape[-2] // patch_size, image.shape[-1] // patch_size, device=image.device)
        for image in images
    ]
    if packed:
        lengths = torch.tensor([0, *map(len, patches)])
        data = {
            "pixel_values": torch.cat(patches),
            "patch_positions": torch.cat(positions),
            "cu_seqlens": lengths.cumsum(0).to(torch.int32),
        }
    else:
        data = {
            "pixel_values": pad_sequence(patches, batch_first=True),
            "patch_positions": pad_sequence(positions, batch_first=True),
            "pixel_attention_mask": pad_sequence(
                [rows.new_ones(len(rows), dtype=torch.bool) for rows in patches], batch_first=True
            ),
        }
    return BatchFeature(data, tensor_type=return_tensors)


__all__ = ["OneVisionImageProcessor"]
