"""Frames that the reader jumps to are those of a plain decode, in every codec and container; bad files say
what is wrong with them."""

import io
import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from clip_zoo import FRAMES, Zoo
from clips import moving_scene, write_clip
from fuzz_codec import read_in_child
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onevision_hf import VideoReader
from onevision_hf.modeling import run_decoder, video_demuxer
from onevision_hf.modeling.codec_signals import VECTOR_CODECS
from onevision_hf.modeling.decoded_frame import converted

# Data that fail in one way or another with every PyAV are reported by exceptions, not by these lines.
av.logging.set_level(av.logging.PANIC)
WITH_VECTORS = ("h264-bframes.mp4", "h264-interlaced.mkv", "h264-444-odd.mp4", "mpeg4.avi", "mpeg2.ts")
WITH_VECTORS += ("h263.avi", "flv1.flv", "msmpeg4v3.avi", "wmv2.asf", "mpeg2.mpg", "h264-open-gop.ts")


@pytest.fixture(scope="session")
def plain(zoo):
    """What FFmpeg gives for a clip when it decodes all of it on one thread, once a session."""
    kept: dict[str, list[av.VideoFrame]] = {}

    def decode(name: str) -> list[av.VideoFrame]:
        if name not in kept:
            frames = plain_decode(zoo[name])
            if name.startswith("cut"):  # FFmpeg 7 guesses at what lies before the first keyframe
                frames = frames[next(place for place, frame in enumerate(frames) if frame.key_frame) :]
            kept[name] = frames
        return kept[name]

    return decode


def plain_decode(path: Path, vectors: bool = False) -> list[av.VideoFrame]:
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        if vectors:
            stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        for packet in container.demux(stream):
            try:
                frames += stream.codec_context.decode(packet)
            except av.FFmpegError:  # what lies before the first keyframe of a cut stream
                continue
    return frames


def pixels(frame: av.VideoFrame) -> np.ndarray:
    return frame.to_ndarray(format="rgb24")


