"""Processors refuse an unknown name in the constructor and in `from_pretrained`, and name the nearest one."""

from typing import Any

from .setting_names import BOOKKEEPING, HUB_ARGUMENTS, refuse_unknown
from .url_access import URL_SETTINGS, UrlAccess

# What transformers hands to `from_pretrained` besides settings; its pipelines hand over the model's too.
_LOADING = {
    *(*HUB_ARGUMENTS, "trust_remote_code", "code_revision", "return_unused_kwargs", "task", "variant"),
    *("dtype", "torch_dtype", "device_map", "max_memory", "low_cpu_mem_usage", "attn_implementation"),
    *("quantization_config", "offload_folder", "offload_buffers", "use_safetensors", "adapter_kwargs"),
}
_TYPES = ("video_processor_type", "image_processor_type", "feature_extractor_type")


class KnownNames:
    """A processor of transformers that takes the names of its `valid_kwargs` and no others.

    Args:
        **kwargs: settings, and what transformers writes into files for itself.

    Raises:
        TypeError: an unknown name; the nearest known one is named.
    """

    valid_kwargs: Any
    # Names that `from_pretrained` lets pass although they are settings of other parts.
    of_others: frozenset[str] = frozenset()

    def __init__(self, **kwargs: Any):
        refuse_unknown(type(self).__name__, kwargs.keys() - BOOKKEEPING, list(self._known()))
        super().__init__(**kwargs)
        UrlAccess.of({}, self)  # refuses what is out of range

    def to_dict(self) -> dict[str, Any]:
        """transformers' own; what URLs may do is in a file where somebody changed it."""
        settings = super().to_dict()  # type: ignore[misc]
        usual = [name for name in URL_SETTINGS if settings.get(name) in (None, getattr(UrlAccess, name))]
        return {name: value for name, value in settings.items() if name not in usual}

    @classmethod
    def from_dict(cls, stored: dict[str, Any], **kwargs: Any) -> Any:
        """A processor from what a file holds.

        Of the file of another class (a published folder's CLIP processor) what both know counts, such as
        sizes and colours.

        Args:
            stored: settings by name.
            **kwargs: settings that replace them, and arguments of `from_pretrained`.

        Raises:
            TypeError: an unknown name; the nearest known one is named.
        """
        if not kwargs.get("return_unused_kwargs"):  # then whoever asks looks at what is left
            named = {name for name in kwargs if name[0] != "_"} - _LOADING - BOOKKEEPING
            known = list(dict.fromkeys([*cls._known(), *sorted(cls.of_others)]))
            refuse_unknown(f"{cls.__name__}.from_pretrained", named, known)
        written_by = {stored[name] for name in _TYPES if stored.get(name)}
        if written_by and cls.__name__ not in written_by:
            stored = {name: stored[name] for name in stored.keys() & cls._known().keys()}
        return super().from_dict(stored, **kwargs)  # type: ignore[misc]

    @classmethod
    def _known(cls) -> dict[str, Any]:
        """The settings by name."""
        return cls.valid_kwargs.__annotations__
