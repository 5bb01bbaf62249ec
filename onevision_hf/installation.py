"""What is installed and works here: versions, devices, codecs, and what the extras lack."""

import importlib.metadata as metadata
import platform
import sys
from typing import Any

CORE = ("torch", "torchvision", "transformers", "huggingface-hub", "safetensors", "av", "numpy", "pillow")
DECODERS = {name: name for name in ("h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9")}
DECODERS["av1"] = "libdav1d"


def examine() -> dict[str, Any]:
    """The report: `works`, `versions`, `devices`, `codecs` (are they decoded), `missing` (by extra)."""
    import av
    import torch

    devices, accelerator = ["cpu"], torch.accelerator.current_accelerator(check_available=True)
    if accelerator is not None:
        devices += [f"{accelerator.type}:{number}" for number in range(torch.accelerator.device_count())]
    tried = {device: try_device(device) for device in devices}
    versions = {"onevision-hf": _version("onevision-hf"), "python": sys.version.split()[0]}
    versions |= {name: _version(name) or "missing" for name in CORE}
    versions["libavcodec"] = ".".join(map(str, av.library_versions["libavcodec"]))
    versions["system"] = f"{platform.system()} {platform.machine()}"
    return {
        "works": tried["cpu"] == "works",
        "versions": versions,
        "devices": tried,
        "codecs": {codec: decoder in av.codecs_available for codec, decoder in DECODERS.items()},
        "missing": missing_of_extras(),
    }


def try_device(device: str) -> str:
    """`works`, or why a few patches of the bundled clip cannot be encoded there, whatever it raises."""
    import torch

    from onevision_hf import OneVisionConfig, OneVisionModel, OneVisionVideoProcessor, bundled_clip

    try:
        inputs = OneVisionVideoProcessor(num_frames=4, size=56)(str(bundled_clip()), return_tensors="pt")
        model = OneVisionModel(OneVisionConfig.tiny()).eval().to(device)
        with torch.inference_mode():
            finite = bool(model(**inputs.to(device)).pooler_output.isfinite().all())
    except Exception as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    return "works" if finite else "the outputs are not finite"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def missing_of_extras() -> dict[str, list[str]]:
    """extra -> what the package says that it needs and is not installed here, or in another version."""
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    for extra in metadata.metadata("onevision-hf").get_all("Provides-Extra") or []:
        found[extra] = []
        for requirement in map(Requirement, metadata.requires("onevision-hf") or []):
            marker = requirement.marker
            if marker is None or marker.evaluate({"extra": ""}) or not marker.evaluate({"extra": extra}):
                continue
            version = _version(requirement.name)
            if version is None:
                found[extra].append(requirement.name)
            elif not requirement.specifier.contains(version, prereleases=True):
                found[extra].append(f"{requirement.name}{requirement.specifier} (found {version})")
    return found
