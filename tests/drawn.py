"""Pictures and clips whose classes are known, drawn in a moment: what the clustering tests read."""

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("disc", "stripes")
MOVES = {"right": (1, 0), "left": (-1, 0), "down": (0, 1)}


def picture(colour: str, shape: str, seed: int, size: int = 48) -> Image.Image:
    rng = np.random.default_rng(seed)
    noise = rng.integers(90, 130, (size, size, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    draw = ImageDraw.Draw(image)
    x, y = rng.integers(14, size - 14, 2)
    if shape == "disc":
        draw.ellipse([x - 12, y - 12, x + 12, y + 12], colour)
    else:
        for offset in range(int(x) % 8, size, 8):
            draw.rectangle([offset, 0, offset + 3, size], colour)
    return image


def as_bytes(image: Image.Image, extension: str = "png") -> bytes:
    out = io.BytesIO()
    image.save(out, {"png": "PNG", "jpg": "JPEG"}[extension])
    return out.getvalue()


def clip(colour: str, move: str, seed: int, frames: int = 16, size: int = 64) -> bytes:
    """An H.264 clip: a disc of one colour that crosses a still, textured ground in one direction."""
    rng = np.random.default_rng(seed)
    texture = Image.fromarray(rng.integers(60, 160, (16, 16, 3), dtype=np.uint8)).resize((size, size))
    dx, dy = MOVES[move]
    x, y = size / 2 - dx * 20 + rng.integers(-3, 4), size / 2 - dy * 20 + rng.integers(-3, 4)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "crf": "18", "x264-params": "bframes=0:ref=1:scenecut=0"}
        for t in range(frames):
            image = texture.copy()
            cx, cy = x + dx * t * 2.5, y + dy * t * 2.5
            ImageDraw.Draw(image).ellipse([cx - 7, cy - 7, cx + 7, cy + 7], colour)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode(None))
    return out.getvalue()


def draw_pictures(folder: Path, each: int) -> Path:
    """`each` pictures of every colour and shape, as folder/colour-shape/NN.png."""
    for colour in COLOURS:
        for shape in SHAPES:
            part = folder / f"{colour}-{shape}"
            part.mkdir(parents=True)
            for n in range(each):
                picture(colour, shape, seed=n + 100 * COLOURS.index(colour)).save(part / f"{n:02d}.png")
    return folder


def draw_clips(folder: Path, each: int) -> Path:
    """`each` clips of every direction in every colour, as folder/direction/colour-NN.mp4."""
    for move in MOVES:
        (folder / move).mkdir(parents=True)
        for c, colour in enumerate(COLOURS):
            for n in range(each):
                (folder / move / f"{colour}-{n:02d}.mp4").write_bytes(clip(colour, move, seed=n * 7 + c))
    return folder
