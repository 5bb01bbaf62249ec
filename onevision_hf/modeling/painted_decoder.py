"""A second decoder whose references are painted: what it hands out tells where each block was predicted from.

decoder = PaintedDecoder("hevc", revealed.extradata)
for picture in revealed.split(packet):
    painted = decoder.decode(picture, time=7, wanted=True)
    painted.field.velocity
"""

import itertools
from dataclasses import dataclass
from typing import Any

import av
import numpy as np

from .coded_picture import CodedPicture, Reference
from .decoded_frame import PICTURE_TYPES
from .motion_field import DecodedPlanes, FieldReader, MotionField
from .painted_codecs import NO_B_REFERENCES, PaintingError
from .predicted_spans import predicted_spans
from .prediction_table import Prediction
from .reference_paint import Paint, PaintBrush, choose_paint
from .shot_changes import thumbnail
from .shot_cuts import Look
from .video_demuxer import padded_packet

GENTLE_SLOPE, STEEP_SLOPE = 0.5, 1.5  # of two passes
# References that are taken for live where the headers are not read.
REMEMBERED = 8
SINGLE_REFERENCE = ("vp8", "flv1", "h263", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2")  # never average two

# Whose decoders refine motion by what the luma of two references looks like. Over flat luma there is nothing
# to refine by: only over the luma as it is do blocks come from where the stream means.
REFINED_BY_LUMA = ("vvc",)
P_HAS_ONE = ("h264", "hevc", "vvc", *NO_B_REFERENCES)  # whose P pictures have one reference a block


Planewise = tuple[float, float, float]  # one number for each of Y, U and V


@dataclass(frozen=True, eq=False)
class PaintedPicture:
    """What one step gave.

    Attributes:
        picture_type: "I", "P", "B" or "?".
        size: height and width in luma pixels.
        field: what it says, None of intra pictures and where it was not asked for.
        luma: (height, width) uint8, a wanted intra picture itself; None of all others.
        is_damaged: the decoder met errors in it.
        look: how it is predicted, where that was asked for.
    """

    picture_type: str
    size: tuple[int, int]
    field: MotionField | None = None
    luma: np.ndarray | None = None
    is_damaged: bool = False
    look: Look | None = None


class PaintedDecoder:
    """Decodes a revealed stream over painted references.

    Args:
        codec: FFmpeg's name of the decoder.
        extradata: of the revealed stream.
        passes: 1, or 2 to decode the stream beside itself over the negative of the paint: the residual, and
            what lies under it, are then exact; for streams with much of it in the chroma. Of VVC the second
            pass keeps the luma instead, and paints the chroma alone: the first tells references and residual,
            the second where blocks come from once the decoder has refined their vectors.
        threads: for the slices of a picture; frames are never decoded side by side.
        max_pixels: of a picture.

    Raises:
        PaintingError: this PyAV has no such decoder.
    """

    def __init__(
        self,
        codec: str,
        extradata: bytes = b"",
        *,
        passes: int = 1,
        threads: int = 1,
        max_pixels: int | None = None,
    ):
        self.codec, self.passes = codec, passes
        self._compound = codec not in SINGLE_REFERENCE
        options = (codec, extradata, threads, max_pixels)
        self._contexts = [_open_decoder(*options) for _ in range(passes)]
        self._keeps_luma = passes == 2 and codec in REFINED_BY_LUMA
        if self._keeps_luma:
            self._brushes, self._reader = [PaintBrush(), PaintBrush(keeps_luma=True)], FieldReader()
        elif passes == 1:
            self._brushes, self._reader = [PaintBrush()], FieldReader()
        else:
            self._brushes = [PaintBrush(GENTLE_SLOPE), PaintBrush(-STEEP_SLOPE, negative=True)]
            self._reader = FieldReader(GENTLE_SLOPE + STEEP_SLOPE, GENTLE_SLOPE)
        self._paints: dict[int, Paint] = {}
        self._painted: dict[int, PaintedPicture] = {}  # of those that may be shown later
        self._first_size: tuple[int, int] | None = None

    def restart(self) -> None:
        """The next picture is an entry."""
        for context in self._contexts:
            context.flush_buffers()
        self._paints.clear()
        self._painted.clear()
        self._reader.restart()

    def decode(
        self,
        picture: CodedPicture,
        time: float,
        wanted: bool,
        is_used: bool = True,
        *,
        looked_at: bool = False,
    ) -> PaintedPicture | None:
        """One step of the stream.

        Args:
            picture: the step.
            time: when it is shown, in frames.
            wanted: whether its field is read.
            is_used: whether another picture may be predicted from it.
            looked_at: whether it is told how it is predicted.

        Returns:
            None where the decoder gives no picture: damage, or one that refers to what is not there.

        Raises:
            PaintingError: pictures of a kind that cannot be painted.
        """
        if not picture.is_coded:
            for context in self._contexts:  # so that it too knows what is shown
                _decode(context, picture.data, picture.number)
            return self._painted.get(picture.number)
        frames: list[av.VideoFrame] = []
        for context in self._contexts:
            given = _decode(context, picture.data, picture.number)
            if picture.reveal and given is not None:  # else its slot holds an older picture
                given += _decode(context, picture.reveal, picture.number) or []
            # What comes late, of an earlier picture, is not this one.
            frames += [frame for frame in (given or [])[-1:] if frame.pts == picture.number]
        if len(frames) < self.passes:
            self._forget(picture)
            return None
        if picture.is_key:  # what was before counts no more, so it says the same wherever it stands
            self._paints.clear()
            self._reader.restart()
            self._first_size = None
        decoded = [self._planes_of(frame) for frame in frames]
        kind = PICTURE_TYPES.get(int(frames[0].pict_type), "?")
        is_damaged = any(frame.is_corrupt for frame in frames)
        field, look = None, None
        predictable = (wanted or looked_at) and not picture.is_key and not is_damaged
        predictions = self._predictions(picture, kind) if predictable else []
        first, negative = decoded[0], None
        if self._keeps_luma:
            first = first._replace(planes=[first.planes[0], *decoded[1].planes[1:]])
        elif self.passes == 2:
            negative = decoded[1].planes
        if predictions and wanted:
            field = self._reader.read(first, time, predictions, negative)
        if looked_at and (kind == "I" or picture.is_key):
            look = Look(thumbnail(decoded[0].planes[0] >> (decoded[0].bits - 8)))
        elif looked_at:
            earlier = [paint.time for paint in self._paints.values() if paint.time < time]
            spans = predicted_spans(first, time, predictions, self._reader.slope, negative)
            look = Look(None, max(earlier, default=None), spans)
        height, width = self._contexts[0].height, self._contexts[0].width  # without what is cut off
        luma = None
        if field is not None:
            field = field.cut(height, width)
        elif wanted and not is_damaged:
            bits = decoded[0].bits
            luma = (decoded[0].planes[0][:height, :width] >> (bits - 8)).astype(np.uint8)
        found = PaintedPicture(kind, (height, width), field, luma, is_damaged, look)
        if is_used and not (self.codec in NO_B_REFERENCES and kind == "B"):
            paint = choose_paint(picture.number, time, self._kept_with(picture), self._compound)
            paint.velocity = None if field is None else field.velocity
            for brush, one in zip(self._brushes, decoded, strict=True):
                brush.paint(one.planes, paint, one.bits, one.step, one.start)
            self._paints[picture.number] = paint
            self._painted[picture.number] = found
        self._forget(picture)
        return found

    def _kept_with(self, picture: CodedPicture) -> list[Paint]:
        if picture.kept is None:
            return list(self._paints.values())
        return [paint for number, paint in self._paints.items() if number in picture.kept]

    def _forget(self, picture: CodedPicture) -> None:
        """What no later picture can refer to."""
        if picture.kept is None:
            limit = 2 if self.codec in NO_B_REFERENCES else REMEMBERED
            gone = list(self._paints)[:-limit]
        else:
            gone = [number for number in self._paints if number not in picture.kept]
        for number in gone:
            del self._paints[number]
            self._painted.pop(number, None)

    def _predictions(self, picture: CodedPicture, kind: str) -> list[Prediction]:
        if picture.references is None:
            references = [Reference(number) for number in self._paints]
            if self.codec in NO_B_REFERENCES and kind != "B":
                references = references[-1:]
        else:
            references = [one for one in picture.references if one.number in self._paints]
        found = [Prediction((self._paints[r.number],), (r.weights,), r.offsets) for r in references]
        if not self._compound or (kind == "P" and self.codec in P_HAS_ONE):
            return found
        for one, other in itertools.combinations(references, 2):
            if one.number == other.number:
                continue
            paints = self._paints[one.number], self._paints[other.number]
            offsets = _mean(one.offsets, other.offsets, 0.5)
            shares = [0.5]
            if (share := picture.pair_weights.get((one.number, other.number))) is not None:
                shares.append(share)
            for share in shares:
                nothing = (0.0, 0.0, 0.0)
                weights = _mean(one.weights, nothing, share), _mean(nothing, other.weights, share)
                found.append(Prediction(paints, weights, offsets))
        return found

    def _planes_of(self, frame: av.VideoFrame) -> DecodedPlanes:
        """Views of its planes, which are the decoder's reference.

        Raises:
            PaintingError: no planes of luma and chroma, or lines from bottom to top.
        """
        name, components = frame.format.name, frame.format.components
        if (
            not name.startswith(("yuv", "gbr"))
            or len(frame.planes) < 3
            or any(p.line_size < 0 for p in frame.planes)
        ):
            raise PaintingError(f"pictures of format {name} have no chroma to paint")
        bits = components[0].bits
        if bits > 8 and not name.endswith("le"):
            raise PaintingError(f"pictures of format {name} cannot be painted")
        dtype: Any = np.uint8 if bits == 8 else np.uint16
        planes = []
        for plane in frame.planes[:3]:
            rows = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype().itemsize)
            planes.append(rows[: plane.height, : plane.width])
        height, width = planes[0].shape
        subsampling = round(width / planes[1].shape[1]), round(height / planes[1].shape[0])
        if not {*subsampling} <= {1, 2}:
            raise PaintingError(f"pictures of format {name} have too little chroma")
        self._first_size = self._first_size or (height, width)
        scale = self._first_size[1] / width, self._first_size[0] / height
        return DecodedPlanes(planes, bits, subsampling, scale)


