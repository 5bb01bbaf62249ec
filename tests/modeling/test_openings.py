"""A file is indexed once and opened two or three times, however much is read of it.

Run: python -m pytest tests/modeling/test_openings.py
"""

import os
from collections import Counter

import numpy as np
import pytest
from clips import moving_scene, write_clip

import onevision_hf
from onevision_hf import OneVisionVideoProcessor, VideoReader, bundled_clip, cli, select_patches
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.modeling.signal_energy import signal_maps
from onevision_hf.modeling.video_demuxer import Demuxer
from onevision_hf.modeling.video_source import VideoFile


@pytest.fixture
def counts(monkeypatch):
    """Openings, index passes, and packets that were read."""
    found: Counter[str] = Counter()
    opened, read_table, iterate = VideoFile._open_container, Demuxer.read_table, Demuxer.__iter__

    def open_container(self, *args):
        found["openings"] += 1
        return opened(self, *args)

    def table(self, *args):
        found["indexes"] += 1
        return read_table(self, *args)

    def packets(self):
        for item in iterate(self):
            found["packets"] += 1
            yield item

    monkeypatch.setattr(VideoFile, "_open_container", open_container)
    monkeypatch.setattr(Demuxer, "read_table", table)
    monkeypatch.setattr(Demuxer, "__iter__", packets)
    return found


@pytest.fixture(scope="module")
def keyframes(tmp_path_factory):
    """Ten frames a second, a keyframe every half."""
    path = tmp_path_factory.mktemp("keys") / "keys.mp4"
    return str(write_clip(path, moving_scene(60, 96, 128, seed=2), gop=5, fps=10))


@pytest.mark.parametrize("preset, most", [("auto", 2), ("bits", 2), ("published", 3)])
def test_a_processor_call_opens_a_file_twice_and_a_third_time_for_vectors(counts, monkeypatch, preset, most):
    """The container of the index also gives the first picture, the packets and a segment of the frames."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # two segments
    OneVisionVideoProcessor()(bundled_clip(), preset=preset, return_tensors="np")
    assert counts["indexes"] == 1 and counts["openings"] <= most


def test_a_closed_reader_leaves_no_file_open_and_opens_it_again_when_asked(tmp_path, counts):
    path = write_clip(tmp_path / "clip.mp4", moving_scene(6, 64, 64))
    reader = VideoReader(str(path))
    first = [frame.luma.copy() for frame in reader.frames([0, 5])]
    reader.close()
    reader.close()
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert str(path) not in held
    again = [frame.luma for frame in reader.frames([0, 5])]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    reader.close()
    assert counts["openings"] == 2 and counts["indexes"] == 1


def _is_open(descriptor):
    return os.path.exists(f"/proc/self/fd/{descriptor}")


@pytest.mark.parametrize("command", ["encode", "view"])
def test_a_command_indexes_its_clip_once(counts, tmp_path, keyframes, command):
    given = (
        [keyframes]
        if command == "encode"
        else [keyframes, "--out", str(tmp_path / "out.png"), "--num-frames", "4"]
    )
    assert not cli.main([command, *given])
    assert counts["indexes"] == 1


def test_an_open_reader_is_a_video_everywhere(counts, keyframes):
    processor = OneVisionVideoProcessor(size=56, num_frames=6)
    with VideoReader(keyframes) as reader:
        cut = processor(reader, return_tensors="np")
        selection = select_patches(reader, size=56, num_frames=6)
        patches = PatchifyConfig.from_pretrained(onevision_hf.tiny()).patchify(reader).patches
        assert len(patches) and np.array_equal(cut["patch_positions"].shape[1], len(selection))
    assert counts["indexes"] == 1
    assert np.array_equal(
        cut["pixel_values_videos"], processor(keyframes, return_tensors="np")["pixel_values_videos"]
    )


@pytest.mark.parametrize(("anchors", "passes"), [("first", 1), ("shots", 2)])
def test_frames_that_are_all_keyframes_cost_one_pass_over_the_file(anchors, passes, counts, keyframes):
    """And one for the cuts of a short clip."""
    with VideoReader(keyframes) as reader:
        counts.clear()
        config = PatchifyConfig.from_dict({"fps": 2.0, "size": 56, "anchors": anchors})
        assert config.select(reader).picture_types == ("I",) * 12
        assert counts["openings"] == 0 and counts["packets"] <= 1.2 * passes * len(reader)


def test_what_changed_since_the_keyframe_before_does_not_depend_on_what_else_is_sampled(keyframes):
    """The keyframe before is read whether it is sampled or not; every picture has its own scale."""
    config = PatchifyConfig.from_dict({"size": 56})
    with VideoReader(keyframes) as reader:
        geometry = config.geometry(reader.height, reader.width)
        ids = np.arange(0, 60, 5)
        together = signal_maps(reader, ids, geometry)[0]["intra_fallback"]
        alone = [signal_maps(reader, np.array([i]), geometry)[0]["intra_fallback"][0] for i in ids]
        assert np.array_equal(together, np.stack(alone))
        assert not together[0].any() and all(change.any() for change in together[1:])
