"""The published OneVision encoders: a transformers folder with `config.json` and safetensors.

    onevision convert onevision-encoder FOLDER_OR_HUB_ID DST

OneVisionModel keeps the published names, so such a folder also loads as it is. Converting checks every key,
and writes the code, the processors and a card beside the weights, so that the result loads where this
package is not installed.
"""

from pathlib import Path
from typing import Any

import torch

from onevision_hf.conversion import checkpoint
from onevision_hf.modeling.configuration_onevision import OneVisionConfig
from onevision_hf.modeling.image_processing_onevision import OneVisionImageProcessor
from onevision_hf.modeling.modeling_onevision import OneVisionModel
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor

SETTINGS, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


class OneVisionEncoderAdapter:
    """The published layout and OneVisionModel's, which has the same names; stateless."""

    name = "onevision-encoder"
    model_class = OneVisionModel

    def read(
        self, source: str, revision: str | None = None
    ) -> tuple[checkpoint.State, OneVisionConfig, dict[str, Path]]:
        """The published state dict of `source` (folder or Hub id), its config, and the files read."""
        extras = [WEIGHTS, INDEX, "preprocessor_config.json", "README.md"]
        files = checkpoint.find_files(source, [SETTINGS], extras, revision)
        if INDEX in files:
            names = checkpoint.read_json(files[INDEX]).get("weight_map")
            if not isinstance(names, dict):
                raise checkpoint.CheckpointError(f"{files[INDEX]} has no weight_map")
            shards = sorted(set(names.values()))
        elif WEIGHTS in files:
            shards = [WEIGHTS]
        else:
            raise checkpoint.CheckpointError(f"{source} holds neither {WEIGHTS} nor {INDEX}")
        files |= checkpoint.find_files(source, shards, revision=revision)
        state = checkpoint.read_safetensors([files[name] for name in shards])
        return state, self.config_of(state, checkpoint.read_json(files[SETTINGS])), files

    def config_of(self, state: checkpoint.State, settings: dict[str, Any]) -> OneVisionConfig:
        """The configuration in the content of a published config.json; the weights are held to it.

        Raises `CheckpointError` for another model type, `CheckpointMismatchError` for keys or shapes.
        """
        if settings.get("model_type") != OneVisionConfig.model_type:
            raise checkpoint.CheckpointError(
                f"{SETTINGS} says model_type = {settings.get('model_type')!r}, expected "
                f"{OneVisionConfig.model_type!r}"
            )
        # Their code and class names would be wrong beside ours.
        config = OneVisionConfig.from_dict(
            {key: value for key, value in settings.items() if key not in ("auto_map", "architectures")}
        )
        with torch.device("meta"):
            expected = OneVisionModel(config).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        checkpoint.check_keys(f"the OneVision encoder that {SETTINGS} describes", state, shapes)
        return config

    def to_ours(self, state: checkpoint.State) -> checkpoint.State:
        """A published state dict -> OneVisionModel's: the same names, contiguous."""
        return {name: tensor.contiguous() for name, tensor in state.items()}

    def processors(self, config: OneVisionConfig, files: dict[str, Path]) -> list[Any]:
        """Ours for images and videos, with the settings of the published preprocessor_config.json."""
        folder = files[SETTINGS].parent
        return [
            OneVisionImageProcessor.from_pretrained(folder),
            OneVisionVideoProcessor.from_pretrained(folder),
        ]
