"""From conversations to tensors: placeholders, sizes, modes, settings, and what goes wrong.

Run: python -m pytest tests/modeling/test_vl_processor.py
"""

import re

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from vl_tiny import prompt, tiny_config, tiny_processor, tiny_tokenizer, user

from onevision_hf import (
    OneVisionVLImageProcessor,
    OneVisionVLProcessor,
    OneVisionVLVideoProcessor,
    VideoReadError,
    select_patches,
)
from onevision_hf.modeling.chat_template_onevision_vl import wrapped_template

SIZES = FRAMES, HEIGHT, WIDTH = 120, 72, 128


@pytest.fixture(scope="module", params=["mlp2x_gelu", "patch_merger"])
def processor(request) -> OneVisionVLProcessor:
    return tiny_processor(tiny_config(request.param))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    scene = moving_scene(FRAMES, HEIGHT, WIDTH)
    return str(write_clip(tmp_path_factory.mktemp("video") / "clip.mp4", scene, fps=30))


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def tokens(inputs, token: int) -> int:
    return int((inputs["input_ids"] == token).sum())


def test_the_published_prompt_around_as_many_placeholders_as_features(processor):
    inputs = prompt(processor, user(("image", picture(56, 84)), "What?"))
    count = len(inputs["pixel_values"]) // processor.merge_size**2
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{'<|image_pad|>' * count}\nWhat?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_images_come_by_path_picture_and_array_in_any_form(processor, tmp_path):
    image = picture(60, 90)
    image.save(tmp_path / "image.png")
    array = np.asarray(image)
    encoded = (tmp_path / "image.png").read_bytes()
    forms = [
        image,
        str(tmp_path / "image.png"),
        encoded,
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
    ]
    found = [prompt(processor, user(("image", form), "?")) for form in forms]
    for other in found[1:]:
        for name in found[0]:
            torch.testing.assert_close(other[name], found[0][name], msg=name)
    grey = prompt(processor, user(("image", array[..., 0]), "?"))["pixel_values"]
    assert grey.shape == found[0]["pixel_values"].shape


def test_a_whole_image_comes_back_from_its_packed_patches(processor):
    """Each patch is where its position says, whatever the order of rows."""
    array = np.asarray(picture(56, 84))
    inputs = prompt(processor, user(("image", array), "?"), do_normalize=False)
    assert inputs["image_cu_seqlens"].tolist() == [0, 24]
    again = np.zeros((56, 84, 3), np.float32)
    for patch, (_, h, w) in zip(
        inputs["pixel_values"], inputs["image_patch_positions"].tolist(), strict=True
    ):
        again[h * 14 : h * 14 + 14, w * 14 : w * 14 + 14] = patch.view(3, 14, 14).permute(1, 2, 0)
    assert np.abs(again * 255 - array).max() < 1e-3


@settings(max_examples=40)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    merge=st.sampled_from([1, 2]),
    candidates=st.sampled_from([None, "published"]),
    limit=st.sampled_from([10_000, 200_000]),
)
@example(height=1, width=900, merge=2, candidates=None, limit=10_000)
@example(height=3, width=900, merge=1, candidates="published", limit=10_000)
def test_the_count_for_engines_is_the_count_of_rows(height, width, merge, candidates, limit):
    processor = OneVisionVLImageProcessor(merge_size=merge, max_pixels=limit, candidate_sizes=candidates)
    count = processor.get_number_of_image_patches(height, width)
    assert count % merge**2 == 0
    if candidates is None:
        assert count * 14 * 14 <= max(limit, 14 * 14 * merge**2)
    if height * width <= 40_000:
        image = np.zeros((height, width, 3), np.uint8)
        assert len(processor(image, return_tensors="pt")["pixel_values"]) == count


def test_the_count_for_engines_refuses_what_the_processor_refuses():
    processor = OneVisionVLImageProcessor(merge_size=2, do_resize=False)
    assert processor.get_number_of_image_patches(28, 56) == 8
    for refused in (
        lambda: processor.get_number_of_image_patches(28, 42),
        lambda: processor(np.zeros((28, 42, 3), np.uint8)),
    ):
        with pytest.raises(ValueError, match="height 28 and width 42 is no multiple of 2 patches of 14"):
            refused()


