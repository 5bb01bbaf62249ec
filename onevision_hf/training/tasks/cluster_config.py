"""The config of cluster discrimination: the section `cluster`, with its heads."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ..config import TrainConfig
from ..schema import fixed, require, took, was


@dataclass
class HeadConfig:
    source: str = ""  # a folder of `cluster pack`, a folder with a subfolder a class, hf:..., stream:...
    clips_of: str = ""  # another head, whose samples this one labels too, by key; encoded once for both
    # what meets the centers: pooler_output, or (`grid`) the means of a video's patches in 4 x 2 x 2 parts of
    # time and space, joined
    pooling: Literal["pooler", "grid"] = was("readout", "pooler")
    kind: Literal["image", "video"] = "image"
    batch_size: int = fixed(0)  # samples an optimizer step, over all processes and micro-batches
    classes: int = 0  # centers; 0 takes the number that the source names
    centers: str | None = None  # a centers.safetensors to start from; random otherwise
    weight: float = 1.0  # of this head's loss in the sum
    max_labels: int = 10  # label columns that are kept of an example, nearest first
    labels_per_sample: int = 8  # of those, drawn anew in each step
    # What is shown of a sample, by names of the encoder's own processor, and laid over its settings (a fresh
    # model's: the defaults of OneVisionVideoProcessor). Of a picture `size` alone, 224 if left out.
    processor: dict[str, Any] = field(
        default_factory=dict, metadata=took("size", "num_frames", "num_patches", "camera")
    )
    # a picture's crop has at least this share of its shorter side; 1: position only
    min_crop_scale: float = was("min_zoom", 1.0)
    horizontal_flip: bool = was("mirror", False)  # turn half of the pictures left to right
    # share of a video's patches that a step sees, drawn anew (1 - patch dropout); validation sees all
    patch_keep_rate: float = was("visible", 1.0)
    cache: str = ""  # a folder for the patches kept in mode codec (K*C*p*p bytes a clip); empty: none
    codec: float = 0.5  # shares of the video modes; they add up to 1
    uniform: float = 0.375
    collage: float = 0.125

    @property
    def image_size(self) -> int:
        """Side in pixels of a picture, a multiple of the patch."""
        size = self.processor.get("size", 224)
        return size.get("shortest_edge", 0) if isinstance(size, dict) else size


@dataclass
class ClusterConfig:
    """Of PartialFC over sampled classes with a CosFace margin: see `ClusterDiscriminationLoss`."""

    heads: dict[str, HeadConfig] = field(default_factory=dict)
    scale: float = 64.0  # the objective's own: see ClusterDiscriminationLoss
    margin: float = 0.3
    filter_threshold: float = 0.75
    sample_rate: float = 0.1
    sampling: Literal["shared", "per_label"] = "shared"
    form: Literal["softmax", "sigmoid"] = "softmax"
    sparse_grad: bool = False  # centers: gradients and AdamW of the sampled classes only

    @property
    def objective(self) -> dict[str, Any]:
        """The arguments of the loss that all heads share."""
        return {name: value for name, value in vars(self).items() if name != "heads"}


@dataclass
class ClusterTrainConfig(TrainConfig):
    """A run whose encoder has heads of cluster discrimination."""

    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def check(self) -> None:
        """Raise ConfigError for what no run can have; a head that shares clips takes their batch and kind."""
        super().check()
        heads = self.cluster.heads
        for name, head in heads.items():
            at = f"cluster.heads.{name}"
            if head.clips_of:
                leads = [other for other, h in heads.items() if not h.clips_of]
                require(head.clips_of in leads, f"{at}.clips_of", head.clips_of, f"one of {', '.join(leads)}")
                lead = heads[head.clips_of]
                same = head.batch_size in (0, lead.batch_size)
                require(same, f"{at}.batch_size", head.batch_size, f"that of {head.clips_of}, or none")
                head.batch_size, head.kind = lead.batch_size, lead.kind
            video = head.kind == "video" or head.pooling == "pooler"
            require(video, f"{at}.pooling", head.pooling, "pooler for images: a picture has no time")
            require(head.batch_size >= 1, f"{at}.batch_size", head.batch_size, "at least 1")
            self.optim.check_batch_size(f"{at}.batch_size", head.batch_size)
            shares = (head.codec, head.uniform, head.collage)
            adds_up = all(s >= 0 for s in shares) and abs(sum(shares) - 1) < 1e-6
            require(adds_up, f"{at}.codec, uniform, collage", shares, "shares that add up to 1")
            for key in ("min_crop_scale", "patch_keep_rate"):
                value = getattr(head, key)
                require(0 < value <= 1, f"{at}.{key}", value, "above 0 and at most 1")
            for key in ("max_labels", "labels_per_sample"):
                require(getattr(head, key) >= 1, f"{at}.{key}", getattr(head, key), "at least 1")
            if head.kind == "image":
                only = head.processor.keys() <= {"size"} and isinstance(head.image_size, int)
                require(only and head.image_size >= 1, f"{at}.processor", head.processor, "a `size` alone")
        validated, names = self.validation.head, self.validation_names()
        if self.validation.every and validated:
            require(validated in names, "validation.head", validated, f"one of {', '.join(names)}")

    def validation_names(self) -> list[str]:
        """What `validation.head` can name."""
        return list(self.cluster.heads)
