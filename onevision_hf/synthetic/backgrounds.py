"""The ground and the camera: waves and smooth noise, larger than the picture, through a moving window.

A point of the world w is seen at `c + zoom * (w + shift - c)`, with c the middle of the picture; `Camera`
holds zoom and shift of each frame. Sixteenths of a pixel, zoom in 1/1024.
"""

from dataclasses import dataclass

import numpy as np

from .families import DIRECTIONS
from .rng import SINE_ONE, StableRNG, sine
from .sprites import SUB

ZOOM_ONE = 1024
GAIN_ONE = 64
_AXES = {"upright": (256, 0), "level": (0, 256), "rising": (181, 181), "falling": (181, -181)}


@dataclass
class Camera:
    """Where the camera looks in each of T frames, and what it does to light.

    Attributes:
        shift: (T, 2) int64, how far the world is moved on the screen, sixteenths of a pixel (x, y).
        zoom: (T,) int64, 1024 or more.
        gain: (T,) int64, brightness in 1/64.
        grain: the noise of each pixel has a standard deviation of 1.41 times this.
    """

    shift: np.ndarray
    zoom: np.ndarray
    gain: np.ndarray
    grain: int = 1

    def on_screen(self, centres: np.ndarray, height: int, width: int) -> np.ndarray:
        """World (T, 2), already shifted, to screen (T, 2).

        Args:
            centres: (T, 2) in the world, already shifted, sixteenths of a pixel.
            height: of the picture, pixels.
            width: of the picture, pixels.
        """
        middle = np.array([(width - 1) * SUB // 2, (height - 1) * SUB // 2])
        return middle + (self.zoom[:, None] * (centres - middle) + ZOOM_ONE // 2) // ZOOM_ONE

    def scaled(self, lengths: np.ndarray) -> np.ndarray:
        return (self.zoom * lengths + ZOOM_ONE // 2) // ZOOM_ONE


def make_camera(rng: StableRNG, background: str, num_frames: int, unit: int, sweeps: int = 1) -> Camera:
    """A camera that pans, zooms or shakes, a light that flickers, a sensor that is noisy, or none of these.

    Args:
        rng: where chance comes from.
        background: one of `BACKGROUNDS`.
        num_frames: of the clip.
        unit: a 64th of the picture in sixteenths of a pixel: a pan covers 16 units, a shake is one.
        sweeps: how often a pan or a zoom goes its way, there and back in turns.
    """
    last = max(num_frames - 1, 1)
    sweep, t = np.divmod(sweeps * np.arange(num_frames), last)
    t = np.where(sweep % 2, last - t, t)
    camera = Camera(
        np.zeros((num_frames, 2), np.int64), np.full(num_frames, ZOOM_ONE), np.full(num_frames, GAIN_ONE)
    )
    if background == "pan":
        step = np.array(rng.pick(tuple(DIRECTIONS.values())))
        camera.shift = (16 * unit * step * (2 * t - last)[:, None]) // (2 * 256 * last)
    elif background == "zoom":
        way = t if rng.below(2) else last - t
        camera.zoom = ZOOM_ONE + way * 256 // last
    elif background == "shake":
        camera.shift = (rng.below_all(3, (num_frames, 2)) - 1) * unit
    elif background == "flicker":
        camera.gain = GAIN_ONE - 9 + rng.below_all(19, (num_frames,))
    elif background == "noise":
        camera.grain = 4
    elif background != "static":
        raise ValueError(f"no background is called {background!r}")
    return camera


def make_ground(
    rng: StableRNG, orientation: str, height: int, width: int, unit: int, contrast: int = 18
) -> np.ndarray:
    """Waves that run in one of four orientations, over smooth noise and a tint: (H, W, 3) int16, 0..255.

    Args:
        rng: where chance comes from.
        orientation: one of `ORIENTATIONS`.
        height: pixels.
        width: pixels.
        unit: a 64th of the picture in sixteenths of a pixel.
        contrast: of the waves, levels of 255.
    """
    tint = [rng.between(96, 138) for _ in range(3)]
    period = rng.between(8, 12) * unit * 256
    phase = rng.below(5760)
    ax, ay = _AXES[orientation]
    x, y = np.arange(width, dtype=np.int64), np.arange(height, dtype=np.int64)
    along = (ax * x[None, :] + ay * y[:, None]) * SUB
    wave = sine(along * 5760 // period + phase) * contrast // SINE_ONE
    noise = _smooth_noise(rng, height, width, max(unit * 7 // SUB, 2)) * 44 // 256 - 22
    shades = [wave + noise + tint[c] + (c - 1) * noise // 4 for c in range(3)]
    return np.stack(shades, axis=-1).astype(np.int16)


def fine_lines(orientation: str, height: int, width: int, strength: int) -> np.ndarray:
    """Thin lines, four pixels apart, to be added to a ground: (H, W, 1) int16.

    Args:
        orientation: one of `ORIENTATIONS`.
        height: pixels.
        width: pixels.
        strength: levels of 255, up and down.
    """
    x, y = np.arange(width)[None, :], np.arange(height)[:, None]
    along = {"upright": x + 0 * y, "level": y + 0 * x, "rising": x + y, "falling": x - y}[orientation]
    return np.where(along % 4 < 2, strength, -strength).astype(np.int16)[..., None]


def reach(unit: int) -> int:
    """Pixels that a world reaches beyond the picture: a pan goes eight units to a side, a shake one."""
    return -(-9 * unit // SUB) + 2


def view(world: np.ndarray, camera: Camera, height: int, width: int, margin: int) -> np.ndarray:
    """What the camera sees of a world that reaches `margin` pixels beyond the picture: (T, H, W, 3) int16.

    Args:
        world: (H + 2 margin, W + 2 margin, 3) int16.
        camera: of T frames.
        height: of the picture, pixels.
        width: of the picture, pixels.
        margin: pixels that the world reaches beyond the picture.
    """
    num_frames = len(camera.zoom)
    states = np.column_stack([camera.shift, camera.zoom])
    frames = np.empty((num_frames, height, width, 3), np.int16)
    if (states == states[0]).all():
        frames[:] = _window(world, states[0].tolist(), height, width, margin)
    else:
        for t, state in enumerate(states.tolist()):
            frames[t] = _window(world, state, height, width, margin)
    return frames


def _window(world: np.ndarray, state: list[int], height: int, width: int, margin: int) -> np.ndarray:
    shift_x, shift_y, zoom = state
    rows, row_rest = _sources(height, shift_y, zoom, margin)
    columns, column_rest = _sources(width, shift_x, zoom, margin)
    a, b = world[rows], world[rows + 1]
    tall = a * (SUB - row_rest)[:, None, None] + b * row_rest[:, None, None]  # at most 16 * 255
    left, right = tall[:, columns], tall[:, columns + 1]
    # Halved so that sixteen times sixteen times 255 fits into sixteen bits.
    both = (left >> 1) * (SUB - column_rest)[:, None] + (right >> 1) * column_rest[:, None]
    return (both + SUB * SUB // 4) >> 7


def _sources(length: int, shift: int, zoom: int, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a side, the pixel of the world at or before it, and the sixteenths beyond."""
    middle = (length - 1) * SUB // 2
    screen = np.arange(length, dtype=np.int64) * SUB
    source = middle + ((screen - middle) * ZOOM_ONE) // zoom - shift + margin * SUB
    return source // SUB, (source % SUB).astype(np.int16)


def _smooth_noise(rng: StableRNG, height: int, width: int, cell: int) -> np.ndarray:
    """Random values on a lattice of `cell` pixels, interpolated: (H, W) int64, 0..255."""
    lattice = rng.below_all(256, (height // cell + 2, width // cell + 2))
    y, x = np.arange(height), np.arange(width)
    dy, dx = (y % cell)[:, None], (x % cell)[None, :]
    rows = lattice[y // cell] * (cell - dy) + lattice[y // cell + 1] * dy
    return (rows[:, x // cell] * (cell - dx) + rows[:, x // cell + 1] * dx) // (cell * cell)
