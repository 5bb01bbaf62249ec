"""Media as people have them in messages, with settings of their own; what is right is known from how they
were made, or from the same file by its path.

Run: python -m pytest tests/modeling/test_message_media.py
"""

import base64
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from PIL import Image
from vl_tiny import prompt, tiny_config, tiny_processor

from onevision_hf import OneVisionVideoProcessor, VideoReader, VideoReadError, select_patches

FPS = 25
MEDIA = ("pixel_values_videos", "video_patch_positions", "video_cu_seqlens")


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(tiny_config(), video_mode="frames", num_frames=4)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """Three seconds."""
    folder = tmp_path_factory.mktemp("clip")
    return str(write_clip(folder / "clip.mp4", moving_scene(3 * FPS, 64, 96, seed=3)))


@pytest.fixture(scope="module")
def decoded(path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def asked(processor, *parts, **settings):
    return prompt(
        processor, [{"role": "user", "content": [*parts, {"type": "text", "text": "?"}]}], **settings
    )


def times(processor, inputs) -> list[float]:
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    return [float(piece.split(" seconds>")[0]) for piece in text.split("<")[1:] if " seconds>" in piece]


def stamps(processor, part, **settings) -> list[float]:
    """Seconds of the frames, as the prompt says them."""
    return times(processor, asked(processor, {"type": "video", **part}, add_timestamps=True, **settings))


# -- settings in a part --


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({"fps": 1}, [0, 1, 2]),
        ({"fps": 2.0, "video_start": 1.0, "video_end": 2.0}, [1, 1.5, 2]),
        ({"fps": 2.0, "start": 1.0, "end": 2.0}, [1, 1.5, 2]),
        ({"nframes": 3}, [0, 1.5, 3.0]),  # floor(linspace(0, 74, 3)) / 25
        ({"num_frames": 3}, [0, 1.5, 3.0]),
        ({"fps": 25, "max_frames": 3}, [0, 1.5, 3.0]),
        ({"fps": 0.1, "min_frames": 2}, [0, 3.0]),
        ({"timestamps": [0.5, 2.5]}, [0.5, 2.5]),
        ({"fps": 1, "text": None, "image": None}, [0, 1, 2]),  # `datasets` fills structs up with None
    ],
)
def test_a_part_says_which_frames_of_its_video_are_read(settings, seconds, processor, path):
    assert stamps(processor, {"video": path, **settings}) == pytest.approx(seconds, abs=0.051)
    # It comes before what the call says for all, in whichever way that says it.
    for of_call in ({"num_frames": 7}, {"fps": 5}, {"timestamps": [0.2]}):
        if settings.keys() & {"num_frames", "nframes", "timestamps"} or (
            "fps" in settings and "fps" in of_call
        ):
            found = stamps(processor, {"video": path, **settings}, **of_call)
            assert found == pytest.approx(seconds, abs=0.051)


def test_each_video_has_its_own_settings(processor, path):
    both = asked(
        processor,
        {"type": "video", "video": path, "nframes": 2},
        {"type": "video", "video": path, "num_frames": 3, "max_pixels": 28 * 42},
        add_timestamps=True,
    )
    lengths = both["video_cu_seqlens"].diff().tolist()
    assert lengths[0] == 2 * 4 * 6 and lengths[1] == 3 * 2 * 3  # 56 x 84 pixels; at most 28 x 42
    larger = asked(processor, {"type": "video", "video": path, "nframes": 1, "min_pixels": 100 * 150})
    rows = larger["video_patch_positions"].amax(0)[1:] + 1
    assert int(rows.prod()) * 14 * 14 >= 100 * 150 and rows.tolist() == [8, 12]
    resized = asked(processor, {"type": "video", "video": path, "resized_height": 30, "resized_width": 40})
    assert (resized["video_patch_positions"].amax(0)[1:] + 1).tolist() == [2, 3]


