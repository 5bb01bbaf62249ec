"""What `UnifiedForPreTraining` takes, checked. Shapes as in modeling_unified.py."""

from typing import Any

from torch import Tensor

from .configuration_unified import UnifiedPreTrainingConfig

_SELECTIONS = (
    "patch_positions",
    "visible_indices",
    "pixel_values_videos",
    "pixel_attention_mask",
    "cu_seqlens",
)


def check_images(pixel_values: Tensor | None, given: dict[str, Any] | None = None) -> None:
    """Raise ValueError for anything but whole images; `given` are further arguments, TypeError for unknown
    ones.
    """
    given = given or {}
    sparse = [name for name, value in given.items() if name in _SELECTIONS and value is not None]
    if sparse:
        raise ValueError(
            f"{', '.join(sparse)}: a sparse selection has no full grid of tokens to rebuild an image from; "
            "give whole images as pixel_values (B, 3, H, W), or use the encoder alone (model.encoder)"
        )
    unknown = [name for name in given if name not in _SELECTIONS]
    if unknown:
        raise TypeError(f"forward() got an unexpected keyword argument {unknown[0]!r}")
    if pixel_values is not None and pixel_values.ndim != 4:
        raise ValueError(
            f"pixel_values must be whole images (B, 3, H, W), found {tuple(pixel_values.shape)}: videos and "
            "selections of patches have no grid of one image to rebuild"
        )


def first_given(pixel_values: Tensor | None, latents: Tensor | None) -> Tensor:
    """The latents if there are any, or the pixels. Raises ValueError for neither."""
    found = latents if latents is not None else pixel_values
    if found is None:
        raise ValueError("give pixel_values or latents; found neither")
    return found


def text_mask(config: UnifiedPreTrainingConfig, ids: Tensor, mask: Tensor | None) -> Tensor:
    """The mask of tokens: the given one, or where they are no padding.

    Args:
        config: `pad_token_id`.
        ids: tokens, any shape.
        mask: of the same shape, 1 where a token is real.

    Raises:
        ValueError: a mask of another shape.
    """
    if mask is None:
        return (ids != config.pad_token_id).long()
    if mask.shape != ids.shape:
        raise ValueError(f"a mask of {tuple(mask.shape)} for tokens of {tuple(ids.shape)}")
    return mask


Texts = tuple[Tensor | None, Tensor | None]


def texts_and_captions(
    config: UnifiedPreTrainingConfig,
    ids: Tensor | None,
    mask: Tensor | None,
    caption: Tensor | None,
    caption_mask: Tensor | None,
) -> tuple[Texts, Texts]:
    """Texts and captions, each with its mask, of what was given.

    Args:
        config: which losses have a weight.
        ids: (B, L), or (B, T, L) with T texts an image.
        mask: of the same shape, 1 where a token is real.
        caption: (B, L) to describe the image with; left out, the first text.
        caption_mask: (B, L).

    Returns:
        texts (B, T, L) and captions (B, L).

    Raises:
        ValueError: a loss with a weight lacks them, or they have other shapes.
    """
    weights = config.loss_weights
    if "contrastive" in weights and ids is None:
        raise ValueError("the contrastive loss needs texts: give input_ids, or set contrastive_weight to 0")
    if "caption" in weights and caption is None and ids is None:
        raise ValueError(
            "the caption loss needs captions: give caption_ids or input_ids, or set caption_weight to 0"
        )
    texts: Texts = (None, None)
    captions: Texts = (None, None)
    if ids is not None:
        if ids.ndim not in (2, 3):
            raise ValueError(f"input_ids are {tuple(ids.shape)}, expected (B, L) or (B, T, L)")
        mask = text_mask(config, ids, mask)
        ids, mask = (ids[:, None], mask[:, None]) if ids.ndim == 2 else (ids, mask)
        texts, captions = (ids, mask), (ids[:, 0], mask[:, 0])
    if caption is not None:
        captions = (caption, text_mask(config, caption, caption_mask))
    return texts, captions
