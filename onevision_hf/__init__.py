"""onevision-hf: codec-sparse vision encoders for Hugging Face transformers.

Importing the package registers its classes with transformers' Auto classes, so that
`AutoModel.from_pretrained`, `AutoVideoProcessor.from_pretrained` and their kin find them.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)

from onevision_hf.assets import bundled_clip, tiny
from onevision_hf.modeling.codec_signals import CodecSignals, read_codec_signals
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.configuration_onevision_vl import OneVisionVLConfig
from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
from onevision_hf.modeling.image_processing_onevision import OneVisionImageProcessor
from onevision_hf.modeling.image_processing_onevision_vl import OneVisionVLImageProcessor
from onevision_hf.modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from onevision_hf.modeling.modeling_onevision import OneVisionModel
from onevision_hf.modeling.modeling_onevision_classification import OneVisionForVideoClassification
from onevision_hf.modeling.modeling_onevision_vl import OneVisionVLForConditionalGeneration
from onevision_hf.modeling.modeling_openvision3 import MissingVAEError, OpenVision3Model
from onevision_hf.modeling.patch_selection import Selection
from onevision_hf.modeling.patchify_config import select_patches
from onevision_hf.modeling.processing_onevision_vl import OneVisionVLProcessor
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor
from onevision_hf.modeling.video_processing_onevision_vl import OneVisionVLVideoProcessor, VideoPatches
from onevision_hf.modeling.video_reader import VideoReader, VideoReadError
from onevision_hf.pretraining import UnifiedForPreTraining, UnifiedPreTrainingConfig
from onevision_hf.streaming.codec_stream import CodecStream, StreamEvent, StreamWindow

__version__ = "0.1.0"

AutoConfig.register(OneVisionConfig.model_type, OneVisionConfig)
AutoModel.register(OneVisionConfig, OneVisionModel)
AutoModelForVideoClassification.register(OneVisionConfig, OneVisionForVideoClassification)
AutoImageProcessor.register(OneVisionConfig, image_processor_classes={"torchvision": OneVisionImageProcessor})
AutoVideoProcessor.register(OneVisionConfig, OneVisionVideoProcessor)
AutoConfig.register(OpenVision3Config.model_type, OpenVision3Config)
AutoModel.register(OpenVision3Config, OpenVision3Model)
AutoImageProcessor.register(
    OpenVision3Config, image_processor_classes={"torchvision": OpenVision3ImageProcessor}
)
AutoConfig.register(OneVisionVLConfig.model_type, OneVisionVLConfig)
AutoModelForImageTextToText.register(OneVisionVLConfig, OneVisionVLForConditionalGeneration)
AutoProcessor.register(OneVisionVLConfig, OneVisionVLProcessor)
AutoImageProcessor.register(
    OneVisionVLConfig, image_processor_classes={"torchvision": OneVisionVLImageProcessor}
)
AutoVideoProcessor.register(OneVisionVLConfig, OneVisionVLVideoProcessor)
AutoConfig.register(UnifiedPreTrainingConfig.model_type, UnifiedPreTrainingConfig)
AutoModel.register(UnifiedPreTrainingConfig, UnifiedForPreTraining)
AutoModelForPreTraining.register(UnifiedPreTrainingConfig, UnifiedForPreTraining)

# What is saved carries its code, so that it loads where this package is not installed.
OneVisionConfig.register_for_auto_class()
OneVisionModel.register_for_auto_class("AutoModel")
OneVisionForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")
OneVisionImageProcessor.register_for_auto_class()
OneVisionVideoProcessor.register_for_auto_class()
OpenVision3Config.register_for_auto_class()
OpenVision3Model.register_for_auto_class("AutoModel")
OpenVision3ImageProcessor.register_for_auto_class()
OneVisionVLConfig.register_for_auto_class()
OneVisionVLForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
OneVisionVLProcessor.register_for_auto_class()
OneVisionVLImageProcessor.register_for_auto_class()
OneVisionVLVideoProcessor.register_for_auto_class()

__all__ = [
    "CodecSignals",
    "CodecStream",
    "MissingVAEError",
    "OneVisionConfig",
    "OneVisionForVideoClassification",
    "OneVisionImageProcessor",
    "OneVisionModel",
    "OneVisionVLConfig",
    "OneVisionVLForConditionalGeneration",
    "OneVisionVLImageProcessor",
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
    "read_codec_signals",
    "select_patches",
    "tiny",
]
