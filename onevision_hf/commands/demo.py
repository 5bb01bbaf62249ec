"""`onevision demo`: a page in the browser; drop a clip, see what is kept. Needs the extra `demo`.

onevision demo
onevision demo --host 0.0.0.0 --port 8000 --no-browser --max-mb 500
"""

import json
import socket
from typing import Annotated

from typer import Option as Opt

from .options import Json


def run(
    host: Annotated[str, Opt(metavar="ADDRESS", help="address to listen at")] = "127.0.0.1",
    port: Annotated[int, Opt(metavar="N", help="port to listen at")] = 7860,
    max_mb: Annotated[int, Opt(metavar="N", help="largest file taken, in MB")] = 200,
    no_browser: Annotated[bool, Opt("--no-browser", help="open no browser")] = False,
    as_json: Json = False,
) -> None:
    if max_mb < 1:
        raise ValueError(f"--max-mb is at least 1, found {max_mb}")
    _check_free(host, port)
    from onevision_hf.demo.page import serve

    def ready(address: str) -> None:
        print(json.dumps({"url": address}) if as_json else f"{address}   (Ctrl-C ends it)", flush=True)

    serve(host, port, max_mb, not no_browser, ready)


def _check_free(host: str, port: int) -> None:
    """Raise ValueError where nothing can listen at `port`."""
    if not 0 < port < 65536:
        raise ValueError(f"--port is 1 to 65535, found {port}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"port {port} of {host} is taken ({error.strerror}): name another with --port"
            ) from error
