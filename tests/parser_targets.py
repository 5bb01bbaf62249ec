"""What the parsers of this package owe to whatever bytes they are given: a result, or the error they name.

    TARGETS["mp4-boxes"](data)              # raises what the parser must not, or AssertionError
    starts(zoo)["mp4-boxes"]                # sound inputs, from which fuzzing starts

Used by `scripts/fuzz_parsers.py`, which looks for inputs that break a promise, and by `test_corpus.py`, which
reads those that once did.
"""

import io
import json
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from onevision_hf.modeling.av1_bitstream import RevealedAV1
from onevision_hf.modeling.av1_headers import parse_sequence_header, split_obus
from onevision_hf.modeling.bitstream import split_packet
from onevision_hf.modeling.coded_picture import BitstreamError, CodedPicture
from onevision_hf.modeling.h264_bitstream import (
    direct_is_spatial,
    grey_picture,
    parse_picture_parameters,
    parse_sequence_parameters,
)
from onevision_hf.modeling.hevc_bitstream import RevealedHEVC
from onevision_hf.modeling.hevc_sequence import read_sequence_parameters, without_reordering
from onevision_hf.modeling.hevc_slices import read_picture_parameters
from onevision_hf.modeling.mp4_boxes import claimed_samples, length_of_boxes
from onevision_hf.modeling.parameter_sets import ParameterTrack
from onevision_hf.modeling.standalone_decoder import _H264Heads
from onevision_hf.modeling.video_demuxer import padded_packet
from onevision_hf.modeling.video_formats import HEAD_BYTES, explain_refusal, explain_silence
from onevision_hf.modeling.video_source import VideoFile
from onevision_hf.modeling.vp8_bitstream import RevealedVP8
from onevision_hf.modeling.vp9_bitstream import RevealedVP9
from onevision_hf.modeling.vvc_bitstream import RevealedVVC
from onevision_hf.modeling.vvc_pictures import read_picture_parameters as read_vvc_picture_parameters
from onevision_hf.modeling.vvc_sequence import reveal_sequence

VVC = Path(__file__).parent / "fixtures" / "vvc"
CODECS = ("h264", "hevc", "vvc", "av1", "vp8", "vp9")
STREAMS: dict[str, Callable[[bytes], Any]] = {
    "hevc": RevealedHEVC,
    "vvc": RevealedVVC,
    "av1": lambda extradata: RevealedAV1(extradata, loop_filter=False),
    "vp8": RevealedVP8,
    "vp9": lambda extradata: RevealedVP9(extradata, loop_filter=False),
}
# Clips of which the headers are taken.
CLIPS = {
    "h264": ("h264-bframes.mp4", "h264-interlaced.mkv", "h264-10-bit.mkv", "h264-bframes.ts"),
    "hevc": ("hevc-bframes.mp4", "hevc-10-bit.ts"),
    "av1": ("av1.mp4", "av1.mkv"),
    "vp8": ("vp8-hidden.webm",),
    "vp9": ("vp9-hidden.webm", "vp9.mp4"),
}
MAX_GREY = 1 << 18  # bytes of a grey picture: the largest that H.264 has take half
MAX_GROWTH = 4096  # bytes by which rewriting may lengthen a packet beyond twice its size
MAX_PACKETS = 12  # of a clip, to start from
TABLES = (".json", ".jsonl", ".csv", ".tar-json")


def pack(codec: str, chunks: list[bytes]) -> bytes:
    """A codec, the header of a container, and packets, as `check_streams` takes them."""
    lengths = [len(chunk).to_bytes(2, "big") + chunk for chunk in chunks]
    return bytes([CODECS.index(codec)]) + b"".join(lengths)


def unpack(data: bytes) -> tuple[str, list[bytes]]:
    """The reverse, of any bytes: lengths that lead beyond the end stop there."""
    codec, place = CODECS[(data[0] if data else 0) % len(CODECS)], 1
    chunks = []
    while place < len(data):
        length = int.from_bytes(data[place : place + 2], "big")
        chunks.append(data[place + 2 : place + 2 + length])
        place += 2 + length
    return codec, chunks or [b""]


def _followed(codec: str, extradata: bytes, packet: bytes) -> list[bytes]:
    """The parameter sets of H.264 or HEVC in force at a keyframe's packet behind a header."""
    track, keyframe = ParameterTrack(codec, extradata), padded_packet(packet)
    keyframe.is_keyframe = True
    track.follow(1, keyframe)
    return list(track.latest.units)


