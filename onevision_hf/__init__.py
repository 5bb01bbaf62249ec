"""onevision-hf: codec-sparse vision encoders for Hugging Face transformers.

`import onevision_hf` makes its classes known to transformers' Auto classes, so that
`AutoModel.from_pretrained`, `AutoVideoProcessor.from_pretrained` and their kin find them, whether it comes
before or after transformers. It imports neither transformers nor torch by itself: a name is looked up in its
module when it is used.
"""

from typing import TYPE_CHECKING, Any

from .assets import bundled_clip, tiny
from .registration import PUBLIC as _PUBLIC
from .registration import install as _install
from .registration import public as _public

if TYPE_CHECKING:
    from .eval.feature_folder import FeatureFolder
    from .modeling.canvas_selection import CanvasSelection, select_canvases
    from .modeling.codec_canvases import CodecCanvases, read_canvases
    from .modeling.codec_signal_reader import (
        CodecSignals,
        FrameSignals,
        iter_codec_signals,
        read_codec_signals,
    )
    from .modeling.configuration_llava_onevision2 import (
        LlavaOnevision2Config,
        LlavaOnevision2MoeConfig,
        LlavaOnevision2VisionConfig,
        MageVLConfig,
        MageVLVisionConfig,
    )
    from .modeling.configuration_onevision import OneVisionConfig
    from .modeling.configuration_onevision_vl import OneVisionVLConfig
    from .modeling.configuration_openvision3 import OpenVision3Config
    from .modeling.image_processing_onevision import OneVisionImageProcessor
    from .modeling.image_processing_onevision_vl import OneVisionVLImageProcessor
    from .modeling.image_processing_openvision3 import OpenVision3ImageProcessor
    from .modeling.modeling_llava_onevision2 import (
        LlavaOnevision2ForConditionalGeneration,
        LlavaOnevision2Model,
        LlavaOnevision2MoeForConditionalGeneration,
        LlavaOnevision2MoeModel,
        MageVLForConditionalGeneration,
        MageVLModel,
        MageVLVisionModel,
    )
    from .modeling.modeling_onevision import OneVisionModel
    from .modeling.modeling_onevision_classification import (
        OneVisionForImageClassification,
        OneVisionForVideoClassification,
    )
    from .modeling.modeling_onevision_vl import OneVisionVLForConditionalGeneration, OneVisionVLModel
    from .modeling.modeling_openvision3 import MissingVAEError, OpenVision3Model
    from .modeling.patch_selection import Selection
    from .modeling.patchify_config import select_patches
    from .modeling.processing_llava_onevision2 import LlavaOnevision2Processor
    from .modeling.processing_onevision_vl import OneVisionVLProcessor
    from .modeling.video_processing_llava_onevision2 import LlavaOnevision2VideoProcessor
    from .modeling.video_processing_onevision import OneVisionVideoProcessor
    from .modeling.video_processing_onevision_vl import OneVisionVLVideoProcessor, VideoPatches
    from .modeling.video_reader import VideoReader, VideoReadError
    from .pretraining import UnifiedForPreTraining, UnifiedPreTrainingConfig
    from .streaming.codec_stream import CodecStream, StreamEvent, StreamWindow

__version__ = "0.1.0"

__all__ = [
    "CanvasSelection",
    "CodecCanvases",
    "CodecSignals",
    "CodecStream",
    "FeatureFolder",
    "FrameSignals",
    "LlavaOnevision2Config",
    "LlavaOnevision2ForConditionalGeneration",
    "LlavaOnevision2Model",
    "LlavaOnevision2MoeConfig",
    "LlavaOnevision2MoeForConditionalGeneration",
    "LlavaOnevision2MoeModel",
    "LlavaOnevision2Processor",
    "LlavaOnevision2VideoProcessor",
    "LlavaOnevision2VisionConfig",
    "MageVLConfig",
    "MageVLForConditionalGeneration",
    "MageVLModel",
    "MageVLVisionConfig",
    "MageVLVisionModel",
    "MissingVAEError",
    "OneVisionConfig",
    "OneVisionForImageClassification",
    "OneVisionForVideoClassification",
    "OneVisionImageProcessor",
    "OneVisionModel",
    "OneVisionVLConfig",
    "OneVisionVLForConditionalGeneration",
    "OneVisionVLImageProcessor",
    "OneVisionVLModel",
    "OneVisionVLProcessor",
    "OneVisionVLVideoProcessor",
    "OneVisionVideoProcessor",
    "OpenVision3Config",
    "OpenVision3ImageProcessor",
    "OpenVision3Model",
    "Selection",
    "StreamEvent",
    "StreamWindow",
    "UnifiedForPreTraining",
    "UnifiedPreTrainingConfig",
    "VideoPatches",
    "VideoReadError",
    "VideoReader",
    "__version__",
    "bundled_clip",
    "iter_codec_signals",
    "read_canvases",
    "read_codec_signals",
    "select_canvases",
    "select_patches",
    "tiny",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = _public(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


_install()
