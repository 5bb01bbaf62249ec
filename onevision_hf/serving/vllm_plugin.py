"""What vLLM finds under the entry point `vllm.general_plugins`: our models, named and not yet imported.

    vllm serve FOLDER --mm-processor-kwargs '{"num_frames": 64, "keep_ratio": 0.125}'

vLLM calls `register` in each of its processes, and again in one that looks at a model's class. So this module
imports nothing large by itself, and `register` neither a model nor a processor.
"""

import sys
from collections.abc import Mapping
from typing import Any

# The versions whose interface of multimodal processors `vllm_model` follows, and which were run.
VERSIONS = ("0.32",)
OURS = ("OneVisionVLForConditionalGeneration",)
PUBLISHED = (
    "LlavaOnevision2ForConditionalGeneration",
    "LlavaOnevision2MoeForConditionalGeneration",
    "MageVLForConditionalGeneration",
)
MODEL = f"{__package__}.vllm_model:OneVisionVLForConditionalGeneration"
LOADER = "onevision"


def is_supported(version: str) -> bool:
    """Whether this vLLM is one of `VERSIONS`."""
    return ".".join(version.split(".")[:2]) in VERSIONS


def refusal(version: str) -> str:
    """What is said where this vLLM is none of `VERSIONS`."""
    return (
        f"onevision-hf serves its models with vLLM {', '.join(VERSIONS)}, found {version}: install one of "
        f"those, or hide the plugin (VLLM_PLUGINS), which leaves {PUBLISHED[0]} to vLLM's own class"
    )


def register() -> None:
    """Make our architectures known to vLLM, and that their videos stay files until our processor reads them.

    transformers knows the model types since this package was imported. Under a version that is not supported
    our own name is registered all the same, so that whoever serves such a folder is told why not; the
    published names then stay vLLM's.
    """
    import vllm
    from vllm import ModelRegistry

    supported = is_supported(vllm.__version__)
    for name in (*OURS, *(PUBLISHED if supported else ())):
        ModelRegistry.register_model(name, MODEL)
    if not supported:
        print(refusal(vllm.__version__), file=sys.stderr)
        return
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.multimodal.video import VIDEO_LOADER_REGISTRY

    VIDEO_LOADER_REGISTRY.register(LOADER)(KeptVideo)
    MODELS_CONFIG_MAP.update(dict.fromkeys((*OURS, *PUBLISHED), KeepVideos))


class KeptVideo:
    """Among vLLM's video loaders the one that decodes nothing: codec input needs the file's own bytes."""

    @classmethod
    def load_bytes(cls, data: bytes, **settings: Any) -> tuple[None, dict[str, Any]]:
        """No frames. vLLM keeps the bytes beside them.

        Args:
            data: of the file.
            **settings: `--media-io-kwargs` and those of a request.

        Raises:
            ValueError: a setting of decoding, which would have no effect.
        """
        # 32 is vLLM's own, given whether somebody asked for it or not.
        named = sorted(name for name, value in settings.items() if (name, value) != ("num_frames", 32))
        if named:
            raise ValueError(
                f"media_io_kwargs of a video are not followed ({', '.join(named)}): the model's processor "
                "reads the file, give its settings in mm_processor_kwargs"
            )
        return None, {}


class KeepVideos:
    """What vLLM asks of a model about its configuration: our loader, unless another one is named."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Name our loader.

        Args:
            model_config: of vLLM.
        """
        multimodal = model_config.multimodal_config
        if multimodal is not None:
            given: Mapping[str, Any] = multimodal.media_io_kwargs or {}
            video = {"video_backend": LOADER, **given.get("video", {})}
            multimodal.media_io_kwargs = {**given, "video": video}

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Nothing more."""
