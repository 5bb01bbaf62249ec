"""Reads http and https so that what is fetched opens nothing but itself.

FFmpeg and image libraries follow redirects wherever they lead. Here one leads to http or https only, and from
a public address never to one of this machine or its network.

with open_url("https://example.org/clip.mp4") as answer:
    answer.size, answer.read(65536)         # bytes, None where the server does not say
fetch_picture("https://example.org/a.jpg")  # the bytes of an image
open_url(url, UrlAccess(allow_urls=False))  # RemoteError: what strangers name is not fetched
"""

import base64
import http.client
import io
import ipaddress
import math
import os
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from .url_access import FETCHED, UrlAccess

MAX_REDIRECTS = 5
LONGEST_NAME = 200  # characters of it that a message shows
# Bytes a second, over so many seconds; a byte now and then would never let the silence come.
SLOWEST = 1000
CHUNK = 1 << 18
# Of a video, so that an answer without an end does not fill the disk.
MAX_BYTES = 1 << 34
# Of a picture: the largest that PIL opens without a warning is 270 million bytes of pixels.
MAX_PICTURE_BYTES = 1 << 28
NETWORKS_OF_IPV4 = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))


class RemoteError(OSError):
    """A URL cannot be fetched; the message says why, and not from where."""


def is_url(name: str) -> bool:
    """Whether this is an http or https URL."""
    return re.match(r"https?://", name, re.IGNORECASE) is not None


def shown(url: str) -> str:
    """The URL or path for messages: without a password, and of a long one the beginning."""
    name = re.sub(r"^(\w+://[^/?#@:]*):[^/?#]*@", r"\1:***@", url)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}... ({len(name)} characters)"


def is_public(address: str) -> bool:
    """Whether this numeric address is anywhere: neither of this machine nor of a network of its own."""
    found: Any = ipaddress.ip_address(address)
    if found.version == 6:
        if found.ipv4_mapped or found.sixtofour:
            found = found.ipv4_mapped or found.sixtofour
        elif any(found in network for network in NETWORKS_OF_IPV4):
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast


class RemoteFile(io.RawIOBase):
    """What a server answers, read once from its start to its end.

    url: where it was found in the end. size: bytes, None where the server does not say.
    """

    def __init__(
        self,
        response: http.client.HTTPResponse,
        connection: Any,
        url: str,
        access: UrlAccess,
        watch: "_Watch",
    ):
        self._response, self._connection, self._access, self._watch = response, connection, access, watch
        self._count = 0
        self.url, self.size = url, response.length

    def read(self, count: int = -1) -> bytes:
        """At most `count` bytes, as many as there are without waiting for more; b"" at the end.

        Raises:
            RemoteError: the connection broke, ended early, or nothing came for `url_timeout` seconds.
        """
        with _explained(self._access.url_timeout):
            data = self._response.read1(count) if count else b""
        self._count += len(data)
        if count and not data and self.size is not None and self._count < self.size:
            raise RemoteError(f"the server ended after {self._count} of {self.size} bytes")
        return data

    def save(self, file: BinaryIO) -> int:
        """Write all of it to `file`; returns the number of bytes.

        Raises:
            RemoteError: as `read`; it is longer than `max_url_bytes`, or comes too slowly.
        """
        for data in self._pieces(self._access.max_url_bytes or MAX_BYTES):
            file.write(data)
        return self._count

    def fetch(self) -> bytes:
        """All of a picture. Raises as `save`."""
        return b"".join(self._pieces(self._access.max_url_bytes or MAX_PICTURE_BYTES))

    def _pieces(self, limit: int) -> Iterator[bytes]:
        seconds = self._access.url_timeout
        least = math.ceil(SLOWEST * seconds)
        with self._watch.expecting(least, f"fewer than {least} bytes have come in {seconds:g} s"):
            data = b"" if (self.size or 0) > limit else self.read(CHUNK)
            while data:
                self._watch.came += len(data)
                yield data
                if self._count > limit:
                    break
                data = self.read(CHUNK)
        if max(self._count, self.size or 0) > limit:
            raise RemoteError(f"is longer than {limit} bytes (max_url_bytes)")

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._response.close()
        self._connection.close()
        self._watch.close()
        super().close()


