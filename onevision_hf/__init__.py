"""onevision-hf: codec-sparse vision encoders for Hugging Face transformers.

Importing the package registers its classes with transformers' Auto classes, so that
`AutoModel.from_pretrained`, `AutoVideoProcessor.from_pretrained` and their kin find them.
"""

from .assets import bundled_clip

__version__ = "0.1.0"

__all__ = ["__version__", "bundled_clip"]
