"""The model of unified pre-training, from a run's config or from weights that it starts from."""

from typing import Any

import torch
from transformers import AutoConfig

from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.configuration_openvision3 import OpenVision3Config
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.modeling_openvision3 import OpenVision3Model
from ...modeling.patchify_config import PatchifyConfig
from ...pretraining import UnifiedForPreTraining, UnifiedPreTrainingConfig
from ...pretraining.tokenizer import token_ids
from ..schema import ConfigError
from .cluster import own_patchify
from .unified_config import MODEL_FIELDS, UnifiedTrainConfig


def model_config(config: UnifiedTrainConfig, tokenizer: Any) -> UnifiedPreTrainingConfig:
    """The model's config from the run's, or from `model.init_from`, whose sizes stay.

    Raises:
        ConfigError: sizes that cannot be had.
    """
    unified, start = config.unified, config.model.init_from
    marks = token_ids(tokenizer)
    run: dict[str, Any] = {name: getattr(unified, name) for name in MODEL_FIELDS}
    run |= {
        "vocab_size": marks.vocab_size,
        "bos_token_id": marks.bos,
        "eos_token_id": marks.eos,
        "pad_token_id": marks.pad,
    }
    sizes = {
        "decoder_config": unified.decoder,
        "text_config": unified.text,
        "caption_config": unified.caption,
    }
    vae = {} if unified.vae is None else {"vae_name_or_path": unified.vae}
    if start is None:
        encoder = _new_encoder(config)
    else:
        if config.model.overrides:
            raise ConfigError("model.overrides cannot change an encoder that model.init_from brings")
        found = AutoConfig.from_pretrained(start)
        if isinstance(found, UnifiedPreTrainingConfig):
            if any(sizes.values()) or unified.projection_dim is not None:
                raise ConfigError(
                    "unified.decoder, text, caption and projection_dim cannot change the heads that "
                    "model.init_from brings"
                )
            if found.vocab_size != marks.vocab_size:
                raise ConfigError(
                    f"{start} was trained with {found.vocab_size} tokens, unified.tokenizer "
                    f"{unified.tokenizer!r} has {marks.vocab_size}"
                )
            values = found.to_dict() | run | vae
            values["encoder_config"] = values["encoder_config"] | vae
            return UnifiedPreTrainingConfig(**values)
        encoder = found
    expected = OpenVision3Config if unified.encoder == "openvision3" else OneVisionConfig
    if not isinstance(encoder, expected):
        raise ConfigError(
            f"model.init_from is a {encoder.model_type}, unified.encoder says {unified.encoder!r}"
        )
    for name, value in vae.items():
        if isinstance(encoder, OpenVision3Config):
            setattr(encoder, name, value)
    make = UnifiedPreTrainingConfig.tiny if config.model.size == "tiny" else UnifiedPreTrainingConfig
    given: dict[str, Any] = {name: value for name, value in sizes.items() if value}
    if unified.projection_dim is not None:
        given["projection_dim"] = unified.projection_dim
    return make(encoder, **run | vae | given)


def unified_patchify(config: UnifiedTrainConfig, found: UnifiedPreTrainingConfig) -> PatchifyConfig:
    """What is shown of videos unless a head says otherwise, where one has any.

    Args:
        config: of the run.
        found: of the model.
    """
    encoder, start = found.encoder_config, config.model.init_from
    videos = any(head.kind == "video" for head in config.cluster.heads.values())
    if not (videos and isinstance(encoder, OneVisionConfig)):
        return PatchifyConfig.from_dict({}, patch_size=found.encoder_stride)
    if start is not None and isinstance(AutoConfig.from_pretrained(start), UnifiedPreTrainingConfig):
        start = None  # the processor that a model of this pre-training is saved with is of its pairs
    return own_patchify(start, encoder)


def _new_encoder(config: UnifiedTrainConfig) -> Any:
    kind: Any = OpenVision3Config if config.unified.encoder == "openvision3" else OneVisionConfig
    make = getattr(kind, config.model.size, None)
    if make is None:
        raise ConfigError(
            f"model.size is {config.model.size!r}, which no OpenVision 3 encoder has: base, large"
        )
    return make(**config.model.overrides)


def make_model(config: UnifiedTrainConfig, found: UnifiedPreTrainingConfig) -> UnifiedForPreTraining:
    """Random weights, or those of `model.init_from`: all of them, or the encoder's. In float32."""
    start = config.model.init_from
    if start is None:
        return UnifiedForPreTraining(found)
    if isinstance(AutoConfig.from_pretrained(start), UnifiedPreTrainingConfig):
        return UnifiedForPreTraining.from_pretrained(start, config=found, dtype=torch.float32)
    model = UnifiedForPreTraining(found)
    kind: Any = OpenVision3Model if isinstance(found.encoder_config, OpenVision3Config) else OneVisionModel
    model.encoder.load_state_dict(kind.from_pretrained(start, dtype=torch.float32).state_dict())
    return model
