"""Weights of a multimodal model's language part in fewer bits, by libraries that transformers loads with.

    AutoModelForImageTextToText.from_pretrained(folder, **quantized("int8", "cpu"))

`int8` is torchao's, for processors and GPUs alike; `nf4` is bitsandbytes'. The tower, the connector and the
head, a few percent of a large model, keep their weights.
"""

import importlib.util
from typing import Any

# Name -> the package, and bytes that a weight takes with its scales (int8: one a row; nf4: one of 64).
QUANTIZATIONS = {"int8": ("torchao", 1.0), "nf4": ("bitsandbytes", 0.5 + 4 / 64)}
KEPT = ["vision_tower", "connector", "lm_head"]


def quantized(name: str | None, device: str) -> dict[str, Any]:
    """Arguments of `from_pretrained`; none for None.

    Args:
        name: of QUANTIZATIONS.
        device: on which the weights come to lie.

    Raises:
        ValueError: an unknown name, or its package is not installed.
    """
    if name is None:
        return {}
    if name not in QUANTIZATIONS:
        raise ValueError(f"quantization is {' or '.join(QUANTIZATIONS)}, not {name!r}")
    package, _ = QUANTIZATIONS[name]
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"quantization {name} needs {package}, which is not installed: pip install {package}"
        )
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config: Any = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=KEPT)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=KEPT)
    return {"quantization_config": config, "device_map": {"": device}}


__all__ = ["KEPT", "QUANTIZATIONS", "quantized"]
