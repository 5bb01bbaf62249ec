"""What a codec says about each block of a picture, as plain arrays.

A video encoder has already found out where things move (motion vectors) and where a picture cannot be
predicted from the others (the residual). Each function gives one such signal of one picture on the stream's
own grid, in stored orientation; `read_codec_signals` gives them for a whole video.

    signals = read_codec_signals("clip.mp4", num_frames=64)
    signals.vectors     # (T, ceil(H / 4), ceil(W / 4), 2) pixels to the reference, NaN where there is none
    signals.bits        # (T, ceil(H / 16), ceil(W / 16)) bits that each block cost
"""

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .bit_cost import STEPS, picture_bits, quantiser_step
from .camera_motion import remove_camera_motion
from .frame_sampling import sample_frame_ids
from .picture_difference import BLOCK, DEAD_ZONE, absolute_difference, block_mean
from .standalone_decoder import StandaloneDecoder, StandalonePicture, UnsupportedStreamError
from .video_reader import VideoReader, VideoSource

# Codecs whose decoders in stock FFmpeg export motion vectors.
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
CAMERA_MODELS = ("none", "median", "similarity", "affine")
FITTED = 64  # vectors at least, for models of more than a shift
MOST_FITTED = 2048  # of more vectors so many, evenly taken, tell as much
READABLE = ("vectors", "residual", "bits")


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
    rows, columns = -(-height // block), -(-width // block)
    # Blocks reach over the border by less than their size: a margin takes what sticks out, and is cut off
    # again.
    margin = 4
    field = np.full((rows + 2 * margin, columns + 2 * margin, 2), np.nan, np.float32)
    inner = field[margin : margin + rows, margin : margin + columns]
    if records is None or not len(records):
        return inner
    records = records[records["source"] > 0 if reference == "future" else records["source"] < 0]
    if not len(records):
        return inner
    values = np.empty((len(records), 2), np.float32)
    for axis, name in enumerate("xy"):
        if whole_pixels:
            values[:, axis] = records[f"src_{name}"] - records[f"dst_{name}"]
        else:
            values[:, axis] = records[f"motion_{name}"] / np.maximum(records["motion_scale"], 1)
    block_height, block_width = records["h"].astype(np.int64), records["w"].astype(np.int64)
    # `dst` is the middle of a block. Those of one shape are written together, a grid step of each at a time.
    top = np.clip((records["dst_y"] - block_height // 2) // block, -margin, rows)
    left = np.clip((records["dst_x"] - block_width // 2) // block, -margin, columns)
    corner = (top + margin) * field.shape[1] + left + margin
    flat = field.reshape(-1, 2)
    shapes = block_height << 8 | block_width
    for shape in np.unique(shapes):
        here = shapes == shape
        first, value = corner[here], values[here]
        for down in range(max(1, (int(shape) >> 8) // block)):
            for right in range(max(1, (int(shape) & 255) // block)):
                flat[first + (down * field.shape[1] + right)] = value
    return inner


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
    fields = [_both_fields(picture) for picture in pictures]
    inter = [place for place, picture in enumerate(pictures) if picture.picture_type != "I"]
    if all(picture.qp is not None for picture in pictures):
        steps = [quantiser_step(np.asarray(picture.qp)) for picture in pictures]
        source = "QP of each block"
    else:
        # Evenly spread pictures are enough to find the step under which the total fits.
        probe = inter[:: max(1, len(inter) // 8)]
        spent = 8.0 * sum(packet_sizes[place] for place in probe)
        totals = [
            sum(
                float(picture_bits(pictures[place], *fields[place], np.array([[step]], np.float32)).sum())
                for place in probe
            )
            for step in STEPS
        ]
        step = STEPS[int(np.argmin(np.abs(np.log(np.maximum(totals, 1.0)) - np.log(max(spent, 1.0)))))]
        steps = [np.array([[step]], np.float32)] * len(pictures)
        source = f"a quantiser step of {step:g} fitted to the packets' sizes"
    estimates = []
    for picture, field, block_steps, size in zip(pictures, fields, steps, packet_sizes, strict=True):
        estimate = picture_bits(picture, *field, block_steps)
        total = float(estimate.sum())
        estimates.append(estimate * np.float32(8.0 * size / total) if total > 0 else estimate)
    return estimates, source


def _both_fields(picture: StandalonePicture) -> tuple[np.ndarray | None, np.ndarray | None]:
    if picture.vectors is None:
        return None, None
    height, width = picture.luma.shape
    past = vectors(picture.vectors, height, width)
    return past, vectors(picture.vectors, height, width, reference="future")


@dataclass(frozen=True, eq=False)
class CodecSignals:
    """Signals of T frames on the stream's own grid, in stored orientation; H, W are the stored picture's (of
    the largest, where the stream changes its size: smaller ones lie in the upper left, NaN around them).

    Args:
        vectors: (T, ceil(H/4), ceil(W/4), 2) float32 [x, y] pixels from the block to its reference (past
            where there is one), sub-pixel precision and camera motion left in; NaN where intra or none.
        residual: (T, ceil(H/16), ceil(W/16)) float32, sum of the absolute luma residual; NaN for I
            pictures.
        bits: (T, ceil(H/16), ceil(W/16)) float32, estimated bits of each block; NaN for I pictures.
        frame_ids: (T,) int64, numbers of the frames in display order.
        picture_types: T of "I", "P", "B".
        packet_sizes: (T,) int64 bytes.
        picture_sizes: (T, 2) int64, height and width of each stored picture.
        signal: for each of the three how it was obtained, or why it is None. Damaged pictures have NaN.
    """

    vectors: np.ndarray | None
    residual: np.ndarray | None
    bits: np.ndarray | None
    frame_ids: np.ndarray
    picture_types: tuple[str, ...]
    packet_sizes: np.ndarray
    picture_sizes: np.ndarray
    signal: dict[str, str]


def read_codec_signals(
    video: VideoSource,
    *,
    num_frames: int = 64,
    frame_ids: Iterable[int] | None = None,
    signals: Sequence[str] = READABLE,
    errors: str = "raise",
) -> CodecSignals:
    """Motion vectors, exact residual and bit cost of sampled frames, with a stock FFmpeg.

    Args:
        video: a path, bytes, or a binary file object.
        num_frames: frames sampled uniformly, floor(linspace(0, N - 1, num_frames)).
        frame_ids: which frames instead, numbers in display order.
        signals: which of "vectors", "residual", "bits" to read.
        errors: "raise", or "partial": of a truncated file, what is there.

    Returns:
        `CodecSignals`; what the codec does not give is None, and `signal` says why.

    Raises:
        VideoReadError: the video cannot be read.
        ValueError: an argument is out of range.
    """
    unknown = set(signals) - set(READABLE)
    if unknown or isinstance(signals, str):
        raise ValueError(f"signals must be some of {', '.join(READABLE)}, not {signals!r}")
    with VideoReader(video, errors=errors) as reader:
        if frame_ids is None:
            chosen = sample_frame_ids(len(reader), num_frames)
        else:
            chosen = np.array(list(frame_ids), np.int64)
            if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(reader):
                raise ValueError(f"frame_ids must be some of 0 to {len(reader) - 1}, not {chosen.tolist()}")
        found: dict[str, Any] = dict.fromkeys(READABLE)
        signal: dict[str, str] = {}
        known: list[Any] = []  # of each frame the picture that was read last
        if "vectors" in signals:
            if reader.codec in VECTOR_CODECS:
                fields = {}
                for frame in reader.frames(chosen, motion_vectors=True):
                    size = frame.av_frame.height, frame.av_frame.width
                    field = vectors(frame.motion_vectors, *size, reference="either")
                    fields[frame.frame_id] = (field, _Told(frame.picture_type, size, frame.is_damaged))
                found["vectors"] = _stack([fields[int(frame_id)][0] for frame_id in chosen])
                known = [fields[int(frame_id)][1] for frame_id in chosen]
                signal["vectors"] = f"motion vectors of {reader.codec}" + _damaged_among(known)
            else:
                signal["vectors"] = f"none: FFmpeg's decoder exports no motion vectors of {reader.codec}"
        standalone = [name for name in ("residual", "bits") if name in signals]
        if standalone:
            try:
                pictures = read_standalone_pictures(reader, chosen)
            except UnsupportedStreamError as error:
                signal |= dict.fromkeys(standalone, f"none: {error}")
            else:
                known = [_Told(one.picture_type, one.luma.shape, one.is_damaged) for one in pictures]
                found |= _standalone_signals(pictures, reader.index.size[chosen].tolist(), standalone, signal)
        if not known:
            told = {
                frame.frame_id: _Told(frame.picture_type, frame.luma.shape, frame.is_damaged)
                for frame in reader.frames(chosen)
            }
            known = [told[int(frame_id)] for frame_id in chosen]
        return CodecSignals(
            **found,
            frame_ids=chosen,
            picture_types=tuple(one.picture_type for one in known),
            packet_sizes=reader.index.size[chosen],
            picture_sizes=np.array([one.size for one in known], np.int64),
            signal=signal,
        )


class _Told(NamedTuple):
    """What a picture says of itself."""

    picture_type: str
    size: tuple[int, ...]  # height, width
    is_damaged: bool


def _damaged_among(pictures: Sequence[Any]) -> str:
    count = sum(picture.is_damaged for picture in pictures)
    return f"; {count} of {len(pictures)} pictures are damaged" if count else ""


def _stack(maps: Sequence[np.ndarray]) -> np.ndarray:
    """(T, rows, columns, ...) of maps of each picture, NaN beyond the smaller ones."""
    rows, columns = (max(values.shape[axis] for values in maps) for axis in (0, 1))
    stack = np.full((len(maps), rows, columns, *maps[0].shape[2:]), np.nan, np.float32)
    for place, values in zip(stack, maps, strict=True):
        place[: values.shape[0], : values.shape[1]] = values
    return stack


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
    decoder = StandaloneDecoder(reader.codec, block_qp=block_qp)
    packets = dict(reader.packets(frame_ids))
    ids = list(packets)
    results = decoder.decode(
        list(packets.values()),
        [reader.parameter_sets(frame_id) for frame_id in ids],
        lambda picture, place: then(picture, ids[place]),
        motion_vectors=None if vectors_of is None else [frame_id in vectors_of for frame_id in ids],
    )
    by_id = dict(zip(ids, results, strict=True))
    return [by_id[int(frame_id)] for frame_id in frame_ids]


def _standalone_signals(
    pictures: list[StandalonePicture], sizes: list[int], names: list[str], signal: dict[str, str]
) -> dict[str, np.ndarray]:
    silent = [picture.picture_type == "I" or picture.is_damaged for picture in pictures]
    found = {}
    if "residual" in names:
        found["residual"] = _stack([residual_sums(picture) for picture in pictures])
        shifted = sum(picture.zero_level != 128 for picture in pictures if picture.picture_type != "I")
        signal["residual"] = "exact, packets decoded alone against grey references"
        if shifted:
            signal["residual"] += (
                f"; {shifted} pictures with weighted prediction, their commonest level removed"
            )
    if "bits" in names:
        estimates, source = bits(pictures, sizes)
        found["bits"] = _stack(estimates)
        signal["bits"] = f"estimated from the exact residual, {source}, scaled to the packets' sizes"
    for name, stack in found.items():
        stack[silent] = np.nan
        signal[name] += _damaged_among(pictures)
    return found


def residual_sums(picture: StandalonePicture) -> np.ndarray:
    """(ceil(H / 16), ceil(W / 16)) float32: the sum of the absolute residual of each block."""
    height, width = picture.luma.shape
    counts_y = np.minimum(16, height - np.arange(0, height, 16))
    counts_x = np.minimum(16, width - np.arange(0, width, 16))
    return residual_energy(picture, 16) * (counts_y[:, None] * counts_x).astype(np.float32)
