"""The page without a browser: what is kept for a budget, how it is said, what is refused."""

import json
import re
import runpy
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

import onevision_hf
from onevision_hf import select_patches
from onevision_hf.cli import main
from onevision_hf.demo import panels
from onevision_hf.demo.opened_clip import Choices, open_clip


def test_a_budget_keeps_what_select_patches_keeps(clip):
    choices = Choices(12, sampling="packet_size")
    for ratio, anchors in ((0.125, "first"), (0.4, "keyframes"), (0.2, 8)):
        kept = open_clip(str(clip), choices).cut(ratio, anchors).selection
        expected = select_patches(
            clip, num_frames=12, sampling="packet_size", keep_ratio=ratio, anchors=anchors
        )
        assert np.array_equal(kept.positions, expected.positions) and kept.signal == expected.signal


def test_a_share_of_the_energy_keeps_what_select_patches_keeps(clip):
    kept = open_clip(str(clip), Choices(12)).cut(0.4, "first", 0.8).selection
    expected = select_patches(clip, num_frames=12, keep_ratio=0.4, keep_energy=0.8)
    assert np.array_equal(kept.positions, expected.positions) and kept.keep_ratio < 0.4


def test_a_clip_is_read_once_for_all_budgets_and_again_when_it_changes(clip, tmp_path):
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    first = open_clip(str(copy), Choices(6))
    assert open_clip(str(copy), Choices(6)) is first and open_clip(str(copy), Choices(7)) is not first
    copy.touch()
    assert open_clip(str(copy), Choices(6)) is not first


def test_the_panels_say_what_the_budget_buys(clip):
    kept = open_clip(str(clip), Choices(16)).cut(0.125, "first")
    shown = panels.show(kept)
    per_frame = kept.selection.geometry.patches_per_frame
    assert f"{2 * per_frame:,} of {16 * per_frame:,} (12.5 %)" in shown
    assert "I, coded alone: 4" in shown and 'data-kind="B"' in shown and "vectors+residual" in shown
    moments = json.loads(re.search(r'data-moments="(\[.*?\])"', shown)[1])
    assert len(moments) == 16 and moments == sorted(moments)
    assert 0 < kept.energy_seen < kept.energy_kept < 1


def test_the_video_of_the_panels_has_a_frame_for_each_moment(clip, tmp_path):
    from onevision_hf import VideoReader

    kept = open_clip(str(clip), Choices(10)).cut(0.2, "first")
    content, pace = panels.video(kept.view)
    with VideoReader(content) as reader:
        height, width = kept.view.frames.shape[1:3]
        assert (len(reader), reader.width, reader.height) == (10, width // 2 * 2, 3 * (height // 2 * 2))
        assert reader.timestamps[-1] == pytest.approx(9 * pace, abs=1e-3)


def test_a_file_name_cannot_write_into_the_page(clip, tmp_path):
    odd = tmp_path / "<b>x.mp4"
    odd.write_bytes(clip.read_bytes())
    assert "&lt;b&gt;x.mp4" in panels.show(open_clip(str(odd), Choices(4)).cut(0.5, "first"))
    assert "<script>" not in panels.failure("<script>")


@pytest.mark.slow
def test_the_page_says_what_is_wrong_without_the_folder_of_the_upload(clip, tmp_path):
    pytest.importorskip("gradio")
    from onevision_hf.demo.page import OWN, _show

    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    rest = ("the first frame", "uniform", 8, 100)
    content, *buttons = _show(str(broken), 12.5, "auto", [], *rest)
    assert "broken.mp4" in content and str(tmp_path) not in content and not buttons[0]["interactive"]
    content, *_ = _show(str(clip), 12.5, OWN, [], *rest)
    assert "at least one signal" in content
    content, *_ = _show(str(clip), 12.5, OWN, ["residual", "difference"], *rest)
    assert 'role="alert"' in content and "difference" in content
    content, *buttons = _show(str(clip), 12.5, OWN, ["difference"], *rest)
    assert "<canvas" in content and buttons[0]["interactive"]


def test_a_taken_port_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["demo", "--port", str(port), "--no-browser"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1 and str(port) in err and "--port" in err


def test_a_space_installs_the_wheel_that_lies_beside_it():
    """The package is on no index."""
    wanted = Path(panels.__file__).with_name("requirements.txt").read_text()
    assert wanted == f"./onevision_hf-{onevision_hf.__version__}-py3-none-any.whl[demo]\n"


@pytest.mark.parametrize("words", [["--max-mb", "0"], ["--port", "70000"]])
def test_a_number_out_of_range_is_one_line(words, capsys):
    assert main(["demo", "--no-browser", *words]) == 1
    assert words[1] in capsys.readouterr().err


def test_without_gradio_it_says_which_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=re.escape("pip install '.[demo]'")):
        runpy.run_module("onevision_hf.demo.page")
