"""The config of unified pre-training: the section `unified`."""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..schema import fixed, require, was
from .cluster_config import ClusterTrainConfig

PAIRS = "pairs"  # the mixture component of images with texts
LOSSES = ("pixel", "latent", "lpips", "caption", "contrastive")


@dataclass
class PairsConfig:
    source: str = ""  # images with captions: tars, parquet, hf:..., a folder with a table or drawn
    batch_size: int = fixed(0)  # samples an optimizer step, over all processes and micro-batches
    size: int = 128  # side in pixels, a multiple of 16 (and of a OneVision encoder's patch)
    image_column: str = ""  # of a table; empty: the only one of images, or of files' names
    caption_columns: list[str] = field(default_factory=list)  # in order; empty: captions, caption, text, txt
    target: Literal["first", "drawn"] = "first"  # which caption is to be written
    texts: int = 1  # captions of an image that the contrastive loss takes, drawn anew in each step
    latents: str | None = None  # a folder of `onevision latents` of the same source and size
    # a picture's crop has at least this share of its shorter side; 1: position only
    min_crop_scale: float = was("min_zoom", 1.0)
    horizontal_flip: bool = was("mirror", False)  # turn half of the pictures left to right


@dataclass
class UnifiedConfig:
    encoder: Literal["openvision3", "onevision"] = fixed(
        "openvision3"
    )  # `model` gives its size or its weights
    pairs: PairsConfig = field(default_factory=PairsConfig)
    tokenizer: str = "builtin"  # or any of transformers', by folder or Hub name
    vae: str | None = None  # a folder or Hub id of an AutoencoderKL; empty: the one that the encoder names
    lpips_weights: str | None = None  # a file of torchvision's VGG-16; empty: torch.hub's folder
    decoder: dict[str, Any] = field(default_factory=dict)  # fields of TowerConfig: the ViT decoder's,
    text: dict[str, Any] = field(default_factory=dict)  # the text encoder's,
    caption: dict[str, Any] = field(default_factory=dict)  # the caption decoder's
    projection_dim: int | None = None  # of the features over a OneVision encoder
    reconstruction_weight: float = 0.5  # of L1(pixels) + beta L1(latents) + lambda LPIPS in the sum
    pixel_weight: float = 1.0  # of L1(pixels) in it
    latent_weight: float = 0.4  # beta
    lpips_weight: float = 0.0  # lambda; 0 does not build LPIPS
    understanding_weight: float = 1.0  # of caption + alpha contrastive in the sum
    caption_weight: float = 1.0  # of the caption in it
    contrastive_weight: float = 1.0  # alpha
    noise_tau: float = 0.8  # largest deviation of the tokens' noise on the way to the decoder
    contrastive_form: Literal["softmax", "sigmoid"] = "softmax"
    contrastive_chunk: int = 0  # images of a process computed at once; gradients of the whole batch; 0: all
    detach_reconstruction: bool = False  # train the decoder as a probe
    detach_understanding: bool = False  # train the text heads as probes


# Fields that are the model's own, under the same names: from the weights of the losses on.
_NAMES = [entry.name for entry in fields(UnifiedConfig)]
MODEL_FIELDS = _NAMES[_NAMES.index("reconstruction_weight") :]


@dataclass
class UnifiedTrainConfig(ClusterTrainConfig):
    """A run of unified pre-training, perhaps with heads of cluster discrimination."""

    unified: UnifiedConfig = field(default_factory=UnifiedConfig)

    def check(self) -> None:
        """Raise ConfigError for what no run can have."""
        super().check()
        unified, pairs, at = self.unified, self.unified.pairs, "unified.pairs"
        require(pairs.batch_size >= 0, f"{at}.batch_size", pairs.batch_size, "0 or more")
        self.optim.check_batch_size(f"{at}.batch_size", pairs.batch_size)
        require(pairs.size >= 16 and pairs.size % 16 == 0, f"{at}.size", pairs.size, "a multiple of 16")
        require(pairs.texts >= 1, f"{at}.texts", pairs.texts, "at least 1")
        scale = pairs.min_crop_scale
        require(0 < scale <= 1, f"{at}.min_crop_scale", scale, "above 0 and at most 1")
        middle = scale == 1 and not pairs.horizontal_flip
        require(pairs.latents is None or middle, f"{at}.latents", pairs.latents,
                "no min_crop_scale or horizontal_flip with it: cached latents are those of the middle of a "
                "picture")  # fmt: skip
        weights = [name for name in MODEL_FIELDS if name.endswith("_weight")]
        for name in (*weights, "noise_tau", "contrastive_chunk"):
            require(getattr(unified, name) >= 0, f"unified.{name}", getattr(unified, name), "0 or more")

    def validation_names(self) -> list[str]:
        return [*super().validation_names(), *([PAIRS] if self.unified.pairs.batch_size else [])]
