"""Signals of every frame: the values of `read_codec_signals`, in order, with few pictures held at a time."""

import io
import weakref

import av
import numpy as np
import pytest
from clip_zoo import patch_edit_list
from clips import moving_scene, write_clip
from hypothesis import given
from hypothesis import strategies as st

from onevision_hf import iter_codec_signals, read_codec_signals
from onevision_hf.modeling import codec_signal_reader, frame_maps
from onevision_hf.modeling.frame_maps import in_display_order

CLIPS = {
    "h264": ("mp4", {"bframes": 2}),
    "hevc": ("mp4", {"codec": "libx265", "bframes": 3}),
    "hevc10": ("mkv", {"codec": "libx265", "bframes": 3, "pix_fmt": "yuv420p10le"}),
    "vp9": ("webm", {"codec": "libvpx-vp9", "options": {"deadline": "good", "lag-in-frames": "8"}}),
    "av1": ("mkv", {"codec": "libsvtav1"}),
    "mpeg4": ("avi", {"codec": "mpeg4", "bframes": 2}),
    "h264 10 bit": ("mkv", {"pix_fmt": "yuv420p10le"}),
    "mjpeg": ("avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
}


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """The clip of a name, of so many frames."""
    folder = tmp_path_factory.mktemp("clips")

    def made(name, frames=24, size=(72, 104)):
        suffix, how = CLIPS[name]
        path = folder / f"{name.replace(' ', '_')}-{frames}.{suffix}"
        return path if path.exists() else write_clip(path, moving_scene(frames, *size, seed=2), **how)

    return made


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_comes_in_order_with_the_values_of_the_whole_clip(name, make, monkeypatch):
    monkeypatch.setattr(codec_signal_reader, "AT_ONCE", 5)  # so that packets are decoded in several goes
    names = ("vectors", "residual", "age")
    whole = read_codec_signals(make(name), num_frames=24, signals=names)
    found = list(iter_codec_signals(make(name)))
    assert [frame.frame_id for frame in found] == list(range(24))
    assert tuple(frame.picture_type for frame in found) == whole.picture_types
    assert [frame.packet_size for frame in found] == whole.packet_sizes.tolist()
    assert np.allclose([frame.time for frame in found], np.arange(24) / 25, atol=1e-3)
    for signal in names:
        stack = getattr(whole, signal)
        if stack is None:
            assert all(getattr(frame, signal) is None for frame in found)
            assert all(frame.signal[signal] == whole.signal[signal] for frame in found)
        else:
            assert np.array_equal([getattr(frame, signal) for frame in found], stack, equal_nan=True)
            assert all(whole.signal[signal].startswith(frame.signal[signal]) for frame in found)
    assert {frame.vector_unit for frame in found} == {whole.vector_unit}
    assert not any(frame.is_damaged for frame in found)


@pytest.mark.parametrize("name", ["h264", "hevc", "vp9"])
def test_few_of_300_pictures_are_held_at_a_time(name, make, monkeypatch):
    """Packets that are decoded alone, and what is decoded ahead of its display; never the clip."""
    monkeypatch.setattr(codec_signal_reader, "AT_ONCE", 8)
    held, most = weakref.WeakSet(), 0

    class Watched(frame_maps.FrameMaps):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            held.add(self)

    monkeypatch.setattr(frame_maps, "FrameMaps", Watched)
    count = 0
    for frame in iter_codec_signals(make(name, 300, (64, 80))):
        assert frame.frame_id == count
        count, most = count + 1, max(most, len(held))
    assert count == 300 and 0 < most <= 32


@given(order=st.permutations(range(12)), lost=st.sets(st.integers(0, 11)))
def test_frames_are_put_in_order_and_those_that_never_come_are_told(order, lost):
    ranks = np.array(order)
    decoded = [int(frame_id) for frame_id in np.argsort(ranks) if frame_id not in lost]
    found = list(in_display_order(((one, f"frame {one}") for one in decoded), range(12), ranks))
    assert found == [(one, None if one in lost else f"frame {one}") for one in range(12)]


def test_a_frame_that_is_lost_holds_the_others_up_no_longer_than_its_packet():
    taken = []

    def found():
        for frame_id in (0, 1, 3, 4):
            taken.append(frame_id)
            yield frame_id, "there"

    order = in_display_order(found(), range(5), np.arange(5))
    assert [next(order) for _ in range(3)] == [(0, "there"), (1, "there"), (2, None)]
    assert taken == [0, 1, 3]


def test_signals_can_be_had_alone_and_a_file_object_need_not_seek(make):
    class Pipe(io.BytesIO):
        def seekable(self):
            return False

    path = make("hevc")
    found = list(iter_codec_signals(Pipe(path.read_bytes()), signals=("residual",)))
    whole = read_codec_signals(path, num_frames=24, signals=("residual",))
    assert np.array_equal([frame.residual for frame in found], whole.residual, equal_nan=True)
    assert all(frame.vectors is None and frame.age is None for frame in found)


@pytest.mark.parametrize("name", ["h264", "hevc", "hevc10", "vp9", "av1"])
def test_damaged_packets_cost_their_frames_and_not_the_others(name, make, tmp_path):
    data = make(name).read_bytes()
    with av.open(str(make(name))) as container:
        packet = [bytes(packet) for packet in container.demux(video=0)][9]
    noise = np.random.default_rng(0).integers(0, 256, len(packet) - 6, np.uint8).tobytes()
    path = tmp_path / make(name).name
    path.write_bytes(data.replace(packet, packet[:6] + noise))
    found = list(iter_codec_signals(path))
    assert [frame.frame_id for frame in found] == list(range(len(found))) and len(found) >= 23
    assert sum(np.isfinite(frame.residual).any() for frame in found) >= 8
    for frame in found:
        if frame.is_damaged and frame.picture_type == "?":
            assert np.isnan(frame.vectors).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"signals": ("bits",)}, "vectors, residual, age"),
        ({"signals": "vectors"}, "must be some of"),
        ({"passes": 3}, "1 or 2"),
    ],
)
def test_wrong_arguments_are_named_before_a_frame_is_asked_for(wrong, says, make):
    with pytest.raises(ValueError, match=says):
        iter_codec_signals(make("h264"), **wrong)


def test_one_may_stop_in_the_middle(make):
    frames = iter_codec_signals(make("vp9"))
    first = next(frames)
    frames.close()
    assert first.frame_id == 0 and first.picture_type == "I"


def test_pictures_outside_of_the_edit_list_are_decoded_and_no_frames(make, tmp_path):
    whole = list(iter_codec_signals(make("hevc"), signals=("vectors", "residual")))
    path = tmp_path / "cut.mp4"
    patch_edit_list(make("hevc"), path, first=5, count=12)
    found = list(iter_codec_signals(path, signals=("vectors", "residual")))
    assert len(found) == 12
    for frame, same in zip(found, whole[5:17], strict=True):
        assert (frame.picture_type, frame.packet_size) == (same.picture_type, same.packet_size)
        assert np.array_equal(frame.residual, same.residual, equal_nan=True)


def test_pictures_before_the_edit_list_have_times_of_their_own(make, tmp_path):
    """So ages that refer to them are right: those of the same pictures in the whole file."""
    path = tmp_path / "trimmed.mp4"
    patch_edit_list(make("hevc"), path, first=5, count=12)
    trimmed = read_codec_signals(path, frame_ids=range(12))
    whole = read_codec_signals(make("hevc"), frame_ids=range(5, 17))
    assert np.array_equal(trimmed.age, whole.age, equal_nan=True)
