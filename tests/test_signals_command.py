"""`onevision signals` writes the signals of a clip's frames as arrays, and draws them as arrows."""

import json

import av
import numpy as np
import pytest
from clips import moving_scene, write_clip
from PIL import Image
from safetensors import safe_open

from onevision_hf import read_codec_signals
from onevision_hf.cli import main
from onevision_hf.data import signal_files
from onevision_hf.modeling.codec_signal_reader import FrameSignals
from onevision_hf.modeling.video_reader import VideoReader
from onevision_hf.view import draw_arrows


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, moving_scene(10, 72, 104), codec="libx265")


def run(capsys, *words):
    status = main(["signals", *map(str, words), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_every_frame_is_written_with_the_values_of_the_reader(clip, tmp_path, capsys):
    out = tmp_path / "new" / "signals.npz"
    report = run(capsys, clip, "--all", "--out", out)
    whole = read_codec_signals(clip, num_frames=10, signals=("vectors", "residual", "age"))
    with np.load(out) as found:
        for name in ("vectors", "residual", "age"):
            assert np.array_equal(found[name], getattr(whole, name), equal_nan=True)
            assert report["arrays"][name] == list(found[name].shape)
        assert found["frame_ids"].tolist() == list(range(10)) and str(found["vector_unit"]) == "frame"
        assert tuple(str(found["picture_types"])) == whole.picture_types
        assert json.loads(str(found["signal"]))["vectors"] == "painted references"
        assert np.array_equal(found["picture_sizes"], whole.picture_sizes)
    assert [file.name for file in out.parent.iterdir()] == ["signals.npz"]


def test_some_frames_and_some_signals_as_safetensors(clip, tmp_path, capsys):
    out = tmp_path / "signals.safetensors"
    run(capsys, clip, "--num-frames", 4, "--signals", "residual", "--out", out)
    with safe_open(out, "np") as found:
        assert "vectors" not in found.keys()  # noqa: SIM118
        whole = read_codec_signals(clip, num_frames=4, signals=("residual",))
        assert np.array_equal(found.get_tensor("residual"), whole.residual, equal_nan=True)
        assert found.get_tensor("frame_ids").tolist() == [0, 3, 6, 9]
        assert found.metadata()["picture_types"] == "".join(whole.picture_types)


def test_safetensors_of_more_than_memory_should_hold_are_refused(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(signal_files, "MOST_BYTES", 1000)
    assert main(["signals", str(clip), "--out", str(tmp_path / "big.safetensors")]) == 1
    assert "name a .npz" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--out F.npz"),
        (["--out", "x.npy"], "found '.npy'"),
        (["--view", "x.gif"], "found '.gif'"),
        (["--out", "x.npz", "--all", "--num-frames", "3"], "one of the two"),
        (["--out", "x.npz", "--num-frames", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_done_is_named(words, says, clip, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["signals", str(clip), *words]) == 1
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_clip_is_never_overwritten_by_its_arrows(clip, capsys):
    assert main(["signals", str(clip), "--view", str(clip)]) == 1
    assert "the clip itself" in capsys.readouterr().err


def test_a_picture_that_grows_is_refused_and_a_smaller_one_is_framed(tmp_path):
    def frame(place, height, width):
        residual = np.full((-(-height // 16), -(-width // 16)), place, np.float32)
        size = (height, width)
        return FrameSignals(place, place / 25, "P", 9, size, None, residual, None, False, "reference", {})

    signal_files.write_signals(tmp_path / "a.npz", [frame(0, 32, 48), frame(1, 16, 32)], 2)
    with np.load(tmp_path / "a.npz") as found:
        assert (found["residual"][1, :1, :2] == 1).all() and np.isnan(found["residual"][1]).sum() == 4
        assert found["picture_sizes"].tolist() == [[32, 48], [16, 32]]
    with pytest.raises(ValueError, match="frame 1 is 64 x 32, larger"):
        signal_files.write_signals(tmp_path / "b.npz", [frame(0, 32, 48), frame(1, 32, 64)], 2)
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_the_view_has_a_picture_a_frame_with_the_residual_beside_it(clip, tmp_path, capsys):
    view = tmp_path / "arrows.mp4"
    run(capsys, clip, "--num-frames", 5, "--view", view, "--colour", "age")
    with av.open(str(view)) as container:
        sizes = {(frame.width, frame.height) for frame in container.decode(video=0)}
        assert container.streams.video[0].frames == 5
    assert sizes == {(960, 366)}  # two panels of 480 x 332 and the line of words


@pytest.mark.parametrize(("x", "y"), [(4, 0), (-4, 0), (0, 4)])
def test_an_arrow_lies_behind_the_block_it_belongs_to_and_points_where_it_goes(x, y, clip):
    """A vector points to where the block was; its arrow comes from there."""
    vectors = np.full((18, 26, 2), np.nan, np.float32)
    vectors[8:12, 12:16] = -x, -y  # the block at 48..64, 32..48, in its middle 56, 40
    with VideoReader(clip) as reader:
        frames = list(reader.frames([1]))
    signals = [FrameSignals(1, 0.04, "P", 9, (72, 104), vectors, None, None, False, "frame", {})]
    (drawn,) = draw_arrows(frames, signals)
    signals = [FrameSignals(1, 0.04, "P", 9, (72, 104), vectors * np.nan, None, None, False, "frame", {})]
    (without,) = draw_arrows(frames, signals)
    changed = np.argwhere((np.asarray(drawn) != np.asarray(without)).any(-1)[:332])[:, ::-1]
    scale = 480 / 104
    head, tail = scale * np.array([56, 40]), scale * np.array([56 - 3 * x, 40 - 3 * y])
    for point in (head, tail):
        assert np.hypot(*(changed - point).T).min() < 4
    assert isinstance(drawn, Image.Image) and np.abs(changed.mean(0) - (head + tail) / 2).max() < 16


def test_another_colour_is_refused():
    with pytest.raises(ValueError, match="direction or age"):
        next(draw_arrows([], [], "speed"))
