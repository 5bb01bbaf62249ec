"""The `eval` environment's tests: the mirror of data sets, drawn once a session, and lmms-eval pointed at it.

lmms-eval, datasets and huggingface_hub read their settings when they are imported, so these are set here,
above every import; an attempt to reach a network fails at once.
"""

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HAS_LMMS_EVAL = importlib.util.find_spec("lmms_eval") is not None
if HAS_LMMS_EVAL:
    ROOT = Path(os.environ.setdefault("ONEVISION_EVAL_MIRROR", tempfile.mkdtemp(prefix="onevision-mirror-")))
    os.environ |= {
        "HF_HOME": str(ROOT),
        "NLTK_DATA": str(ROOT / "nltk_data"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "NO_PROXY": "localhost,127.0.0.1",
    }
else:
    collect_ignore_glob = ["test_*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("evalenv")


@pytest.fixture(scope="session")
def mirror() -> Iterator[Path]:
    """The root of the drawn data sets; the working directory while the session runs."""
    from mirror import build_mirror

    build_mirror(ROOT)
    before = Path.cwd()
    os.chdir(ROOT)
    yield ROOT
    os.chdir(before)


@pytest.fixture(scope="session")
def task_manager(mirror: Path) -> Any:
    from onevision_hf.eval.lmms.run import task_manager_of
    from onevision_hf.eval.lmms.suite import SUITES

    return task_manager_of((*SUITES["all16"], *SUITES["openvision3"]))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multimodal model of a few thousand parameters, saved with its processor; it knows nothing."""
    from vl_tiny import tiny_model, tiny_processor

    folder = tmp_path_factory.mktemp("tiny-vl")
    model = tiny_model("patch_merger")
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return folder
