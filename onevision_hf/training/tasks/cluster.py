"""Discrimination among clusters: an encoder, and for each head a stream of labelled rows and its centers.

arXiv 2602.08683 section 2; the published trainer is training/train.py of EvolvingLMMs-Lab/OneVision-Encoder.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.labelled import Rows, open_rows
from ...data.patch_shards import PatchShards
from ...modeling.configuration_onevision import OneVisionConfig
from ...modeling.grid_pooling import GRID, grid_means
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.patchify_config import PatchifyConfig
from ...modeling.video_processing_onevision import OneVisionVideoProcessor
from ...objectives import ClusterDiscriminationLoss, cluster_memory, draw_together
from ...objectives.cluster_sampling import derive_key
from ..config import ConfigError, HeadConfig, TrainConfig
from ..dry_run.dummy_data import RandomRows, as_drawn
from ..loader import Stream
from ..patch_transform import PatchView, check_patch_shards
from ..sampler import MODEL, Order
from ..transforms import LABELS, ImageView, VideoView, largest_clip, with_overrides
from .shared_heads import Labels, SharedView
from .task import Inputs, Stack


class ClusterEncoder(nn.Module):
    """The encoder over every stream of a batch: one call, so DDP and FSDP see one forward pass a step.

    heads: stream -> (head, readout) of all that look at its samples; a stream that is not there has one head
    of its name, pooled.
    """

    def __init__(self, encoder: OneVisionModel, heads: Mapping[str, list[tuple[str, str]]]):
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """stream -> tensors; head -> embeddings in float32, pooled (B, D) or of a grid (B, cells * D)."""
        outputs = {}
        for stream, tensors in inputs.items():
            encoded = self.encoder(**{k: v for k, v in tensors.items() if not k.startswith(LABELS)})
            for name, readout in self.heads.get(stream, [(stream, "pooler")]):
                if readout == "grid":
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


class ClusterTask:
    """See `tasks.Task`."""

    def __init__(self, config: TrainConfig, rows: Mapping[str, Rows]):
        if not config.cluster.heads:
            raise ConfigError("cluster.heads is empty: name at least one head with its source and batch_size")
        self.config = config
        self.encoder_config: Any = encoder_config(config)
        self._take_heads(rows)

    def _take_heads(self, rows: Mapping[str, Rows]) -> None:
        config = self.config
        self.rows = {name: rows.get(name) or _open(name, head) for name, head in config.cluster.heads.items()}
        self.streams = [
            self._stream(number, name, head, self.rows[name])
            for number, (name, head) in enumerate(config.cluster.heads.items())
            if not head.clips_of
        ]
        self.weights = {name: head.weight for name, head in config.cluster.heads.items()}

    def build(self) -> None:
        """Make the modules; the same weights on any number of processes."""
        torch.manual_seed(derive_key(MODEL, self.config.seed) % 2**63)
        heads: dict[str, list[tuple[str, str]]] = {}
        for name, head in self.config.cluster.heads.items():
            heads.setdefault(head.clips_of or name, []).append((name, head.readout))
        encoder = _encoder(self.config, self.encoder_config)
        self.model: Any = ClusterEncoder(encoder, heads)
        if self.config.optim.gradient_checkpointing:
            encoder.gradient_checkpointing_enable({"use_reentrant": False})
        self._build_heads()

    @property
    def embedding_dim(self) -> int:
        """Width of what the heads discriminate."""
        return self.encoder_config.hidden_size

    def _build_heads(self) -> None:
        cluster = self.config.cluster
        self.sharded = {}
        for number, (name, head) in enumerate(cluster.heads.items()):
            loss = ClusterDiscriminationLoss(
                self.classes(name),
                self.embedding_size(head),
                scale=cluster.scale,
                margin=cluster.margin,
                filter_threshold=cluster.filter_threshold,
                sample_rate=cluster.sample_rate,
                labels_per_sample=head.labels_per_sample,
                sampling=cluster.sampling,
                form=cluster.form,
                sparse_grad=cluster.sparse_grad,
                seed=derive_key(self.config.seed, number) % 2**63,
            )
            if head.centers is not None:
                loss.load_centers(head.centers)
            self.sharded[name] = loss

    def classes(self, name: str) -> int:
        """Of a head: what the config says, or the source."""
        asked, known = self.config.cluster.heads[name].classes, getattr(self.rows[name], "classes", None)
        if not (asked or known):
            raise ConfigError(f"cluster.heads.{name}.classes is 0 and its source names no number: give one")
        if asked and known and known > asked:
            raise ConfigError(
                f"cluster.heads.{name}.classes is {asked}, its source has labels 0..{known - 1}"
            )
        return asked or known or 0

    def embedding_size(self, head: HeadConfig) -> int:
        return self.embedding_dim * (math.prod(GRID) if head.readout == "grid" else 1)

    def prepare(self, inputs: Inputs, key: int) -> Any:
        labels = {}
        for name, head in self.config.cluster.heads.items():
            labels[name] = inputs[head.clips_of or name][f"{LABELS}/{name}" if head.clips_of else LABELS]
        return draw_together(self.sharded, labels, step=key)

    def losses(self, outputs: Mapping[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        return {name: loss(outputs[name], prepared[name]) for name, loss in self.sharded.items()}

    def metrics(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value
            for name, loss in self.sharded.items()
            for key, value in loss.reduce_metrics().items()
        }

    def encode(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.model({"": inputs})[""]

    def memory(self, processes: int) -> dict[str, int]:
        cluster = self.config.cluster
        parts: dict[str, int] = {}
        for name, head in cluster.heads.items():
            found = cluster_memory(
                self.classes(name),
                self.embedding_size(head),
                head.batch_size // self.config.optim.accumulation,
                processes=processes,
                sample_rate=cluster.sample_rate,
                labels_per_sample=min(head.labels_per_sample, head.max_labels),
                sampling=cluster.sampling,
                sparse_grad=cluster.sparse_grad,
            )
            parts |= {f"{name} {part}": size for part, size in found.items()}
        return parts

    def parameters(self) -> dict[str, int]:
        with torch.device("meta"):
            model = OneVisionModel(self.encoder_config)
        return {"encoder": sum(p.numel() for p in model.parameters())}

    def stacks(self) -> list[Stack]:
        config = self.encoder_config
        return [
            Stack(
                name,
                head.batch_size,
                self.patches(name),
                config.hidden_size,
                config.num_hidden_layers,
            )
            for name, head in self.config.cluster.heads.items()
            if not head.clips_of
        ]

    def patches(self, name: str) -> int:
        """Of one sample of a head, at most."""
        head = self.config.cluster.heads[name]
        if head.kind == "image":
            return (head.image_size // self.stride) ** 2
        return largest_clip(self.patchify_config(name))[2]

    @property
    def stride(self) -> int:
        """Pixels to a side of one token."""
        return self.encoder_config.patch_size

    def export(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        with torch.device("meta"):
            model = OneVisionModel(self.encoder_config)
        tensors = {key.removeprefix("encoder."): value for key, value in state.items()}
        model.save_pretrained(folder, state_dict=tensors)
        videos = (name for name, h in self.config.cluster.heads.items() if h.kind == "video")
        config = self.patchify_config(next(videos, ""))
        OneVisionVideoProcessor(**config.to_dict()).save_pretrained(folder)

    def patchify_config(self, name: str) -> PatchifyConfig:
        """What a head shows of a video; of no head the encoder's own."""
        if name not in self.config.cluster.heads:
            return own_patchify(self.config)
        head = self.config.cluster.heads[name]
        return with_overrides(own_patchify(self.config), head.processor, f"cluster.heads.{name}.processor")

    def view(self, name: str) -> ImageView | VideoView:
        head = self.config.cluster.heads[name]
        return ImageView(head) if head.kind == "image" else PatchView(head, self.patchify_config(name))

    def _stream(self, number: int, name: str, head: HeadConfig, rows: Rows | str) -> Stream:
        if head.kind == "image" and head.image_size % self.stride:
            raise ConfigError(
                f"cluster.heads.{name}.processor.size is {head.image_size}, no multiple of the patch, "
                f"{self.stride}"
            )
        if head.kind == "video":
            largest_clip(self.patchify_config(name))
        if isinstance(rows, PatchShards):
            check_patch_shards(name, head, self.patchify_config(name), rows.config)
        validation = self.config.validation
        view: Any = as_drawn if isinstance(rows, RandomRows) else self.view(name)
        followers = {n: h for n, h in self.config.cluster.heads.items() if h.clips_of == name}
        if followers:
            view = SharedView(view, {n: Labels(n, self.rows[n], h.max_labels) for n, h in followers.items()})
        if isinstance(rows, str):
            return Stream(name, rows, view, head.batch_size, None)
        own = validation.head in ("", name) and not validation.source
        order = Order(len(rows), self.config.seed, number, validation.held_out if own else 0.0)
        return Stream(name, rows, view, head.batch_size, order)


