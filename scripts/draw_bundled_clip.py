"""Draw the bundled clip and encode it: four seconds of a valley at dusk, filmed by a hand that pans slowly.

    python scripts/draw_bundled_clip.py                    # writes onevision_hf/assets/valley.mp4
    python scripts/draw_bundled_clip.py --out other.mp4 --seed 1

What moves is known: the ground pans with the camera and shakes a little, a balloon drifts, a tram crosses,
a bird flaps past, the sails of a windmill turn. A badge stays where it is on the screen. The same seed gives
the same pixels. H.264 with two B-pictures between references, so that vectors of all kinds are in it.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HEIGHT, WIDTH, NUM_FRAMES, FPS = 360, 640, 120, 30
MARGIN = 8  # room around the ground for the shake
PAN, TILT = 0.75, 0.25  # pixels a frame: the camera turns right and up
HORIZON, ROAD = 205, 312
SMOOTH = 4  # sprites are drawn this much larger and then reduced
OUT = Path(__file__).parents[1] / "onevision_hf" / "assets" / "valley.mp4"

Colour = tuple[int, int, int]


def noise(rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4) -> np.ndarray:
    """Fractal noise in 0..1: octaves of random grids, each half as coarse and half as strong."""
    total, weight = np.zeros((height, width)), 0.0
    for octave in range(octaves):
        size = max(cell / 2**octave, 1.0)
        grid = rng.random((math.ceil(height / size) + 2, math.ceil(width / size) + 2)).astype(np.float32)
        image = Image.fromarray(grid).resize(
            (math.ceil(grid.shape[1] * size), math.ceil(grid.shape[0] * size)), Image.Resampling.BICUBIC
        )
        total += np.asarray(image)[:height, :width] * 0.5**octave
        weight += 0.5**octave
    return np.clip(total / weight, 0, 1)


def ramp(stops: list[tuple[float, Colour]], at: np.ndarray) -> np.ndarray:
    """Colours between `stops` (position, RGB) at the positions `at`; a last axis of three is added."""
    places = [place for place, _ in stops]
    return np.stack([np.interp(at, places, [colour[c] for _, colour in stops]) for c in range(3)], axis=-1)


def blend(ground: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    ground += (colour - ground) * alpha[..., None]


def ground(rng: np.random.Generator) -> np.ndarray:
    """The painted valley, larger than the picture by what the camera turns over, (H, W, 3)."""
    height = HEIGHT + 2 * MARGIN + math.ceil(TILT * NUM_FRAMES)
    width = WIDTH + 2 * MARGIN + math.ceil(PAN * NUM_FRAMES)
    y, x = np.mgrid[0:height, 0:width].astype(float)
    sky = [(0, (38, 52, 104)), (90, (112, 96, 150)), (160, (236, 150, 122)), (HORIZON, (255, 214, 150))]
    scene = ramp(sky, y)
    sun = np.hypot(x - 0.72 * width, y - 150)
    blend(scene, np.array([255, 232, 178]), 0.85 * np.exp(-((sun / 46) ** 2)))
    blend(scene, np.array([255, 248, 224]), np.clip(21 - sun, 0, 1))
    clouds = noise(rng, height * 3, width, 110, 6)[::3]
    cover = np.clip((clouds - 0.52) * 5, 0, 1) * np.clip(2 - y / 100, 0, 1)
    blend(scene, np.array([255, 196, 176]), 0.75 * cover)

    ridges = [
        (HORIZON - 50, 68, 150, (122, 112, 152), (86, 84, 128)),
        (HORIZON - 14, 40, 90, (86, 98, 116), (56, 76, 88)),
    ]
    for base, relief, cell, lit, dark in ridges:
        line = base + relief * (0.5 - noise(rng, 1, width, cell, 6)[0])
        rock = noise(rng, height, width, 26, 5) + 0.35 * (np.roll(line, 6) - line)[None] / 6
        blend(scene, ramp([(0.25, dark), (0.75, lit)], rock), np.clip(y - line[None], 0, 1))

    edge = HORIZON + 16 * (0.5 - noise(rng, 1, width, 160, 3)[0])
    depth = np.clip((y - HORIZON) / (height - HORIZON), 0, 1)
    grass = ramp([(0.0, (96, 122, 84)), (0.5, (88, 118, 60)), (1.0, (58, 84, 44))], depth)
    patchwork = noise(rng, height * 4, width, 120, 2)[::4]
    grass += 46 * (np.floor(patchwork * 9) / 9 - 0.5)[..., None] * np.array([1.5, 1.0, 0.2])
    grass += (70 * (noise(rng, height, width, 9, 4) - 0.5) * (0.5 + depth))[..., None]
    blend(scene, grass, np.clip(y - edge[None], 0, 1))
    road = np.clip(1.5 - np.abs(y - ROAD - 9) / 7, 0, 1)
    blend(scene, 78 + 40 * noise(rng, height, width, 5, 3)[..., None] * np.ones(3), road)
    for rail in (ROAD + 5, ROAD + 13):
        blend(scene, np.array([168, 160, 158]), np.clip(1.4 - np.abs(y - rail), 0, 1))

    scene += 14 * (noise(rng, height, width, 7, 2) - 0.5)[..., None]  # canvas grain
    picture = Image.fromarray(np.clip(scene, 0, 255).astype(np.uint8))
    plant(picture, rng)
    return np.asarray(picture, dtype=np.float32)


def plant(picture: Image.Image, rng: np.random.Generator) -> None:
    """Trees and houses, small near the horizon and larger in front, painted from back to front."""
    spots = sorted(HORIZON + 12 + (ROAD - HORIZON - 30) * rng.random(70) ** 1.4)
    for foot in spots:
        size = int(7 + 30 * (foot - HORIZON) / (ROAD - HORIZON))
        left = int(rng.integers(0, picture.width - size))
        draw_one = house if rng.random() < 0.16 else tree
        sprite = draw_one(size, rng)
        picture.paste(sprite, (left, int(foot) - sprite.height), sprite)
    for _ in range(26):
        sprite = tree(int(rng.integers(34, 50)), rng)
        top = picture.height - int(rng.integers(8, 34))
        picture.paste(sprite, (int(rng.integers(-20, picture.width)), top), sprite)


def canvas(height: float, width: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGBA", (round(width * SMOOTH), round(height * SMOOTH)))
    return image, ImageDraw.Draw(image)


def reduced(image: Image.Image) -> Image.Image:
    return image.resize((image.width // SMOOTH, image.height // SMOOTH), Image.Resampling.LANCZOS)


def tree(size: int, rng: np.random.Generator) -> Image.Image:
    image, draw = canvas(1.5 * size, size)
    shade = int(rng.integers(-14, 15))
    width, height = image.size
    draw.rectangle((0.45 * width, 0.8 * height, 0.55 * width, height), (74, 56, 46))
    for level in range(4):
        top, bottom, half = 0.19 * level, 0.19 * level + 0.34, 0.2 + 0.1 * level
        left, right = (0.5 - half) * width, (0.5 + half) * width
        draw.polygon(
            [(left, bottom * height), (0.5 * width, top * height), (right, bottom * height)],
            (34 + shade, 62 + shade, 50 + shade // 2),
        )
        draw.polygon(
            [(0.5 * width, top * height), (right, bottom * height), (0.62 * width, bottom * height)],
            (66 + shade, 92 + shade, 56 + shade // 2),
        )
    return reduced(image)


def house(size: int, rng: np.random.Generator) -> Image.Image:
    image, draw = canvas(size, 1.3 * size)
    width, height = image.size
    roof = [(150, 74, 58), (124, 66, 70), (104, 84, 92)][int(rng.integers(3))]
    draw.rectangle((0.1 * width, 0.45 * height, 0.9 * width, height), (226, 206, 182))
    eaves, ridge = 0.5 * height, 0.08 * height
    draw.polygon([(0, eaves), (0.25 * width, ridge), (0.75 * width, ridge), (width, eaves)], roof)
    for left in (0.22, 0.44, 0.66):
        draw.rectangle((left * width, 0.6 * height, (left + 0.13) * width, 0.82 * height), (255, 206, 116))
    return reduced(image)


def windmill(angle: float) -> Image.Image:
    """A stone mill whose four sails stand at `angle` radians; the hub is at (50, 50) of 100 x 130."""
    image, draw = canvas(130, 100)
    s = SMOOTH
    draw.polygon([(36 * s, 130 * s), (42 * s, 48 * s), (58 * s, 48 * s), (64 * s, 130 * s)], (222, 204, 186))
    draw.polygon([(52 * s, 130 * s), (50 * s, 48 * s), (58 * s, 48 * s), (64 * s, 130 * s)], (186, 162, 158))
    draw.polygon([(39 * s, 50 * s), (50 * s, 34 * s), (61 * s, 50 * s)], (118, 62, 62))
    for top in (68, 92):
        draw.rectangle((47 * s, top * s, 53 * s, (top + 9) * s), (88, 74, 86))
    for quarter in range(4):
        along = np.array([math.cos(angle + quarter * math.pi / 2), math.sin(angle + quarter * math.pi / 2)])
        across = np.array([-along[1], along[0]])
        hub = np.array([50.0, 50.0])
        sail = [
            hub + 9 * along,
            hub + 46 * along,
            hub + 46 * along + 11 * across,
            hub + 9 * along + 11 * across,
        ]
        draw.polygon([tuple(s * corner) for corner in sail], (250, 240, 224), (120, 92, 80), s)
        for rib in range(1, 5):
            start = hub + (9 + 37 * rib / 5) * along
            draw.line([tuple(s * start), tuple(s * (start + 11 * across))], (150, 118, 100), s)
        draw.line([tuple(s * hub), tuple(s * (hub + 47 * along))], (98, 72, 62), 2 * s)
    draw.ellipse((46 * s, 46 * s, 54 * s, 54 * s), (98, 72, 62))
    return reduced(image)


def balloon() -> Image.Image:
    """A striped hot-air balloon of 96 x 132 with its basket."""
    image, draw = canvas(132, 96)
    s, stripes = SMOOTH, [(214, 64, 62), (250, 216, 130), (64, 116, 158)]
    v = np.linspace(0, 1, 60)
    crown = np.sqrt(np.clip(1 - ((v - 0.42) / 0.42) ** 2, 0, 1))
    bulge = np.where(v < 0.42, crown, np.cos((v - 0.42) * 2.14) ** 1.15)
    for gore in range(12):
        left, right = -np.cos(np.pi * gore / 12), -np.cos(np.pi * (gore + 1) / 12)
        outline = [(48 + 46 * left * b, 2 + 100 * h) for b, h in zip(bulge, v, strict=True)]
        outline += [(48 + 46 * right * b, 2 + 100 * h) for b, h in zip(bulge[::-1], v[::-1], strict=True)]
        light = 0.72 + 0.36 * math.sin(math.pi * (gore + 1.5) / 14)
        colour = tuple(min(255, round(light * c)) for c in stripes[gore % 3])
        draw.polygon([(s * x, s * y) for x, y in outline], colour)
    for x in (40, 56):
        draw.line((s * x, s * 100, s * (43 if x < 48 else 53), s * 117), (92, 70, 60), s)
    draw.rounded_rectangle((s * 41, s * 116, s * 55, s * 129), 3 * s, (136, 92, 58), (92, 60, 44), s)
    return reduced(image)


def tram(roll: float) -> Image.Image:
    """A red tram of 210 x 62 whose wheels have turned by `roll` radians."""
    image, draw = canvas(62, 210)
    s = SMOOTH
    draw.line((s * 80, s * 3, s * 100, s * 12, s * 120, s * 3), (60, 56, 66), 2 * s)
    draw.rounded_rectangle((s * 2, s * 11, s * 208, s * 52), 8 * s, (188, 44, 48))
    draw.rectangle((s * 2, s * 36, s * 208, s * 40), (246, 226, 192))
    for left in range(10, 196, 24):
        draw.rounded_rectangle(
            (s * left, s * 16, s * (left + 18), s * 33), 2 * s, (255, 226, 150), (92, 30, 34), s
        )
    for centre in (36, 62, 148, 174):
        draw.ellipse((s * (centre - 9), s * 43, s * (centre + 9), s * 61), (52, 48, 56))
        for spoke in range(3):
            angle = roll + spoke * math.pi / 3
            dx, dy = 8 * math.cos(angle), 8 * math.sin(angle)
            draw.line(
                (s * (centre - dx), s * (52 - dy), s * (centre + dx), s * (52 + dy)), (168, 160, 160), 2 * s
            )
    return reduced(image)


def bird(flap: float) -> Image.Image:
    """A gull of 64 x 44, its wings raised by `flap` in -1..1."""
    image, draw = canvas(44, 64)
    s, tip = SMOOTH, 22 - 18 * flap
    for side in (-1, 1):
        front, back = (32 + 15 * side, 16 - 8 * flap), (32 + 14 * side, 23 - 5 * flap)
        wing = [(32, 20), front, (32 + 31 * side, tip), back, (32, 26)]
        draw.polygon([(s * x, s * y) for x, y in wing], (246, 246, 250) if side < 0 else (210, 214, 228))
    draw.ellipse((s * 25, s * 18, s * 42, s * 28), (236, 238, 244))
    draw.polygon([(s * 41, s * 21), (s * 48, s * 24), (s * 41, s * 26)], (240, 168, 66))
    return reduced(image)


def badge() -> Image.Image:
    """What stands still on the screen: the name, in the upper left corner."""
    image = Image.new("RGBA", (92, 26))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, 91, 25), 8, (20, 22, 34, 190))
    draw.ellipse((9, 9, 16, 16), (236, 84, 76, 255))
    draw.text((23, 13), "onevision", (246, 240, 232, 255), ImageFont.load_default(13), anchor="lm")
    return image


def place(picture: Image.Image, sprite: Image.Image, left: float, top: float) -> None:
    """Paste at a fraction of a pixel: the sprite is shifted by the remainder (bilinear) first."""
    x, y = math.floor(left), math.floor(top)
    padded = Image.new("RGBA", (sprite.width + 1, sprite.height + 1))
    padded.paste(sprite, (0, 0))
    shift = (1, 0, x - left, 0, 1, y - top)
    moved = padded.transform(padded.size, Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR)
    picture.paste(moved, (x, y), moved)


def window(scene: np.ndarray, left: float, top: float) -> np.ndarray:
    """The part of the ground that the camera sees, at a fraction of a pixel."""
    x, y = math.floor(left), math.floor(top)
    dx, dy = left - x, top - y
    part = scene[y : y + HEIGHT + 1, x : x + WIDTH + 1]
    part = part[:-1] * (1 - dy) + part[1:] * dy
    return part[:, :-1] * (1 - dx) + part[:, 1:] * dx


def draw_frames(seed: int = 0, num_frames: int = NUM_FRAMES) -> Iterator[np.ndarray]:
    """Yield the pictures (360, 640, 3) uint8, one by one."""
    rng = np.random.default_rng(seed)
    scene, drifting, still = ground(rng), balloon(), badge()
    vignette = Image.new("L", (WIDTH, HEIGHT), 150)
    ImageDraw.Draw(vignette).ellipse((-90, -90, WIDTH + 90, HEIGHT + 90), 255)
    vignette_HW1 = (
        np.asarray(vignette.filter(ImageFilter.GaussianBlur(70)), dtype=np.float32)[..., None] / 255
    )
    phases = rng.random(4) * 2 * math.pi
    for t in range(num_frames):
        shake_x = 0.8 * math.sin(0.07 * t + phases[0]) + 0.1 * math.sin(0.31 * t + phases[1])
        shake_y = 0.8 * math.sin(0.06 * t + phases[2]) + 0.1 * math.sin(0.27 * t + phases[3])
        left, top = MARGIN + PAN * t + shake_x, MARGIN + TILT * (NUM_FRAMES - t) + shake_y
        picture = Image.fromarray(window(scene, left, top).astype(np.uint8))
        place(picture, windmill(0.035 * t), 486 - left, 176 - top)
        place(picture, drifting, 150 + 0.8 * t - shake_x, 108 - 0.8 * t - shake_y + 3 * math.sin(0.06 * t))
        place(picture, tram(-0.69 * t), 596 - 6.2 * t - shake_x, ROAD - 47 - top)
        place(picture, bird(math.sin(0.5 * t)), -50 + 5.4 * t, 120 + 26 * math.sin(0.07 * t))
        lit = np.asarray(picture, dtype=np.float32) * vignette_HW1
        picture = Image.fromarray(lit.astype(np.uint8))
        picture.paste(still, (14, 14), still)
        yield np.asarray(picture)


def encode(path: Path, frames: Iterator[np.ndarray]) -> None:
    """H.264 in mp4, a keyframe every two seconds.

    x264's macroblock tree is off: with AVX-512 it gives another file now and then.
    """
    settings = {"preset": "slow", "crf": "24", "mbtree": "0", "profile": "high", "x264-params": "b-adapt=0"}
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=FPS, options=settings)
        context = stream.codec_context
        context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context.gop_size, context.max_b_frames, context.thread_count = 2 * FPS, 2, 1
        for t, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = t
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=OUT, help="where the clip goes (default: the package's assets)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed is another valley")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    encode(args.out, draw_frames(args.seed))
    print(f"{args.out}: {NUM_FRAMES} frames of {WIDTH} x {HEIGHT}, {args.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
