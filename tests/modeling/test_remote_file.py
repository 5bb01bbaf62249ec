"""What is fetched comes from where it may: redirects, addresses, proxies, silence, and lengths.

Servers are of this machine. Where one has to stand for a public one, it has the address 127.0.0.2.
"""

import io
import socket

import numpy as np
import pytest
from PIL import Image
from vl_tiny import prompt, tiny_config, tiny_processor, user
from watching import Answer, Server, redirect

from onevision_hf import OneVisionImageProcessor, OpenVision3ImageProcessor
from onevision_hf.modeling import remote_file
from onevision_hf.modeling.remote_file import RemoteError, fetch_picture, is_public, open_url
from onevision_hf.modeling.url_access import UrlAccess

BODY = bytes(range(256)) * 3000
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def public(monkeypatch):
    """A server whose address counts as a public one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_file, "is_public", lambda address: address == "127.0.0.2" or is_public(address))
        try:
            server = Server(host="127.0.0.2")
        except OSError:
            pytest.skip("this machine has only one loopback address")
        with server:
            yield server


def read(url: str) -> bytes:
    with open_url(url) as answer:
        file = io.BytesIO()
        assert answer.save(file) == len(file.getvalue())
        return file.getvalue()


def refused(url: str, match: str) -> None:
    with pytest.raises(RemoteError, match=match) as caught:
        read(url)
    assert "secret" not in str(caught.value)


def test_redirects_are_followed_five_times_and_no_more():
    answers = {f"/{count}": redirect(f"/{count - 1}") for count in range(1, 7)} | {"/0": BODY}
    with Server(answers) as server:
        assert read(server.url("/5")) == BODY
        assert len(server.asked) == 6
        refused(server.url("/6"), "over 5 redirects, the last one to http://127.0.0.1:[0-9]+/0")
        assert len(server.asked) == 12


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_kind_of_redirect_is_followed(status):
    with Server({"/a": redirect("b?c=d", status), "/b?c=d": BODY}) as server:
        assert read(server.url("/a").replace("http", "HTTP")) == BODY


@pytest.mark.parametrize(
    "target",
    ["file:///etc/hostname", "data:video/mp4;base64,AAAA", "ftp://127.0.0.1/a", "concat:/a|/b", "FILE:/a"],
)
def test_redirects_lead_to_http_only(target):
    with Server({"/a": redirect(target)}) as server:
        refused(server.url("/a"), "it redirects to .*, and only http and https are followed")


def test_a_redirect_does_not_leave_tls():
    with pytest.raises(RemoteError, match="from https to http"):
        remote_file._redirected("https://example.org/a", "http://example.org/a")
    assert remote_file._redirected("http://a.org/b", "https://a.org/b") == "https://a.org/b"


def test_a_public_address_redirects_to_no_private_one(public):
    with Server({"/inner": BODY}) as inner:
        port = inner.port
        hosts = ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0")
        for host in hosts:
            public.answers["/a"] = redirect(f"http://{host}:{port}/inner")
            refused(public.url("/a"), "it redirects from a public address to .*of this machine or a private")
        assert not inner.asked
        assert read(inner.url("/inner")) == BODY, "but who names a private address may have it"


def test_a_private_address_in_between_opens_no_way_back(public):
    with Server() as inner:
        inner.answers = {"/out": redirect(public.url("/back")), "/inner": BODY}
        public.answers = {"/back": redirect(inner.url("/inner"))}
        refused(inner.url("/out"), "it redirects from a public address to 127.0.0.1")
        assert inner.asked == ["/out"]


def test_of_a_name_with_several_addresses_the_public_one_is_taken_and_resolved_once(public, monkeypatch):
    resolved, real = [], socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host != "both.test":
            return real(host, port, *args, **kwargs)
        resolved.append(host)
        # Asked again, the name leads inside: what was checked is what is connected to.
        addresses = ("127.0.0.1", "127.0.0.2") if len(resolved) == 1 else ("127.0.0.1",)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    public.answers = {"/a": redirect(f"http://both.test:{public.port}/b"), "/b": BODY}
    assert read(public.url("/a")) == BODY
    assert len(resolved) == 1
    refused(public.url("/a"), r"to both.test \(127.0.0.1\)")


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::"),
    ],
)
def test_addresses_of_this_machine_and_its_networks_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_other_addresses_are_public(address):
    assert is_public(address)


def test_a_server_that_falls_silent_is_given_up():
    silent = Answer(BODY, silent=True)
    with (
        Server({"/a": silent}) as server,
        open_url(server.url("/a"), UrlAccess(url_timeout=0.2)) as answer,
        pytest.raises(RemoteError, match=r"nothing has come for 0.2 s"),
    ):
        answer.read(100)


def test_an_answer_that_is_no_file_says_what_it_is():
    with Server({"/short": Answer(BODY, Content_Length="999999"), "/empty": b""}) as server:
        refused(server.url("/none"), "the server answered 404 Not Found")
        refused(server.url("/short"), f"the server ended after {len(BODY)} of 999999 bytes")
        assert read(server.url("/empty")) == b""
        port = server.port
    refused(f"http://127.0.0.1:{port}/a", "cannot be fetched: Connection refused")
    refused("http://", "names no host")
    refused("http://a:b/", "cannot be fetched: Port could not be cast")


@pytest.mark.parametrize("length", [{}, {"Content_Length": "", "Transfer_Encoding": "identity"}])
def test_an_answer_without_end_does_not_fill_the_disk(length, monkeypatch):
    monkeypatch.setattr(remote_file, "MAX_BYTES", len(BODY) - 1)
    with Server({"/a": Answer(BODY, **length)}) as server:
        refused(server.url("/a"), f"is longer than {len(BODY) - 1} bytes")
        monkeypatch.setattr(remote_file, "MAX_BYTES", len(BODY))
        assert read(server.url("/a")) == BODY


def test_a_password_goes_to_its_host_only_and_into_no_message(public):
    with Server({"/there": BODY}) as other:
        other.answers["/a"] = redirect(public.url("/b"))
        public.answers["/b"] = BODY
        assert read(other.url("/a", user="me:my%20secret@")) == BODY
        assert other.headers[0]["Authorization"] == "Basic bWU6bXkgc2VjcmV0"
        assert public.headers[0]["Authorization"] is None
        other.answers["/c"] = redirect("ftp://me:secret@host/")
        refused(other.url("/c"), r"ftp://me:\*\*\*@host/")
    assert remote_file.shown("http://me:secret@host/a:b@c") == "http://me:***@host/a:b@c"
    assert remote_file.shown("http://host/a:b@c") == "http://host/a:b@c"


def test_a_proxy_is_asked_where_the_environment_names_one(monkeypatch):
    with Server({"http://host.invalid/a%20b?c": BODY}) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("", user="me:secret@"))
        monkeypatch.setenv("https_proxy", proxy.url(""))
        assert read("http://host.invalid/a b?c") == BODY
        assert proxy.headers[0]["Host"] == "host.invalid"
        assert proxy.headers[0]["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
        refused("https://host.invalid/a", "Tunnel connection failed: 404")
        assert proxy.asked[-1] == "host.invalid:443"
        proxy.answers["http://host.invalid/in"] = redirect("http://127.0.0.1:1/")
        refused("http://host.invalid/in", "it redirects from a public address to 127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with Server({"/a": BODY}) as server:
            assert read(server.url("/a")) == BODY
            assert server.asked == ["/a"]


# -- images --


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def processors():
    vl = tiny_processor(tiny_config())
    return {
        "onevision": lambda image: OneVisionImageProcessor()(image, return_tensors="pt")["pixel_values"],
        "openvision3": lambda image: OpenVision3ImageProcessor()(image, return_tensors="pt")["pixel_values"],
        "vl_image": lambda image: vl.image_processor([image], return_tensors="pt")["pixel_values"],
        "chat": lambda image: prompt(vl, user(("image", image), "?"))["pixel_values"],
    }


@pytest.mark.parametrize("name", processors())
def test_images_of_the_net_are_those_of_the_file_and_follow_no_redirect_inside(name, photo, public):
    process = processors()[name]
    with Server({"/photo.png": photo.read_bytes()}) as inner:
        assert process(inner.url("/photo.png")).equal(process(str(photo)))
        inner.asked.clear()
        public.answers["/a.png"] = redirect(inner.url("/photo.png"))
        with pytest.raises(OSError, match=r"127.0.0.2.*it redirects from a public address to 127.0.0.1"):
            process(public.url("/a.png"))
        assert not inner.asked


def test_a_program_is_no_picture():
    with Server({"/a.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n", "/b.jpg": b"\xc5\xd0\xd3\xc6rest"}) as server:
        for path in server.answers:
            with pytest.raises(RemoteError, match="is PostScript, a program and not a picture"):
                fetch_picture(server.url(path))
