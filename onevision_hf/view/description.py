"""A clip and what is kept of it in figures, and the view that shows both."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..modeling.patch_selection import Selection
from ..modeling.video_reader import VideoReader
from .clip_view import ClipView, Packets


def describe_clip(name: str, path: Path, reader: VideoReader) -> dict[str, Any]:
    """What a video is; duration in seconds.

    Args:
        name: what the user called it.
        path: the file.
        reader: the open file.
    """
    return {
        "clip": name,
        "path": str(path),
        "codec": reader.codec,
        "width": reader.width,
        "height": reader.height,
        "frames": len(reader),
        "duration": round(reader.duration, 3),
        "bytes": path.stat().st_size,
    }


def describe_selection(selection: Selection) -> dict[str, Any]:
    """How much of a clip is kept."""
    kept, patches = len(selection.positions), int(selection.energy.size)
    return {
        "frames_sampled": len(selection.frame_ids),
        "patches": patches,
        "patches_kept": kept,
        "share": kept / patches,
        "signal": selection.signal,
    }


def readable_bytes(count: float) -> str:
    """1234567 -> "1.2 MB", in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def view_clip(
    description: Mapping[str, Any],
    selection: Selection,
    frames: np.ndarray,
    packets: Packets,
    *,
    signals: Mapping[str, np.ndarray | str] | None = None,
    weights: Mapping[str, float] | None = None,
    seconds: Mapping[str, float] | None = None,
) -> ClipView:
    """The view of a clip, with the figures that matter in its header.

    Args:
        description: of `describe_clip`.
        selection: what is kept of the clip, on a grid of gh x gw patches of T frames.
        frames: (T, H, W, 3) uint8, laid out as the selection lays them out.
        packets: of the whole stream.
        signals: by name (T, gh, gw), or why the clip does not give it.
        weights: of the signals that the energy is made of.
        seconds: what a step took, by the verb of the step.
    """
    kept, patches = len(selection.positions), selection.energy.size
    token = 4 * frames.shape[-1] * selection.geometry.patch_size**2
    figures = [
        ("frames sampled", f"{len(frames)} of {description['frames']}"),
        ("patches kept", f"{kept:,} of {patches:,}"),
        ("share", f"{100 * kept / patches:.1f} %"),
        ("input, float32", f"{readable_bytes(kept * token)} of {readable_bytes(patches * token)}"),
        ("file", readable_bytes(description["bytes"])),
        *((f"to {name}", f"{spent:.2f} s") for name, spent in (seconds or {}).items()),
    ]
    return ClipView(
        frames,
        selection.energy,
        selection.positions,
        selection.timestamps,
        selection.picture_types,
        title=Path(description["path"]).name,
        subtitle=f"{description['width']} x {description['height']} · {description['duration']:.1f} s · "
        f"{description['codec']}\nsignal: {selection.signal}",
        figures=figures,
        signals=signals or {},
        weights=weights or {},
        packets=packets,
    )
