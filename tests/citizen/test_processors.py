"""Processors keep their settings through every way of saving, follow those of a call, read every form alike.

Run: python -m pytest -m citizen tests/citizen/test_processors.py
"""

import copy
import json
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from citizens import every
from ov2_recorded import PUBLISHED
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import TextKwargs
from transformers.video_processing_utils import BaseVideoProcessor
from vl_tiny import tiny_config, tiny_processor, user

import onevision_hf
from onevision_hf import (
    LlavaOnevision2Config,
    LlavaOnevision2VideoProcessor,
    OneVisionConfig,
    OneVisionImageProcessor,
    OneVisionVideoProcessor,
    OneVisionVLConfig,
    OneVisionVLImageProcessor,
    OneVisionVLVideoProcessor,
    OpenVision3Config,
    OpenVision3ImageProcessor,
)

pytestmark = pytest.mark.citizen


class Part(NamedTuple):
    """`changes` are none of the defaults; `config` is the model's that lies beside it."""

    kind: Any
    changes: dict[str, Any]
    config: Any


SHORTEST = {"size": {"shortest_edge": 56}}
PARTS = {
    part.kind.__name__: part
    for part in (
        Part(
            OneVisionImageProcessor,
            {"size": {"height": 42, "width": 28}, "image_mean": [0.1, 0.2, 0.3]},
            OneVisionConfig,
        ),
        Part(
            OneVisionVLImageProcessor,
            {"merge_size": 2, "max_pixels": 3136, "do_normalize": False},
            OneVisionVLConfig,
        ),
        Part(
            OpenVision3ImageProcessor,
            {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 64}},
            OpenVision3Config,
        ),
        Part(OneVisionVideoProcessor, {**SHORTEST, "num_frames": 4, "keep_ratio": 0.5}, OneVisionConfig),
        Part(
            OneVisionVLVideoProcessor,
            {**SHORTEST, "num_frames": 3, "video_mode": "frames"},
            OneVisionVLConfig,
        ),
        Part(
            LlavaOnevision2VideoProcessor,
            {"frame_sampling": "vllm", "max_frames": 4},
            LlavaOnevision2Config,
        ),
    )
}
READS_ONLY = {"LlavaOnevision2VideoProcessor": "it samples frames; patches are its processor's"}
IMAGES = {name: part for name, part in PARTS.items() if "Image" in name}
VIDEOS = {name: part for name, part in PARTS.items() if "Video" in name}


def parts(among=PARTS, without=None):
    return every("part", among, without or {})


def test_every_public_processor_is_here():
    public = {getattr(onevision_hf, name) for name in onevision_hf.__all__}
    bases = (BaseImageProcessor, BaseVideoProcessor, ProcessorMixin)
    every = {one.__name__ for one in public if isinstance(one, type) and issubclass(one, bases)}
    assert every == {*PARTS, *PROCESSORS}


def plain(processor):
    """Its settings, as a file holds them."""
    settings = json.loads(json.dumps(processor.to_dict(), default=lambda value: dict(value)))
    return {name: value for name, value in settings.items() if name != "auto_map"}  # what saving adds


def holds(processor, settings):
    found = plain(processor)
    return all({k: v for k, v in found[name].items() if v is not None} == value if isinstance(value, dict)
               else found[name] == value for name, value in settings.items())  # fmt: skip


@parts()
def test_settings_come_back_from_a_dictionary_text_file_and_folder(part, tmp_path):
    part.kind()  # all have defaults
    made = part.kind(**part.changes)
    assert holds(made, part.changes) and json.loads(made.to_json_string()).keys() >= part.changes.keys()
    made.to_json_file(tmp_path / "settings.json")
    made.save_pretrained(tmp_path / "in" / "it")
    part.config().save_pretrained(tmp_path / "beside")
    made.save_pretrained(tmp_path / "beside")
    auto = AutoImageProcessor if "Image" in part.kind.__name__ else AutoVideoProcessor
    for again in (
        part.kind.from_dict(made.to_dict()),
        part.kind(**made.to_dict()),
        part.kind.from_json_file(tmp_path / "settings.json"),
        part.kind.from_pretrained(tmp_path / "in" / "it"),
        part.kind.from_pretrained(tmp_path, subfolder="in/it"),
        auto.from_pretrained(tmp_path / "in" / "it"),
        auto.from_pretrained(tmp_path / "beside"),
    ):
        assert type(again) is part.kind and plain(again) == plain(made)
    again.save_pretrained(tmp_path / "again")
    (first,), (second,) = (
        [*(tmp_path / name).glob("*processor_config.json")] for name in ("beside", "again")
    )
    assert json.loads(first.read_text()) == json.loads(second.read_text())


