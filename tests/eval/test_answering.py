"""Answers in batches: as one at a time, media encoded once, memory bounded, broken ones passed by."""

import time
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vl_tiny import prompt, tiny_model, tiny_processor, user

from onevision_hf.eval.lmms.answering import Answering, MediaFeatures, pack
from onevision_hf.eval.lmms.questions import Answer, BrokenMediaError, Question
from onevision_hf.eval.lmms.settings import Settings

SHORT = {"max_new_tokens": 4, "do_sample": False}


def settings(**changes):
    return Settings.parse({"pretrained": "tiny", "num_frames": 8, "num_patches": 64, **changes})


@pytest.fixture(scope="module")
def model():
    return tiny_model("patch_merger")


@pytest.fixture(scope="module")
def processor(model):
    return tiny_processor(model.config)


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80 + 20 * (seed % 3), 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def about_clip(clip, text, **more):
    conversation = user(("video", str(clip)), text)
    return Question(lambda: conversation, SHORT, videos=(str(clip),), tag=text, **more)


def about_image(seed, text):
    return Question(lambda: user(("image", picture(seed)), text), SHORT, tag=text)


def answers(answering, questions):
    found = {}

    def done(outcomes):
        for question, outcome in outcomes:
            assert question.tag not in found, "answered twice"
            found[question.tag] = outcome

    answering.answer(questions, done)
    return found


def straight(model, processor, question):
    """The answer as a plain loop gives it."""
    inputs = prompt(processor, question.messages(), **settings().processor_kwargs(processor))
    stops = [256, 258]
    with torch.inference_mode():
        new = model.generate(**inputs, **SHORT, eos_token_id=stops, pad_token_id=256)
    new = new[0, inputs["input_ids"].shape[1] :].tolist()
    return processor.tokenizer.decode(
        new[: next((i for i, t in enumerate(new) if t in stops), len(new))], skip_special_tokens=True
    )


def test_batches_answer_as_a_loop_over_single_questions_does(model, processor, clip, zoo):
    questions = [about_clip(clip, f"What is it? {i}" + "!" * i) for i in range(3)]
    questions += [about_clip(zoo["mpeg4.mp4"], f"And here? {i}") for i in range(2)]
    questions += [about_image(i, f"Which colour? {i}") for i in range(4)]
    answering = Answering(model, processor, settings())
    found = answers(answering, questions)
    expected = {question.tag: straight(model, processor, question) for question in questions}
    assert {tag: answer.text for tag, answer in found.items()} == {
        tag: "".join(letter for letter in text if letter >= " " or letter in "\t\n\r")
        for tag, text in expected.items()
    }
    assert answering.statistics.batches < len(questions)
    assert all(answer.prompt_tokens > 16 for answer in found.values())


def test_a_clip_is_read_and_encoded_once_however_many_questions_are_asked(
    model, processor, clip, monkeypatch
):
    read, encoded = [], []
    video, encode = processor.video_processor.read, model.encode_media
    monkeypatch.setattr(
        processor.video_processor, "read", lambda path, **kw: (read.append(path), video(path, **kw))[1]
    )
    monkeypatch.setattr(model, "encode_media", lambda **kw: (encoded.append(1), encode(**kw))[1])
    # One at a time, so that only the cache can help.
    answering = Answering(model, processor, settings(batch_size=1))
    answers(answering, [about_clip(clip, f"{i}?") for i in range(5)])
    assert [path for path in read if isinstance(path, str)] == [str(clip)]
    assert len(encoded) == 1 and answering.cache.hits == 4


def test_the_same_picture_in_other_rows_is_encoded_once(model, processor):
    answering = Answering(model, processor, settings())
    answers(answering, [Question(about_image(1, f"{i}").messages, SHORT, tag=i) for i in range(4)])
    assert answering.statistics.encoded == 1


