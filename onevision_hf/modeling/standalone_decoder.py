"""Decodes one packet alone, against grey references: what comes out of an inter picture is 128 + its
residual.

A decoder adds the residual to a prediction from reference pictures. When these are grey everywhere, so is the
prediction, whatever the motion vectors are. This gives the exact residual with a stock FFmpeg, on any system,
at the price of one picture a packet. HEVC's decoder makes up missing references in grey by itself; H.264's
fills them by other rules, so a grey picture is put in front of the packet (`h264_bitstream.grey_picture`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from .bitstream import START_CODE, split_annex_b, split_length_prefixed
from .decoded_frame import PICTURE_TYPES, luma_plane, side_data
from .h264_bitstream import (
    IDR_SLICE,
    SLICE,
    SPS,
    PictureParameters,
    SequenceParameters,
    direct_is_spatial,
    grey_picture,
    parse_picture_parameters,
    parse_sequence_parameters,
    slice_parameters_number,
)
from .parameter_sets import ParameterSets
from .video_demuxer import padded_packet

STANDALONE_CODECS = ("h264", "hevc")


class UnsupportedStreamError(ValueError):
    """The exact residual of this stream cannot be read; the message names the feature that stands in the
    way."""


@dataclass(frozen=True)
class StandalonePicture:
    """A packet decoded alone.

    luma: (H, W) uint8, 128 + residual for P and B pictures, the picture itself for I pictures.
    vectors: FFmpeg's motion vector records. Those of P pictures equal a full decode's; in B pictures the
    direct modes read a co-located picture which is grey here, so some differ.
    qp: (ceil(H / 16), ceil(W / 16)) QP of each macroblock, or None where the decoder does not tell.
    spatial_direct: how a B picture predicts its direct blocks (H.264), else None.
    is_damaged: the decoder met errors in it and made up what it could not read: it says nothing.
    """

    picture_type: str
    luma: np.ndarray
    vectors: np.ndarray | None
    qp: np.ndarray | None
    spatial_direct: bool | None
    is_damaged: bool = False

    @property
    def zero_level(self) -> int:
        """The level that stands for a residual of zero: 128, or what weighted prediction made of it."""
        return int(np.bincount(self.luma[::4, ::4].ravel(), minlength=256).argmax())


class StandaloneDecoder:
    """Decodes packets of one stream, each alone.

    Args:
        codec: FFmpeg's decoder name, `h264` or `hevc`.
        block_qp: also export the QP of each block (H.264; it takes time).

    Raises:
        UnsupportedStreamError: another codec.
    """

    def __init__(self, codec: str, *, block_qp: bool = True):
        if codec not in STANDALONE_CODECS:
            raise UnsupportedStreamError(f"{codec} packets cannot be decoded alone")
        self.codec = codec
        self.block_qp = block_qp

    def decode(
        self,
        packets: Sequence[bytes],
        parameters: Sequence[ParameterSets],
        then: Callable[[StandalonePicture, int], Any] = lambda picture, place: picture,
        *,
        motion_vectors: Sequence[bool] | None = None,
    ) -> list[Any]:
        """Decode each packet alone, on all cores (PyAV releases the interpreter lock).

        Args:
            packets: one a picture.
            parameters: the parameter sets in force at each.
            then: called in the decoding threads with each picture and its place in the list.
            motion_vectors: of which packets they are exported, all by default (H.264; it takes time).

        Returns:
            what `then` returned, one a packet.

        Raises:
            UnsupportedStreamError: interlaced, 4:4:4 or high bit depth H.264, no parameter sets, or a packet
                that gives no picture.
        """
        exported = [True] * len(packets) if motion_vectors is None else list(motion_vectors)
        workers = min(4, os.cpu_count() or 1, max(1, len(packets) // 8))
        # Joined streams have a few, which many packets share.
        heads = {id(sets): _H264Heads(sets) for sets in parameters} if self.codec == "h264" else {}

        def work(first: int) -> dict[int, Any]:
            results = {}
            # One context after the other, since each holds reference pictures.
            for with_vectors in (True, False):
                context = None
                for place in range(first, len(packets), workers):
                    if exported[place] != with_vectors:
                        continue
                    data, sets = packets[place], parameters[place]
                    # A used context of HEVC remembers which pictures it has seen.
                    if context is None or self.codec == "hevc":
                        context = self._context(with_vectors, sets)
                    with _naming_damage():
                        if self.codec == "hevc":
                            picture = self._decode_hevc(context, data, sets)
                        else:
                            picture = self._decode_h264(context, data, heads[id(sets)])
                    results[place] = then(picture, place)
                    del picture
            return results

        done: dict[int, Any] = {}
        with ThreadPoolExecutor(workers) as pool:
            for results in pool.map(work, range(workers)):
                done |= results
        return [done[place] for place in range(len(packets))]

    def _decode_hevc(self, context: Any, data: bytes, sets: ParameterSets) -> StandalonePicture:
        data = data if sets.in_header else sets.prefix + data
        frames = [*context.decode(padded_packet(data)), *context.decode(None)]
        # Every picture whose references are missing is called corrupt, so that tells nothing here.
        return self._picture(frames[0] if frames else None, None, is_damaged=False)

    def _decode_h264(self, context: Any, data: bytes, heads: "_H264Heads") -> StandalonePicture:
        units = heads.slices(data)
        sequence, picture = heads.parameters_of(units)
        # The target may be output before the grey picture, so both carry a number.
        head = padded_packet(heads.before(sequence))
        body = padded_packet(b"".join(START_CODE + unit for unit in units))
        head.pts, body.pts = 0, 1
        frames = [*context.decode(head), *context.decode(body), *context.decode(None)]
        context.flush_buffers()
        found = next((frame for frame in frames if frame.pts == 1), None)
        is_spatial = direct_is_spatial(units[0], sequence, picture)
        return self._picture(found, is_spatial, found is not None and found.is_corrupt)

    def _context(self, motion_vectors: bool, sets: ParameterSets) -> Any:
        context: Any = av.CodecContext.create(self.codec, "r")
        context.thread_count = 1
        options = {"flags": "+output_corrupt", "flags2": "+showall", "skip_loop_filter": "all"}
        if self.codec == "hevc":
            context.extradata = sets.extradata
        else:
            options["flags2"] += "+export_mvs" if motion_vectors else ""
            options |= {"export_side_data": "venc_params"} if self.block_qp else {}
        context.options = options
        return context

    def _picture(
        self, frame: av.VideoFrame | None, spatial_direct: bool | None, is_damaged: bool
    ) -> StandalonePicture:
        if frame is None:
            raise UnsupportedStreamError("a packet gives no picture when it is decoded alone")
        components = frame.format.components
        if components[0].bits != 8 or not frame.format.name.startswith(("yuv", "gray")):
            raise UnsupportedStreamError(f"{self.codec} pictures of format {frame.format.name}")
        records = side_data(frame, "MOTION_VECTORS")
        vectors = None if records is None else records.to_ndarray()
        qp = _block_qp(frame) if self.block_qp else None
        picture_type = PICTURE_TYPES.get(int(frame.pict_type), "?")
        return StandalonePicture(picture_type, luma_plane(frame), vectors, qp, spatial_direct, is_damaged)


class _H264Heads:
    """What comes before a packet: its parameter sets and a grey picture.

    Args:
        sets: those in force.

    Raises:
        UnsupportedStreamError: the sets cannot be read, or are missing.
    """

    def __init__(self, sets: ParameterSets):
        self._length_size = sets.length_size
        self._sequences: dict[int, SequenceParameters] = {}
        self._pictures: dict[int, PictureParameters] = {}
        try:
            for unit in sets.units:
                if unit[0] & 31 == SPS:
                    sequence = parse_sequence_parameters(unit)
                    self._sequences[sequence.number] = sequence
                else:
                    picture = parse_picture_parameters(unit)
                    self._pictures[picture.number] = picture
        except (ValueError, IndexError) as error:
            raise UnsupportedStreamError(f"its parameter sets cannot be read: {error}") from error
        if not self._sequences or not self._pictures:
            raise UnsupportedStreamError("it has no parameter sets in its header")
        free = (number for number in range(255, -1, -1) if number not in self._pictures)
        self._free = next(free, None)
        self._units = sets.units
        self._before: dict[int, bytes] = {}
        self._refused: dict[int, str] = {}
        for number, sequence in self._sequences.items():
            if not sequence.frames_only:
                self._refused[number] = "interlaced H.264"
            elif sequence.bit_depth > 8:
                self._refused[number] = f"H.264 of {sequence.bit_depth} bits"
            elif sequence.chroma_format == 3:
                self._refused[number] = "4:4:4 H.264"
            elif self._free is None:
                self._refused[number] = "H.264 with as many picture parameter sets as there can be"

    def before(self, sequence: SequenceParameters) -> bytes:
        """With start codes; made when it is asked for: a stream may name more sequences than it uses."""
        if sequence.number not in self._before:
            assert self._free is not None
            units = [*self._units, *grey_picture(sequence, self._free)]
            self._before[sequence.number] = b"".join(START_CODE + unit for unit in units)
        return self._before[sequence.number]

    def slices(self, data: bytes) -> list[bytes]:
        """The slices of a packet."""
        split = split_length_prefixed(data, self._length_size) if self._length_size else split_annex_b(data)
        return [unit for unit in split if unit[0] & 31 in (SLICE, IDR_SLICE)]

    def parameters_of(self, slices: list[bytes]) -> tuple[SequenceParameters, PictureParameters]:
        """The parameter sets that a packet's slices refer to.

        Raises:
            UnsupportedStreamError: they are not there, or of a kind for which there is no grey picture.
        """
        picture = self._pictures.get(slice_parameters_number(slices[0])) if slices else None
        if picture is None or picture.sequence_number not in self._sequences:
            raise UnsupportedStreamError("a packet refers to parameter sets that the stream has not given")
        if picture.sequence_number in self._refused:
            raise UnsupportedStreamError(self._refused[picture.sequence_number])
        return self._sequences[picture.sequence_number], picture


@contextmanager
def _naming_damage() -> Iterator[None]:
    """What damaged packets raise becomes the one error that callers expect."""
    try:
        yield
    except UnsupportedStreamError:
        raise
    except (av.FFmpegError, ValueError, IndexError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnsupportedStreamError(f"a packet cannot be decoded alone: {reason}") from error


def _block_qp(frame: av.VideoFrame) -> np.ndarray | None:
    """QP of each macroblock, which PyAV hands over from 16.1 on; None below that and without the side
    data."""
    parameters: Any = side_data(frame, "VIDEO_ENC_PARAMS")
    if parameters is None or not hasattr(parameters, "qp_map") or not parameters.nb_blocks:
        return None
    rows, columns = -(-frame.height // 16), -(-frame.width // 16)
    if parameters.nb_blocks != rows * columns:
        return parameters.qp_map().astype(np.float32)
    # One a macroblock in raster order, the last of five numbers each (FFmpeg's `AVVideoBlockParams`):
    # `qp_map` reads all five, one after the other.
    place, step = parameters.blocks_offset + 4 * np.dtype(np.int32).itemsize, parameters.block_size
    delta: np.ndarray = np.ndarray((rows, columns), np.int32, parameters, place, (columns * step, step))
    return (parameters.qp + delta).astype(np.float32)
