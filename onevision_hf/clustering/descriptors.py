"""Label-free descriptors: colour, edges and motion as histograms, from pixels and the codec's motion vectors
alone.

They need no weights, so they can start a training that has no extractor: cluster them, train, cluster the
encoder's own features. Two parts, usable as a head each:

- `object`: what is seen. A picture: colours and edge directions. A video: those of the patches that the codec
  spends itself on, by how much their colours exceed the whole clip's, so that it tells what moves, and the
  silhouette of what has those colours.
- `motion`: how it moves. Directions and speeds of the motion vectors over time and over the picture, the
  camera's, and where the energy of vectors and residual travels.

Histogram counts are square-rooted (Hellinger), so that their inner product is a similarity of distributions.
"""

import math

import numpy as np

from ..data.items import MediaError
from ..modeling.codec_signals import VECTOR_CODECS, vectors
from ..modeling.decoded_frame import DecodedFrame
from ..modeling.frame_geometry import FrameGeometry
from ..modeling.frame_sampling import sample_frame_ids
from ..modeling.patch_selection import top_patches
from ..modeling.signal_energy import frame_energies
from ..modeling.signal_settings import SignalSettings
from ..modeling.video_reader import VideoReader

PARTS = ("object", "motion")
SIDE = 64  # the shorter side that pictures and frames are brought to
CELL = 4  # pixels a side of a cell of the grid of kept patches, so 16 cells
COLOUR_LEVELS = 4  # a channel
ORIENTATIONS = 8
EDGE_GRID = 4
DIRECTIONS = 8
TIME_BINS, SPACE_BINS = 4, 2
# Speeds in shares of the shorter side a frame; the first is where movement begins.
SPEED_EDGES = (0.005, 0.02, 0.06)
KEPT_SHARE = 0.05  # of the clip's patches: what `object` looks at
LOOKS = 32  # frames of a clip whose colours are looked at, at most
WINDOW = 24  # pixels a side around what moves
SIGNALS = SignalSettings(camera="median")  # those of the clusters that onevision-tiny was trained on
TRAVEL_CELL = 8  # pixels a side of the grid on which energy travels
TRAVEL_TIMES = (1 / 16, 1 / 8, 1 / 4, 3 / 8)  # of the clip
TRAVEL_REACH = 2  # cells
STILL = 0.1  # weight of the component that clips without any movement have in common