def test_questions_about_one_clip_go_together_wherever_they_stand(model, processor, clip, zoo):
    other = zoo["mpeg4.mp4"]
    questions = [about_clip(path, f"{path.stem} {i}") for i in range(3) for path in (clip, other)]
    order = []
    Answering(model, processor, settings(batch_size=1)).answer(
        questions, lambda outcomes: order.extend(question.tag for question, _ in outcomes)
    )
    assert [tag.split()[0] for tag in order] == ["scene"] * 3 + ["mpeg4"] * 3


def test_the_loss_of_a_continuation_is_the_models_own(model, processor, clip):
    questions = [about_clip(clip, f"Which? {text}", continuation=text) for text in ("A", "Brown", "yes no")]
    found = answers(Answering(model, processor, settings()), questions)
    for question in questions:
        inputs = prompt(processor, question.messages(), **settings().processor_kwargs(processor))
        more = torch.tensor(processor.tokenizer(question.continuation)["input_ids"])[None]
        ids = torch.cat([inputs["input_ids"], more], 1)
        labels = ids.clone()
        labels[:, : inputs["input_ids"].shape[1]] = -100
        media = {name: value for name, value in inputs.items() if "video" in name}
        with torch.inference_mode():
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, **media).loss
        assert found[question.tag].loss == pytest.approx(expected.item(), rel=1e-4)


def test_an_answer_ends_before_its_stop_strings(model, processor):
    question = about_image(0, "Say")
    whole = answers(Answering(model, processor, settings()), [question])["Say"].text
    assert len(whole) >= 2
    question.until = (whole[1],)
    assert (
        answers(Answering(model, processor, settings()), [question])["Say"].text == whole.split(whole[1])[0]
    )


def leave():
    import sys

    sys.exit("video path:x.mp4 does not exist, please check")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (leave, "does not exist"),
        (lambda: (_ for _ in ()).throw(KeyError("column")), "KeyError"),
        (lambda: user(("video", "missing.mp4"), "?"), "missing.mp4"),
        (lambda: user("nothing to see"), "no image and no video"),
    ],
    ids=["sys.exit", "error", "missing", "no media"],
)
def test_a_broken_question_is_told_apart_and_the_others_are_answered(model, processor, messages, reason):
    broken = Question(messages, SHORT, tag="broken", needs_media=True)
    found = answers(
        Answering(model, processor, settings()), [about_image(0, "a"), broken, about_image(1, "b")]
    )
    assert isinstance(found["broken"], BrokenMediaError) and reason in str(found["broken"])
    assert isinstance(found["a"], Answer) and isinstance(found["b"], Answer)