@parts()
def test_what_is_given_while_loading_replaces_what_was_saved(part, tmp_path):
    part.kind().save_pretrained(tmp_path)
    loaded = part.kind.from_pretrained(tmp_path, **part.changes)
    assert holds(loaded, part.changes)
    assert holds(part.kind.from_dict(part.kind().to_dict(), **part.changes), part.changes)
    rest = plain(part.kind()).keys() - part.changes.keys()
    assert {name: plain(loaded)[name] for name in rest} == {name: plain(part.kind())[name] for name in rest}


@parts()
def test_settings_of_one_are_not_those_of_another(part):
    before = plain(part.kind())
    changes = copy.deepcopy(part.changes)
    one = part.kind(**changes)
    for name, value in changes.items():
        setattr(one, name, value)
    for own in vars(one).values():
        if isinstance(own, list):
            own.append(0.5)
    assert plain(part.kind()) == before


def pictures(count=2, height=48, width=80):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def media(part):
    """Two of what it takes."""
    return list(pictures()) if "Image" in part.kind.__name__ else [pictures(6), pictures(6)[::-1].copy()]


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), torch.as_tensor(value)), name


@parts(without=READS_ONLY)
def test_a_call_follows_its_settings_and_changes_none(part):
    processor, given = part.kind(), media(part)
    before = plain(processor)
    called = processor(given, return_tensors="pt", **part.changes)
    assert plain(processor) == before
    assert_same(part.kind(**part.changes)(given, return_tensors="pt"), called)
    plainly = processor(given, return_tensors="pt")
    first = part.kind.model_input_names[0]
    assert plainly[first].shape != called[first].shape or not torch.equal(plainly[first], called[first])


@parts(without=READS_ONLY)
def test_what_comes_out_has_the_names_of_the_models_inputs(part):
    found = part.kind(**part.changes)(media(part), return_tensors="pt")
    assert set(found) <= set(part.kind.model_input_names) and part.kind.model_input_names[0] in found
    low = part.kind(**part.changes)(media(part), return_tensors="pt").to(torch.float16)
    for name, value in found.items():
        expected = torch.float16 if value.is_floating_point() else value.dtype
        assert low[name].dtype == expected, name


@parts(without=READS_ONLY)
def test_tensors_of_torch_and_arrays_of_numpy_hold_the_same(part):
    processor = part.kind(**part.changes)
    arrays, tensors = (processor(media(part), return_tensors=kind) for kind in ("np", "pt"))
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    assert_same(arrays, tensors)


@parts(IMAGES)
def test_an_image_is_the_same_in_every_form_alone_and_in_a_list(part):
    processor = part.kind(**part.changes)
    given = media(part)
    expected = processor(given, return_tensors="pt")
    forms = {
        "PIL": [Image.fromarray(one) for one in given],
        "tensors": [torch.from_numpy(one).permute(2, 0, 1) for one in given],
        "channels first": [one.transpose(2, 0, 1) for one in given],
        "a batch": np.stack(given),
    }
    for form in forms.values():
        assert_same(processor(form, return_tensors="pt"), expected)
    for number, one in enumerate(given):
        alone = processor(one, return_tensors="pt")["pixel_values"]
        rows = len(expected["pixel_values"]) // len(given)
        assert torch.equal(alone, expected["pixel_values"][number * rows : (number + 1) * rows])


@parts(VIDEOS, without=READS_ONLY)
def test_a_video_is_the_same_in_every_form_alone_and_in_a_list(part):
    processor = part.kind(**part.changes)
    given = media(part)
    expected = processor(given, return_tensors="pt")
    forms = {
        "lists of PIL": [[Image.fromarray(frame) for frame in one] for one in given],
        "lists of arrays": [list(one) for one in given],
        "tensors": [torch.from_numpy(one).permute(0, 3, 1, 2) for one in given],
        "a batch": np.stack(given),
    }
    for form in forms.values():
        assert_same(processor(form, return_tensors="pt"), expected)
    first = part.kind.model_input_names[0]
    alone = processor(given[0], return_tensors="pt")[first].flatten(0, -2)
    assert torch.equal(alone, expected[first].flatten(0, -2)[: len(alone)])


