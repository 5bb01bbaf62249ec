"""The plan of heads of cluster discrimination, and of the task `cluster`."""

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...data.labelled import open_examples
from ...data.media_shards import PackedShards
from ...data.patch_shards import PatchShards
from ...modeling.modeling_onevision import OneVisionModel
from ...modeling.patchify_config import PatchifyConfig
from ...objectives import cluster_memory
from ..dry_run.dummy_data import DummyExamples
from ..dry_run.planned import CPU_LAYERS, LayerGroup, Planned, SmallRun, find
from .cluster import ClusterTask, encoder_config, own_patchify
from .cluster_config import ClusterTrainConfig, HeadConfig
from .cluster_heads import STREAMED

CPU_CLASSES, UNKNOWN_CLASSES = 4096, 1000


class HeadsPlan(Planned):
    """The part of a plan that `ClusterHeads` have: `datasets` by head, dummy ones where there is no data."""

    task: Any  # with `heads` and `encoder_config`

    def find_heads(self, own: PatchifyConfig) -> None:
        """Open the sources of the heads of `config`; `lines` get one on each.

        Args:
            own: what the encoder's own processor is set to.
        """
        self.own = own
        self.datasets: dict[str, Any] = {}
        self.dummies: set[str] = set()
        for name, head in self.config.cluster.heads.items():
            assumed = "" if head.classes else f", {UNKNOWN_CLASSES} centers assumed"
            instead = f"random tensors instead{assumed}"
            found, line = find(name, partial(_open, head), partial(self._dummy, head), instead)
            self.datasets[name] = found
            if line is None:
                sharded = isinstance(found, PackedShards | PatchShards)
                shards = f"{len(found.shard_rows)} shards, " if sharded else ""
                line = f"{name}: {shards}{len(found)} rows at {head.source}"
            else:
                self.dummies.add(name)
            self.lines.append(line)

    def _dummy(self, head: HeadConfig) -> Any:
        classes = head.classes or UNKNOWN_CLASSES
        return DummyExamples(head, classes, self.own.layout.patch_size, own=self.own).transformed()

    def remarks(self) -> list[str]:
        heads = self.task.heads
        centers = ", ".join(f"{name} {heads.classes(name)}" for name in heads.datasets)
        return [f"centers {centers}"] if centers else []

    def memory(self, processes: int) -> dict[str, int]:
        cluster, heads = self.config.cluster, self.task.heads
        parts: dict[str, int] = {}
        for name, head in cluster.heads.items():
            found = cluster_memory(
                heads.classes(name),
                heads.embedding_size(head),
                head.batch_size // self.config.optim.gradient_accumulation_steps,
                processes=processes,
                sample_rate=cluster.sample_rate,
                labels_per_sample=min(head.labels_per_sample, head.max_labels),
                sampling=cluster.sampling,
                sparse_grad=cluster.sparse_grad,
            )
            parts |= {f"{name} {part}": size for part, size in found.items()}
        return parts

    def layer_groups(self) -> list[LayerGroup]:
        """Of the encoder, for every head that has samples of its own."""
        encoder = self.task.encoder_config
        width, layers = encoder.hidden_size, encoder.num_hidden_layers
        return [
            LayerGroup(name, head.batch_size, self.task.heads.patches(name), width, layers)
            for name, head in self.config.cluster.heads.items()
            if not head.clips_of
        ]

    def shrink(self, small: SmallRun) -> None:
        """Fewer samples and centers, and dummy examples of the smaller heads."""
        for name, head in small.config.cluster.heads.items():
            head.batch_size, head.centers = small.batch_size(head.batch_size), None
            if small.on_cpu and head.classes > CPU_CLASSES:
                head.classes = CPU_CLASSES
                small.notes.append(f"{name}: {CPU_CLASSES} centers")
            small.notes.append(f"{name}: {head.batch_size} samples")
            if name in self.dummies:
                small.datasets[name] = self._dummy(head)
                head.classes = head.classes or UNKNOWN_CLASSES
            else:
                small.datasets[name] = self.datasets[name]
                head.classes = max(head.classes, self.datasets[name].classes or 0)


class ClusterPlan(HeadsPlan):
    """See `Planned`."""

    def __init__(self, config: ClusterTrainConfig, folder: Path):
        self.config, self.lines = without_absent_start(config)
        self.find_heads(own_patchify(self.config.model.init_from, encoder_config(self.config)))
        self.task: ClusterTask = ClusterTask(self.config, self.datasets)

    def parameters(self) -> dict[str, int]:
        with torch.device("meta"):
            model = OneVisionModel(self.task.encoder_config)
        return {"encoder": sum(p.numel() for p in model.parameters())}

    def shrink(self, small: SmallRun) -> None:
        layers = self.task.encoder_config.num_hidden_layers
        if small.on_cpu and self.config.model.init_from is None and layers > CPU_LAYERS:
            small.config.model.overrides["num_hidden_layers"] = CPU_LAYERS
            small.notes.append(f"{CPU_LAYERS} of {layers} layers")
        super().shrink(small)


def without_absent_start(config: Any) -> tuple[Any, list[str]]:
    """Random weights of `model.size` where `model.init_from` names a folder that is not there."""
    start = config.model.init_from
    if start is None or Path(start).exists() or start.count("/") == 1:
        return config, []
    found = copy.deepcopy(config)
    found.model.init_from = None
    return found, [f"weights: {start} does not exist; random ones of size {config.model.size} instead"]


def _open(head: HeadConfig) -> Any:
    if head.source.startswith(STREAMED):
        raise FileNotFoundError("a stream is not opened in a dry run")
    return open_examples(head.source)