def encoder_config(config: TrainConfig) -> OneVisionConfig:
    if config.model.init_from is None:
        return getattr(OneVisionConfig, config.model.size)(**config.model.overrides)
    if config.model.overrides:
        raise ConfigError("model.overrides cannot change an encoder that model.init_from brings")
    return OneVisionConfig.from_pretrained(config.model.init_from)


def own_patchify(config: TrainConfig) -> PatchifyConfig:
    """What the encoder's own processor is set to: that of `init_from`, or a fresh model's."""
    if config.model.init_from is not None:
        return OneVisionVideoProcessor.from_pretrained(config.model.init_from).patchify_config()
    encoder = encoder_config(config)
    return PatchifyConfig.from_dict(
        {}, patch_size=encoder.patch_size, rope_temporal_size=encoder.rope_temporal_size
    )


def _encoder(config: TrainConfig, found: OneVisionConfig) -> OneVisionModel:
    if config.model.init_from is None:
        return OneVisionModel(found)
    # Float32 whatever the file holds: bfloat16 weights would swallow most small updates.
    return OneVisionModel.from_pretrained(config.model.init_from, dtype=torch.float32)


def _open(name: str, head: HeadConfig) -> Any:
    if head.source.startswith("stream:"):
        return head.source.removeprefix("stream:")
    try:
        return open_rows(head.source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no data for the head {name}: cluster.heads.{name}.source is {head.source!r}: {error}"
        ) from error
