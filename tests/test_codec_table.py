"""The table of docs/codec-signals.md: its figures are measured, and the page has a row for every stream."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "codec-signals.md"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("codec_table", ROOT / "benchmarks" / "codec_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_rows_hold_what_each_codec_gives_and_land_between_the_markers(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{script.START}\nold\n{script.END}\nafter\n")
    script.write_between_markers(page, script.make_table(["MPEG-2, B", "MJPEG"]))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    mpeg2, mjpeg = (cells(line) for line in text.splitlines() if line.startswith(("| MPEG-2", "| MJPEG")))
    assert mpeg2[2] == mpeg2[5] == "-" and mpeg2[6] == "vectors + 0.5 compensated"
    # B pictures refer to both sides while the camera pans; what moves beyond it is found all the same.
    assert float(mpeg2[1]) > 0.7 and float(mpeg2[7]) > 2 * float(mpeg2[4])
    assert mjpeg[1:4] == ["-"] * 3 and mjpeg[6] == "difference" and mjpeg[7] == mjpeg[4]
    assert "* MJPEG: FFmpeg's decoder exports no motion vectors of mjpeg" in text


def test_a_page_without_markers_is_refused(script, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="has no place for the table"):
        script.write_between_markers(page, "table")


def test_the_page_has_a_row_for_every_stream_and_its_pictures_are_there_and_small(script):
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition(script.START)[2].partition(script.END)[0]
    assert [name for name in script.STREAMS if f"\n| {name} |" not in table] == []
    for name in ("bundled.png", "codec-presets.png"):
        assert f"(images/{name})" in text and (PAGE.parent / "images" / name).stat().st_size < 400_000
