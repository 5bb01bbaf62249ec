"""The picture of docs/painted-references.md: a painted reference, the next picture over it, the field.

python scripts/draw_painted_references.py      # writes docs/images/painted-references.png

Everything in it is what the package's own decoder saw: a drawn scene is encoded as HEVC, its second picture
is painted, and the third is decoded over the paint.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from clips import write_clip
from codec_table import texture

from onevision_hf import VideoReader
from onevision_hf.modeling.hevc_bitstream import RevealedHEVC
from onevision_hf.modeling.painted_decoder import PaintedDecoder, PaintedPicture
from onevision_hf.view import colour_map

PICTURE = Path(__file__).parents[1] / "docs/images/painted-references.png"
HEIGHT, WIDTH, SIDE, FRAMES = 256, 416, 80, 3
# Left and top of each square in the first picture, and how far it goes in a frame; the camera pans too.
SQUARES = (((40, 30), (24, 8)), ((270, 30), (-6, 26)), ((250, 165), (-26, -6)))
TINTS = ((1.0, 0.6, 0.4), (0.5, 0.9, 0.5), (0.5, 0.7, 1.0))
PAN = 6


class WatchedDecoder(PaintedDecoder):
    """Keeps what each picture looked like when it came, and what it became."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.came: list[list[np.ndarray]] = []
        self.left: list[list[np.ndarray]] = []

    def _planes_of(self, frame: Any) -> Any:
        found = super()._planes_of(frame)
        self.came.append([plane.copy() for plane in found.planes])
        self.left.append(found.planes)
        return found

    def decode(self, *args: Any, **kwargs: Any) -> PaintedPicture | None:
        found = super().decode(*args, **kwargs)
        self.left[-1] = [plane.copy() for plane in self.left[-1]]
        return found


def draw_scene() -> np.ndarray:
    """(T, H, W, 3) uint8: squares that move fast over a ground that a camera pans."""
    rng = np.random.default_rng(7)
    ground = texture(rng, HEIGHT, WIDTH + PAN * FRAMES, 40, 220).mean(-1, keepdims=True).repeat(3, -1)
    squares = [texture(rng, SIDE, SIDE, 40, 250) * tint for tint in TINTS]
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[:] = ground[:, PAN * t : PAN * t + WIDTH]
        for pixels, ((left, top), (dx, dy)) in zip(squares, SQUARES, strict=True):
            frame[top + dy * t : top + dy * t + SIDE, left + dx * t : left + dx * t + SIDE] = pixels
    return frames


def colours_of(planes: list[np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8 RGB of 4:2:0 planes, BT.601."""
    luma, u, v = (plane.astype(np.float32) for plane in planes)
    u, v = (plane.repeat(2, 0).repeat(2, 1)[: luma.shape[0], : luma.shape[1]] - 128 for plane in (u, v))
    rgb = np.stack([luma + 1.402 * v, luma - 0.344 * u - 0.714 * v, luma + 1.772 * u], -1)
    return np.clip(rgb, 0, 255).astype(np.uint8)


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    frames = draw_scene()
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "preset": "fast",
            "crf": "24",
            "x265-params": "weightp=0:ref=1:me=full:merange=40:scenecut=0",
        }
        clip = write_clip(
            Path(folder) / "clip.mp4", frames, codec="libx265", gop=48, bframes=0, options=options
        )
        with VideoReader(clip) as reader:
            stream = RevealedHEVC(reader.extradata)
            packets = [data for _, data in reader.packets(range(FRAMES))]
    decoder = WatchedDecoder("hevc", stream.extradata)
    stream.enter()
    decoder.restart()
    steps = [step for packet in packets for step in stream.split(packet)]
    found = [decoder.decode(step, time, wanted=True) for time, step in enumerate(steps)]
    painted, over = colours_of(decoder.left[1]), colours_of(decoder.came[2])
    field = found[2].field if found[2] else None
    if field is None:
        raise RuntimeError("the scene's last picture has no motion field: its encoder took it for new")
    residual = np.minimum(field.residual / 12, 1)
    panels = [
        ("1  a picture comes out of the decoder", frames[1]),
        (
            "2  it is painted over, in the decoder's own memory:\ncolour says where a pixel is",
            painted,
        ),
        ("3  the next picture, as it should look", frames[2]),
        (
            "4  its packet, decoded over the paint:\neach block brings the colours of where it was",
            over,
        ),
        ("5  read off the colours: how each block moved", frames[2]),
        ("6  luma less the paint's: the residual", colour_map(residual).repeat(8, 0).repeat(8, 1)),
    ]
    figure, axes = pyplot.subplots(3, 2, figsize=(10.4, 11), layout="constrained")
    for axis, (words, pixels) in zip(axes.flat, panels, strict=True):
        axis.imshow(pixels[:HEIGHT, :WIDTH])
        axis.set_title(words, fontsize=12, loc="left")
        axis.set_axis_off()
    axis = axes[2, 0]
    axis.images[0].set_alpha(0.3)
    rows, columns = np.mgrid[0 : field.velocity.shape[0] : 2, 0 : field.velocity.shape[1] : 2]
    velocity = -field.velocity[::2, ::2]  # from where it was to here
    x, y = 8 * columns + 4, 8 * rows + 4
    axis.quiver(
        *(x, y, velocity.real, velocity.imag, np.angle(velocity)),
        angles="xy", scale_units="xy", scale=1, pivot="tip", cmap="hsv", width=0.004,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=72)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURE, help="where the picture is written")
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
