"""What lmms-eval finds under the entry point `lmms_eval.models`: the model called `onevision`.

python -m lmms_eval --model onevision --model_args pretrained=DIR,num_patches=2048 --tasks videomme
"""

from typing import Any


def manifests() -> list[Any]:
    """The class for lmms-eval's chat protocol, which it prefers, and the one for `--force_simple`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(
            model_id="onevision",
            chat_class_path="onevision_hf.eval.lmms.model.OneVisionChat",
            simple_class_path="onevision_hf.eval.lmms.model.OneVisionSimple",
        )
    ]
