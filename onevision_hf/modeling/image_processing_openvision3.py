"""Images for the OpenVision 3 encoder: resized, cropped, in [-1, 1], with sides that are multiples of 16.

processor = OpenVision3ImageProcessor()
pixel_values = processor(images, return_tensors="pt").pixel_values      # (B, 3, 256, 256)
processor(images, size={"shortest_edge": 192}, do_center_crop=False)    # whole pictures, sides rounded to 16
"""

from typing import Any

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict

from .channel_order import ChannelOrderBackend

# The VAE halves a side three times and the encoder reads patches of 2 x 2 latents.
SIZE_MULTIPLE = 16


class OpenVision3ImageProcessor(ChannelOrderBackend):
    """Resize the shorter side to 256, crop the centre 256 x 256, map [0, 255] to [-1, 1]: the paper's
    evaluation form.

    With `size` as `shortest_edge` and no crop, the longer side is rounded to the nearest multiple of 16. A
    NumPy array is channels-first only when its last axis is no channel axis; `input_data_format` says
    otherwise.

    Args:
        **kwargs: transformers' own settings of images (`size`, `crop_size`, `do_center_crop`, ...), and
            `allow_urls`, `url_timeout`, `max_url_bytes` (see `OneVisionVideoProcessor`).

    Raises:
        ValueError: any other size that is not a multiple of 16, at construction where it is known by then;
            a crop larger than the picture, which transformers would fill with black.
        TypeError: an unknown name; the nearest known one is named.
    """

    resample = PILImageResampling.BILINEAR
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 256, "width": 256}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    model_input_names = ["pixel_values"]

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        check_multiples(self.do_resize, self.size, self.do_center_crop, self.crop_size)

    def _validate_preprocess_kwargs(self, **kwargs: Any) -> None:  # type: ignore[override]
        super()._validate_preprocess_kwargs(**kwargs)
        check_multiples(*(kwargs.get(name) for name in ("do_resize", "size", "do_center_crop", "crop_size")))

    def center_crop(  # type: ignore[override]
        self, image: torch.Tensor, size: SizeDict, **kwargs: Any
    ) -> torch.Tensor:
        """transformers' own, which would fill with black what a crop has more than the picture.

        Args:
            image: (C, H, W) or (B, C, H, W).
            size: the crop's height and width, in pixels.
            **kwargs: transformers' own.

        Raises:
            ValueError: the crop is larger than the picture.
        """
        if image.shape[-2] < (size.height or 0) or image.shape[-1] < (size.width or 0):
            raise ValueError(
                f"a crop of {size.height} x {size.width} does not fit in a picture of {image.shape[-2]} x "
                f"{image.shape[-1]}: resize to at least the crop, or set crop_size"
            )
        return super().center_crop(image, size, **kwargs)

    def _preprocess(  # type: ignore[override]
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        do_center_crop: bool,
        return_tensors: str | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        if do_resize and size.shortest_edge and not do_center_crop:
            # In one step, and only here: before a crop the picture keeps its exact shape.
            images = [
                self.resize(image, rounded_size(image, size.shortest_edge), resample) for image in images
            ]
            do_resize = False
        kwargs |= {"size": size, "resample": resample, "do_center_crop": do_center_crop}
        batch = super()._preprocess(images, do_resize=do_resize, return_tensors=None, **kwargs)
        for image in batch["pixel_values"]:
            if any(side % SIZE_MULTIPLE for side in image.shape[-2:]):
                raise ValueError(
                    f"a picture of {image.shape[-2]} x {image.shape[-1]} has sides that are not multiples of "
                    f"{SIZE_MULTIPLE}: leave do_resize or do_center_crop on"
                )
        return BatchFeature(dict(batch), tensor_type=return_tensors)


def rounded_size(image: torch.Tensor, shortest_edge: int) -> SizeDict:
    """The size with that shorter side and the image's shape, both sides rounded to multiples of 16, at
    least 16.
    """
    scale = shortest_edge / min(image.shape[-2:])
    height, width = (max(1, round(side * scale / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in image.shape[-2:])
    return SizeDict(height=height, width=width)


def check_multiples(do_resize: bool | None, size: Any, do_center_crop: bool | None, crop_size: Any) -> None:
    """Check that the last of resize and crop that is on leaves multiples of 16.

    Args:
        do_resize: whether pictures are resized.
        size: to what; a `SizeDict` or a dictionary, sides in pixels by name.
        do_center_crop: whether they are cropped.
        crop_size: to what; sides in pixels by name.

    Raises:
        ValueError: a side is no multiple; the nearest one is named.
    """
    if do_center_crop:
        name, found = "crop_size", crop_size
    elif do_resize:
        name, found = "size", size
    else:
        return
    wrong = {side: value for side, value in dict(found or {}).items() if value and value % SIZE_MULTIPLE}
    if wrong:
        nearest = {
            side: max(1, round(value / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side, value in wrong.items()
        }
        raise ValueError(
            f"{name} must be multiples of {SIZE_MULTIPLE} (VAE 8 x patch 2), found {wrong}; nearest: "
            f"{nearest}"
        )


__all__ = ["OpenVision3ImageProcessor"]
