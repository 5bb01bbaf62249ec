"""What a codec says about each block of a picture, as plain arrays.

A video encoder has already found out where things move (motion vectors) and where a picture cannot be
predicted from the others (the residual). Each function here gives one such signal of one picture on the
stream's own grid, in stored orientation; `frame_energies` brings them together on the patch grid, a map a
sampled frame.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from .frame_geometry import FrameGeometry
from .frame_sequence import FrameSequence
from .video_reader import DecodedFrame, VideoReader, turn

BLOCK = 4  # the grid of motion vectors, in pixels: the smallest block of H.264
# Decoders of stock FFmpeg that export motion vectors.
VECTOR_CODECS = (
    "h264",
    "mpeg4",
    "mpeg1video",
    "mpeg2video",
    "h263",
    "flv1",
    "msmpeg4v2",
    "msmpeg4v3",
    "wmv1",
    "wmv2",
)
# A residual of this many grey levels or less is coding noise.
DEAD_ZONE = 2
RESIDUAL_WEIGHT = 0.5


def motion_field(
    records: np.ndarray | None, height: int, width: int, *, future: bool = False, whole_pixels: bool = False
) -> np.ndarray:
    """Motion vectors of one picture on the grid of 4 x 4 blocks.

    Args:
        records: FFmpeg's motion vector records (`DecodedFrame.motion_vectors`), or None.
        height, width: of the stored picture, in pixels.
        future: the vectors to the following reference instead of those to the preceding one.
        whole_pixels: FFmpeg's rounded `src - dst` instead of `motion / motion_scale`. The published pipeline
            reads these; the rounding is a dead zone for noise below a pixel.

    Returns:
        (ceil(height / 4), ceil(width / 4), 2) float32 [x, y], pixels from the block to its reference; NaN
        where a block is intra coded or has no vector of that direction.
    """
    field = np.full((-(-height // BLOCK), -(-width // BLOCK), 2), np.nan, np.float32)
    if records is None or not len(records):
        return field
    records = records[records["source"] > 0 if future else records["source"] < 0]
    if whole_pixels:
        vectors = np.stack([records["src_x"] - records["dst_x"], records["src_y"] - records["dst_y"]], -1)
    else:
        scale = np.maximum(records["motion_scale"], 1)[:, None]
        vectors = np.stack([records["motion_x"], records["motion_y"]], -1) / scale
    # `dst` is the middle of a block. Blocks of one shape are written together, one 4 x 4 cell at a time.
    shapes = records["h"].astype(np.int64) << 8 | records["w"]
    for shape in np.unique(shapes):
        block_height, block_width = int(shape) >> 8, int(shape) & 255
        here = shapes == shape
        top = (records["dst_y"][here].astype(np.int64) - block_height // 2) // BLOCK
        left = (records["dst_x"][here].astype(np.int64) - block_width // 2) // BLOCK
        for down in range(max(1, block_height // BLOCK)):
            for right in range(max(1, block_width // BLOCK)):
                y, x = top + down, left + right
                inside = (y >= 0) & (y < field.shape[0]) & (x >= 0) & (x < field.shape[1])
                field[y[inside], x[inside]] = vectors[here][inside]
    return field


def vector_energy(field: np.ndarray) -> np.ndarray:
    """How much each block moves against the camera: the length of its vector less the median vector.

    (rows, columns, 2), NaN (no vector) counting as no motion -> (rows, columns) float32, pixels.
    """
    field = np.nan_to_num(field, nan=0.0)
    field = field - np.median(field.reshape(-1, 2), axis=0)
    return np.hypot(field[..., 0], field[..., 1]).astype(np.float32)


def compensated_residual(
    luma: np.ndarray, records: np.ndarray | None, past: np.ndarray | None, future: np.ndarray | None
) -> np.ndarray:
    """Estimate of the residual: the picture less its motion-compensated prediction.

    Args:
        luma: (H, W) uint8, the picture.
        records: its motion vector records.
        past, future: (H, W) uint8, the I or P pictures shown before and after it (None: there is none).

    Returns:
        (ceil(H / 4), ceil(W / 4)) float32, mean grey levels over the dead zone of each 4 x 4 block, >= 0.
        Where both directions exist their predictions are averaged; blocks without a vector are 0.
    """
    height, width = luma.shape
    total = np.zeros((height, width), np.int16)
    count = np.zeros((height, width), np.int16)
    for reference, is_future in ((past, False), (future, True)):
        if reference is None or reference.shape != luma.shape:
            continue
        field = motion_field(records, height, width, future=is_future, whole_pixels=True)
        present = ~np.isnan(field[..., 0])
        if not present.any():
            continue
        shift = np.nan_to_num(field).astype(np.int32).repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
        mask = present.repeat(BLOCK, 0).repeat(BLOCK, 1)[:height, :width]
        y = np.clip(np.arange(height, dtype=np.int32)[:, None] + shift[..., 1], 0, height - 1)
        x = np.clip(np.arange(width, dtype=np.int32) + shift[..., 0], 0, width - 1)
        total += np.where(mask, reference[y, x], 0).astype(np.int16)
        count += mask
    both = count == 2
    total[both] = (total[both] + 1) >> 1
    residual = np.where(count > 0, np.abs(luma.astype(np.int16) - total), 0)
    return _block_mean(np.maximum(residual - DEAD_ZONE, 0))


def frame_difference(luma: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """The picture less the one shown before it: (ceil(H / 4), ceil(W / 4)) float32, mean grey levels over the
    dead zone of each 4 x 4 block, >= 0; zero without a previous picture of the same size."""
    if previous is None or previous.shape != luma.shape:
        return np.zeros((-(-luma.shape[0] // BLOCK), -(-luma.shape[1] // BLOCK)), np.float32)
    difference = np.abs(luma.astype(np.int16) - previous)
    return _block_mean(np.maximum(difference - DEAD_ZONE, 0))


def normalise(energy: np.ndarray, floor: float) -> np.ndarray:
    """Divide by the 95th percentile, at least `floor` (a still picture's noise stays small); cut at 1."""
    return np.clip(energy / np.float32(max(_percentile_95(energy), floor)), 0, 1)


def frame_energies(
    reader: VideoReader | FrameSequence, frame_ids: Sequence[int] | np.ndarray, geometry: FrameGeometry
) -> tuple[np.ndarray, list[str], str]:
    """Energy of sampled frames on the patch grid, from the best signal that the codec gives.

    With motion vectors: whole-pixel vectors to the past, median removed, plus half of the motion-compensated
    residual; pictures without vectors (I) have half of their difference to the picture before. Other codecs:
    the difference. Each is divided by its 95th percentile in the picture.

    Returns:
        energy (T, gh, gw) float32 >= 0, picture types (T,), the name of the signal.
    """
    frame_ids = np.asarray(frame_ids)
    has_vectors = reader.codec in VECTOR_CODECS
    # Pictures without vectors are compared with the one before, which has to be decoded too.
    compared = (
        frame_ids[reader.index.keyframe[frame_ids]]
        if isinstance(reader, VideoReader) and has_vectors
        else frame_ids
    )
    wanted = np.union1d(frame_ids, compared[compared > 0] - 1)
    sampled = {int(frame_id) for frame_id in frame_ids}
    energies: dict[int, np.ndarray] = {}
    types: dict[int, str] = {}
    frames = reader.frames(wanted, motion_vectors=has_vectors, references=has_vectors)
    for frame, before, past, future in _with_neighbours(frames):
        if frame.frame_id not in sampled:
            continue
        luma, records = frame.luma, frame.motion_vectors
        if records is not None and len(records):
            vectors = motion_field(records, *luma.shape, whole_pixels=True)
            residual = compensated_residual(luma, records, past, future)
            energy = normalise(vector_energy(vectors), 1.0) + RESIDUAL_WEIGHT * normalise(residual, 1.0)
        else:
            weight = RESIDUAL_WEIGHT if has_vectors else 1.0
            energy = weight * normalise(frame_difference(luma, before), 1.0)
        energies[frame.frame_id] = pool_stored(energy, frame, geometry)
        types[frame.frame_id] = frame.picture_type
    signal = "vectors+compensated" if has_vectors else "difference"
    return (
        np.stack([energies[int(frame_id)] for frame_id in frame_ids]),
        [types[int(frame_id)] for frame_id in frame_ids],
        signal,
    )


def pool_stored(
    energy: np.ndarray, frame: DecodedFrame, geometry: FrameGeometry, cell: int = BLOCK
) -> np.ndarray:
    """Carry a block map from stored orientation onto the patch grid (turned, pixel shape applied)."""
    height, width = frame.av_frame.height, frame.av_frame.width
    if frame.rotation % 180:
        height, width = width, height
    return geometry.pool(
        turn(energy, frame.rotation), cell * geometry.height / height, cell * geometry.width / width
    )


def _with_neighbours(
    frames: Iterator[DecodedFrame],
) -> Iterator[tuple[DecodedFrame, np.ndarray | None, np.ndarray | None, np.ndarray | None]]:
    """(frame, luma of the picture before, of the I or P picture before, of the I or P picture after)."""
    waiting: list[tuple[DecodedFrame, np.ndarray | None, np.ndarray | None]] = []
    before = past = None
    for frame in frames:
        luma = frame.luma
        if frame.picture_type != "B":
            for held in waiting:
                yield *held, luma
            waiting = []
            yield frame, before, past, None
            past = luma
        else:
            waiting.append((frame, before, past))
        before = luma
    for held in waiting:
        yield *held, None


def _block_mean(values: np.ndarray) -> np.ndarray:
    """Mean over 4 x 4 blocks; blocks over the lower and right edge average what there is of them."""
    height, width = values.shape
    rows = np.add.reduceat(values, np.arange(0, height, BLOCK), axis=0, dtype=np.int32)
    sums = np.add.reduceat(rows, np.arange(0, width, BLOCK), axis=1, dtype=np.int32)
    row_counts = np.minimum(BLOCK, height - np.arange(0, height, BLOCK))
    column_counts = np.minimum(BLOCK, width - np.arange(0, width, BLOCK))
    return (sums / (row_counts[:, None] * column_counts)).astype(np.float32)


def _percentile_95(values: np.ndarray) -> float:
    """numpy's 95th percentile by a partial sort, which is several times faster than a full one."""
    flat = values.ravel()
    place = 0.95 * (flat.size - 1)
    low = int(place)
    parts = np.partition(flat, (low, min(low + 1, flat.size - 1)))
    return float(parts[low] + (place - low) * (parts[min(low + 1, flat.size - 1)] - parts[low]))
