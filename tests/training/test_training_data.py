"""Sources and views: what a row of a pack, a folder or a dataset becomes, and that a generator decides the
rest.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onevision_hf.data.labelled import (
    ArrowExamples,
    Example,
    FolderExamples,
    StreamedExamples,
    as_example,
    open_examples,
)
from onevision_hf.data.media_shards import PackedExample
from onevision_hf.modeling.patchify_config import PatchifyConfig, select_patches
from onevision_hf.modeling.video_processing_onevision import OneVisionVideoProcessor
from onevision_hf.training.tasks.cluster_config import HeadConfig
from onevision_hf.training.transforms import ImageTransform, VideoTransform, pad_labels, with_overrides

sys.path.insert(0, str(Path(__file__).parents[1] / "clustering"))
import drawn

PATCH = 14


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return drawn.draw_pictures(tmp_path_factory.mktemp("pictures"), 3)


def test_a_folder_gives_each_sub_folder_a_label(pictures):
    rows = open_examples(str(pictures))
    assert isinstance(rows, FolderExamples) and len(rows) == 24 and rows.classes == 8
    for index in (0, 7, 23):
        assert rows.names[rows[index].labels[0]] == Path(rows[index].key).parent.name


def test_a_picture_in_no_sub_folder_is_an_error_that_names_it(tmp_path):
    drawn.picture("red", "disc", 0).save(tmp_path / "alone.png")
    with pytest.raises(ValueError, match=r"alone.png lies in no sub-folder.*cluster run"):
        open_examples(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        open_examples(str(tmp_path / "absent"))


def dataset(pictures):
    import datasets

    files = sorted(str(p) for p in pictures.rglob("*.png"))
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=8)})
    return datasets.Dataset.from_dict(
        {"image": files, "label": [i // 3 for i in range(24)]}, features=features
    )


def test_a_saved_dataset_is_read_at_random(pictures, tmp_path):
    dataset(pictures).save_to_disk(str(tmp_path / "saved"))
    rows = open_examples(f"hf:{tmp_path / 'saved'}")
    assert isinstance(rows, ArrowExamples) and len(rows) == 24 and rows.classes == 8
    assert rows[11].labels.tolist() == [3]
    shown = ImageTransform(HeadConfig(processor={"size": 28}))(rows[11], None, 0)
    assert shown["pixel_values"].shape == (3, 28, 28)


def test_a_streamed_dataset_gives_every_row_once_an_epoch_over_all_parts(pictures, monkeypatch):
    stream = dataset(pictures).to_iterable_dataset(num_shards=2)
    monkeypatch.setattr("onevision_hf.data.labelled.open_dataset", lambda spec, streaming: stream)
    found = []
    for part in range(2):
        rows = iter(StreamedExamples("any:train", seed=1, rank=part, size=2))
        found += [next(rows)[1]().labels[0] for _ in range(12)]
    assert sorted(found) == sorted([i // 3 for i in range(24)])


def test_a_row_without_labels_has_none_and_not_class_zero():
    row = as_example(
        {"m": {"bytes": b"x", "path": "a.png"}, "l": None},
        type("C", (), {"media": "m", "label": "l", "kind": "image"}),
        "k",
    )
    assert len(row.labels) == 0
    assert pad_labels(row.labels, 4).tolist() == [-100] * 4
    assert pad_labels(np.array([16_777_217, 5, 7]), 2).tolist() == [
        16_777_217,
        5,
    ]  # float32 would make it even


def test_a_picture_shows_another_part_for_another_draw_and_its_middle_without_one():
    picture = Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8))
    row = Example("a", "image", picture, np.array([1]))
    view = ImageTransform(HeadConfig(processor={"size": 28}, min_crop_scale=0.5, horizontal_flip=True))
    shown = [view(row, generator(seed), 0)["pixel_values"] for seed in (1, 1, 2)]
    assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[0], shown[2])
    middle = picture.crop((10, 0, 50, 40)).resize((28, 28), Image.Resampling.BICUBIC)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    expected = ((np.asarray(middle) / 255 - mean) / std).transpose(2, 0, 1)
    found = view(row, None, 0)["pixel_values"]  # the border is interpolated with what lies beyond it
    np.testing.assert_allclose(found[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5)


def test_without_zoom_and_mirror_only_the_position_of_the_crop_is_drawn():
    ramp = np.broadcast_to(np.linspace(0, 255, 80).astype(np.uint8)[None, :, None], (40, 80, 3))
    view = ImageTransform(HeadConfig(processor={"size": 40}))
    for seed in range(8):
        line = view(Example("a", "image", Image.fromarray(ramp), np.array([0])), generator(seed), 0)[
            "pixel_values"
        ][0, 20]
        assert (np.diff(line) >= -1e-4).all()  # never turned
        assert np.ptp(line) == pytest.approx(1.84, abs=0.15)  # always half of the width


SHOWN = {"size": 56, "do_center_crop": True, "num_frames": 16, "num_patches": 64}
HEAD = HeadConfig(kind="video", processor=SHOWN)


def video_transform(head=HEAD, time_grid=64):
    own = PatchifyConfig.from_dict({}, patch_size=PATCH, rope_temporal_size=time_grid)
    return VideoTransform(head, with_overrides(own, head.processor))


@pytest.fixture(scope="module")
def video(clip):
    return Example("clip", "video", str(clip), np.array([3]))


def test_video_modes_come_in_the_published_shares_in_every_eight_samples():
    view = video_transform(HeadConfig(kind="video"))
    for start in (0, 8, 800):
        modes = [view.mode(position) for position in range(start, start + 8)]
        assert [modes.count(m) for m in ("codec", "uniform", "collage")] == [4, 3, 1]
    huge = video_transform(HeadConfig(kind="video", codec=0.375, uniform=0.375, collage=0.25))
    assert [[huge.mode(p) for p in range(64)].count(m) for m in ("codec", "uniform", "collage")] == [
        24,
        24,
        16,
    ]
    # A batch of one sample gets its share over time, where rounding would never give it a collage.
    tenth = video_transform(HeadConfig(kind="video", codec=0.1, uniform=0.8, collage=0.1))
    assert [tenth.mode(p) for p in range(1000)].count("collage") == pytest.approx(100, abs=2)


def position_of(mode):
    view = video_transform()
    return next(p for p in range(8) if view.mode(p) == mode)


def test_every_mode_shows_the_same_number_of_patches(video):
    view = video_transform()
    for mode in ("codec", "uniform", "collage"):
        shown = view(video, generator(), position_of(mode))
        assert shown["pixel_values_videos"].shape == (64, 3 * PATCH**2)
        assert shown["patch_positions"].shape == (64, 3)
        assert len(np.unique(shown["patch_positions"], axis=0)) == 64


def test_a_step_sees_a_drawn_share_of_the_patches_and_validation_all(video):
    view = video_transform(dataclasses.replace(HEAD, patch_keep_rate=0.6))
    whole = video_transform()(video, generator(), position_of("codec"))
    places = [tuple(p) for p in whole["patch_positions"]]
    parts = [view(video, generator(seed), position_of("codec")) for seed in (1, 1, 2)]
    for part in parts:
        assert len(part["patch_positions"]) == round(0.6 * 64)
        numbers = [places.index(tuple(p)) for p in part["patch_positions"]]
        assert numbers == sorted(set(numbers))
        assert np.array_equal(part["pixel_values_videos"], whole["pixel_values_videos"][numbers])
    assert np.array_equal(parts[0]["patch_positions"], parts[1]["patch_positions"])
    assert not np.array_equal(parts[0]["patch_positions"], parts[2]["patch_positions"])
    assert len(view(video, None, 0)["patch_positions"]) == 64


def test_uniform_frames_are_whole_one_of_each_stretch_and_drawn(video):
    view = video_transform()
    seen = set()
    for seed in range(6):
        positions = view(video, generator(seed), position_of("uniform"))["patch_positions"]
        times, counts = np.unique(positions[:, 0], return_counts=True)
        assert counts.tolist() == [16] * 4
        grid = np.linspace(0, 63, 16).astype(int)  # where the 16 sampled frames lie on the model's time
        assert [int(np.searchsorted(grid, t)) // 4 for t in times] == [0, 1, 2, 3]
        seen.add(tuple(times))
    assert len(seen) > 1


def test_a_collage_is_the_uniform_frames_one_below_the_other_at_time_zero(video):
    view = video_transform()
    uniform = view(video, generator(7), position_of("uniform"))
    collage = view(video, generator(7), position_of("collage"))
    assert np.array_equal(uniform["pixel_values_videos"], collage["pixel_values_videos"])
    positions = collage["patch_positions"]
    assert (positions[:, 0] == 0).all() and positions[:, 1].max() == 15 and positions[:, 2].max() == 3
    frame = np.unique(uniform["patch_positions"][:, 0], return_inverse=True)[1]
    assert np.array_equal(positions[:, 1], 4 * frame + uniform["patch_positions"][:, 1])


def test_a_selection_that_was_packed_is_cut_as_it_is(clip):
    found = select_patches(str(clip), num_frames=16, size=56, patch_size=PATCH, num_patches=60)
    stored = {
        "positions": found.positions.astype(np.int16),
        "frame_ids": found.frame_ids,
        "timestamps": found.timestamps,
        "scores": found.scores,
        "grid": np.array(found.energy.shape[1:]),
    }
    row = PackedExample(
        "clip",
        "video",
        "video",
        "mp4",
        Path(clip).read_bytes(),
        np.array([1]),
        np.array([1.0]),
        192,
        144,
        48,
        2.0,
        stored,
    )
    shown = video_transform(time_grid=None)(row, generator(), position_of("codec"))
    assert np.array_equal(shown["patch_positions"], found.positions)
    fresh = OneVisionVideoProcessor()(str(clip), selection=found, return_tensors="np")
    assert np.array_equal(shown["pixel_values_videos"], fresh["pixel_values_videos"][0])
    with pytest.raises(ValueError, match="pack again with the size"):
        video_transform(HeadConfig(kind="video", processor={"size": 112}))(
            row, generator(), position_of("codec")
        )


def test_a_clip_with_fewer_frames_than_asked_gives_what_it_has(tmp_path):
    path = tmp_path / "short.mp4"
    path.write_bytes(drawn.clip("red", "right", 0, frames=3))
    view = video_transform()
    row = Example("short", "video", str(path), np.array([0]))
    lengths = {
        mode: len(view(row, generator(), position_of(mode))["patch_positions"])
        for mode in ("codec", "uniform", "collage")
    }
    assert lengths == {"codec": 48, "uniform": 48, "collage": 48}


def test_a_drawn_folder_is_one_of_classes_and_not_a_pack(tmp_path):
    from onevision_hf.synthetic import Job, produce

    produce(Job("images", seed=0, family="colour"), tmp_path / "drawn", 8)
    rows = open_examples(str(tmp_path / "drawn"))
    assert len(rows) == 8 and rows.classes == 4
