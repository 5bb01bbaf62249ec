"""onevision-hf: codec-sparse vision encoders for Hugging Face transformers.

Importing the package registers its classes with transformers' Auto classes, so that
`AutoModel.from_pretrained`, `AutoVideoProcessor.from_pretrained` and their kin find them.
"""

__version__ = "0.1.0"

from transformers import AutoConfig, AutoModel

from onevision_hf.assets import bundled_clip
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.modeling_onevision import OneVisionModel

AutoConfig.register(OneVisionConfig.model_type, OneVisionConfig)
AutoModel.register(OneVisionConfig, OneVisionModel)

__all__ = ["OneVisionConfig", "OneVisionModel", "__version__", "bundled_clip"]
