"""From a video to one energy map a sampled frame on the patch grid: which signals, how scaled, how added up.

Presets:
    auto        the best signal that the codec gives: vectors + exact residual (H.264), exact residual (HEVC),
                vectors + compensated residual (MPEG-1/2/4, H.263, and H.264 that cannot be decoded packet by
                packet), or the difference to the frame before (all others, and frames decoded elsewhere).
    published   what the published weights were trained with: vectors in whole pixels + compensated residual.
    bits        an estimate of the bits that each block cost, which the authors' later work uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .camera_motion import CAMERA_MODELS
from .codec_signals import (
    VECTOR_CODECS,
    bits,
    compensated,
    read_standalone_pictures,
    residual_energy,
    vector_energy,
    vectors,
)
from .decoded_frame import overhang, turn, with_neighbours
from .frame_geometry import FrameGeometry
from .frame_sequence import FrameSequence
from .intra_fallback import PictureDifferences, keyframes_before, read_differences
from .picture_difference import difference
from .standalone_decoder import STANDALONE_CODECS, StandalonePicture, UnsupportedStreamError
from .video_reader import PacketIndex, VideoReader

PRESETS = ("auto", "published", "bits")
SIGNALS = ("vectors", "residual", "compensated", "difference", "bits")
NORMALIZE = ("frame", "clip")
# Below these a picture's 95th percentile is noise: pixels, grey levels, bits.
FLOORS = {"vectors": 1.0, "residual": 4.0, "compensated": 1.0, "difference": 1.0, "bits": 32.0}
POOLED_TOGETHER = 16  # maps: enough to be quick, few enough to stay small
STANDALONE_BLOCK = 8  # pixels: the smallest block that FFmpeg tells the vector of
# A picture without the other signals (intra coded) counts with half of what differs from before.
INTRA_FALLBACK_WEIGHT = 0.5
# Pixels: encoders choose vectors for their price, so small differences between neighbours mean nothing.
VECTOR_DEAD_ZONE = 0.5


@dataclass(frozen=True)
class SignalSettings:
    """How energy is made of signals. With `signals` None the preset chooses.

    Attributes:
        preset: "auto", "published" or "bits", see the top of this file.
        signals: some of `SIGNALS` instead.
        weights: a number for each of them.
        normalize: divide each signal by its 95th percentile in the picture ("frame": every picture has its
            say) or over the clip ("clip": pictures in which more happens get more).
        camera: the camera model that is removed from the vectors, one of `CAMERA_MODELS`; by default a
            similarity, and for `published` the median.

    Raises:
        ValueError: one is out of range.
    """

    preset: str = "auto"
    signals: tuple[str, ...] | None = None
    weights: tuple[float, ...] | None = None
    normalize: str | None = None
    camera: str | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("preset", self.preset, PRESETS),
            ("normalize", self.normalize, (None, *NORMALIZE)),
            ("camera", self.camera, (None, *CAMERA_MODELS)),
        ):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(map(str, choices))}")
        if self.signals is None:
            if self.weights is not None:
                raise ValueError("weights go with signals: name the signals too")
            return
        if isinstance(self.signals, str) or not self.signals or set(self.signals) - set(SIGNALS):
            raise ValueError(f"signals must be some of {', '.join(SIGNALS)}, not {self.signals!r}")
        if self.weights is not None and (
            len(self.weights) != len(self.signals) or any(not weight >= 0 for weight in self.weights)
        ):
            raise ValueError(f"weights must be {len(self.signals)} numbers >= 0, not {self.weights!r}")

    @property
    def camera_model(self) -> str:
        return self.camera or ("median" if self.preset == "published" else "similarity")

    @property
    def pairs(self) -> list[tuple[str, float]]:
        names = self.signals or ()
        return list(zip(names, self.weights or (1.0,) * len(names), strict=True))


@dataclass
class PictureSignals:
    """Raw maps of one picture in stored orientation, by signal; `intra_fallback` stands in where
    a picture is intra coded. A damaged one has neither."""

    picture_type: str
    height: int
    width: int
    maps: dict[str, np.ndarray] = field(default_factory=dict)
    intra_fallback: np.ndarray | None = None
    is_damaged: bool = False


def frame_energies(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    geometry: FrameGeometry,
    settings: SignalSettings | None = None,
) -> tuple[np.ndarray, list[str], str]:
    """Energy of sampled frames on the patch grid: the maps of `signal_maps`, weighed and added up.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        geometry: how a frame lies on the patch grid.
        settings: what counts; the defaults of `SignalSettings`.

    Returns:
        energy (T, gh, gw) float32 >= 0, picture types (T,), the name of the signal.

    Raises:
        ValueError: a signal was named that this codec does not give.
    """
    maps, weights, picture_types, signal = signal_maps(reader, frame_ids, geometry, settings)
    energy = np.zeros((len(frame_ids), geometry.grid_height, geometry.grid_width), np.float32)
    for name, values in maps.items():
        energy += np.float32(weights[name]) * values
    return energy, picture_types, signal


def signal_maps(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    geometry: FrameGeometry,
    settings: SignalSettings | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float], list[str], str]:
    """What the energy of sampled frames is added up from, on the patch grid.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        geometry: how a frame lies on the patch grid.
        settings: what counts; the defaults of `SignalSettings`.

    Returns:
        maps (T, gh, gw) float32 >= 0 by signal, zero in pictures that have no such signal;
        "intra_fallback", which stands in for pictures without any (intra coded), is the last. Their weights.
        Picture types (T,). The name of the signal.

    Raises:
        ValueError: a signal was named that this codec does not give.
    """
    settings = settings or SignalSettings()
    note = ""
    if settings.signals is None:
        chosen, note = _preset(settings, reader.codec)
    else:
        _check_given(settings.signals, reader.codec)
        chosen = settings
    names = [name for name, _ in chosen.pairs]
    if (
        isinstance(reader, VideoReader)
        and reader.codec in STANDALONE_CODECS
        and {"residual", "bits"} & set(names)
    ):
        try:
            pictures = _standalone_signals(reader, frame_ids, names, chosen.camera_model)
        except UnsupportedStreamError as error:
            if settings.signals is not None:
                raise ValueError(f"{reader.name} gives no exact residual: {error}") from error
            note = f" (no exact residual: {error})"
            chosen = _decoded(settings, reader.codec)
            pictures = _decoded_signals(reader, frame_ids, chosen)
    else:
        pictures = _decoded_signals(reader, frame_ids, chosen)
    maps = _onto_grid(pictures, chosen, geometry, (reader.rotation, reader.mirrored))
    signal = "+".join(name for name, _ in chosen.pairs) + note
    if reader.missing:
        signal += f" (the file {reader.missing})"
    if damaged := sum(picture.is_damaged for picture in pictures):
        signal += f" ({damaged} of {len(pictures)} pictures are damaged and give none)"
    weights = dict(chosen.pairs) | {"intra_fallback": INTRA_FALLBACK_WEIGHT}
    return maps, weights, [picture.picture_type for picture in pictures], signal


def _preset(settings: SignalSettings, codec: str) -> tuple[SignalSettings, str]:
    """The signals of a preset for this codec, and a note where it cannot serve the preset."""
    if codec in STANDALONE_CODECS and settings.preset == "bits":
        return replace(settings, signals=("bits",), normalize=settings.normalize or "clip"), ""
    if codec in STANDALONE_CODECS and settings.preset == "auto":
        if codec in VECTOR_CODECS:
            return replace(settings, signals=("vectors", "residual"), weights=(1.0, 0.5)), ""
        return replace(settings, signals=("residual",)), ""
    served = settings.preset == "auto" or (settings.preset == "published" and codec in VECTOR_CODECS)
    return _decoded(settings, codec), "" if served else f" ({codec} has no signals for {settings.preset!r})"


def _decoded(settings: SignalSettings, codec: str) -> SignalSettings:
    """The signals that take decoded pictures."""
    if codec in VECTOR_CODECS:
        return replace(settings, signals=("vectors", "compensated"), weights=(1.0, 0.5))
    return replace(settings, signals=("difference",), weights=None)


def _check_given(names: Sequence[str], codec: str) -> None:
    given = ["difference"]
    given += ["vectors", "compensated"] if codec in VECTOR_CODECS else []
    given += ["residual", "bits"] if codec in STANDALONE_CODECS else []
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{codec} gives no {' and no '.join(missing)}: choose of {', '.join(given)}")
    exact, decoded = {"residual", "bits"} & set(names), {"compensated", "difference"} & set(names)
    if exact and decoded:
        raise ValueError(
            f"{', '.join(sorted(exact))} (packets alone) and {', '.join(sorted(decoded))} (decoded pictures) "
            "cannot be mixed: choose one kind, with vectors or without"
        )


# -- from packets decoded alone --


def _standalone_signals(
    reader: VideoReader, frame_ids: np.ndarray, names: list[str], camera: str
) -> list[PictureSignals]:
    """Signals of sampled frames, the vectors of B pictures taken from P pictures.

    Alone, a B picture's vectors come out wrong: direct blocks take theirs from the co-located picture, which
    is grey here, and the other blocks' are told as differences to those. They are taken from the P picture
    that follows it (before a keyframe: that precedes it). Those are exact, and what moves there moves one to
    three frames earlier too, by less than a patch beside it.
    """
    sampled = {int(frame_id) for frame_id in frame_ids}
    source = _vector_sources(reader.index)
    sources = {int(source[frame_id]) for frame_id in sampled} if "vectors" in names else set()
    # Bits need no replacement in intra pictures: they have their own.
    earlier = {} if "bits" in names else keyframes_before(reader.index, sampled)
    changes = PictureDifferences(earlier)

    def measure(picture: StandalonePicture, frame_id: int) -> PictureSignals:
        height, width = picture.luma.shape
        signals = PictureSignals(picture.picture_type, height, width, is_damaged=picture.is_damaged)
        if picture.is_damaged:
            return signals
        changes.add(frame_id, picture.luma)
        if picture.picture_type == "I":
            return signals
        if frame_id in sources:
            signals.maps["vectors"] = _own_motion(picture.vectors, height, width, camera)
        if "residual" in names and frame_id in sampled:
            signals.maps["residual"] = residual_energy(picture, STANDALONE_BLOCK)
        return signals

    wanted = sorted(sampled | sources | {key for key in earlier.values() if key is not None})
    if "bits" in names:
        pictures = read_standalone_pictures(reader, wanted)
        known = {
            frame_id: measure(picture, frame_id) for frame_id, picture in zip(wanted, pictures, strict=True)
        }
        estimates = bits(pictures, reader.index.size[wanted].tolist())[0]
        for frame_id, estimate in zip(wanted, estimates, strict=True):
            if not known[frame_id].is_damaged:
                known[frame_id].maps["bits"] = estimate
    else:
        results = read_standalone_pictures(reader, wanted, vectors_of=sources, block_qp=False, then=measure)
        known = dict(zip(wanted, results, strict=True))
        unmarked = [i for i in sampled - earlier.keys() if known[i].picture_type == "I"]
        changes.found |= read_differences(reader, unmarked)
    for frame_id in sampled:
        picture = known[frame_id]
        if picture.is_damaged:
            continue
        if picture.picture_type == "I":
            picture.intra_fallback = changes.found.get(frame_id)
        elif sources:
            other = known[int(source[frame_id])]
            if "vectors" in other.maps and (other.height, other.width) == (picture.height, picture.width):
                picture.maps["vectors"] = other.maps["vectors"]
    return [known[int(frame_id)] for frame_id in frame_ids]


def _vector_sources(index: PacketIndex) -> np.ndarray:
    """(N,) for each frame the P picture whose motion is nearest to its own; a P picture's is itself.

    Known from the order alone: what is shown before a picture that was decoded earlier is a B picture, and
    the last shown of those decoded earlier is the reference after it.
    """
    decoded = np.argsort(index.rank)
    latest = np.maximum.accumulate(decoded)
    following = np.empty_like(decoded)
    following[decoded] = latest
    references = np.unique(latest)
    place = np.searchsorted(references, following)
    # A keyframe has no motion, so what leads up to it takes that of the reference before.
    return np.where(index.keyframe[following], references[np.maximum(place - 1, 0)], following)


def _own_motion(records: np.ndarray | None, height: int, width: int, camera: str) -> np.ndarray:
    """What each block moves beyond the camera, against the past or the future, whichever is more, less a dead
    zone; zero where it has no vector."""
    energy = np.zeros((-(-height // STANDALONE_BLOCK), -(-width // STANDALONE_BLOCK)), np.float32)
    source = np.empty(0, np.int32) if records is None else np.ascontiguousarray(records["source"])
    for reference, sign in (("past", -1), ("future", 1)):
        if not (source * sign > 0).any():
            continue
        field = vectors(records, height, width, reference=reference, block=STANDALONE_BLOCK)
        energy = np.maximum(energy, vector_energy(field, camera))
    return np.maximum(energy - VECTOR_DEAD_ZONE, 0)


# -- from decoded pictures --


def _decoded_signals(
    reader: VideoReader | FrameSequence, frame_ids: np.ndarray, settings: SignalSettings
) -> list[PictureSignals]:
    names = [name for name, _ in settings.pairs]
    with_vectors = bool({"vectors", "compensated"} & set(names))
    # What is compared with the frame before needs that frame decoded too: all, or the pictures without
    # vectors.
    compared = frame_ids
    if with_vectors and "difference" not in names and isinstance(reader, VideoReader):
        compared = frame_ids[reader.index.keyframe[frame_ids]]
    wanted = np.union1d(frame_ids, compared[compared > 0] - 1)
    sampled = {int(frame_id) for frame_id in frame_ids}
    found: dict[int, PictureSignals] = {}
    frames = reader.frames(wanted, motion_vectors=with_vectors, references=with_vectors)
    for frame, before, past, future in with_neighbours(frames):
        if frame.frame_id not in sampled:
            continue
        luma, records = frame.luma, frame.motion_vectors if with_vectors else None
        height, width = luma.shape
        signals = PictureSignals(frame.picture_type, height, width, is_damaged=frame.is_damaged)
        found[frame.frame_id] = signals
        if signals.is_damaged:
            continue
        if "difference" in names:
            signals.maps["difference"] = difference(luma, before)
        if records is None or not len(records):
            signals.intra_fallback = difference(luma, before) if with_vectors else None
        else:
            if "vectors" in names and settings.preset == "published":
                # As the published grids do, blocks without a past reference count as standing still.
                field = np.nan_to_num(vectors(records, *luma.shape, whole_pixels=True))
                signals.maps["vectors"] = vector_energy(field, settings.camera_model)
            elif "vectors" in names:
                signals.maps["vectors"] = _own_motion(records, height, width, settings.camera_model)
            if "compensated" in names:
                signals.maps["compensated"] = compensated(luma, records, past, future)
    return [found[int(frame_id)] for frame_id in frame_ids]


# -- onto the patch grid --


def _onto_grid(
    pictures: list[PictureSignals], settings: SignalSettings, geometry: FrameGeometry, shown: tuple[int, bool]
) -> dict[str, np.ndarray]:
    """Normalise each signal and carry it over: (T, gh, gw) float32 by name, "intra_fallback" the last."""
    shape = (len(pictures), geometry.grid_height, geometry.grid_width)
    found = {name: np.zeros(shape, np.float32) for name in (*dict(settings.pairs), "intra_fallback")}
    for name, _ in settings.pairs:
        maps = {t: picture.maps[name] for t, picture in enumerate(pictures) if name in picture.maps}
        maps = _in_one_unit(name, maps, pictures)
        if maps:
            scales = _scales(maps, FLOORS[name], settings.normalize == "clip")
            # Bits are compared as they are: what cost most comes first. The others are cut where they are
            # large.
            relative = {t: values / scales[t] for t, values in maps.items()}
            if name != "bits":
                relative = {t: np.minimum(values, 1) for t, values in relative.items()}
            _pool_into(found[name], relative, pictures, geometry, shown)
    changes = {
        t: p.intra_fallback for t, p in enumerate(pictures) if p.intra_fallback is not None and not p.maps
    }
    scales = _scales(changes, FLOORS["difference"], False)
    relative = {t: np.minimum(values / scales[t], 1) for t, values in changes.items()}
    _pool_into(found["intra_fallback"], relative, pictures, geometry, shown)
    return found


def _in_one_unit(
    name: str, maps: dict[int, np.ndarray], pictures: list[PictureSignals]
) -> dict[int, np.ndarray]:
    """Pixels and bits of a block as they would be in pictures of the first one's size, where a stream changes
    its size; grey levels are the same in all."""
    power = {"vectors": -0.5, "bits": 1.0}.get(name)
    areas = [picture.height * picture.width for picture in pictures]
    if power is None or len(set(areas)) == 1:
        return maps
    return {t: values * np.float32((areas[t] / areas[0]) ** power) for t, values in maps.items()}


def _scales(maps: dict[int, np.ndarray], floor: float, over_clip: bool) -> dict[int, np.float32]:
    """What each picture's map is divided by."""
    if over_clip:
        together = np.concatenate([values.ravel() for values in maps.values()])
        return dict.fromkeys(maps, np.float32(max(percentile_95(together), floor)))
    return {t: np.float32(max(percentile_95(values), floor)) for t, values in maps.items()}


