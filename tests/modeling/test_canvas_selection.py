"""Canvases are chosen as the authors' preprocessor chooses them, from its bits exactly, from ours mostly.

Run: python -m pytest tests/modeling/test_canvas_selection.py
"""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from ov2_recorded import PUBLISHED
from transformers import AutoProcessor
from watching import Server

from onevision_hf import VideoReader, select_canvases
from onevision_hf.modeling import video_processing_llava_onevision2
from onevision_hf.modeling.canvas_selection import CanvasPlan, beside_keyframes, canvas_size
from onevision_hf.modeling.codec_canvases import canvases_of
from onevision_hf.modeling.readiness_groups import best_blocks, block_scores, merge_groups, readiness_groups

RECORDED = np.load(Path(__file__).parents[1] / "fixtures" / "beach_canvases.npz")
FRAMES = 48


@pytest.fixture(scope="module")
def scene():
    return moving_scene(FRAMES, 112, 168)


@pytest.fixture(scope="module")
def clip(scene, tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("canvases") / "clip.mp4", scene, gop=16)


def whole_frames(selection):
    """The frame of each canvas that is of one frame only."""
    return [canvas[0, 0, 0] for canvas in selection.by_canvas if np.unique(canvas[..., 0]).size == 1]


def kept_blocks(selection):
    """Patches of all canvases but the groups' first."""
    by_group = selection.positions.reshape(len(selection.groups), 4, -1, 3)
    return set(map(tuple, by_group[:, 1:].reshape(-1, 3).tolist()))


def test_recorded_bits_give_the_recorded_groups_and_blocks():
    """`cvp_beach_bundled_tc32`: codec-video-prep 0.2.5 with the settings of the released checkpoint."""
    scores = np.stack([block_scores(bits, 504, 280, 28) for bits in RECORDED["bits"]])
    groups = readiness_groups(scores, 3 * scores[0].size, 64)
    assert np.array_equal(groups, RECORDED["groups"])
    for (start, end), blocks in zip(groups, RECORDED["blocks"], strict=True):
        assert np.array_equal(best_blocks(scores[start + 1 : end], 3 * scores[0].size), blocks)


def test_a_real_clip_is_selected_as_recorded_and_mostly_so_from_our_own_bits(real_clips):
    path = real_clips / "beach.mp4"
    theirs = select_canvases(path, bits=RECORDED["bits"])
    assert np.array_equal(theirs.groups, RECORDED["groups"]) and len(theirs.by_canvas) == 32
    # The first frame, a keyframe, is left out; frames beside it fill the place.
    assert theirs.frame_ids[:3].tolist() == [1, 3, 5] and len(theirs.frame_ids) == 256
    with VideoReader(path) as reader:
        bits = CanvasPlan(reader, "bundled", 32, 14, 2, None)._bits(reader)
    for groups, least in ((theirs.groups, 0.84), (None, 0.77)):
        ours = select_canvases(path, bits=bits, groups=groups)
        kept, wanted = kept_blocks(ours), kept_blocks(theirs)
        assert len(kept & wanted) >= least * len(wanted)


@pytest.mark.parametrize("settings", ["bundled", "tuned"])
def test_canvases_are_four_a_group_the_first_a_whole_frame(clip, settings):
    found = select_canvases(clip, settings=settings)
    assert found.grid == (8, 12) and found.signal == "bits, estimated"
    assert len(found.by_canvas) == 4 * len(found.groups) and found.positions.dtype == np.int64
    for (start, end), canvases in zip(found.groups, found.by_canvas.reshape(-1, 4, 8, 12, 3), strict=True):
        h, w = np.indices((8, 12))
        whole = np.stack([np.full_like(h, found.frame_ids[start]), h, w], -1)
        assert np.array_equal(canvases[0], whole)
        blocks = canvases[1:].reshape(3, 4, 2, 6, 2, 3)
        corner = blocks[:, :, :1, :, :1]
        inner = np.stack([np.zeros((2, 2), int), *np.indices((2, 2))], -1)[None, None, :, None]
        assert np.array_equal(blocks, corner + inner) and not (corner[..., 1:] % 2).any()
        others = found.frame_ids[start + 1 : end]
        assert np.isin(canvases[1:, ..., 0], others).all()
        order = corner.reshape(-1, 3).tolist()
        assert order == sorted(order) and len(set(map(tuple, order))) == len(order)


