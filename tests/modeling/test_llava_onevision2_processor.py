"""The processor of published folders writes the recorded prompts to the letter, and mixes what theirs cannot.

Run: python -m pytest tests/modeling/test_llava_onevision2_processor.py
"""

import json
import shutil

import numpy as np
import pytest
import torch
from ov2_recorded import PUBLISHED, RECORDED
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from onevision_hf import CodecCanvases, LlavaOnevision2Processor, read_canvases
from onevision_hf.modeling.video_processing_llava_onevision2 import _count, _policy


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(PUBLISHED)


def user(*parts):
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": part[0], part[0]: part[1]}
        for part in parts
    ]
    return [{"role": "user", "content": content}]


def inputs_of(processor, *conversations, **settings):
    return processor.apply_chat_template(
        list(conversations) if len(conversations) > 1 else conversations[0],
        tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs=settings,
    )  # fmt: skip


def canvases():
    return CodecCanvases(RECORDED["codec.raw_0"], RECORDED["codec.src_patch_position"], 30.0)


def is_recorded(found, case):
    for name in ("input_ids", "image_grid_thw", "patch_positions"):
        assert np.array_equal(found[name], RECORDED[f"{case}.{name}"]), name


def test_an_image_is_the_recorded_prompt(processor):
    assert type(processor) is LlavaOnevision2Processor
    picture = Image.fromarray(RECORDED["image.raw_0"])
    is_recorded(inputs_of(processor, user(("image", picture), "What is it?")), "image")


def test_frames_of_a_file_are_the_recorded_prompt(processor):
    """t is the number of the frame, the seconds are it over the rate."""
    frames = (list(RECORDED["frames_file.raw_0"]), {"fps": 29.97, "frames_indices": list(range(0, 146, 29))})
    is_recorded(inputs_of(processor, user(("video", frames), "What happens?")), "frames_file")


def test_frames_without_times_are_counted_and_may_be_images_to_the_tower(processor):
    question = user(("video", list(RECORDED["frames_file.raw_0"])), "What happens?")
    text = processor.tokenizer.decode(inputs_of(processor, question)["input_ids"][0])
    assert "<0.0 seconds><|vision_start|><|image_pad|>" in text and "<5.0 seconds>" in text
    assert inputs_of(processor, question)["patch_positions"][:, 0].unique().tolist() == [0, 1, 2, 3, 4, 5]
    for settings in ({"frame_positions": "zero"}, {"frame_sampling": "lmms_eval"}):
        assert not inputs_of(processor, question, **settings)["patch_positions"][:, 0].any()


def test_canvases_are_the_recorded_prompt(processor):
    is_recorded(inputs_of(processor, user(("video", canvases()), "What happens?")), "codec")


def test_canvases_come_from_an_asset_folder_and_empty_ones_are_left_out(processor, tmp_path):
    pictures, positions = RECORDED["codec.raw_0"], RECORDED["codec.src_patch_position"].astype(np.int32)
    for number, picture in enumerate((*pictures, pictures[0])):
        Image.fromarray(picture).save(tmp_path / f"canvas_{number:03d}.png")
    np.save(
        tmp_path / "src_patch_position.npy", np.concatenate([positions, np.full_like(positions[:60], -1)])
    )
    names = sorted(path.name for path in tmp_path.glob("canvas_*"))
    (tmp_path / "meta.json").write_text(json.dumps({"fps": 30.0, "canvas_files": names}))
    found = read_canvases(tmp_path)
    assert (
        len(found) == 8
        and np.array_equal(found.positions, positions)
        and np.array_equal(found.pictures, pictures)
    )
    broken = positions.copy()
    broken[70] = -1
    with pytest.raises(ValueError, match="canvas 1 is filled in part"):
        CodecCanvases(pictures, broken, 30.0)
    with pytest.raises(ValueError, match="positions"):
        inputs_of(processor, user(("video", CodecCanvases(pictures, positions[:160], 30.0)), "What?"))


@torch.no_grad()
def test_a_mixed_batch_is_its_prompts_one_by_one(processor):
    """Images beside canvases, several videos in a prompt, and batches: the published processor has none."""
    model = AutoModelForImageTextToText.from_pretrained(PUBLISHED)
    picture = Image.fromarray(RECORDED["image.raw_0"])
    frames = list(RECORDED["frames_file.raw_0"][:2])
    conversations = [
        user(("image", picture), "Is it in ", ("video", canvases()), "?"),
        user(("video", frames), ("video", frames[::-1]), ("image", picture), "Which?"),
        user("Only words."),
    ]
    batch = inputs_of(processor, *conversations)
    alone = [inputs_of(processor, conversation) for conversation in conversations]
    for name in ("pixel_values", "image_grid_thw", "patch_positions"):
        assert torch.equal(batch[name], torch.cat([one[name] for one in alone[:2]]))
    together = model(**batch).logits
    for row, one in enumerate(alone):
        own = model(**one).logits[0]
        torch.testing.assert_close(together[row, -len(own) :], own, rtol=1e-4, atol=2e-4)


