"""What is true of a clip or an image: who is where in each frame, how it moves, what happens when."""

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .backgrounds import ZOOM_ONE, Camera
from .scenes import Event
from .sprites import SUB, Sprite, paint


@dataclass
class Truth:
    """N sprites in T frames of H x W pixels.

    Attributes:
        sprites: N dictionaries with `colour`, `shape`, `texture`, `word` (None but for a text).
        owners: (T, H, W) uint8: n + 1 where sprite n is what one sees, 0 where it is the ground.
        velocity: (N, T, 2) float32, pixels a frame on the screen (x, y) since the frame before; 0 in
            the first. Multiples of 1/16, exact.
        camera: (T, 3) float32, zoom, x, y: a point p of the ground is seen at c + zoom * (p + (x, y) - c), in
            pixels, c being the middle of the picture.
        events: what happens, in the order in which it was planned.
    """

    sprites: list[dict[str, str | None]]
    owners: np.ndarray
    velocity: np.ndarray
    camera: np.ndarray
    events: list[Event]

    @cached_property
    def masks(self) -> np.ndarray:
        """(N, T, H, W) bool: the pixels in which a sprite is seen."""
        numbers = np.arange(1, len(self.sprites) + 1, dtype=np.uint8)
        return np.equal(self.owners[None], numbers[:, None, None, None])

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, T, 4) int16: left, top, right, bottom of what is seen of a sprite, right and bottom excluded;
        four zeros where nothing of it is."""
        height, width = self.owners.shape[1:]
        rows: np.ndarray = np.any(self.masks, axis=3)
        columns: np.ndarray = np.any(self.masks, axis=2)
        left, top = columns.argmax(axis=2), rows.argmax(axis=2)
        right, bottom = width - columns[..., ::-1].argmax(axis=2), height - rows[..., ::-1].argmax(axis=2)
        boxes = np.stack([left, top, right, bottom], axis=-1)
        return np.where(np.any(columns, axis=2, keepdims=True), boxes, 0).astype(np.int16)


def pack_owners(owners: np.ndarray) -> bytes:
    """`Truth.owners` as compressed bytes, for the manifest."""
    return zlib.compress(np.ascontiguousarray(owners).tobytes(), 6)


def unpack_masks(packed: bytes, count: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The masks (N, T, H, W) bool of `count` sprites from a manifest's `masks`; `shape` is (T, H, W).

    Args:
        packed: a manifest's `masks`.
        count: sprites, N.
        shape: (T, H, W).

    Raises:
        ValueError: the bytes are those of another shape.
    """
    owners = np.frombuffer(zlib.decompress(packed), dtype=np.uint8)
    if owners.size != np.prod(shape):
        raise ValueError(f"the masks hold {owners.size} pixels, and {shape} has {np.prod(shape)}")
    numbers = np.arange(1, count + 1, dtype=np.uint8)
    return np.equal(owners.reshape(1, *shape), numbers[:, None, None, None])


def paint_all(frames: np.ndarray, sprites: list[Sprite], camera: Camera, events: list[Event]) -> Truth:
    """Paint the sprites over the ground in `frames` (T, H, W, 3) int16, and say what was painted.

    Args:
        frames: (T, H, W, 3) int16, the ground, painted over.
        sprites: the last on top.
        camera: through which they are seen.
        events: what happens, as planned.
    """
    count, height, width = frames.shape[:3]
    owners = np.zeros((count, height, width), np.uint8)
    velocity = np.zeros((len(sprites), count, 2), np.float32)
    for number, sprite in enumerate(sprites):
        centres, radii = sprite.centres + camera.shift, camera.scaled(sprite.radii)
        turns = np.zeros_like(centres)
        if sprite.wraps:
            # Out of sight by a whole radius on one side, then in again on the other.
            period = np.array([width, height]) * SUB + 2 * int(sprite.radii.max())
            low = -int(sprite.radii.max()) - SUB // 2
            turns = (centres - low) // period * period
            centres = centres - turns
        screen = camera.on_screen(centres, height, width)
        jumps = (camera.zoom[1:, None] * np.diff(turns, axis=0) + ZOOM_ONE // 2) // ZOOM_ONE
        velocity[number, 1:] = (np.diff(screen, axis=0) + jumps) / np.float32(SUB)
        paint(frames, owners, number + 1, sprite, screen, radii)
    pose = np.column_stack([camera.zoom / np.float32(ZOOM_ONE), camera.shift / np.float32(SUB)])
    kinds = [{"colour": s.colour, "shape": s.shape, "texture": s.texture, "word": s.word} for s in sprites]
    return Truth(kinds, owners, velocity, pose.astype(np.float32), events)