def _mean(first: Planewise, second: Planewise, share: float) -> Planewise:
    """Of Y, U and V, with the weight of the first."""
    y, u, v = (share * a + (1 - share) * b for a, b in zip(first, second, strict=True))
    return y, u, v


def _open_decoder(codec: str, extradata: bytes, threads: int, max_pixels: int | None) -> Any:
    try:
        context: Any = av.CodecContext.create("libdav1d" if codec == "av1" else codec, "r")
    except (av.FFmpegError, ValueError) as error:
        raise PaintingError(f"this PyAV has no decoder for {codec}") from error
    if extradata:
        context.extradata = extradata
    # Side by side, another thread would read a picture while it is painted.
    context.thread_type, context.thread_count = "SLICE", threads
    options = {"flags": "+output_corrupt", "flags2": "+showall", "apply_cropping": "0"}
    if codec in (*NO_B_REFERENCES, "vvc"):
        options["flags"] += "+low_delay"  # hands references out at once
    if codec in ("av1", "libdav1d"):
        options |= {"filmgrain": "0", "max_frame_delay": "1"}
    else:
        options["skip_loop_filter"] = "all"  # it only blurs the paint
    if max_pixels is not None:
        options["max_pixels"] = str(max_pixels)
    context.options = options
    return context


def _decode(context: Any, data: bytes, number: int) -> list[av.VideoFrame] | None:
    """The frames of one step; None where it is damaged."""
    packet = padded_packet(data)
    packet.pts = number
    try:
        return context.decode(packet)
    except av.FFmpegError:
        return None