def _pool_into(
    found: np.ndarray,
    relative: dict[int, np.ndarray],
    pictures: list[PictureSignals],
    geometry: FrameGeometry,
    shown: tuple[int, bool],
) -> None:
    """Carry block maps from stored orientation onto the patch grid (turned, mirrored, pixel shape applied),
    those of one size together: all of them, unless the stream changes its size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for t, values in relative.items():
        sizes.setdefault((pictures[t].height, pictures[t].width, *values.shape), []).append(t)
    for (height, width, rows, columns), times in sizes.items():
        # Maps come on grids of 4, 8 or 16 pixels.
        block = next(
            step for step in (4, 8, 16) if (-(-height // step), -(-width // step)) == (rows, columns)
        )
        offset = overhang(height, width, block, *shown)
        if shown[0] % 180:
            height, width = width, height
        block_height, block_width = block * geometry.height / height, block * geometry.width / width
        for first in range(0, len(times), POOLED_TOGETHER):
            some = times[first : first + POOLED_TOGETHER]
            maps = np.stack([turn(relative[t], *shown) for t in some])
            found[some] = geometry.pool(maps, block_height, block_width, offset)


def percentile_95(values: np.ndarray) -> float:
    """numpy's 95th percentile by a partial sort, which is several times faster than a full one."""
    flat = values.ravel()
    place = 0.95 * (flat.size - 1)
    low = int(place)
    high = min(low + 1, flat.size - 1)
    parts = np.partition(flat, (low, high))
    return float(parts[low] + (place - low) * (parts[high] - parts[low]))
