"""Classification of videos and images: the OneVision encoder under an attentive head.

    from onevision_hf import OneVisionForVideoClassification
    model = OneVisionForVideoClassification.from_pretrained(FOLDER, id2label={0: "left", 1: "right"})
    model.freeze_encoder()                       # a probe; without it everything learns
    model(**processor("clip.mp4", return_tensors="pt"), labels=labels).loss

The head is the published attentive probe (arXiv 2602.08683; `ClassificationHead` of
eval_encoder/attentive_probe.py in EvolvingLMMs-Lab/OneVision-Encoder). `config.probe_position` makes it a
head that knows where each patch lies.

Shapes as in `modeling_onevision`; C classes.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .attention_pooling import OneVisionProbeAttention
from .configuration_onevision import HEAD_SIZE_STEP, ROTARY_SPLIT, OneVisionConfig
from .modeling_onevision import (
    OneVisionModel,
    OneVisionPreTrainedModel,
    items_of_patches,
    rotary_angles,
)
from .patch_inputs import prepare_patches

if TYPE_CHECKING:
    from collections.abc import Sequence

_HEAD_SIZE = 64  # channels of an attention head, as published
_INIT_STD, _LAST_INIT_SCALE = 0.02, 1e-3


class OneVisionAttentiveHead(nn.Module):
    """A learned probe attends to the tokens; x + MLP(RMSNorm(x)); LayerNorm; a linear map to the classes.

    With `probe_position` the probe stands at [t, h, w], and keys and values are rotated by the offset of
    their patch from there (three-dimensional RoPE; rotating values by the offset is rotating them by their
    position and the sum back by the probe's). Each pair of channels turns by one angle, so that offsets are
    all that counts. Published is no position: then the head sees a set of tokens.

    Args:
        hidden_size: D, of any encoder.
        num_labels: C.
        probe_position: [t, h, w] or None.
        rope_theta: base of the rotary frequencies.

    Raises:
        ValueError: a position, but heads whose channels cannot be split 4:6:6 between t, h and w.
    """

    def __init__(
        self,
        hidden_size: int,
        num_labels: int,
        probe_position: "Sequence[float] | None" = None,
        rope_theta: float = 10000.0,
    ):
        super().__init__()
        heads = next(n for n in range(max(1, hidden_size // _HEAD_SIZE), 0, -1) if hidden_size % n == 0)
        self.head_dim = hidden_size // heads
        if probe_position is not None and self.head_dim % HEAD_SIZE_STEP:
            raise ValueError(
                f"probe_position needs heads of a multiple of {HEAD_SIZE_STEP} channels, hidden_size "
                f"{hidden_size} gives {heads} of {self.head_dim}"
            )
        self.probe_position = None if probe_position is None else tuple(map(float, probe_position))
        self.theta = float(rope_theta)
        self.probe = nn.Parameter(torch.randn(1, 1, hidden_size))
        self.attention = OneVisionProbeAttention(hidden_size, heads)
        self.norm = nn.RMSNorm(hidden_size)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(), nn.Linear(4 * hidden_size, hidden_size)
        )
        self.fc_norm = nn.LayerNorm(hidden_size)
        self.fc = nn.Linear(hidden_size, num_labels)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The published start: every linear map truncated normal, the last one a thousandth of that."""
        init.normal_(self.probe)
        init.xavier_uniform_(self.attention.in_proj_weight)
        init.zeros_(self.attention.in_proj_bias)
        for layer in self.modules():
            if not isinstance(layer, nn.Linear):
                continue
            std = _INIT_STD * (_LAST_INIT_SCALE if layer is self.fc else 1)
            init.trunc_normal_(layer.weight, std=std, a=-100 * std, b=100 * std)
            init.zeros_(layer.bias)
        for norm in (self.norm, self.fc_norm):
            init.ones_(norm.weight)
        init.zeros_(self.fc_norm.bias)

    def forward(
        self, hidden_states: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Logits from one probe's look at the patches.

        Args:
            hidden_states: (B, L, D), or packed (L, D).
            positions: (B, L, 3), packed (L, 3), [t, h, w]; needed with a `probe_position`, ignored without.
            mask: (B, L), True for patches that are attended to; packed, the patches of each item.

        Returns:
            (B, C).
        """
        items = len(hidden_states)
        if hidden_states.ndim == 2:
            assert mask is not None
            items = len(mask)
            # One row of patches with a probe for each of its items.
            probes = self.probe.expand(1, items, -1)
            hidden_states, mask = hidden_states[None], mask[None, None]
            positions = None if positions is None else positions[None]
        else:
            probes = self.probe.expand(items, -1, -1)
            mask = None if mask is None else mask[:, None, None]
        rotate = None if self.probe_position is None else self._rotation(positions, hidden_states.dtype)
        pooled = self.attention(probes, hidden_states, mask, rotate)
        pooled = (pooled + self.mlp(self.norm(pooled))).reshape(items, -1)
        return self.fc(self.fc_norm(pooled))

    def _rotation(self, positions: Tensor | None, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """What turns (B, N, L, d) by the offsets of the patches from the probe."""
        if positions is None:
            raise ValueError(
                f"the probe stands at {self.probe_position}, so the positions of the tokens are needed, "
                "found None"
            )
        probe = torch.tensor(self.probe_position, device=positions.device)
        offsets = positions.float() - probe
        unit = self.head_dim // 2 // sum(ROTARY_SPLIT)
        sizes = [part * unit for part in ROTARY_SPLIT]
        angle = rotary_angles(offsets, sizes, self.theta).unsqueeze(1)  # (B, 1, L, d/2)
        return partial(_rotate, cos=angle.cos().to(dtype), sin=angle.sin().to(dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (..., d): channel i of the first half with channel i of the second, by one angle a pair."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class _OneVisionForClassification(OneVisionPreTrainedModel):
    """The encoder and an attentive head; `num_labels`, `id2label` and `label2id` are the configuration's.

    Loads an encoder's folder (the head is then new, the pooling head left out) or its own. The configuration
    says where the probe stands (`probe_position`) and how the loss smooths labels (`label_smoothing`).

    Args:
        config: sizes and options, of the encoder and of the head.
    """

    # The loss is a mean over the batch: accumulated micro-batches are divided by their number.
    accepts_loss_kwargs = False
    may_be_new = (r"^classifier\.",)
    _keys_to_ignore_on_load_unexpected = [r"^(onevision_encoder\.)?head\."]
    _no_split_modules = [*OneVisionPreTrainedModel._no_split_modules, "OneVisionAttentiveHead"]

    def __init__(self, config: OneVisionConfig):
        super().__init__(config)
        self.onevision_encoder = OneVisionModel(config, add_pooling_layer=False)
        self.classifier = OneVisionAttentiveHead(
            config.hidden_size, config.num_labels or 0, config.probe_position, config.rope_theta
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.onevision_encoder.get_input_embeddings()

    def freeze_encoder(self) -> None:
        """Only the head learns from now on."""
        self.onevision_encoder.requires_grad_(False)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The head after its parts, which get the encoder's start first.
        if isinstance(module, OneVisionAttentiveHead):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor | None = None,
        visible_indices: Tensor | None = None,
        patch_positions: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ImageClassifierOutput:
        """Classify images, dense videos, or selected patches, padded or packed.

        Args:
            pixel_values: (B, C, H, W) images or (B, C, T, H, W) videos; see [`OneVisionModel.forward`] for
                this and the next five.
            visible_indices: (B, K), the patches of a dense input that are encoded.
            patch_positions: (B, K, 3) [t, h, w] of each patch; packed (sum K, 3).
            pixel_attention_mask: (B, K), 1 for a real patch.
            pixel_values_videos: (B, K, C*p*p) patches; packed (sum K, C*p*p).
            cu_seqlens: (B+1,) bounds of the items of a packed batch.
            labels (`torch.Tensor`, *optional*): of the kind that `config.problem_type` names, C labels:
                `"single_label_classification"`, (B,) integers, -100 is left out of the loss;
                `"multi_label_classification"`, (B, C) from 0 to 1; `"regression"`, (B, C), or (B,) for one
                label.
            **kwargs: of the attention implementation, and `output_hidden_states`, `output_attentions`.

        Returns:
            `logits` (B, C), and with labels the `loss`, a mean over the batch: cross-entropy with
            `config.label_smoothing`, binary cross-entropy over all labels, or the mean squared error. Where
            `config.problem_type` is `None`, the first labels set it, as in transformers' own models: C = 1
            is a regression, integers are classes, floats and bools several labels.

        Raises:
            ValueError: for inputs that do not fit together or the model, or labels that do not fit the
                problem.
        """
        patches, positions, mask, cu_seqlens = prepare_patches(
            self.config,
            pixel_values,
            visible_indices,
            patch_positions,
            pixel_attention_mask,
            pixel_values_videos,
            cu_seqlens,
        )
        outputs = self.onevision_encoder(
            pixel_values_videos=patches,
            patch_positions=positions,
            pixel_attention_mask=mask,
            cu_seqlens=cu_seqlens,
            **kwargs,
        )
        if cu_seqlens is not None:
            items = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
            mask = items_of_patches(cu_seqlens, len(patches)) == items[:, None]
        states = outputs.last_hidden_state
        logits = self.classifier(states, positions.to(states.device), mask)
        loss = None
        if labels is not None:
            loss = classification_loss(self.config, logits.float(), labels.to(logits.device))
        return ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


def classification_loss(config: OneVisionConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of `config.problem_type`, which is set by the labels where it is None.

    Args:
        config: `problem_type`, `label_smoothing`.
        logits: (B, C) float32.
        labels: see the `forward` of the models.

    Raises:
        ValueError: shape or type of the labels are of another problem, or `config.label_smoothing` is.
    """
    integers = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    problem = config.problem_type
    if problem is None and logits.shape[1] == 1:
        problem = "regression"
    elif problem is None:
        problem = "single_label_classification" if integers else "multi_label_classification"
    found = f"found labels of shape {tuple(labels.shape)} and {labels.dtype} for {logits.shape[1]} labels"
    if config.label_smoothing and problem != "single_label_classification":
        raise ValueError(
            f"label_smoothing {config.label_smoothing} is of one class a clip, not {problem}: {found}"
        )
    if problem == "single_label_classification":
        if labels.shape != logits.shape[:1] or not integers:
            raise ValueError(
                f"{problem} takes one integer a clip, ({len(logits)},), {found}; problem_type="
                "'multi_label_classification' or 'regression' takes others"
            )
        loss = nn.functional.cross_entropy(logits, labels.long(), label_smoothing=config.label_smoothing)
    elif problem == "multi_label_classification":
        if labels.shape != logits.shape or labels.is_complex():
            raise ValueError(
                f"{problem} takes a number from 0 to 1 a clip and label, {tuple(logits.shape)}, {found}"
            )
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    else:
        one = logits.shape[1] == 1 and labels.shape == logits.shape[:1]
        if not (one or labels.shape == logits.shape) or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"{problem} takes a number a clip and label, {tuple(logits.shape)}, {found}")
        loss = nn.functional.mse_loss(logits, labels.reshape(logits.shape).to(logits.dtype))
    if config.problem_type is None:
        config.problem_type = problem
    return loss


class OneVisionForVideoClassification(_OneVisionForClassification):
    """Classes of videos; see `OneVisionForImageClassification` for all else, which is the same.

    Args:
        config: sizes and options, of the encoder and of the head.
    """


class OneVisionForImageClassification(_OneVisionForClassification):
    """Classes of images: an encoder and an attentive head; `num_labels`, `id2label` and `label2id` are the
    configuration's.

    It has the parameters of `OneVisionForVideoClassification`, whose folders it loads: an image is a video of
    one frame. Images go in as `OneVisionImageProcessor` gives them.

    Args:
        config: sizes and options, of the encoder and of the head.
    """


__all__ = ["OneVisionForImageClassification", "OneVisionForVideoClassification"]
