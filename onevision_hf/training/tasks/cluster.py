"""The task `cluster`: an encoder, and heads that tell its embeddings apart among cluster centers.

arXiv 2602.08683 section 2; the published trainer is training/train.py of EvolvingLMMs-Lab/OneVision-Encoder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.grid_pooling import grid_means
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.patchify_config import PatchifyConfig
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...objectives.cluster_sampling import derive_key
from ..config import TrainConfig
from ..mixture import Transform
from ..patch_transform import PatchTransform
from ..sampler import MODEL
from ..schema import ConfigError
from ..transforms import LABELS, ImageTransform
from .cluster_config import ClusterTrainConfig, HeadConfig
from .cluster_heads import ClusterHeads
from .task import Inputs, Task


class ClusterEncoder(nn.Module):
    """The encoder over every component of a batch: one call, so DDP and FSDP see one forward pass a step.

    Args:
        encoder: of both kinds of head.
        heads: component -> (head, pooling) of all that look at its samples; a component that is not there has
            one head of its name, pooled.
    """

    def __init__(self, encoder: OneVisionModel, heads: Mapping[str, list[tuple[str, str]]]):
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """component -> tensors; head -> embeddings in float32, pooled (B, D) or of a grid (B, cells * D)."""
        outputs = {}
        for component, tensors in inputs.items():
            encoded = self.encoder(**{k: v for k, v in tensors.items() if not k.startswith(LABELS)})
            for name, pooling in self.heads.get(component, [(component, "pooler")]):
                if pooling == "grid":
                    outputs[name] = grid_means(
                        encoded.last_hidden_state,
                        tensors["patch_positions"],
                        tensors.get("pixel_attention_mask"),
                        time_size=self.encoder.config.rope_temporal_size,
                    )
                else:
                    # A copy, because FSDP's hooks do not survive on a view.
                    outputs[name] = encoded.pooler_output.to(torch.float32, copy=True)
        return outputs


class ClusterTask(Task):
    """See `Task`."""

    def __init__(self, config: ClusterTrainConfig, datasets: Mapping[str, Any]):
        if not config.cluster.heads:
            raise ConfigError("cluster.heads is empty: name at least one head with its source and batch_size")
        self.config = config
        self.encoder_config: Any = encoder_config(config)
        own = own_patchify(config.model.init_from, self.encoder_config)
        self.heads = ClusterHeads(config, datasets, own, self.encoder_config.hidden_size, head_transform)
        self.mixture, self.weights = self.heads.mixture, self.heads.weights

    def build(self) -> None:
        torch.manual_seed(derive_key(MODEL, self.config.seed) % 2**63)
        poolings: dict[str, list[tuple[str, str]]] = {}
        for name, head in self.config.cluster.heads.items():
            poolings.setdefault(head.clips_of or name, []).append((name, head.pooling))
        encoder = _encoder(self.config, self.encoder_config)
        self.model = ClusterEncoder(encoder, poolings)
        if self.config.optim.gradient_checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        self.sharded = self.heads.build()

    def prepare(self, inputs: Inputs, key: int) -> Any:
        return self.heads.prepare(inputs, key)

    def losses(self, outputs: Mapping[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        return self.heads.losses(outputs, prepared)

    def metrics(self) -> dict[str, Tensor]:
        return self.heads.metrics()

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model({"": inputs})[""]

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            model = OneVisionModel(self.encoder_config)
        tensors = {key.removeprefix("encoder."): value for key, value in state.items()}
        model.save_pretrained(folder, state_dict=tensors)
        videos = [name for name, head in self.config.cluster.heads.items() if head.kind == "video"]
        config = self.heads.patchify_config(videos[0]) if videos else self.heads.own
        OneVisionVideoProcessor(**config.to_dict()).save_pretrained(folder)


def head_transform(head: HeadConfig, config: PatchifyConfig) -> Transform:
    """How a OneVision encoder is shown the examples of a head; of a video what `config` says."""
    return ImageTransform(head) if head.kind == "image" else PatchTransform(head, config)


def own_patchify(start: str | None, encoder: OneVisionConfig) -> PatchifyConfig:
    """What an encoder's own processor is set to.

    Args:
        start: the folder or Hub repository with the processor; None: a fresh model's.
        encoder: whose patch size and time grid count.
    """
    own = PatchifyConfig()
    if start is not None:
        own = OneVisionVideoProcessor.from_pretrained(start).patchify_config()
    return own.replace(patch_size=encoder.patch_size, rope_temporal_size=encoder.rope_temporal_size)


def encoder_config(config: TrainConfig) -> OneVisionConfig:
    if config.model.init_from is None:
        return getattr(OneVisionConfig, config.model.size)(**config.model.overrides)
    if config.model.overrides:
        raise ConfigError("model.overrides cannot change an encoder that model.init_from brings")
    return OneVisionConfig.from_pretrained(config.model.init_from)


def _encoder(config: TrainConfig, found: OneVisionConfig) -> OneVisionModel:
    if config.model.init_from is None:
        return OneVisionModel(found)
    # Float32 whatever the file holds: bfloat16 weights would swallow most small updates.
    return OneVisionModel.from_pretrained(config.model.init_from, dtype=torch.float32)
