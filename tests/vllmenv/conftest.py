"""The tests of the vLLM environment (`make test-vllm`): folders that it serves, and one engine for each.

vLLM reads its settings when it is imported, so these stand above every import.
"""

import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

HAS_VLLM = importlib.util.find_spec("vllm") is not None
if HAS_VLLM:
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine of `LLM` runs in the test's own process
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("vllm")


class Served(NamedTuple):
    """A folder, its kind ("own" or "published"), and settings of its processor."""

    kind: str
    folder: Path
    codec: dict[str, Any]
    frames: dict[str, Any]


@pytest.fixture(scope="session", params=["own", "published"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Served:
    from folders import own_folder, published_folder

    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "own":
        frames: dict[str, Any] = {"video_mode": "frames", "num_frames": 3}
        return Served("own", own_folder(folder), {}, frames)
    frames = {"frame_sampling": "lmms_eval", "max_frames": 4}
    # The plugin gives these models codec input by default, transformers' processor when it is asked.
    return Served("published", published_folder(folder), {"preset": "ov2"}, frames)


@pytest.fixture(scope="session")
def engine(served: Served, clip: Path) -> Iterator[Any]:
    """vLLM's `LLM` on the folder."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        str(served.folder),
        dtype="float32",
        enforce_eager=True,
        max_model_len=4096,
        max_num_seqs=8,
        block_size=32,  # tokens that the prefix cache keeps together; 128 by default, more than these prompts
        limit_mm_per_prompt={"image": 4, "video": 4},
        allowed_local_media_path=str(clip.parent),
    )
    yield llm
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
