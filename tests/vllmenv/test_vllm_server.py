"""`vllm serve` and an OpenAI client: files, base64 and http, broken ones, and two hundred at once.

Run: make test-vllm
"""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import openai
import psutil
import pytest
from clips import write_clip
from folders import TOKENS, as_openai, data_url, expected, picture
from servers import running
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


@contextmanager
def serving(folder: Path, clip: Path, *more: str, **environment: str) -> Iterator[Server]:
    arguments = (
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)),
        *("--served-model-name", "served", "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "4096", "--max-num-seqs", "16"),
        # The cache of keys and values is soon full, so that what grows afterwards is something else.
        *("--num-gpu-blocks-override", "256", "--trust-request-mm-kwargs"),
        *("--limit-mm-per-prompt", '{"image": 4, "video": 4}'),
        *("--allowed-local-media-path", str(clip.parent)),
        *more,
    )
    environment |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "MALLOC_ARENA_MAX": "2"}
    with running(folder / "server.log", *arguments, **environment) as (process, client):
        yield Server(process, client, folder)


@pytest.fixture(scope="module")
def server(served, clip: Path) -> Iterator[Server]:
    with serving(served.folder, clip) as found:
        yield found


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
    """Of ten clips, each with questions of its own. The first rounds fill caches and the allocator's pools;
    patches that requests of the published folder left behind would be gigabytes."""
    clips = [write_clip(tmp_path / f"{i}.mp4", scene[i:]) for i in range(10)]
    asked = [user(("video", clips[i % 10]), f"Question {i}?") for i in range(REQUESTS)]

    def all_at_once():
        with ThreadPoolExecutor(REQUESTS) as threads:
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


def test_a_language_model_split_over_two_processes_gives_the_same_answer(served, clip):
    """The tower is in each of them whole."""
    split = ("--tensor-parallel-size", "2", "--distributed-executor-backend", "mp")
    conversation = user(("image", picture()), ("video", clip), "Which?")
    paths = user(("image", picture()), ("video", str(clip)), "Which?")
    with serving(served.folder, clip, *split, VLLM_CPU_OMP_THREADS_BIND="nobind") as server:
        assert server.ask(conversation) == expected(served.folder, paths, **served.codec)
