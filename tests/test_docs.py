"""What README and docs show is true: Python runs, commands parse and print what is shown, links lead on."""

import json
import re
from pathlib import Path

import doc_stages
import pytest
import torch
import yaml
from doc_blocks import PAGES, ROOT, SHELL, blocks, check, commands, outputs

import onevision_hf
from onevision_hf.cli import main

LANGUAGES = {"python", "text", "json", "yaml", *SHELL}
# Run whole: its commands too, and its files of settings, which say their names, are written.
WHOLE = {"docs/recipes.md"}
SLOW = {"docs/openvision3.md", "docs/export.md"}  # a VAE and 86 million random numbers; two graphs
PYTHON_PAGES = [
    pytest.param(page, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for page, name in {block.page: str(block.page.relative_to(ROOT)) for block in blocks("python")}.items()
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECONDS = re.compile(r"\d+\.\d+ s(?=\s|$)")
# Shown with what it prints: run, and compared but for the seconds.
RUN = {"onevision encode bundled"}


def test_readme_is_short():
    assert README.count("\n") < 200


def test_every_block_is_of_a_language_that_is_tested():
    assert [str(block) for block in blocks() if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = str(page.relative_to(ROOT))
    names = doc_stages.prepare(name, tmp_path)
    scope = {"__name__": "__main__"}
    number = 0
    with torch.random.fork_rng():
        for block in (block for block in blocks() if block.page == page):
            if block.language != "python":
                if name in WHOLE:
                    _carry_out(block)
                continue
            scope |= names.get(number, {})
            number += 1
            # Lines keep their numbers in the page, so a failure points there.
            code = compile("\n" * block.line + block.code, str(page), "exec")
            exec(code, scope)
            shapes = re.findall(
                r"^print\((\w+)\.last_hidden_state\.shape.*# (\(.*?\))", block.code, re.MULTILINE
            )
            for name_of, shape in shapes:
                assert str(tuple(scope[name_of].last_hidden_state.shape)) == shape, block


def _carry_out(block):
    """Write a file of settings under the name in its first line, or run commands, each to its end."""
    if block.language == "yaml":
        Path(re.match(r"# (\S+\.yaml)", block.code)[1]).write_text(block.code)
        return
    for words in commands(block):
        assert words[0] == "onevision" and main(words[1:]) == 0, f"{block}: {words}"


@pytest.mark.parametrize(
    "block", [b for b in blocks(*SHELL) if str(b.page.relative_to(ROOT)) not in WHOLE], ids=str
)
def test_commands_parse(block):
    found = list(commands(block))
    assert found, "a shell block without a command"
    for words in found:
        try:
            check(words)
        except ValueError as error:
            pytest.fail(f"{block}: {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("onevision encode a.mp4 --no-such-option", "refused: No such option"),
        ("onevision train --config cluster_smoke optim.rate=1", "optim.rate"),
        ("accelerate launch train.py --config no_such_config", "no_such_config"),
        ("make no-such-target", "no-such-target"),
        ("pip install '.[no-such-extra]'", "no extra no-such-extra"),
        ("python examples/no_such_script.py", "no_such_script"),
        ("rm -rf x", "not a command"),
    ],
)
def test_a_command_that_cannot_work_is_seen(words, says):
    import shlex

    with pytest.raises(ValueError, match=re.escape(says)):
        check(shlex.split(words))


@pytest.mark.parametrize(
    ("command", "shown"),
    [pair for block in blocks("console") for pair in outputs(block).items() if pair[0] in RUN],
)
def test_a_command_prints_what_is_shown(command, shown, capsys):
    assert main(command.split()[1:]) == 0
    printed = capsys.readouterr().out
    assert SECONDS.sub("- s", printed).split() == SECONDS.sub("- s", shown).split()


def test_something_is_run():
    assert set(RUN) <= {command for block in blocks("console") for command in outputs(block)}


def test_data_blocks_are_data():
    for block in blocks("json"):
        json.loads(block.code)
    for block in blocks("yaml"):
        list(yaml.safe_load_all(block.code))


def test_the_index_of_the_reference_names_all_that_is_public():
    page = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    assert {name for name in onevision_hf.__all__ if f"`{name}`" not in page} == {"__version__"}


def _anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in _anchors(path), f"{page.name}: {link}"
