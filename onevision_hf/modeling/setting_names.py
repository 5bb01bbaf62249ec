"""Names of settings: those that go along without being any, and an error for those that nobody knows."""

import difflib
from collections.abc import Collection, Sequence

from .url_access import URL_SETTINGS

# The arguments of `from_pretrained` that say where and how to fetch files, rather than set something.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "proxies",
    "token",
    "local_files_only",
    "revision",
    "subfolder",
)

# In the files of processors too, but nothing that a patch depends on: what transformers writes for itself,
# and the modes of the multimodal processor.
BOOKKEEPING = frozenset(
    {
        *("video_processor_type", "image_processor_type", "feature_extractor_type", "processor_class"),
        *("auto_map", "backend", "use_fast", "return_metadata", "return_tensors", "default_to_square"),
        *("data_format", "input_data_format", "do_convert_rgb", "do_pad", "pad_size", "device", "resample"),
        *("video_metadata", "disable_grouping", "video_mode", "whole_frames", "takes_codec_input"),
        *URL_SETTINGS,
    }
)


def refuse_unknown(owner: str, names: Collection[str], known: Sequence[str]) -> None:
    """Raise TypeError for names that are not known, with the nearest one that is.

    Args:
        owner: who was given the names, for the message.
        names: what was given.
        known: what may be given.
    """
    unknown = sorted(set(names) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise TypeError(f"{owner} got unknown arguments {unknown}{hint}; it takes {', '.join(known)}")
