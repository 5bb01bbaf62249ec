"""From images to the latents that the OpenVision 3 encoder reads, and back: a frozen VAE between two checks.

The VAE is diffusers' `AutoencoderKL` or a module with the same `encode` and `decode`. Shapes: B images, H x W
pixels, C latent channels, h x w latent grid.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from .configuration_openvision3 import OpenVision3Config

# Pixels may leave [-1, 1] by rounding in a resize; those in [0, 255] or in ImageNet's units leave it by more.
PIXEL_TOLERANCE = 1e-2


if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model

    class _Posterior(Protocol):
        mean: torch.Tensor

    class _Encoded(Protocol):
        latent_dist: _Posterior

    class _Decoded(Protocol):
        sample: torch.Tensor

    class VAE(nn.Module):
        """What is called of diffusers' `AutoencoderKL`, which nobody imports before there is one."""

        def encode(self, x: torch.Tensor) -> _Encoded:
            raise NotImplementedError

        def decode(self, z: torch.Tensor) -> _Decoded:
            raise NotImplementedError

        def enable_gradient_checkpointing(self) -> None:
            raise NotImplementedError
else:
    _Model, VAE = object, nn.Module


class MissingVAEError(OSError):
    """Pixels were given and there is no VAE to encode them: the message names what to install or to pass."""


def load_vae(config: OpenVision3Config) -> VAE:
    """The diffusers `AutoencoderKL` that `config.vae_name_or_path` names, float32, frozen.

    Raises `MissingVAEError` when the config names none, diffusers is not installed, or nothing is found
    there.
    """
    remedy = "give one with model.set_vae(vae), or pass latents=..."
    if config.vae_name_or_path is None:
        raise MissingVAEError(
            f"pixel_values need a VAE and the config names none (vae_name_or_path is None): {remedy}"
        )
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        raise MissingVAEError(
            "pixel_values need a VAE, and diffusers, which reads it, is not installed: "
            f'pip install ".[openvision]" in a clone, {remedy}'
        ) from error
    try:
        vae: Any = AutoencoderKL.from_pretrained(config.vae_name_or_path)
        return vae.eval().requires_grad_(False)
    except (OSError, ValueError) as error:
        raise MissingVAEError(
            f"the VAE {config.vae_name_or_path!r} (the config's vae_name_or_path) could not be loaded: "
            f"name a folder or a Hub id of a diffusers AutoencoderKL, {remedy} ({error})"
        ) from error


def check_vae(vae: object, config: OpenVision3Config) -> None:
    """Raise TypeError unless `vae` can encode, ValueError unless its latents have the config's channels."""
    if not callable(getattr(vae, "encode", None)):
        raise TypeError(
            f"a VAE has a method `encode`, as diffusers' AutoencoderKL; found {type(vae).__name__}"
        )
    channels = getattr(getattr(vae, "config", None), "latent_channels", config.latent_channels)
    if channels != config.latent_channels:
        raise ValueError(
            f"the VAE has {channels} latent channels, the encoder reads {config.latent_channels}: pass the "
            "VAE that it was trained with, or a config with that `latent_channels`"
        )


def vae_stride(vae: object) -> int:
    """Pixels to a side of one latent: each level after the first halves it; 8 where `vae` has no config."""
    levels = getattr(getattr(vae, "config", None), "block_out_channels", (1,) * 4)
    return 2 ** (len(levels) - 1)


def check_latents(latents: torch.Tensor, config: OpenVision3Config) -> None:
    """Raise ValueError unless `latents` are (B, C, h, w) with h and w whole patches."""
    channels, patch = config.latent_channels, config.patch_size
    if latents.ndim != 4 or latents.shape[1] != channels:
        raise ValueError(f"latents must be (B, {channels}, h, w), found {tuple(latents.shape)}")
    if any(side % patch or not side for side in latents.shape[-2:]):
        raise ValueError(
            f"latents must have a grid whose sides are multiples of the patch, {patch}; found "
            f"{tuple(latents.shape[-2:])}: encode images whose sides are multiples of {8 * patch} pixels"
        )


