"""A live stream gives what the file of it gives, and what happens to it is told, not raised.

Streams are served on this machine, through TCP on the loopback; nothing else is reached.
"""

import io
import socket
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from clips import moving_scene, write_audio, write_clip
from ov2_recorded import PUBLISHED
from transformers import AutoProcessor

from onevision_hf import (
    CodecStream,
    OneVisionVideoProcessor,
    StreamEvent,
    StreamWindow,
    VideoReader,
    VideoReadError,
)

PROCESSOR = OneVisionVideoProcessor(num_frames=6, size=56)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """name -> path of 60 pictures, 25 a second: two sizes of H.264, and other codecs."""
    folder, scene = tmp_path_factory.mktemp("streams"), moving_scene(60, 96, 128)
    return {
        "h264.ts": write_clip(folder / "h264.ts", scene),
        "hevc.ts": write_clip(folder / "hevc.ts", scene[:40], codec="libx265"),
        "mpeg2.ts": write_clip(folder / "mpeg2.ts", scene, codec="mpeg2video"),
        "vp9.webm": write_clip(folder / "vp9.webm", scene[:40], codec="libvpx-vp9"),
        "h264.mp4": write_clip(folder / "h264.mp4", scene),
        "small.ts": write_clip(folder / "small.ts", moving_scene(40, 64, 96, seed=3)),
        "small-mpeg2.ts": write_clip(folder / "s2.ts", moving_scene(40, 64, 96), codec="mpeg2video"),
    }


@pytest.fixture
def serve():
    """Serve bytes, with pauses where a number stands, to one listener on the loopback; gives the URL."""
    servers = []

    def run(*parts):
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def send():
            listener, _ = server.accept()
            with listener:
                for part in parts:
                    if isinstance(part, float):
                        time.sleep(part)
                        continue
                    try:
                        listener.sendall(part)
                    except OSError:  # it hung up
                        return

        threading.Thread(target=send, daemon=True).start()
        return f"tcp://127.0.0.1:{server.getsockname()[1]}"

    yield run
    for server in servers:
        server.close()


def windows_and_events(stream):
    items = list(stream)
    windows = [item for item in items if isinstance(item, StreamWindow)]
    return windows, [item for item in items if isinstance(item, StreamEvent)]


def assert_same_as_file(window, path, processor=PROCESSOR):
    of_file = processor(path, start=window.start, end=window.end, return_tensors="pt", return_metadata=True)
    (selection,) = of_file["selections"]
    for name, tensor in window.inputs.items():
        assert torch.equal(tensor, of_file[name]), name
    for name in ("positions", "frame_ids", "timestamps", "energy", "scores"):
        assert np.array_equal(getattr(window.selection, name), getattr(selection, name)), name
    assert window.selection.signal == selection.signal


@pytest.mark.parametrize(
    "name",
    [
        "h264.ts",
        "hevc.ts",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("mpeg2.ts", "vp9.webm", "h264.mp4")),
    ],
)
def test_a_window_is_the_files_selection_between_the_same_times_to_the_bit(files, name):
    path = str(files[name])
    windows, events = windows_and_events(CodecStream(path, PROCESSOR, window=0.5, stride=0.3))
    assert [event.kind for event in events] == ["ended"]
    assert len(windows) >= 3 and windows[1].start == pytest.approx(0.3, abs=0.04)
    for window in windows:
        assert_same_as_file(window, path)
    # Every picture lies in a window, and a whole one waits for the pictures that are re-ordered, no longer.
    assert windows[-1].end == pytest.approx((40 if name in ("hevc.ts", "vp9.webm") else 60) / 25 - 0.04)
    whole = [round(25 * window.delay) for window in windows if window.end < windows[-1].end]
    assert set(whole) <= ({1} if name == "vp9.webm" else {2, 3, 4, 5})  # two B pictures in a row


