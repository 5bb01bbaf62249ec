"""Heads of cluster discrimination over any encoder: what they read, their centers, their losses.

PartialFC with a CosFace margin over sampled classes, see `onevision_hf.objectives.ClusterDiscriminationLoss`.
arXiv 2602.08683 section 2; the published trainer is training/train.py of EvolvingLMMs-Lab/OneVision-Encoder.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ...data.labelled import open_examples
from ...data.patch_shards import PatchShards
from ...jobs.digests import checked
from ...modeling.grid_pooling import GRID
from ...modeling.patchify_config import PatchifyConfig
from ...objectives import ClusterDiscriminationLoss, draw_together
from ...objectives.cluster_sampling import derive_key
from ..mixture import MixtureComponent, Transform, Transformed
from ..patch_transform import check_patch_shards
from ..sampler import Sampler
from ..schema import ConfigError
from ..transforms import LABELS, largest_clip, with_overrides
from .cluster_config import ClusterTrainConfig, HeadConfig
from .shared_heads import Labels, SharedTransform
from .task import Inputs

STREAMED = "stream:"  # a source without random access begins with it


class ClusterHeads:
    """The heads of `config.cluster`; `mixture` and `weights` as in `Task`, `sharded` after `build`.

    Args:
        config: of the run.
        datasets: by head, in place of its source.
        own: what the encoder's own processor is set to.
        embedding_dim: D of what a head with the pooling `pooler` discriminates.
        transform: makes the transform of a head, given what it shows of a video.
    """

    def __init__(
        self,
        config: ClusterTrainConfig,
        datasets: Mapping[str, Any],
        own: PatchifyConfig,
        embedding_dim: int,
        transform: Callable[[HeadConfig, PatchifyConfig], Transform],
    ):
        self.config, self.own, self.embedding_dim = config, own, embedding_dim
        given = {
            name: datasets[name] if name in datasets else open_head(name, head)
            for name, head in config.cluster.heads.items()
        }
        self.datasets = {n: d.dataset if isinstance(d, Transformed) else d for n, d in given.items()}
        self.sharded: dict[str, ClusterDiscriminationLoss] = {}
        self.weights = {name: head.weight for name, head in config.cluster.heads.items()}
        self.mixture = []
        for number, (name, head) in enumerate(config.cluster.heads.items()):
            if not head.clips_of:
                found = given[name]
                if isinstance(found, Transformed):
                    its = found.transform
                else:
                    its = transform(head, self.patchify_config(name))
                self.mixture.append(self._component(number, name, head, its))

    def patchify_config(self, name: str) -> PatchifyConfig:
        """What a head shows of a video.

        Raises:
            ConfigError: see `with_overrides`.
        """
        processor = self.config.cluster.heads[name].processor
        return with_overrides(self.own, processor, f"cluster.heads.{name}.processor")

    def patches(self, name: str) -> int:
        """Of one sample of a head, at most."""
        head = self.config.cluster.heads[name]
        if head.kind == "image":
            return (head.image_size // self.own.layout.patch_size) ** 2
        return largest_clip(self.patchify_config(name))[2]

    def _component(self, number: int, name: str, head: HeadConfig, transform: Transform) -> MixtureComponent:
        side = self.own.layout.patch_size
        if head.kind == "image" and head.image_size % side:
            raise ConfigError(
                f"cluster.heads.{name}.processor.size is {head.image_size}, no multiple of the patch, {side}"
            )
        dataset, validation = self.datasets[name], self.config.validation
        if head.kind == "video":
            largest_clip(self.patchify_config(name))  # sizes that fit no patch are found here
        if isinstance(dataset, PatchShards):
            check_patch_shards(name, head, self.patchify_config(name), dataset.config)
        followers = {n: h for n, h in self.config.cluster.heads.items() if h.clips_of == name}
        if followers:
            labels = {n: Labels(n, self.datasets[n], h.max_labels) for n, h in followers.items()}
            transform = SharedTransform(transform, labels)
        sampler = None
        if not isinstance(dataset, str):
            own = validation.head in ("", name) and not validation.source
            held_out = validation.held_out if own else 0.0
            sampler = Sampler(len(dataset), self.config.seed, number, held_out)
        return MixtureComponent(name, dataset, transform, head.batch_size, sampler)

    def build(self) -> dict[str, ClusterDiscriminationLoss]:
        """Make the centers and losses, by head; the same on any number of processes."""
        cluster = self.config.cluster
        for number, (name, head) in enumerate(cluster.heads.items()):
            loss = ClusterDiscriminationLoss(
                self.classes(name),
                self.embedding_size(head),
                labels_per_sample=head.labels_per_sample,
                seed=derive_key(self.config.seed, number) % 2**63,
                **cluster.objective,
            )
            if head.centers is not None:
                loss.load_centers(checked(head.centers))
            self.sharded[name] = loss
        return self.sharded

    def classes(self, name: str) -> int:
        """Of a head: what the config says, or the source."""
        given, dataset = self.config.cluster.heads[name].classes, self.datasets[name]
        known = None if isinstance(dataset, str) else dataset.classes
        if not (given or known):
            raise ConfigError(f"cluster.heads.{name}.classes is 0 and its source names no number: give one")
        if given and known and known > given:
            raise ConfigError(
                f"cluster.heads.{name}.classes is {given}, its source has labels 0..{known - 1}"
            )
        return int(given or known or 0)

    def embedding_size(self, head: HeadConfig) -> int:
        return self.embedding_dim * (math.prod(GRID) if head.pooling == "grid" else 1)

    def prepare(self, inputs: Inputs, key: int) -> Any:
        """The sampled classes of every head, in one exchange."""
        labels = {}
        for name, head in self.config.cluster.heads.items():
            labels[name] = inputs[head.clips_of or name][f"{LABELS}/{name}" if head.clips_of else LABELS]
        return draw_together(self.sharded, labels, step=key) if labels else {}

    def losses(self, outputs: Mapping[str, Tensor], prepared: Any) -> dict[str, Tensor]:
        return {name: loss(outputs[name], prepared[name]) for name, loss in self.sharded.items()}

    def metrics(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value
            for name, loss in self.sharded.items()
            for key, value in loss.reduce_metrics().items()
        }


def open_head(name: str, head: HeadConfig) -> Any:
    """The dataset of a head, or the name of a streamed one.

    Raises:
        FileNotFoundError: nothing is there; the message names the field.
    """
    if head.source.startswith(STREAMED):
        return head.source.removeprefix(STREAMED)
    try:
        return open_examples(head.source)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"no data for the head {name}: cluster.heads.{name}.source is {head.source!r}: {error}"
        ) from error
