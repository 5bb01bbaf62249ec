"""The code blocks of README and docs: where they stand, and what a line of shell in them must be.

A Python block runs. A shell line is taken apart and given to the parser of the command that it calls, so an
option, a config, a key of a config, a target, an extra or a script that does not exist is an error.
"""

import argparse
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the line of its first fence, its language, what is in it."""

    page: Path
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages, or all of them."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for fence in FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(Block(page, line, fence[1].strip(), fence[2]))
    return [block for block in found if not languages or block.language in languages]


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command of a shell block; in a console block those after the prompt."""
    for line in block.code.replace("\\\n", " ").splitlines():
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        words = shlex.split(line, comments=True)
        while "&&" in words:
            place = words.index("&&")
            yield words[:place]
            words = words[place + 1 :]
        if words:
            yield words


def outputs(block: Block) -> dict[str, str]:
    """Command -> what a console block shows below it."""
    shown: dict[str, str] = {}
    for line in block.code.splitlines():
        if line.startswith("$ "):
            command = line[2:].split("  #")[0].strip()
            shown[command] = ""
        elif shown:
            shown[command] += line + "\n"
    return {command: text for command, text in shown.items() if text.strip()}


def check(words: list[str]) -> None:
    """Raise ValueError if a command cannot work as it stands."""
    words = [word.split("/")[-1] if word.endswith("/bin/pip") else word for word in words]
    match words:
        case ["make", *targets]:
            for target in targets:
                if "=" not in target and not re.search(rf"^{target}:", _makefile(), re.MULTILINE):
                    raise ValueError(f"the Makefile has no target {target}")
        case ["pip", "install", *rest]:
            for word in rest:
                _check_requirement(word)
        case ["python", "-m", "venv", _] | ["hf", "download", _, "--local-dir", _]:
            pass
        case ["onevision", *rest]:
            _check_onevision(rest)
        case ["torchrun" | "accelerate", *rest] | ["python", "-m", "torch.distributed.run", *rest]:
            check(["python", *_launched(rest)])
        case ["python", "-m", "onevision_hf.cli", *rest]:
            _check_onevision(rest)
        case ["python", "-m", "onevision_hf.training", *rest] | ["python", "train.py", *rest]:
            _check_onevision(["train", *rest])
        case ["python", "-m", "lmms_eval", *rest]:
            _check_lmms_eval(rest)
        case ["python", script, *rest] if script.endswith(".py"):
            _check_script(script, rest)
        case _:
            raise ValueError(f"{words[0]}: not a command that this test knows")


def _launched(words: list[str]) -> list[str]:
    """What a launcher of processes starts: from -m or the script on."""
    for place, word in enumerate(words):
        if word == "-m" or word.endswith(".py"):
            return words[place:]
    raise ValueError("nothing is launched")


@cache
def _makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def _check_requirement(word: str) -> None:
    extras = re.fullmatch(r"\.\[([^\]]+)\]", word)
    if extras:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        missing = set(extras[1].split(",")) - set(project["optional-dependencies"])
        if missing:
            raise ValueError(f"no extra {', '.join(sorted(missing))}")
    elif word != ".":  # it is on no index
        raise ValueError(f"pip installs {word}")


def _check_onevision(words: list[str]) -> None:
    from command_line import parse

    from onevision_hf.eval.probes.config import load_probe_config
    from onevision_hf.training.config import load_config

    open_end = words[-1] == "..."  # the value of an option, or further options
    if open_end:
        words = [*words[:-1], "x"] if words[-2].startswith("--") else words[:-1]
    options = parse(words)
    if open_end:
        return
    overrides = options.get("overrides") or []
    if words[0] == "train":
        load_config(options["config"], overrides)
    elif words[:2] == ["eval", "probe"]:
        load_probe_config(options["config"], [f"model={options['model']}", *overrides])


def _check_lmms_eval(words: list[str]) -> None:
    from dataclasses import fields

    from onevision_hf.eval.lmms.settings import Settings
    from onevision_hf.modeling.patchify_config import SETTINGS

    known = {field.name for field in fields(Settings)} | {*SETTINGS}
    options = dict(zip(words[::2], words[1::2], strict=False))
    if options["--model"] != "onevision":
        raise ValueError(f"the model is called onevision, not {options['--model']}")
    given = {pair.partition("=")[0] for pair in options.get("--model_args", "").split(",") if pair}
    if given - known:
        raise ValueError(f"no argument {', '.join(sorted(given - known))}")


class _Parsed(Exception):
    """The words of a script were taken by its parser."""


def _check_script(script: str, words: list[str]) -> None:
    """Run the script up to where its parser has taken the words."""
    if not (ROOT / script).is_file():
        raise ValueError(f"there is no {script}")
    spec = importlib.util.spec_from_file_location("script", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise _Parsed

    stops = mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop)
    with stops, mock.patch.object(sys, "argv", [script, *words]):
        try:
            module.main()
        except _Parsed:
            return
        except SystemExit as exit:
            raise ValueError("its parser refuses it (see standard error)") from exit
    raise ValueError("it has no parser")
