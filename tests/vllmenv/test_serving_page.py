"""The commands and the Python of docs/serving.md run as they stand there.

Run: make test-vllm
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from folders import own_folder
from servers import running

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
BLOCKS = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def block(beginning: str) -> str:
    return next(one for one in BLOCKS if beginning in one)


@pytest.fixture
def page(tmp_path, clip, monkeypatch):
    """The folder that the page works in."""
    monkeypatch.chdir(tmp_path)
    own_folder(tmp_path / "vl")
    (tmp_path / "clips").mkdir()
    shutil.copy(clip, tmp_path / "clips" / "clip.mp4")
    return tmp_path


@pytest.mark.parametrize("server", ["python -m vllm.", "python -m onevision_hf.serving.transformers_server"])
def test_the_servers_answer_the_pages_client(page, server, capsys):
    line = next(one for one in block(server).replace("\n  ", " ").splitlines() if one.startswith(server))
    code = block("import openai")
    if "vllm" not in server:  # which refuses fields that it does not know
        code = re.sub(r"    extra_body=.*\n", "", code)
    _, *arguments = shlex.split(line.replace(" --port 8000", ""))
    with running(page / "log", *arguments, VLLM_ENABLE_V1_MULTIPROCESSING="1") as (_, client):
        exec(code.replace("http://127.0.0.1:8000/v1", str(client.base_url)), {})
    assert capsys.readouterr().out.strip()


def test_the_engine_of_the_page_answers(page, capsys):
    exec(block("from vllm import LLM"), {})
    assert capsys.readouterr().out.strip()
