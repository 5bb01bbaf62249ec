"""Files and inputs that once did harm, made by `make fuzz` and `make fuzz-parsers`, do none any more.

`tests/fixtures/corpus/videos` has files, each read in a process with limits; the other folders have inputs of
parsers, by their names in `parser_targets`.
"""

from pathlib import Path

import pytest
from fuzz_codec import GOOD, read_in_child
from parser_targets import TARGETS

CORPUS = Path(__file__).parent / "fixtures" / "corpus"
FILES = sorted(path for path in CORPUS.rglob("*") if path.is_file() and path.suffix != ".md")
VIDEOS = [path for path in FILES if path.parent.name == "videos"]
INPUTS = [path for path in FILES if path.parent.name != "videos"]


def named(path: Path) -> str:
    return str(path.relative_to(CORPUS))


def test_the_corpus_is_small_and_each_file_has_its_story():
    assert sum(path.stat().st_size for path in FILES) <= 300_000
    told = (CORPUS / "README.md").read_text(encoding="utf-8")
    assert [named(path) for path in FILES if f"`{named(path)}`" not in told] == []


@pytest.mark.parametrize("path", VIDEOS, ids=named)
def test_a_video_is_read_or_refused_within_its_limits(path):
    ending = read_in_child(path)
    assert ending.verdict in GOOD.values(), ending


@pytest.mark.parametrize("path", INPUTS, ids=named)
def test_an_input_gives_a_result_or_the_error_that_its_parser_names(path):
    TARGETS[path.parent.name](path.read_bytes())
