"""onevision-hf: codec-sparse vision encoders for Hugging Face transformers.

Importing the package registers its classes with transformers' Auto classes, so that
`AutoModel.from_pretrained`, `AutoVideoProcessor.from_pretrained` and their kin find them.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoVideoProcessor

from onevision_hf.assets import bundled_clip
from onevision_hf.modeling.codec_signals import CodecSignals, read_codec_signals
from onevision_hf.modeling.codec_stream import CodecStream, StreamEvent, StreamWindow
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.configuration_openvision3 import OpenVision3Config
from onevision_hf.modeling.image_processing_onevision import OneVisionImageProcessor
from onevision_hf.modeling.image_processing_openvision3 import OpenVision3ImageProcessor
from onevision_hf.modeling.modeling_onevision import OneVisionModel
from onevision_hf.modeling.modeling_openvision3 import MissingVAEError, OpenVision3Model
from onevision_hf.modeling.patch_selection import Selection, select_patches
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor
from onevision_hf.modeling.video_reader import VideoReader, VideoReadError

__version__ = "0.1.0"

AutoConfig.register(OneVisionConfig.model_type, OneVisionConfig)
AutoModel.register(OneVisionConfig, OneVisionModel)
AutoImageProcessor.register(OneVisionConfig, image_processor_classes={"torchvision": OneVisionImageProcessor})
AutoVideoProcessor.register(OneVisionConfig, OneVisionVideoProcessor)
AutoConfig.register(OpenVision3Config.model_type, OpenVision3Config)
AutoModel.register(OpenVision3Config, OpenVision3Model)
AutoImageProcessor.register(
    OpenVision3Config, image_processor_classes={"torchvision": OpenVision3ImageProcessor}
)

# What is saved carries its code, so that it loads where this package is not installed.
OneVisionConfig.register_for_auto_class()
OneVisionModel.register_for_auto_class("AutoModel")
OneVisionImageProcessor.register_for_auto_class()
OneVisionVideoProcessor.register_for_auto_class()
OpenVision3Config.register_for_auto_class()
OpenVision3Model.register_for_auto_class("AutoModel")
OpenVision3ImageProcessor.register_for_auto_class()

__all__ = [
    "CodecSignals",
    "CodecStream",
    "MissingVAEError",
    "OneVisionConfig",
    "OneVisionImageProcessor",
    "OneVisionModel",
    "OneVisionVideoProcessor",
    "OpenVision3Config",
    "OpenVision3ImageProcessor",
    "OpenVision3Model",
    "Selection",
    "StreamEvent",
    "StreamWindow",
    "VideoReadError",
    "VideoReader",
    "__version__",
    "bundled_clip",
    "read_codec_signals",
    "select_patches",
]
