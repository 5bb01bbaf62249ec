"""Pictures of what codec patchification keeps of a clip and why, drawn from arrays with numpy and pillow.

    view = ClipView(frames, energy, positions, timestamps, picture_types, title="clip.mp4", signals=signals)
    save(view, "clip.png")        # a sheet: time axis with packets, frames, each signal, energy, kept patches
    save(view, "clip.mp4")        # the same over time; so does .gif

    save_mp4(draw_arrows(frames, signals), path, pace)       # motion vectors over the pictures

On the command line: `onevision view CLIP --out F.png`, `onevision signals CLIP --view F.mp4`.
"""

from .arrows import draw_arrows
from .clip_view import ClipView, Packets
from .description import describe_clip, describe_selection, readable_bytes, view_clip
from .files import check_suffix, save, save_mp4
from .moments import draw_moments
from .painting import colour_map
from .sheet import draw_sheet
from .signals import read_frames, read_packets, read_signals

__all__ = [
    "ClipView",
    "Packets",
    "check_suffix",
    "colour_map",
    "describe_clip",
    "describe_selection",
    "draw_arrows",
    "draw_moments",
    "draw_sheet",
    "read_frames",
    "read_packets",
    "read_signals",
    "readable_bytes",
    "save",
    "save_mp4",
    "view_clip",
]
