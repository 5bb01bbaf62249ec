"""From a video to one energy map a sampled frame on the patch grid: which signals, how scaled, how added up.

Presets:
    auto        the best signal that the codec gives: vectors + exact residual (H.264), painted vectors +
                residual (HEVC, VP8, VP9, AV1, MPEG-4 with B pictures), vectors + compensated residual
                (MPEG-1/2/4, H.263, and H.264 that cannot be decoded packet by packet), or the difference to
                the frame before (all others, and frames decoded elsewhere).
    published   what the published weights were trained with: vectors in whole pixels + compensated residual.
    bits        an estimate of the bits that each block cost, which the authors' later work uses.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import numpy as np

from .codec_signals import VECTOR_CODECS
from .decoded_frame import overhang, turn
from .decoded_signals import decoded_signals
from .frame_geometry import FrameGeometry
from .frame_sequence import FrameSequence
from .painted_codecs import REVEALED, PaintingError, can_be_painted, has_painted_vectors
from .picture_signals import PictureSignals
from .shot_cuts import ShotSearch
from .signal_settings import SignalSettings
from .standalone_decoder import STANDALONE_CODECS, UnsupportedStreamError
from .standalone_signals import standalone_signals
from .video_reader import VideoReader

# Below these a picture's 95th percentile is noise: pixels, grey levels, bits.
FLOORS = {"vectors": 1.0, "residual": 4.0, "compensated": 1.0, "difference": 1.0, "bits": 32.0}
POOLED_TOGETHER = 16  # maps: enough to be quick, few enough to stay small
# A picture without the other signals (intra coded) counts with half of what differs from before.
INTRA_FALLBACK_WEIGHT = 0.5


def frame_energies(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    geometry: FrameGeometry,
    settings: SignalSettings | None = None,
    search: ShotSearch | None = None,
) -> tuple[np.ndarray, list[str], str, np.ndarray]:
    """Energy of sampled frames on the patch grid: the maps of `signal_maps`, weighed and added up.

    A picture's maps are divided by what is strong in that picture, so that every picture has its say. What
    the same maps are in one unit for all pictures is the absolute energy: each signal in its noise floor (a
    pixel of motion, four grey levels of residual, ...; `FLOORS`), with the same weights, and still cut at the
    picture's 95th percentile. What stands in for intra pictures is compared with a picture far before, in
    another unit than theirs, and counts as it does in the energy.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        geometry: how a frame lies on the patch grid.
        settings: what counts; the defaults of `SignalSettings`.
        search: for cuts, which looks on while pictures are read.

    Returns:
        energy (T, gh, gw) float32 >= 0, picture types (T,), the name of the signal, absolute energy (T, gh,
        gw) float32 >= 0.

    Raises:
        ValueError: a signal was named that this codec does not give.
    """
    maps, weights, picture_types, signal, floors = _scaled_maps(reader, frame_ids, geometry, settings, search)
    energy, absolute = np.zeros((2, len(frame_ids), geometry.grid_height, geometry.grid_width), np.float32)
    for name, values in maps.items():
        weighed = np.float32(weights[name]) * values
        energy += weighed
        absolute += weighed * floors[name][:, None, None] if name in floors else weighed
    return energy, picture_types, signal, absolute


def signal_maps(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    geometry: FrameGeometry,
    settings: SignalSettings | None = None,
    search: ShotSearch | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float], list[str], str]:
    """What the energy of sampled frames is added up from, on the patch grid.

    Args:
        reader: the open video.
        frame_ids: (T,) numbers of the sampled frames.
        geometry: how a frame lies on the patch grid.
        settings: what counts; the defaults of `SignalSettings`.
        search: for cuts, which looks on while pictures are read.

    Returns:
        maps (T, gh, gw) float32 >= 0 by signal, zero in pictures that have no such signal;
        "intra_fallback", which stands in for pictures without any (intra coded), is the last. Their weights.
        Picture types (T,). The name of the signal.

    Raises:
        ValueError: a signal was named that this codec does not give.
    """
    return _scaled_maps(reader, frame_ids, geometry, settings, search)[:4]


def _scaled_maps(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    geometry: FrameGeometry,
    settings: SignalSettings | None,
    search: ShotSearch | None,
) -> tuple[dict[str, np.ndarray], dict[str, float], list[str], str, dict[str, np.ndarray]]:
    """What `signal_maps` gives, and by signal (T,) float32: how many noise floors a value of 1 is."""
    settings = settings or SignalSettings()
    pictures, chosen, note = _read_signals(reader, frame_ids, settings, search)
    maps, floors = _onto_grid(pictures, chosen, geometry, (reader.rotation, reader.mirrored))
    signal = "+".join(name for name, _ in chosen.pairs) + note
    if reader.missing:
        signal += f" (the file {reader.missing})"
    if damaged := sum(picture.is_damaged for picture in pictures):
        signal += f" ({damaged} of {len(pictures)} pictures are damaged and give none)"
    weights = dict(chosen.pairs) | {"intra_fallback": INTRA_FALLBACK_WEIGHT}
    return maps, weights, [picture.picture_type for picture in pictures], signal, floors


def _read_signals(
    reader: VideoReader | FrameSequence,
    frame_ids: np.ndarray,
    settings: SignalSettings,
    search: ShotSearch | None,
) -> tuple[list[PictureSignals], SignalSettings, str]:
    """The signals of the pictures, which they are, and what is to be said of them."""
    if settings.signals is None:
        choices, note = _preset(settings, reader)
    else:
        choices, note = [settings], ""
        _check_given(settings.signals, reader)
    chosen = choices[-1]
    if not isinstance(reader, VideoReader):
        return decoded_signals(reader, frame_ids, chosen), chosen, note
    for chosen in choices:
        names = [name for name, _ in chosen.pairs]
        try:
            if is_painted(names, reader.codec):
                from .painted_signals import painted_signals  # large, and of no use for H.264

                pictures, told = painted_signals(reader, frame_ids, chosen, search)
                return pictures, chosen, told + note
            if reader.codec in STANDALONE_CODECS and {"residual", "bits"} & set(names):
                pictures = standalone_signals(reader, frame_ids, names, chosen.camera_model, search)
                return pictures, chosen, note
        except (UnsupportedStreamError, PaintingError) as error:
            what = "painted references" if isinstance(error, PaintingError) else "exact residual"
            if settings.signals is not None:
                raise ValueError(f"{reader.name} gives no {what}: {error}") from error
            note = f" (no {what}: {error}){note}"
        else:
            break
    return decoded_signals(reader, frame_ids, chosen, search), chosen, note


def paints(reader: VideoReader | FrameSequence, settings: SignalSettings) -> TypeGuard[VideoReader]:
    """Whether the signals of a video are read by painted references, if its stream allows it."""
    if not isinstance(reader, VideoReader):
        return False
    chosen = settings if settings.signals is not None else _preset(settings, reader)[0][0]
    return is_painted([name for name, _ in chosen.pairs], reader.codec)


def is_painted(names: Sequence[str], codec: str) -> bool:
    """Whether these signals of a codec are read by painted references: those whose name says so, and those
    that its decoder does not give otherwise."""
    if any(name.startswith("painted_") for name in names):
        return True
    if codec not in REVEALED:
        return False
    return "vectors" in names or ("residual" in names and codec not in STANDALONE_CODECS)


def _preset(
    settings: SignalSettings, reader: VideoReader | FrameSequence
) -> tuple[list[SignalSettings], str]:
    """The signals of a preset, the best first, and a note where this codec cannot serve the preset."""
    codec = reader.codec
    exports, alone = codec in VECTOR_CODECS, codec in STANDALONE_CODECS
    decoded = ("vectors", "compensated") if exports else ("difference",)
    choices = [replace(settings, signals=decoded, weights=(1.0, 0.5)[: len(decoded)])]
    if alone and settings.preset == "bits":
        return [replace(settings, signals=("bits",), normalize=settings.normalize or "clip"), *choices], ""
    if settings.preset != "auto":
        served = settings.preset == "published" and exports
        return choices, "" if served else f" ({codec} has no signals for {settings.preset!r})"
    if not isinstance(reader, VideoReader):
        return choices, ""
    if codec == "hevc":
        choices.insert(0, replace(settings, signals=("residual",)))
    if has_painted_vectors(reader):
        names = ("painted_vectors", "painted_residual") if exports else ("vectors", "residual")
        choices.insert(0, replace(settings, signals=names, weights=(1.0, 0.5)))
    if exports and alone:
        choices.insert(0, replace(settings, signals=("vectors", "residual"), weights=(1.0, 0.5)))
    return choices, ""


def given_signals(reader: VideoReader | FrameSequence) -> list[str]:
    """The signals that this video's codec gives, some of them not for all streams."""
    codec = reader.codec
    given = ["difference"]
    given += ["vectors", "compensated"] if codec in VECTOR_CODECS else []
    given += ["residual", "bits"] if codec in STANDALONE_CODECS else []
    if isinstance(reader, VideoReader):
        given += ["vectors", "residual"] if codec in REVEALED else []
        given += ["painted_vectors", "painted_residual"] if can_be_painted(reader) else []
    return list(dict.fromkeys(given))


