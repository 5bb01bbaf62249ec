"""What a codec says about each block of a picture, as plain arrays.

A video encoder has already found out where things move (motion vectors) and where a picture cannot be
predicted from the others (the residual). Each function gives one such signal of one picture on the stream's
own grid, in stored orientation; `codec_signal_reader` gives them for a whole video.
"""

import os
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from .bit_cost import FIELD_BLOCK, STEPS, bits_of_pictures, quantiser_step
from .camera_motion import remove_camera_motion
from .painted_codecs import NO_B_REFERENCES
from .picture_difference import BLOCK, DEAD_ZONE, absolute_difference, block_mean, block_sizes
from .standalone_decoder import StandaloneDecoder, StandalonePicture
from .video_reader import VideoReader

AT_ONCE = 4  # pictures whose bits are estimated together: fewer calls, and still in the cache
# Codecs whose decoders in stock FFmpeg export motion vectors: H.264, and the MPEG family, which shares one.
VECTOR_CODECS = ("h264", *NO_B_REFERENCES)


def vectors(
    records: np.ndarray | None,
    height: int,
    width: int,
    *,
    reference: str = "past",
    whole_pixels: bool = False,
    block: int = BLOCK,
) -> np.ndarray:
    """Motion vectors of one picture on a grid of blocks (H.264, MPEG-1/2/4, H.263).

    Args:
        records: FFmpeg's motion vector records (`DecodedFrame.motion_vectors`), or None.
        height: of the stored picture, in pixels.
        width: of the stored picture, in pixels.
        reference: "past", "future", or "either": the past where there is one, else the future.
        whole_pixels: FFmpeg's rounded `src - dst` instead of `motion / motion_scale`. The published pipeline
            reads these; the rounding is a dead zone for noise below a pixel.
        block: the grid's step in pixels, 4, or 8: FFmpeg tells of no smaller blocks.

    Returns:
        (ceil(height / block), ceil(width / block), 2) float32 [x, y], pixels from the block to its reference;
        NaN where a block is intra coded or has no vector of that kind.
    """
    if reference == "either":
        past = vectors(records, height, width, whole_pixels=whole_pixels, block=block)
        future = vectors(records, height, width, reference="future", whole_pixels=whole_pixels, block=block)
        return np.where(np.isnan(past), future, past)
    field = np.full((1, *_grid(height, width, block), 2), np.nan, np.float32)
    if records is not None:
        records = records[records["source"] > 0 if reference == "future" else records["source"] < 0]
        _write_vectors(field, records, np.zeros(len(records), np.int64), whole_pixels, block)
    return _without_margin(field)[0]


# Blocks reach over the border by less than their size: a margin takes what sticks out, and is cut off again.
MARGIN = 4


