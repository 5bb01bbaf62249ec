"""Settings of a processor from a checkpoint folder: its own file, and what only the model's `config.json`
knows."""

import warnings
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import IMAGE_PROCESSOR_NAME, VIDEO_PROCESSOR_NAME, cached_file

from .configuration_onevision import OneVisionConfig
from .setting_names import HUB_ARGUMENTS


def read_with_model_settings(
    read: Callable[..., tuple[dict[str, Any], dict[str, Any]]],
    folder: str | PathLike,
    names: tuple[str, ...],
    weaker: tuple[str, ...] = (),
    **kwargs: Any,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A processor's stored settings, some of them taken from the model's `config.json`.

    Where the folder has no processor file but the configuration of a OneVision encoder (at the top or as
    `vision_config`), the settings are those of the model alone.

    Args:
        read: a `get_..._processor_dict` of transformers.
        folder: a folder or a Hub id.
        names: the settings that are the model's wherever it has them.
        weaker: settings that are taken from the model only where the processor's file has none: where both
            have one, the processor keeps its own and warns.
        **kwargs: given to `read`.

    Returns:
        the settings, and the arguments that `read` did not use.

    Raises:
        OSError: the folder has neither, as transformers says it.
    """
    hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
    model = _model_settings(folder, hub)
    try:
        settings, unused = read(folder, **kwargs)
    except OSError:
        if not model:
            raise
        settings = {}
        unused = {name: value for name, value in kwargs.items() if name not in hub and name[0] != "_"}
    for name in weaker:
        if name in model and settings.setdefault(name, model[name]) != model[name]:
            warnings.warn(
                f"{folder}: config.json says {name}={model[name]}, the processor's file {settings[name]}. "
                "The processor keeps its own; a pipeline of transformers asks for that of config.json. "
                "Take it out of config.json to have one number.",
                stacklevel=2,
            )
    return {**settings, **{name: model[name] for name in names if name in model}}, unused


def _model_settings(folder: str | PathLike, hub: dict[str, Any]) -> dict[str, Any]:
    """The settings of the OneVision encoder that lies in the folder, defaults filled in; empty without
    one."""
    if Path(folder).is_file():
        return {}
    try:
        config, _ = PreTrainedConfig.get_config_dict(folder, **hub)
    except OSError:
        return {}
    config = config.get("vision_config", config)
    if config.get("model_type") != OneVisionConfig.model_type:
        return {}
    return OneVisionConfig(**config).to_dict()


def has_video_processor(name: str | PathLike[str]) -> bool:
    """Whether a folder or a repository of the Hub holds the settings of a video processor."""
    return _holds(name, VIDEO_PROCESSOR_NAME)


def has_image_processor(name: str | PathLike[str]) -> bool:
    """Whether a folder or a repository of the Hub holds the settings of an image processor."""
    return _holds(name, IMAGE_PROCESSOR_NAME)


def _holds(name: str | PathLike[str], file: str) -> bool:
    return cached_file(name, file, _raise_exceptions_for_missing_entries=False) is not None