@parts(VIDEOS)
def test_frames_are_sampled_unless_one_says_not_to(part, clip):
    """48 frames."""
    kind = part.kind
    count = {OneVisionVideoProcessor: 4, OneVisionVLVideoProcessor: 3, LlavaOnevision2VideoProcessor: 4}[kind]
    for sample, expected in ((True, count), (False, 48)):
        if kind is LlavaOnevision2VideoProcessor:
            frames = len(kind(**part.changes).read(str(clip), do_sample_frames=sample))
        else:
            settings = {name: value for name, value in part.changes.items() if name != "num_frames" or sample}
            found = kind(**settings)(str(clip), return_tensors="pt", do_sample_frames=sample)
            places = found[kind.model_input_names[1]].reshape(-1, 3)
            frames = len(places[:, 0].unique())
        assert frames <= expected and (frames == expected or kind is OneVisionVideoProcessor)


# -- whole processors --


def ours():
    return tiny_processor(tiny_config("patch_merger"), num_frames=4)


def authors():
    return AutoProcessor.from_pretrained(PUBLISHED)


PROCESSORS = {"OneVisionVLProcessor": ours, "LlavaOnevision2Processor": authors}
whole = pytest.mark.parametrize("make", PROCESSORS.values(), ids=PROCESSORS)


def asked(processor, conversation, **settings):
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, add_generation_prompt=True, **settings
    )


def conversations():
    image = Image.fromarray(pictures(1)[0])
    return [user(("image", image), "What?"), user(("video", pictures(4)), "And ", ("image", image), "now?")]