def _grid(height: int, width: int, block: int) -> tuple[int, int]:
    """Rows and columns of a field with its margin."""
    return -(-height // block) + 2 * MARGIN, -(-width // block) + 2 * MARGIN


def _without_margin(fields: np.ndarray) -> np.ndarray:
    return fields[..., MARGIN:-MARGIN, MARGIN:-MARGIN, :]


def _write_vectors(
    fields: np.ndarray, records: np.ndarray, field_of: np.ndarray, whole_pixels: bool, block: int
) -> None:
    """Write records into (F, rows, columns, 2) fields with their margins; `field_of` says into which each."""
    if not len(records):
        return
    _, rows, columns, _ = fields.shape
    values = np.empty((len(records), 2), np.float32)
    for axis, name in enumerate("xy"):
        if whole_pixels:
            values[:, axis] = records[f"src_{name}"] - records[f"dst_{name}"]
        else:
            values[:, axis] = records[f"motion_{name}"] / np.maximum(records["motion_scale"], 1)
    block_height, block_width = records["h"].astype(np.int64), records["w"].astype(np.int64)
    # `dst` is the middle of a block. Those of one shape are written together, a grid step of each at a time.
    top = np.clip((records["dst_y"] - block_height // 2) // block + MARGIN, 0, rows - MARGIN)
    left = np.clip((records["dst_x"] - block_width // 2) // block + MARGIN, 0, columns - MARGIN)
    corner = (field_of * rows + top) * columns + left
    flat = fields.reshape(-1, 2)
    shapes = block_height << 8 | block_width
    for shape in np.unique(shapes):
        here = shapes == shape
        first, value = corner[here], values[here]
        for down in range(max(1, (int(shape) >> 8) // block)):
            for right in range(max(1, (int(shape) & 255) // block)):
                flat[first + (down * columns + right)] = value


def vector_energy(field: np.ndarray, camera: str = "similarity") -> np.ndarray:
    """How much each block moves by itself: (rows, columns, 2) -> (rows, columns) float32, pixels; 0 where
    NaN."""
    field = np.nan_to_num(remove_camera_motion(field, camera))
    return np.hypot(field[..., 0], field[..., 1]).astype(np.float32)


def residual(picture: StandalonePicture) -> np.ndarray:
    """The exact residual of a P or B picture: (H, W) int16 grey levels.

    Source: what the decoder adds to its prediction, read by decoding the packet alone against grey references
    (`standalone_decoder`). Values beyond -128..127 are cut. Intra blocks show their texture against grey
    neighbours.
    """
    return picture.luma.astype(np.int16) - picture.zero_level


def residual_energy(picture: StandalonePicture, block: int = BLOCK) -> np.ndarray:
    """Mean absolute residual of each square block: (ceil(H / block), ceil(W / block)) float32, grey
    levels."""
    return block_mean(
        absolute_difference(picture.luma, np.full(picture.luma.shape[1], picture.zero_level, np.uint8)),
        block,
    )


def compensated(
    luma: np.ndarray, records: np.ndarray | None, past: np.ndarray | None, future: np.ndarray | None
) -> np.ndarray:
    """Estimate of the residual from decoded pictures: the picture less its motion-compensated prediction.

    Args:
        luma: (H, W) uint8, the picture.
        records: its motion vector records.
        past: (H, W) uint8, the I or P picture shown before it (None: there is none).
        future: (H, W) uint8, the I or P picture shown after it (None: there is none).

    Returns:
        (ceil(H / 4), ceil(W / 4)) float32, mean grey levels over the dead zone of each 4 x 4 block, >= 0.
        Where both directions exist their predictions are averaged; blocks without a vector are 0.
    """
    height, width = luma.shape
    total = np.zeros((height, width), np.int16)
    count = np.zeros((height, width), np.int16)
    for reference, direction in ((past, "past"), (future, "future")):
        if reference is None or reference.shape != luma.shape:
            continue
        field = vectors(records, height, width, reference=direction, whole_pixels=True)
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
    error = np.where(count > 0, np.abs(luma.astype(np.int16) - total), 0)
    return block_mean(np.maximum(error - DEAD_ZONE, 0).astype(np.uint8))


def bits(pictures: Sequence[StandalonePicture], packet_sizes: Sequence[int]) -> tuple[list[np.ndarray], str]:
    """Estimate of the bits that each 16 x 16 block cost, for pictures of one stream (see `bit_cost`).

    Args:
        pictures: standalone decodes of the packets.
        packet_sizes: sizes of the packets in bytes, one a picture.

    Returns:
        for each picture (ceil(H / 16), ceil(W / 16)) float32 with the packet's bits as its sum (or zero), and
        what stood for the quantiser.
    """
    if all(picture.qp is not None for picture in pictures):
        steps = [quantiser_step(np.asarray(picture.qp)) for picture in pictures]
        source = "QP of each block"
    else:
        # Evenly spread pictures are enough to find the step under which the total fits.
        inter = [place for place, picture in enumerate(pictures) if picture.picture_type != "I"]
        probe = inter[:: max(1, len(inter) // 8)]
        spent = 8.0 * sum(packet_sizes[place] for place in probe)
        probed = [pictures[place] for place in probe]
        every = [[np.array([[step]], np.float32)] * len(probed) for step in STEPS]
        totals = [sum(float(estimate.sum()) for estimate in _estimates(probed, same)) for same in every]
        step = STEPS[int(np.argmin(np.abs(np.log(np.maximum(totals, 1.0)) - np.log(max(spent, 1.0)))))]
        steps = [np.array([[step]], np.float32)] * len(pictures)
        source = f"a quantiser step of {step:g} fitted to the packets' sizes"
    scaled = []
    for estimate, size in zip(_estimates(pictures, steps), packet_sizes, strict=True):
        total = float(estimate.sum())
        scaled.append(estimate * np.float32(8.0 * size / total) if total > 0 else estimate)
    return scaled, source


def _estimates(pictures: Sequence[StandalonePicture], steps: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """Unscaled bits of each picture; some of one size and kind are computed at once, in threads."""
    batches: list[range] = []
    for place, picture in enumerate(pictures):
        last = batches[-1] if batches else range(0)
        alike = last and _kind(pictures[last[0]]) == _kind(picture) and len(last) < AT_ONCE
        batches[-1 if alike else len(batches) :] = [range(last[0] if alike else place, place + 1)]

    def estimate(places: range) -> np.ndarray:
        batch = [pictures[place] for place in places]
        return bits_of_pictures(batch, _fields(batch), [steps[place] for place in places])

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for found in pool.map(estimate, batches):
            yield from found


def _kind(picture: StandalonePicture) -> tuple[tuple[int, ...], bool]:
    return picture.luma.shape, picture.vectors is None


def _fields(pictures: Sequence[StandalonePicture]) -> np.ndarray | None:
    """(F, 1 or 2, ceil(H / 8), ceil(W / 8), 2): towards the past and, if one has any, the future."""
    known = [picture.vectors for picture in pictures if picture.vectors is not None]
    if not known:
        return None
    records = np.concatenate(known)
    place = np.repeat(np.arange(len(known)), [len(own) for own in known])
    is_future = records["source"] > 0
    ways, here = 1 + bool(is_future.any()), records["source"] != 0
    height, width = pictures[0].luma.shape
    grid = _grid(height, width, FIELD_BLOCK)
    fields = np.full((len(known), ways, *grid, 2), np.nan, np.float32)
    field_of = place * ways + is_future
    _write_vectors(fields.reshape(-1, *grid, 2), records[here], field_of[here], False, FIELD_BLOCK)
    return _without_margin(fields)


def read_standalone_pictures(
    reader: VideoReader,
    frame_ids: Sequence[int] | np.ndarray,
    *,
    vectors_of: Container[int] | None = None,
    block_qp: bool = True,
    then: Callable[[StandalonePicture, int], Any] = lambda picture, frame_id: picture,
) -> list[Any]:
    """What `then` makes of the packets of frames, each decoded alone.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the frames in display order.
        vectors_of: the frames whose motion vectors are exported, all by default.
        block_qp: export the quantiser of each block where PyAV can.
        then: called with each picture and its frame's number, in the decoding threads, so that no more than
            a picture a thread is held.

    Returns:
        T results, in the order of `frame_ids`.

    Raises:
        UnsupportedStreamError: this stream cannot be decoded so.
    """
    packets = list(reader.packets(frame_ids))
    exported = None if vectors_of is None else [frame_id in vectors_of for frame_id, _ in packets]
    decoder = StandaloneDecoder(reader.codec, block_qp=block_qp)
    results = decode_packets_alone(decoder, reader, packets, then, exported)
    by_id = {frame_id: result for (frame_id, _), result in zip(packets, results, strict=True)}
    return [by_id[int(frame_id)] for frame_id in frame_ids]


def decode_packets_alone(
    decoder: StandaloneDecoder,
    reader: VideoReader,
    packets: Sequence[tuple[int, bytes]],
    then: Callable[[StandalonePicture, int], Any],
    motion_vectors: Sequence[bool] | None = None,
) -> list[Any]:
    """What `then` makes of packets, with the parameter sets that are in force at each.

    Args:
        decoder: of the stream's codec.
        reader: the open video.
        packets: (frame_id, data), as `reader.packets` gives them.
        then: called with each picture and its frame's number, in the decoding threads.
        motion_vectors: of which packets they are exported, all by default.

    Returns:
        a result for each packet.

    Raises:
        UnsupportedStreamError: one of the packets cannot be decoded so.
    """
    ids = [frame_id for frame_id, _ in packets]
    return decoder.decode(
        [data for _, data in packets],
        [reader.parameter_sets(frame_id) for frame_id in ids],
        lambda picture, place: then(picture, ids[place]),
        motion_vectors=motion_vectors,
    )


def residual_sums(picture: StandalonePicture) -> np.ndarray:
    """(ceil(H / 16), ceil(W / 16)) float32: the sum of the absolute residual of each block."""
    height, width = picture.luma.shape
    return residual_energy(picture, 16) * block_sizes(height, width, 16).astype(np.float32)