def describe_picture(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, of any size -> (192,) float32: 64 colours, 8 edge directions in each of 4 x 4
    fields."""
    weight = np.ones(rgb.shape[:2], np.float32)
    return np.concatenate([np.sqrt(_colours(rgb, weight)), 0.7 * np.sqrt(_edges(rgb, weight, EDGE_GRID))])


def describe_video(reader: VideoReader, parts: tuple[str, ...] = PARTS, num_frames: int = 64) -> np.ndarray:
    """Descriptor of a clip: `object` (280,) float32, `motion` (265,) float32, or both in this order.

    Args:
        reader: the opened clip.
        parts: `object`, `motion`, or both.
        num_frames: sampled uniformly; short events need many.

    Raises:
        MediaError: `motion` of a stream whose decoder exports no vectors. VideoReadError: it cannot be
        decoded.
    """
    frame_ids = sample_frame_ids(len(reader), num_frames)
    described = []
    if "object" in parts:
        described.append(_moving_objects(reader, frame_ids))
    if "motion" in parts:
        described.append(_motion(reader, frame_ids))
    # Each part of length one, so that neither drowns the other.
    return np.concatenate([part / np.linalg.norm(part) for part in described])


def _levels(rgb: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 -> which of 64 colours."""
    levels = rgb.astype(np.int64) * COLOUR_LEVELS >> 8
    return (levels[..., 0] * COLOUR_LEVELS + levels[..., 1]) * COLOUR_LEVELS + levels[..., 2]


def _colours(rgb: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(64,) shares of the colours, weighted by (H, W)."""
    counts = np.bincount(_levels(rgb).ravel(), weight.ravel(), COLOUR_LEVELS**3)
    return (counts / max(float(weight.sum()), 1e-9)).astype(np.float32)


def _edges(rgb: np.ndarray, weight: np.ndarray, grid: int) -> np.ndarray:
    """(grid * grid * 8,) shares of the edge strength by direction, which is blind to which side is
    brighter."""
    luma = rgb.astype(np.float32).mean(-1)
    down, right = np.gradient(luma) if min(luma.shape) > 1 else (np.zeros_like(luma), np.zeros_like(luma))
    strength = np.hypot(down, right) * weight
    direction = (np.arctan2(down, right) % math.pi * (ORIENTATIONS / math.pi)).astype(np.int64) % ORIENTATIONS
    rows = np.arange(luma.shape[0])[:, None] * grid // luma.shape[0]
    columns = np.arange(luma.shape[1])[None] * grid // luma.shape[1]
    index = (rows * grid + columns) * ORIENTATIONS + direction
    counts = np.bincount(index.ravel(), strength.ravel(), grid * grid * ORIENTATIONS)
    return (counts / max(float(strength.sum()), 1e-9)).astype(np.float32)


def _moving_objects(reader: VideoReader, frame_ids: np.ndarray) -> np.ndarray:
    """(280,): colours of the clip, colours that its kept patches have more of, edge directions in those, and
    the mean silhouette of what has those colours."""
    geometry = FrameGeometry.fit(reader.height, reader.width, SIDE, CELL)
    energy, *_ = frame_energies(reader, frame_ids, geometry, SIGNALS)
    kept = np.zeros(energy.shape, np.float32)
    budget = max(1, round(KEPT_SHARE * energy.size))
    positions = top_patches(energy, budget, anchors=())
    kept[tuple(positions.T)] = energy[tuple(positions.T)]
    looked_at = np.arange(0, len(frame_ids), -(-len(frame_ids) // LOOKS))
    kept = kept[looked_at]
    if not kept.any():  # what moves, moves between the frames that are looked at
        kept = energy[looked_at] + np.float32(1e-9)
    size = (geometry.resized_width, geometry.resized_height)
    clip = np.stack([frame.rgb(*size) for frame in reader.frames(frame_ids[looked_at])])
    weight = kept.repeat(CELL, 1).repeat(CELL, 2)
    levels = _levels(clip)
    every = np.bincount(levels.ravel(), minlength=COLOUR_LEVELS**3) / levels.size
    moving = np.bincount(levels.ravel(), weight.ravel(), COLOUR_LEVELS**3) / weight.sum()
    excess = np.maximum(moving - every, 0)
    edges = np.zeros(ORIENTATIONS)
    for rgb, frame_weight in zip(clip, weight, strict=True):
        if frame_weight.any():
            edges += _edges(rgb, frame_weight, 1) * (frame_weight.sum() / weight.sum())
    # How much more of a colour what moves has than the clip; 3 times as much is as good as certain.
    likeness = np.minimum(excess / (every + 0.01), 3)[levels]
    parts = [0.2 * np.sqrt(every), np.sqrt(excess), 0.2 * np.sqrt(edges), 1.6 * _silhouette(likeness)]
    return np.concatenate(parts).astype(np.float32)


def _silhouette(likeness: np.ndarray) -> np.ndarray:
    """(144,) of length one, or zeros: the mean of (T, H, W) around its densest place in each picture, shifted
    there to its own middle, in 12 x 12 fields of 2 x 2 pixels."""
    half, reach = WINDOW // 2, WINDOW // 3
    padded = np.pad(likeness, ((0, 0), (half, half), (half, half)))
    sums = np.pad(padded.cumsum(1).cumsum(2), ((0, 0), (1, 0), (1, 0)))
    height, width = likeness.shape[1:]
    low, high = half - reach, half + reach + 1
    dense = (
        sums[:, high : high + height, high : high + width]
        - sums[:, low : low + height, high : high + width]
        - sums[:, high : high + height, low : low + width]
        + sums[:, low : low + height, low : low + width]
    )
    at = np.arange(WINDOW) - half
    mean, seen = np.zeros((WINDOW, WINDOW)), 0
    for picture, density in zip(padded, dense, strict=True):
        y, x = np.unravel_index(density.argmax(), density.shape)
        if not (reach < y < height - reach and reach < x < width - reach):
            continue  # cut off by the border
        window = picture[y : y + WINDOW, x : x + WINDOW]
        mass = window.sum()
        if mass <= 0:
            continue
        y += round(float((window.sum(1) * at).sum() / mass))
        x += round(float((window.sum(0) * at).sum() / mass))
        window = picture[max(0, y) : y + WINDOW, max(0, x) : x + WINDOW]
        if window.shape == mean.shape:
            mean, seen = mean + window, seen + 1
    fields = mean.reshape(WINDOW // 2, 2, WINDOW // 2, 2).mean((1, 3)).ravel()
    return fields / max(float(np.linalg.norm(fields)), 1e-9) if seen else fields


def _motion(reader: VideoReader, frame_ids: np.ndarray) -> np.ndarray:
    """(265,): directions and speeds in 4 parts of the clip, directions in 2 x 2 fields, the camera, where
    the energy travels, stillness."""
    timed = np.zeros((TIME_BINS, len(SPEED_EDGES), DIRECTIONS), np.float64)
    placed = np.zeros((SPACE_BINS, SPACE_BINS, DIRECTIONS), np.float64)
    camera = np.zeros((TIME_BINS, DIRECTIONS + 1), np.float64)
    vectors_seen = False
    for order, frame in enumerate(reader.frames(frame_ids, motion_vectors=True)):
        moved = _displacement(frame)
        if moved is None:
            continue
        vectors_seen = True
        when = order * TIME_BINS // len(frame_ids)
        moved /= min(frame.av_frame.height, frame.av_frame.width)
        pan = np.median(moved.reshape(-1, 2), axis=0)
        pan_speed = float(np.hypot(*pan))
        camera[when, _direction(pan) if pan_speed >= SPEED_EDGES[0] else DIRECTIONS] += 1
        moved -= pan
        speed = np.hypot(moved[..., 0], moved[..., 1])
        rows, columns = np.nonzero(speed >= SPEED_EDGES[0])
        if len(rows) == 0:
            continue
        direction = _direction(moved[rows, columns])
        faster = np.digitize(speed[rows, columns], SPEED_EDGES) - 1
        np.add.at(timed[when], (faster, direction), 1)
        height, width = speed.shape
        np.add.at(placed, (rows * SPACE_BINS // height, columns * SPACE_BINS // width, direction), 1)
    if not vectors_seen:
        if reader.codec in VECTOR_CODECS:
            found = "one picture" if len(reader) == 1 else "only pictures that refer to no other"
            raise MediaError(f"it has {found}, and so no motion vectors: use descriptors:object")
        raise MediaError(
            f"its {reader.codec} stream exports no motion vectors: "
            "use descriptors:object, or transcode it to H.264"
        )
    parts = [np.sqrt(counts / max(counts.sum(), 1)).ravel() for counts in (timed, placed, camera)]
    geometry = FrameGeometry.fit(reader.height, reader.width, SIDE, TRAVEL_CELL)
    parts.append(_travel(frame_energies(reader, frame_ids, geometry)[0]))
    scale = (0.5, 0.35, 0.2, 1.0)
    weighted = [s * part for s, part in zip(scale, parts, strict=True)]
    return np.concatenate([*weighted, [STILL]]).astype(np.float32)


def _travel(energy: np.ndarray) -> np.ndarray:
    """(100,) of length one, or zeros: how well the energy (T, rows, columns) fits itself some time later and
    some cells away.

    Vectors of slow things are mostly zero, whole pixels a frame; over a sixteenth to three eighths of a clip
    they move by cells, and where their energy went says which way and how fast.
    """
    frames, rows, columns = energy.shape
    # What every sampled frame has (a flickering corner, the camera) travels nowhere.
    energy = energy - energy.mean(0)
    found = []
    for part in TRAVEL_TIMES:
        later = max(1, round(part * frames))
        first, second = energy[:-later], energy[later:]
        for down in range(-TRAVEL_REACH, TRAVEL_REACH + 1):
            for right in range(-TRAVEL_REACH, TRAVEL_REACH + 1):
                here = first[:, max(0, -down) : rows - max(0, down), max(0, -right) : columns - max(0, right)]
                there = second[:, max(0, down) : rows + min(0, down), max(0, right) : columns + min(0, right)]
                found.append(float((here * there).mean()) if here.size else 0.0)
    fits = np.array(found)
    return fits / max(float(np.linalg.norm(fits)), 1e-9)


def _displacement(frame: DecodedFrame) -> np.ndarray | None:
    """(rows, columns, 2) [x, y] pixels that each block moved, as displayed; None for a picture without
    vectors."""
    records = frame.motion_vectors
    if records is None or not len(records):
        return None
    height, width = frame.av_frame.height, frame.av_frame.width
    # From the block to its reference: against the motion for a past one, along it for a future one.
    moved = -vectors(records, height, width, whole_pixels=True)
    if (records["source"] > 0).any():
        future = vectors(records, height, width, reference="future", whole_pixels=True)
        moved = np.where(np.isnan(moved), future, moved)
    moved = frame.turned(np.nan_to_num(moved, nan=0.0))
    if frame.mirrored:
        moved = moved * np.array([-1, 1], np.float32)
    for _ in range(frame.rotation // 90 % 4):  # a quarter turn counter-clockwise: right becomes up
        moved = np.stack([moved[..., 1], -moved[..., 0]], -1)
    return moved


def _direction(vectors: np.ndarray) -> np.ndarray:
    """(..., 2) -> sector 0..7, the first centred on the right."""
    angle = np.arctan2(vectors[..., 1], vectors[..., 0])
    return np.round(angle * (DIRECTIONS / (2 * math.pi))).astype(np.int64) % DIRECTIONS
