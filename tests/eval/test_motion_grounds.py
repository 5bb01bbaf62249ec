"""Drawn clips in other codecs and over real grounds; without either, the clips that the suite always had."""

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from motion_worlds import ONE_TRIAL, TINY
from PIL import Image

from onevision_hf import VideoReader
from onevision_hf.cli import main
from onevision_hf.eval.motion import run_suite
from onevision_hf.eval.motion.clips import Drawn, in_subset, scheduled
from onevision_hf.eval.motion.grounds import Grounds, camera_of, footage
from onevision_hf.eval.motion.settings import ClipSettings as SuiteClips
from onevision_hf.synthetic import ClipSettings, EncodingSettings, draw_clip, encode

SIZE = ClipSettings(num_frames=32)


def noise(seed: int, height: int = 96, width: int = 288) -> np.ndarray:
    """Smooth noise (height, width, 3) uint8, of one colour a seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(40, 216, (height // 6, width // 6), dtype=np.uint8))
    grey = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return np.stack([grey, np.full_like(grey, 30 * seed), 255 - grey], -1)


def pan(seed: int, step: int, count: int = 40) -> np.ndarray:
    """(count, 96, 128, 3): a window that goes `step` pixels a frame over a picture."""
    world = noise(seed)
    return np.stack([world[:, step * t : step * t + 128] for t in range(count)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    found = tmp_path_factory.mktemp("grounds")
    for number in range(6):
        (found / f"{number}.mp4").write_bytes(encode(pan(number, step=4 * (number % 2))))
    (found / "notes.txt").write_text("no ground")
    return found


def test_without_codec_or_grounds_clips_and_plans_are_what_they_were():
    source = Drawn(TINY.clips)
    assert set(source.identity) == {"drawing", "encoder"}
    for number in (0, 9, 17):
        family, index, background = scheduled(number, TINY.clips.schedule)
        clip = draw_clip(1, index, family, ClipSettings(32, 64, 64, background, 4))
        assert source.item("test", number).file == encode(clip.frames)


@pytest.mark.parametrize(
    ("codec", "read", "pix_fmt"),
    [("hevc10", "hevc", "yuv420p10le"), ("vp9", "vp9", "yuv420p"), ("av1", "av1", "yuv420p")],
)
def test_clips_of_another_codec_show_the_same_and_have_another_plan(codec, read, pix_fmt):
    plain, other = Drawn(TINY.clips), Drawn(TINY.clips, EncodingSettings(codec))
    one, two = plain.item("train", 3), other.item("train", 3)
    assert one.labels == two.labels and one.camera == two.camera
    with VideoReader(one.file) as first, VideoReader(two.file) as second:
        assert (second.codec, len(second)) == (read, 32)
        pairs = zip(first.frames(range(32)), second.frames(range(32)), strict=True)
        assert np.mean([np.abs(a.luma.astype(int) - b.luma).mean() for a, b in pairs]) < 6
    with av.open(io.BytesIO(two.file)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pix_fmt
    assert other.identity["encoding"]["codec"] == codec and other.identity != plain.identity


@pytest.mark.slow
def test_a_suite_of_another_codec_runs_and_its_folder_takes_no_other(tmp_path):
    document = run_suite(ONE_TRIAL, tmp_path, codec="vp9", workers=1)
    assert document["trials"][0]["settings"]["source"]["encoding"]["codec"] == "vp9"
    with pytest.raises(ValueError, match="was made from something else"):
        run_suite(ONE_TRIAL, tmp_path, workers=1)


def test_no_file_is_the_ground_of_both_train_and_test_clips(folder):
    grounds = Grounds.open(folder, 0)
    train, test = set(grounds.files["train"]), set(grounds.files["test"])
    assert (len(train), len(test)) == (4, 2) and not train & test
    assert Grounds.open(folder, 0) == grounds
    assert any(Grounds.open(folder, seed).files != grounds.files for seed in range(1, 5))
    colours = {split: {int(path.stem) * 30 for path in paths} for split, paths in grounds.files.items()}
    for split in ("train", "test"):
        shown = [grounds.ground(split, (0, number), SIZE)[..., 1].mean() for number in range(12)]
        nearest = {min(range(0, 180, 30), key=lambda c, s=s: abs(c - s)) for s in shown}
        assert nearest == colours[split], split


def test_a_ground_moves_as_its_footage_and_is_a_part_of_it(folder):
    grounds = Grounds.open(folder, 0)
    files = {"train": (folder / "1.mp4",)}
    moving = replace(grounds, files=files).ground("train", (0, 5), SIZE)
    assert moving.shape == (32, 64, 64, 3) and moving.dtype == np.uint8
    again = replace(grounds, files=files).ground("train", (0, 5), SIZE)
    assert np.array_equal(moving, again)
    assert not np.array_equal(moving, replace(grounds, files=files).ground("train", (0, 6), SIZE))
    assert camera_of(moving) == "own"
    resting = replace(grounds, files={"train": (folder / "2.mp4",)}).ground("train", (0, 5), SIZE)
    assert camera_of(resting) == "still"
    assert in_subset(np.array(["own", "still"]), "moving").tolist() == [True, False]


def test_footage_shorter_than_a_clip_is_played_there_and_back(tmp_path):
    grey = np.arange(20, dtype=np.uint8)[:, None, None, None] * np.full((1, 64, 64, 3), 12, np.uint8)
    (tmp_path / "short.mp4").write_bytes(encode(grey))
    shown = Grounds(tmp_path, {"train": (tmp_path / "short.mp4",)}).ground("train", (0, 0), SIZE)
    means = np.round(shown.mean((1, 2, 3)) / 12)
    assert means.tolist() == [*range(20), *range(18, 6, -1)]


def test_long_footage_is_read_from_its_middle(folder, monkeypatch):
    whole = footage.__wrapped__(folder / "1.mp4", 64)
    assert whole.shape == (40, 64, 85, 3)
    monkeypatch.setattr("onevision_hf.eval.motion.grounds.MOST_FRAMES", 10)
    assert np.array_equal(footage.__wrapped__(folder / "1.mp4", 64), whole[15:25])


def test_shapes_are_drawn_over_footage_as_over_the_drawn_ground():
    ground = pan(3, step=3)[:32, :64, :64]
    clip = draw_clip(0, 4, "nudge_direction", replace(SIZE, background="shake"), ground)
    plain = draw_clip(0, 4, "nudge_direction", replace(SIZE, background="static"))
    assert np.array_equal(clip.truth.owners, plain.truth.owners), "the drawn camera rests"
    assert clip.labels == plain.labels | {"ground": None}
    shapes = clip.truth.owners > 0
    around = [np.roll(shapes, (y, x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    bare, solid = ~np.any(around, axis=0), np.all(around, axis=0)
    assert bare.mean() > 0.3 and solid.mean() > 0.03
    assert np.abs(clip.frames.astype(int) - ground)[bare].max() <= 4, "only grain lies over it"
    assert np.abs(clip.frames.astype(int) - plain.frames)[solid].max() <= 8


def test_a_picture_is_a_ground_under_the_drawn_camera(tmp_path):
    for number in range(2):
        Image.fromarray(noise(number)).save(tmp_path / f"{number}.png")
    clips = SuiteClips(num_frames=32, schedule=("nudge_direction",))
    source = Drawn(clips, grounds=Grounds.open(tmp_path, 0))
    assert {source.item("test", 8 * number).camera for number in range(6)} == {
        "still",
        "pan",
        "zoom",
        "shake",
    }
    size = ClipSettings(num_frames=32, background="pan", sweeps=4)
    picture = source.grounds.ground("test", (0, 0), size)
    assert picture.shape == (*size.world_size, 3)
    frames = draw_clip(0, 0, "nudge_who", size, picture).frames.astype(int)
    assert np.abs(np.diff(frames, axis=0)).mean() > 5


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("ground", (32, 64, 64, 3), "ground is asked of the drawn ground"),
        ("fine", (32, 64, 64, 3), "fine is asked of the drawn ground"),
        ("background", (32, 64, 64, 3), "background is asked of the drawn ground"),
        ("first", (31, 64, 64, 3), r"footage \(32, 64, 64, 3\).*found uint8 \(31, 64, 64, 3\)"),
    ],
)
def test_a_ground_that_does_not_fit_is_refused(family, shape, message):
    with pytest.raises(ValueError, match=message):
        draw_clip(0, 0, family, SIZE, np.zeros(shape, np.uint8))


@pytest.mark.slow
def test_a_suite_over_footage_asks_nothing_of_the_drawn_ground(folder, tmp_path):
    clips = replace(TINY.clips, schedule=("nudge_direction", "fine"))
    document = run_suite(replace(ONE_TRIAL, clips=clips), tmp_path, grounds=folder, workers=1)
    assert "nudge_who" in document["families"]
    assert not {"ground", "fine"} & set(document["families"])
    accuracy = document["trials"][0]["accuracy"]["nudge_who"]
    assert accuracy["clips"] == TINY.test and accuracy["moving"] is not None and accuracy["pan"] is None
    with pytest.raises(ValueError, match="was made from something else"):
        run_suite(replace(ONE_TRIAL, clips=clips), tmp_path, workers=1)


def test_grounds_and_codecs_that_cannot_be_are_refused(tmp_path, capsys):
    words = [
        "eval",
        "motion",
        "--model",
        "none",
        "--work",
        str(tmp_path / "w"),
        "--out",
        str(tmp_path / "x.md"),
    ]
    for more, said in (
        (["--grounds", str(tmp_path)], "has 0 videos or pictures: --grounds takes a folder of two or more"),
        (["--codec", "h263"], "no codec is called 'h263'; choose one of h264"),
        (["--codec", "av1", "--clips", str(tmp_path)], "--codec and --grounds are for drawn clips"),
        (["--budgets", "2"], "would be 2048 patches"),
        (["--budgets", "a,b"], "'a,b' is not a list of fractions as 0.5,0.25"),
    ):
        assert main([*words, *more]) == (2 if "a,b" in more else 1)
        assert said in capsys.readouterr().err