@pytest.mark.parametrize(
    "settings",
    [
        *({"preset": "published", "size": 112}, {"preset": "bits"}),
        *({"do_sample_frames": False}, {"keep_energy": 0.5, "num_patches": 60}),
    ],
)
def test_settings_hold_for_streams(files, settings):
    processor = OneVisionVideoProcessor(**({"num_frames": 6, "size": 56} | settings))
    windows, _ = windows_and_events(CodecStream(str(files["h264.ts"]), processor, window=1.0))
    for window in windows:
        assert_same_as_file(window, str(files["h264.ts"]), processor)
        frames = len(window.selection.frame_ids)
        assert frames == (25 if settings.get("do_sample_frames") is False else 6) or window is windows[-1]


def test_a_stream_that_is_served_on_this_machine(files, serve):
    content = files["h264.ts"].read_bytes()
    parts = [content[at : at + 1316] for at in range(0, len(content), 1316)]
    with CodecStream(serve(*parts), PROCESSOR, window=0.5) as stream:
        windows, events = windows_and_events(stream)
    assert len(windows) == 5 and [event.kind for event in events] == ["ended"]
    for window in windows:
        assert_same_as_file(window, str(files["h264.ts"]))


class Pipe(io.RawIOBase):
    """A file object that cannot seek."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._content.readinto(buffer)


def test_file_objects_and_iterators_of_packets_are_sources(files):
    path = files["h264.ts"]
    by_pipe, _ = windows_and_events(CodecStream(Pipe(path.read_bytes()), PROCESSOR, window=0.5))
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        times = [packet.pts for packet in packets]
        by_packet, events = windows_and_events(CodecStream(iter(packets), PROCESSOR, window=0.5))
    assert [packet.pts for packet in packets] == times  # they are the caller's
    assert len(by_pipe) == len(by_packet) == 5 and events[-1].kind == "ended"
    for one, two in zip(by_pipe, by_packet, strict=True):
        assert torch.equal(one.inputs["pixel_values_videos"], two.inputs["pixel_values_videos"])


def test_packets_may_come_straight_from_an_encoder():
    def encoded():
        with av.open(io.BytesIO(), "w", format="null") as container:
            stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.codec_context.gop_size = 96, 64, 10
            for picture in moving_scene(30, 64, 96):
                yield from stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
            yield from stream.encode(None)

    windows, events = windows_and_events(CodecStream(encoded(), PROCESSOR, window=0.4))
    assert [window.start for window in windows] == pytest.approx([0.0, 0.4, 0.8])
    assert [event.kind for event in events] == ["ended"]


def test_a_reader_that_stops_ends_the_thread(files):
    stream = CodecStream(str(files["h264.ts"]), PROCESSOR, window=0.2, max_bytes=12_000)
    for _ in stream:
        break
    stream._source._thread.join(10)
    assert not stream._source._thread.is_alive() and stream._source.held_bytes == 0


def test_silence_is_an_event_and_the_stream_goes_on(files, serve):
    content = files["h264.ts"].read_bytes()
    half = len(content) // 376 * 188
    url = serve(content[:half], 0.8, content[half:])
    windows, events = windows_and_events(CodecStream(url, PROCESSOR, window=0.5, stall_after=0.25))
    assert [event.kind for event in events] == ["stalled", "ended"] and "nothing has come" in str(events[0])
    assert len(windows) == 5
    for window in windows:
        assert_same_as_file(window, str(files["h264.ts"]))


def test_long_silence_and_a_connection_that_is_cut_end_it(files, serve):
    content = files["h264.ts"].read_bytes()
    url = serve(content[: len(content) // 2], 30.0)
    began = time.monotonic()
    stream = CodecStream(url, PROCESSOR, window=0.5, stall_after=0.2, give_up_after=0.6)
    windows, events = windows_and_events(stream)
    assert [event.kind for event in events] == ["stalled", "cut"] and time.monotonic() - began < 10
    assert windows and "nothing has come for" in events[1].reason
    windows, events = windows_and_events(
        CodecStream(serve(content[: len(content) // 2 + 77]), PROCESSOR, window=0.5)
    )
    assert [event.kind for event in events if event.kind != "damaged"] == ["ended"] and windows


def test_what_the_source_raises_cuts_the_stream_and_a_mistake_of_the_caller_is_raised(files):
    def failing(error):
        with av.open(str(files["h264.ts"])) as container:
            for number, packet in enumerate(container.demux(video=0)):
                if number == 40:
                    raise error
                yield packet

    windows, events = windows_and_events(
        CodecStream(failing(ConnectionResetError(104, "Connection reset by peer")), PROCESSOR, window=0.5)
    )
    assert len(windows) == 4 and str(events[-1]) == "cut: Connection reset by peer"
    with pytest.raises(ZeroDivisionError):
        list(CodecStream(failing(ZeroDivisionError()), PROCESSOR, window=0.5))


@pytest.mark.parametrize(("first", "second"), [("h264.ts", "small.ts"), ("mpeg2.ts", "small-mpeg2.ts")])
def test_another_format_begins_another_segment(files, serve, first, second):
    url = serve(files[first].read_bytes(), files[second].read_bytes())
    windows, events = windows_and_events(CodecStream(url, PROCESSOR, window=0.5))
    kinds = [event.kind for event in events if event.kind != "damaged"]
    assert kinds == ["jumped", "changed", "ended"]  # the second file's times begin anew, too
    after = [window for window in windows if window.segment == 1]
    assert len(after) >= 3 and after[0].start == 0 and after[0].selection.frame_ids[0] == 0
    assert_same_as_file(after[1], str(files[second]))


def test_a_format_that_changes_while_time_goes_on():
    """Another size while the times go on, as when a camera is set anew: packets of two encoders."""

    def encoded():
        for size, first in ((96, 0), (64, 25)):
            with av.open(io.BytesIO(), "w", format="null") as container:
                stream = container.add_stream("mpeg2video", rate=25)
                stream.width, stream.height, stream.codec_context.max_b_frames = 96, size, 0
                for t, picture in enumerate(moving_scene(25, size, 96), first):
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    frame.pts, frame.time_base = t, Fraction(1, 25)
                    yield from stream.encode(frame)
                yield from stream.encode(None)

    windows, events = windows_and_events(CodecStream(encoded(), PROCESSOR, window=0.4))
    assert [event.kind for event in events] == ["changed", "ended"]
    assert [window.segment for window in windows] == [0, 0, 0, 1, 1, 1]


def test_damage_costs_a_window_and_not_the_stream(files, serve):
    content = files["h264.ts"].read_bytes()
    at = len(content) // 3 // 188 * 188
    windows, events = windows_and_events(
        CodecStream(serve(content[:at], bytes(1880), content[at + 1880 :]), PROCESSOR, window=0.5)
    )
    assert "damaged" in {event.kind for event in events} and events[-1].kind == "ended"
    assert 3 <= len(windows) <= 5


def test_memory_is_bounded_whoever_reads_slowly_and_however_long_the_window(files):
    sizes = []
    with CodecStream(str(files["h264.ts"]), PROCESSOR, window=0.2, max_bytes=12_000) as stream:
        items = []
        for item in stream:
            time.sleep(0.02)  # the source is far ahead
            items.append(item)
            sizes.append(stream.held_bytes)
    assert items[-1].kind == "ended" and max(sizes) <= 2 * 12_000
    windows, events = windows_and_events(
        CodecStream(str(files["h264.ts"]), PROCESSOR, window=60.0, max_bytes=8_000)
    )
    assert not [window for window in windows if window.segment == 0]
    assert events[0].kind == "overrun" and "max_bytes=8000" in events[0].reason


def test_a_budget_in_patches_is_all_there_is_in_a_short_last_window(files):
    windows, _ = windows_and_events(
        CodecStream(str(files["h264.ts"]), PROCESSOR, window=0.9, num_patches=60, num_frames=4)
    )
    assert [len(window.selection) for window in windows] == [60, 60, 60]
    windows, _ = windows_and_events(
        CodecStream(str(files["h264.ts"]), PROCESSOR, window=1.15, num_patches=100, num_frames=6)
    )
    assert [len(window.selection) for window in windows] == [100, 100, 40]


def test_what_cannot_be_a_stream_is_refused_by_name(files, serve, tmp_path):
    def error_of(source, **settings):
        with pytest.raises(VideoReadError) as caught:
            list(CodecStream(source, PROCESSOR, **settings))
        return str(caught.value)

    assert "Connection refused" in error_of("tcp://127.0.0.1:1")
    assert "tcp://127.0.0.1" in error_of(serve(b"hello\n" * 500))
    assert "no such file" in error_of(str(tmp_path / "absent.ts")).lower()
    assert "has no video stream (found: audio)" in error_of(str(write_audio(tmp_path / "sound.mp4")))
    raw = write_clip(tmp_path / "raw.h264", moving_scene(12, 64, 96))
    assert "carry no times" in error_of(str(raw))
    with av.open(str(tmp_path / "sound.mp4")) as container:
        assert "a packet of audio" in error_of(container.demux(audio=0))
    assert "a packet of no stream" in error_of(iter([av.Packet(b"abc")]))
    with pytest.raises(TypeError, match="iterator of PyAV packets, not int"):
        CodecStream(7)
    with pytest.raises(TypeError, match="the iterator gives str"):
        list(CodecStream(iter(["a"])))


def test_arguments_are_checked_before_anything_is_read(files):
    path = str(files["h264.ts"])
    for wrong, says in (
        ({"window": 0}, "window"),
        ({"stride": -1.0}, "stride"),
        ({"max_bytes": 0}, "max_bytes"),
    ):
        with pytest.raises(ValueError, match=f"{says} must be a positive number"):
            CodecStream(path, **wrong)
    with pytest.raises(ValueError, match="a stream is cut by `window` and `stride`"):
        CodecStream(path, start=1.0)
    with pytest.raises(TypeError, match=r"unknown arguments \['sise'\]: did you mean size"):
        CodecStream(path, sise=224)
    stream = CodecStream(path, PROCESSOR, window=0.5)
    list(stream)
    with pytest.raises(ValueError, match="was read before"):
        list(stream)


def test_windows_become_groups_of_canvases_with_a_published_processor(files, serve):
    """Each is what the same pictures of the file give; frames and seconds count from the first picture."""
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    path = files["h264.ts"]
    with CodecStream(serve(path.read_bytes()), processor, window=1.2, max_canvases=4) as stream:
        windows, events = windows_and_events(stream)
    assert [event.kind for event in events] == ["ended"] and len(windows) == 2
    with VideoReader(path) as reader:
        for number, window in enumerate(windows):
            span = (30 * number, 30 * number + 30)
            wanted = processor.read_window(reader, span, 0, preset="ov2", max_canvases=4)
            assert torch.equal(window.inputs["pixel_values"], wanted.patches)
            assert torch.equal(window.inputs["patch_positions"], wanted.positions)
            assert window.inputs["image_grid_thw"].tolist() == [[4, 6, 10]]
            frames = window.inputs["patch_positions"][:, 0]
            assert span[0] <= int(frames.min()) and int(frames.max()) < span[1]
    second = processor(text="<|video_pad|>?", videos=[windows[1].selection])
    assert torch.equal(second["pixel_values"], windows[1].inputs["pixel_values"])
    text = processor.tokenizer.decode(second["input_ids"][0])
    assert text.startswith("<1.2 seconds><|vision_start|>")


def test_a_window_that_is_too_short_for_a_group_is_told(files):
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    with CodecStream(files["h264.ts"], processor, window=2.2) as stream:
        windows, events = windows_and_events(stream)
    assert len(windows) == 1 and [event.kind for event in events] == ["damaged", "ended"]
    assert "5 pictures, and a group of canvases has 8 or more" in events[0].reason
    with pytest.raises(ValueError, match="num_frames cannot be followed where canvases are"):
        CodecStream(files["h264.ts"], processor, num_frames=8)
