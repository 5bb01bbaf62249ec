"""What tests of safe reading watch with: a server of this machine that counts, files that tell of openings.

with Server({"/clip.mp4": data, "/moved": redirect("/clip.mp4")}) as server:
    server.url("/clip.mp4"), server.asked       # what was asked for, in order
opened = Opened(private)                        # Linux: the kernel tells (inotify)
opened.count()                                  # since it was made or last asked
"""

import contextlib
import ctypes
import os
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

IN_OPEN = 0x20


class Answer:
    """status, headers and body of an answer; `silent` sends no byte of the body until the server stops.

    again: the body is sent again and again, with so many seconds after each, until nobody takes it.
    """

    def __init__(
        self,
        body: bytes = b"",
        status: int = 200,
        silent: bool = False,
        again: float | None = None,
        **headers: str,
    ):
        self.body, self.status, self.silent, self.again = body, status, silent, again
        self.headers = {"Content-Length": str(len(body))} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }


def redirect(location: str, status: int = 302) -> Answer:
    return Answer(status=status, Location=location)


class Server:
    """Answers GET on the loopback from a dict of path -> bytes or `Answer`; 404 for anything else.

    Attributes: `asked`, paths (whole URLs where it is asked as a proxy); `headers`, those of each request.
    """

    def __init__(self, answers: dict[str, bytes | Answer] | None = None, host: str = "127.0.0.1"):
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.headers: list[Any] = []
        self._stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.headers.append(self.headers)
                answer = server.answers.get(self.path, Answer(status=404))
                answer = answer if isinstance(answer, Answer) else Answer(answer)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if answer.silent:
                    server._stopped.wait()
                    return
                with contextlib.suppress(ConnectionError):
                    self.wfile.write(answer.body)
                    while answer.again is not None and not server._stopped.wait(answer.again):
                        self.wfile.write(answer.body)

            do_CONNECT = do_GET

            def log_message(self, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer((host, 0), Handler)
        self._server.daemon_threads = True
        self.host, self.port = host, self._server.server_port

    def url(self, path: str, user: str = "") -> str:
        return f"http://{user}{self.host}:{self.port}{path}"

    def __enter__(self) -> "Server":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()


class Opened:
    """Counts how often a file is opened, or which files of a folder are, by anybody."""

    def __init__(self, path: Path):
        if sys.platform != "linux":
            pytest.skip("inotify is Linux's")
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        if self._handle < 0 or libc.inotify_add_watch(self._handle, os.fsencode(path), IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def count(self) -> int:
        return len(self.names())

    def names(self) -> list[str]:
        """Of the files in the folder, one for each time; "" for the folder or file itself."""
        try:
            data = os.read(self._handle, 1 << 20)
        except BlockingIOError:
            return []
        at, found = 0, []
        while at < len(data):
            _, mask, _, length = struct.unpack_from("iIII", data, at)
            if mask & IN_OPEN:
                found.append(data[at + 16 : at + 16 + length].rstrip(b"\0").decode())
            at += 16 + length
        return found

    def close(self) -> None:
        os.close(self._handle)
