"""What all image processors have in common: where images come from, and which axis holds the channels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import ChannelDimension
from transformers.processing_utils import ImagesKwargs

from .known_names import KnownNames
from .remote_file import fetch_pictures
from .url_access import UrlAccess, UrlKwargs

_CHANNELS = (1, 3, 4)
_SCALING = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


class ImageKwargs(ImagesKwargs, UrlKwargs, total=False):
    """What all image processors take."""


class ChannelOrderBackend(KnownNames, TorchvisionBackend):  # type: ignore[misc]
    """transformers' torchvision backend, which refuses unknown names, and to which a NumPy array is
    channels-first only when its last axis is no channel axis (1, 3 or 4 long).

    transformers reads (1, W, 3) as one channel of W x 3 pixels, and so would take a picture one row high for
    one three columns wide. Tensors stay channels-first where both ends could be channels: that is torch's own
    order, and files are read into such tensors. `input_data_format` overrides either.
    """

    valid_kwargs = ImageKwargs

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """transformers' own; what is on the net is fetched as the call allows."""
        return super().preprocess(fetch_pictures(images, UrlAccess.of(kwargs, self)), *args, **kwargs)

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Images of the net are fetched here: a redirect does not lead into this machine's own network."""
        return super().fetch_images(fetch_pictures(image_url_or_urls, UrlAccess.of({}, self)))

    def scaled(self, images: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """Rescaled and normalised, (..., C, H, W), as the settings of these names say."""
        return self.rescale_and_normalize(images, *(settings[name] for name in _SCALING))

    def rescale_and_normalize(
        self, images: Tensor, do_rescale: bool, rescale_factor: float, do_normalize: bool, *mean_and_std: Any
    ) -> Tensor:
        """transformers' own, which makes infinities of a deviation of 0.

        Args:
            images: (..., C, H, W).
            do_rescale: multiply them by `rescale_factor`.
            rescale_factor: a number.
            do_normalize: take off the mean and divide by the deviation.
            *mean_and_std: of each channel.

        Raises:
            ValueError: a deviation that is no finite number above 0.
        """
        deviation = np.asarray(mean_and_std[1] if do_normalize else 1.0, np.float64)
        if not (np.isfinite(deviation).all() and (deviation > 0).all()):
            raise ValueError(f"image_std must be finite numbers above 0, not {mean_and_std[1]!r}")
        return super().rescale_and_normalize(images, do_rescale, rescale_factor, do_normalize, *mean_and_std)

    def process_image(  # type: ignore[override]
        self, image: Any, do_convert_rgb: bool | None = None, input_data_format: Any = None, **kwargs: Any
    ) -> Tensor:
        """One image as a tensor, channels first.

        Args:
            image: PIL, (H, W), (H, W, C) or (C, H, W).
            do_convert_rgb: make three channels of whatever there is.
            input_data_format: `ChannelDimension` or its name; by default an array whose first and last axis
                could both be channels is taken as channels-last.
            **kwargs: transformers' own.

        Returns:
            (C, H, W).

        Raises:
            ValueError: pixels that are NaN or infinite.
        """
        ambiguous = (
            isinstance(image, np.ndarray)
            and image.ndim == 3
            and image.shape[0] in _CHANNELS
            and image.shape[-1] in _CHANNELS
        )
        if ambiguous and input_data_format is None:
            input_data_format = ChannelDimension.LAST
        pixels = super().process_image(image, do_convert_rgb, input_data_format, **kwargs)
        if pixels.is_floating_point() and not pixels.isfinite().all():
            raise ValueError(f"an image of shape {tuple(pixels.shape)} has NaN or infinite pixels")
        return pixels