def check_parameter_sets(data: bytes) -> None:
    """A parameter set, or a container's header; the first byte chooses the codec."""
    codec, unit = CODECS[(data[0] if data else 0) % 4], data[1:]
    if codec in ("h264", "hevc"):
        assert all(_followed(codec, unit, unit))
    if codec == "h264":
        with suppress(ValueError):
            sequence = parse_sequence_parameters(unit)
            assert sum(map(len, grey_picture(sequence, 255))) <= MAX_GREY, sequence
        with suppress(ValueError):
            parse_picture_parameters(unit)
    elif codec == "hevc":
        with suppress(BitstreamError):
            read_picture_parameters(unit)
        with suppress(BitstreamError):
            RevealedHEVC(unit)
        with suppress(BitstreamError):
            found = read_sequence_parameters(unit)
            changed = without_reordering(unit)
            with suppress(BitstreamError):
                assert read_sequence_parameters(changed) == found
    elif codec == "vvc":
        with suppress(BitstreamError):
            read_vvc_picture_parameters(unit)
        with suppress(BitstreamError):
            RevealedVVC(unit)
        with suppress(BitstreamError):
            sequence, changed = reveal_sequence(unit)
            with suppress(BitstreamError):
                assert reveal_sequence(changed)[0] == sequence
    else:
        with suppress(BitstreamError):
            RevealedAV1(unit)
        with suppress(ValueError):
            parse_sequence_header(unit)


def check_streams(data: bytes) -> None:
    """Slice and frame headers, packet by packet; an empty packet is an entry."""
    codec, (extradata, *packets) = unpack(data)
    if codec == "h264":
        _check_h264(extradata, packets)
        return
    try:
        stream = STREAMS[codec](extradata)
    except BitstreamError:
        return
    fed, count = len(extradata), 0
    for packet in packets:
        if not packet:
            stream.enter()
            continue
        fed += len(packet)
        try:
            steps = stream.split(packet)
        except BitstreamError:
            continue
        for step in steps:
            _check_step(step, count)
            count = max(count, step.number + 1)
        assert sum(len(step.data) + len(step.reveal) for step in steps) <= 2 * fed + MAX_GROWTH


def _check_step(step: CodedPicture, count: int) -> None:
    """One of a stream that has had `count` pictures so far."""
    assert step.number >= -1 and (not step.is_coded or step.number == count or codec_skips(step, count))
    for reference in step.references or ():
        assert 0 <= reference.number < max(count, step.number + 1)
        assert all(map(math.isfinite, (*reference.weights, *reference.offsets)))
    assert all(0 <= number <= max(count, step.number) for number in step.kept or ())
    assert all(math.isfinite(weight) for weight in step.pair_weights.values())


def codec_skips(step: CodedPicture, count: int) -> bool:
    """Numbers may be left out where a packet could not be read to its end, and never come again."""
    return step.number > count


def _check_h264(extradata: bytes, packets: list[bytes]) -> None:
    track = ParameterTrack("h264", extradata)
    for rank, packet in enumerate(packets):
        track.follow(rank, padded_packet(packet))
        with suppress(ValueError):  # as its callers expect
            heads = _H264Heads(track.latest)
            units = heads.slices(packet)
            sequence, picture = heads.parameters_of(units)
            direct_is_spatial(units[0], sequence, picture)
            fed = len(extradata) + sum(map(len, packets))
            assert len(heads.before(sequence)) <= MAX_GREY + 2 * fed


def check_boxes(data: bytes) -> None:
    """The boxes of an mp4, before FFmpeg reads them."""
    assert length_of_boxes(io.BytesIO(data), len(data)) >= 0
    assert claimed_samples(io.BytesIO(data), len(data)) >= 0


def check_lengths(data: bytes) -> None:
    """What EBML (mkv, webm) and RIFF (avi) say of their length, and what the beginning of a file tells."""
    if data:
        file = VideoFile(data)
        assert all(file.missing_bytes(name) >= 0 for name in ("matroska,webm", "avi", "mov,mp4"))
    for explain in (explain_refusal, explain_silence):
        assert explain(data[:HEAD_BYTES]) is None or explain(data[:HEAD_BYTES])


def check_manifests(data: bytes) -> None:
    """Tables of captions and conversations; the first byte chooses the kind. Errors name the file."""
    from onevision_hf.data.captions import FolderPairs
    from onevision_hf.data.conversations import open_conversations
    from onevision_hf.data.sources import MediaError, fields_of

    suffix, content = TABLES[(data[0] if data else 0) % len(TABLES)], data[1:]
    if suffix == ".tar-json":
        with suppress(ValueError):
            fields_of(content)
        return
    folder = _scratch()
    path = folder / f"table{suffix}"
    path.write_bytes(content)
    try:
        if suffix != ".csv":
            conversations = open_conversations(str(path))
            for number in range(min(len(conversations), 4)):
                with suppress(MediaError):
                    assert conversations[number].messages
    except ValueError as error:
        assert path.name in str(error), error
    if suffix != ".json":
        try:
            pairs = FolderPairs(path, folder, "", ())
            assert all(isinstance(text, str) for text in pairs[0].captions)
        except ValueError as error:
            assert path.name in str(error), error


