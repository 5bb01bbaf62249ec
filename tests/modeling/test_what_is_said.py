"""Errors say what is there and what to do; times and colours are those that FFmpeg gives.

Run: python -m pytest tests/modeling/test_what_is_said.py
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from PIL import Image
from transformers import BatchFeature
from vl_tiny import tiny_model

from onevision_hf import (
    OneVisionConfig,
    OneVisionForImageClassification,
    OneVisionForVideoClassification,
    OneVisionImageProcessor,
    OneVisionModel,
    OneVisionVideoProcessor,
    OpenVision3Config,
    OpenVision3Model,
    VideoReader,
    VideoReadError,
    select_patches,
)
from onevision_hf.assets import model_folder
from onevision_hf.clustering.descriptors import describe_video
from onevision_hf.data.items import MediaError
from onevision_hf.modeling.frame_geometry import LayoutSettings
from onevision_hf.modeling.patch_inputs import trusted_values


def test_an_animated_webp_is_sound_and_cannot_be_decoded(tmp_path):
    frames = [Image.fromarray(np.full((32, 48, 3), level, np.uint8)) for level in (0, 90, 200)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(VideoReadError, match=r"an animated WebP, .*no decoder.*sound"):
        OneVisionVideoProcessor(size=28)(tmp_path / "a.webp")


def test_arrays_are_no_input_of_the_model(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", moving_scene(4, 64, 96))
    model = OneVisionModel(OneVisionConfig.tiny())
    inputs = OneVisionVideoProcessor(size=28, num_frames=2)(clip)
    with pytest.raises(TypeError, match=r'is a ndarray, the model takes tensors: .*return_tensors="pt"'):
        model(**inputs)


MODELS = {
    "encoder": lambda: OneVisionModel(OneVisionConfig.tiny()),
    "images": lambda: OneVisionForImageClassification(OneVisionConfig.tiny()),
    "videos": lambda: OneVisionForVideoClassification(OneVisionConfig.tiny()),
    "openvision3": lambda: OpenVision3Model(OpenVision3Config.tiny()),
    "multimodal": lambda: tiny_model(),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_says_what_to_do_with_what_is_no_tensor(name):
    model, picture = MODELS[name](), np.zeros((1, 3, 28, 28), np.float32)
    spread = r"BatchFeature with pixel_values: spread it over the arguments, model\(\*\*inputs\)"
    for given, what_to_do in (
        (BatchFeature({"pixel_values": torch.from_numpy(picture)}), spread),
        ("clip.mp4", r"a str, and the model reads no media: .*model\(\*\*processor\("),
        (Path("clip.mp4"), "Path, and the model reads no media"),
        (Image.new("RGB", (28, 28)), "Image, and the model reads no media"),
        (picture, r'a ndarray, the model takes tensors: .*return_tensors="pt"'),
        ([torch.from_numpy(picture)], "a list, the model takes tensors"),
    ):
        for call in (lambda given=given: model(given), lambda given=given: model(pixel_values=given)):
            with pytest.raises(TypeError, match=what_to_do):
                call()


@pytest.mark.parametrize("name", ["encoder", "images", "videos"])
def test_padding_without_its_mask_is_an_error_and_nothing_else_is(name, clip):
    model = MODELS[name]().eval()
    processor = OneVisionVideoProcessor(size=56, num_frames=2, keep_ratio=1.0)
    clips = [np.zeros((1, 56, 56, 3), np.uint8), str(clip)]
    inputs = processor(clips, return_tensors="pt")
    pictures = OneVisionImageProcessor()(
        [Image.new("RGB", (28, 28)), Image.new("RGB", (28, 42))], return_tensors="pt"
    )
    for padded, row in ((inputs, 0), (pictures, 0)):
        model(**padded)
        bare = {key: value for key, value in padded.items() if key != "pixel_attention_mask"}
        with pytest.raises(ValueError, match=rf"row {row} of patch_positions ends like padding, .*mask"):
            model(**bare)
        model(**{key: value[1:] for key, value in bare.items()})  # the longest has none
    reverse = {key: value[1:].flip(1) for key, value in inputs.items() if key != "pixel_attention_mask"}
    assert reverse["patch_positions"][0, -1].tolist() == [0, 0, 0]
    model(**reverse)  # the first patch may come last
    with trusted_values():  # a training's batches come from its own collator
        model(**{key: value for key, value in inputs.items() if key != "pixel_attention_mask"})


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "runs/cluster/model", "~/model"])
def test_a_model_folder_that_is_not_there_is_no_name_on_the_hub(name):
    with pytest.raises(FileNotFoundError, match=f"{name}: no such model folder"):
        model_folder(name)
    assert model_folder("owner/name") == "owner/name"


def test_one_picture_has_no_motion(tmp_path):
    clip = write_clip(tmp_path / "one.mp4", moving_scene(1, 64, 96))
    with (
        VideoReader(clip) as reader,
        pytest.raises(MediaError, match="one picture, and so no motion vectors"),
    ):
        describe_video(reader, ("motion",))


# -- times --


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A picture a second, ten seconds."""
    return write_clip(tmp_path_factory.mktemp("slow") / "slow.mp4", moving_scene(10, 64, 96), fps=1)


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"start": 2.2, "end": 2.8}, [2]),
        ({"start": 9.5}, [9]),
        ({"start": 2.0, "end": 4.0}, [2, 3, 4]),
        ({"fps": 1}, list(range(10))),
        ({"fps": 0.25}, [0, 4, 8]),
        ({"fps": 5, "max_frames": 4}, [0, 3, 6, 9]),
        ({"fps": 0.25, "min_frames": 5}, [0, 2, 4, 6, 9]),
        ({"fps": 0.25, "min_frames": 500}, list(range(10))),
        ({"num_frames": 8, "max_frames": 2}, [0, 9]),
        ({"timestamps": [9.9]}, [9]),
    ],
)
def test_frames_are_those_on_screen(settings, frames, slow):
    with VideoReader(slow) as reader:
        assert reader.duration == pytest.approx(10.0)
        found = OneVisionVideoProcessor(size=28).patchify_config(**settings).select(reader)
    assert found.frame_ids.tolist() == frames