def test_a_part_of_an_image_has_settings_too(processor, path):
    image = Image.fromarray(np.zeros((112, 112, 3), np.uint8))
    found = asked(processor, {"type": "image", "image": image, "max_pixels": 56 * 56})
    assert len(found["pixel_values"]) == 16
    found = asked(processor, {"type": "image", "image": image, "resized_height": 28, "resized_width": 56})
    assert len(found["pixel_values"]) == 8


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"nframe": 3}, "that is a video got unknown arguments .'nframe'.: did you mean nframes"),
        ({"video_begin": 3}, "unknown arguments .'video_begin'.: did you mean video_"),
        ({"total_pixels": 3}, "unknown arguments .'total_pixels'.: did you mean max_pixels|min_pixels"),
        ({"nframes": 3, "num_frames": 3}, "nframes and num_frames, which are the same"),
        ({"resized_height": 3}, "one of resized_height and resized_width"),
        ({"fps": [2.0]}, r"fps must be a number, not \(2.0,\): a video of its own settings"),
        ({"max_frames": 3, "min_frames": 4}, "min_frames=4 is more than max_frames=3"),
    ],
)
def test_a_key_that_nobody_knows_is_an_error(part, message, processor, path):
    with pytest.raises((TypeError, ValueError), match=message):
        asked(processor, {"type": "video", "video": path, **part})


def test_the_text_alone_is_made_of_any_parts(processor):
    """Who reads the media himself (qwen-vl-utils) keeps his keys."""
    content = [{"type": "video_url", "video_url": "x", "total_pixels": 9}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}])
    assert text.count("<|video_pad|>") == 1 and text.count("<|image_pad|>") == 1


def test_training_reads_a_part_as_asking_does(processor, path):
    part = {"type": "video", "video": path, "nframes": 2}
    messages = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "yes"}]
    learned = processor.encode_dialogue(messages)
    asked_for = asked(processor, part)
    for name in MEDIA:
        assert torch.equal(learned[name], asked_for[name])


# -- forms of media --


