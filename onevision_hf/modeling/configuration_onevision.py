"""The configuration of the OneVision encoder.

    from onevision_hf import OneVisionConfig
    OneVisionConfig.base(), OneVisionConfig.large(), OneVisionConfig.huge(), OneVisionConfig.tiny()

`model_type` and every key are those of the published checkpoints, so their `config.json` is read as it is.
"""

from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

# Half of a head's channels is split 4:6:6 between t, h and w, so a head is a multiple of 2 * 16 channels.
ROTARY_SPLIT = (4, 6, 6)
HEAD_SIZE_STEP = 2 * sum(ROTARY_SPLIT)
# Fields of the classifier alone, which the configuration of a published encoder does not have.
_CLASSIFIER_DEFAULTS = {"probe_position": None, "label_smoothing": 0.0, "num_frames": None}


class NamesItsOwnCode(PreTrainedConfig):
    """A configuration whose saved `auto_map` names no code that stayed behind where it came from."""

    def save_pretrained(self, save_directory: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        """Write `config.json`.

        Args:
            save_directory: the folder, made where it is not there.
            *args: transformers' own.
            **kwargs: transformers' own.
        """
        if auto_map := getattr(self, "auto_map", None):
            self.auto_map = {
                auto_class: reference
                for auto_class, reference in auto_map.items()
                if "--" in reference or (Path(save_directory) / f"{reference.split('.')[0]}.py").is_file()
            }
        return super().save_pretrained(save_directory, *args, **kwargs)


@strict
class OneVisionConfig(NamesItsOwnCode):
    r"""
    Configuration of [`OneVisionModel`]; the defaults are those of the published large encoder.

    Args:
        hidden_size (`int`, defaults to 1024): width of the encoder.
        intermediate_size (`int`, defaults to 4096): width inside the MLPs.
        num_hidden_layers (`int`, defaults to 24): transformer layers.
        num_attention_heads (`int`, defaults to 16): heads; `hidden_size / num_attention_heads` must be a
            multiple of 32, because half of it is split 4:6:6 between time, height and width.
        num_channels (`int`, defaults to 3): colour channels of a patch.
        image_size (`int`, defaults to 448): side in pixels of the published training images. The model takes
            every height and width that `patch_size` divides.
        patch_size (`int`, defaults to 14): side of a patch in pixels; must divide `image_size`.
        hidden_act (`str`, defaults to `"gelu"`): activation inside the MLPs.
        layer_norm_eps (`float`, defaults to 1e-6): epsilon of the normalisation layers.
        layer_norm_type (`str`, defaults to `"layer_norm"`): `"layer_norm"` or `"rms_norm"`. The norm inside
            the pooling head is an RMSNorm either way.
        attention_dropout (`float`, defaults to 0.0): dropout on attention weights while training.
        initializer_range (`float`, defaults to 0.02): standard deviation of new weights.
        rope_theta (`float`, defaults to 10000.0): base of the rotary frequencies.
        rope_temporal_size (`int` or `None`, defaults to 64): length of the virtual time grid on which
            positions t lie. `None` puts no bound on t.
        use_head (`bool`, defaults to `True`): final norm and attention pooling head; without it
            `last_hidden_state` is the last layer's output and `pooler_output` is `None`.
        probe_position (three numbers or `None`, defaults to `None`): where the probe of
            [`OneVisionForVideoClassification`] stands, [t, h, w]; its head then knows where each patch lies
            from there. `None` is the published head, which does not.
        label_smoothing (`float`, defaults to 0.0): fraction of the target that the loss of
            [`OneVisionForVideoClassification`] spreads over all classes.
        num_frames (`int` or `None`, defaults to `None`): frames that transformers' video classification
            pipeline asks the video processor for; `None` is the processor's own. Nothing else reads it.

    Raises the library's strict dataclass errors for a wrong type, a head size that cannot be split, a patch
    size that does not divide `image_size`, an unknown norm or a size that is not positive.
    """

    model_type = "onevision_encoder"

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    num_channels: int = 3
    image_size: int = 448
    patch_size: int = 14
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    layer_norm_type: str = "layer_norm"
    attention_dropout: float | int = 0.0
    initializer_range: float = 0.02
    rope_theta: float | int = 10000.0
    rope_temporal_size: int | None = 64
    use_head: bool = True
    probe_position: list[int | float] | tuple[int | float, ...] | None = None
    label_smoothing: float | int = 0.0
    num_frames: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields; those of the classifier only where they are set."""
        unset = [name for name, value in _CLASSIFIER_DEFAULTS.items() if getattr(self, name) == value]
        return {name: value for name, value in super().to_dict().items() if name not in unset}

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    def validate_sizes(self) -> None:
        """Sizes are positive and the patch divides the image."""
        names = (
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_channels",
            "image_size",
            "patch_size",
            "rope_theta",
            "rope_temporal_size",
            "num_frames",
        )
        for name in names:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}, which "
                f"must be a multiple of it, "
                f"such as {-(-self.image_size // self.patch_size) * self.patch_size}"
            )

    def validate_heads(self) -> None:
        """A head's channels can be split 4:6:6 between t, h and w."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided into num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.head_dim % HEAD_SIZE_STEP:
            raise ValueError(
                f"head size {self.head_dim} (hidden_size {self.hidden_size} / num_attention_heads "
                f"{self.num_attention_heads}) cannot be split 4:6:6 between t, h and w: it must be a "
                f"multiple of {HEAD_SIZE_STEP}"
            )

    def validate_norm(self) -> None:
        """The norm is one that published checkpoints use."""
        if self.layer_norm_type not in ("layer_norm", "rms_norm"):
            raise ValueError(
                f"layer_norm_type must be 'layer_norm' or 'rms_norm', got {self.layer_norm_type!r}"
            )

    def validate_classifier(self) -> None:
        """The probe of a classifier stands at one [t, h, w], and its targets stay targets."""
        if self.probe_position is not None and len(self.probe_position) != 3:
            raise ValueError(f"probe_position must be [t, h, w], got {list(self.probe_position)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to below 1, got {self.label_smoothing}")

    @classmethod
    def tiny(cls, **overrides: Any) -> "OneVisionConfig":
        """Two narrow layers, for tests and for demonstrations without weights (0.14 M parameters)."""
        return cls(**tower_sizes(64, 128, 2, 2) | {"image_size": 56} | overrides)

    @classmethod
    def base(cls, **overrides: Any) -> "OneVisionConfig":
        """ViT-B (92.6 M parameters with the head)."""
        return cls(**tower_sizes(768, 3072, 12, 12) | overrides)

    @classmethod
    def large(cls, **overrides: Any) -> "OneVisionConfig":
        """ViT-L, the published size (315.5 M parameters with the head)."""
        return cls(**overrides)

    @classmethod
    def huge(cls, **overrides: Any) -> "OneVisionConfig":
        """ViT-H (650.1 M parameters with the head)."""
        return cls(**tower_sizes(1280, 5120, 32, 20) | overrides)


def tower_sizes(hidden_size: int, intermediate_size: int, layers: int, heads: int) -> dict[str, Any]:
    """The sizes of a transformer by the names of its configuration.

    Args:
        hidden_size: width.
        intermediate_size: width inside the MLPs.
        layers: of the transformer.
        heads: of a layer.
    """
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


__all__ = ["NamesItsOwnCode", "OneVisionConfig"]
