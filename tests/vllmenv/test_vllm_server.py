"""`vllm serve` and an OpenAI client: files, base64 and http, broken ones, and two hundred at once.

Run: make test-vllm
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest
from clips import write_clip
from folders import TOKENS, as_openai, data_url, expected, picture
from vl_tiny import user
from watching import Server as Site

REQUESTS = 200


class Server(NamedTuple):
    process: subprocess.Popen
    client: Any
    folder: Path

    def ask(self, conversation, url_of=data_url, **settings):
        found = self.client.chat.completions.create(
            model="served",
            messages=as_openai(conversation, url_of),
            max_tokens=TOKENS,
            temperature=0,
            logprobs=True,
            extra_body={
                "min_tokens": TOKENS,
                "return_token_ids": True,
                **({"mm_processor_kwargs": settings} if settings else {}),
            },
        )
        return found.prompt_token_ids, found.choices[0].token_ids

    def memory(self) -> int:
        """Bytes that the server and its engine hold."""
        root = psutil.Process(self.process.pid)
        return sum(one.memory_info().rss for one in [root, *root.children(recursive=True)])


@pytest.fixture(scope="module")
def server(served, clip: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = served.folder / "server.log"
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(served.folder)),
        *("--served-model-name", "served", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--max-num-seqs", "16"),
        # The cache of keys and values is soon full, so that what grows afterwards is something else.
        *("--num-gpu-blocks-override", "256", "--trust-request-mm-kwargs"),
        *("--limit-mm-per-prompt", '{"image": 4, "video": 4}'),
        *("--allowed-local-media-path", str(clip.parent)),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True,
            env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "MALLOC_ARENA_MAX": "2"},
        )  # fmt: skip
    try:
        end = time.monotonic() + 240
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        yield Server(process, client, served.folder)
    finally:
        process.send_signal(signal.SIGTERM)  # it ends its engine
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_files_base64_and_http_give_transformers_answer(served, server, clip):
    conversation = user(("video", clip), "What happens?")
    want = expected(served.folder, user(("video", str(clip)), "What happens?"), **served.codec)
    assert server.ask(conversation) == want
    assert server.ask(conversation, lambda video: f"file://{video}") == want
    with Site({"/clip.mp4": clip.read_bytes()}) as site:
        assert server.ask(conversation, lambda _: site.url("/clip.mp4")) == want
    assert site.asked == ["/clip.mp4"]


def test_images_and_frames_of_several_turns_give_transformers_answer(served, server, clip):
    turns = [
        *user(("image", picture()), ("video", clip), "Which?"),
        {"role": "assistant", "content": "The second."},
        *user(("video", clip), "And now?"),
    ]
    paths = [
        *user(("image", picture()), ("video", str(clip)), "Which?"),
        turns[1],
        *user(("video", str(clip)), "And now?"),
    ]
    assert server.ask(turns, **served.frames) == expected(served.folder, paths, **served.frames)


def refused(server, conversation, match, url_of=data_url, **settings):
    with pytest.raises(openai.BadRequestError, match=match) as error:
        server.ask(conversation, url_of, **settings)
    message = error.value.body["message"]
    assert error.value.status_code == 400 and "\n" not in message, message
    return message


def test_what_cannot_be_read_is_a_400_of_one_line_and_the_server_lives_on(served, server, clip):
    broken = clip.with_name("broken.mp4")
    broken.write_bytes(clip.read_bytes()[:200] + bytes(2000))
    message = refused(server, user(("video", broken), "What?"), "a video cannot be read")
    assert str(clip.parent) not in message
    conversation = user(("video", clip), "What happens?")
    refused(server, conversation, "is the server's to set", canvas_cache="out")
    refused(server, conversation, "num_frames", num_frame=3)
    with pytest.raises(openai.APIStatusError):
        server.ask(conversation, lambda _: f"file://{Path(__file__)}")  # outside of the allowed folder
    want = expected(served.folder, user(("video", str(clip)), "What happens?"), **served.codec)
    assert server.ask(conversation) == want


def test_two_hundred_at_once_are_all_answered_and_memory_stays_flat(served, server, clip, scene, tmp_path):
    """Of ten clips, each with questions of its own. The first rounds fill caches and the allocator's pools; if
    requests of the published folder left their patches behind, that would be 2 GiB a round."""
    clips = [write_clip(tmp_path / f"{i}.mp4", scene[i:]) for i in range(10)]
    asked = [user(("video", clips[i % 10]), f"Question {i}?") for i in range(REQUESTS)]

    def all_at_once():
        with ThreadPoolExecutor(50) as threads:
            return list(threads.map(server.ask, asked))

    rounds = [all_at_once() for _ in range(3)]
    before = server.memory()
    rounds += [all_at_once() for _ in range(2)]
    grown = server.memory() - before
    assert all(one == rounds[0] and len(one) == REQUESTS for one in rounds)
    for i in range(0, REQUESTS, 25):
        own = user(("video", str(clips[i % 10])), f"Question {i}?")
        assert rounds[0][i] == expected(served.folder, own, **served.codec)
    assert grown < 128 << 20, f"{grown / 2**20:.0f} MiB more after {2 * REQUESTS} more requests"
