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
    from .eval.feature_folder import FeatureFolder as FeatureFolder
    from .modeling.codec_signal_reader import CodecSignals as CodecSignals
    from .modeling.codec_signal_reader import FrameSignals as FrameSignals
    from .modeling.codec_signal_reader import iter_codec_signals as iter_codec_signals
    from .modeling.codec_signal_reader import read_codec_signals as read_codec_signals
    from .modeling.configuration_onevision import OneVisionConfig as OneVisionConfig
    from .modeling.configuration_onevision_vl import OneVisionVLConfig as OneVisionVLConfig
    from .modeling.configuration_openvision3 import OpenVision3Config as OpenVision3Config
    from .modeling.image_processing_onevision import OneVisionImageProcessor as OneVisionImageProcessor
    from .modeling.image_processing_onevision_vl import OneVisionVLImageProcessor as OneVisionVLImageProcessor
    from .modeling.image_processing_openvision3 import OpenVision3ImageProcessor as OpenVision3ImageProcessor
    from .modeling.modeling_onevision import OneVisionModel as OneVisionModel
    from .modeling.modeling_onevision_classification import (
        OneVisionForImageClassification as OneVisionForImageClassification,
    )
    from .modeling.modeling_onevision_classification import (
        OneVisionForVideoClassification as OneVisionForVideoClassification,
    )
    from .modeling.modeling_onevision_vl import (
        OneVisionVLForConditionalGeneration as OneVisionVLForConditionalGeneration,
    )
    from .modeling.modeling_openvision3 import MissingVAEError as MissingVAEError
    from .modeling.modeling_openvision3 import OpenVision3Model as OpenVision3Model
    from .modeling.patch_selection import Selection as Selection
    from .modeling.patchify_config import select_patches as select_patches
    from .modeling.processing_onevision_vl import OneVisionVLProcessor as OneVisionVLProcessor
    from .modeling.video_processing_onevision import OneVisionVideoProcessor as OneVisionVideoProcessor
    from .modeling.video_processing_onevision_vl import OneVisionVLVideoProcessor as OneVisionVLVideoProcessor
    from .modeling.video_processing_onevision_vl import VideoPatches as VideoPatches
    from .modeling.video_reader import VideoReader as VideoReader
    from .modeling.video_reader import VideoReadError as VideoReadError
    from .pretraining import UnifiedForPreTraining as UnifiedForPreTraining
    from .pretraining import UnifiedPreTrainingConfig as UnifiedPreTrainingConfig
    from .streaming.codec_stream import CodecStream as CodecStream
    from .streaming.codec_stream import StreamEvent as StreamEvent
    from .streaming.codec_stream import StreamWindow as StreamWindow

__version__ = "0.1.0"

__all__ = ["__version__", "bundled_clip", "tiny", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = _public(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


_install()
