"""Whoever serves strangers fetches nothing for them, and what is fetched ends: in time and in bytes.

Servers are of this machine.
"""

import contextlib
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image
from vl_tiny import prompt, tiny_config, tiny_processor, tiny_tokenizer, user
from watching import Answer, Server

from onevision_hf import (
    LlavaOnevision2Processor,
    OneVisionImageProcessor,
    OneVisionVideoProcessor,
    OneVisionVLProcessor,
    OpenVision3ImageProcessor,
    VideoReader,
    VideoReadError,
)
from onevision_hf.demo.opened_clip import open_clip
from onevision_hf.modeling.remote_file import RemoteError, fetch_picture
from onevision_hf.modeling.url_access import UrlAccess

CONFIG = tiny_config()
NO_LENGTH = {"Content_Length": "", "Transfer_Encoding": "identity"}
VIDEO = {"num_frames": 2, "size": 56}


@pytest.fixture(scope="module", autouse=True)
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="module")
def server(clip, tmp_path_factory):
    picture = tmp_path_factory.mktemp("pictures") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8)
    Image.fromarray(pixels).save(picture)
    with Server({"/a.mp4": clip.read_bytes(), "/a.png": picture.read_bytes()}) as found:
        yield found


def qwen_images():
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(patch_size=14, temporal_patch_size=1, merge_size=2, max_pixels=56 * 56)


def llava(**urls):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = tiny_tokenizer([*special, "<|vision_start|>", "<|vision_end|>"])
    return LlavaOnevision2Processor(qwen_images(), None, tokenizer, **urls)


def whole(**urls):
    parts = tiny_processor(CONFIG)
    return OneVisionVLProcessor(parts.image_processor, parts.video_processor, parts.tokenizer, **urls)


def asked(kind, server):
    """A question about what is at a URL."""
    return user((kind, server.url("/a.mp4" if kind == "video" else "/a.png")), "What is it?")


# Every entrance for media: what it makes of the server's file under settings of `UrlAccess`.
ENTRANCES = {
    "reader": lambda s, **urls: VideoReader(s.url("/a.mp4"), **urls),
    "video, call": lambda s, **urls: OneVisionVideoProcessor(**VIDEO)(s.url("/a.mp4"), **urls),
    "video, constructor": lambda s, **urls: OneVisionVideoProcessor(**VIDEO, **urls)(s.url("/a.mp4")),
    "frames": lambda s, **urls: OneVisionVideoProcessor(**VIDEO)([s.url("/a.png")], frames=True, **urls),
    "image, call": lambda s, **urls: OneVisionImageProcessor()(s.url("/a.png"), **urls),
    "image, constructor": lambda s, **urls: OneVisionImageProcessor(**urls)([s.url("/a.png")]),
    "image, fetch": lambda s, **urls: OneVisionImageProcessor(**urls).fetch_images(s.url("/a.png")),
    "openvision3": lambda s, **urls: OpenVision3ImageProcessor(
        size={"shortest_edge": 64}, do_center_crop=False
    )(s.url("/a.png"), **urls),
    "chat, image": lambda s, **urls: prompt(whole(), asked("image", s), **urls),
    "chat, video": lambda s, **urls: prompt(whole(), asked("video", s), num_frames=2, **urls),
    "chat, images_kwargs": lambda s, **urls: prompt(whole(), asked("image", s), images_kwargs=urls),
    "chat, videos_kwargs": lambda s, **urls: prompt(
        whole(), asked("video", s), videos_kwargs={"num_frames": 2, **urls}
    ),
    "chat, constructor, image": lambda s, **urls: prompt(whole(**urls), asked("image", s)),
    "chat, constructor, video": lambda s, **urls: prompt(whole(**urls), asked("video", s), num_frames=2),
    "llava, image": lambda s, **urls: prompt(llava(), asked("image", s), **urls),
    "llava, video": lambda s, **urls: prompt(llava(), asked("video", s), num_frames=2, **urls),
    "llava, images_kwargs": lambda s, **urls: prompt(llava(), asked("image", s), images_kwargs=urls),
    "llava, constructor, image": lambda s, **urls: prompt(llava(**urls), asked("image", s)),
    "llava, constructor, video": lambda s, **urls: prompt(llava(**urls), asked("video", s), num_frames=2),
}


@pytest.mark.parametrize("name", ENTRANCES)
def test_nothing_is_fetched_where_urls_are_not_allowed(name, server):
    server.asked.clear()
    with pytest.raises(
        (OSError, VideoReadError), match=r"a URL, and none is fetched here \(allow_urls=False\)"
    ):
        ENTRANCES[name](server, allow_urls=False)
    assert not server.asked
    ENTRANCES[name](server, url_timeout=60.0, max_url_bytes=10_000_000)
    assert server.asked


@pytest.mark.parametrize("name", ENTRANCES)
def test_every_entrance_has_a_bound_of_bytes_and_knows_which_bounds_there_are(name, server):
    with pytest.raises((OSError, VideoReadError), match=r"is longer than 100 bytes \(max_url_bytes\)"):
        ENTRANCES[name](server, max_url_bytes=100)
    for wrong in (
        {"url_timeout": 0},
        {"url_timeout": float("inf")},
        {"max_url_bytes": 0},
        {"allow_urls": "no"},
    ):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            ENTRANCES[name](server, **wrong)