def test_a_span_beyond_the_clip_says_how_long_it_is(slow):
    with pytest.raises(ValueError, match=r"start=10.5 and end=None: the video has 10.000 s"):
        select_patches(slow, size=28, start=10.5)


# -- sizes --


def test_a_crop_follows_the_size_or_is_asked_for():
    for size, crop, wanted in ((64, 64, 112), (64, None, 112)):
        processor = OneVisionVideoProcessor(size=size, crop_size=crop, do_center_crop=True, patch_size=16)
        geometry = processor.patchify_config(size=112).geometry(200, 300)
        assert (geometry.canvas_height, geometry.canvas_width) == (wanted, wanted)
    part = OneVisionVideoProcessor(size=64, crop_size=32, do_center_crop=True, patch_size=16)
    assert part.patchify_config(size=64).geometry(200, 300).canvas_height == 32
    with pytest.raises(ValueError, match=r"size=112 on a processor that crops .*give crop_size too"):
        part.patchify_config(size=112)
    images = OneVisionImageProcessor(size=64, crop_size=64, do_center_crop=True, patch_size=16)
    picture = Image.fromarray(np.zeros((200, 300, 3), np.uint8))
    assert images(picture, size=112, return_tensors="pt")["pixel_values"].shape[-2:] == (112, 112)


def test_frames_grow_to_min_pixels_and_shrink_to_max_pixels():
    grown = LayoutSettings(size={"shortest_edge": 28}, min_pixels=10_000).geometry(100, 200)
    assert (grown.canvas_height, grown.canvas_width) == (84, 168)  # 70 x 140 are 9,800
    shrunk = LayoutSettings(max_pixels=10_000).geometry(100, 200)
    assert (shrunk.canvas_height, shrunk.canvas_width) == (70, 140)
    with pytest.raises(ValueError, match="min_pixels=9 is more than max_pixels=8"):
        LayoutSettings(min_pixels=9, max_pixels=8)


# -- colours --


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="FFmpeg's command is what it is compared with")
@pytest.mark.parametrize("form", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_colours_at_native_size_are_ffmpegs_accurate_ones(form, tmp_path):
    path = str(tmp_path / "clip.mkv")
    source = ["-f", "lavfi", "-i", "testsrc2=s=56x84:r=5:d=0.2", "-pix_fmt", form, "-c:v", "ffv1"]
    subprocess.run(["ffmpeg", "-v", "error", *source, path], check=True)
    flags = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
    command = ["ffmpeg", "-v", "error", "-i", path, "-sws_flags", flags, "-pix_fmt", "rgb24"]
    shown = subprocess.run([*command, "-f", "rawvideo", "-"], check=True, capture_output=True).stdout
    with VideoReader(path) as reader:
        (frame,) = reader.frames([0])
        found = frame.rgb(56, 84).astype(int)
    assert np.abs(found - np.frombuffer(shown, np.uint8).reshape(84, 56, 3)).mean() < 0.3
