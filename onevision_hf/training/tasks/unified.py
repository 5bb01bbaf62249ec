"""Unified pre-training: one encoder that rebuilds, describes and names images, and discriminates clusters.

Task `openvision3`: the published recipe, arXiv 2601.15369. Task `unified`: the same over either encoder, with
any heads of the task `cluster`, in one run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.captions import WithLatents, open_pairs
from ...data.latents import LatentShards
from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.configuration_openvision3 import OpenVision3Config
from ...modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from ...modeling.modeling_openvision3 import OpenVision3Model
from ...modeling.patchify_config import PatchifyConfig
from ...objectives.cluster_sampling import derive_key
from ...objectives.collectives import mean_over_processes
from ...pretraining import UnifiedForPreTraining, load_lpips
from ...pretraining.tokenizer import CaptionTokenizer, load_tokenizer
from ..mixture import MixtureComponent, Transform
from ..sampler import MODEL, Sampler
from ..schema import ConfigError
from ..transforms import ImageTransform
from .cluster import head_transform
from .cluster_config import HeadConfig
from .cluster_heads import ClusterHeads
from .pair_transform import Needs, PairTransform
from .task import Inputs, Task
from .unified_config import LOSSES, PAIRS, UnifiedTrainConfig
from .unified_model import make_model, model_config, unified_patchify

_REBUILD, _PIXELS = {"pixel", "latent", "lpips"}, {"pixel", "lpips"}
# A head's pooled output and the component of pairs leave the module under one key each.
Outputs = Mapping[str, Any]


class UnifiedModule(nn.Module):
    """Everything over every component of a batch: one call, so DDP and FSDP see one forward pass a step."""

    def __init__(self, model: UnifiedForPreTraining):
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> dict[str, Any]:
        """component -> tensors; pairs -> losses and metrics (their features, in evaluation), a head -> pooled
        embeddings (B, E) in float32.
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
        metrics = dict(found.metrics)
        if "cut" in tensors:
            metrics["texts_cut"] = tensors["cut"]
        return {"losses": {name: loss.clone() for name, loss in found.losses.items()}, "metrics": metrics}


