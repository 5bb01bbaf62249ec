"""The OneVision encoder: a vision transformer over patches that carry their (t, h, w) position.

    from onevision_hf import OneVisionConfig, OneVisionModel
    model = OneVisionModel(OneVisionConfig.tiny())
    model(torch.randn(1, 3, 56, 56)).pooler_output            # an image, on any machine

The architecture and the parameter names are those of the published `modeling_onevision_encoder.py`
(EvolvingLMMs-Lab/OneVision-Encoder), so its checkpoints load as they are.

Shapes: B batch, L patches of a row, D hidden size, N heads, d head size. A packed batch is one row without
the batch dimension, (L, D), whose items lie one after another.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, WeightConverter, WeightRenaming
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipMLP, eager_attention_forward
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import is_flash_attention_requested
from transformers.utils.output_capturing import capture_outputs

from .attention_pooling import OneVisionPoolingHead
from .complete_weights import CompleteWeights
from .configuration_onevision import ROTARY_SPLIT, OneVisionConfig
from .feature_maps import check_kind, gather
from .patch_inputs import prepare_patches

INPUTS = (
    *("pixel_values", "visible_indices", "patch_positions", "pixel_attention_mask"),
    *("pixel_values_videos", "cu_seqlens"),
)


# Names of the authors' folders for transformers 5 and of their multimodal models -> ours.
FUSED: Any = [
    WeightRenaming(r"self_attn\.proj\.", r"self_attn\.out_proj\."),
    WeightConverter(
        "self_attn.qkv", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], [Chunk(dim=0)]
    ),
]


class OneVisionEmbeddings(nn.Module):
    """One linear map of each patch, kept as the published convolution."""

    def __init__(self, config: OneVisionConfig):
        super().__init__()
        self.patch_shape = (config.num_channels, config.patch_size, config.patch_size)
        self.patch_embedding = nn.Conv2d(
            config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size, bias=False
        )

    def forward(self, patches: Tensor) -> Tensor:
        # (..., C*p*p) -> (patches, C, p, p) -> (..., D); through the module, so that adapters on it count
        images = patches.reshape(-1, *self.patch_shape).to(self.patch_embedding.weight.dtype)
        return self.patch_embedding(images).view(*patches.shape[:-1], -1)


class OneVisionRotaryEmbedding(nn.Module):
    """Angles of the 4:6:6 rotary embedding, as cos and sin of shape (..., L, 1, d).

    Half of a head's channels is shared 4:6:6 between t, h and w, and that half is laid out twice, while the
    rotation pairs neighbouring channels; so the two members of a pair turn by different angles. That is the
    published embedding and what the weights were trained with.

    The frequencies are computed on every call, in float32: a buffer would be garbage after `from_pretrained`,
    which builds on the meta device, and would be rounded by `model.to(torch.bfloat16)`.
    """

    def __init__(self, config: OneVisionConfig):
        super().__init__()
        unit = config.head_dim // 2 // sum(ROTARY_SPLIT)
        self.axis_sizes = [part * unit for part in ROTARY_SPLIT]
        self.theta = float(config.rope_theta)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        half = rotary_angles(positions, self.axis_sizes, self.theta)
        angle = torch.cat([half, half], dim=-1).unsqueeze(-2)
        cos, sin = angle.cos(), angle.sin()
        # The sign of (x0, x1) -> (-x1, x0) is folded into sin here, once for all layers.
        sin[..., ::2].neg_()
        return cos.to(dtype), sin.to(dtype)


def rotary_angles(positions: Tensor, sizes: list[int], theta: float) -> Tensor:
    """The angles by which channels are turned.

    Args:
        positions: (..., 3) of t, h, w.
        sizes: angles of each axis.
        theta: base of the frequencies.

    Returns:
        (..., sum of sizes), float32.
    """
    angles = []
    for axis, size in enumerate(sizes):
        steps = torch.arange(size, dtype=torch.float32, device=positions.device) / size
        angles.append(positions[..., axis, None].float() * theta**-steps)
    return torch.cat(angles, dim=-1)


def apply_rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs of channels of x, shape kept: (x0, x1) becomes (x0 cos - x1 sin, x1 cos + x0 sin).

    Args:
        x: (..., L, N, d).
        cos: (..., L, 1, d), broadcast over the heads.
        sin: (..., L, 1, d), negative in the first channel of each pair.
    """
    swapped = torch.stack((x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)


class OneVisionAttention(SiglipAttention):
    """SigLIP's projections; queries and keys are turned by their positions."""

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        segments: list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention over patches, padded or packed.

        Args:
            hidden_states: (B, L, D), or packed (L, D).
            rotary: cosines and sines of the patches' positions.
            attention_mask: of the attention implementation in use.
            segments: lengths of packed items, each of which attends to itself in a call of its own.
            **kwargs: of the attention implementation.

        Returns:
            states shaped as they came, and the weights where the implementation gives them.
        """
        # (B, L, D) -> (B, L, N, d); rotated in this layout, where the channels are contiguous
        heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = apply_rotary(self.q_proj(hidden_states).view(heads), *rotary)
        key = apply_rotary(self.k_proj(hidden_states).view(heads), *rotary)
        value = self.v_proj(hidden_states).view(heads)
        if hidden_states.ndim == 2:
            query, key, value = query[None], key[None], value[None]
        states = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.dropout if self.training else 0.0
        options = {"dropout": dropout, "scaling": self.scale, **kwargs}
        if segments is None:
            attended, weights = attend(self, *states, attention_mask, **options)
        else:
            items = zip(*(state.split(segments, dim=2) for state in states), strict=True)
            attended = torch.cat([attend(self, *item, None, **options)[0] for item in items], dim=1)
            weights = None
        return self.out_proj(attended.reshape(hidden_states.shape)), weights


def make_norm(config: OneVisionConfig) -> nn.Module:
    norm = nn.RMSNorm if config.layer_norm_type == "rms_norm" else nn.LayerNorm
    return norm(config.hidden_size, eps=config.layer_norm_eps)


class OneVisionLayer(GradientCheckpointingLayer):
    def __init__(self, config: OneVisionConfig):
        super().__init__()
        self.self_attn = OneVisionAttention(config)
        self.layer_norm1 = make_norm(config)
        self.mlp = SiglipMLP(config)
        self.layer_norm2 = make_norm(config)

    def forward(
        self, hidden_states: Tensor, rotary: tuple[Tensor, Tensor], **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        """Attention and MLP, each after its norm and added to what came in.

        Args:
            hidden_states: (B, L, D), or packed (L, D).
            rotary: cosines and sines of the patches' positions.
            **kwargs: see [`OneVisionAttention.forward`].
        """
        attended, _ = self.self_attn(self.layer_norm1(hidden_states), rotary, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class OneVisionEncoder(nn.Module):
    """The stack of layers; it owns their published name, `encoder.layers`."""

    def __init__(self, config: OneVisionConfig):
        super().__init__()
        self.layers = nn.ModuleList(OneVisionLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self,
        hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor],
        num_layers: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """The layers, one after the other.

        Args:
            hidden_states: (B, L, D), or packed (L, D).
            rotary: cosines and sines of the patches' positions.
            num_layers: stop after so many layers; None: all.
            **kwargs: see [`OneVisionAttention.forward`].
        """
        for layer in self.layers[:num_layers]:
            hidden_states = layer(hidden_states, rotary, **kwargs)
        return hidden_states


class OneVisionPreTrainedModel(CompleteWeights, PreTrainedModel):
    config: OneVisionConfig
    base_model_prefix = "onevision_encoder"
    main_input_name = "pixel_values"
    input_modalities = ["image", "video"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["OneVisionEmbeddings", "OneVisionLayer", "OneVisionPoolingHead"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": OneVisionLayer, "attentions": OneVisionAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, OneVisionPoolingHead):
            init.normal_(module.probe)


class OneVisionModel(OneVisionPreTrainedModel):
    """The encoder with its final norm and pooling head (both absent when `config.use_head` is False).

    Args:
        config: sizes and options.
        add_pooling_layer: False leaves out the pooling head only, and `pooler_output` is `None`.
    """

    def __init__(self, config: OneVisionConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = OneVisionEmbeddings(config)
        self.layernorm_pre = make_norm(config)
        self.encoder = OneVisionEncoder(config)
        self.video_rope = OneVisionRotaryEmbedding(config)
        self.layernorm_post = make_norm(config) if config.use_head else None
        self.head = OneVisionPoolingHead(config) if config.use_head and add_pooling_layer else None
        self.post_init()

    @classmethod
    def named_otherwise(cls, unexpected: list[str]) -> Any:
        fused = any(name.startswith("encoder.") and ".self_attn.qkv." in name for name in unexpected)
        return OneVisionFusedModel if fused and cls is OneVisionModel else None

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: Tensor | None = None,
        visible_indices: Tensor | None = None,
        patch_positions: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        num_layers: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Encode images, dense videos, or selected patches, padded or packed.

        Args:
            pixel_values (`torch.FloatTensor`): (B, C, H, W) images or (B, C, T, H, W) videos, H and W
                multiples of the patch size; or patches, as `pixel_values_videos`.
            visible_indices (`torch.LongTensor` of shape (B, K), *optional*): the patches of a dense input
                that are encoded, as flat indices t*gh*gw + h*gw + w.
            patch_positions (`torch.LongTensor` of shape (B, K, 3), *optional*): [t, h, w] of each patch, t on
                the grid of `config.rope_temporal_size`. Needed for patches; dense pixels default to the
                frames t = 0..T-1.
            pixel_attention_mask (`torch.Tensor` of shape (B, K), *optional*): bool or int, 1 for a real
                patch, 0 for padding, whose content is ignored.
            pixel_values_videos (`torch.FloatTensor` of shape (B, K, C*p*p)): patches, flattened as (C, p, p).
            cu_seqlens (`torch.IntTensor` of shape (B+1,), *optional*): bounds of the items of a packed batch,
                whose patches are (sum K, C*p*p) and positions (sum K, 3). Does not go with a mask.
            num_layers (`int`, *optional*): stop after so many layers (0..all), whose output is then
                `last_hidden_state`, without the final norm and the head: what multimodal models read.
            **kwargs: of the attention implementation, and `output_hidden_states`, `output_attentions`.

        Returns:
            `last_hidden_state` (B, K, D), packed (sum K, D), and `pooler_output` (B, D), which is `None`
            without a head. Of the `hidden_states`, the first is the input of the first layer and the last one
            precedes the final norm.

        Raises:
            ValueError: for inputs that do not fit together or the model; the message names both sides.
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
        hidden_states = self.layernorm_pre(self.embeddings(patches))
        rotary = self.video_rope(positions.to(hidden_states.device), hidden_states.dtype)
        if num_layers is not None and not 0 <= num_layers <= len(self.encoder.layers):
            raise ValueError(f"num_layers is {num_layers}, the encoder has {len(self.encoder.layers)} layers")
        if "attention_mask" in kwargs:
            raise ValueError("the mask of the encoder is called pixel_attention_mask, got attention_mask")
        if cu_seqlens is None:
            # All rows of a padding mask are equal. One is made where it spreads, so that none is L x L.
            spreads = self.config._attn_implementation in ("sdpa", "eager")
            attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states[:, :1] if spreads else hidden_states,
                encoder_hidden_states=hidden_states,
                attention_mask=mask,
            )
            arguments: dict[str, Any] = {"attention_mask": attention_mask}
        else:
            mask, arguments = self._keep_items_apart(hidden_states, cu_seqlens)
        hidden_states = self.encoder(hidden_states, rotary, num_layers=num_layers, **arguments, **kwargs)

        if num_layers is not None:
            return BaseModelOutputWithPooling(last_hidden_state=hidden_states)
        if self.layernorm_post is not None:
            hidden_states = self.layernorm_post(hidden_states)
        pooled = self.head(hidden_states, mask) if self.head is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)

    def features(self, kind: str = "pooled", **inputs: Any) -> Tensor:
        """Features of images or clips, in one of three forms.

        Args:
            kind: "pooled"; "frames", the mean of the patches of each frame; or "dense", every patch in its
                place.
            **inputs: of `forward`, such as a processor's output.

        Returns:
            (B, D); (B, T, D); or (B, T, gh, gw, D). Frames are those of which there are patches, in their
            order; what an item does not have (a patch that was not kept, a frame beyond its end) is NaN.

        Raises:
            ValueError: another kind; "pooled" of a model without a pooling head; and what `forward` raises.
        """
        check_kind(kind, pools=self.head is not None)
        given = prepare_patches(self.config, *(inputs.pop(name, None) for name in INPUTS))
        names = ("pixel_values_videos", "patch_positions", "pixel_attention_mask", "cu_seqlens")
        outputs = self(**dict(zip(names, given, strict=True)), **inputs)
        return (
            outputs.pooler_output if kind == "pooled" else gather(kind, outputs.last_hidden_state, *given[1:])
        )

    def _keep_items_apart(self, hidden_states: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """For a packed batch: which patches are of which item (B, L), and the layers' arguments for that."""
        item_of_patch = items_of_patches(cu_seqlens, len(hidden_states))
        mask = item_of_patch == torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)[:, None]
        if is_flash_attention_requested(self.config):
            longest = int(cu_seqlens.diff().max())
            bounds = {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens}
            return mask, {**bounds, "max_length_q": longest, "max_length_k": longest}
        if self.config._attn_implementation == "sdpa":
            # A mask would be (sum K)^2, and most of its scores would be computed for nothing.
            return mask, {"segments": cu_seqlens.diff().tolist()}
        block_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden_states[None],
            attention_mask=None,
            and_mask_function=lambda batch, head, q, k: item_of_patch[q] == item_of_patch[k],
        )
        return mask, {"attention_mask": block_mask}


class OneVisionFusedModel(OneVisionModel):
    """The encoder of folders that hold queries, keys and values in one matrix, as the authors' later ones do;
    [`OneVisionModel`] tells them by their names and gives this class, which saves them so again.

    Args:
        config: see [`OneVisionModel`].
        add_pooling_layer: see there.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # The first registration compiles all of transformers' conversions, more than the rest of this package
        # takes to import; so they wait for the first model, made or unpickled.
        register_checkpoint_conversion_mapping(cls.__name__, FUSED, overwrite=True)
        return super().__new__(cls)


def items_of_patches(cu_seqlens: Tensor, patches: int) -> Tensor:
    """(sum K,) integers: the item of a packed batch that each of its patches belongs to."""
    patch_ids = torch.arange(patches, device=cu_seqlens.device, dtype=cu_seqlens.dtype)
    return torch.searchsorted(cu_seqlens[1:].contiguous(), patch_ids, right=True)


__all__ = ["OneVisionFusedModel", "OneVisionModel", "OneVisionPreTrainedModel"]
