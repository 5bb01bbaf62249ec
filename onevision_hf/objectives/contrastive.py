"""Which text belongs to which image, over the batch of all processes.

    loss, accuracy = contrastive_loss(image_features, text_features, logit_scale)
    loss.backward()                     # gradients of features that other processes hold go back to them

Shapes: b images of this process, B of all, T texts an image, E features.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from .collectives import gather_rows, mean_over_processes

LOGIT_SCALE_CAP = math.log(100.0)  # of the logarithm, as CLIP caps it (arXiv 2103.00020, section 2.5)


class Contrast(NamedTuple):
    """loss: () with gradient; accuracy: (), fraction of images whose own text is nearest, and the reverse,
    over all processes.
    """

    loss: Tensor
    accuracy: Tensor


class _Cap(torch.autograd.Function):
    """min(x, cap) that keeps the gradient which leads back below the cap; clamp's would be zero for ever."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, cap: float) -> Tensor:
        ctx.save_for_backward(value >= cap)
        return value.clamp(max=cap)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (capped,) = ctx.saved_tensors
        # A negative gradient would raise the value.
        return gradients[0].masked_fill(capped & (gradients[0] < 0), 0), None


def capped_scale(logit_scale: Tensor) -> Tensor:
    """exp of the learned logarithm, at most 100."""
    return _Cap.apply(logit_scale, LOGIT_SCALE_CAP).exp()


def contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    form: Literal["softmax", "sigmoid"] = "softmax",
    process_group: dist.ProcessGroup | None = None,
) -> Contrast:
    """The mean over the images of all processes, equal on each; every process calls this.

    softmax: symmetric cross-entropy of cosines times the scale among the B images and the B texts of one slot
    (CLIP), and the mean over the T slots. sigmoid: -sum log sigmoid(+-(scale * cosine + bias)) over all B x B
    pairs, divided by B (SigLIP, arXiv 2303.15343), and the mean over the slots.

    Gradients are multiplied by the number of processes, because DDP and FSDP divide by it (as those of
    `ClusterDiscriminationLoss`). Computed in float32 or wider.

    Args:
        image_features: (b, E), not normalised; b may differ between processes.
        text_features: (b, E) or (b, T, E), not normalised.
        logit_scale: () or (1,), the logarithm of the scale; above ln 100 it counts as ln 100.
        logit_bias: () or (1,); of the sigmoid form alone.
        form: `softmax` or `sigmoid`.
        process_group: the processes; None is the default group, or this one alone without one.

    Raises:
        ValueError: shapes that do not fit, another form, or a sigmoid form without its bias.
    """
    if text_features.ndim == 2:
        text_features = text_features[:, None]
    if image_features.ndim != 2 or text_features.shape != (
        len(image_features),
        text_features.shape[1],
        image_features.shape[1],
    ):
        raise ValueError(
            f"image_features are {tuple(image_features.shape)} and text_features "
            f"{tuple(text_features.shape)}, expected (b, E) and (b, T, E)"
        )
    if form not in ("softmax", "sigmoid"):
        raise ValueError(f"form is {form!r}, expected 'softmax' or 'sigmoid'")
    if form == "sigmoid" and logit_bias is None:
        raise ValueError("the sigmoid form has a bias: give logit_bias")
    with torch.autocast(image_features.device.type, enabled=False):
        dtype = torch.promote_types(image_features.dtype, torch.float32)
        images = F.normalize(image_features.to(dtype), dim=-1)  # (b, E)
        texts = F.normalize(text_features.to(dtype), dim=-1)  # (b, T, E)
        scale = capped_scale(logit_scale.to(dtype))
        all_texts, first = gather_rows(texts, process_group)  # (B, T, E)
        slots = texts.shape[1]
        own = first + torch.arange(len(images), device=images.device)  # (b,) the column of each row's match
        logits_image = scale * torch.einsum("be,nte->tbn", images, all_texts)  # (T, b, B)
        targets = own.expand(slots, -1).flatten()
        hits = (logits_image.flatten(0, 1).argmax(-1) == targets).to(dtype).sum()
        if form == "sigmoid":
            assert logit_bias is not None
            # Each pair is seen once, by the process of its image.
            sign = F.one_hot(own, len(all_texts)).to(dtype) * 2 - 1  # (b, B)
            total = -F.logsigmoid(sign * (logits_image + logit_bias.to(dtype))).sum() / slots
            directions = slots
        else:
            all_images, _ = gather_rows(images, process_group)  # (B, E)
            logits_text = scale * torch.einsum("bte,ne->tbn", texts, all_images)  # (T, b, B)
            both = torch.cat([logits_image, logits_text]).flatten(0, 1)
            total = F.cross_entropy(both, targets.repeat(2), reduction="sum") / (2 * slots)
            hits = hits + (logits_text.flatten(0, 1).argmax(-1) == targets).to(dtype).sum()
            directions = 2 * slots
        sums = torch.stack([total, hits.detach() / directions])
        loss, accuracy = mean_over_processes(sums, sums.new_full((2,), len(images)), process_group)
    return Contrast(loss, accuracy.detach())