def test_keyframes_are_avoided_by_one_setting_and_kept_by_the_other(clip):
    with VideoReader(clip) as reader:
        keys = np.flatnonzero(reader.index.keyframe)
    kept = select_canvases(clip, settings="tuned", target_canvas=4).frame_ids
    assert kept.tolist() == np.linspace(0, FRAMES - 1, 32).astype(int).tolist() and np.isin(keys[0], kept)
    avoided = select_canvases(clip, target_canvas=4).frame_ids
    assert len(avoided) == 32 and not np.isin(keys, avoided).any()


def test_frames_beside_keyframes_take_their_place():
    keys = np.isin(np.arange(12), (0, 4, 5))
    assert beside_keyframes(np.array([0, 2, 4, 8]), keys).tolist() == [1, 2, 3, 8]
    # 0 becomes 1, which is there: of what is left, the nearest and then the one in the middle is taken.
    assert beside_keyframes(np.array([0, 1, 8]), keys).tolist() == [1, 7, 8]
    # All frames are wanted: keyframes come back.
    assert beside_keyframes(np.arange(12), keys).tolist() == list(range(12))


@pytest.mark.parametrize(
    ("frame", "canvas"),
    [((640, 360), (504, 280)), ((112, 168), (112, 168)), ((30, 40), (56, 84)), ((100, 120), (112, 112))],
)
def test_canvases_are_whole_blocks_within_the_pixels(frame, canvas):
    assert canvas_size(*frame, 28, 150_000) == canvas


def test_the_bound_is_a_bound(clip):
    free = select_canvases(clip)
    assert len(free.by_canvas) > 8
    bound = select_canvases(clip, max_canvases=11)
    assert len(bound.by_canvas) == 8
    assert bound.groups[0, 0] == 0 and bound.groups[-1, 1] == free.groups[-1, 1]
    assert (bound.groups[1:, 0] == bound.groups[:-1, 1]).all()


def test_the_shortest_neighbours_are_put_together():
    groups = np.array([(0, 8), (8, 30), (30, 39), (39, 47), (47, 60)])
    assert merge_groups(groups, 3).tolist() == [[0, 30], [30, 47], [47, 60]]


def test_bits_and_groups_of_ones_own_are_followed(clip):
    count = len(select_canvases(clip).frame_ids)
    bits = np.full((count, 7, 11), np.nan, np.float32)
    bits[:, 0, 0] = 100
    found = select_canvases(clip, bits=bits, groups=np.array([(0, 40), (40, 48)]))
    assert found.groups.tolist() == [[0, 40], [40, 48]] and found.signal == "bits, given"
    # In 39 frames the one block that cost something is kept in each.
    corners = found.by_canvas[1:4].reshape(-1, 3)
    assert len(np.unique(corners[(corners[:, 1:] == 0).all(1), 0])) == 39
    for wrong, match in (
        ({"bits": bits[:-1]}, f"{count} are sampled"),
        ({"groups": np.array([(0, 3)])}, "a group of 3 frames"),
        ({"groups": np.array([(8, 16), (0, 8)])}, "must rise"),
        ({"groups": np.array([(0, 8), (8, 49)])}, "within the 48"),
        ({"groups": np.array([(0, 8), (8, 16)]), "max_canvases": 4}, "above max_canvases"),
        ({"settings": "best"}, "bundled or tuned"),
        ({"target_canvas": 30}, "multiple of the 4"),
        ({"max_canvases": 3}, "max_canvases must be 4 or more"),
    ):
        with pytest.raises(ValueError, match=match):
            select_canvases(clip, **wrong)


def test_blank_frames_give_no_blocks_and_no_whole_canvas(scene, tmp_path):
    dark = scene[:24].copy()
    dark[:3], dark[5] = 0, (0, 200, 0)
    found = select_canvases(write_clip(tmp_path / "dark.mp4", dark, gop=24), settings="tuned")
    assert whole_frames(found)[0] == 3
    assert not np.isin(found.positions[:, 0], [0, 1, 2, 5]).any()


