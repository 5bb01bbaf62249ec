"""`onevision view` shows every signal of the clip, or says why there is none, and where its frames lie."""

import json

import numpy as np
import pytest
from clips import moving_scene, write_clip

from onevision_hf import VideoReader, bundled_clip, select_patches
from onevision_hf.cli import main
from onevision_hf.modeling.signal_settings import SIGNALS, SignalSettings
from onevision_hf.view import read_packets, read_signals


@pytest.fixture
def view(capsys, tmp_path):
    """Run the command on a clip and return its JSON report."""

    def run(clip, *words):
        status = main(["view", str(clip), "--out", str(tmp_path / "view.png"), "--json", *words])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out)

    return run


def signals_of(path, **settings):
    selection = select_patches(path, num_frames=6, **settings)
    with VideoReader(path) as reader:
        given = read_signals(reader, selection, SignalSettings(**settings))
        return selection, *given, read_packets(reader, selection).picture_types


def test_the_maps_beside_the_energy_are_those_that_it_is_added_up_from():
    selection, signals, weights, _ = signals_of(str(bundled_clip()))
    assert list(signals) == [name for name in SIGNALS if not name.startswith("painted_")]
    assert weights == {"vectors": 1.0, "residual": 0.5}
    assert all(values.shape == selection.energy.shape and values.any() for values in signals.values())
    inter = [t for t, kind in enumerate(selection.picture_types) if kind != "I"]
    added = sum(weight * signals[name] for name, weight in weights.items())
    assert np.allclose(added[inter], selection.energy[inter], atol=1e-6)


def test_the_picture_types_of_frames_that_nobody_decoded_are_right():
    _, _, _, types = signals_of(str(bundled_clip()))
    with VideoReader(str(bundled_clip())) as reader:
        assert types == [frame.picture_type for frame in reader.frames(range(len(reader)))]


@pytest.mark.parametrize(
    ("suffix", "settings", "signal", "says"),
    [
        (
            "webm",
            {"codec": "libvpx-vp9"},
            "vectors+residual",
            {"compensated": "no motion vectors of vp9", "bits": "vp9"},
        ),
        (
            "mp4",
            {"codec": "mpeg4"},
            "painted_vectors+painted_residual",
            {"residual": "a packet of mpeg4 cannot be decoded"},
        ),
        ("avi", {"codec": "mpeg4", "bframes": 0}, "vectors+compensated", {"bits": "mpeg4"}),
        ("mkv", {"pix_fmt": "yuv420p10le"}, "vectors+compensated", {"residual": "H.264 of 10 bits"}),
    ],
)
def test_what_a_codec_does_not_give_is_said_in_words(tmp_path, view, suffix, settings, signal, says):
    clip = write_clip(tmp_path / f"clip.{suffix}", moving_scene(8, 64, 96), **settings)
    report = view(clip)
    assert report["signal"].startswith(signal)
    for name, words in says.items():
        assert words in report["not_given"][name]
    assert set(report["weights"]) == set(signal.split("+")) and "difference" not in report["not_given"]


def test_preset_signals_sampling_and_anchors_are_those_of_select_patches(view, clip):
    assert view(clip, "--preset", "bits", "--num-frames", "6")["weights"] == {"bits": 1.0}
    own = view(clip, "--signals", "vectors", "difference", "--num-frames", "6", "--sampling", "packet_size")
    assert own["signal"] == "vectors+difference" and own["weights"] == {"vectors": 1.0, "difference": 1.0}
    expected = select_patches(clip, num_frames=6, signals=("vectors", "difference"), sampling="packet_size")
    assert own["frame_ids"] == expected.frame_ids.tolist()
    assert view(clip, "--anchors", "2", "--num-frames", "6")["patches_kept"] == own["patches"] // 2


@pytest.mark.parametrize("words", [["--preset", "best"], ["--signals", "motion"], ["--anchors", "last"]])
def test_an_unknown_choice_is_refused(capsys, clip, tmp_path, words):
    try:
        status = main(["view", str(clip), "--out", str(tmp_path / "a.png"), *words])
    except SystemExit as exit:
        status = exit.code
    assert status in (1, 2) and words[1] in capsys.readouterr().err


def test_painted_codecs_show_how_far_back_each_patch_was_predicted_from(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", moving_scene(17, 64, 96), codec="libx265", bframes=3, gop=17)
    selection = select_patches(path, num_frames=17)
    with VideoReader(path) as reader:
        signals, weights = read_signals(reader, selection, SignalSettings())
    ages = signals["age"]
    assert ages.shape == selection.energy.shape and "age" not in weights
    assert list(signals)[:2] == ["vectors", "age"]
    kinds = np.array(selection.picture_types)
    assert not ages[kinds == "I"].any()
    # P pictures refer to the P picture before, three B pictures lie between.
    assert np.median(ages[kinds == "P"]) == pytest.approx(4, abs=0.5)
    assert np.median(ages[kinds == "B"]) < 2


def test_exported_vectors_tell_no_age():
    assert "age" not in signals_of(str(bundled_clip()))[1]