def same_vectors(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Field by field: the records hold padding that nobody writes."""
    if a is None or b is None:
        return a is b
    return all(np.array_equal(a[name], b[name]) for name in a.dtype.names)


# -- which frames --


@pytest.mark.parametrize("name", Zoo.names())
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_frames_fetched_alone_are_those_of_a_plain_decode(name, zoo, plain, monkeypatch, data):
    expected = plain(name)
    monkeypatch.setattr(run_decoder, "SEEK_BYTES", data.draw(st.sampled_from([0, 2000, 1 << 22])))
    reader = VideoReader(zoo[name])
    assert len(reader) == len(expected)
    ids = data.draw(st.lists(st.integers(0, len(reader) - 1), min_size=1, max_size=6))
    got = list(reader.frames(ids))
    assert [frame.frame_id for frame in got] == sorted(set(ids))
    for frame in got:
        assert np.array_equal(pixels(frame.av_frame), pixels(expected[frame.frame_id]))


@pytest.mark.parametrize("name", [name for name in Zoo.names() if name != "h264-bframes.avi"])
def test_times_are_those_of_a_plain_decode(name, zoo, plain):
    times = np.array([float(frame.pts * frame.time_base) for frame in plain(name)])
    reader = VideoReader(zoo[name])
    assert np.allclose(reader.timestamps, times - times[0], atol=1e-6)
    assert reader.fps == pytest.approx((len(times) - 1) / (times[-1] - times[0]))
    with av.open(str(zoo[name])) as container:
        stream = container.streams.video[0]
        told = float(stream.duration * stream.time_base) if stream.duration else 0.0
        last = max((p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None)[1]
    length = float(last * stream.time_base) or 1 / reader.fps
    assert reader.duration == pytest.approx(reader.timestamps[-1] + length, abs=1e-3)
    if name.endswith((".mp4", ".mov")):  # the length of the track
        assert reader.duration == pytest.approx(told, abs=1e-3)


def test_an_avi_with_b_pictures_has_evenly_spaced_times(zoo):
    """Its own times are in the order of decoding."""
    assert np.allclose(VideoReader(zoo["h264-bframes.avi"]).timestamps, np.arange(FRAMES) / 25)


@pytest.mark.parametrize("name", WITH_VECTORS)
def test_vectors_are_those_of_one_thread_on_every_run(name, zoo):
    expected = [frame.side_data.get("MOTION_VECTORS") for frame in plain_decode(zoo[name], vectors=True)]
    expected = [None if vectors is None else vectors.to_ndarray() for vectors in expected]
    assert VideoReader(zoo[name]).codec in VECTOR_CODECS
    assert any(vectors is not None and len(vectors) for vectors in expected)
    for stride in (1, 1, 5, 7):
        frames = list(VideoReader(zoo[name]).frames(range(0, FRAMES, stride), motion_vectors=True))
        assert all(same_vectors(frame.motion_vectors, expected[frame.frame_id]) for frame in frames)


def test_there_are_no_vectors_unless_asked_for(zoo):
    assert all(f.motion_vectors is None for f in VideoReader(zoo["h264-bframes.mp4"]).frames(range(9)))


@pytest.mark.parametrize("name", ["h264-bframes.mp4", "h264-open-gop.ts", "hevc-bframes.mp4", "mpeg2.ts"])
def test_references_come_in_order_and_decoded_right(name, zoo, plain):
    expected, wanted = plain(name), [8, 20, 33]
    types = [frame.pict_type for frame in expected]
    frames = list(VideoReader(zoo[name]).frames(wanted, references=True))
    ids = [frame.frame_id for frame in frames]
    assert ids == sorted(set(ids)) and set(wanted) < set(ids)
    for place in wanted:  # the I and P pictures on both sides of it are there
        before = max(i for i in range(place) if types[i] != av.video.frame.PictureType.B)
        assert before in ids
    assert all(np.array_equal(pixels(f.av_frame), pixels(expected[f.frame_id])) for f in frames)


def test_picture_types_and_the_index_say_what_the_stream_is_made_of(zoo, plain):
    reader = VideoReader(zoo["h264-bframes.mp4"])
    types = [frame.picture_type for frame in reader.frames(range(FRAMES))]
    assert types == [av.video.frame.PictureType(f.pict_type).name for f in plain("h264-bframes.mp4")]
    assert np.flatnonzero(reader.index.keyframe).tolist() == [0, 12, 24]
    assert sorted(reader.index.rank.tolist()) == list(range(FRAMES))
    assert reader.index.size.sum() < zoo["h264-bframes.mp4"].stat().st_size
    assert (np.diff(reader.index.pts) > 0).all() and (reader.index.start > 0).all()


# -- how much work --


def test_a_far_frame_costs_its_own_gop_and_no_more(zoo, monkeypatch):
    handed_out = count_packets(monkeypatch)
    reader = VideoReader(zoo["h264-bframes.mkv"])
    assert reader.width  # reads the first frame
    monkeypatch.setattr(run_decoder, "SEEK_BYTES", 0)
    handed_out.clear()
    list(reader.frames([30]))
    assert min(handed_out) == 24 and len(handed_out) <= 12


def test_pictures_that_nobody_needs_are_not_decoded(zoo):
    frames = list(VideoReader(zoo["h264-bframes.mp4"]).frames([0, 35], references=True))
    assert not {frame.frame_id for frame in frames} & set(range(1, 24))  # the GOPs between
    assert len(frames) < 12  # the B-pictures in the last one


@pytest.mark.parametrize("name", ["h264-bframes.mp4", "hevc-bframes.mp4", "mpeg2.ts"])
def test_packets_are_those_of_the_container_in_the_order_of_decoding(name, zoo, monkeypatch):
    monkeypatch.setattr(run_decoder, "SEEK_BYTES", 0)
    with av.open(str(zoo[name])) as container:
        stored = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    reader = VideoReader(zoo[name])
    got = list(reader.packets([35, 3, 14, 3, 20]))
    ranks = [reader.index.rank[frame_id] for frame_id, _ in got]
    assert sorted(frame_id for frame_id, _ in got) == [3, 14, 20, 35] and ranks == sorted(ranks)
    assert all(data == stored[rank] for (_, data), rank in zip(got, ranks, strict=True))


def count_packets(monkeypatch) -> list[int]:
    """The ranks of all packets that demuxers hand out from now on."""
    ranks: list[int] = []
    original = video_demuxer.Demuxer.__iter__

    def counted(self):
        for rank, packet in original(self):
            ranks.append(rank)
            yield rank, packet

    monkeypatch.setattr(video_demuxer.Demuxer, "__iter__", counted)
    return ranks


def test_a_container_whose_seeks_go_wrong_is_read_from_its_start(zoo, plain, monkeypatch):
    monkeypatch.setattr(run_decoder, "SEEK_BYTES", 0)
    monkeypatch.setattr(video_demuxer.Demuxer, "jump", lambda self, rank, table: False)
    frames = list(VideoReader(zoo["h264-bframes.mp4"]).frames([2, 20, 35]))
    assert all(
        np.array_equal(pixels(f.av_frame), pixels(plain("h264-bframes.mp4")[f.frame_id])) for f in frames
    )


def test_memory_does_not_grow_with_length(zoo, tmp_path):
    growth = {}
    for repeats in (2, 400):
        path = repeated(zoo["h264-bframes.mp4"], tmp_path / f"{repeats}.mkv", repeats)
        verdict, _, growth[repeats] = read_in_child(path)
        assert verdict == "read"
    assert growth[400] - growth[2] < 16 << 20


def repeated(source: Path, path: Path, repeats: int) -> Path:
    """A clip over and over again."""
    with av.open(str(source)) as old:
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in old.demux(video=0) if p.size]
        template, base = old.streams.video[0], old.streams.video[0].time_base
        length = round(FRAMES / 25 / base)
        with av.open(str(path), "w") as new:
            stream = new.add_stream_from_template(template)
            for turn, (data, pts, dts, key) in itertools.product(range(repeats), packets):
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.time_base = pts + turn * length, dts + turn * length, base
                packet.is_keyframe, packet.stream = key, stream
                new.mux(packet)
    return path


# -- sources --


def test_a_path_bytes_and_file_objects_give_the_same_frames(zoo):
    path = zoo["h264-bframes.mp4"]
    data = path.read_bytes()

    class Pipe:  # a file object that only reads
        def __init__(self):
            self.read = io.BytesIO(data).read

    with path.open("rb") as file:
        file.seek(100)
        sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, Pipe()]
        clips = [[pixels(f.av_frame) for f in VideoReader(source).frames([3, 30])] for source in sources]
        assert not file.closed
    assert all(np.array_equal(clip, clips[0]) for clip in clips)


def test_a_name_with_a_colon_is_a_file(zoo, tmp_path):
    path = tmp_path / "http: a clip?.mp4"
    path.write_bytes(zoo["h264-bframes.mp4"].read_bytes())
    assert len(VideoReader(path)) == FRAMES


def test_frames_can_be_read_side_by_side_and_left_early(zoo, plain):
    expected = plain("h264-bframes.mp4")
    with VideoReader(zoo["h264-bframes.mp4"].open("rb")) as reader:
        for a, b in zip(reader.frames(range(36)), reader.frames(range(0, 36, 2)), strict=False):
            assert np.array_equal(pixels(a.av_frame), pixels(expected[a.frame_id]))
            assert np.array_equal(pixels(b.av_frame), pixels(expected[b.frame_id]))
            if a.frame_id == 5:
                break
        assert [frame.frame_id for frame in reader.frames([])] == []


def test_frames_out_of_range_name_the_range(zoo):
    reader = VideoReader(zoo["h264-bframes.mp4"])
    with pytest.raises(ValueError, match="frame 36 asked for, but its frames are 0 to 35"):
        reader.frames([3, 36])
    with pytest.raises(ValueError, match="frame -1"):
        reader.frames([-1])


# -- what is displayed --


@pytest.mark.parametrize(("name", "turns"), [("turned-90.mp4", 1), ("turned-180.mov", 2)])
def test_turned_clips_are_shown_upright(name, turns, zoo):
    reader, straight = VideoReader(zoo[name]), VideoReader(zoo[f"h264-bframes{Path(name).suffix}"])
    assert (reader.rotation, reader.coded_width, reader.coded_height) == (90 * turns, 96, 64)
    assert (reader.width, reader.height) == ((64, 96) if turns == 1 else (96, 64))
    (frame,), (untouched,) = reader.frames([7]), straight.frames([7])
    shown = frame.rgb(reader.width, reader.height)
    assert np.array_equal(shown, np.rot90(untouched.rgb(96, 64), turns))


def test_wide_pixels_widen_the_picture(zoo):
    reader = VideoReader(zoo["h264-wide-pixels.mp4"])
    assert (reader.width, reader.height, reader.coded_width) == (128, 64, 96)
    (frame,) = reader.frames([0])
    assert frame.rgb(reader.width, reader.height).shape == (64, 128, 3) and frame.luma.shape == (64, 96)


@pytest.mark.parametrize("name", ["h264-10-bit.mkv", "h264-444-odd.mp4", "hevc-10-bit.ts", "mjpeg.avi"])
def test_luma_is_the_brightness_in_8_bits(name, zoo, plain):
    (frame,) = VideoReader(zoo[name]).frames([11])
    expected = plain(name)[11]
    deep = expected.format.components[0].bits == 10
    plane = np.frombuffer(memoryview(expected.planes[0]), np.uint16 if deep else np.uint8)
    plane = plane.reshape(expected.height, -1)[:, : expected.width]
    assert frame.luma.dtype == np.uint8
    assert np.array_equal(frame.luma, plane >> 2 if deep else plane)


@given(
    asked=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.integers(1, 90),
            st.integers(1, 90),
            st.sampled_from(["gbrp", "rgb24", "gray"]),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_kept_for_the_next_conversion_changes_none(asked, plain):
    """Sizes and formats in any order, against a conversion that is set up for one frame alone."""
    frames = plain("h264-bframes.mp4")[:3] + plain("h264-10-bit.mkv")[:3]
    for number, width, height, form in asked:
        to = {"width": width, "height": height, "format": form, "interpolation": "BICUBIC"}
        assert np.array_equal(
            converted(frames[number], **to).to_ndarray(), frames[number].reformat(**to).to_ndarray()
        )


def test_one_of_two_streams_is_read_and_sound_is_left_alone(zoo):
    assert VideoReader(zoo["two-streams.mkv"]).width == 77
    assert len(VideoReader(zoo["sound.mp4"])) == FRAMES


def test_a_clip_may_be_one_frame_of_odd_size(tmp_path):
    path = write_clip(tmp_path / "one.mp4", moving_scene(1, 33, 47), pix_fmt="yuv444p")
    reader = VideoReader(path)
    assert (len(reader), reader.width, reader.height, reader.duration) == (1, 47, 33, pytest.approx(0.04))
    assert [frame.rgb(47, 33).shape for frame in reader.frames([0])] == [(33, 47, 3)]


def test_what_a_transport_stream_has_is_read_after_a_cut(zoo, plain):
    """It is made to be cut anywhere, and says nothing of its length."""
    data = zoo["h264-bframes.ts"].read_bytes()
    reader = VideoReader(data[: len(data) // 2])
    assert 8 < len(reader) < FRAMES
    frames = list(reader.frames(range(8)))
    assert all(
        np.array_equal(pixels(f.av_frame), pixels(plain("h264-bframes.ts")[f.frame_id])) for f in frames
    )