def forms_of_a_file(path: str, kind: str):
    with open(path, "rb") as file:
        data = file.read()
    text = base64.b64encode(data).decode()
    cell = SimpleNamespace(_hf_encoded={"path": path, "bytes": None}, get_frames_in_range=None)
    return [
        {"type": kind, kind: data},
        {"type": kind, kind: f"data:{kind}/any;base64,{text}"},
        {"type": kind, kind: text},
        {"type": kind, "base64": text},
        {"type": kind, "base64": "\n".join(text[i : i + 76] for i in range(0, len(text), 76))},
        {"type": kind, "url": f"file://{path}"},
        {"type": kind, "path": path},
        {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/any;base64,{text}"}},
        {"type": f"{kind}_url", f"{kind}_url": path},
        {"type": f"input_{kind}", f"{kind}_url": path},
        {"type": kind, kind: {"path": "elsewhere", "bytes": data}},
        {"type": kind, kind: {"path": path, "bytes": None}},
        *([{"type": kind, kind: cell}] if kind == "video" else []),
    ]


def test_a_video_in_any_form_is_the_file(processor, path):
    wanted = asked(processor, {"type": "video", "video": path})
    for part in forms_of_a_file(path, "video"):
        found = asked(processor, part)
        assert all(torch.equal(found[name], wanted[name]) for name in (*MEDIA, "input_ids")), str(part)[:80]


def test_an_image_in_any_form_is_the_file(processor, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    wanted = asked(processor, {"type": "image", "image": Image.fromarray(pixels)})
    for part in forms_of_a_file(str(tmp_path / "a.png"), "image"):
        assert torch.equal(asked(processor, part)["pixel_values"], wanted["pixel_values"]), str(part)[:80]


def test_the_codec_of_a_column_is_the_files(path):
    """A value of a `datasets` Video column is the file, with all that its codec says, and not its frames."""
    with open(path, "rb") as file:
        data = file.read()
    for value in ({"path": None, "bytes": data}, SimpleNamespace(_hf_encoded={"path": path, "bytes": None})):
        with VideoReader(value) as reader:
            assert (reader.codec, len(reader)) == ("h264", 3 * FPS)
    with pytest.raises(VideoReadError, match="neither bytes nor a path"):
        VideoReader({"path": None, "bytes": None})


def test_an_error_does_not_hold_the_medium(processor):
    broken = base64.b64encode(b"\0\0\0 ftypisom" + bytes(30_000)).decode()
    for part in ({"type": "video", "video": broken}, {"type": "video", "video": "x" * 30_000}):
        with pytest.raises(VideoReadError) as caught:
            asked(processor, part)
        assert len(str(caught.value)) < 500


# -- frames --


@pytest.fixture(scope="module")
def folder(tmp_path_factory, decoded):
    """Every fifth frame as a numbered picture, the number not padded."""
    folder = tmp_path_factory.mktemp("frames")
    for number, frame in enumerate(decoded[::5]):
        Image.fromarray(frame).save(folder / f"f{number}.png")
    (folder / "notes.txt").write_text("not a frame")
    return folder


def test_files_of_frames_are_one_clip_when_one_says_so(processor, folder, decoded):
    wanted = asked(processor, {"type": "video", "video": decoded[::5], "sample_fps": "5"})
    files = [str(folder / f"f{n}.png") for n in range(15)]
    for video in (files, [f"file://{name}" for name in files], str(folder), str(folder / "f%d.png")):
        found = asked(processor, {"type": "video", "video": video, "frames": True, "sample_fps": 5})
        assert all(torch.equal(found[name], wanted[name]) for name in (*MEDIA, "input_ids"))
    # A list in a part can be nothing else.
    found = asked(processor, {"type": "video", "video": files, "sample_fps": 5})
    assert torch.equal(found["pixel_values_videos"], wanted["pixel_values_videos"])


def test_the_video_processor_takes_them_too_and_never_by_accident(folder, decoded):
    processor = OneVisionVideoProcessor(size=56, num_frames=4, keep_ratio=0.5)
    wanted = processor(decoded[::5], return_tensors="np")["pixel_values_videos"]
    files = [folder / f"f{n}.png" for n in range(15)]
    for videos in (files, folder, str(folder / "f%d.png")):
        found = processor(videos, frames=True, return_tensors="np")["pixel_values_videos"]
        assert np.array_equal(found, wanted)
    told = select_patches(files, size=56, frames=True, video_metadata={"fps": 5}, fps=1)
    assert told.frame_ids.tolist() == [0, 5, 10]
    two = processor([files, files[:8]], frames=True)
    assert len(two["pixel_values_videos"]) == 2
    with pytest.raises(ValueError, match="15 pictures were given as videos: frames=True makes one clip"):
        processor(files)
    with pytest.raises(VideoReadError, match=r"is a folder, not a video file \(frames=True"):
        processor(folder)
    with pytest.raises(VideoReadError, match=r"no such file \(frames=True takes a pattern"):
        processor(str(folder / "f%03d.png"))
    for wrong, message in (
        (folder / "g%d.png", "no file is called so"),
        (folder / "nowhere", "no such folder"),
        (folder / "notes.txt", "is one file"),
        ([*files[:3], folder / "notes.txt"], "frame 3: .*notes.txt.*no picture that can be read"),
    ):
        with pytest.raises(VideoReadError, match=message):
            processor(wrong, frames=True)


def test_metadata_give_frames_their_times(processor, path, decoded):
    """fps, start, end and timestamps take the frames that they take of the file."""
    every = {"fps": FPS, "total_num_frames": len(decoded)}
    for settings in (
        {"fps": 2},
        {"fps": 3, "start": 0.7, "end": 2.1},
        {"timestamps": [0.5, 2.99]},
        {"start": 2.0, "num_frames": 3},
    ):
        wanted = asked(processor, {"type": "video", "video": path, **settings})
        for metadata in (every, {"timestamps": [n / FPS for n in range(len(decoded))], "duration": 3.0}):
            part = {"type": "video", "video": decoded, **settings}
            found = asked(processor, {**part, "video_metadata": metadata})
            assert times(processor, found) == times(processor, wanted)
            called = asked(processor, part, video_metadata=[metadata])
            assert torch.equal(called["input_ids"], found["input_ids"])
    # Some frames of a longer file: their numbers tell.
    some = {"fps": FPS, "frames_indices": [25, 30, 60], "total_num_frames": 75}
    assert stamps(processor, {"video": decoded[[25, 30, 60]], "video_metadata": some}) == [1.0, 1.2, 2.4]
    assert stamps(processor, {"video": (decoded[[25, 30, 60]], some), "start": 1.1, "end": 1.3}) == [1.2]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"fps": 5, "total_num_frames": 300}, "75 frames of 300, but not which ones: give frames_indices"),
        ({"fps": 0}, "fps must be a positive number"),
        ({"timestamps": [0.0, 1.0]}, "2 timestamps or frames_indices for 75 frames"),
        ({"timestamps": [1.0] * 75}, "times must rise"),
        ({"frame_indices": [0]}, "did you mean frames_indices"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(metadata, message, processor, decoded):
    with pytest.raises((ValueError, TypeError), match=message):
        stamps(processor, {"video": decoded, "video_metadata": metadata})


def test_metadata_of_a_file_are_refused(processor, path):
    with pytest.raises(ValueError, match="a file has its own"):
        stamps(processor, {"video": path, "video_metadata": {"fps": 5}})