class _Watch:
    """Cuts a connection on which too little comes. `came` counts the bytes that did."""

    def __init__(self, seconds: float):
        self.seconds, self.came = seconds, 0
        self._handle: socket.socket | None = None
        self._is_cut = False

    def hold(self, sock: socket.socket) -> None:
        """Watch what `sock` is connected to, whatever is wrapped around it later."""
        self._handle = socket.socket(fileno=os.dup(sock.fileno()))
        if self._is_cut:  # meanwhile
            self._cut()

    @contextmanager
    def expecting(self, least: int, otherwise: str) -> Iterator[None]:
        """Within, so many bytes must come in each `seconds`.

        Args:
            least: bytes.
            otherwise: what the error says then.

        Raises:
            RemoteError: fewer came.
        """
        done = threading.Event()

        def watch() -> None:
            seen = self.came
            while not done.wait(self.seconds):
                if self.came - seen < least:
                    self._cut()
                    return
                seen = self.came

        thread = threading.Thread(target=watch, name="watch a download", daemon=True)
        thread.start()
        try:
            yield
        except RemoteError as error:
            raise (RemoteError(otherwise) if self._is_cut else error) from error
        finally:
            done.set()
            thread.join()
        if self._is_cut:  # which looks like the end of an answer of unknown length
            raise RemoteError(otherwise)

    def _cut(self) -> None:
        self._is_cut = True
        if self._handle is not None:
            with suppress(OSError):
                self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()


def open_url(url: str, access: UrlAccess = FETCHED) -> RemoteFile:
    """Ask for `url` and follow redirects.

    The first address is the caller's own choice and may be a private one. Addresses are checked after a name
    is resolved, and the connection goes to what was checked. Behind a proxy (`http_proxy`, `https_proxy`,
    `no_proxy`) it is the proxy that resolves: names are checked as far as they resolve here.

    Args:
        url: http or https; a name and password in it are sent as basic authentication, to that host only.
        access: whether it may be fetched, and within which bounds.

    Raises:
        RemoteError: URLs are not allowed, no answer, one that is no file, or a redirect that leads where it
            must not.
    """
    if not access.allow_urls:
        raise RemoteError("is a URL, and none is fetched here (allow_urls=False): give the file itself")
    timeout = access.url_timeout
    was_public, current = False, url
    for _ in range(MAX_REDIRECTS + 1):
        watch = _Watch(timeout)
        try:
            with watch.expecting(1, f"the server has not answered in {timeout:g} s"), _explained(timeout):
                parts = _parts(current)
                connection, public = _connect(parts, was_public, timeout, watch)
                response = None
                try:
                    connection.request("GET", _target(parts, connection), headers=_headers(parts))
                    if connection.sock is not None and _proxy_of(parts):  # whose handshakes cannot be watched
                        watch.hold(connection.sock)
                    response = connection.getresponse()
                finally:
                    if response is None:
                        connection.close()
        except BaseException:
            watch.close()
            raise
        was_public = was_public or public
        moved = response.getheader("Location")
        answer = RemoteFile(response, connection, current, access, watch)
        if response.status == 200:
            return answer
        answer.close()
        if response.status not in (301, 302, 303, 307, 308) or not moved:
            raise RemoteError(f"the server answered {response.status} {response.reason}")
        with _explained(timeout):
            current = _redirected(current, moved)
    raise RemoteError(f"over {MAX_REDIRECTS} redirects, the last one to {shown(current)}")


def fetch_picture(url: str, access: UrlAccess = FETCHED) -> bytes:
    """The bytes of an image.

    Raises:
        RemoteError: as `open_url` and `RemoteFile.save`; PostScript, a program that an image library has
            another one run.
    """
    with open_url(url, access) as answer:
        data = answer.fetch()
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        raise RemoteError("is PostScript, a program and not a picture: convert it first")
    return data


def fetch_pictures(images: Any, access: UrlAccess) -> Any:
    """`images` (nested lists of anything), with data URLs in the place of http and https ones."""
    if isinstance(images, list | tuple):
        return [fetch_pictures(image, access) for image in images]
    if not (isinstance(images, str) and is_url(images)):
        return images
    try:
        data = fetch_picture(images, access)
    except RemoteError as error:
        raise RemoteError(f"{shown(images)}: {error}") from error
    return f"data:image/any;base64,{base64.b64encode(data).decode()}"