@whole
def test_a_processor_comes_back_with_its_parts_its_template_and_its_own_settings(make, tmp_path):
    made = make()
    own = {"add_timestamps": True} if make is ours else {"timestamp_decimals": 3}
    for name, value in own.items():
        setattr(made, name, value)
    made.chat_template = made.chat_template + "{# mine #}"
    made.save_pretrained(tmp_path / "first")
    again = type(made).from_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "second")
    found = AutoProcessor.from_pretrained(tmp_path / "first")
    for other in (again, found):
        assert type(other) is type(made) and other.chat_template == made.chat_template
        assert all(getattr(other, name) == value for name, value in own.items())
        for part in ("image_processor", "video_processor"):
            assert plain(getattr(other, part)) == plain(getattr(made, part))
            assert type(getattr(other, part)) is type(getattr(made, part))
        assert other.tokenizer.get_vocab() == made.tokenizer.get_vocab()
        assert other.tokenizer.padding_side == "left"
        expected = asked(made, conversations()[0])
        assert_same(asked(other, conversations()[0]), expected)
    for name in ("processor_config.json", "chat_template.jinja"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text()
    assert json.loads(made.to_json_string()).keys() >= own.keys()


@whole
def test_what_is_given_while_loading_reaches_the_part_that_knows_it(make, tmp_path):
    made = make()
    made.save_pretrained(tmp_path)
    changes = {"num_frames": 2} | ({"add_timestamps": True} if make is ours else {"timestamp_decimals": 2})
    again = type(made).from_pretrained(tmp_path, **changes, padding_side="left")
    assert again.video_processor.num_frames == 2
    name = next(name for name in changes if name != "num_frames")
    assert getattr(again, name) == changes[name]
    template = "{{ 'Say: ' }}" + made.chat_template
    assert type(made).from_pretrained(tmp_path, chat_template=template).chat_template == template


@whole
def test_settings_are_followed_flat_or_by_kind_of_medium_and_not_twice(make):
    processor = make()
    before = [plain(part) for part in (processor.image_processor, processor.video_processor)]
    pixels = {"max_pixels": 28 * 28 * 2}
    # Both kinds of media have max_pixels, videos alone num_frames.
    flat = asked(processor, conversations(), processor_kwargs={**pixels, "num_frames": 2})
    nested = asked(
        processor,
        conversations(),
        processor_kwargs={"images_kwargs": pixels, "videos_kwargs": {**pixels, "num_frames": 2}},
    )
    beside = asked(
        processor, conversations(), images_kwargs=pixels, videos_kwargs={**pixels, "num_frames": 2}
    )
    for other in (nested, beside):
        assert_same(other, flat)
    default = asked(processor, conversations())
    assert len(default["pixel_values"]) > len(flat["pixel_values"])
    assert before == [plain(part) for part in (processor.image_processor, processor.video_processor)]
    one_kind = asked(processor, conversations(), images_kwargs=pixels)
    assert len(flat["pixel_values"]) <= len(one_kind["pixel_values"]) < len(default["pixel_values"])
    with pytest.raises(ValueError, match="max_pixels"):
        asked(processor, conversations(), processor_kwargs={**pixels, "images_kwargs": pixels})


@whole
def test_settings_of_text_reach_the_tokenizer(make):
    processor = make()
    texts = [
        processor.apply_chat_template(user(words), add_generation_prompt=True)
        for words in ("a", "a longer one")
    ]
    plainly = processor(text=texts)
    assert not plainly["attention_mask"][0, 0] and plainly["attention_mask"][:, -1].all()  # on the left
    for how in ({"padding_side": "right"}, {"text_kwargs": {"padding_side": "right"}}):
        found = processor(text=texts, **how)
        assert found["attention_mask"][0, 0] and not found["attention_mask"][0, -1]
    long = processor(text=texts, padding="max_length", max_length=300)
    assert long["input_ids"].shape == (2, 300)
    assert_same(processor(text=texts, text_kwargs={"padding": "max_length", "max_length": 300}), long)
    with pytest.raises(ValueError, match="max_length"):
        processor(text=texts, max_length=300, text_kwargs={"max_length": 200})


@whole
def test_what_comes_out_is_what_the_model_takes(make):
    processor = make()
    found = asked(processor, conversations())
    assert set(found) <= set(processor.model_input_names)
    assert len(set(processor.model_input_names)) == len(processor.model_input_names)
    images = asked(processor, conversations()[0])
    words = asked(processor, user("Only words."))
    assert set(words) == {"input_ids", "attention_mask"} < set(images) <= set(found)
    typed = asked(processor, conversations(), processor_kwargs={"return_mm_token_type_ids": True})
    ids = typed["input_ids"]
    assert torch.equal(typed["mm_token_type_ids"] == 1, ids == processor.image_token_id)
    assert torch.equal(typed["mm_token_type_ids"] == 2, ids == processor.video_token_id)


@whole
def test_a_template_gives_the_text_that_is_tokenized_alone_and_in_a_batch(make):
    processor = make()
    batch = asked(processor, conversations())
    texts = processor.apply_chat_template(conversations(), add_generation_prompt=True)
    image = Image.fromarray(pictures(1)[0])
    by_hand = processor(text=texts, images=[[image], [image]], videos=[[], [pictures(4)]])
    assert_same(by_hand, batch)
    for row, conversation in enumerate(conversations()):
        text = processor.apply_chat_template(conversation, add_generation_prompt=True)
        assert text == texts[row]
        alone = asked(processor, conversation)
        real = batch["attention_mask"][row].bool()
        assert torch.equal(alone["input_ids"][0], batch["input_ids"][row][real])
    ids = processor.apply_chat_template(
        conversations()[0], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert torch.equal(torch.as_tensor(ids), asked(processor, conversations()[0])["input_ids"])


@whole
def test_a_template_of_the_call_has_variables_of_the_call(make):
    processor = make()
    template = "{% for m in messages %}{{ greeting }} {{ m.content[0].text }}{% endfor %}"
    said = processor.apply_chat_template(user("you"), chat_template=template, greeting="Hello")
    assert said == "Hello you"
    started = [*user("you"), {"role": "assistant", "content": [{"type": "text", "text": "I am"}]}]
    assert processor.apply_chat_template(started, continue_final_message=True).rstrip().endswith("I am")


@whole
def test_the_tokens_of_answers_are_marked_where_the_template_says_which_they_are(make):
    processor = make()
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content[0].text }}{% endgeneration %}"
        "{% else %}{% for part in m.content %}{{ part.text if part.type == 'text' else IMAGE }}"
        "{% endfor %}{% endif %}"
        "{% endfor %}"
    ).replace("IMAGE", f"'{processor.image_token}'")
    image = Image.fromarray(pictures(1)[0])
    # Before 5.2x transformers does not ask where the text of media went, and marks amiss behind it.
    asks = "return_text_replacement_offsets" in TextKwargs.__annotations__
    for parts_given in (("How?",), *([(("image", image), "How?")] if asks else [])):
        turns = [*user(*parts_given), {"role": "assistant", "content": [{"type": "text", "text": "So."}]}]
        found = processor.apply_chat_template(
            turns, tokenize=True, return_dict=True, chat_template=template, return_assistant_tokens_mask=True
        )
        marked = torch.as_tensor(found["assistant_masks"]).bool()
        assert processor.tokenizer.decode(found["input_ids"][marked]) == "So."