def check_configs(data: bytes) -> None:
    """Configs of trainings (YAML), settings of processors and of the encoder (JSON)."""
    from onevision_hf import OneVisionConfig, OneVisionVideoProcessor
    from onevision_hf.modeling.patchify_config import PatchifyConfig
    from onevision_hf.training.config import ConfigError, load_config

    kind, content = (data[0] if data else 0) % 3, data[1:]
    if kind == 0:
        path = _scratch() / "config.yaml"
        path.write_bytes(content)
        with suppress(ConfigError):
            load_config(str(path))
        return
    with suppress(ValueError, RecursionError):  # transformers reads the file
        found = json.loads(content)
        if isinstance(found, dict):
            build = OneVisionConfig if kind == 1 else OneVisionVideoProcessor
            with suppress(ValueError, TypeError, StrictDataclassError):  # as transformers checks configs
                build(**found)
            with suppress(ValueError, TypeError):
                settings = PatchifyConfig.from_dict(found)
                assert PatchifyConfig.from_dict(settings.to_dict()) == settings


TARGETS: dict[str, Callable[[bytes], None]] = {
    "parameter-sets": check_parameter_sets,
    "slice-headers": check_streams,
    "mp4-boxes": check_boxes,
    "ebml": check_lengths,
    "manifests": check_manifests,
    "configs": check_configs,
}


@cache
def _scratch() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="onevision-parsers-"))
    (folder / "a.jpg").touch()
    return folder


def starts(zoo: Any) -> dict[str, list[bytes]]:
    """Sound inputs of each target. `zoo`: of `clip_zoo`."""
    import av

    found: dict[str, list[bytes]] = {name: [] for name in TARGETS}
    paths = {codec: [zoo[name] for name in names] for codec, names in CLIPS.items()}
    paths["vvc"] = sorted(VVC.glob("*.mp4"))
    for codec, files in paths.items():
        for path in files:
            with av.open(str(path)) as container:
                context = container.streams.video[0].codec_context
                extradata = context.extradata or b""
                packets = [bytes(packet) for packet in container.demux(video=0) if packet.size][:MAX_PACKETS]
            found["slice-headers"].append(pack(codec, [extradata, *(p[:600] for p in packets)]))
            found["slice-headers"].append(pack(codec, [extradata, *(p[:60] for p in packets[:4])]))
            if codec in CODECS[:4]:
                number = bytes([CODECS.index(codec)])
                found["parameter-sets"] += [
                    number + unit for unit in (extradata, *_units(codec, extradata, packets[0]))
                ]
    for name in ("h264-bframes.mp4", "fragmented.mp4", "edit-list.mp4"):
        data = zoo[name].read_bytes()
        at = max(data.find(b"moov") - 4, 0)
        found["mp4-boxes"] += [data[at : at + 4000], data[:400]]
    for name in ("h264-bframes.mkv", "vp9-hidden.webm", "h264-bframes.avi"):
        found["ebml"].append(zoo[name].read_bytes()[:600])
    found["ebml"] += [
        b"#EXTM3U\n",
        b"ffconcat version 1.0\n",
        b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\0\0",
    ]
    llava = [{"id": "a", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}]
    chat = {"video": ["a.mp4"], "messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}
    pair = {"file_name": "a.jpg", "caption": ["one", "two"]}
    found["manifests"] = [
        b"\0" + json.dumps([*llava, chat]).encode(),
        b"\1" + "\n".join(map(json.dumps, [*llava, chat, pair])).encode(),
        b"\1" + json.dumps(pair).encode(),
        b'\2file_name,caption\na.jpg,one\na.jpg,"two, and"\n',
        b"\3" + json.dumps({"caption": "one", "tags": ["a"]}).encode(),
    ]
    found["configs"] = [b"\0" + path.read_bytes() for path in sorted(_configs().glob("*.yaml"))]
    found["configs"] += [
        b"\1"
        + json.dumps({"hidden_size": 48, "num_attention_heads": 2, "rope_temporal_size": None}).encode(),
        b"\2" + json.dumps({"size": {"shortest_edge": 224}, "num_frames": 8, "keep_ratio": 0.2}).encode(),
    ]
    return found


def _units(codec: str, extradata: bytes, packet: bytes) -> list[bytes]:
    """Parameter sets as single units."""
    if codec in ("h264", "hevc"):
        return _followed(codec, extradata, packet)
    if codec == "vvc":
        with suppress(BitstreamError):
            return split_packet(packet, 4)
        return []
    return [obu.header for obu in split_obus(packet)]


def _configs() -> Path:
    from onevision_hf.training.config import CONFIGS

    return Path(str(CONFIGS))
