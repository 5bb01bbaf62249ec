"""pipeline("video-classification") over a saved folder: it gives what model and processor give, or refuses.

Run: python -m pytest tests/modeling/test_onevision_pipeline.py
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from clips import moving_scene, write_clip
from transformers import (
    AutoConfig,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)

from onevision_hf import (
    OneVisionConfig,
    OneVisionForVideoClassification,
    OneVisionImageProcessor,
    OneVisionVideoProcessor,
    tiny,
)

NAMES = {0: "left", 1: "right", 2: "up", 3: "down"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("clips")
    return [str(write_clip(folder / f"{n}.mp4", moving_scene(24, 64, 96, seed=n))) for n in range(2)]


@pytest.fixture
def folder(tmp_path) -> str:
    """A classifier and its processor, as anyone saves them."""
    torch.manual_seed(0)
    config = OneVisionConfig.tiny(id2label=NAMES, initializer_range=0.2, probe_position=[0, 0, 0])
    model = OneVisionForVideoClassification(config)
    model.classifier.fc.weight.data.mul_(1000)  # logits that tell inputs apart
    model.save_pretrained(tmp_path / "classifier")
    OneVisionVideoProcessor(size=56, num_frames=8, keep_ratio=0.5).save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier")


@torch.no_grad()
def expected(folder, video, top_k=4, function="softmax", **settings) -> list[dict]:
    """What the pipeline has to say, from the model and the processor."""
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    processor = AutoVideoProcessor.from_pretrained(folder)
    logits = model(**processor(video, return_tensors="pt", **settings)).logits[0]
    scores = {"softmax": logits.softmax(-1), "sigmoid": logits.sigmoid(), "none": logits}[function]
    best = scores.topk(top_k)
    return [
        {"score": score, "label": NAMES[n]}
        for score, n in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def close(found: list[dict], wanted: list[dict]) -> bool:
    return found == [{**row, "score": pytest.approx(row["score"], abs=1e-6)} for row in wanted]


def test_a_saved_folder_answers_as_model_and_processor_do(folder, clips):
    classify = pipeline("video-classification", model=folder)
    assert close(classify(clips[0]), expected(folder, clips[0]))
    found = classify(clips)
    assert len(found) == 2 and found[0] != found[1]
    assert all(close(rows, expected(folder, clip)) for rows, clip in zip(found, clips, strict=True))
    for given, settings in (
        ({"top_k": 2}, {"top_k": 2}),
        ({"num_frames": 3}, {"num_frames": 3}),
        ({"function_to_apply": "sigmoid"}, {"function": "sigmoid"}),
        ({"function_to_apply": "none"}, {"function": "none"}),
        ({"frame_sampling_rate": 4}, {}),  # transformers does not hand it to a video processor
    ):
        assert close(classify(clips[0], **given), expected(folder, clips[0], **settings)), given
    assert not close(classify(clips[0], num_frames=3), expected(folder, clips[0]))


def test_the_file_itself_is_read_with_what_its_codec_says(folder, clips):
    """Decoded frames have no motion vectors: what is selected from them is something else."""
    classify = pipeline("video-classification", model=folder)
    with av.open(clips[0]) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    processor = classify.video_processor
    selections = [processor(video, return_metadata=True)["selections"][0] for video in (clips[0], frames)]
    assert selections[0].signal != selections[1].signal == "difference"
    assert close(classify(clips[0]), expected(folder, clips[0]))
    assert not close(classify(clips[0]), expected(folder, frames))


def test_an_image_processor_is_never_given_the_frames(folder, clips):
    """It would have them classified one by one, and the first one's classes returned."""
    OneVisionImageProcessor(size=56).save_pretrained(folder)
    classify = pipeline("video-classification", model=folder)
    assert classify.image_processor is None
    assert close(classify(clips[0]), expected(folder, clips[0]))
    # transformers passes over a processor that cannot be loaded, and would go on with the other.
    broken = {"video_processor_type": "OneVisionVideoProcessor", "keep_ratio": 0.5, "num_patches": 3}
    Path(folder, "video_preprocessor_config.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="requires either a video processor"):
        pipeline("video-classification", model=folder)


# -- a number of frames in config.json --


def test_the_number_of_frames_is_the_processors(folder):
    assert AutoConfig.from_pretrained(folder).num_frames is None
    assert "num_frames" not in Path(folder, "config.json").read_text()
    assert OneVisionConfig.from_pretrained(tiny()).num_frames is None
    with pytest.raises(Exception, match="num_frames must be positive, got 0"):
        OneVisionConfig.tiny(num_frames=0)


def test_a_number_of_frames_in_the_configuration_is_the_pipelines_alone(folder, clips):
    """Folders that say it load as they always did; where the processor says another, one is told."""
    config = AutoConfig.from_pretrained(folder)
    config.num_frames = 3
    config.save_pretrained(folder)
    assert AutoConfig.from_pretrained(folder).num_frames == 3
    with pytest.warns(UserWarning, match=r"config.json says num_frames=3, the processor's file 8"):
        processor = AutoVideoProcessor.from_pretrained(folder)
    assert processor.num_frames == 8
    with pytest.warns(UserWarning, match="asks for that of config.json"):
        found = pipeline("video-classification", model=folder)(clips[0])
        assert close(found, expected(folder, clips[0], num_frames=3))
    # Without a number of its own, or with the same one, the processor follows.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        OneVisionVideoProcessor(size=56, num_frames=3).save_pretrained(folder)
        assert AutoVideoProcessor.from_pretrained(folder).num_frames == 3
        Path(folder, "video_preprocessor_config.json").unlink()
        assert OneVisionVideoProcessor.from_pretrained(folder).num_frames == 3


# -- where the package is not installed --

WITHOUT_PACKAGE = """
import json, sys
sys.modules["onevision_hf"] = None
from transformers import pipeline
folder, clip, out = sys.argv[1:]
classify = pipeline("video-classification", model=folder, trust_remote_code=True)
assert type(classify.video_processor).__module__.startswith("transformers_modules.")
json.dump(classify(clip), open(out, "w"))
"""


@pytest.mark.slow  # another interpreter
def test_a_saved_folder_answers_where_the_package_is_not_installed(folder, clips, tmp_path):
    OneVisionImageProcessor(size=56).save_pretrained(folder)
    subprocess.run(
        [sys.executable, "-c", WITHOUT_PACKAGE, folder, clips[0], str(tmp_path / "out.json")],
        check=True, timeout=240, cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""},
    )  # fmt: skip
    found = json.loads((tmp_path / "out.json").read_text())
    assert close(found, expected(folder, clips[0]))
