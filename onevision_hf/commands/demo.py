"""`onevision demo`: a page in the browser; drop a clip, see what is kept. Needs the extra `demo`.

onevision demo
onevision demo --host 0.0.0.0 --port 8000 --no-browser --max-mb 500
"""

import argparse
import json
import socket


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at (%(default)s)")
    parser.add_argument("--max-mb", type=int, default=200, help="largest file taken, in MB (%(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")
    parser.add_argument("--json", action="store_true", help="print the address as one line of JSON")


def run(args: argparse.Namespace) -> None:
    if args.max_mb < 1:
        raise ValueError(f"--max-mb is at least 1, found {args.max_mb}")
    check_free(args.host, args.port)
    from onevision_hf.demo.page import serve

    def ready(address: str) -> None:
        print(json.dumps({"url": address}) if args.json else f"{address}   (Ctrl-C ends it)", flush=True)

    serve(args.host, args.port, args.max_mb, not args.no_browser, ready)


def check_free(host: str, port: int) -> None:
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