def test_a_damaged_clip_breaks_its_own_questions_only(model, processor, clip, tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(clip.read_bytes()[:1500])
    questions = [about_clip(damaged, "x"), about_clip(clip, "y"), about_clip(damaged, "z")]
    found = answers(Answering(model, processor, settings()), questions)
    assert isinstance(found["y"], Answer)
    for tag in ("x", "z"):
        assert isinstance(found[tag], BrokenMediaError) and found[tag].media == str(damaged)


def test_a_prompt_longer_than_the_context_stops_with_what_to_lower(model, processor, clip):
    with pytest.raises(ValueError, match="lower num_frames"):
        answers(Answering(model, processor, settings()), [about_clip(clip, "long " * 2000)])


def test_media_are_read_ahead_while_the_model_is_busy(model, processor, monkeypatch):
    """Reading and answering take 30 ms each; side by side that is not their sum."""
    busy = 0.03
    seen = Counter()

    def slow(seed):
        def messages():
            time.sleep(busy)
            seen["read"] += 1
            return user(("image", picture(seed)), "?")

        return messages

    answering = Answering(model, processor, settings(batch_size=1, workers=2))
    monkeypatch.setattr(
        answering, "_texts", lambda batch: (time.sleep(busy), [(p.question, Answer("x")) for p in batch])[1]
    )
    ahead = []
    questions = [Question(slow(i), SHORT, tag=i) for i in range(12)]
    answering.answer(questions, lambda outcomes: ahead.append(seen["read"] - len(ahead) - 1))
    assert max(ahead) >= 2
    # Not without end: so much is read before it is used, and no more.
    assert max(ahead) <= 2 + 2 * 2


def test_features_are_kept_up_to_a_limit_the_oldest_go_first():
    cache = MediaFeatures(limit=4 * 100)
    for key in "abcd":
        cache.put(key, torch.zeros(25))
    assert cache.get("a") is not None
    cache.put("e", torch.zeros(50))
    assert [key for key in "abcde" if cache.get(key) is not None] == ["a", "d", "e"]
    assert cache.size == 400
    cache.put("f", torch.zeros(101))
    assert cache.get("f") is None and cache.size == 400


@given(st.lists(st.integers(1, 3000), max_size=60), st.integers(100, 4000), st.integers(1, 9) | st.none())
def test_batches_hold_every_prompt_once_within_budget_and_number(lengths, budget, limit):
    batches = pack(lengths, budget, limit)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= budget
        assert limit is None or len(batch) <= limit


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samplng": "codec"}, "did you mean sampling"),
        ({"frame_rate": 2}, "takes no argument 'frame_rate'"),
        ({"processor": {"num_frame": 8}}, "did you mean num_frames"),
        ({"processor": {"num_frames": 8}, "num_frames": 9}, "both given: give one of them"),
        ({"sampling": "uniform"}, "sampling is one of codec, frames, dense"),
        ({"num_patches": 0}, "num_patches must be a positive integer"),
        ({"num_patches": 64, "keep_ratio": 0.5}, "both given: give one of them"),
        ({"sampling": "frames", "keep_ratio": 0.5}, "keeps whole frames"),
        ({"sampling": "frames", "keep_energy": 0.9}, "keep_energy is a setting of sampling=codec"),
        ({"keep_energy": 90}, r"keep_energy must be in \(0, 1\], not 90"),
        ({"sampling": "dense", "num_patches": 64}, "keeps whole frames"),
        ({"batch_size": "many"}, 'whole number or "auto"'),
        ({"on_error": "ignore"}, "on_error is one of wrong, skip, stop"),
        ({"feature_cache_mb": -1}, "from 0 on"),
        ({"pretrained": ""}, "give pretrained=DIR"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_an_error(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings.parse({"pretrained": "tiny", **changes})


def test_what_lmms_eval_passes_by_itself_is_taken(processor):
    parsed = Settings.parse({"pretrained": "tiny", "batch_size": "1", "max_batch_size": 4, "device": "cpu"})
    assert (parsed.batch_size, parsed.device) == (1, "cpu")
    assert Settings.parse({"pretrained": "tiny", "batch_size": "auto"}).batch_size is None
    assert parsed.processor_kwargs(processor) == {"video_mode": "codec"}
    followed = Settings.parse({"pretrained": "tiny", "keep_energy": 0.9, "num_patches": 512})
    assert followed.processor_kwargs(processor) == {
        "video_mode": "codec",
        "keep_energy": 0.9,
        "num_patches": 512,
    }
    assert Settings("tiny", sampling="frames").processor_kwargs(processor) == {
        "video_mode": "frames",
        "num_frames": 8,
    }
    assert Settings("tiny", sampling="dense").processor_kwargs(processor) == {
        "video_mode": "frames",
        "num_frames": 64,
    }


@pytest.mark.parametrize(
    "given",
    [
        {"num_frames": 16, "camera": "median"},
        {"processor": {"num_frames": 16, "camera": "median"}},
        {"processor": '{"num_frames": 16, "camera": "median"}'},
        {"processor": {"camera": "median"}, "num_frames": 16},
    ],
    ids=["by name", "mapping", "JSON", "both"],
)
def test_any_setting_of_the_processor_is_an_argument(given, processor):
    kwargs = Settings.parse({"pretrained": "tiny", **given}).processor_kwargs(processor)
    assert kwargs == {"video_mode": "codec", "num_frames": 16, "camera": "median"}
