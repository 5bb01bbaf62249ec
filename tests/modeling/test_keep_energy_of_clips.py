"""A budget that follows the content, of real files and in the processors: a still clip few tokens, a busy one
up to the bound, and whoever counts tokens counts these.

Run: python -m pytest tests/modeling/test_keep_energy_of_clips.py
"""

import numpy as np
import pytest
import torch
from clips import moving_scene
from vl_tiny import prompt, tiny_config, tiny_processor, user

from onevision_hf import OneVisionModel, OneVisionVideoProcessor, select_patches, tiny
from onevision_hf.modeling.patch_selection import STILL
from onevision_hf.modeling.patchify_config import PatchifyConfig
from onevision_hf.synthetic import encode

SMALL = {"num_frames": 16, "size": 112}
FRAME, ALL = 8 * 8, 16 * 8 * 8


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, str]:
    """Clips of 24 frames of 128 x 128: one in which nothing happens, one in which nothing happens but noise,
    one in which a square moves, and one that is all new in every frame, by an encoder that makes no keyframes
    of that."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(0)
    picture, other = (moving_scene(1, 128, 128, seed=seed) for seed in range(2))
    still = np.repeat(picture, 24, axis=0)
    noisy = np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8)
    square = still.copy()
    for t, frame in enumerate(square):
        frame[40:64, 8 + 4 * t :][:, :24] = other[0, :24, : 120 - 4 * t][:, :24]
    busy = rng.integers(0, 256, (24, 16, 16, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    made = {"still": still, "noisy": noisy, "square": square, "busy": busy}
    for name, frames in made.items():
        (folder / f"{name}.mp4").write_bytes(encode(frames))
    return {name: str(folder / f"{name}.mp4") for name in made}


def test_a_clip_has_as_many_patches_as_happens_in_it(clips):
    counts = {name: len(select_patches(path, **SMALL, keep_energy=0.9)) for name, path in clips.items()}
    assert counts["still"] == FRAME, "the first frame"
    assert counts["noisy"] < 1.1 * FRAME, "what the encoder makes of noise is no energy"
    assert 1.1 * FRAME < counts["square"] < 0.2 * ALL
    assert counts["busy"] == ALL // 4, "a quarter is the bound"


@pytest.mark.parametrize("preset", ["auto", "bits", "published"])
def test_every_preset_has_the_share_in_its_own_signals(clips, preset):
    shares = (0.3, 0.6, 0.9, 1.0)
    chosen = [
        select_patches(clips["square"], **SMALL, preset=preset, keep_energy=share, keep_ratio=1.0)
        for share in shares
    ]
    counts = [len(selection) for selection in chosen]
    assert FRAME <= counts[0] <= counts[1] <= counts[2] < counts[3] < 0.6 * ALL
    for selection, share in zip(chosen, shares, strict=True):
        above = np.maximum(selection.absolute.astype(np.float64) - STILL, 0)
        kept = above[tuple(selection.positions.T)]
        assert kept.sum() >= share * above.sum() * (1 - 1e-9)
        assert (selection.positions[:, 0] == 0).sum() == FRAME
        fixed = select_patches(clips["square"], **SMALL, preset=preset, num_patches=len(selection))
        assert np.array_equal(selection.positions, fixed.positions)


def test_without_the_setting_all_is_as_before(clips):
    plain = PatchifyConfig.from_dict(SMALL)
    assert plain.budget.keep_energy is None and plain.budget.keep_ratio == 0.125
    assert "keep_energy" not in plain.recorded(), "plans of before stay equal"
    followed = plain.replace(keep_energy=0.9)
    assert followed.recorded()["keep_energy"] == 0.9 and followed != plain
    assert PatchifyConfig.from_recorded(followed.recorded()) == followed
    assert PatchifyConfig.from_recorded(plain.recorded()) == plain


def test_the_stored_budget_is_the_bound_and_the_default_one_becomes_a_quarter(clips, tmp_path):
    def count(processor, **given):
        return processor(clips["busy"], **SMALL, **given)["patch_positions"].shape[1]

    plain, by_number, by_ratio, both = (
        OneVisionVideoProcessor(**given)
        for given in ({}, {"num_patches": 200}, {"keep_ratio": 0.2}, {"keep_energy": 0.9, "num_patches": 99})
    )
    assert count(plain) == ALL // 8 and count(plain, keep_energy=0.9) == ALL // 4
    assert count(plain, keep_energy=0.9, keep_ratio=0.125) == ALL // 8
    assert count(by_number, keep_energy=0.9) == 200
    assert count(by_ratio, keep_energy=0.9) == round(0.2 * ALL)
    assert count(both) == 99 and count(both, keep_ratio=0.3) == round(0.3 * ALL)
    assert OneVisionVideoProcessor(keep_energy=0.9).keep_ratio == 0.25
    load = OneVisionVideoProcessor.from_pretrained
    for processor, bound in ((plain, ALL // 4), (by_number, 200), (both, 99)):
        processor.save_pretrained(tmp_path)
        assert count(load(tmp_path, keep_energy=0.9)) == bound
        assert load(tmp_path).patchify_config() == processor.patchify_config()
    OneVisionVideoProcessor(keep_energy=0.7).save_pretrained(tmp_path)
    assert load(tmp_path).keep_energy == 0.7
    assert PatchifyConfig.from_pretrained(tmp_path).budget.keep_energy == 0.7


def test_a_batch_of_clips_of_unequal_counts_is_what_each_is_alone(clips):
    processor = OneVisionVideoProcessor.from_pretrained(tiny())
    model = OneVisionModel.from_pretrained(tiny()).eval()
    names = ("still", "square", "busy")
    batch = processor([clips[name] for name in names], keep_energy=0.9, keep_ratio=0.1, return_tensors="pt")
    counts = batch["pixel_attention_mask"].sum(1).tolist()
    assert counts[0] < counts[1] < counts[2] == round(0.1 * 24 * 64)
    with torch.inference_mode():
        together = model(**batch).pooler_output
        for row, name in enumerate(names):
            alone = processor(clips[name], keep_energy=0.9, keep_ratio=0.1, return_tensors="pt")
            assert alone["patch_positions"].shape[1] == counts[row]
            torch.testing.assert_close(model(**alone).pooler_output[0], together[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("keep_energy", [0, 1.5, -1.0])
def test_shares_that_cannot_be_are_refused_everywhere(clips, keep_energy, tmp_path):
    processor = OneVisionVideoProcessor()
    processor.save_pretrained(tmp_path)
    for call in (
        lambda: select_patches(clips["still"], keep_energy=keep_energy),
        lambda: OneVisionVideoProcessor(keep_energy=keep_energy),
        lambda: OneVisionVideoProcessor.from_pretrained(tmp_path, keep_energy=keep_energy),
        lambda: processor(clips["still"], keep_energy=keep_energy),
        lambda: PatchifyConfig.from_dict({}, keep_energy=keep_energy),
    ):
        with pytest.raises(ValueError, match=r"keep_energy must be in \(0, 1\], not"):
            call()


# -- the multimodal processor --


@pytest.fixture(scope="module")
def multimodal():
    return tiny_processor(tiny_config(), num_frames=16, size=112)


def tokens(inputs, multimodal) -> int:
    return int((inputs["input_ids"] == multimodal.tokenizer.convert_tokens_to_ids("<|video_pad|>")).sum())


def test_a_prompt_has_as_many_tokens_as_patches_are_kept(clips, multimodal):
    side, found = multimodal.merge_size, []
    for name in ("still", "square", "busy"):
        inputs = prompt(multimodal, user(("video", clips[name]), "?"), keep_energy=0.9)
        count = len(inputs["video_patch_positions"])
        assert tokens(inputs, multimodal) == count // side**2
        most = multimodal.video_processor.get_number_of_video_patches(24, 128, 128, {"keep_energy": 0.9})
        found.append(count)
        assert count <= most
    assert found[0] < found[1] < found[2] == most


def test_a_part_of_a_message_asks_for_its_own_share(clips, multimodal):
    parts = [{"type": "video", "video": clips["square"], "keep_energy": share} for share in (0.3, 0.9)]
    inputs = prompt(multimodal, [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}])
    lengths = inputs["video_cu_seqlens"].diff().tolist()
    alone = [len(multimodal.read_video(clips["square"], keep_energy=share)) for share in (0.3, 0.9)]
    assert lengths == alone and lengths[0] < lengths[1]
    bounded = {"type": "video", "video": clips["busy"], "keep_energy": 0.9, "num_patches": 80}
    inputs = prompt(multimodal, [{"role": "user", "content": [bounded, {"type": "text", "text": "?"}]}])
    assert len(inputs["video_patch_positions"]) == 80


def test_beside_whole_frames_only_what_has_the_share_is_added(clips, multimodal):
    given = {"video_mode": "both", "whole_frames": 2, "keep_energy": 0.9}
    still, busy = (multimodal.read_video(clips[name], **given) for name in ("still", "busy"))
    per_frame = still.selection.geometry.patches_per_frame
    assert len(still) == 2 * per_frame < len(busy)


def test_whole_frames_and_images_know_no_share(clips, multimodal):
    with pytest.raises(ValueError, match="video_mode='frames' keeps whole frames, so keep_energy"):
        multimodal.read_video(clips["still"], video_mode="frames", keep_energy=0.9)
    picture = np.zeros((56, 56, 3), np.uint8)
    with pytest.raises(TypeError, match="keep_energy"):
        multimodal.image_processor(picture, keep_energy=0.9)
    with pytest.raises(TypeError, match="keep_energy"):
        part = {"type": "image", "image": picture, "keep_energy": 0.9}
        prompt(multimodal, [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}])