@contextmanager
def _explained(timeout: float) -> Iterator[None]:
    """Turn what sockets, TLS, http and names raise into `RemoteError`."""
    try:
        yield
    except RemoteError:
        raise
    except TimeoutError as error:
        raise RemoteError(f"nothing has come for {timeout:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RemoteError(f"cannot be fetched: {reason}") from error


def _parts(url: str) -> SplitResult:
    parts = urlsplit(url)
    if not parts.hostname:
        raise RemoteError("its URL names no host")
    return parts._replace(scheme=parts.scheme.lower())


def _redirected(url: str, location: str) -> str:
    """Where a redirect leads, if one may go there."""
    target = urljoin(url, location.strip())
    if not is_url(target):
        raise RemoteError(f"it redirects to {shown(target)[:200]}, and only http and https are followed")
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http":
        raise RemoteError(f"it redirects from https to http, {shown(target)[:200]}, which is not followed")
    return target


def _connect(parts: SplitResult, public_only: bool, timeout: float, watch: _Watch) -> tuple[Any, bool]:
    """A connection to the host, or to the proxy for it, and whether the host is a public one."""
    host = str(parts.hostname)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    proxy = _proxy_of(parts)
    if proxy is not None:
        public = _is_public_behind_proxy(host, port, public_only)
        # http.client speaks https to the host through the tunnel, and http to the proxy itself.
        connection = kind(str(proxy.hostname), proxy.port or 80, timeout=timeout)
        if secure:
            connection.set_tunnel(_ascii(host), port, headers=_authorization(proxy, "Proxy-Authorization"))
        return connection, public
    sock = _dial(host, port, public_only, timeout)
    watch.hold(sock)
    public = is_public(sock.getpeername()[0])
    connection = kind(_ascii(host), port, timeout=timeout)
    try:
        tls = ssl.create_default_context() if secure else None
        connection.sock = tls.wrap_socket(sock, server_hostname=_ascii(host)) if tls else sock
    except BaseException:
        sock.close()
        raise
    return connection, public


def _dial(host: str, port: int, public_only: bool, timeout: float) -> socket.socket:
    """A socket that is connected to one of the addresses of `host`, which are resolved once."""
    error: OSError | None = None
    for family, kind, protocol, _, address in _addresses(host, port, public_only):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(address)
            _check_public(host, [sock.getpeername()[0]], public_only)
            return sock
        except OSError as failed:
            sock.close()
            if isinstance(failed, RemoteError):
                raise
            error = failed
    raise error or RemoteError(f"{host} has no address")


def _addresses(host: str, port: int, public_only: bool) -> list[Any]:
    """What `host` resolves to, as of `socket.getaddrinfo`; the public ones of it where it must be public."""
    found = socket.getaddrinfo(_ascii(host), port, type=socket.SOCK_STREAM)
    if public_only:
        public = [entry for entry in found if is_public(str(entry[4][0]))]
        _check_public(host, [str(entry[4][0]) for entry in public or found], public_only)
        return public
    return found


def _check_public(host: str, addresses: list[str], public_only: bool) -> None:
    if public_only and not all(map(is_public, addresses)):
        raise RemoteError(
            f"it redirects from a public address to {host} ({addresses[0]}), which is of this machine or a "
            "private network, and is not followed"
        )


def _is_public_behind_proxy(host: str, port: int, public_only: bool) -> bool:
    try:
        found = _addresses(host, port, public_only)
    except socket.gaierror:
        return True  # only the proxy can tell
    return all(is_public(str(entry[4][0])) for entry in found)


def _proxy_of(parts: SplitResult) -> SplitResult | None:
    given = urllib.request.getproxies().get(parts.scheme)
    if not given or urllib.request.proxy_bypass(f"{parts.hostname}:{parts.port or ''}".rstrip(":")):
        return None
    proxy = urlsplit(given if "://" in given else f"http://{given}")
    if proxy.scheme != "http" or not proxy.hostname:
        raise RemoteError(f"the proxy {shown(given)} is none that speaks http")
    return proxy


def _target(parts: SplitResult, connection: Any) -> str:
    """What is asked for: the path, or the whole URL where a proxy is asked."""
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?") if parts.query else ""
    if parts.scheme == "https" or connection.sock is not None:
        return path + query
    return f"http://{_host_header(parts)}{path}{query}"


def _headers(parts: SplitResult) -> dict[str, str]:
    headers = {"Host": _host_header(parts), "Accept": "*/*", "Accept-Encoding": "identity"}
    headers |= {"User-Agent": "onevision-hf"} | _authorization(parts, "Authorization")
    if parts.scheme == "http" and (proxy := _proxy_of(parts)) is not None:
        headers |= _authorization(proxy, "Proxy-Authorization")
    return headers


def _host_header(parts: SplitResult) -> str:
    host = _ascii(str(parts.hostname))
    host = f"[{host.split('%')[0]}]" if ":" in host else host
    return f"{host}:{parts.port}" if parts.port else host


def _authorization(parts: SplitResult, header: str) -> dict[str, str]:
    if parts.username is None:
        return {}
    given = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(given.encode()).decode()}"}


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()
