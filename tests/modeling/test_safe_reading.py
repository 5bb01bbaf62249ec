"""A video opens nothing but itself, whatever it says and whatever it is called.

A private clip tells when it is opened, a server when it is asked: neither may happen.
"""

import base64
import contextlib
import gc
import io
import socket
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
from clip_zoo import FRAMES, Zoo, find_box, with_box
from vl_tiny import prompt, tiny_config, tiny_processor, user
from watching import Answer, Opened, Server, redirect

from onevision_hf import (
    CodecStream,
    OneVisionVideoProcessor,
    StreamWindow,
    VideoReader,
    VideoReadError,
    select_patches,
)
from onevision_hf.modeling.video_formats import FORMATS, explain_refusal
from onevision_hf.modeling.video_source import VideoFile

VVC_FOLDER = Path(__file__).parents[1] / "fixtures" / "vvc"
VVC = sorted(VVC_FOLDER.iterdir())
PLAYLISTS = {
    "m3u8": (
        "is an HLS playlist",
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n",
    ),
    "m3u8-master": (
        "is an HLS playlist",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000,RESOLUTION=96x64\n{}\n",
    ),
    "m3u8-key": (
        "is an HLS playlist",
        '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{0}"\n#EXT-X-MAP:URI="{0}"\n'
        "#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    ),
    "ffconcat": ("is an ffconcat script", "ffconcat version 1.0\nfile '{}'\n"),
    "sdp": (
        "is a session description",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
    ),
    "mpd": (
        "is a DASH manifest",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp2t">'
        '<Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL><SegmentBase/></Representation>'
        "</AdaptationSet></Period></MPD>",
    ),
    "imf": (
        "is an IMF playlist",
        '<?xml version="1.0"?><CompositionPlaylist><Id>{}</Id></CompositionPlaylist>',
    ),
}

# With its type, FFmpeg takes a playlist for one whatever its URL.
TYPES = {"m3u8": "application/vnd.apple.mpegurl", "sdp": "application/sdp", "mpd": "application/dash+xml"}


def playlist(kind: str, named: str) -> tuple[str, bytes, Answer]:
    """(what its error says, its bytes, as a server gives it) of a playlist that names `named`."""
    what, text = PLAYLISTS[kind]
    data = text.format(named).encode()
    return what, data, Answer(data, Content_Type=TYPES.get(kind.partition("-")[0], "text/plain"))


class Decoys:
    """A private clip and a server of the same clip; `untouched` says whether nobody opened or asked them."""

    def __init__(self, path, server):
        self.path, self.server = path, server
        server.answers["/private.ts"] = path.read_bytes()
        self.opened = Opened(path)
        self.named = {
            "path": str(path),
            "file": f"file://{path}",
            "http": server.url("/private.ts"),
            "subfile": f"subfile,,start,0,end,0,,:{path}",
        }

    def untouched(self) -> bool:
        return not self.opened.count() and "/private.ts" not in self.server.asked


@pytest.fixture
def decoys(zoo, tmp_path):
    path = tmp_path / "private.ts"
    path.write_bytes(zoo["h264-bframes.ts"].read_bytes())
    with Server() as server:
        found = Decoys(path, server)
        yield found
        found.opened.close()


def refused(source, match: str) -> VideoReadError:
    with pytest.raises(VideoReadError, match=match) as caught:
        VideoReader(source)
    return caught.value


def test_the_watchers_see_what_is_opened(decoys):
    assert decoys.untouched()
    VideoReader(decoys.path)
    assert not decoys.untouched() and decoys.untouched()
    VideoReader(decoys.named["http"])
    assert not decoys.untouched()


@pytest.mark.parametrize("named", ["path", "file", "http", "subfile"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_what_names_other_files_is_refused_before_they_are_opened(kind, named, decoys, tmp_path):
    what, data, answer = playlist(kind, decoys.named[named])
    for suffix in (kind.partition("-")[0], "mp4", "txt"):
        path = tmp_path / f"list.{suffix}"
        path.write_bytes(data)
        decoys.server.answers[f"/list.{suffix}"] = answer
        url = decoys.server.url(f"/list.{suffix}")
        with path.open("rb") as file:
            for source in (path, f"file:{path}", path.as_uri(), url, data, io.BytesIO(data), file):
                error = refused(source, what)
                assert "never opened: give the video itself" in error.reason
                assert error.path == str(source) or "<" in error.path
    assert decoys.untouched()


def test_a_playlist_at_a_url_of_a_clip_shows_no_private_file(decoys):
    for kind in PLAYLISTS:
        what, _, answer = playlist(kind, decoys.named["file"])
        decoys.server.answers[f"/{kind}/clip.mp4"] = answer
        decoys.server.answers[f"/{kind}/moved.mp4"] = redirect("clip.mp4")
        for name in ("clip.mp4", "moved.mp4"):
            url = decoys.server.url(f"/{kind}/{name}")
            with pytest.raises(VideoReadError, match=what):
                OneVisionVideoProcessor(num_frames=4, size=56)(url, return_tensors="pt")
            with pytest.raises(VideoReadError, match=what):
                prompt(tiny_processor(tiny_config()), user(("video", url), "What is private here?"))
    assert decoys.untouched()


def test_no_format_that_opens_others_is_allowed():
    naming = (
        "hls,dash,concat,image2,image2pipe,sdp,rtsp,rtp,sap,imf,webm_dash_manifest,vobsub,lavfi,applehttp"
    )
    others = "tty,ffmetadata,mpsub,dvdvideo,bluray,avisynth,vapoursynth,svg_pipe,x11grab,v4l2,fbdev,kmsgrab"
    assert not {*naming.split(","), *others.split(",")} & set(FORMATS.split(","))


def test_a_track_that_lies_in_another_file_is_not_looked_for(decoys, zoo, tmp_path):
    data, media = zoo["mjpeg-422.mov"].read_bytes(), ("moov", "trak", "mdia", "minf", "dinf", "dref")
    start, _ = find_box(data, *media)
    assert data[start + 12 : start + 16] in (b"url ", b"alis")
    name = str(decoys.path).encode()
    fields = struct.pack(">HH", 2, len(name)) + name + b"\0" * (len(name) % 2) + b"\xff\xff\0\0"
    # QuickTime's alias: volume, file name, how many folders up and down, then fields, of which 2 is the path.
    alias = bytes(10) + b"\x01/" + bytes(26) + bytes(12) + b"\x01p" + bytes(62) + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + fields
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    moved = with_box(data, media, struct.pack(">II", 0, 1) + entry)
    (tmp_path / "elsewhere.mov").write_bytes(moved)
    for source in (tmp_path / "elsewhere.mov", moved):
        with contextlib.suppress(VideoReadError):
            list(VideoReader(source).frames([3]))
    assert decoys.untouched()


# What a program might look for beside a clip: its index, subtitles, parts, playlists.
BESIDE = (".idx", ".sub", ".srt", ".ass", ".vtt", ".xml", ".m3u8", ".mpd", ".ifo", ".meta", ".1")


@pytest.mark.parametrize("name", [*Zoo.names(), *(f"vvc/{path.name}" for path in VVC)])
def test_a_clip_of_any_container_and_codec_opens_that_file_alone(name, zoo, decoys, tmp_path, monkeypatch):
    source = VVC_FOLDER / Path(name).name if name.startswith("vvc/") else zoo[name]
    folder = tmp_path / "clips"
    folder.mkdir()
    clip = folder / source.name
    clip.write_bytes(source.read_bytes())
    private = decoys.path.read_bytes()
    decoys.opened.count()  # that was here
    for suffix in BESIDE:
        clip.with_suffix(suffix).write_bytes(private)
        (folder / f"{clip.name}{suffix}").write_bytes(private)
    decoys.server.answers[f"/{clip.name}"] = clip.read_bytes()
    monkeypatch.chdir(folder)
    watched = Opened(folder)
    for given in (clip, clip.name, clip.read_bytes(), decoys.server.url(f"/{clip.name}")):
        by_name = isinstance(given, str | Path) and "://" not in str(given)
        watched.names()
        with VideoReader(given) as reader:
            list(reader.frames([0, len(reader) - 1], motion_vectors=True))
            select_patches(reader, num_frames=2, size=56)
        assert set(watched.names()) == ({clip.name} if by_name else set())
    watched.close()
    assert decoys.untouched()
    assert decoys.server.asked == [f"/{clip.name}"]


# -- names --


@pytest.mark.parametrize(
    "name",
    [
        "clip%03d.mp4",
        "shot%03d.png",
        "shot*.jpg",
        "shot?.png",
        "[a].tiff",
        "concat:a|b",
        "data:x,y",
        "pipe:0",
    ],
)
def test_a_name_is_that_file_whatever_ffmpeg_would_read_into_it(name, zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(zoo["h264-bframes.mp4"].read_bytes())
    (tmp_path / "shot001.png").write_bytes(b"private")
    watched = Opened(tmp_path / "shot001.png")
    with (tmp_path / name).open("rb") as file:
        for source in (name, tmp_path / name, (tmp_path / name).as_uri(), f"file:{tmp_path / name}", file):
            reader = VideoReader(source)
            assert len(reader) == FRAMES and len(list(reader.frames([0, 30]))) == 2
    assert watched.count() == 0
    watched.close()


@pytest.mark.parametrize("name", ["shot%03d.png", "shot*.png", "clip%03d.mp4"])
def test_a_pattern_is_no_file(name, tmp_path):
    for number in range(3):
        (tmp_path / f"shot{number:03d}.png").write_bytes(b"private")
    refused(tmp_path / name, "no such file")
    refused(f"file:{tmp_path / name}", "no such file")


def test_urls_of_files_are_paths(zoo, tmp_path):
    path = tmp_path / "a clip 100%.mp4"
    path.write_bytes(zoo["h264-bframes.mp4"].read_bytes())
    for url in (path.as_uri(), f"file://localhost{path}", f"FILE://{path}", f"file:{path}"):
        assert len(VideoReader(url)) == FRAMES
    refused(f"file://elsewhere{path}", "is on another machine, elsewhere")
    refused("file:///no/such/clip.mp4", "no such file")


@pytest.mark.parametrize(
    "name",
    [
        "concat:{0}|{0}",
        "subfile,,start,0,end,0,,:{0}",
        "crypto:{0}",
        "async:{0}",
        "cache:{0}",
    ],
)
def test_protocols_of_ffmpeg_are_no_names(name, decoys):
    refused(name.format(decoys.path), "no such file")
    assert decoys.untouched()


def test_a_data_url_is_what_it_holds_and_opens_nothing(decoys):
    refused(f"data:video/mp4,{decoys.path}", "is text, not a video")
    playlist = base64.b64encode(f"#EXTM3U\n#EXTINF:1,\n{decoys.path}\n".encode()).decode()
    refused(f"data:video/mp4;base64,{playlist}", "is an HLS playlist")
    refused("data:video/mp4;base64,AAA*", "base64 of 4 characters that is broken")
    assert decoys.untouched()


@pytest.mark.parametrize("url", ["rtsp://127.0.0.1/a", "ftp://127.0.0.1/a.mp4", "concat://a", "gopher://a"])
def test_urls_of_other_schemes_say_what_is_read(url):
    refused(url, r"://.*is not read: a video is a file, or at http:// or https://")


# -- clips of the net --


def test_a_clip_of_the_net_is_the_file_and_leaves_nothing_behind(zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = zoo["h264-bframes.mp4"].read_bytes()
    answers = {"/a b?c=1.png": data, "/a%20b?c=1.png": data, "/moved": redirect("/a%20b?c=1.png")}
    with Server(answers) as server:
        for path in ("/a b?c=1.png", "/moved"):
            reader = VideoReader(server.url(path))
            local = VideoReader(zoo["h264-bframes.mp4"])
            assert np.array_equal(reader.timestamps, local.timestamps)
            for ours, theirs in zip(reader.frames([3, 30]), local.frames([3, 30]), strict=True):
                assert np.array_equal(ours.rgb(64, 96), theirs.rgb(64, 96))
            assert len(list(tmp_path.iterdir())) == 1
            del reader, ours
            assert not list(tmp_path.iterdir())
        assert server.asked == ["/a%20b?c=1.png", "/moved", "/a%20b?c=1.png"], "it is fetched once"
        server.answers |= {"/cut.mkv": zoo["h264-bframes.mkv"].read_bytes()[:-500], "/empty.mp4": b""}
        refused(server.url("/cut.mkv"), "is truncated: its header promises")
        refused(server.url("/empty.mp4"), r"is empty \(0 bytes\)")
        error = refused(server.url("/none.mp4", user="me:secret@"), "the server answered 404")
        assert error.path == server.url("/none.mp4", user="me:***@")
        del error
    gc.collect()  # errors that were kept hold what was being read
    assert not list(tmp_path.iterdir())


def test_local_files_are_still_read_by_ffmpeg_itself(zoo):
    with VideoFile(zoo["h264-bframes.mp4"]).open_container() as container:
        assert container.file is None and container.name == f"file:{zoo['h264-bframes.mp4']}"


# -- live streams --


def one_listener(data: bytes) -> tuple[str, list[bytes]]:
    """(address, what the listener said) of a server that sends `data` once."""
    server, heard = socket.create_server(("127.0.0.1", 0)), []

    def send() -> None:
        with server:
            listener, _ = server.accept()
            with listener:
                listener.sendall(data)
                listener.shutdown(socket.SHUT_WR)
                heard.append(listener.recv(100))

    threading.Thread(target=send, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}", heard


def stream_error(source, **options) -> str:
    with (
        pytest.raises(VideoReadError) as caught,
        CodecStream(source, give_up_after=20.0, **options) as stream,
    ):
        list(stream)
    return str(caught.value)


def test_a_stream_at_http_gives_what_the_file_gives(zoo):
    processor = OneVisionVideoProcessor(num_frames=4, size=56)
    with Server({"/a.ts": zoo["h264-bframes.ts"].read_bytes(), "/b": redirect("/a.ts")}) as server:
        sources = (server.url("/b"), str(zoo["h264-bframes.ts"]), zoo["h264-bframes.ts"].as_uri())
        found = [
            [item for item in CodecStream(source, processor, window=0.5) if isinstance(item, StreamWindow)]
            for source in sources
        ]
    assert found[0]
    for windows in found[1:]:
        for ours, theirs in zip(found[0], windows, strict=True):
            assert ours.inputs["pixel_values_videos"].equal(theirs.inputs["pixel_values_videos"])


@pytest.mark.parametrize("named", ["path", "http"])
@pytest.mark.parametrize("kind", ["m3u8", "ffconcat", "sdp"])
def test_a_playlist_is_no_stream(kind, named, decoys, tmp_path):
    what, data, answer = playlist(kind, decoys.named[named])
    path = tmp_path / "live.ts"
    path.write_bytes(data)
    decoys.server.answers["/live.ts"] = answer
    for source in (path, decoys.server.url("/live.ts"), io.BytesIO(data)):
        assert what in stream_error(source)
    address, _ = one_listener(data)
    assert "not a stream that FFmpeg can read: Invalid" in stream_error(f"tcp://{address}")
    assert decoys.untouched()


def test_a_file_object_with_a_pattern_for_a_name_is_read_as_a_stream(zoo, tmp_path):
    path = tmp_path / "shot%03d.png"
    path.write_bytes(zoo["h264-bframes.ts"].read_bytes())
    processor = OneVisionVideoProcessor(num_frames=4, size=56)
    with path.open("rb") as file:
        for source in (file, path):
            assert any(isinstance(item, StreamWindow) for item in CodecStream(source, processor, window=0.5))


def test_protocols_of_live_sources_still_reach_theirs():
    address, heard = one_listener(b"")
    stream_error(f"rtsp://{address}/live", options={"rtsp_transport": "tcp"})
    assert heard[0].startswith(b"OPTIONS rtsp://127.0.0.1")


def test_options_that_would_have_no_effect_are_refused():
    with pytest.raises(ValueError, match=r"options \['headers'\] have no effect: give the file object"):
        list(CodecStream("http://127.0.0.1:1/a.ts", options={"headers": "X: y"}))
    assert "is not read" in stream_error("ftp://127.0.0.1/a.ts")


def test_beginnings_of_files_say_what_they_are():
    assert "HLS" in (explain_refusal(b"\xef\xbb\xbf\n#EXTM3U\n") or "")
    assert "DASH" in (explain_refusal(b"<!-- a -->\n<MPD>") or "")
    assert explain_refusal("Grüße\n".encode()) == "is text, not a video"
    assert explain_refusal("Grüße".encode()[:3]) == "is text, not a video", "a letter is cut off"
    assert explain_refusal(b"\x00\x00\x00\x18ftypmp42") is None
    assert explain_refusal(b"") is None