def test_a_video_without_blocks_enough_leaves_places_empty_and_shows_whole_frames_there(scene, tmp_path):
    dark = np.zeros_like(scene[:10])
    dark[8:] = scene[:2]
    path = write_clip(tmp_path / "dark.mp4", dark, gop=24)
    found = select_canvases(path, settings="tuned").by_canvas
    assert (found[0, ..., 0] == 8).all() and (found[1, ..., 0] == 9).all() and (found[2:] == -1).all()
    with VideoReader(path) as reader:
        shown = canvases_of(reader, settings="tuned")
    assert (shown.positions.reshape(4, -1, 3)[2:, :, 0] == 8).all()
    assert np.array_equal(shown.pictures[0], shown.pictures[2])


def test_short_videos_are_refused(scene, tmp_path):
    with pytest.raises(ValueError, match="7 frames, and a group of canvases has 8 or more"):
        select_canvases(write_clip(tmp_path / "short.mp4", scene[:7]))


@pytest.mark.parametrize(
    ("codec", "settings", "grid"),
    [
        ("libx264", "bundled", (7, 12)),  # an empty column after eleven macroblocks
        ("libx264", "tuned", (7, 11)),
        ("libx265", "bundled", (2, 3)),  # of 64 x 64 pixels
        ("libx265", "tuned", (7, 11)),
    ],
)
def test_bits_are_read_on_the_grid_that_theirs_has(scene, tmp_path, codec, settings, grid):
    path = write_clip(tmp_path / "clip.mp4", scene[:8], codec=codec, gop=4)
    with VideoReader(path) as reader:
        costs = CanvasPlan(reader, settings, 4, 14, 2, None)._bits(reader)
        assert {cost.shape for cost in costs} == {grid}
        assert all(cost.sum() > 0 for cost in costs)  # those of I pictures too
        spent = 8 * reader.index.size
        if settings == "tuned":
            assert [16 * cost.sum() for cost in costs] == pytest.approx(spent.tolist(), rel=1e-3)


def test_codecs_without_bits_are_chosen_by_energy_which_is_said(scene, tmp_path):
    path = write_clip(tmp_path / "clip.webm", scene[:16], codec="libvpx-vp9", gop=16)
    found = select_canvases(path).signal
    assert found.startswith("vectors+residual") and found.endswith("(no bits of vp9)")
    assert select_canvases(list(scene[:16])).signal == "difference (no bits of frames)"


