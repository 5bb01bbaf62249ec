"""`LLM.chat` gives transformers' greedy tokens for every kind of request, and refuses what cannot be read.

Run: make test-vllm
"""

import importlib
import sys

import numpy as np
import pytest
import vllm
from clips import write_clip
from folders import TOKENS, as_openai, expected, of_transformers, picture
from vl_tiny import user
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS, min_tokens=TOKENS)


def conversations(clip):
    return {
        "text": user("What is it?"),
        "image": user(("image", picture()), "What is it?"),
        "video": user(("video", clip), "What happens?"),
        "mixed": user("One ", ("video", clip), " and ", ("image", picture()), ("video", clip), "\n\nWhich?"),
    }


def asked(engine, *conversations, **settings):
    found = engine.chat(
        [as_openai(one) for one in conversations],
        GREEDY,
        use_tqdm=False,
        mm_processor_kwargs=settings or None,
    )
    return [(list(one.prompt_token_ids), list(one.outputs[0].token_ids)) for one in found]


def by_transformers(served, conversation, **settings):
    paths = [
        {**message, "content": [{**part, "video": str(part["video"])} if "video" in part else part
                                for part in message["content"]]}
        if isinstance(message["content"], list) else message
        for message in conversation
    ]  # fmt: skip
    return expected(served.folder, paths, **settings)


@pytest.mark.parametrize("name", ["text", "image", "video", "mixed"])
def test_the_answer_is_that_of_transformers(served, engine, clip, name):
    conversation = conversations(clip)[name]
    assert asked(engine, conversation) == [by_transformers(served, conversation, **served.codec)]


def test_frames_are_shown_where_a_request_asks_for_them(served, engine, clip):
    conversation = conversations(clip)["video"]
    want = by_transformers(served, conversation, **served.frames)
    assert asked(engine, conversation, **served.frames) == [want]
    assert want != by_transformers(served, conversation, **served.codec)
    nested = asked(engine, conversation, videos_kwargs=served.frames)
    assert nested == [want]


def test_a_batch_is_its_requests_one_by_one(served, engine, clip):
    all_of_them = list(conversations(clip).values())
    want = [by_transformers(served, one, **served.codec) for one in all_of_them]
    assert asked(engine, *all_of_them) == want
    assert len({tuple(answer) for _, answer in want}) == len(want)  # the media matter to the answers


def test_a_second_turn_reads_the_first_from_the_prefix_cache(served, engine, clip):
    first = user(("video", clip), "What happens in this clip, and to whom?")
    engine.reset_prefix_cache()
    asked(engine, first)
    second = [
        *first,
        {"role": "assistant", "content": "Squares move."},
        *user("And here? ", ("image", picture())),
    ]
    (found,) = engine.chat([as_openai(second)], GREEDY, use_tqdm=False)
    assert found.num_cached_tokens > 0
    want = by_transformers(served, second, **served.codec)
    assert (list(found.prompt_token_ids), list(found.outputs[0].token_ids)) == want


def test_what_was_encoded_is_told_by_content_and_settings(served, engine, clip, scene):
    """The same clip with other settings, and another clip under the same name, are not taken for it."""
    engine.reset_prefix_cache()
    conversation = conversations(clip)["video"]
    codec, frames = asked(engine, conversation), asked(engine, conversation, **served.frames)
    assert codec != frames
    assert asked(engine, conversation) == codec and asked(engine, conversation, **served.frames) == frames
    other = clip.with_name("other.mp4")
    other.write_bytes(clip.read_bytes())
    assert asked(engine, conversations(other)["video"]) == codec
    write_clip(other, scene[::-1])
    want = by_transformers(served, conversations(other)["video"], **served.codec)
    assert asked(engine, conversations(other)["video"]) == [want] != codec


def generated(engine, served, **media):
    processor = of_transformers(served.folder)[1]
    (kind,) = media
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "What?"}]}],
        add_generation_prompt=True,
    )
    (found,) = engine.generate([{"prompt": text, "multi_modal_data": media}], GREEDY, use_tqdm=False)
    return list(found.prompt_token_ids), list(found.outputs[0].token_ids)


def test_media_come_as_paths_bytes_and_decoded_frames(served, engine, clip, scene):
    want = by_transformers(served, user(("video", clip), "What?"), **served.codec)
    assert [
        generated(engine, served, video=video) for video in (clip, str(clip), clip.read_bytes(), [clip])
    ] == [want] * 4
    pair = (scene[::6], {"fps": 4.0, "frames_indices": list(range(len(scene[::6])))})
    if served.kind == "published":  # canvases of what changes from frame to frame; ours wants more patches
        want = expected(served.folder, user(("video", pair), "What?"), **served.codec)
        assert generated(engine, served, video=pair) == want
    want = by_transformers(served, user(("image", picture()), "What?"))
    assert generated(engine, served, image=picture()) == want
    assert generated(engine, served, image=np.asarray(picture())) == want


def refused(engine, conversation, match, **settings):
    with pytest.raises(VLLMValidationError, match=match) as error:
        asked(engine, conversation, **settings)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_is_refused_in_one_line_and_the_engine_lives_on(served, engine, clip):
    broken = clip.with_name("broken.mp4")
    broken.write_bytes(clip.read_bytes()[:200] + bytes(2000))
    refused(engine, user(("video", broken), "What?"), "a video cannot be read")
    conversation = conversations(clip)["video"]
    refused(engine, conversation, "num_frame.*num_frames", num_frame=4)
    refused(engine, conversation, "canvas_cache is the server's to set", canvas_cache="out")
    refused(engine, conversation, "allow_urls is the server's", videos_kwargs={"allow_urls": True})
    refused(engine, user(("video", clip), "Is it <|video_pad|>?"), "one that is typed counts too")
    assert asked(engine, conversation) == [by_transformers(served, conversation, **served.codec)]


def test_what_the_server_set_may_stand_in_a_request_and_nothing_else_of_it(engine, monkeypatch):
    info = engine.llm_engine.renderer.mm_processor.info
    own = {"allow_urls": False, "videos_kwargs": {"num_frames": 4}, "add_timestamps": True}
    monkeypatch.setattr(info.ctx.model_config.get_multimodal_config(), "mm_processor_kwargs", own)
    assert info.settings({"allow_urls": False, "num_frames": 8})["allow_urls"] is False
    assert info.settings()["videos_kwargs"] == {"num_frames": 4}
    for asked in ({"allow_urls": True}, {"videos_kwargs": {"allow_urls": False}}):
        with pytest.raises(VLLMValidationError, match="is the server's to set"):
            info.settings(asked)
    assert info.most_tokens("image") > 0


def test_vllm_plans_with_the_counts_of_the_processor(served, engine):
    processor = of_transformers(served.folder)[1]
    info = engine.llm_engine.renderer.mm_processor.info
    found = info.get_mm_max_tokens_per_item(4096, {"image": 1, "video": 1})
    if served.kind == "own":
        assert found["video"] == 64 // 4  # num_patches, in blocks of 2 x 2
    else:
        assert found == {"image": 25600 // 28**2, "video": 4096}  # canvases: the content decides
    assert (
        found["image"]
        >= processor._get_num_multimodal_tokens(image_sizes=[(700, 900)])["num_image_tokens"][0]
    )


def test_another_version_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(vllm, "__version__", "0.31.1")
    monkeypatch.delitem(sys.modules, "onevision_hf.serving.vllm_model", raising=False)
    with pytest.raises(ImportError, match=r"vLLM 0\.32, found 0\.31\.1"):
        importlib.import_module("onevision_hf.serving.vllm_model")