class UnifiedTask(Task):
    """See `Task`: pairs, and the heads of `ClusterHeads`."""

    def __init__(self, config: UnifiedTrainConfig, datasets: Mapping[str, Any]):
        _check(config)
        self.config = config
        self.tokenizer = load_tokenizer(config.unified.tokenizer)
        self.model_config = model_config(config, self.tokenizer)
        self.encoder_config = encoder = self.model_config.encoder_config
        published = isinstance(encoder, OpenVision3Config)
        videos = [name for name, head in config.cluster.heads.items() if head.kind == "video"]
        if videos and published:
            raise ConfigError(
                f"cluster.heads.{videos[0]} has videos, an OpenVision 3 encoder reads images: use "
                "unified.encoder=onevision"
            )
        # An OpenVision 3 encoder's pooled output is projected.
        width = encoder.projection_dim if published else encoder.hidden_size
        self.stride = self.model_config.encoder_stride
        own = unified_patchify(config, self.model_config)
        self.heads = ClusterHeads(config, datasets, own, width, self._transform)
        self.weights = self.heads.weights | self.model_config.loss_weights
        self.mixture = [*self.heads.mixture, self._pairs(datasets.get(PAIRS))]
        self.validated = config.validation.head or self.mixture[0].name
        if config.validation.every and self.validated == PAIRS and not config.validation.source:
            raise ConfigError(
                "pairs have no labels: give validation.source, a folder with one for each class"
            )
        self._metrics: dict[str, Tensor] = {}

    def build(self) -> None:
        """Make the modules.

        Raises:
            MissingVAEError, MissingLPIPSError: a loss needs what is absent.
        """
        torch.manual_seed(derive_key(MODEL, self.config.seed) % 2**63)
        model = make_model(self.config, self.model_config)
        model.freeze_idle(pooled=bool(self.config.cluster.heads))
        weights = set(self.weights)
        encodes = weights & _REBUILD or isinstance(self.encoder_config, OpenVision3Config)
        if weights & _PIXELS or (encodes and self.config.unified.pairs.latents is None):
            _ = model.vae  # loaded now
        if "lpips" in self.weights:
            model.set_lpips(load_lpips(self.config.unified.lpips_weights))
        self.model = UnifiedModule(model)
        if self.config.optim.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            if weights & _PIXELS and hasattr(model.vae, "enable_gradient_checkpointing"):
                model.vae.enable_gradient_checkpointing()  # its decoder keeps more than all of ours
        self.sharded = self.heads.build()

    def prepare(self, inputs: Inputs, key: int) -> Any:
        return self.heads.prepare(inputs, key)

    def losses(self, outputs: Outputs, prepared: Any) -> dict[str, Tensor]:
        self._metrics = outputs[PAIRS]["metrics"]
        return self.heads.losses(outputs, prepared) | outputs[PAIRS]["losses"]

    def metrics(self) -> dict[str, Tensor]:
        found = self.heads.metrics() | {f"{PAIRS}/{name}": value for name, value in self._metrics.items()}
        if "texts_cut" in self._metrics:
            cut = self._metrics["texts_cut"]
            total = cut.sum().float()[None]
            found[f"{PAIRS}/texts_cut"] = mean_over_processes(total, torch.full_like(total, len(cut)))[0]
        return found

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model({self.validated: inputs})[self.validated]

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

    def _transform(self, head: HeadConfig, config: PatchifyConfig) -> Transform:
        if isinstance(self.encoder_config, OneVisionConfig):
            return head_transform(head, config)
        return ImageTransform(head, mean=(0.5,) * 3, std=(0.5,) * 3)

    def _pairs(self, dataset: Any) -> MixtureComponent:
        pairs, config, weights = self.config.unified.pairs, self.model_config, set(self.weights)
        if pairs.batch_size < 1:
            raise ConfigError(f"unified.pairs.batch_size is {pairs.batch_size}, expected at least 1")
        if pairs.size % self.stride:
            raise ConfigError(
                f"unified.pairs.size is {pairs.size}, no multiple of the encoder's {self.stride} pixels"
            )
        cached = pairs.latents is not None
        needs = Needs(
            pixels=not cached or bool(weights & _PIXELS) or isinstance(self.encoder_config, OneVisionConfig),
            latents=cached,
            texts="contrastive" in weights,
            caption="caption" in weights,
        )
        if dataset is None:
            try:
                dataset = open_pairs(pairs.source, pairs.image_column, pairs.caption_columns)
            except FileNotFoundError as error:
                raise FileNotFoundError(
                    f"no images with captions: unified.pairs.source is {pairs.source!r}: {error}"
                ) from error
        if pairs.latents is not None:
            dataset = WithLatents(dataset, self._shards(pairs.latents, pairs.size))
        lengths = (config.text_config.max_positions, config.caption_config.max_positions)
        transform = PairTransform(
            pairs, needs, *(CaptionTokenizer(self.tokenizer, length) for length in lengths)
        )
        sampler = Sampler(len(dataset), self.config.seed, len(self.heads.mixture))
        return MixtureComponent(PAIRS, dataset, transform, pairs.batch_size, sampler)

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

    def __init__(self, config: UnifiedTrainConfig, datasets: Mapping[str, Any]):
        if config.cluster.heads or config.unified.encoder != "openvision3":
            raise ConfigError(
                "task openvision3 has an OpenVision 3 encoder and no cluster.heads: others are task unified"
            )
        super().__init__(config, datasets)


def _check(config: UnifiedTrainConfig) -> None:
    clash = {PAIRS, *LOSSES} & set(config.cluster.heads)
    if clash:
        raise ConfigError(f"cluster.heads.{clash.pop()}: the name is taken, call the head something else")
    for name, head in config.cluster.heads.items():
        if head.clips_of or head.pooling != "pooler":
            raise ConfigError(
                f"cluster.heads.{name}: clips_of and pooling=grid are for the task cluster; here a head "
                "has samples of its own and discriminates pooler_output"
            )
    if config.unified.contrastive_chunk and config.optim.parallel == "fsdp":
        raise ConfigError(
            "unified.contrastive_chunk passes a batch in parts, whose number may differ between "
            "processes: use optim.parallel=ddp with it, or optim.gradient_checkpointing with fsdp"
        )
