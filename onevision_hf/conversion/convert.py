"""From a published checkpoint to a folder that loads through `AutoModel`, with its code, a processor and a
card.

from onevision_hf.conversion import convert
convert("openvision3", "UCSC-VLAA/openvision3-vit-base-patch2-32", "out/base")
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedConfig

from onevision_hf.conversion.card import conversion_card
from onevision_hf.conversion.checkpoint import State, new_folder
from onevision_hf.conversion.onevision_encoder import OneVisionEncoderAdapter
from onevision_hf.conversion.openvision3 import OpenVision3Adapter


class Adapter(Protocol):
    """A published layout of a model of ours."""

    name: str
    model_class: type[Any]

    def read(self, source: str, revision: str | None = None) -> tuple[State, Any, dict[str, Path]]: ...
    def config_of(self, state: State, settings: Any) -> PreTrainedConfig: ...
    def to_ours(self, state: State) -> State: ...
    def processors(self, config: Any, files: dict[str, Path]) -> list[Any]: ...


ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter for adapter in (OpenVision3Adapter(), OneVisionEncoderAdapter())
}


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        published_keys: tensors read from the published files.
        published_numbers: elements of them.
        parameters: elements of our model's parameters; fewer where the layout stores a fixed table.
    """

    converter: str
    source: str
    destination: str
    published_keys: int
    published_numbers: int
    parameters: int
    files: list[str]


def convert(
    converter: str,
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    revision: str | None = None,
) -> Conversion:
    """Write a published checkpoint as a transformers folder, which appears whole or not at all.

    Args:
        converter: one of `ADAPTERS`.
        source: folder or Hub id of the checkpoint.
        destination: folder to make; absent or empty.
        revision: of the Hub repository.

    Raises:
        ValueError: an unknown converter.
        CheckpointError: (a ValueError) the checkpoint does not fit.
        FileExistsError: the destination is not empty.
    """
    if converter not in ADAPTERS:
        raise ValueError(f"unknown converter {converter!r}: choose one of {', '.join(ADAPTERS)}")
    adapter, source = ADAPTERS[converter], os.fspath(source)
    with new_folder(destination) as folder:
        published, config, files = adapter.read(source, revision)
        state = adapter.to_ours(published)
        with torch.device("meta"):
            model = adapter.model_class(config)
        model.load_state_dict(state, strict=True, assign=True)
        model.save_pretrained(folder)
        for processor in adapter.processors(config, files):
            processor.save_pretrained(folder)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        details = {
            "model type": config.model_type,
            "width": config.hidden_size,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "parameters": f"{parameters:,}",
            "image size": f"{config.image_size} px",
        }
        card = conversion_card(adapter.name, source, details, files.get("README.md"))
        (folder / "README.md").write_text(card, encoding="utf-8")
        written = sorted(path.name for path in folder.iterdir())
    return Conversion(
        converter,
        source,
        os.fspath(destination),
        len(published),
        sum(tensor.numel() for tensor in published.values()),
        parameters,
        written,
    )