@pytest.mark.parametrize("preset", ["ov2", "auto"])
def test_the_processor_shows_what_is_selected(clip, scene, preset):
    """Rows are patches of the frames that the positions name; a video's canvases are one row of the grid."""
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    found = processor(
        text="<|video_pad|> and <|video_pad|>?",
        videos=[[str(clip), str(clip)]],
        preset=preset,
        max_canvases=8,
    )
    assert found["image_grid_thw"].tolist() == [[8, 8, 12]] * 2
    own = processor.video_processor.read(clip, preset=preset, max_canvases=8)
    if preset == "ov2":
        assert np.array_equal(own.positions, select_canvases(clip, max_canvases=8).positions)
    positions = found["patch_positions"][: len(found["patch_positions"]) // 2]
    assert sorted(positions.tolist()) == sorted(own.positions.tolist())
    mean, std = (
        torch.tensor(getattr(processor.image_processor, name)) for name in ("image_mean", "image_std")
    )
    rows = found["pixel_values"][: len(positions)].unflatten(1, (3, 14, 14))
    rows = (rows * std[:, None, None] + mean[:, None, None]) * 255
    for place in range(0, len(positions), 97):
        frame, h, w = positions[place].tolist()
        drawn = scene[frame, 14 * h : 14 * h + 14, 14 * w : 14 * w + 14]
        assert np.abs(rows[place].permute(1, 2, 0).numpy() - drawn).mean() < 12
    ids = found["input_ids"][0]
    assert int((ids == processor.image_token_id).sum()) == len(found["pixel_values"]) // 4


def test_canvases_are_read_once_in_patches_of_the_models_size(clip):
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    processor.image_processor.patch_size = 16  # as Mage-VL has it
    read = processor.read_video(str(clip), preset="ov2", max_canvases=4)
    assert read.grid.tolist() == [[4, 8, 10]] and str(read) == "4 canvases, 320 patches"
    again = processor(text="<|video_pad|>", videos=[read])
    assert again["image_grid_thw"].tolist() == [[4, 8, 10]]


def test_an_unknown_preset_is_refused(clip):
    with pytest.raises(ValueError, match="preset must be None, ov2, auto, not 'bits'"):
        AutoProcessor.from_pretrained(PUBLISHED)(text="<|video_pad|>", videos=[str(clip)], preset="bits")


def test_settings_that_would_have_no_effect_are_refused(clip):
    read = AutoProcessor.from_pretrained(PUBLISHED).video_processor.read
    with pytest.raises(ValueError, match="num_frames cannot be followed where canvases are, by 'ov2'"):
        read(clip, preset="ov2", num_frames=8)
    with pytest.raises(ValueError, match="max_canvases cannot be followed where frames are shown"):
        read(clip, max_canvases=8)


def test_a_clip_in_memory_or_on_the_net_is_selected_as_its_file(clip):
    """Names without an ending, and no file that could be looked at: what counts is what is in them."""
    wanted = select_canvases(clip, max_canvases=8)
    processor = AutoProcessor.from_pretrained(PUBLISHED)
    shown = processor.read_video(str(clip), preset="ov2", max_canvases=8)
    content = clip.read_bytes()
    with Server({"/clip": content}) as server:
        for source in (content, io.BytesIO(content), server.url("/clip")):
            found = select_canvases(source, max_canvases=8)
            assert np.array_equal(found.positions, wanted.positions), type(source)
            assert found.signal == "bits, estimated"
        for source in (content, server.url("/clip")):
            read = processor.read_video(source, preset="ov2", max_canvases=8)
            assert torch.equal(read.patches, shown.patches) and torch.equal(read.positions, shown.positions)
            prompt = processor(text="<|video_pad|>", videos=[source], preset="ov2", max_canvases=8)
            assert torch.equal(prompt["pixel_values"], shown.patches)


def test_canvases_are_kept_by_the_content_of_their_video(clip, tmp_path, monkeypatch):
    """A copy is found under any name, another setting or content is chosen anew, damage in the cache too."""
    processor = AutoProcessor.from_pretrained(PUBLISHED, canvas_cache=str(tmp_path / "kept"))
    chosen: list = []
    choose = video_processing_llava_onevision2.canvases_of
    monkeypatch.setattr(
        video_processing_llava_onevision2, "canvases_of", lambda *a, **k: chosen.append(k) or choose(*a, **k)
    )
    (copy := tmp_path / "copy.mp4").write_bytes(clip.read_bytes())

    def read(video, **settings):
        return processor.video_processor.read(video, **{"preset": "ov2", "max_canvases": 4, **settings})

    first = read(clip)
    for video in (clip, str(copy), copy.read_bytes()):
        again = read(video)
        assert np.array_equal(again.pictures, first.pictures) and again.fps == first.fps
        assert np.array_equal(again.positions, first.positions)
    assert len(chosen) == 1
    [kept] = (tmp_path / "kept").iterdir()
    for settings in ({"max_canvases": 8}, {"patch_size": 16}, {"preset": "auto"}):
        read(clip, **settings)
    assert len(chosen) == 4 and len(list((tmp_path / "kept").iterdir())) == 4
    for damage in (kept.read_bytes()[:-1], b"", bytes(kept.stat().st_size)):
        kept.write_bytes(damage)
        assert np.array_equal(read(clip).pictures, first.pictures)
    assert len(chosen) == 7
    processor.save_pretrained(tmp_path / "saved")
    assert "canvas_cache" not in (tmp_path / "saved" / "processor_config.json").read_text()
    assert AutoProcessor.from_pretrained(tmp_path / "saved").video_processor.canvas_cache is None


def test_settings_of_canvases_need_canvases(clip, tmp_path):
    with pytest.raises(ValueError, match="canvas_cache cannot be followed where frames are shown"):
        AutoProcessor.from_pretrained(PUBLISHED).video_processor.read(clip, canvas_cache=str(tmp_path))
