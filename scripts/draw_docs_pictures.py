"""Draw the pictures of the docs from the bundled clip, with a palette so that they stay small.

python scripts/draw_docs_pictures.py            # docs/images/bundled.png and codec-presets.png
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from onevision_hf import VideoReader, bundled_clip, select_patches
from onevision_hf.cli import main as onevision
from onevision_hf.view import ClipView, read_frames
from onevision_hf.view.painting import FAINT, INK, PAPER, draw_text, paste

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MOMENTS = (12, 24, 35, 50)  # of the 64 sampled frames
PRESETS = {
    "auto": "the best that the codec gives",
    "published": "what the published weights saw",
    "bits": "where the encoder spent its bits",
}


def draw_presets() -> Image.Image:
    """Energy and kept patches of four moments under each preset."""
    cell, gap, margin, label = (300, 169), 10, 40, 250
    row = 2 * (cell[1] + gap) + 16
    size = (
        2 * margin + label + len(MOMENTS) * (cell[0] + gap) - gap,
        margin + 30 + len(PRESETS) * row + margin // 2,
    )
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    for number, (preset, words) in enumerate(PRESETS.items()):
        selection = select_patches(
            str(bundled_clip()), preset=preset, size=504 if preset == "published" else 224
        )
        with VideoReader(str(bundled_clip())) as reader:
            frames = read_frames(reader, selection)
        view = ClipView(
            frames, selection.energy, selection.positions, selection.timestamps, selection.picture_types
        )
        # The published layout is a padded square: show the picture, not its black bands.
        geometry = selection.geometry
        band = np.s_[max(0, geometry.top) : max(0, geometry.top) + geometry.resized_height]
        top = margin + 30 + number * row
        draw_text(draw, (margin, top), preset, 30, INK, "la")
        for line, note in enumerate((words, selection.signal)):
            draw_text(draw, (margin, top + 42 + 24 * line), note, 16, FAINT, "la")
        for column, t in enumerate(MOMENTS):
            x = margin + label + column * (cell[0] + gap)
            if not number:
                draw_text(draw, (x + cell[0] / 2, margin + 12), view.caption(t), 18, FAINT, "mm")
            paste(image, view.heat(t)[band], (x, top), cell)
            paste(image, view.dimmed(t)[band], (x, top + cell[1] + gap), cell)
    return image


def save_small(image: Image.Image, path: Path) -> None:
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    sheet = IMAGES / "bundled.png"
    onevision(["view", "bundled", "--out", str(sheet)])
    save_small(Image.open(sheet).convert("RGB"), sheet)
    save_small(draw_presets(), IMAGES / "codec-presets.png")


if __name__ == "__main__":
    main()