def test_a_message_does_not_say_what_this_machine_fetches_or_where_it_writes(server):
    server.asked.clear()
    for kind in ("image", "video"):
        conversation = asked(kind, server)
        conversation[0]["content"][0]["allow_urls"] = True
        with pytest.raises(TypeError, match=r"unknown arguments \['allow_urls'\]"):
            prompt(whole(allow_urls=False), conversation)
    conversation = user(("video", "a.mp4"), "?")
    conversation[0]["content"][0]["canvas_cache"] = "elsewhere"
    with pytest.raises(TypeError, match=r"unknown arguments \['canvas_cache'\]"):
        prompt(llava(), conversation)
    assert not server.asked


def test_a_setting_is_saved_where_it_is_not_the_usual_one(server, tmp_path):
    usual = OneVisionVideoProcessor(**VIDEO)
    assert not {"allow_urls", "url_timeout", "max_url_bytes"} & usual.to_dict().keys()
    for kind, path in ((OneVisionVideoProcessor, "/a.mp4"), (OneVisionImageProcessor, "/a.png")):
        kind(allow_urls=False, url_timeout=5.0).save_pretrained(tmp_path)
        loaded = kind.from_pretrained(tmp_path)
        assert (loaded.allow_urls, loaded.url_timeout) == (False, 5.0)
        with pytest.raises((OSError, VideoReadError), match="allow_urls=False"):
            loaded(server.url(path))
        assert loaded(server.url(path), allow_urls=True), "whoever calls has the last word"
        assert kind.from_pretrained(tmp_path, allow_urls=True).allow_urls is True


def test_a_multimodal_folder_keeps_it_and_from_pretrained_changes_it(server, tmp_path):
    whole().save_pretrained(tmp_path)
    for loaded in (OneVisionVLProcessor.from_pretrained(tmp_path, allow_urls=False), whole(allow_urls=False)):
        loaded.save_pretrained(tmp_path / "closed")
        again = OneVisionVLProcessor.from_pretrained(tmp_path / "closed")
        for kind in ("image", "video"):
            with pytest.raises((OSError, VideoReadError), match="allow_urls=False"):
                prompt(again, asked(kind, server))


def test_the_demo_fetches_nothing(server):
    server.asked.clear()
    with pytest.raises(VideoReadError, match="allow_urls=False"):
        open_clip(server.url("/a.mp4"))
    assert not server.asked


def test_paths_and_what_lies_inside_are_read_where_urls_are_not(clip):
    assert len(VideoReader(clip.as_uri(), allow_urls=False)) == len(
        VideoReader(clip.read_bytes(), allow_urls=False)
    )


# -- servers that do not end --


def given_up(url: str, match: str, **urls) -> None:
    """Both a video and an image, in a few of the seconds that were set."""
    start = time.monotonic()
    with pytest.raises(VideoReadError, match=match):
        VideoReader(url, **urls)
    with pytest.raises(RemoteError, match=match):
        fetch_picture(url, UrlAccess(**urls))
    assert time.monotonic() - start < 20  # of minutes or years


@pytest.mark.parametrize("length", [{"Content_Length": "9000000"}, NO_LENGTH])
def test_a_byte_now_and_then_keeps_nobody_waiting(length):
    with Server({"/a": Answer(b"G", again=0.02, **length)}) as server:
        given_up(server.url("/a"), "fewer than 300 bytes have come in 0.3 s", url_timeout=0.3)


def test_a_server_that_is_silent_or_begins_and_never_goes_on_is_given_up():
    with Server(
        {"/a": Answer(silent=True, Content_Length="9"), "/b": Answer(bytes(50), Content_Length="9000")}
    ) as server:
        given_up(server.url("/a"), "have come in 0.3 s|nothing has come for 0.3 s", url_timeout=0.3)
        given_up(server.url("/b"), "ended after 50 of 9000 bytes", url_timeout=0.3)


def test_an_endless_stream_of_pictures_ends_at_its_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    part = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + bytes(50_000)
    endless = Answer(part, again=0.0, Content_Type="multipart/x-mixed-replace; boundary=frame", **NO_LENGTH)
    with Server({"/live.mjpeg": endless}) as server:
        given_up(
            server.url("/live.mjpeg"), r"is longer than 300000 bytes \(max_url_bytes\)", max_url_bytes=300_000
        )
    assert not list(tmp_path.iterdir())


def test_headers_that_never_end_are_given_up():
    stopped = threading.Event()

    def dribble(listener: socket.socket) -> None:
        with listener, contextlib.suppress(OSError):
            listener.recv(1000)
            listener.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not stopped.wait(0.02):
                listener.sendall(b"a")

    def serve() -> None:
        for _ in range(2):
            threading.Thread(target=dribble, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
        given_up(url, "the server has not answered in 0.3 s", url_timeout=0.3)
        stopped.set()


def test_what_comes_fast_enough_is_taken_however_long_it_takes(clip):
    piece = bytes(400)
    with Server({"/a": Answer(piece, again=0.02, Content_Length=str(30 * len(piece)))}) as server:
        assert fetch_picture(server.url("/a"), UrlAccess(url_timeout=0.15)) == 30 * piece