def test_published_sizes_fit_the_image_on_black():
    """scripts/sft_ov_encoder.sh and sft_siglip2.sh: the second list is the first one rounded to 16."""
    white = np.full((400, 800, 3), 255, np.uint8)
    found = OneVisionVLImageProcessor(candidate_sizes="published", do_normalize=False)(
        white, return_tensors="pt"
    )
    positions = found["image_patch_positions"]
    assert (positions[:, 1].max() + 1, positions[:, 2].max() + 1) == (41, 80)  # 574 x 1120: odd
    light = found["pixel_values"].mean(-1)
    assert light[positions[:, 1] == 20].min() > 0.99  # 560 rows of white between 7 of black
    torch.testing.assert_close(light[positions[:, 1] == 0].mean(), torch.tensor(0.5), rtol=0, atol=0.05)

    siglip = OneVisionVLImageProcessor(candidate_sizes="published", patch_size=16)
    assert siglip.get_number_of_image_patches(400, 800) == (576 // 16) * (1120 // 16)
    merged = OneVisionVLImageProcessor(candidate_sizes="published", merge_size=2)
    assert merged.get_number_of_image_patches(400, 800) == (588 // 14) * (1120 // 14)
    assert (
        OneVisionVLImageProcessor(candidate_sizes=[(56, 56), (28, 112)]).get_number_of_image_patches(20, 80)
        == 16
    )
    with pytest.raises(ValueError, match="candidate_sizes must be 'published' or"):
        OneVisionVLImageProcessor(candidate_sizes=[56])(white)


VIDEO_SETTINGS = [
    {},
    {"num_frames": 8},
    {"num_frames": 6, "keep_ratio": 0.5},
    {"num_frames": 16, "num_patches": 64},
    {"video_mode": "frames"},
    {"video_mode": "frames", "num_frames": 3},
    {"video_mode": "both", "num_frames": 16, "whole_frames": 2},
    {"video_mode": "both", "num_frames": 16, "whole_frames": 3, "num_patches": 20},
    {"video_mode": "both", "num_frames": 2},
    {"video_mode": "frames", "num_frames": 2, "size": 112, "max_pixels": 9000},
    {"num_frames": 8, "anchors": 4},
    {"do_sample_frames": True, "video_mode": "frames"},
]


@pytest.mark.parametrize("given", VIDEO_SETTINGS, ids=str)
def test_every_mode_keeps_as_many_patches_as_engines_are_told_in_whole_blocks(processor, given, video):
    inputs = prompt(processor, user(("video", video), "?"), **given)
    positions, side = inputs["video_patch_positions"], processor.merge_size
    count = processor.video_processor.get_number_of_video_patches(*SIZES, given)
    assert len(positions) == count
    told = processor._get_num_multimodal_tokens(video_sizes=[SIZES], **given)
    assert told.num_video_tokens == [count // side**2] == [tokens(inputs, 260)]
    assert len(np.unique(positions, axis=0)) == count
    blocks = positions.view(-1, side**2, 3)
    assert (blocks[:, :, 0] == blocks[:, :1, 0]).all()
    assert (blocks[:, :, 1:] // side == blocks[:, :1, 1:] // side).all()
    assert (blocks[1:, 0, 0] >= blocks[:-1, 0, 0]).all()  # in the order of time


def test_the_modes_keep_what_they_say(processor, video):
    def frames_of(**given):
        clip = processor.read_video(video, **given)
        whole = clip.selection.geometry.patches_per_frame
        return (
            clip,
            whole,
            {int(f): int(n) for f, n in zip(*np.unique(clip.frames, return_counts=True), strict=True)},
        )

    clip, whole, counts = frames_of(video_mode="frames", num_frames=8)
    assert counts == dict.fromkeys(range(8), whole)
    assert sorted(set(clip.positions[:, 0].tolist())) == [0, 9, 18, 27, 36, 45, 54, 63]  # as published
    for every in ({"video_mode": "frames"}, {"keep_ratio": 0.06}):
        every["do_sample_frames"] = False
        clip, whole, counts = frames_of(**every)
        assert counts == dict.fromkeys(range(FRAMES), whole) or "keep_ratio" in every
        assert len(clip.timestamps) == FRAMES
        assert len(clip) == processor.video_processor.get_number_of_video_patches(
            FRAMES, HEIGHT, WIDTH, every
        )
    clip, whole, counts = frames_of(num_frames=64, keep_ratio=0.125)
    chosen = select_patches(video, size=56, merge_size=processor.merge_size)
    assert np.array_equal(clip.positions, chosen.positions)
    assert counts[0] == whole and len(counts) > 8
    clip, whole, counts = frames_of(video_mode="both", num_frames=64)
    assert all(counts[frame] == whole for frame in range(0, 64, 8))
    assert len(clip) == 8 * whole + len(chosen)


def test_timestamps_stand_before_the_tokens_of_their_frame(processor, video):
    inputs = prompt(
        processor, user(("video", video), "?"), num_frames=4, video_mode="frames", add_timestamps=True
    )
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    clip = processor.read_video(video, num_frames=4, video_mode="frames")
    assert re.findall(r"<([\d.]+) seconds>", text) == [f"{t:.1f}" for t in clip.timestamps]
    per_frame = len(clip) // 4 // processor.merge_size**2
    assert f"<0.0 seconds>{'<|video_pad|>' * per_frame}<1.3 seconds><|video_pad|>" in text
    assert tokens(inputs, 260) == 4 * per_frame
    with pytest.raises(ValueError, match="frames that were decoded elsewhere have none"):
        prompt(processor, user(("video", np.zeros((3, 56, 56, 3), np.uint8)), "?"), add_timestamps=True)


def test_settings_go_flat_beside_or_by_kind_of_medium(processor, video):
    conversation = user(("image", picture(112, 112)), ("video", video), "?")
    nested = prompt(
        processor,
        conversation,
        videos_kwargs={"num_frames": 2, "size": 28},
        images_kwargs={"max_pixels": 3136},
    )
    beside = processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True,
        num_frames=2, videos_kwargs={"size": 28}, images_kwargs={"max_pixels": 3136},
    )  # fmt: skip
    for name in nested:
        assert torch.equal(nested[name], beside[name])
    assert len(nested["pixel_values"]) == 16
    with pytest.raises(TypeError, match=r"unknown arguments \['num_frame'\]"):
        processor("hi", text="hi", num_frame=2)


def test_media_go_to_their_prompts_flat_nested_and_as_lists_of_frames(processor):
    text = ["<|image_pad|>a", "b", "<|image_pad|><|video_pad|>c"]
    images, frames = [picture(28, 28), picture(56, 28)], [picture(56, 56)] * 2
    flat = processor(text=text, images=images, videos=[frames], video_mode="frames")
    nested = processor(
        text=text, images=[images[:1], [], images[1:]], videos=[[], [], [frames]], video_mode="frames"
    )
    single = processor(text=text, images=images, videos=frames, video_mode="frames")
    for other in (nested, single):
        assert other.keys() == flat.keys()
        assert all(torch.equal(other[name], flat[name]) for name in flat)
    assert flat["image_cu_seqlens"].tolist()[-1] == 4 + 8
    assert flat["video_cu_seqlens"].tolist() == [0, 32]


def test_a_language_models_own_template_keeps_its_turns():
    template = "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} {% endfor %}{{ '[assistant]' }}"
    config = tiny_config()
    parts = tiny_processor(config)
    processor = OneVisionVLProcessor(
        parts.image_processor,
        parts.video_processor,
        tiny_tokenizer(),
        chat_template=wrapped_template(template),
    )
    conversation = user(("image", picture(28, 28)), "What? ")
    assert processor.apply_chat_template(conversation) == "[user] <|image_pad|>\nWhat? [assistant]"
    inputs = prompt(processor, conversation)
    assert processor.tokenizer.decode(inputs["input_ids"][0]) == (
        "[user] " + "<|image_pad|>" * 4 + "\nWhat? [assistant]"
    )


# -- bad input --


def test_other_numbers_of_media_and_placeholders_are_an_error_with_both(processor, video):
    with pytest.raises(ValueError, match=r"2 image tokens .* 1 images were given.*\[1, 1\] tokens"):
        processor(text=["<|image_pad|>", "<|image_pad|>"], images=[picture(28, 28)])
    with pytest.raises(ValueError, match=r"0 video tokens .* 1 videos were given"):
        processor(text="hello", videos=video)
    with pytest.raises(ValueError, match=r"1 image tokens .* 0 images"):
        processor(text="<|image_pad|>")
    with pytest.raises(ValueError, match=r"\[1, 1\] tokens, \[2, 0\] images"):
        processor(text=["<|image_pad|>", "<|image_pad|>"], images=[[picture(28, 28)] * 2, []])


@pytest.mark.parametrize("conversation", [[], [[]], [{"role": "user", "content": ""}], user()])
def test_an_empty_prompt_is_an_error(processor, conversation):
    with pytest.raises(ValueError, match="the prompt is empty"):
        prompt(processor, conversation)


def test_an_empty_text_is_an_error(processor):
    for text in ("", None, [], ["a", " "]):
        with pytest.raises(ValueError, match="the prompt is empty"):
            processor(text=text)
    with pytest.raises(ValueError, match="found audio"):
        processor(text="a", audio=[0.0])


def test_an_undecodable_video_raises_or_leaves_its_prompt_out(processor, tmp_path, video):
    (tmp_path / "broken.mp4").write_bytes(b"no video at all")
    broken = str(tmp_path / "broken.mp4")
    batch = [
        user(("video", broken), "a"),
        user("b"),
        user(("image", "missing.png"), "c"),
        user(("video", video), "d"),
    ]
    with pytest.raises(VideoReadError, match=r"broken\.mp4"):
        prompt(processor, batch, num_frames=4)
    inputs = prompt(processor, batch, num_frames=4, errors="skip")
    assert [index for index, _ in inputs["skipped"]] == [0, 2]
    assert "broken.mp4" in inputs["skipped"][0][1]
    skipped = inputs.pop("skipped")
    whole = prompt(processor, [batch[1], batch[3]], num_frames=4)
    assert all(torch.equal(inputs[name], whole[name]) for name in whole) and len(skipped) == 2
    with pytest.raises(VideoReadError, match="none of the 1 prompts"):
        prompt(processor, batch[:1], errors="skip")
    with pytest.raises(ValueError, match='errors must be "raise", "skip" or "partial"'):
        prompt(processor, batch, errors="ignore")


def test_a_prompt_beyond_the_context_is_an_error_with_the_numbers(processor):
    short = tiny_processor(tiny_config())
    short.tokenizer.model_max_length = 50
    with pytest.raises(
        ValueError, match=r"tokens, 16 of them visual.*context of 50 tokens: lower num_frames"
    ):
        prompt(short, user(("image", picture(56, 56)), "What?"))
    with pytest.raises(ValueError, match="media cannot be truncated"):
        prompt(processor, user(("image", picture(112, 112)), "?"), truncation=True, max_length=3)


def test_a_tokenizer_without_the_media_tokens_is_an_error():
    parts = tiny_processor(tiny_config())
    with pytest.raises(ValueError, match=r"no token <\|image_pad\|>: `onevision assemble` adds it"):
        OneVisionVLProcessor(parts.image_processor, parts.video_processor, tiny_tokenizer(["<|endoftext|>"]))
    with pytest.raises(ValueError, match="a tokenizer is needed"):
        OneVisionVLProcessor(parts.image_processor, parts.video_processor)


def test_settings_out_of_range_are_errors(processor, video):
    read = processor.video_processor.read
    with pytest.raises(ValueError, match="video_mode must be one of codec, frames, both, not 'dense'"):
        read(video, video_mode="dense")
    with pytest.raises(ValueError, match="num_patches does not go with it: give num_frames"):
        read(video, video_mode="frames", num_patches=64)
    with pytest.raises(ValueError, match="whole_frames must be a positive integer"):
        read(video, video_mode="both", whole_frames=0)
    with pytest.raises(ValueError, match="max_pixels=100 does not fit frames of"):
        read(video, max_pixels=100)
    with pytest.raises(ValueError, match="no multiple of"):
        processor(text="<|image_pad|>", images=picture(30, 30), do_resize=False)
    with pytest.raises(ValueError, match="use size"):
        processor(text="<|image_pad|>", images=picture(30, 30), do_center_crop=True, crop_size=28)
    with pytest.raises(TypeError, match="unknown arguments"):
        read(video, fraction=0.5)


def test_codec_input_for_a_tower_of_whole_pictures_is_an_error(video):
    processor = OneVisionVLVideoProcessor(takes_codec_input=False, size=56)
    assert processor.video_mode == "frames"
    for mode in ("codec", "both"):
        with pytest.raises(ValueError, match="sees whole pictures: use video_mode='frames'"):
            processor(video, video_mode=mode)
    assert processor([video], num_frames=2, return_tensors="pt")["video_cu_seqlens"].tolist() == [0, 56]


def test_the_video_processor_alone_takes_lists_and_skips(processor, tmp_path, video):
    (tmp_path / "empty.mp4").touch()
    alone = processor.video_processor
    found = alone(
        [video, str(tmp_path / "empty.mp4"), video], num_frames=2, errors="skip", return_tensors="pt"
    )
    assert len(found["video_cu_seqlens"]) == 3 and found["skipped"][0][0] == 1
    with pytest.raises(VideoReadError, match="empty"):
        alone([str(tmp_path / "empty.mp4")], errors="skip")
    selection = processor.read_video(video, num_frames=4).selection
    assert np.array_equal(alone.read(video, selection=selection).positions[:, 1:], selection.positions[:, 1:])