def test_files_are_sampled_by_the_named_policies(processor, clip):
    """8, 16 or max_frames by length; or one frame a second, an even number."""

    def count(total, rate, **settings):
        settings = {
            "frame_sampling": "native",
            "num_frames": None,
            "max_frames": None,
            "fps": None,
            "frame_positions": None,
            **settings,
        }
        return _count(total, rate, settings, _policy(settings))

    assert [count(seconds * 30, 30.0) for seconds in (5, 20, 40, 400)] == [8, 16, 384, 384]
    assert count(300, 30.0, fps=0.5) == 5 and count(300, 30.0, num_frames=7) == 7 and count(5, 30.0) == 5
    for policy in ("lmms_eval", "vllm"):
        found = [count(seconds * 30, 30.0, frame_sampling=policy) for seconds in (2, 7, 20, 400)]
        assert found == [4, 6, 20, 32]
        assert count(400 * 30, 30.0, frame_sampling=policy, max_frames=65) == 64
        assert count(1, 30.0, frame_sampling=policy) == 2
    found = inputs_of(processor, user(("video", str(clip)), "What?"), frame_sampling="vllm", max_frames=4)
    assert len(found["image_grid_thw"]) == 4 and not found["patch_positions"][:, 0].any()
    native = inputs_of(processor, user(("video", str(clip)), "What?"), num_frames=3)["patch_positions"][
        :, 0
    ].unique()
    assert len(native) == 3 and native[-1] > 2
    every = processor.video_processor.read(str(clip), do_sample_frames=False)
    assert every.numbers.tolist() == list(range(len(every)))
    for wrong in ({"frame_sampling": "decord"}, {"frame_positions": "t"}, {"max_frames": 0}, {"fps": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            inputs_of(processor, user(("video", str(clip)), "What?"), **wrong)
    with pytest.raises(TypeError, match="did you mean max_frames"):
        inputs_of(processor, user(("video", str(clip)), "What?"), max_frame=3)


def test_tokens_are_counted_ahead(processor):
    picture = Image.fromarray(RECORDED["image.raw_0"])
    found = processor._get_num_multimodal_tokens(image_sizes=[picture.size[::-1]], video_sizes=[(6, 84, 112)])
    assert found.num_image_tokens == [24] and found.num_video_tokens == [72]
    with pytest.raises(ValueError, match="how many canvases"):
        processor._get_num_multimodal_tokens(video_sizes=[(6, 84, 112)], preset="ov2")
    types = inputs_of(processor, user(("image", picture), "What?"), return_mm_token_type_ids=True)
    assert int((types["mm_token_type_ids"] == 1).sum()) == 24


def test_a_published_folders_own_files_are_read(tmp_path, clip):
    """Names that the folder says of its own code, and settings of the published video processor."""
    shutil.copytree(PUBLISHED, tmp_path / "hub")
    file = tmp_path / "hub" / "preprocessor_config.json"
    own = {"processor_class": "LlavaOnevision2Processor", "codec": {"target_canvas": 32}}
    own["auto_map"] = {"AutoProcessor": "processing_llava_onevision2.LlavaOnevision2Processor"}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    video = {
        "video_processor_type": "LlavaOnevision2VideoProcessor",
        "max_frames": 12,
        "fixed_num_frames": None,
    }
    video |= {"patch_size": 14, "resize_frames": True, "max_pixels": 6272, "target_fps": 2.0}
    (tmp_path / "hub" / "video_preprocessor_config.json").write_text(json.dumps(video))
    processor = AutoProcessor.from_pretrained(tmp_path / "hub", trust_remote_code=True)
    assert type(processor) is LlavaOnevision2Processor
    assert (processor.video_processor.max_frames, processor.video_processor.fps) == (12, 2.0)
    processor.save_pretrained(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert (again.video_processor.max_frames, again.video_processor.fps) == (12, 2.0)
    question = user(("video", str(clip)), "What?")
    assert torch.equal(
        inputs_of(again, question)["pixel_values"], inputs_of(processor, question)["pixel_values"]
    )


def test_settings_given_at_loading_count_and_unknown_ones_are_refused(tmp_path):
    """Published folders have no file of the video processor, which would carry them."""
    given = {"preset": "ov2", "max_canvases": 8}
    for _ in range(2):
        processor = AutoProcessor.from_pretrained(tmp_path if any(tmp_path.iterdir()) else PUBLISHED, **given)
        video = processor.video_processor
        assert (video.preset, video.max_canvases, video.target_canvas) == ("ov2", 8, 32)
        processor.save_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"max_canvas.*did you mean max_canvases"):
        AutoProcessor.from_pretrained(PUBLISHED, max_canvas=8)


def test_answers_are_learned_from(processor):
    messages = [*user(("video", canvases()), "What?"), {"role": "assistant", "content": "Sand."}]
    found = processor.encode_dialogue(messages)
    learned = found["input_ids"][found["labels"] != -100]
    assert processor.tokenizer.decode(learned) == "Sand.<|im_end|>\n"
    assert found["image_grid_thw"].tolist() == [[8, 10, 6]]