def _check_given(names: Sequence[str], reader: VideoReader | FrameSequence) -> None:
    codec, given = reader.codec, given_signals(reader)
    missing = [name for name in names if name not in given]
    if missing:
        raise ValueError(f"{codec} gives no {' and no '.join(missing)}: choose of {', '.join(given)}")
    decoded = {"compensated", "difference"} & set(names)
    if is_painted(names, codec):
        other = decoded | ({"bits"} & set(names))
        if codec not in REVEALED:
            other |= {"vectors", "residual"} & set(names)
        if other:
            raise ValueError(
                f"{', '.join(sorted(other))} cannot be mixed with painted references: choose one kind"
            )
    exact = {"residual", "bits"} & set(names)
    if exact and decoded:
        raise ValueError(
            f"{', '.join(sorted(exact))} (packets alone) and {', '.join(sorted(decoded))} (decoded pictures) "
            "cannot be mixed: choose one kind, with vectors or without"
        )


# -- onto the patch grid --


def _onto_grid(
    pictures: list[PictureSignals], settings: SignalSettings, geometry: FrameGeometry, shown: tuple[int, bool]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Normalise each signal and carry it over: (T, gh, gw) float32 by name, "intra_fallback" the last; and by
    name of the others (T,) float32, how many noise floors each picture's was divided by."""
    shape = (len(pictures), geometry.grid_height, geometry.grid_width)
    found = {name: np.zeros(shape, np.float32) for name in (*dict(settings.pairs), "intra_fallback")}
    floors = {name: np.zeros(len(pictures), np.float32) for name, _ in settings.pairs}
    for name, _ in settings.pairs:
        maps = {t: picture.maps[name] for t, picture in enumerate(pictures) if name in picture.maps}
        maps = _in_one_unit(name, maps, pictures)
        if maps:
            floor = FLOORS[name.removeprefix("painted_")]
            scales = _scales(maps, floor, settings.normalize == "clip")
            floors[name][list(scales)] = [scale / floor for scale in scales.values()]
            # Bits are compared as they are: what cost most comes first. The others are cut where they are
            # large.
            relative = {t: values / scales[t] for t, values in maps.items()}
            if name != "bits":
                relative = {t: np.minimum(values, 1) for t, values in relative.items()}
            pool_into(found[name], relative, pictures, geometry, shown)
    changes = {
        t: p.intra_fallback for t, p in enumerate(pictures) if p.intra_fallback is not None and not p.maps
    }
    scales = _scales(changes, FLOORS["difference"], False)
    relative = {t: np.minimum(values / scales[t], 1) for t, values in changes.items()}
    pool_into(found["intra_fallback"], relative, pictures, geometry, shown)
    return found, floors


def _in_one_unit(
    name: str, maps: dict[int, np.ndarray], pictures: list[PictureSignals]
) -> dict[int, np.ndarray]:
    """Pixels and bits of a block as they would be in pictures of the first one's size, where a stream changes
    its size; grey levels are the same in all."""
    power = {"vectors": -0.5, "bits": 1.0}.get(name.removeprefix("painted_"))
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


def pool_into(
    found: np.ndarray,
    relative: dict[int, np.ndarray],
    pictures: list[PictureSignals],
    geometry: FrameGeometry,
    shown: tuple[int, bool],
) -> None:
    """Carry block maps from stored orientation onto the patch grid (turned, mirrored, pixel shape applied),
    those of one size together: all of them, unless the stream changes its size.

    Args:
        found: (T, gh, gw), what is written into.
        relative: of some of the T pictures their maps, on blocks of 4, 8 or 16 pixels.
        pictures: T, for their sizes.
        geometry: how a frame lies on the patch grid.
        shown: the reader's rotation and whether it is mirrored.
    """
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
