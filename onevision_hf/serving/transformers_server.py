"""`transformers serve` for our models.

    python -m onevision_hf.serving.transformers_server FOLDER --port 8000      # its options follow

That server takes a model's class from `transformers` itself and what it reads from tables of names that the
library keeps of its own models, so that registering with the Auto classes is not enough: here ours are put
beside them.
"""

import sys
from importlib import import_module
from typing import Any

from ..modeling.modeling_llava_onevision2 import (
    LlavaOnevision2ForConditionalGeneration,
    LlavaOnevision2MoeForConditionalGeneration,
    MageVLForConditionalGeneration,
)
from ..modeling.modeling_onevision_vl import OneVisionVLForConditionalGeneration

MODELS: tuple[Any, ...] = (
    OneVisionVLForConditionalGeneration,
    LlavaOnevision2ForConditionalGeneration,
    LlavaOnevision2MoeForConditionalGeneration,
    MageVLForConditionalGeneration,
)


def make_known() -> None:
    """Put the multimodal classes where transformers' server looks for classes that see images and videos."""
    tables = import_module("transformers.models.auto.modeling_auto")
    for model in MODELS:
        setattr(import_module("transformers"), model.__name__, model)
        kind = model.config_class.model_type
        tables.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[kind] = model.__name__


def main() -> None:
    make_known()
    sys.argv.insert(1, "serve")
    import_module("transformers.cli.transformers").main()


if __name__ == "__main__":
    main()
