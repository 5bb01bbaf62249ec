"""`onevision doctor`: what is installed and works on this machine, and what to install for the rest.

    onevision doctor
    onevision doctor --json

Nothing is guessed from names: a clip of each codec is written and its patches are selected, each attention
kernel encodes a few patches, each device too. The status is 1 when clips cannot be encoded here at all.
"""

import argparse
import importlib.metadata
import io
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import av
import numpy as np
import torch
from packaging.requirements import Requirement

from onevision_hf import (
    OneVisionConfig,
    OneVisionModel,
    OneVisionVideoProcessor,
    bundled_clip,
    select_patches,
)

CORE = ("torch", "torchvision", "transformers", "huggingface-hub", "safetensors", "av", "numpy", "pillow")
# Codec -> (decoder, the encoder and container that a trial clip is written with).
CODECS = {
    "h264": ("h264", "libx264", "mp4"),
    "hevc": ("hevc", "libx265", "mp4"),
    "mpeg4": ("mpeg4", "mpeg4", "mp4"),
    "mpeg2video": ("mpeg2video", "mpeg2video", "mpegts"),
    "vp8": ("vp8", "libvpx", "webm"),
    "vp9": ("vp9", "libvpx-vp9", "webm"),
    "av1": ("libdav1d", "libsvtav1", "mp4"),
}
# Extras that are not simply installed beside the rest -> what to do; "": nothing, users need none of it.
APART = {
    "dev": "",
    "eval": "in an environment of its own, since lmms-eval wants av < 16: pip install 'onevision-hf[eval]'",
}
# Kernel -> what to do to have it.
ATTENTION = {
    "sdpa": "comes with torch",
    "eager": "comes with torch",
    "flex_attention": "comes with torch; needs a compiler for its kernels",
    "flash_attention_2": "needs a CUDA device and: pip install flash-attn",
    "flash_attention_3": "needs a Hopper GPU and flash-attn's hopper build",
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def run(args: argparse.Namespace) -> int:
    report = examine()
    print(json.dumps(report, indent=1) if args.json else describe(report))
    return 0 if report["works"] else 1


def examine() -> dict[str, Any]:
    """The report: `works` (bool), `versions`, `extras`, `codecs`, `attention`, `devices`, `advice` (list)."""
    os.environ.setdefault("SVT_LOG", "1")
    av.logging.set_level(av.logging.PANIC)
    extras = examine_extras()
    codecs = {codec: try_codec(*how) for codec, how in CODECS.items()}
    attention = {name: _attempt(partial(_encode, name)) for name in ATTENTION}
    devices = examine_devices()
    advice = [
        f"{name}: " + APART.get(name, f"pip install 'onevision-hf[{name}]'")
        for name, found in extras.items()
        if found["missing"] and APART.get(name) != ""
    ]
    for name, found in attention.items():
        if not found["works"]:
            advice.append(f"{name}: {ATTENTION[name]}")
    for codec, found in codecs.items():
        if not found["decoder"]:
            advice.append(f"{codec}: this FFmpeg cannot decode it; PyAV's own wheels can: pip install av")
    return {
        "works": attention["sdpa"]["works"] and bool(codecs["h264"].get("signal")),
        "versions": _versions(),
        "extras": extras,
        "codecs": codecs,
        "attention": attention,
        "devices": devices,
        "advice": advice,
    }


def _versions() -> dict[str, str]:
    found = {"onevision-hf": importlib.metadata.version("onevision-hf"), "python": sys.version.split()[0]}
    found |= {name: _version(name) or "missing" for name in CORE}
    major, minor, micro = av.library_versions["libavcodec"]
    return found | {
        "libavcodec": f"{major}.{minor}.{micro}",
        "system": f"{platform.system()} {platform.machine()}",
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine_extras() -> dict[str, dict[str, Any]]:
    """extra -> `installed` (name -> version) and `missing` (names), by what the package says it needs."""
    found: dict[str, dict[str, Any]] = {}
    for text in importlib.metadata.requires("onevision-hf") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            continue
        for extra in importlib.metadata.metadata("onevision-hf").get_all("Provides-Extra") or []:
            if not requirement.marker.evaluate({"extra": extra}):
                continue
            parts = found.setdefault(extra, {"installed": {}, "missing": []})
            version = _version(requirement.name)
            if version is not None and requirement.specifier.contains(version, prereleases=True):
                parts["installed"][requirement.name] = version
            else:
                parts["missing"].append(requirement.name + (f" {requirement.specifier}" if version else ""))
    return found


def try_codec(decoder: str, encoder: str, container: str) -> dict[str, Any]:
    """`decoder`, `encoder` (whether FFmpeg has them), and of a clip written here its `signal` or `error`."""
    found: dict[str, Any] = {"decoder": _has(decoder, "r"), "encoder": _has(encoder, "w")}
    if not all(found.values()):
        return found
    try:
        with io.BytesIO() as out:
            _write_clip(out, encoder, container)
            found["signal"] = select_patches(out.getvalue(), num_frames=4, size=56).signal
    except (ValueError, OSError) as error:
        found["error"] = " ".join(str(error).split())
    return found


def _has(name: str, mode: Any) -> bool:
    try:
        av.codec.Codec(name, mode)
    except ValueError:  # PyAV: unknown codec
        return False
    return True


def _write_clip(out: Any, encoder: str, container: str) -> None:
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (96, 128, 3), np.uint8)
    quiet = {"libx265": {"x265-params": "log-level=none:pools=none"}, "libsvtav1": {"preset": "12"}}
    with av.open(out, "w", format=container) as written:
        stream: Any = written.add_stream(encoder, rate=25, options=quiet.get(encoder, {}))
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for t in range(8):
            picture = np.ascontiguousarray(np.roll(ground, 2 * t, axis=1))
            written.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        written.mux(stream.encode(None))


def examine_devices() -> dict[str, dict[str, Any]]:
    """device -> `works`, `name`, and memory; the processor is one of them."""
    name = platform.processor() or platform.machine()
    found: dict[str, dict[str, Any]] = {
        "cpu": {"name": name, "threads": torch.get_num_threads(), **_attempt(partial(_encode, "sdpa"))}
    }
    for number in range(torch.cuda.device_count()):
        device, properties = f"cuda:{number}", torch.cuda.get_device_properties(number)
        found[device] = {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            **_attempt(partial(_encode, "sdpa", device)),
        }
    if torch.backends.mps.is_available():
        found["mps"] = {"name": "Metal", **_attempt(partial(_encode, "sdpa", "mps"))}
    return found


def _encode(attention: str, device: str = "cpu") -> None:
    """A few patches of the bundled clip, padded, through the tiny encoder."""
    half = attention.startswith("flash")
    device = "cuda" if half and torch.cuda.is_available() else device
    config = OneVisionConfig.tiny()
    config._attn_implementation = attention
    model = OneVisionModel(config).eval().to(device, torch.bfloat16 if half else torch.float32)
    processor = OneVisionVideoProcessor(num_frames=4, size=56)
    inputs = processor(str(bundled_clip()), return_tensors="pt").to(device)
    with torch.inference_mode():
        output = model(**inputs).pooler_output
    if not bool(torch.isfinite(output).all()):
        raise ValueError("the outputs are not finite")


def _attempt(do: Callable[[], None]) -> dict[str, Any]:
    """`works`, and why not. Whatever a kernel raises is what is asked for here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            do()
    except Exception as error:
        text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return {"works": False, "reason": text[:200]}
    return {"works": True}


def describe(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["  ".join(f"{name} {version}" for name, version in report["versions"].items()), "", "devices"]
    for name, found in report["devices"].items():
        memory = f", {found['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in found else ""
        lines.append(f"  {name:<20}{_verdict(found)}  {found['name']}{memory}")
    lines.append("attention")
    lines += [f"  {name:<20}{_verdict(found)}" for name, found in report["attention"].items()]
    lines.append("codecs (the signal of a clip written here)")
    for name, found in report["codecs"].items():
        text = found.get("signal") or found.get("error")
        if text is None:
            have = [kind for kind in ("decoder", "encoder") if not found[kind]]
            text = f"no {' and no '.join(have)} in this FFmpeg" + ("; not tried" if found["decoder"] else "")
        lines.append(f"  {name:<20}{text}")
    lines.append("extras")
    for name, found in report["extras"].items():
        state = "complete" if not found["missing"] else "missing " + ", ".join(found["missing"])
        lines.append(f"  {name:<20}{state}")
    if report["advice"]:
        lines += ["for the rest", *(f"  {line}" for line in report["advice"])]
    return "\n".join(lines)


def _verdict(found: dict[str, Any]) -> str:
    return "works" if found["works"] else f"no: {found['reason']}"