@torch.no_grad()
def encode_pixels(vae: VAE, pixel_values: torch.Tensor, config: OpenVision3Config) -> torch.Tensor:
    """Images as latents: latent_scaling * (posterior mean - latent_shift).

    Not under inference mode, whose tensors could take no part in the encoder's backward pass. Warns when
    values leave [-1, 1].

    Args:
        vae: a diffusers `AutoencoderKL`.
        pixel_values: (B, 3, H, W) in [-1, 1].
        config: `patch_size`, `latent_scaling`, `latent_shift`.

    Returns:
        (B, C, H / 8, W / 8), in the VAE's dtype.

    Raises:
        ValueError: another shape.
    """
    if pixel_values.ndim != 4 or pixel_values.shape[1] != 3:
        raise ValueError(f"pixel_values must be (B, 3, H, W), found {tuple(pixel_values.shape)}")
    stride = vae_stride(vae)
    multiple = stride * config.patch_size
    if any(side % multiple for side in pixel_values.shape[-2:]):
        raise ValueError(
            f"pixel_values must have a height and a width that are multiples of {multiple} (VAE {stride} x "
            f"patch {config.patch_size}), found {tuple(pixel_values.shape[-2:])}: resize or crop, as "
            "OpenVision3ImageProcessor does"
        )
    low, high = (bound.item() for bound in torch.aminmax(pixel_values.float()))
    if not (low >= -1 - PIXEL_TOLERANCE and high <= 1 + PIXEL_TOLERANCE):
        warnings.warn(
            f"pixel_values range from {low:.3g} to {high:.3g}; the VAE expects [-1, 1] (2 * x / 255 - 1, as "
            "OpenVision3ImageProcessor gives them)",
            stacklevel=2,
        )
    # Autocast would take a float32 VAE to half precision behind its back.
    with torch.autocast(pixel_values.device.type, enabled=False):
        mean = vae.encode(_like_parameters(vae, pixel_values)).latent_dist.mean
    # The mean is half of what the VAE returns: a view, which safetensors would refuse.
    return ((mean - config.latent_shift) * config.latent_scaling).contiguous()


def decode_latents(vae: VAE, latents: torch.Tensor, config: OpenVision3Config) -> torch.Tensor:
    """Latents as images: the way back. Gradients reach the latents through the frozen decoder.

    Args:
        vae: a diffusers `AutoencoderKL`.
        latents: (B, C, h, w), as `encode_pixels` gives them.
        config: `latent_channels`, `latent_scaling`, `latent_shift`.

    Returns:
        (B, 3, 8 h, 8 w), about in [-1, 1].

    Raises:
        ValueError: another shape.
    """
    check_latents(latents, config)
    unscaled = latents / config.latent_scaling + config.latent_shift
    with torch.autocast(latents.device.type, enabled=False):
        return vae.decode(_like_parameters(vae, unscaled)).sample


def _like_parameters(vae: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    parameter = next(vae.parameters(), tensor)
    return tensor.to(parameter.device, parameter.dtype)


class HoldsVAE(_Model):
    """What a model with a frozen VAE beside it does: not in the state dict, not trained, moved with `.to()`.

    Comes before the model's own base; `config` has the fields that the functions above read.
    """

    config: Any
    _vae: VAE | None = None

    @property
    def vae(self) -> VAE:
        """The VAE that `set_vae` gave, or the config's, which is loaded now. Raises `MissingVAEError`."""
        if self._vae is None:
            self.set_vae(load_vae(self.config))
        assert self._vae is not None
        return self._vae

    def set_vae(self, vae: nn.Module) -> None:
        """Use `vae`, a diffusers `AutoencoderKL` or a module with the same `encode`, from now on.

        It is frozen, set to evaluation, moved to the model's device, and follows the model's `.to()` from
        then on; float16 becomes float32, where this family of VAEs overflows. Raises ValueError when its
        number of latent channels is not the config's, TypeError when it cannot encode.
        """
        check_vae(vae, self.config)
        self._hold_vae(vae.eval().requires_grad_(False))
        if self.device.type != "meta":  # weights that lie on disk are nowhere yet
            self._place_vae(lambda tensor: tensor.to(self.device))

    def encode_pixels(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> latents (B, C, H / 8, W / 8), without gradient: what `forward`
        reads.

        Raises ValueError for sizes that are not whole patches, and `MissingVAEError`; warns when values leave
        [-1, 1].
        """
        return encode_pixels(self.vae, pixel_values, self.config)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, h, w) -> images (B, 3, 8 h, 8 w), about in [-1, 1]; gradients reach the latents.

        Raises ValueError for another shape, and `MissingVAEError`.
        """
        return decode_latents(self.vae, latents, self.config)

    def _hold_vae(self, vae: nn.Module | None) -> None:
        # Past nn.Module's own __setattr__, which would make it a sub-module: in the state dict, and trained.
        object.__setattr__(self, "_vae", vae)

    def _place_vae(self, move: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Move the VAE where `move` takes a tensor like its parameters, keeping it out of float16."""
        parameter = next(self.vae.parameters(), None)
        if parameter is not None:
            moved = move(torch.empty(0, dtype=parameter.dtype, device=parameter.device))
            dtype = torch.float32 if moved.dtype == torch.float16 else moved.dtype
            # diffusers' own `to` warns of modules to keep in float32, of which this VAE has none.
            nn.Module.to(self.vae, moved.device, dtype)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Where `.to()`, `.cuda()`, `.bfloat16()` and their kin arrive, of this module or of one that holds
        it.
        """
        result = super()._apply(fn, recurse)
        if getattr(self, "_vae", None) is not None:
            self._place_vae(fn)
        return result
