"""Unified pre-training: one encoder that rebuilds, describes and names images, and discriminates clusters.

Task `openvision3`: the published recipe, arXiv 2601.15369. Task `unified`: the same over either encoder, with
any heads of the cluster task beside it, in one run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from ...data.captions import WithLatents, open_pairs
from ...data.labelled import Rows
from ...data.latents import LatentShards
from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.configuration_openvision3 import OpenVision3Config
from ...modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.modeling_openvision3 import OpenVision3Model
from ...objectives.cluster_sampling import derive_key
from ...objectives.collectives import Processes, mean_over_processes
from ...pretraining import UnifiedForPreTraining, UnifiedPreTrainingConfig, load_lpips
from ...pretraining.tokenizer import CaptionTokenizer, load_tokenizer, token_ids
from ..config import ConfigError, TrainConfig
from ..loader import Stream
from ..sampler import MODEL, Order
from ..transforms import ImageView, VideoView
from .cluster import ClusterTask
from .pair_transform import Needs, PairView
from .task import Inputs, Stack
from .unified_config import LOSSES, MODEL_FIELDS, PAIRS

_REBUILD, _PIXELS = {"pixel", "latent", "lpips"}, {"pixel", "lpips"}
# A head's pooled output and a stream of pairs leave the module under one key each.
Outputs = Mapping[str, Any]


class UnifiedModule(nn.Module):
    """Everything over every stream of a batch: one call, so DDP and FSDP see one forward pass a step."""

    def __init__(self, model: UnifiedForPreTraining):
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """stream -> tensors; the stream of pairs -> losses and metrics (its features, in evaluation), a head
        -> pooled embeddings (B, E) in float32.
        """
        outputs: dict[str, Any] = {}
        for name, tensors in inputs.items():
            if name == PAIRS and self.training:
                outputs[name] = self._pairs(tensors)
                continue
            given = {key: value for key, value in tensors.items() if key != "labels"}
            if name == PAIRS or isinstance(self.model.encoder, OpenVision3Model):
                pooled = self.model.get_image_features(**given)
            else:
                pooled = self.model.encoder(**given).pooler_output
            # A copy, because FSDP's hooks do not survive on a view.
            outputs[name] = pooled.to(torch.float32, copy=True)
        return outputs

    def _pairs(self, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        def texts(name: str) -> Tensor | None:
            return tensors[name].transpose(1, 2) if name in tensors else None  # (B, L, T) -> (B, T, L)

        found = self.model(
            pixel_values=tensors.get("pixel_values"),
            latents=tensors.get("latents"),
            input_ids=texts("text_ids"),
            attention_mask=texts("text_mask"),
            caption_ids=tensors.get("caption_ids"),
            caption_attention_mask=tensors.get("caption_mask"),
            noise_seeds=tensors["noise_seed"][:, 0],
        )
        return {
            "losses": {name: loss.clone() for name, loss in found.losses.items()},
            "metrics": found.metrics,
        }


class UnifiedTask(ClusterTask):
    """See `tasks.Task`. Heads are those of `ClusterTask`."""

    def __init__(self, config: TrainConfig, rows: Mapping[str, Rows]):
        self.config = config
        self.tokenizer = load_tokenizer(config.unified.tokenizer)
        self.model_config = model_config(config, self.tokenizer)
        self.encoder_config = self.model_config.encoder_config
        clash = {PAIRS, *LOSSES} & set(config.cluster.heads)
        if clash:
            raise ConfigError(f"cluster.heads.{clash.pop()}: the name is taken, call the head something else")
        for name, head in config.cluster.heads.items():
            if head.clips_of or head.readout != "pooler":
                raise ConfigError(
                    f"cluster.heads.{name}: clips_of and readout=grid are for the task cluster; here a head "
                    "has samples of its own and discriminates pooler_output"
                )
        videos = [name for name, head in config.cluster.heads.items() if head.kind == "video"]
        if videos and isinstance(self.encoder_config, OpenVision3Config):
            raise ConfigError(
                f"cluster.heads.{videos[0]} has videos, an OpenVision 3 encoder reads images: use "
                "unified.encoder=onevision"
            )
        if config.unified.contrastive_chunk and config.optim.parallel == "fsdp":
            raise ConfigError(
                "unified.contrastive_chunk passes a batch in parts, whose number may differ between "
                "processes: use optim.parallel=ddp with it, or optim.gradient_checkpointing with fsdp"
            )
        self._take_heads(rows)
        self.weights |= self.model_config.loss_weights
        self.streams.append(self._pair_stream(rows.get(PAIRS)))
        validation = config.validation
        self.validated = validation.head or self.streams[0].name
        if validation.every and self.validated == PAIRS and not validation.source:
            raise ConfigError(
                "pairs have no labels: give validation.source, a folder with one for each class"
            )

    def build(self) -> None:
        """Make the modules; the same weights on any number of processes.

        Raises MissingVAEError or MissingLPIPSError where a loss needs what is absent, before any step.
        """
        torch.manual_seed(derive_key(MODEL, self.config.seed) % 2**63)
        model = make_model(self.config, self.model_config)
        model.freeze_idle(pooled=bool(self.config.cluster.heads))
        weights = set(self.weights)
        encodes = weights & _REBUILD or isinstance(self.encoder_config, OpenVision3Config)
        if weights & _PIXELS or (encodes and not self._cached):
            _ = model.vae  # loaded now
        if "lpips" in self.weights:
            model.set_lpips(load_lpips(self.config.unified.lpips_weights))
        self.model = UnifiedModule(model)
        if self.config.optim.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if weights & _PIXELS and hasattr(model.vae, "enable_gradient_checkpointing"):
                model.vae.enable_gradient_checkpointing()  # its decoder keeps more than all of ours
        self._build_heads()

    @property
    def stride(self) -> int:
        return self.model_config.encoder_stride

    @property
    def embedding_dim(self) -> int:
        """Width of the heads' embeddings: an OpenVision 3 encoder's pooled output is projected."""
        config = self.encoder_config
        return config.projection_dim if isinstance(config, OpenVision3Config) else config.hidden_size

    def losses(self, outputs: Outputs, prepared: Any) -> dict[str, Tensor]:
        self._measured = outputs[PAIRS]["metrics"]
        return super().losses(outputs, prepared) | outputs[PAIRS]["losses"]

    def prepare(self, inputs: Inputs, key: int) -> Any:
        self._cut = inputs[PAIRS].get("cut")
        return super().prepare(inputs, key) if self.sharded else {}

    def metrics(self) -> dict[str, Tensor]:
        found = super().metrics() | {f"{PAIRS}/{name}": value for name, value in self._measured.items()}
        if self._cut is not None:
            cut = self._cut.sum().float()[None]
            texts = torch.full_like(cut, len(self._cut))
            found[f"{PAIRS}/texts_cut"] = mean_over_processes(cut, texts, Processes.of(None))[0]
        return found

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model({self.validated: inputs})[self.validated]

    def parameters(self) -> dict[str, int]:
        with torch.device("meta"):
            model = UnifiedForPreTraining(self.model_config)
        parts = ("encoder", "decoder", "text_encoder", "caption_decoder")
        return {part: sum(p.numel() for p in getattr(model, part).parameters()) for part in parts}

    def stacks(self) -> list[Stack]:
        pairs, config, weights = self.config.unified.pairs, self.model_config, set(self.weights)
        tokens = (pairs.size // self.stride) ** 2
        rebuilt = (pairs.size // config.decoder_stride) ** 2
        passes = [
            (True, config.encoder_config, tokens, 1),
            (bool(weights & _REBUILD), config.decoder_config, rebuilt, 1),
            ("caption" in weights, config.caption_config, tokens + config.caption_config.max_positions, 1),
            ("contrastive" in weights, config.text_config, config.text_config.max_positions, pairs.texts),
        ]
        return super().stacks() + [
            Stack(PAIRS, pairs.batch_size * texts, length, tower.hidden_size, tower.num_hidden_layers)
            for wanted, tower, length, texts in passes
            if wanted
        ]

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            model = UnifiedForPreTraining(self.model_config)
        model.save_pretrained(
            folder, state_dict={key.removeprefix("model."): value for key, value in state.items()}
        )
        self.tokenizer.save_pretrained(folder)
        size = self.config.unified.pairs.size
        OpenVision3ImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ).save_pretrained(folder)

    def view(self, name: str) -> ImageView | VideoView:
        if isinstance(self.encoder_config, OneVisionConfig):
            return super().view(name)
        return ImageView(self.config.cluster.heads[name], mean=(0.5,) * 3, std=(0.5,) * 3)

    def _pair_stream(self, rows: Any) -> Stream:
        pairs, weights = self.config.unified.pairs, set(self.weights)
        if pairs.batch_size < 1:
            raise ConfigError(f"unified.pairs.batch_size is {pairs.batch_size}, expected at least 1")
        stride = self.stride
        if pairs.size % stride:
            raise ConfigError(
                f"unified.pairs.size is {pairs.size}, no multiple of the encoder's {stride} pixels"
            )
        self._cached = pairs.latents is not None
        needs = Needs(
            pixels=not self._cached
            or bool(weights & _PIXELS)
            or isinstance(self.encoder_config, OneVisionConfig),
            latents=self._cached,
            texts="contrastive" in weights,
            caption="caption" in weights,
        )
        if rows is None:
            try:
                rows = open_pairs(pairs.source, pairs.image_column, pairs.caption_columns)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"no images with captions: unified.pairs.source is {pairs.source!r}: {error}"
                ) from error
        if pairs.latents is not None:
            rows = WithLatents(rows, self._shards(pairs.latents, pairs.size))
        config = self.model_config
        view: Any = PairView(
            pairs,
            needs,
            CaptionTokenizer(self.tokenizer, config.text_config.max_positions),
            CaptionTokenizer(self.tokenizer, config.caption_config.max_positions),
        )
        order = Order(len(rows), self.config.seed, len(self.streams))
        return Stream(PAIRS, rows, view, pairs.batch_size, order)

    def _shards(self, folder: str, size: int) -> LatentShards:
        shards = LatentShards(folder)
        wanted = {
            "size": size,
            "latent_scaling": self.model_config.latent_scaling,
            "latent_shift": self.model_config.latent_shift,
        }
        wrong = {k: shards.settings[k] for k, value in wanted.items() if shards.settings[k] != value}
        if wrong:
            raise ConfigError(f"unified.pairs.latents: {folder} has {wrong}, this run needs {wanted}")
        return shards


class OpenVision3Task(UnifiedTask):
    """The published recipe: an OpenVision 3 encoder and nothing but pairs."""

    def __init__(self, config: TrainConfig, rows: Mapping[str, Rows]):
        if config.cluster.heads or config.unified.encoder != "openvision3":
            raise ConfigError(
                "task openvision3 has an OpenVision 3 encoder and no cluster.heads: others are task unified"
            )
        super().__init__(config, rows)


def model_config(config: TrainConfig, tokenizer: Any) -> UnifiedPreTrainingConfig:
    """The model's config from the run's, or from `model.init_from`, whose sizes stay.

    Raises ConfigError for sizes that cannot be had.
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


def _new_encoder(config: TrainConfig) -> Any:
    kind: Any = OpenVision3Config if config.unified.encoder == "openvision3" else OneVisionConfig
    make = getattr(kind, config.model.size, None)
    if make is None:
        raise ConfigError(
            f"model.size is {config.model.size!r}, which no OpenVision 3 encoder has: base, large"
        )
    return make(**config.model.overrides)


def make_model(config: TrainConfig, found: UnifiedPreTrainingConfig) -> UnifiedForPreTraining:
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
