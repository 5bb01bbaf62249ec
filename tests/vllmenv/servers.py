"""A server as a process of its own, which ends with the block."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest


@contextmanager
def running(
    log: Path, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen, openai.OpenAI]]:
    """`python ARGUMENTS --host ... --port ...`, once it is healthy, and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, env={**os.environ, **environment}
        )
    try:
        end = time.monotonic() + 240
        while True:
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(log.read_text()[-4000:])
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        yield process, openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its engine
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
