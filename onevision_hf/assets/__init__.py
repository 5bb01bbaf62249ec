"""Files that travel with the package."""

from pathlib import Path


def bundled_clip() -> Path:
    """The path of the bundled clip: four seconds, 640 x 360, H.264 with B-pictures, drawn by this project.

    `scripts/draw_bundled_clip.py` in the repository draws it. The command line knows it as `bundled`.
    """
    return Path(__file__).with_name("valley.mp4")
