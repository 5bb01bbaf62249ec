"""What the README shows is true."""

import re
from pathlib import Path

import pytest
import torch

from onevision_hf import bundled_clip
from onevision_hf.cli import COMMANDS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_it_is_short_and_its_links_lead_somewhere():
    assert TEXT.count("\n") < 200
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.splitlines()[0])
def test_the_python_runs_and_gives_the_shapes_it_names(code, capsys):
    scope = {}
    exec(compile(code.replace('"clip.mp4"', repr(str(bundled_clip()))), "README.md", "exec"), scope)
    if "outputs" in scope:
        assert tuple(scope["outputs"].last_hidden_state.shape) == (1, 256, 192)
        assert tuple(scope["outputs"].pooler_output.shape) == (1, 192)
        assert torch.isfinite(scope["outputs"].last_hidden_state).all()
        assert "(1, 256, 192) (1, 192)" in code
    else:
        assert scope["selection"].positions.shape == (2048, 3)


def test_the_commands_and_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z]+)", TEXT):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert set(re.findall(r"onevision ([a-z]+) ", TEXT)) <= set(COMMANDS)
